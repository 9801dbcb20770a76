"""What programs of steps look like: nothing that grows with the depth, and all that a GPU needs."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from adaptsr_jax import compiler, config, lora, methods, models
from adaptsr_jax.adapt import losses, optim, step
from adaptsr_jax.models import layers
from tests.test_methods import OF_EACH_METHOD, make

BACKBONES = {
  'safmn': {'upscale': 2, 'dim': 8, 'n_blocks': 1},
  'safmn_ntire2023': {'upscale': 2, 'dim': 8, 'n_blocks': 1},
  'edsr': {'upscale': 2, 'num_feat': 4, 'num_block': 1},
  'swinir': {'upscale': 2, 'embed_dim': 8, 'depths': (2,), 'num_heads': (2,), 'window_size': 4, 'img_size': 8},
  'drct': {'upscale': 2, 'embed_dim': 8, 'gc': 4, 'num_heads': (2,), 'window_size': 4, 'img_size': 8},
  'rrdb': {'upscale': 2, 'num_feat': 6, 'num_block': 1, 'num_grow_ch': 4, 'unshuffle': 2},
  'srvgg': {'upscale': 2, 'num_feat': 6, 'num_conv': 2},
  'msrresnet': {'upscale': 2, 'num_feat': 6, 'num_block': 1},
  'dasr': {'upscale': 4, 'num_feat': 6, 'num_block': 1, 'num_models': 3, 'nf': 4, 'num_params': 5},
}


def shapes_of(model):
  side = max(16, model.minimum)
  picture = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), picture)['params']
  hr = jax.ShapeDtypeStruct((2, side * model.upscale, side * model.upscale, 3), jnp.float32)
  return params, {'lr': picture, 'hr': hr}


def traced(c, method, model, params, batch, devices=None):
  """Returns the step and the shapes of what it is given."""
  tx, _ = optim.make(c, method.labels)
  frozen, trainable = method.init(jax.random.key(0), params)
  state = step.TrainState(jnp.zeros((), jnp.int32), trainable, tx.init(trainable), {})
  return step.make_step(model.apply, method, tx, losses.l1, devices=devices), (state, frozen, batch)


def for_cuda(model, c, method, params, batch):
  """Checks the program of a step as it is lowered for CUDA; returns its text."""
  program, given = traced(c, method, model, params, batch)
  text = export.export(program, platforms=['cuda'])(*given).mlir_module()
  assert 'callback' not in text
  state = len(jax.tree.leaves(given[0]))
  # All of the state is overwritten in place.
  assert len(re.findall(r'tf\.aliasing_output|jax\.buffer_donor', text)) == state
  return text


def drawn(shapes):
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def test_all_backbones_are_here():
  assert {models.MODELS[name] for name in BACKBONES} == set(models.MODELS.values())


@pytest.mark.parametrize('name', BACKBONES)
def test_steps_of_every_backbone_lower_for_cuda_in_bfloat16(name):
  model = models.build(name, **BACKBONES[name], dtype=jnp.bfloat16)
  shapes, batch = shapes_of(model)
  c = config.default()
  c.lora.path = 'hybrid'
  sites = lora.find_sites(model)
  method = methods.make(c, sites, dict.fromkeys((site.name for site in sites), 2))
  text = for_cuda(model, c, method, drawn(shapes), batch)
  assert re.search(r'stablehlo\.(convolution|dot_general).*bf16', text)


@pytest.mark.parametrize('name', OF_EACH_METHOD)
def test_steps_of_every_method_lower_for_cuda(name):
  model = models.build('safmn', **BACKBONES['safmn'])
  shapes, batch = shapes_of(model)
  params = drawn(shapes)
  c, method = make(name, lora.find_sites(model), params)
  for_cuda(model, c, method, params, batch)


def test_on_a_gpu_sums_and_kernel_gradients_are_those_of_the_platform():
  def gradients(x, scale):
    normal = layers.normalised(1e-5, x, scale, scale)
    return layers.thin_convolution(None, normal, jnp.ones((3, 3, 8, 3))).sum()

  given = (jax.ShapeDtypeStruct((1, 8, 8, 8), jnp.float32), jax.ShapeDtypeStruct((8,), jnp.float32))
  cpu, cuda = (
    export.export(jax.jit(jax.grad(gradients, argnums=(0, 1))), platforms=[platform])(*given).mlir_module()
    for platform in ('cpu', 'cuda')
  )
  assert 'dot_general' in cpu
  assert 'dot_general' not in cuda


# Of each backbone what makes it deep, and by how much it is made deeper: two blocks or more.
DEPTHS = {
  'safmn': ('n_blocks', 2),
  'safmn_ntire2023': ('n_blocks', 2),
  'edsr': ('num_block', 2),
  'swinir': ('depths', 2),
  'drct': ('num_heads', 1),  # groups of five
  'rrdb': ('num_block', 1),  # of three dense blocks each
  'srvgg': ('num_conv', 2),
  'msrresnet': ('num_block', 2),
  'dasr': ('num_block', 2),
}


def flops_of_gradient(name, depth):
  field, _ = DEPTHS[name]
  values = {'depths': (depth,), 'num_heads': (2,) * depth}
  fields = BACKBONES[name] | {field: values.get(field, depth)}
  model = models.build(name, **fields)
  params, batch = shapes_of(model)
  gradient = jax.grad(lambda params, batch: losses.l1(model.apply({'params': params}, batch['lr']), batch['hr']))
  # What is fused does not depend on how well its code is optimised, which takes longest.
  options = {**(compiler.options() or {}), 'xla_backend_optimization_level': 0}
  return jax.jit(gradient, compiler_options=options).lower(params, batch).compile().cost_analysis()['flops']


@pytest.mark.skipif(jax.default_backend() != 'cpu', reason='other compilers count what they fuse differently')
@pytest.mark.parametrize('name', BACKBONES)
def test_cost_of_a_block_does_not_grow_with_the_depth(name):
  # Further blocks cost what those before them do: nothing is computed again along the residual stream.
  shallow, middle, deep = (flops_of_gradient(name, times * DEPTHS[name][1]) for times in (1, 2, 3))
  assert 0 < deep - middle < 1.03 * (middle - shallow)

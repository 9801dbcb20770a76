"""The backbones against outputs of the original code, published parameter counts, and their own promises."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaptsr_jax import convert, models, tree
from adaptsr_jax.errors import UserError
from adaptsr_jax.models import layers
from tests.shared import GOLDEN

# Tight enough that the tanh GELU, the pixel-centre resize and the TensorFlow shuffle order fail.
TOLERANCE = {'safmn': 3e-5, 'safmn_ntire2023': 3e-5, 'edsr': 5e-5, 'edsr_official': 5e-5}
FIXTURES = sorted(path.name for family in ('edsr', 'safmn') for path in GOLDEN.glob(f'{family}_*'))

# Activation of the original code -> path of the module with the same value.
ACTIVATIONS = {
  'norm': ('norm',),
  'feats.0.norm1': ('feats_0', 'norm1'),
  'feats.0.safm': ('feats_0', 'safm'),
  'feats.0': ('feats_0',),
  'conv_first': ('conv_first',),
  'head': ('conv_first',),
  'tail.0.0': ('upsample_0',),
}

# Names of the published configurations in the fixture of counts, whose official EDSR totals include fixed mean shifts.
FACTS = {
  'safmn_': 'safmn_36x8_',
  'safmn_l_': 'safmn_128x16_',
  'safmn_ntire2023_': 'safmn_ntire2023_36x8_',
  'edsr_': 'edsr_basicsr_full_',
  'edsr_baseline_': 'edsr_basicsr_baseline_',
  'edsr_official_': 'edsr_official_full_',
  'edsr_official_baseline_': 'edsr_official_baseline_',
}

PRESETS = [name for name in models.PRESETS if name.startswith(('safmn', 'edsr'))]  # the others: test_models_window.py

TINY = {
  'safmn': {'upscale': 2, 'dim': 8, 'n_blocks': 1},
  'safmn_ntire2023': {'upscale': 2, 'dim': 8, 'n_blocks': 1},
  'edsr': {'upscale': 2, 'num_feat': 4, 'num_block': 1},
}


def golden(name):
  """Returns (model name, model, params, arrays) of a fixture, res_scale taken from its constructor."""
  folder = GOLDEN / name
  constructor = json.loads((folder / 'meta.json').read_text())['constructor']
  weights = convert.read(folder / 'weights.safetensors')
  family, fields, _ = convert.detect(weights)
  if 'res_scale' in constructor:
    fields['res_scale'] = constructor['res_scale']
  with np.load(folder / 'io.npz') as arrays:
    arrays = {key: value.transpose(0, 2, 3, 1) for key, value in arrays.items()}
  return family, models.build(family, **fields), convert.to_flax(family, weights), arrays


def tiny(name, side=32, **fields):
  """Returns (model, params, picture) of a small model with parameters that leave no part of it idle."""
  model = models.build(name, **{**TINY[name], **fields})
  rng = np.random.default_rng(0)
  x = rng.random((2, side, side, 3), np.float32)
  shapes = tree.flatten(jax.eval_shape(model.init, jax.random.key(0), x)['params'])
  leaves = {path: rng.normal(path.endswith('scale'), 0.2, leaf.shape) for path, leaf in shapes.items()}
  return model, tree.unflatten({path: leaf.astype(np.float32) for path, leaf in leaves.items()}), x


@pytest.mark.parametrize('name', FIXTURES)
def test_outputs_equal_original(name):
  family, model, params, arrays = golden(name)
  inputs = [key for key in arrays if key.startswith('input')]
  assert inputs
  for key in inputs:
    y = jax.jit(model.apply)({'params': params}, arrays[key])
    np.testing.assert_allclose(y, arrays[key.replace('input', 'output')], rtol=0, atol=TOLERANCE[family], err_msg=key)


@pytest.mark.parametrize('name', FIXTURES)
def test_activations_equal_original(name):
  _, model, params, arrays = golden(name)
  apply = functools.partial(model.apply, capture_intermediates=True, mutable=['intermediates'])
  _, state = jax.jit(apply)({'params': params}, arrays['input'])
  compared = 0
  for key, path in ACTIVATIONS.items():
    if f'act:{key}' in arrays:
      (found,) = tree.get(state['intermediates'], (*path, '__call__'))
      want = arrays[f'act:{key}']  # of the order of 100 inside EDSR
      np.testing.assert_allclose(found, want, rtol=0, atol=3e-5 * max(1, np.abs(want).max()), err_msg=key)
      compared += 1
  assert compared


@pytest.mark.parametrize('preset', PRESETS)
def test_parameter_counts(preset):
  name, fields = models.PRESETS[preset]
  model = models.build(name, **fields)
  picture = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
  y, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), picture)
  stem, scale = preset.rsplit('x', 1)
  facts = json.loads((GOLDEN / 'backbone_facts.json').read_text())['models']
  assert tree.count(variables['params']) == facts[f'{FACTS[stem]}x{scale}']['trainable']
  assert y.shape == (1, 16 * model.upscale, 16 * model.upscale, 3)
  assert list(variables) == ['params']


def test_presets_are_all_published_ones():
  facts = json.loads((GOLDEN / 'backbone_facts.json').read_text())['models']
  stems = [preset.rsplit('x', 1) for preset in PRESETS]
  assert {f'{FACTS[stem]}x{scale}' for stem, scale in stems} == {k for k in facts if k.startswith(('safmn', 'edsr'))}


@pytest.mark.parametrize('name', ['safmn', 'safmn_ntire2023', 'edsr_official'])
def test_parameters_are_those_of_the_converter(name):
  fixture = {'safmn': 'safmn_x2', 'safmn_ntire2023': 'safmn_ntire2023_x4', 'edsr_official': 'edsr_official_x4'}[name]
  _, model, params, arrays = golden(fixture)
  expected = jax.eval_shape(model.init, jax.random.key(0), arrays['input'])['params']
  assert not tree.compare(expected, params)


@pytest.mark.parametrize(('name', 'side'), [('safmn', 8), ('safmn', 13), ('safmn_ntire2023', 19), ('edsr', 1)])
def test_gradients_are_finite_and_reach_all(name, side):
  model, params, x = tiny(name, side)
  gradients = jax.jit(jax.grad(lambda p: jnp.abs(model.apply({'params': p}, x) - 0.5).mean()))(params)
  for path, gradient in tree.flatten(gradients).items():
    assert np.isfinite(gradient).all(), path
    assert np.abs(gradient).max() > 0, path


@pytest.mark.parametrize('name', TINY)
def test_one_jitted_function_serves_all_shapes(name):
  model, params, _ = tiny(name)
  apply = jax.jit(model.apply)
  for shape in [(2, 16, 24, 3), (2, 17, 31, 3)]:
    x = np.random.default_rng(3).random(shape, np.float32)
    y = apply({'params': params}, x)
    assert y.shape == (shape[0], 2 * shape[1], 2 * shape[2], 3)
    # Pictures of a batch do not meet.
    np.testing.assert_allclose(apply({'params': params}, x[-1:]), y[-1:], rtol=0, atol=1e-5)


@pytest.mark.parametrize('name', TINY)
def test_bfloat16_keeps_parameters_and_pictures_in_float32(name):
  model, params, x = tiny(name)
  low = models.build(name, **TINY[name], dtype=jnp.bfloat16)
  y, z = (jax.jit(m.apply)({'params': params}, x) for m in (model, low))
  assert z.dtype == y.dtype == jnp.float32
  initial = jax.eval_shape(low.init, jax.random.key(0), x)
  assert {leaf.dtype for leaf in jax.tree.leaves(initial)} == {jnp.dtype('float32')}
  assert 0 < np.abs(y - z).max() < 0.03 * np.abs(y).max()


@pytest.mark.parametrize('name', ['safmn', 'edsr'])
@pytest.mark.parametrize('upscale', [2, 4])
def test_receptive_is_the_radius(name, upscale):
  model, params, _ = tiny(name, upscale=upscale)
  side = 64  # a multiple of 8, as the promise of SAFMN wants
  x = np.random.default_rng(4).random((1, side, side, 3), np.float32)

  @jax.jit
  @jax.grad
  def gradient(x, row):  # of the output pixels of one input pixel on the diagonal
    y = model.apply({'params': params}, x)
    block = jax.lax.dynamic_slice(y, (0, row * upscale, row * upscale, 0), (1, upscale, upscale, 3))
    return block.sum()

  reached = 0
  for row in (31, 32):  # at either end of a cell of the pooling
    _, rows, columns, _ = np.nonzero(gradient(x, row))
    reached = max(reached, *np.abs(rows - row), *np.abs(columns - row))
  assert model.tileable
  assert model.receptive - 1 <= reached <= model.receptive


@pytest.mark.parametrize('name', ['safmn', 'safmn_ntire2023'])
def test_too_small_pictures_are_refused(name):
  model, params, _ = tiny(name)
  smallest = model.minimum
  jax.eval_shape(model.apply, {'params': params}, jnp.zeros((1, smallest, smallest, 3)))
  with pytest.raises(UserError, match=f'20 x {smallest - 1} pixels.* {smallest};'):
    jax.eval_shape(model.apply, {'params': params}, jnp.zeros((1, smallest - 1, 20, 3)))


@pytest.mark.parametrize(
  ('name', 'fields', 'message'),
  [
    ('sfamn', {}, "no model 'sfamn'.*safmn"),
    ('safmn', {'num_feat': 64}, "no field 'num_feat'.*dim"),
    ('safmn', {'name': 'x'}, "no field 'name'"),
    ('safmn', {'dim': 30}, 'dim is 30'),
    ('edsr', {'upscale': 5}, 'upscale is 5; it can be 3 or a power of two'),
    ('edsr', {'rgb_mean': (0.5,)}, 'rgb_mean has 1 values'),
  ],
)
def test_faulty_settings_are_refused(name, fields, message):
  with pytest.raises(UserError, match=message):
    models.build(name, **fields)


def test_fields_may_come_from_json():
  model = models.build('edsr', **json.loads('{"rgb_mean": [0.1, 0.2, 0.3]}'))
  assert hash(model) == hash(models.build('edsr', rgb_mean=(0.1, 0.2, 0.3)))


@pytest.mark.parametrize('size', [(8, 8), (13, 19), (21, 10), (16, 17), (31, 47)])
@pytest.mark.parametrize('factor', [2, 4, 8])
def test_pool_and_resize_follow_their_definitions(size, factor):
  h, w = size
  m, n = h // factor, w // factor
  x = np.random.default_rng(0).normal(size=(2, h, w, 3)).astype(np.float32)
  pooled = np.empty((2, m, n, 3), np.float32)
  for i in range(m):
    for j in range(n):
      bins = x[:, i * h // m : -(-(i + 1) * h // m), j * w // n : -(-(j + 1) * w // n)]
      pooled[:, i, j] = bins.max((1, 2))
  np.testing.assert_array_equal(layers.adaptive_max_pool(x, (m, n)), pooled)
  resized = pooled[:, np.arange(h) * m // h][:, :, np.arange(w) * n // w]
  np.testing.assert_array_equal(layers.resize_nearest(jnp.asarray(pooled), size), resized)


def test_depthwise_equals_grouped_convolution():
  rng = np.random.default_rng(0)
  x, kernel = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 7, 9, 4), (3, 3, 1, 4)))

  def grouped(x, kernel):
    numbers = ('NHWC', 'HWIO', 'NHWC')
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=numbers, feature_group_count=4)

  def both(convolve):  # the output and its gradients
    return jax.jit(lambda x, kernel: (convolve(x, kernel), *jax.grad(loss, (1, 2))(convolve, x, kernel)))(x, kernel)

  def loss(convolve, x, kernel):
    return (convolve(x, kernel) ** 2).sum()

  for found, want in zip(both(layers.shifted_sum), both(grouped), strict=True):
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)


def test_gelu_equals_pytorch(torch):
  x = np.linspace(-12, 12, 4001, dtype=np.float32)
  t = torch.tensor(x, requires_grad=True)
  y = torch.nn.functional.gelu(t)
  y.sum().backward()
  np.testing.assert_allclose(layers.gelu(jnp.asarray(x)), y.detach(), rtol=0, atol=1e-6)
  np.testing.assert_allclose(jax.vmap(jax.grad(layers.gelu))(jnp.asarray(x)), t.grad, rtol=0, atol=1e-6)

"""Layers with gradients or programs of their own, against those of linen and of jax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.test_util import check_grads

from adaptsr_jax import compiler, lora
from adaptsr_jax.models import layers


@pytest.fixture
def features():
  return np.random.default_rng(0).normal(3, 2, (2, 5, 7, 12)).astype(np.float32)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_layer_norm_is_that_of_linen(features, dtype):
  ours = layers.LayerNorm(1e-5, dtype)
  theirs = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=dtype)
  params = {'scale': np.linspace(0.5, 2, 12, dtype=np.float32), 'bias': np.linspace(-1, 1, 12, dtype=np.float32)}
  assert jax.tree.map(jnp.shape, ours.init(jax.random.key(0), features)['params']) == jax.tree.map(jnp.shape, params)

  def results(module):
    def loss(params, x):
      y = module.apply({'params': params}, x)
      assert y.dtype == dtype
      return jnp.sum(jnp.sin(y.astype(jnp.float32))), y

    gradients, y = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, features)
    return y, gradients

  (y, gradients), (expected, expected_gradients) = results(ours), results(theirs)
  np.testing.assert_array_equal(y, expected)
  tolerance = 1e-5 if dtype == jnp.float32 else 1e-2
  for ours, theirs in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected_gradients), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * np.abs(theirs).max())


def test_gradient_of_layer_norm_against_finite_differences(features):
  with jax.enable_x64(True):
    x, scale, bias = features.astype(np.float64), np.linspace(0.5, 2, 12), np.linspace(-1, 1, 12)
    check_grads(lambda *given: layers.normalised(1e-5, *given), (x, scale, bias), order=1, modes=('rev',), rtol=1e-6)


def test_pointwise_convolution_is_a_convolution(features):
  ours, theirs = layers.pointwise(8), nn.Conv(8, (1, 1))
  params = ours.init(jax.random.key(0), features)
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, theirs.init(jax.random.key(0), features))
  np.testing.assert_allclose(ours.apply(params, features), theirs.apply(params, features), rtol=1e-5, atol=1e-6)
  (site,) = lora.find_sites(_Network())
  assert site.kind == 'conv'
  assert site.shape == (1, 1, 3, 8)


@pytest.mark.parametrize(('inputs', 'outputs', 'window'), [(12, 3, (3, 3)), (3, 12, (3, 5)), (12, 12, (1, 3))])
def test_thin_convolution_has_the_gradients_of_a_convolution(features, inputs, outputs, window):
  x, conv = features[..., :inputs], nn.Conv(outputs, window, padding='SAME')
  thin = layers.thin(conv)
  assert thin != conv
  params = conv.init(jax.random.key(0), x)

  def results(module):
    return jax.jit(jax.value_and_grad(lambda p, x: jnp.sum(jnp.sin(module.apply(p, x))), argnums=(0, 1)))(params, x)

  for ours, theirs in zip(jax.tree.leaves(results(thin)), jax.tree.leaves(results(conv)), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize(
  'fields', [{'strides': 2}, {'padding': 'REFLECT'}, {'kernel_dilation': 2}, {'kernel_size': (2, 2)}], ids=str
)
def test_other_convolutions_keep_their_gradients(fields):
  conv = nn.Conv(3, **{'kernel_size': (3, 3), **fields})
  assert layers.thin(conv) is conv


class _Network(nn.Module):
  @nn.compact
  def __call__(self, x):
    return layers.pointwise(8)(x)


@pytest.mark.skipif(jax.default_backend() != 'cpu', reason='the options are for CPUs')
def test_options_reach_the_compiler_unless_flags_say_otherwise(monkeypatch, features):
  monkeypatch.setenv('XLA_FLAGS', '--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_REDUCE')
  assert compiler.options() is None
  monkeypatch.setenv('XLA_FLAGS', '--xla_cpu_enable_fast_math=false')
  options = compiler.options()

  def gradient(kernel, x):
    return jax.grad(
      lambda k: jnp.square(nn.Conv(16, (3, 3), use_bias=False).apply({'params': {'kernel': k}}, x)).sum()
    )(kernel)

  shapes = (jax.ShapeDtypeStruct((3, 3, 36, 16), jnp.float32), jax.ShapeDtypeStruct((8, 64, 64, 36), jnp.float32))
  default, ours = (
    jax.jit(gradient, compiler_options=chosen).lower(*shapes).compile().as_text() for chosen in (None, options)
  )
  assert options
  assert 'ynn' not in ours
  assert 'ynn' in default, 'XLA has changed; run benchmarks/kernel_gradient.py'

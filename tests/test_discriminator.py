"""Discriminators: reference values in both modes, spectral vectors after each step, gradients, counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaptsr_jax import tree
from adaptsr_jax.models import discriminator
from tests.shared import shared


@pytest.fixture(scope='module')
def golden():
  return np.load(shared('golden', 'gan', 'unet_disc.npz'))


@pytest.fixture
def start(golden):
  """The U-Net of the reference and its variables."""
  arrays = {key.removeprefix('w.'): golden[key] for key in golden.files if key.startswith('w.')}
  params, spectral = discriminator.from_torch(arrays)
  return discriminator.UNet(width=4), params, spectral


def nhwc(x: np.ndarray) -> np.ndarray:
  return x.transpose(0, 2, 3, 1)


def assert_near(found, expected: np.ndarray) -> None:
  np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def bce(logits, real: bool):
  return jnp.mean(jax.nn.softplus(-logits if real else logits))


@functools.partial(jax.jit, static_argnums=0)
def run(model, params, spectral, x):
  logits, moved = model.apply({'params': params, 'spectral': spectral}, x, True, mutable=['spectral'])
  return logits, moved['spectral']


def test_evaluation(golden, start):
  model, params, spectral = start
  logits = jax.jit(model.apply)({'params': params, 'spectral': spectral}, nhwc(golden['x']))
  assert_near(logits, nhwc(golden['out_eval']))


def test_two_steps_of_training_move_the_vectors(golden, start):
  model, params, spectral = start
  first, spectral = run(model, params, spectral, nhwc(golden['x']))
  second, spectral = run(model, params, spectral, nhwc(golden['x']))
  assert_near(first, nhwc(golden['out_train1']))
  assert_near(second, nhwc(golden['out_train2']))
  for layer, inputs, kernel in (('conv1', 4, 4), ('conv4', 32, 3), ('conv8', 4, 3)):
    assert_near(spectral[layer]['u'], golden[f'after2.{layer}.weight_u'])
    v = golden[f'after2.{layer}.weight_v'].reshape(inputs, kernel, kernel).transpose(1, 2, 0).ravel()
    assert_near(spectral[layer]['v'], v)


def test_gradient_to_the_picture(golden, start):
  model, params, spectral = start

  def loss(x):
    return 0.1 * bce(run(model, params, spectral, x)[0], True)

  value, gradient = jax.jit(jax.value_and_grad(loss))(nhwc(golden['x']))
  np.testing.assert_allclose(value, golden['g_loss'], atol=1e-6)
  assert_near(gradient, nhwc(golden['g_loss_dx']))


def test_gradient_of_the_discriminator(golden, start):
  model, params, spectral = start
  x = nhwc(golden['x'])

  def loss(params):
    real, moved = run(model, params, spectral, x)
    fake, _ = run(model, params, moved, 0.5 * x[::-1])
    return bce(real, True) + bce(fake, False), (bce(real, True), bce(fake, False))

  (_, values), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
  np.testing.assert_allclose(values, [golden['d_loss_real'], golden['d_loss_fake']], atol=1e-6)
  for key in ('conv0.weight', 'conv1.weight_orig', 'conv5.weight_orig'):
    expected = golden[f'grad.{key}'].transpose(2, 3, 1, 0)
    assert_near(gradient[key.partition('.')[0]]['kernel'], expected)
  assert_near(gradient['conv9']['bias'], golden['grad.conv9.bias'])


@pytest.mark.parametrize(('name', 'width', 'count', 'side'), [('unet', 64, 4_376_897, 16), ('patch', 32, 109_217, 4)])
def test_counts_and_sizes(name, width, count, side):
  model = discriminator.DISCRIMINATORS[name](width)
  variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
  assert tree.count(variables['params']) == count
  logits = jax.eval_shape(model.apply, variables, jnp.zeros((2, 16, 16, 3)))
  assert logits.shape == (2, side, side, 1)


def test_kernels_are_brought_to_norm_one():
  model = discriminator.Patch(8)
  x = jax.random.uniform(jax.random.key(1), (1, 16, 16, 3))
  variables = jax.jit(model.init)(jax.random.key(0), x)
  params, spectral = variables['params'], variables['spectral']
  step = jax.jit(lambda spectral: run(model, params, spectral, x)[1])
  for _ in range(100):
    spectral = step(spectral)
  for layer, vectors in spectral.items():
    matrix = params[layer]['kernel'].reshape(-1, params[layer]['kernel'].shape[-1])
    largest = np.linalg.norm(matrix, 2)
    np.testing.assert_allclose(vectors['v'] @ matrix @ vectors['u'], largest, rtol=1e-3)

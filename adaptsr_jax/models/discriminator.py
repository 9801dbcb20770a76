"""Discriminators: pictures (B, H, W, 3) in [0, 1] to a map of logits, above 0 where they look like photographs.

Kernels are divided by their largest singular value (Miyato et al. 2018). It is estimated by vectors u and v that stand
in the collection 'spectral' and move by one power iteration where `iterate` is true, before they are used; u and v are
constants for the gradient.
"""

import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from adaptsr_jax.tree import Params

_SLOPE = 0.2  # of the leaky ReLU


class _Conv(nn.Module):
  """A convolution with zero padding: with bias, or without and its kernel divided by its largest singular value."""

  features: int
  kernel: int = 3
  stride: int = 1
  spectral: bool = True

  @nn.compact
  def __call__(self, x: jax.Array, iterate: bool) -> jax.Array:
    shape = (self.kernel, self.kernel, x.shape[-1], self.features)
    # PyTorch's default: uniform within 1 / sqrt(fan in).
    kernel = self.param('kernel', nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform'), shape)
    if self.spectral:
      kernel = kernel / self._norm(kernel.reshape(-1, self.features), iterate)
    y = jax.lax.conv_general_dilated(
      x, kernel, (self.stride, self.stride), [(1, 1)] * 2, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    return y if self.spectral else y + self.param('bias', nn.initializers.zeros, (self.features,))

  def _norm(self, matrix: jax.Array, iterate: bool) -> jax.Array:
    """Returns the estimate of the largest singular value of (inputs, outputs)."""

    def start(length: int) -> jax.Array:
      return _unit(jax.random.normal(self.make_rng('params'), (length,)))

    inputs, outputs = matrix.shape
    u = self.variable('spectral', 'u', start, outputs)
    v = self.variable('spectral', 'v', start, inputs)
    if iterate and not self.is_initializing():
      fixed = jax.lax.stop_gradient(matrix)
      v.value = _unit(jnp.matmul(fixed, u.value, precision='highest'))
      u.value = _unit(jnp.matmul(v.value, fixed, precision='highest'))
    right = jnp.matmul(v.value, matrix, precision='highest')
    return jnp.matmul(right, u.value, precision='highest')


def _unit(x: jax.Array) -> jax.Array:
  return x / jnp.maximum(jnp.linalg.norm(x), 1e-12)


def _leaky(x: jax.Array) -> jax.Array:
  return nn.leaky_relu(x, _SLOPE)


class UNet(nn.Module):
  """The U-Net of Real-ESRGAN (Wang et al. 2021): (B, H, W, 3) to (B, H, W, 1), sides multiples of 8.

  64 wide it has 4,376,897 parameters.
  """

  width: int = 64
  multiple = 8

  @nn.compact
  def __call__(self, x: jax.Array, iterate: bool = False) -> jax.Array:
    w = self.width
    levels = [_leaky(_Conv(w, spectral=False, name='conv0')(x, iterate))]
    for i in (1, 2, 3):
      levels.append(_leaky(_Conv(2**i * w, 4, 2, name=f'conv{i}')(levels[-1], iterate)))
    x = levels.pop()
    for i in (4, 5, 6):
      skipped = levels.pop()
      x = _leaky(_Conv(skipped.shape[-1], name=f'conv{i}')(_doubled(x), iterate)) + skipped
    for i in (7, 8):
      x = _leaky(_Conv(w, name=f'conv{i}')(x, iterate))
    return _Conv(1, spectral=False, name='conv9')(x, iterate)


class Patch(nn.Module):
  """Four convolutions: (B, H, W, 3) to (B, H / 4, W / 4, 1), each logit on 26 x 26 pixels.

  32 wide it has 109,217 parameters, and costs half of what a forward pass of a SAFMN x4 of 36 channels does.
  """

  width: int = 32
  multiple = 4

  @nn.compact
  def __call__(self, x: jax.Array, iterate: bool = False) -> jax.Array:
    w = self.width
    x = _leaky(_Conv(w, 4, 2, spectral=False, name='conv0')(x, iterate))
    x = _leaky(_Conv(2 * w, 4, 2, name='conv1')(x, iterate))
    x = _leaky(_Conv(4 * w, name='conv2')(x, iterate))
    return _Conv(1, spectral=False, name='conv3')(x, iterate)


DISCRIMINATORS = {'patch': Patch, 'unet': UNet}


def _doubled(x: jax.Array) -> jax.Array:
  """Enlarges (B, H, W, C) twofold, bilinearly between centres of pixels: two shifted sums an axis, no gather."""
  for axis in (1, 2):
    size, part = x.shape[axis], functools.partial(jax.lax.slice_in_dim, axis=axis)
    before = jnp.concatenate([part(x, 0, 1), part(x, 0, size - 1)], axis)
    after = jnp.concatenate([part(x, 1, size), part(x, size - 1, size)], axis)
    pairs = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
    x = pairs.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
  return x


def from_torch(weights: Mapping[str, np.ndarray]) -> tuple[Params, Params]:
  """Returns ('params', 'spectral') by PyTorch's keys: 'conv1.weight_orig' (out, in, k, k), '.weight_u', '.weight_v'.

  Raises:
    KeyError, ValueError: they are not those of a discriminator.
  """
  params: Params = {}
  spectral: Params = {}
  for key, array in weights.items():
    layer, _, name = key.partition('.')
    array = np.asarray(array, np.float32)
    if name in ('weight', 'weight_orig'):
      params.setdefault(layer, {})['kernel'] = array.transpose(2, 3, 1, 0)
    elif name == 'bias':
      params.setdefault(layer, {})['bias'] = array
    elif name == 'weight_u':
      spectral.setdefault(layer, {})['u'] = array
    elif name == 'weight_v':
      side = math.isqrt(weights[f'{layer}.weight_orig'][0, 0].size)
      # Inputs of the matrix in the order of (k, k, in), not (in, k, k).
      spectral.setdefault(layer, {})['v'] = array.reshape(-1, side, side).transpose(1, 2, 0).ravel()
  return params, spectral

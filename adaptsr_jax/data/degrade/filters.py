"""Filters: a 2-D kernel for each picture, and unsharp masking."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adaptsr_jax.data.degrade.planes import Extent, extent_of, mirror_padded, mirrored

# Unsharp mask: standard deviation that belongs to 51 taps by OpenCV's rule, strength, threshold in levels of 8 bit.
_TAPS = 51
_SIGMA = 0.3 * ((_TAPS - 1) / 2 - 1) + 0.8
_WEIGHT = 0.5
_THRESHOLD = 10
# Output columns of one product with the band matrix: wide enough for a fast product, narrow enough to skip zeros.
_BLOCK = 100


def filter2d(x: jax.Array, kernels: jax.Array, extent: Extent | None = None) -> jax.Array:
  """Cross-correlates every picture with its kernel; borders are mirrored without repeating the edge.

  By FFT: on a CPU a third of the time of 441 shifted multiply-adds and a thirtieth of a grouped convolution
  (`docs/degrade.md`); the error is a few float32 roundings.

  Args:
    x: planes (B, C, H, W).
    kernels: (B or 1, k, k) with odd k.
    extent: of the pictures on `x`.

  Returns:
    Planes of the same shape.
  """
  reach = kernels.shape[-1] // 2
  sides = tuple(_fft_side(n + 2 * reach) for n in x.shape[-2:])
  padded = mirror_padded(x, reach, extent_of(x, extent))
  spectrum = jnp.fft.rfft2(padded, sides) * jnp.conj(jnp.fft.rfft2(kernels, sides))[:, None]
  return jnp.fft.irfft2(spectrum, sides)[..., : x.shape[-2], : x.shape[-1]]


def usm(x: jax.Array, extent: Extent | None = None) -> jax.Array:
  """Sharpens pictures by a soft unsharp mask, where they differ from their blur by more than 10 levels of 8 bit.

  Real-ESRGAN's: the mask is blurred, so that sharpening sets in gradually.

  Args:
    x: planes (B, C, H, W) in [0, 1].
    extent: of the pictures on `x`.

  Returns:
    Planes of the same shape in [0, 1].
  """
  extent = extent_of(x, extent)
  detail = x - _blurred(x, extent)
  soft = _blurred((255 * jnp.abs(detail) > _THRESHOLD).astype(x.dtype), extent)
  sharp = jnp.clip(x + _WEIGHT * detail, 0, 1)
  return soft * sharp + (1 - soft) * x


def gaussian_taps() -> np.ndarray:
  """Returns the blur of `usm`, (51,) float64 with sum 1."""
  taps = np.exp(-0.5 * (np.arange(_TAPS) - _TAPS // 2) ** 2 / _SIGMA**2)
  return taps / taps.sum()


def _blurred(x: jax.Array, extent: Extent) -> jax.Array:
  """Returns the separable blur of `usm`, mirrored at the borders."""
  x = _times_band(x, _blur_matrix(x.shape[-1], extent[1]))
  return _times_band(x.mT, _blur_matrix(x.shape[-2], extent[0])).mT


def _blur_matrix(canvas: int, n: Any) -> jax.Array:
  """Returns (canvas, canvas): row i holds the taps of pixel i, reflected into 0..n-1."""
  reach = _TAPS // 2
  index = mirrored(np.arange(canvas)[:, None] + np.arange(-reach, reach + 1), n)
  rows = np.broadcast_to(np.arange(canvas)[:, None], index.shape)
  taps = jnp.asarray(gaussian_taps(), jnp.float32)
  return jnp.zeros((canvas, canvas)).at[rows, index].add(taps)


def _times_band(x: jax.Array, matrix: jax.Array) -> jax.Array:
  """Multiplies the last axis by a matrix that is zero further than the reach of the blur from its diagonal."""
  n, reach = x.shape[-1], _TAPS // 2
  blocks = []
  for start in range(0, n, _BLOCK):
    used = slice(max(0, start - reach), min(n, start + _BLOCK + reach))
    block = matrix[start : start + _BLOCK, used]
    blocks.append(jnp.einsum('...w,vw->...v', x[..., used], block, precision='highest'))
  return jnp.concatenate(blocks, axis=-1)


def _fft_side(n: int) -> int:
  """Returns the least even number from `n` on without a prime factor above 7: quick to transform."""
  # Below 2**16 these are the divisors of (2 * 3 * 5 * 7)**16.
  return next(side for side in itertools.count(n + n % 2, 2) if 210**16 % side == 0)

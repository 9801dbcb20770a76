"""NIQE: how far the statistics of a picture are from those of pristine photographs; no reference is needed.

Mittal et al. 2013, as BasicSR computes it.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage, special

from adaptsr_jax import bicubic, image, memory
from adaptsr_jax.errors import UserError
from adaptsr_jax.metrics.fidelity import to_luma

FEATURES = 36
BLOCK = 96  # side of the blocks whose statistics are taken, in pixels; 48 in the halved picture
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))  # rows and columns to the neighbours that products are taken with

# Shapes of generalised Gaussians, and the ratio E|x|^2 / E[x^2] of each.
_SHAPES = np.arange(0.2, 10.001, 0.001)
_RATIOS = special.gamma(2 / _SHAPES) ** 2 / (special.gamma(1 / _SHAPES) * special.gamma(3 / _SHAPES))


class Pristine(NamedTuple):
  """Statistics of pristine photographs, and the window they were taken with."""

  mean: np.ndarray  # (36,)
  covariance: np.ndarray  # (36, 36)
  window: np.ndarray  # (7, 7)


def niqe(parameters: Pristine, x: np.ndarray, crop: int) -> np.ndarray:
  """Natural image quality evaluator; lower is better.

  Args:
    parameters: see `metrics.weights.pristine`.
    x: RGB pictures (B, H, W, 3), uint8; uint16 and floats in [0, 1] are rounded to 8 bit first.
    crop: pixels to leave out at each border.

  Returns:
    Float64 array (B,); NaN for a picture with fewer than two blocks that are not flat.

  Raises:
    UserError: the pictures have fewer than two blocks of 96 x 96 after cropping.
  """
  if x.ndim != 4 or x.shape[-1] != 3:
    raise ValueError(f'pictures must be (B, H, W, 3), not {x.shape}')
  height, width = x.shape[1:3]
  if max(height - 2 * crop, 0) // BLOCK * (max(width - 2 * crop, 0) // BLOCK) < 2:
    raise UserError(
      f'NIQE needs pictures of at least two blocks of {BLOCK} x {BLOCK} pixels inside a border of {crop}, '
      f'not {width}x{height}.'
    )
  memory.check(200 * height * width, f'NIQE of {width} x {height} pixels')
  window = np.s_[:, crop : height - crop, crop : width - crop]
  return np.array([_of_plane(parameters, plane) for plane in to_luma(image.to_uint8(x))[window][..., 0]])


def _of_plane(parameters: Pristine, plane: np.ndarray) -> float:
  """Returns NIQE of levels (h, w) in 0..255."""
  rows, columns = (length // BLOCK for length in plane.shape)
  plane = np.rint(plane[: rows * BLOCK, : columns * BLOCK]).astype(np.float64)
  # In float32, as the reference does: the last digit can decide between two shapes of the grid below.
  half = bicubic.imresize(np.float32(plane / 255), 0.5).astype(np.float64) * 255
  scales = ((plane, BLOCK), (half, BLOCK // 2))
  features = [_features(_blocks(_normalised(levels, parameters.window), side)) for levels, side in scales]
  blocks = np.concatenate(features, axis=1)
  # Flat blocks have no statistics: some or all of their features are NaN.
  whole = blocks[~np.isnan(blocks).any(axis=1)]
  if len(whole) < 2:
    return float('nan')
  difference = parameters.mean - np.nanmean(blocks, axis=0)
  covariance = (parameters.covariance + np.cov(whole, rowvar=False)) / 2
  return float(np.sqrt(difference @ np.linalg.pinv(covariance) @ difference))


def _normalised(plane: np.ndarray, window: np.ndarray) -> np.ndarray:
  """Returns each level less the mean around it, divided by the deviation around it."""
  mean = ndimage.correlate(plane, window, mode='nearest')
  deviation = np.sqrt(np.abs(ndimage.correlate(plane**2, window, mode='nearest') - mean**2))
  return (plane - mean) / (deviation + 1)


def _blocks(plane: np.ndarray, side: int) -> np.ndarray:
  """Cuts (h, w) into (blocks, side, side)."""
  height, width = plane.shape
  return plane.reshape(height // side, side, width // side, side).swapaxes(1, 2).reshape(-1, side, side)


def _features(blocks: np.ndarray) -> np.ndarray:
  """Returns the 18 features of each block (n, side, side) in one scale, (n, 18)."""
  shape, left, right = _fit(blocks)
  columns = [shape, (left + right) / 2]
  for shift in _SHIFTS:
    shape, left, right = _fit(blocks * np.roll(blocks, shift, axis=(1, 2)))
    mean = (right - left) * special.gamma(2 / shape) / special.gamma(1 / shape)
    columns += [shape, mean, left, right]
  return np.stack(columns, axis=1)


def _fit(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Fits asymmetric generalised Gaussians to (n, h, w): shape, and scale of the left and of the right side, (n,) each.

  Lasmar et al. 2009. The shape is the one of the grid `_SHAPES` whose ratio of moments is nearest.
  """
  x = x.reshape(len(x), -1)
  squares = x * x
  negative, positive = x < 0, x > 0
  # Flat blocks have neither: 0 / 0 is NaN, and the first shape of the grid goes with it.
  with np.errstate(invalid='ignore', divide='ignore'):
    left = np.sqrt(np.sum(squares * negative, 1) / negative.sum(1))
    right = np.sqrt(np.sum(squares * positive, 1) / positive.sum(1))
    ratio = np.mean(np.abs(x), 1) ** 2 / np.mean(squares, 1)
    skew = left / right
    ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
  shape = _SHAPES[np.argmin((_RATIOS - ratio[:, None]) ** 2, axis=1)]
  scale = np.sqrt(special.gamma(1 / shape) / special.gamma(3 / shape))
  return shape, left * scale, right * scale

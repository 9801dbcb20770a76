"""What an adapter may break although means gain: the level, highlights and shadows, the grid of the upsampling."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from adaptsr_jax import image

LIMITS = {'level': 3.0, 'saturated': 1.0, 'grid': 0.8}
_CELLS = 16  # blocks of this many LR pixels a side have a grid of their own


class Traits(NamedTuple):
  """What is compared of an enlarged picture.

  Attributes:
    level: mean brightness, in grey levels of 8 bit.
    saturated: share of the values that are at 0 or at full scale, or beyond, in percent.
    grid: root mean square, in grey levels, of what repeats from LR pixel to LR pixel within blocks of 16 x 16 of them:
      patterns of a pixel shuffle, beside a little of the picture itself.
  """

  level: float
  saturated: float
  grid: float


def traits(picture: np.ndarray, scale: int) -> Traits:
  """Returns the traits of (H, W, 3), floats with [0, 1] as the range, as a network of factor `scale` gave it."""
  luma = 255 * (picture @ image.LUMA)
  saturated = 100 * np.mean((picture <= 0.5 / 255) | (picture >= 254.5 / 255))
  return Traits(float(luma.mean()), float(saturated), _grid(np.clip(luma, 0, 255), scale))


def _grid(luma: np.ndarray, scale: int) -> float:
  # The mean over one period takes the pattern out; so does this kernel, which is symmetric for even periods as well.
  kernel = np.ones(scale + 1 - scale % 2, np.float32)
  kernel[[0, -1]] = 1 if scale % 2 else 0.5
  smooth = ndimage.convolve1d(ndimage.convolve1d(luma, kernel / scale, 0), kernel / scale, 1)
  block = _CELLS * scale
  height, width = (side // block * block for side in luma.shape)
  if not height or not width:
    block, (height, width) = 0, (side // scale * scale for side in luma.shape)
  rest = (luma - smooth)[:height, :width]
  rows, columns = (side // (block or side) for side in rest.shape)
  pattern = rest.reshape(rows, -1, scale, columns, rest.shape[1] // columns // scale, scale).mean((1, 4))
  return float(np.sqrt(np.mean(pattern**2)))


def warning(output: np.ndarray, base: np.ndarray, scale: int) -> str:
  """Returns how an enlarged picture departs from what the base made of the same one; '' where it stays within `LIMITS`.

  Args:
    output: (H, W, 3), floats with [0, 1] as the range.
    base: the same of the base.
    scale: factor of both networks.
  """
  (level, saturated, grid), (level0, saturated0, grid0) = traits(output, scale), traits(base, scale)
  more = float(np.sqrt(max(0.0, grid**2 - grid0**2)))
  found = {
    'level': (abs(level - level0), f'its mean level moved by {level - level0:+.1f} grey levels'),
    'saturated': (
      saturated - saturated0,
      f'{saturated:.1f} % of its values are at an end, {saturated0:.1f} % before',
    ),
    'grid': (more, f'a grid of {scale} pixels shows, {more:.1f} grey levels more than before'),
  }
  return '; '.join(text for name, (value, text) in found.items() if value > LIMITS[name])

"""LPIPS and DISTS: distances of pictures in the features of a network that was trained to classify photographs.

Pictures are taken one at a time, so a value does not depend on the batch, and memory is that of one pair: 0.1 kB for
each pixel with AlexNet, 1.3 kB with VGG16. Every new picture size is compiled anew, once, which takes a second or two.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from adaptsr_jax import image, memory
from adaptsr_jax.errors import UserError
from adaptsr_jax.metrics import features
from adaptsr_jax.metrics.fidelity import check_shapes

# The mean and deviation of ImageNet's pictures, and as LPIPS applies them, in [-1, 1].
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
_LPIPS_SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
_LPIPS_SCALE = np.array([0.458, 0.448, 0.450], np.float32)

DISTS_CHANNELS = 3 + sum(stage[-1].outputs for stage in features.VGG16.stages)
DISTS_SIDE = 256  # pixels of the short side that larger pictures are shrunk to


def lpips(weights: Mapping[str, Any], a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Learned perceptual image patch similarity, version 0.1 (Zhang et al. 2018); 0 for identical pictures.

  Args:
    weights: 'trunk' (`metrics.weights.trunk`, which tells the network) and 'heads' (`metrics.weights.heads`).
    a: RGB pictures (B, H, W, 3), uint8, or floats in [0, 1] (not in [-1, 1]).
    b: as `a`.

  Returns:
    Float64 array (B,).

  Raises:
    UserError: the pictures are too small for the network: 31 pixels a side with AlexNet, 16 with VGG16.
  """
  check_shapes(a, b)
  layout, (height, width) = features.layout_of(weights['trunk']), a.shape[1:3]
  if min(height, width) < layout.least:
    raise UserError(
      f'LPIPS with {layout.name} needs pictures of at least {layout.least} pixels a side, not {width}x{height}.'
    )
  each = 100 if layout is features.ALEXNET else 1300
  memory.check(each * height * width, f'LPIPS with {layout.name} of {width} x {height} pixels')
  return np.array([_contributions(weights, pair).sum() for pair in _pairs(a, b)])


def dists(weights: Mapping[str, Any], a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Deep image structure and texture similarity (Ding et al. 2020); 0 for identical pictures.

  Pictures whose short side exceeds 256 pixels are shrunk to that, in 8 bit, as the authors' command does.

  Args:
    weights: 'trunk' of VGG16 (`metrics.weights.trunk`), 'alpha' and 'beta' (`metrics.weights.dists_channels`).
    a: RGB pictures (B, H, W, 3), uint8, or floats in [0, 1].
    b: as `a`.

  Returns:
    Float64 array (B,).
  """
  check_shapes(a, b)
  return np.array([_dissimilarity(weights, _shrunk(pair)) for pair in _pairs(a, b)])


def _pairs(a: np.ndarray, b: np.ndarray) -> Iterator[np.ndarray]:
  """Yields float32 pairs (2, H, W, 3) in [0, 1]."""
  for pair in zip(a, b, strict=True):
    yield np.stack([_to_unit(x) for x in pair])


def _to_unit(x: np.ndarray) -> np.ndarray:
  x = np.asarray(x)
  if x.dtype.kind == 'u':
    return image.to_float(x)
  if not (x.min() >= 0 and x.max() <= 1):
    raise ValueError(f'pictures must have values in [0, 1], not {x.min():.4g} to {x.max():.4g}')
  return x.astype(np.float32)


def _contributions(weights: Mapping[str, Any], pair: np.ndarray) -> np.ndarray:
  """Returns what each stage adds to the distance, float64 (5,)."""
  # The means are taken here: a float32 sum over the pixels of a large picture loses digits.
  return np.array([np.mean(np.asarray(stage), dtype=np.float64) for stage in _lpips_maps(weights, pair)])


@jax.jit
def _lpips_maps(weights: Mapping[str, Any], pair: jax.Array) -> list[jax.Array]:
  """Returns the distance at each position (h, w) of each stage."""
  stages = zip(lpips_directions(weights['trunk'], pair), weights['heads'], strict=True)
  return [jnp.sum((a - b) ** 2 * head, axis=-1) for (a, b), head in stages]


def lpips_directions(trunk: features.Weights, x: jax.Array, floor: float = 0.0) -> Iterator[jax.Array]:
  """Yields what LPIPS compares of pictures (B, H, W, 3) in [0, 1]: of each stage (B, h, w, C), of length 1.

  Args:
    trunk: see `metrics.weights.trunk`.
    x: the pictures.
    floor: added under the root of the length. Its slope has no end where all features vanish: losses need one above 0.
  """
  for tap in features.taps(trunk, (2 * x - 1 - _LPIPS_SHIFT) / _LPIPS_SCALE):
    yield tap / (jnp.sqrt(jnp.sum(tap * tap, axis=-1, keepdims=True) + floor) + 1e-10)


def _shrunk(pair: np.ndarray) -> np.ndarray:
  """Returns the pair with a short side of at most 256 pixels; shrinking rounds to 8 bit."""
  height, width = pair.shape[1:3]
  short = min(height, width)
  if short <= DISTS_SIDE:
    return pair
  # The long side is cut to an integer, in integers: a float product can fall just below one.
  size = (width * DISTS_SIDE // short, height * DISTS_SIDE // short)
  pictures = (Image.fromarray(image.to_uint8(x)).resize(size, Image.Resampling.BILINEAR) for x in pair)
  return np.stack([image.to_float(np.asarray(x)) for x in pictures])


def _dissimilarity(weights: Mapping[str, Any], pair: np.ndarray) -> float:
  taps = (np.asarray(tap, np.float64) for tap in _dists_taps(weights['trunk'], pair))
  channels = {name: np.asarray(weights[name], np.float64) for name in ('alpha', 'beta')}
  return float(dists_of_taps(channels, [(a[None], b[None]) for a, b in taps])[0])


def dists_taps(trunk: features.Weights, x: jax.Array) -> list[jax.Array]:
  """Returns what DISTS compares of pictures (B, H, W, 3) in [0, 1]: themselves, and the features of the stages."""
  return [x, *features.taps(trunk, (x - MEAN) / STD, features.l2_pool)]


_dists_taps = jax.jit(dists_taps)


def dists_of_taps(channels: Mapping[str, Any], taps: Iterable[tuple[Any, Any]]) -> Any:
  """Returns DISTS (B,) from what `dists_taps` gives of both pictures, both numpy or both jax (B, h, w, C).

  Args:
    channels: 'alpha' and 'beta' (see `metrics.weights.dists_channels`).
    taps: (of one picture, of the other).
  """
  alpha, beta = channels['alpha'], channels['beta']
  total, start = 0, 0
  for x, y in taps:
    stop = start + x.shape[-1]
    luminance, structure = _similarities(x, y)
    total = total + luminance @ alpha[start:stop] + structure @ beta[start:stop]
    start = stop
  return 1 - total / (alpha.sum() + beta.sum())


def _similarities(x: Any, y: Any) -> tuple[Any, Any]:
  """Returns how alike the means and the variations of each channel of (B, h, w, C) are, (B, C) each."""
  mean_x, mean_y = (tap.mean((1, 2), keepdims=True) for tap in (x, y))
  x, y = x - mean_x, y - mean_y
  luminance = (2 * mean_x * mean_y + 1e-6) / (mean_x**2 + mean_y**2 + 1e-6)
  variances = (x * x + y * y).mean((1, 2))
  return luminance[:, 0, 0], (2 * (x * y).mean((1, 2)) + 1e-6) / (variances + 1e-6)

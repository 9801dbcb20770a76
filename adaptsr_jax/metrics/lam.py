"""Local attribution maps: which LR pixels a network uses for a patch of its output, and how many they are.

Gu and Dong, "Interpreting Super-Resolution Networks with Local Attribution Maps", CVPR 2021. The detail in a patch of
the output is attributed to input pixels by gradients, integrated along the path from a blurred input to the input.
Exactly flat places of the output give no gradient here; their square root has none, and as NaN it would erase the map.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from adaptsr_jax.tree import Params

# The settings of published maps.
SIGMA = 1.2  # of the blur at the start of the path, in LR pixels
FOLD = 50  # pictures along the path
KERNEL = 9  # side of the blurring kernel, in LR pixels
WINDOW = 16  # side of the patch, in SR pixels


def attribute(
  apply_fn: Callable[..., Any],
  params: Params,
  lr: np.ndarray,
  box: tuple[int, int, int],
  *,
  sigma: float = SIGMA,
  fold: int = FOLD,
  kernel: int = KERNEL,
  batch: int = 5,
) -> np.ndarray:
  """Returns how much each LR pixel adds to the detail in a patch of the output.

  Args:
    apply_fn: a model's `apply`.
    params: its parameters.
    lr: one picture (1, h, w, 3), floats in [0, 1].
    box: (x, y, side) of the patch in SR pixels; the output must go on for a pixel beyond its right and lower side.
    sigma, fold, kernel: see `SIGMA`, `FOLD` and `KERNEL`, which is odd.
    batch: pictures of the path that go through the network at a time; memory grows with it, the result is the same.

  Returns:
    (h, w) float64: magnitudes, the largest 1. All 0 where blurring does not change the patch, as in a flat picture.
  """
  lr = np.asarray(lr, np.float32)
  if lr.ndim != 4 or lr.shape[0] != 1 or lr.shape[-1] != 3:
    raise ValueError(f'an attribution takes one picture (1, h, w, 3), not {lr.shape}')
  x, y, side = box
  height, width = jax.eval_shape(apply_fn, {'params': params}, lr).shape[1:3]
  if side < 1 or min(x, y) < 0 or x + side >= width or y + side >= height:
    raise ValueError(f'the box {box} does not fit into {width} x {height} pixels with one to spare')
  images, slopes = blurring_path(lr[0], sigma, fold, kernel)
  total = _integrate(apply_fn, side, min(batch, fold), params, images, slopes, (0, y, x, 0))
  saliency = np.abs(np.asarray(total, np.float64).sum(-1))
  return saliency / (saliency.max() or 1.0)


def blurring_path(lr: np.ndarray, sigma: float, fold: int, kernel: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns the pictures along the path from blurred to sharp, and the path's derivative at each.

  Args:
    lr: (h, w, c), the sharp end, which is the last picture.
    sigma: of the blurred end, which itself is left out.
    fold: number of pictures.
    kernel: side of the Gaussian kernels; borders are mirrored without the edge pixel.

  Returns:
    Two float32 arrays (fold, h, w, c).
  """
  blurred = np.stack([_blur(lr, s, kernel) for s in np.linspace(sigma, 0, fold + 1)])
  blurred = blurred.round(12)  # where the picture is flat the derivative is 0, not the noise of the last bit
  return blurred[1:].astype(np.float32), (fold * np.diff(blurred, axis=0)).astype(np.float32)


def _blur(x: np.ndarray, sigma: float, kernel: int) -> np.ndarray:
  at = np.arange(kernel) - (kernel - 1) / 2
  weights = np.exp(-(at**2) / (2 * (sigma + 1e-5) ** 2))  # sigma 0 leaves a single one in the middle
  weights /= weights.sum()
  for axis in (0, 1):
    x = ndimage.correlate1d(x, weights, axis=axis, output=np.float64, mode='mirror')
  return x


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _integrate(
  apply_fn: Callable[..., Any],
  side: int,
  batch: int,
  params: Params,
  images: jax.Array,
  slopes: jax.Array,
  corner: tuple[int, int, int, int],
) -> jax.Array:
  """Returns the mean over the path of gradient times derivative, (h, w, c)."""

  def contribution(step: tuple[jax.Array, jax.Array]) -> jax.Array:
    picture, slope = step
    gradient = jax.grad(lambda x: _detail(apply_fn({'params': params}, x[None]), corner, side))(picture)
    return gradient * slope

  return jax.lax.map(contribution, (images, slopes), batch_size=batch).mean(0)


def _detail(sr: jax.Array, corner: tuple[int, int, int, int], side: int) -> jax.Array:
  """Sums the gradient magnitudes of forward differences over the patch and its channels."""
  patch = jax.lax.dynamic_slice(sr, corner, (1, side + 1, side + 1, sr.shape[-1])).astype(jnp.float32)
  here = patch[:, :-1, :-1]
  squares = (here - patch[:, 1:, :-1]) ** 2 + (here - patch[:, :-1, 1:]) ** 2
  flat = squares == 0
  return jnp.where(flat, 0, jnp.sqrt(jnp.where(flat, 1, squares))).sum()


def gini(saliency: np.ndarray) -> float:
  """Returns the Gini coefficient of a map: 0 where all pixels count alike, near 1 where a single one does."""
  values = np.sort(np.asarray(saliency, np.float64), axis=None)
  values = values - min(values[0], 0) + 1e-7
  n = values.size
  return float((2 * np.arange(1, n + 1) - n - 1) @ values / (n * values.sum()))


def diffusion_index(saliency: np.ndarray) -> float:
  """Returns the diffusion index 100 * (1 - Gini) of a map (h, w) at LR resolution.

  Higher: more pixels are used. It depends on the size of the map, so only maps of equal size compare.
  """
  return 100 * (1 - gini(saliency))

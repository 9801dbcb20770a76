"""Resizing without antialias by factors that are known only while the program runs: one matrix per axis.

The rules are those of torch's `interpolate`, which the published degradations use, so that pictures agree: half-pixel
centres, and a grid that follows from the given factor or, where a size was given, from the two sizes.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from adaptsr_jax.data.degrade.planes import Extent, extent_of

MODES = ('area', 'bilinear', 'bicubic')

_KEYS = -0.75  # parameter of Keys' cubic kernel


def resize(
  x: jax.Array,
  mode: str | jax.Array,
  size: Extent,
  factor: Any = None,
  extent: Extent | None = None,
  canvas: tuple[int, int] | None = None,
) -> jax.Array:
  """Resizes pictures.

  Args:
    x: planes (B, C, H, W).
    mode: one of `MODES` or its index, which may be traced.
    size: of the result, (height, width), may be traced.
    factor: that `size` was computed from by `scaled`; None if the size itself was given.
    extent: of the pictures on `x`.
    canvas: shape of the result, at least `size`; None if the size is static.

  Returns:
    Planes (B, C, *canvas), zero outside of `size`.
  """
  canvas = canvas or size
  return between(x, matrices(mode, size, factor, extent_of(x, extent), canvas, x.shape[-2:]))


def matrices(
  mode: str | jax.Array, size: Extent, factor: Any, extent: Extent, canvas: tuple[int, int], source: tuple[int, int]
) -> tuple[jax.Array, jax.Array]:
  """Returns the interpolation matrices of both axes, (output canvas, input canvas) each, for `between`.

  They hold zeros for what is outside of the pictures, so their top left parts are the matrices of smaller canvases.

  Args:
    mode, size, factor: as of `resize`.
    extent: of the pictures to be resized.
    canvas: shape of the result.
    source: shape of the canvas that holds the pictures.
  """
  axes = [
    (n_in, n_out, jnp.asarray(n_in, jnp.float32) / n_out if factor is None else jnp.float32(1.0 / factor), shape)
    for n_in, n_out, shape in zip(extent, size, zip(canvas, source, strict=True), strict=True)
  ]
  builders = [lambda build=build: tuple(build(*axis) for axis in axes) for build in (_area, _bilinear, _bicubic)]
  mode = MODES.index(mode) if isinstance(mode, str) else mode
  found = builders[mode]() if isinstance(mode, int) else lax.switch(mode, builders)
  rows, columns = (jnp.where(jnp.arange(len(m))[:, None] < n, m, 0.0) for m, n in zip(found, size, strict=True))
  return rows, columns


def between(x: jax.Array, axes: tuple[jax.Array, jax.Array]) -> jax.Array:
  """Multiplies planes by the matrices of both axes."""
  rows, columns = axes
  x = jnp.einsum('bchw,vw->bchv', x, columns, precision='highest')
  return jnp.einsum('uh,bchv->bcuv', rows, x, precision='highest')


def scaled(size: Extent, factor: Any) -> Extent:
  """Returns `size` times `factor`, rounded down, at least 1; a Python float is multiplied in float64, as torch does."""
  if isinstance(factor, float):
    return tuple(max(1, math.floor(float(n) * factor)) for n in size)
  return tuple(jnp.maximum(1, jnp.floor(jnp.asarray(n, jnp.float32) * factor)).astype(jnp.int32) for n in size)


def bicubic(x: jax.Array, scale: int, extent: Extent | None = None) -> jax.Array:
  """Shrinks pictures as MATLAB's `imresize(x, 1 / scale, 'bicubic')` does 8-bit ones: rounded after each pass.

  Args:
    x: planes (B, C, H, W) in [0, 1].
    scale: a whole number.
    extent: of the pictures on `x`, multiples of `scale`.

  Returns:
    Planes (B, C, H // scale, W // scale) of multiples of 1 / 255.
  """
  rows, columns = (
    _matlab_matrix(n, canvas, scale) for n, canvas in zip(extent_of(x, extent), x.shape[-2:], strict=True)
  )
  x = jnp.einsum('uh,bchw->bcuw', rows, jnp.rint(255 * x), precision='highest')
  x = jnp.einsum('vw,bcuw->bcuv', columns, _level(x), precision='highest')
  return _level(x) / 255


def _area(n_in: Any, n_out: Any, _: jax.Array, shape: tuple[int, int]) -> jax.Array:
  """Adaptive average pooling: the mean of every input pixel that an output pixel touches."""
  i, j = np.arange(shape[0])[:, None], np.arange(shape[1])
  first, last = i * n_in // n_out, -(-(i + 1) * n_in // n_out)
  return ((first <= j) & (j < last)) / (last - first).astype(np.float32)


def _bilinear(n_in: Any, _: Any, ratio: jax.Array, shape: tuple[int, int]) -> jax.Array:
  center = jnp.maximum(_centers(ratio, shape), 0)
  left = jnp.minimum(jnp.floor(center), n_in - 1)
  part = jnp.clip(center - left, 0, 1)
  return _scattered([left, left + 1], [1 - part, part], n_in, shape)


def _bicubic(n_in: Any, _: Any, ratio: jax.Array, shape: tuple[int, int]) -> jax.Array:
  center = _centers(ratio, shape)
  left = jnp.floor(center)
  t = center - left
  weights = [_keys_far(1 + t), _keys_near(t), _keys_near(1 - t), _keys_far(2 - t)]
  return _scattered([left + k for k in (-1, 0, 1, 2)], weights, n_in, shape)


def _keys_near(d: jax.Array) -> jax.Array:
  return ((_KEYS + 2) * d - (_KEYS + 3)) * d * d + 1


def _keys_far(d: jax.Array) -> jax.Array:
  return ((_KEYS * d - 5 * _KEYS) * d + 8 * _KEYS) * d - 4 * _KEYS


def _centers(ratio: jax.Array, shape: tuple[int, int]) -> jax.Array:
  return ratio * (np.arange(shape[0], dtype=np.float32)[:, None] + 0.5) - 0.5


def _scattered(taps: list[jax.Array], weights: list[jax.Array], n_in: Any, shape: tuple[int, int]) -> jax.Array:
  """Returns the matrix with `weights` (output, 1) at the columns `taps`, held within 0..n_in-1."""
  j = np.arange(shape[1], dtype=np.float32)
  return sum(w * (jnp.clip(tap, 0, n_in - 1) == j) for tap, w in zip(taps, weights, strict=True))


def _matlab_matrix(n: Any, canvas: int, scale: int) -> jax.Array:
  """Returns the matrix (canvas // scale, canvas) of Keys' kernel (a = -0.5) widened by `scale`, as `bicubic.imresize`.

  Borders are mirrored with the edge repeated.
  """
  taps = np.arange(4 * scale + 2) - 2 * scale
  rows = np.arange(canvas // scale)[:, None]
  index = rows * scale + scale // 2 + taps  # beyond the kernel to both sides, where the weight is zero
  distance = np.abs(((index + 0.5) / scale - 0.5) - rows)
  near, far = 1.5 * distance**3 - 2.5 * distance**2 + 1, -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
  weights = np.where(distance <= 1, near, np.where(distance <= 2, far, 0.0))
  weights /= weights.sum(1, keepdims=True)
  index = index % (2 * n)
  index = jnp.minimum(index, 2 * n - 1 - index)
  return jnp.zeros((canvas // scale, canvas)).at[rows, index].add(jnp.asarray(weights, jnp.float32), mode='drop')


def _level(x: jax.Array) -> jax.Array:
  """Rounds to levels of 8 bit, halves up; the addend makes exact halves go up whatever the last bits of a sum are."""
  return jnp.clip(jnp.floor(x + (0.5 + 1e-4)), 0, 255)

"""Pictures as planes: (B, C, H, W) with the picture in the top left corner of a canvas.

Inside the degradation a picture's size is a result of random numbers, but a compiled program has fixed shapes. So the
arrays are canvases, and `extent`, two numbers known only while the program runs, says how much of them is picture.
What lies outside of the extent is arbitrary but finite.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# (height, width), either of them an int or a traced integer.
Extent = tuple[Any, Any]


def of_pictures(x: jax.Array) -> jax.Array:
  """(B, H, W, C) to (B, C, H, W)."""
  return jnp.transpose(x, (0, 3, 1, 2))


def to_pictures(x: jax.Array) -> jax.Array:
  """(B, C, H, W) to (B, H, W, C)."""
  return jnp.transpose(x, (0, 2, 3, 1))


def on_pictures(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
  """Returns `function`, which maps planes (B, C, H, W) to planes, as a function of pictures (B, H, W, C)."""

  @functools.wraps(function)
  def wrapped(x: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
    return to_pictures(function(of_pictures(jnp.asarray(x)), *args, **kwargs))

  return wrapped


def extent_of(x: jax.Array, extent: Extent | None) -> Extent:
  """Returns `extent`, or the whole canvas if that is None."""
  return x.shape[-2:] if extent is None else extent


def inside(x: jax.Array, extent: Extent) -> jax.Array:
  """Returns a mask (H, W) of the picture on its canvas."""
  h, w = x.shape[-2:]
  return (jnp.arange(h)[:, None] < extent[0]) & (jnp.arange(w) < extent[1])


def mirrored(index: Any, n: Any) -> Any:
  """Folds indices into 0..n-1 by reflection at the first and the last pixel, as often as it takes."""
  period = jnp.maximum(2 * n - 2, 1)
  index = index % period
  return jnp.minimum(index, period - index)


def mirror_padded(x: jax.Array, width: int, extent: Extent) -> jax.Array:
  """Returns `x` with `width` more pixels on each side, the pictures continued by reflection without the edge."""
  for axis, n in ((2, extent[0]), (3, extent[1])):
    before, after = (
      jnp.take(x, mirrored(i, n), axis, mode='clip') for i in (np.arange(-width, 0), n + np.arange(width))
    )
    # Only strips are gathered, which is slow; the second `after` is in place where the picture fills its canvas.
    x = lax.dynamic_update_slice_in_dim(jnp.concatenate([before, x, after], axis), after, width + n, axis)
  return x

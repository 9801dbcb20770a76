"""Attention in windows of a picture that may be shifted (Swin transformer, Liu et al., ICCV 2021).

What depends on sizes only is made in numpy while tracing: which entry of the position table belongs to which pair of
pixels, and which pixels may look at each other.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from adaptsr_jax.models import layers

Array = jax.Array

MASKED = -100.0  # added to the logit of a pair that must not meet; the published networks know no infinity


@functools.cache
def position_index(window: int) -> np.ndarray:
  """Returns (n, n) int64, n = window**2: the row of the position table for query pixel a and key pixel b at [a, b].

  Pixels are counted row by row; the table lists the offsets query - key from (1 - window) up, rows first.
  """
  y, x = np.divmod(np.arange(window**2), window)
  dy, dx = (at[:, None] - at[None, :] + window - 1 for at in (y, x))
  return dy * (2 * window - 1) + dx


@functools.cache
def regions(height: int, width: int, window: int, shift: int) -> np.ndarray:
  """Returns (windows, n) int32: of which region of the picture each pixel of each window is, after the shift.

  The shift carries what leaves on one side in on the other. Pixels of a window that are no neighbours in the picture
  are of different regions, and must not look at each other.
  """
  rows, columns = (
    (layers.indices(side) >= side - window).astype(np.int32) + (layers.indices(side) >= side - shift)
    for side in (height, width)
  )
  labels = 3 * rows[:, None] + columns
  labels = labels.reshape(height // window, window, width // window, window)
  return labels.transpose(0, 2, 1, 3).reshape(-1, window**2)


@functools.lru_cache(maxsize=4)
def mask(size: int, window: int, shift: int) -> np.ndarray:
  """Returns (windows, n, n) float32 for square pictures: 0 within a region, else -100, as weight files store it."""
  labels = regions(size, size, window, shift)
  return np.where(labels[:, :, None] == labels[:, None, :], np.float32(0), np.float32(MASKED))


def partition(x: Array, window: int) -> Array:
  """Cuts (b, h, w, c) into windows, row by row: (b * windows, window**2, c)."""
  b, h, w, c = x.shape
  x = x.reshape(b, h // window, window, w // window, window, c)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, window**2, c)


def unite(x: Array, window: int, height: int, width: int) -> Array:
  """Inverse of `partition`: (b, height, width, c)."""
  c = x.shape[-1]
  x = x.reshape(-1, height // window, width // window, window, window, c)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, height, width, c)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def attend(shifted: tuple[int, int, int] | None, scale: float, qkv: Array, bias: Array) -> Array:
  """Returns what each pixel takes from those of its window: softmax(scale * q k + bias) v, head by head.

  Its gradient keeps the weights only, and replaces their sum with the incoming gradient by that of the output, which is
  a whole window shorter: a third less CPU time than what automatic differentiation makes of the same lines. Logits,
  bias and softmax are float32 whatever the type of `qkv`: sums over a window lose too much otherwise.

  Args:
    shifted: (height, width, shift) of the picture where windows are shifted (see `regions`), else None.
    scale: of the logits.
    qkv: (b * windows, window**2, 3 * c); channels ordered by query, key, value, then by head.
    bias: (heads, window**2, window**2) float32, to be added to the logits.

  Returns:
    (b * windows, window**2, c) in the type of `qkv`.
  """
  return _attend(shifted, scale, qkv, bias)[0]


def _attend(shifted, scale, qkv, bias):
  windows, n, _ = qkv.shape
  heads = len(bias)
  q, k, v = qkv.reshape(windows, n, 3, heads, -1).transpose(2, 0, 3, 1, 4)
  logits = jnp.einsum('whqd,whkd->whqk', q, k, preferred_element_type=jnp.float32) * scale + bias
  if shifted:
    height, width, shift = shifted
    # Symbols, which stand for any size, make no array that could be kept.
    made = regions if isinstance(height, int) and isinstance(width, int) else regions.__wrapped__
    region = made(height, width, math.isqrt(n), shift)
    # Compared here, in the fusion with the softmax: the mask of a large picture would take n times the memory.
    apart = region[:, None, :, None] != region[:, None, None, :]
    logits = logits.reshape(-1, region.shape[0], heads, n, n)
    logits = jnp.where(apart, logits + MASKED, logits).reshape(windows, heads, n, n)
  weights = nn.softmax(logits).astype(v.dtype)
  y = jnp.einsum('whqk,whkd->whqd', weights, v)
  return y.transpose(0, 2, 1, 3).reshape(windows, n, -1), (q, k, v, weights, y)


def _attend_gradient(shifted, scale, kept, gradient):
  del shifted  # Pairs that must not meet have no weight.
  q, k, v, weights, y = kept
  windows, heads, n, _ = q.shape
  gradient = gradient.reshape(windows, n, heads, -1).transpose(0, 2, 1, 3)
  to_v = jnp.einsum('whqk,whqd->whkd', weights, gradient)
  to_weights = jnp.einsum('whqd,whkd->whqk', gradient, v, preferred_element_type=jnp.float32)
  mean = jnp.sum(gradient.astype(jnp.float32) * y, axis=-1, keepdims=True)
  to_logits = weights * (to_weights - mean)
  scaled = (to_logits * scale).astype(v.dtype)
  to_q = jnp.einsum('whqk,whkd->whqd', scaled, k)
  to_k = jnp.einsum('whqk,whqd->whkd', scaled, q)
  to_qkv = jnp.stack([to_q, to_k, to_v]).transpose(1, 3, 0, 2, 4)
  return to_qkv.reshape(windows, n, -1), to_logits.sum(axis=0)


attend.defvjp(_attend, _attend_gradient)

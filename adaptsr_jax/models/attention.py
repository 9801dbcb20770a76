"""Attention in windows of a picture that may be shifted (Swin transformer, Liu et al., ICCV 2021).

What depends on sizes only is made in numpy while tracing: which entry of the position table belongs to which pair of
pixels, and which pixels may look at each other.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

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
def mask(size: tuple[int, int], window: int, shift: int) -> np.ndarray:
  """Returns (windows, n, n) float32 for pictures of (h, w): 0 within a region, else -100, as weight files store it."""
  labels = regions(*size, window, shift)
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
  return _alone(shifted, scale, qkv, bias)


def _attend(shifted, scale, qkv, bias):
  y, weights = _by_platform(_forward, shifted, scale)(qkv, bias)
  return y, (qkv, weights, y)


def _attend_gradient(shifted, scale, kept, gradient):
  del shifted  # Pairs that must not meet have no weight.
  qkv, weights, y = kept
  return _by_platform(_backward, weights.shape[1], scale)(qkv, weights, y, gradient)


attend.defvjp(_attend, _attend_gradient)

# What einsum calls the axes of pairs of pixels, and of what is summed over the keys of each query: windows w, heads h,
# queries q, keys k, channels d. On a CPU keys go first: sums over keys then run along rows of queries, not of the few
# channels of a head, and the softmax along whole vectors: 0.7 of the CPU time of attention with its gradient. Alone it
# gains nothing, and is computed as elsewhere.
_ON_CPU, _ELSEWHERE = ('whkq', 'whdq'), ('whqk', 'whqd')


def _by_platform(function: Callable[..., Any], *settings: Any) -> Callable[..., Any]:
  """Returns `function` of the order of axes, `settings` and arrays, as a function of arrays."""
  on_cpu, elsewhere = (functools.partial(function, order, *settings) for order in (_ON_CPU, _ELSEWHERE))
  return functools.partial(jax.lax.platform_dependent, cpu=on_cpu, default=elsewhere)


def _alone(shifted, scale, qkv, bias):
  logits, v = _logits(_ELSEWHERE[0], shifted, scale, qkv, bias)
  # Sums are divided, not weights, which are as many as pairs of pixels: 0.6 of the time.
  weights = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
  y = jnp.einsum('whqk,whkd->whqd', weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
  return _pixels(y / weights.sum(axis=-1, keepdims=True), 'whqd').astype(qkv.dtype)


def _forward(order, shifted, scale, qkv, bias):
  pairs, sums = order
  logits, v = _logits(pairs, shifted, scale, qkv, bias)
  weights = nn.softmax(logits, axis=pairs.index('k')).astype(v.dtype)
  return _pixels(jnp.einsum(f'{pairs},whkd->{sums}', weights, v), sums), weights


def _logits(pairs, shifted, scale, qkv, bias):
  """Returns the logits, float32, with axes in the order of `pairs`, and the values, head by head."""
  windows, heads, n = qkv.shape[0], *bias.shape[:2]
  q, k, v = (_heads(part, heads) for part in jnp.split(qkv, 3, axis=-1))
  logits = jnp.einsum(f'whqd,whkd->{pairs}', q, k, preferred_element_type=jnp.float32) * scale
  logits += jnp.einsum(f'hqk->{pairs[1:]}', bias)
  if shifted:
    height, width, shift = shifted
    # Symbols, which stand for any size, make no array that could be kept.
    made = regions if isinstance(height, int) and isinstance(width, int) else regions.__wrapped__
    region = made(height, width, math.isqrt(n), shift)
    # Compared here, in the fusion with the softmax: the mask of a large picture would take n times the memory.
    apart = region[:, None, :, None] != region[:, None, None, :]
    logits = logits.reshape(-1, region.shape[0], heads, n, n)
    logits = jnp.where(apart, logits + MASKED, logits).reshape(windows, heads, n, n)
  return logits, v


def _backward(order, heads, scale, qkv, weights, y, gradient):
  pairs, sums = order
  q, k, v, y, gradient = (_heads(part, heads) for part in (*jnp.split(qkv, 3, axis=-1), y, gradient))
  to_v = jnp.einsum(f'{pairs},whqd->whkd', weights, gradient)
  to_weights = jnp.einsum(f'whqd,whkd->{pairs}', gradient, v, preferred_element_type=jnp.float32)
  mean = jnp.sum(gradient.astype(jnp.float32) * y, axis=-1)
  to_logits = weights * (to_weights - jnp.expand_dims(mean, pairs.index('k')))
  scaled = (to_logits * scale).astype(v.dtype)
  to_q = jnp.einsum(f'{pairs},whkd->{sums}', scaled, k)
  to_k = jnp.einsum(f'{pairs},whqd->whkd', scaled, q)
  to_qkv = jnp.concatenate([_pixels(to_q, sums), *(_pixels(part, 'whkd') for part in (to_k, to_v))], axis=-1)
  return to_qkv, jnp.einsum(f'{pairs[1:]}->hqk', to_logits.sum(axis=0))


def _heads(x: Array, heads: int) -> Array:
  """Splits the channels of (windows, n, c) into heads: (windows, heads, n, channels)."""
  windows, n, _ = x.shape
  return x.reshape(windows, n, heads, -1).transpose(0, 2, 1, 3)


def _pixels(x: Array, axes: str) -> Array:
  """Inverse of `_heads`; of (windows, heads, channels, n) too, where `axes` ends with a letter of pixels."""
  x = x.transpose(0, 3, 1, 2) if axes[-1] != 'd' else x.transpose(0, 2, 1, 3)
  return x.reshape(*x.shape[:2], -1)

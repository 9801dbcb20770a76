"""What SwinIR and DRCT share: blocks of attention in shifted windows, what stands before and behind them, their fields.

Features stay (b, h, w, c) pictures, h and w multiples of the window.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from adaptsr_jax.errors import UserError
from adaptsr_jax.models import attention, layers

Array = jax.Array

EPSILON = 1e-5  # of the layer norms

_INIT = nn.initializers.truncated_normal(0.02)


class WindowAttention(nn.Module):
  """Attention among the pixels of each window of (b * windows, window**2, c), with a learned bias by offset."""

  num_heads: int
  window: int
  qkv_bias: bool = True
  qk_scale: float | None = None  # of the logits; None: 1 / sqrt(channels of a head)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, shifted: tuple[int, int, int] | None = None) -> Array:
    """`shifted`: as in `attention.attend`."""
    windows, n, c = x.shape
    table = self.param('relative_position_bias_table', _INIT, ((2 * self.window - 1) ** 2, self.num_heads))
    bias = jnp.take(table.T, attention.position_index(self.window), axis=1)
    # Layers are given matrices: the gradient of their bias is a sum along one axis, several times as fast on CPUs.
    x = x.reshape(-1, c)
    qkv = nn.Dense(3 * c, use_bias=self.qkv_bias, kernel_init=_INIT, dtype=self.dtype, name='qkv')(x)
    scale = self.qk_scale or (c // self.num_heads) ** -0.5
    y = attention.attend(shifted, scale, qkv.reshape(windows, n, -1), bias).reshape(-1, c)
    return nn.Dense(c, kernel_init=_INIT, dtype=self.dtype, name='proj')(y).reshape(windows, n, c)


class Mlp(nn.Module):
  """Dense layer to `hidden` channels, GELU, dense layer back."""

  hidden: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    c = x.shape[-1]
    y = nn.Dense(self.hidden, kernel_init=_INIT, dtype=self.dtype, name='fc1')(x.reshape(-1, c))
    return nn.Dense(c, kernel_init=_INIT, dtype=self.dtype, name='fc2')(layers.gelu(y)).reshape(x.shape)


class SwinBlock(nn.Module):
  """x + attention(norm(x)) in windows, moved by `shift` pixels, then x + mlp(norm(x)); (b, h, w, c) in float32."""

  num_heads: int
  window: int
  shift: int
  hidden: int  # channels of the MLP
  qkv_bias: bool = True
  qk_scale: float | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    shift, size = self.shift, x.shape[1:3]
    attend = WindowAttention(self.num_heads, self.window, self.qkv_bias, self.qk_scale, self.dtype, name='attn')
    y = layer_norm('norm1')(x)
    if shift:
      y = jnp.roll(y, (-shift, -shift), axis=(1, 2))
    y = attend(attention.partition(y, self.window), (*size, shift) if shift else None)
    y = attention.unite(y, self.window, *size)
    if shift:
      y = jnp.roll(y, (shift, shift), axis=(1, 2))
    # The sum stays float32: dozens of blocks add to it.
    x = x + y
    return x + Mlp(self.hidden, self.dtype, name='mlp')(layer_norm('norm2')(x))


class PatchEmbed(nn.Module):
  """The layer norm in front of the body, under the name that weight files give it; patches are single pixels."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    return layer_norm('norm')(x)


def layer_norm(name: str) -> layers.LayerNorm:
  """Returns a layer norm over channels whose result is float32."""
  return layers.LayerNorm(epsilon=EPSILON, name=name)


def embed(model: nn.Module, x: Array) -> Array:
  """Returns the features that enter the body, within the compact method of `model`."""
  if model.patch_norm:
    x = PatchEmbed(name='patch_embed')(x)
  if model.ape:
    _, h, w, c = x.shape
    height, width = sides(model)
    if (h, w) != (height, width):
      kind, size = type(model).__name__, f'{width} x {height}'
      raise UserError(f'{kind}: with absolute positions it takes pictures of {size} pixels, not {w} x {h}.')
    x = x + model.param('absolute_pos_embed', _INIT, (1, height * width, c)).reshape(1, height, width, c)
  return x


def shuffle_head(model: nn.Module, x: Array) -> Array:
  """Returns the picture, `model.upscale` times as large, by convolutions and pixel shuffles; call as `embed`."""
  x = nn.Conv(model.num_feat, (3, 3), dtype=model.dtype, name='conv_before_upsample_0')(x)
  x = nn.leaky_relu(x, 0.01)
  for i, factor in enumerate(layers.shuffles(model.upscale)):
    # The shuffles between the convolutions have no parameters but take up the odd indices.
    x = nn.Conv(model.num_feat * factor**2, (3, 3), dtype=model.dtype, name=f'upsample_{2 * i}')(x)
    x = layers.pixel_shuffle(x, factor)
  return layers.to_picture(len(model.rgb_mean), name='conv_last')(x)


def restore(model: nn.Module, x: Array, network: Callable[[Array], Array]) -> Array:
  """Returns what `network` makes of the picture (b, h, w, c) in whole windows, normalised; call as `embed`."""
  mean = jnp.asarray(model.rgb_mean, jnp.float32)

  def restored(x: Array) -> Array:
    _, h, w, _ = x.shape
    y = network((layers.extended(model, x) - mean) * model.img_range) / model.img_range + mean
    return y[:, : h * model.upscale, : w * model.upscale]

  return layers.in_colours(model, x, len(model.rgb_mean), restored)


def sides(model: nn.Module) -> tuple[int, int]:
  """Returns (height, width) of the training pictures."""
  size = model.img_size
  return (size, size) if isinstance(size, int) else size


def geometry(model: nn.Module) -> tuple[int, int]:
  """Returns (window, shift) of the blocks: nothing is shifted where the shorter side is no more than a window."""
  side = min(sides(model))
  if side <= model.window_size:
    return side, 0
  return model.window_size, model.window_size // 2


def block_of(model: nn.Module, **fields: Any) -> Callable[..., nn.Module]:
  """Returns what makes the blocks of `model` from the fields that are still open."""
  block = nn.remat(SwinBlock) if model.remat else SwinBlock
  common = {'window': geometry(model)[0], 'qkv_bias': model.qkv_bias, 'qk_scale': model.qk_scale, 'dtype': model.dtype}
  return functools.partial(block, **common, **fields)


def minimum(model: nn.Module) -> int:
  """Returns the smallest side that reflection completes to a window; with absolute positions the only one."""
  return min(sides(model)) if model.ape else model.window_size // 2 + 1


def radius(window: int, steps: Iterable[int | None]) -> int:
  """Returns how far the input of a sequence of layers is seen from an output pixel, in pixels.

  Args:
    window: side of the windows.
    steps: in order of execution: the shift of a block of attention, or None for a 3x3 convolution.
  """
  steps = tuple(steps)
  farthest = 0
  for pixel in range(window):
    first = last = pixel
    for shift in reversed(steps):
      if shift is None:
        first, last = first - 1, last + 1
      else:  # to the ends of the windows
        first = (first - shift) // window * window + shift
        last = ((last - shift) // window + 1) * window + shift - 1
    farthest = max(farthest, pixel - first, last - pixel)
  return farthest


def check(model: nn.Module) -> None:
  """Raises a UserError that names the first field of `model`, SwinIR or DRCT, that cannot work."""
  kind = type(model).__name__
  if jnp.dtype(model.dtype) == jnp.float16:
    raise UserError(
      f'{kind}: dtype is float16, whose largest number, 65504, the activations exceed; use bfloat16 or float32.'
    )
  if not model.rgb_mean:
    raise UserError(f'{kind}: rgb_mean is empty; it must have 3 values, or 1 for gray pictures.')
  size, whole = model.img_size, lambda n: isinstance(n, int) and n > 0
  if not whole(size) and not (isinstance(size, tuple | list) and len(size) == 2 and all(map(whole, size))):
    raise UserError(f'{kind}: img_size is {size}; it must be a side in pixels, or height and width.')
  if model.ape and not whole(size) and size[0] != size[1]:
    raise UserError(
      f'{kind}: img_size is {size} with absolute positions: with them a network takes pictures of that one size only, '
      'and only square ones are known here.'
    )
  if not whole(model.window_size):
    raise UserError(f'{kind}: window_size is {model.window_size}; it must be a number of pixels.')
  side, _ = geometry(model)
  if any(n % side for n in sides(model)):
    raise UserError(f'{kind}: img_size is {size}, which is no multiple of the window of {side} pixels.')
  if model.window_size % side:
    raise UserError(
      f'{kind}: img_size is {size}, so blocks have windows of {side} pixels, and window_size {model.window_size}, to '
      'which pictures are extended, is no multiple of it.'
    )

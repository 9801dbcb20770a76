"""SwinIR: image restoration with shifted windows of attention (Liang et al., ICCV Workshops 2021)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from adaptsr_jax.errors import UserError
from adaptsr_jax.models import layers, window

Array = jax.Array

# What makes a picture of the features; '' restores at the same size.
UPSAMPLERS = ('pixelshuffle', 'pixelshuffledirect', 'nearest+conv', '')
_UPSCALES = {'nearest+conv': (2, 4), '': (1,)}
RESI_CONNECTIONS = ('1conv', '3conv')


class RSTB(nn.Module):
  """x + convolution(blocks(x)), the blocks shifted by turns; (b, h, w, c)."""

  depth: int
  shift: int  # of every second block
  block: Callable[..., nn.Module]  # of shift and name
  resi_connection: str
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    y = x
    for i in range(self.depth):
      y = self.block(shift=self.shift if i % 2 else 0, name=f'blocks_{i}')(y)
    return x + residual_conv(y, self.resi_connection, self.dtype, 'conv')


class SwinIR(nn.Module):
  """(b, h, w, 3) in [0, 1] -> (b, upscale * h, upscale * w, 3) in float32, not clipped.

  The sides may be any above `minimum`: they are extended by reflection to multiples of the window, and cut off again.
  A network for gray pictures has one value in `rgb_mean`; it takes (b, h, w, 1), and of (b, h, w, 3) each colour apart.
  """

  upscale: int = 4
  embed_dim: int = 180
  depths: tuple[int, ...] = (6, 6, 6, 6, 6, 6)  # blocks of each group
  num_heads: tuple[int, ...] = (6, 6, 6, 6, 6, 6)
  window_size: int = 8
  mlp_ratio: float = 2.0
  upsampler: str = 'pixelshuffle'  # a key of UPSAMPLERS
  resi_connection: str = '1conv'  # or '3conv': three convolutions with a bottleneck
  # Of the training pictures, one side or (height, width); decides the stored masks, and whether windows are shifted.
  img_size: int | tuple[int, int] = 64
  img_range: float = 1.0
  rgb_mean: tuple[float, ...] = layers.RGB_MEAN  # of one value for gray pictures
  num_feat: int = 64  # channels of the head
  qkv_bias: bool = True
  qk_scale: float | None = None
  patch_norm: bool = True
  ape: bool = False  # absolute positions: only pictures of img_size fit
  dtype: Any = jnp.float32  # of the computation; parameters, norms, softmax and sums are float32
  remat: bool = False  # compute each block again for its gradient instead of keeping its activations

  tileable = True
  minimum = property(window.minimum)

  def __post_init__(self):
    super().__post_init__()
    window.check(self)
    for field, values in (('upsampler', UPSAMPLERS), ('resi_connection', RESI_CONNECTIONS)):
      if getattr(self, field) not in values:
        raise UserError(f'SwinIR: {field} is {getattr(self, field)!r}; it can be {", ".join(map(repr, values))}.')
    if self.upsampler == 'pixelshuffle':
      layers.check_shuffles(self)
    elif self.upsampler == 'pixelshuffledirect' and not (isinstance(self.upscale, int) and self.upscale > 0):
      raise UserError(f'SwinIR: upscale is {self.upscale}; with upsampler {self.upsampler!r} it can be 1 or more.')
    elif self.upsampler in _UPSCALES and self.upscale not in _UPSCALES[self.upsampler]:
      allowed = ', '.join(map(str, _UPSCALES[self.upsampler]))
      raise UserError(f'SwinIR: upscale is {self.upscale}; with upsampler {self.upsampler!r} it can be {allowed}.')
    if len(self.depths) != len(self.num_heads):
      raise UserError(f'SwinIR: depths has {len(self.depths)} entries and num_heads {len(self.num_heads)}.')
    for heads in self.num_heads:
      if heads < 1 or self.embed_dim % heads:
        raise UserError(f'SwinIR: embed_dim is {self.embed_dim}, which {heads} heads cannot share evenly.')

  @property
  def multiple(self) -> int:
    """The window. Other sides work too; tiles must be cut at its multiples to have the windows of the picture."""
    return self.window_size

  @property
  def receptive(self) -> int:
    """Radius in input pixels: half a window per block. Nearly all of what is seen is much nearer."""
    side, shift = window.geometry(self)
    if not shift:
      raise UserError('SwinIR: without shifted windows the picture is a single window, and all of it is seen.')
    # The head's convolutions count as one at the input size, and those on ever finer pixels as two.
    head = {'pixelshuffle': 3, 'pixelshuffledirect': 1, 'nearest+conv': 3, '': 1}[self.upsampler]
    convs = 2 if self.resi_connection == '3conv' else 1
    steps: list[int | None] = [None]
    for depth in self.depths:
      steps += [shift if i % 2 else 0 for i in range(depth)] + [None] * convs
    return window.radius(side, steps + [None] * (convs + head))

  @nn.compact
  def __call__(self, x: Array) -> Array:
    return window.restore(self, x, self._network)

  def _network(self, x: Array) -> Array:
    hidden = int(self.embed_dim * self.mlp_ratio + 1e-6)
    first = nn.Conv(self.embed_dim, (3, 3), dtype=jnp.float32, name='conv_first')(x)
    y = window.embed(self, first)
    for i, (depth, heads) in enumerate(zip(self.depths, self.num_heads, strict=True)):
      block = window.block_of(self, num_heads=heads, hidden=hidden)
      y = RSTB(depth, window.geometry(self)[1], block, self.resi_connection, self.dtype, name=f'layers_{i}')(y)
    y = window.layer_norm('norm')(y)
    y = residual_conv(y, self.resi_connection, self.dtype, 'conv_after_body') + first
    return self._picture(x, y)

  def _picture(self, x: Array, features: Array) -> Array:
    colours = len(self.rgb_mean)
    if self.upsampler == 'pixelshuffle':
      return window.shuffle_head(self, features)
    if self.upsampler == 'pixelshuffledirect':
      y = layers.to_picture(colours * self.upscale**2, name='upsample_0')(features)
      return layers.pixel_shuffle(y, self.upscale)
    if self.upsampler == 'nearest+conv':
      return self._nearest_head(features)
    return x + layers.to_picture(colours, name='conv_last')(features)

  def _nearest_head(self, x: Array) -> Array:
    def conv(x, name):
      return nn.Conv(self.num_feat, (3, 3), dtype=self.dtype, name=name)(x)

    x = nn.leaky_relu(conv(x, 'conv_before_upsample_0'), 0.01)
    for name in ('conv_up1', 'conv_up2')[: 2 if self.upscale == 4 else 1]:
      _, h, w, _ = x.shape
      x = nn.leaky_relu(conv(layers.resize_nearest(x, (2 * h, 2 * w)), name), 0.2)
    return layers.to_picture(len(self.rgb_mean), name='conv_last')(nn.leaky_relu(conv(x, 'conv_hr'), 0.2))


def residual_conv(x: Array, resi_connection: str, dtype: Any, name: str) -> Array:
  """Returns the convolution at the end of a residual group, or three of them; within a compact method."""
  c = x.shape[-1]
  if resi_connection == '1conv':
    return nn.Conv(c, (3, 3), dtype=dtype, name=name)(x)
  # The activations between the convolutions take up the odd indices.
  x = nn.leaky_relu(nn.Conv(c // 4, (3, 3), dtype=dtype, name=f'{name}_0')(x), 0.2)
  x = nn.leaky_relu(layers.pointwise(c // 4, dtype=dtype, name=f'{name}_2')(x), 0.2)
  return nn.Conv(c, (3, 3), dtype=dtype, name=f'{name}_4')(x)


_MEDIUM = {'embed_dim': 180, 'depths': (6,) * 6, 'num_heads': (6,) * 6}
_LIGHT = {'embed_dim': 60, 'depths': (6,) * 4, 'num_heads': (6,) * 4, 'upsampler': 'pixelshuffledirect'}
_LARGE = {'embed_dim': 240, 'depths': (6,) * 9, 'num_heads': (8,) * 9, 'resi_connection': '3conv'}
_REAL = {'upsampler': 'nearest+conv'}
_RESTORE = {'upscale': 1, 'upsampler': ''}

PRESETS = {
  **{f'swinir_classical_x{scale}': ('swinir', {'upscale': scale, **_MEDIUM}) for scale in (2, 3, 4, 8)},
  **{f'swinir_light_x{scale}': ('swinir', {'upscale': scale, **_LIGHT}) for scale in (2, 3, 4)},
  **{f'swinir_real_x{scale}': ('swinir', {'upscale': scale, **_MEDIUM, **_REAL}) for scale in (2, 4)},
  'swinir_real_l_x4': ('swinir', {'upscale': 4, **_LARGE, **_REAL}),
  'swinir_denoise': ('swinir', {**_MEDIUM, **_RESTORE, 'img_size': 128}),
  'swinir_jpeg': ('swinir', {**_MEDIUM, **_RESTORE, 'img_size': 126, 'window_size': 7, 'img_range': 255.0}),
}

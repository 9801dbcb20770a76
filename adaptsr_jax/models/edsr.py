"""EDSR: enhanced deep residual networks for single image super-resolution (Lim et al., CVPR Workshops 2017)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from adaptsr_jax.errors import UserError
from adaptsr_jax.models import layers

Array = jax.Array


class ResidualBlock(nn.Module):
  """x + res_scale * conv(relu(conv(x)))."""

  res_scale: float
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    features = x.shape[-1]
    y = nn.Conv(features, (3, 3), dtype=self.dtype, name='conv1')(x)
    y = nn.Conv(features, (3, 3), dtype=self.dtype, name='conv2')(nn.relu(y))
    return x + y * self.res_scale


class EDSR(nn.Module):
  """(b, h, w, c) in [0, 1] -> (b, upscale * h, upscale * w, c) in float32, not clipped; c = num_in_ch.

  Both published forms of the weights fit: with 0..255 pictures and frozen mean shifts, or with img_range 255 inside.
  """

  upscale: int = 4
  num_feat: int = 64
  num_block: int = 16
  res_scale: float = 1.0
  img_range: float = 255.0
  rgb_mean: tuple[float, ...] = layers.RGB_MEAN
  num_in_ch: int = 3
  dtype: Any = jnp.float32  # of the computation; parameters are float32

  multiple = 1
  minimum = 1
  tileable = True

  def __post_init__(self):
    super().__post_init__()
    layers.check_shuffles(self)
    if len(self.rgb_mean) != self.num_in_ch:
      raise UserError(f'EDSR: rgb_mean has {len(self.rgb_mean)} values for num_in_ch = {self.num_in_ch} channels.')

  @property
  def receptive(self) -> int:
    """Radius in input pixels: one per 3x3 convolution; those of the upsampler and after it, ever finer, make two."""
    return 2 * self.num_block + 4

  @nn.compact
  def __call__(self, x: Array) -> Array:
    mean = jnp.asarray(self.rgb_mean, jnp.float32)
    x = (x - mean) * self.img_range
    x = first = nn.Conv(self.num_feat, (3, 3), dtype=self.dtype, name='conv_first')(x)
    for i in range(self.num_block):
      x = ResidualBlock(self.res_scale, dtype=self.dtype, name=f'body_{i}')(x)
    x = nn.Conv(self.num_feat, (3, 3), dtype=self.dtype, name='conv_after_body')(x) + first
    for i, factor in enumerate(layers.shuffles(self.upscale)):
      # The shuffles between the convolutions have no parameters but take up the odd indices.
      x = nn.Conv(self.num_feat * factor**2, (3, 3), dtype=self.dtype, name=f'upsample_{2 * i}')(x)
      x = layers.pixel_shuffle(x, factor)
    x = layers.to_picture(self.num_in_ch, name='conv_last')(x)
    return x / self.img_range + mean


_BASELINE = {'num_feat': 64, 'num_block': 16, 'res_scale': 1.0}
_FULL = {'num_feat': 256, 'num_block': 32, 'res_scale': 0.1}

PRESETS = {
  f'{name}{size}_x{scale}': (name, {'upscale': scale, **fields})
  for name, scales in (('edsr', (2, 3, 4, 8)), ('edsr_official', (2, 3, 4)))
  for size, fields in (('_baseline', _BASELINE), ('', _FULL))
  for scale in scales
}

"""SRVGGNetCompact: the small networks of Real-ESRGAN (realesr-general, animevideo): convolutions in a row."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from adaptsr_jax.errors import UserError
from adaptsr_jax.models import layers

Array = jax.Array


class PReLU(nn.Module):
  """x where it is positive, else x times a learned slope of its channel; slopes may be negative."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    slope = self.param('slope', nn.initializers.constant(0.25), x.shape[-1:])
    return jnp.where(x >= 0, x, slope.astype(x.dtype) * x)


class SRVGGNetCompact(nn.Module):
  """(b, h, w, c) in [0, 1] -> (b, upscale * h, upscale * w, c) in float32, not clipped; c = num_in_ch.

  What the convolutions give is added to the input, enlarged by repetition. A network for gray pictures is given the
  colours of others one by one.
  """

  upscale: int = 4
  num_feat: int = 64
  num_conv: int = 32  # between the first and the last
  num_in_ch: int = 3
  dtype: Any = jnp.float32  # of the computation; parameters are float32

  multiple = 1
  minimum = 1
  tileable = True

  def __post_init__(self):
    super().__post_init__()
    if self.upscale < 1:
      raise UserError(f'SRVGGNetCompact: upscale is {self.upscale}; it can be 1 or more.')

  @property
  def receptive(self) -> int:
    """Radius in input pixels: one for each convolution."""
    return self.num_conv + 2

  @nn.compact
  def __call__(self, x: Array) -> Array:
    return layers.in_colours(self, x, self.num_in_ch, self._network)

  def _network(self, x: Array) -> Array:
    _, h, w, c = x.shape
    y = x
    for i in range(self.num_conv + 1):
      # The activations take up the odd indices.
      y = layers.torch_conv(self.num_feat, y.shape[-1], f'body_{2 * i}', self.dtype)(y)
      y = PReLU(name=f'body_{2 * i + 1}')(y)
    # The picture itself stays float32: bfloat16 would round it to 8 bits of mantissa.
    last = layers.torch_conv(c * self.upscale**2, self.num_feat, f'body_{2 * self.num_conv + 2}')
    y = layers.pixel_shuffle(last(y.astype(jnp.float32)), self.upscale)
    return y + layers.resize_nearest(x, (self.upscale * h, self.upscale * w))


PRESETS = {
  'srvgg_x4': ('srvgg', {'upscale': 4, 'num_conv': 32}),
  'srvgg_16c_x4': ('srvgg', {'upscale': 4, 'num_conv': 16}),
  'srvgg_16c_x2': ('srvgg', {'upscale': 2, 'num_conv': 16}),
}

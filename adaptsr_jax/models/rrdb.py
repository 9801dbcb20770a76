"""RRDBNet: residual in residual dense blocks (ESRGAN, Wang et al., ECCV Workshops 2018).

The network of ESRGAN, Real-ESRGAN, BSRGAN, RealSR and LDL.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from adaptsr_jax.errors import UserError
from adaptsr_jax.models import layers

Array = jax.Array

SLOPE = 0.2  # of all leaky ReLUs
RESIDUAL = 0.2  # what the branches are multiplied with, inside a dense block and around three
STAGES = {1: 0, 2: 1, 4: 2, 8: 3}  # upscale * unshuffle -> doublings


class DenseBlock(nn.Module):
  """x + 0.2 * the last of five convolutions, each of which sees x and the results of all before it; (b, h, w, c)."""

  grow: int  # channels that each of the first four adds
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    seen = x.astype(self.dtype)
    for k in range(1, 5):
      y = layers.small_conv(self.grow, f'conv{k}', self.dtype)(seen)
      seen = jnp.concatenate([seen, nn.leaky_relu(y, SLOPE)], axis=-1)
    y = layers.small_conv(x.shape[-1], 'conv5', self.dtype)(seen)
    # The sum stays float32: dozens of blocks add to it.
    return x + RESIDUAL * y.astype(x.dtype)


class RRDB(nn.Module):
  """x + 0.2 * three dense blocks."""

  grow: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    y = x
    for j in range(1, 4):
      y = DenseBlock(self.grow, self.dtype, name=f'rdb{j}')(y)
    return x + RESIDUAL * y


class RRDBNet(nn.Module):
  """(b, h, w, c) in [0, 1] -> (b, upscale * h, upscale * w, c) in float32, not clipped; c = num_in_ch.

  The networks of Real-ESRGAN for x2 and x1 are that for x4 behind a pixel-unshuffle, which makes the picture smaller.
  Sides that it does not divide are extended by reflection, and the result is cut: as the program of Real-ESRGAN does
  around its network. A network for gray pictures is given the colours of others one by one.
  """

  upscale: int = 4
  num_feat: int = 64
  num_block: int = 23
  num_grow_ch: int = 32
  unshuffle: int = 1
  num_in_ch: int = 3
  dtype: Any = jnp.float32  # of the computation; parameters and the sums between blocks are float32
  remat: bool = False  # compute each block again for its gradient instead of keeping its activations

  tileable = True

  def __post_init__(self):
    super().__post_init__()
    if self.unshuffle not in (1, 2, 4):
      raise UserError(f'RRDBNet: unshuffle is {self.unshuffle}; it can be 1, 2, 4.')
    if self.upscale * self.unshuffle not in STAGES:
      raise UserError(
        f'RRDBNet: upscale is {self.upscale} behind an unshuffle of {self.unshuffle}; '
        f'their product can be {", ".join(map(str, STAGES))}.'
      )

  @property
  def multiple(self) -> int:
    """The unshuffle. Other sides work too; tiles must be cut at its multiples."""
    return self.unshuffle

  @property
  def minimum(self) -> int:
    """The smallest side that reflection, which leaves out the edge, completes to a multiple of the unshuffle."""
    return self.unshuffle // 2 + 1 if self.unshuffle > 1 else 1

  @property
  def receptive(self) -> int:
    """Radius in input pixels: 15 for each block, one for each end of the body, two for all that comes after it."""
    return self.unshuffle * (15 * self.num_block + 4) + self.unshuffle - 1

  @nn.compact
  def __call__(self, x: Array) -> Array:
    _, h, w, _ = x.shape
    x = layers.extended(self, x)
    return layers.in_colours(self, x, self.num_in_ch, self._network)[:, : h * self.upscale, : w * self.upscale]

  def _network(self, x: Array) -> Array:
    x = layers.pixel_unshuffle(x, self.unshuffle)
    width, block = self.num_feat, nn.remat(RRDB) if self.remat else RRDB
    y = first = layers.torch_conv(width, x.shape[-1], 'conv_first')(x)  # float32, and so all sums
    for i in range(self.num_block):
      y = block(self.num_grow_ch, self.dtype, name=f'body_{i}')(y)
    y = first + layers.torch_conv(width, width, 'conv_body', self.dtype)(y).astype(first.dtype)
    for stage in range(1, STAGES[self.upscale * self.unshuffle] + 1):
      y = layers.resize_nearest(y, (2 * y.shape[1], 2 * y.shape[2]))
      y = nn.leaky_relu(layers.torch_conv(width, width, f'conv_up{stage}', self.dtype)(y), SLOPE)
    y = nn.leaky_relu(layers.torch_conv(width, width, 'conv_hr', self.dtype)(y), SLOPE)
    # The picture itself stays float32: bfloat16 would round it to 8 bits of mantissa.
    return layers.torch_conv(self.num_in_ch, width, 'conv_last')(y.astype(jnp.float32))


PRESETS = {
  'rrdb_x4': ('rrdb', {'upscale': 4}),
  'rrdb_6b_x4': ('rrdb', {'upscale': 4, 'num_block': 6}),
  'rrdb_x2': ('rrdb', {'upscale': 2, 'unshuffle': 2}),
  'rrdb_x1': ('rrdb', {'upscale': 1, 'unshuffle': 4}),
  'rrdb_bsrgan_x4': ('rrdb_bsrgan', {'upscale': 4}),
  'rrdb_bsrgan_x2': ('rrdb_bsrgan', {'upscale': 2}),
  'rrdb_esrgan_x4': ('rrdb_esrgan', {'upscale': 4}),
}

"""SAFMN: spatially-adaptive feature modulation for efficient image super-resolution (Sun et al., ICCV 2023).

Two networks carry the name: that of the paper (`SAFMN`) and the entry to the NTIRE 2023 challenge on efficient
super-resolution (`SAFMN_NTIRE2023`). Their weights are not interchangeable.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from adaptsr_jax.errors import UserError
from adaptsr_jax.models import layers

Array = jax.Array


class SAFM(nn.Module):
  """Modulates (b, h, w, c) by its own features, taken at four scales: one quarter of the channels each."""

  factors: tuple[int, ...]  # of the max pooling before each depthwise convolution
  use_bias: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    _, h, w, c = x.shape
    scales = []
    for i, (factor, part) in enumerate(zip(self.factors, jnp.split(x, len(self.factors), axis=-1), strict=True)):
      if factor > 1:
        part = layers.adaptive_max_pool(part, (h // factor, w // factor))
      part = nn.Conv(
        part.shape[-1],
        (3, 3),
        feature_group_count=part.shape[-1],
        use_bias=self.use_bias,
        dtype=self.dtype,
        conv_general_dilated_cls=layers.Depthwise,
        name=f'mfr_{i}',
      )(part)
      scales.append(layers.resize_nearest(part, (h, w)) if factor > 1 else part)
    y = layers.pointwise(c, use_bias=self.use_bias, dtype=self.dtype, name='aggr')(jnp.concatenate(scales, axis=-1))
    return layers.gelu(y) * x


class CCM(nn.Module):
  """Convolutional channel mixer: 3x3 convolution to `hidden` channels, GELU, 1x1 convolution back."""

  hidden: int
  use_bias: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    y = nn.Conv(self.hidden, (3, 3), use_bias=self.use_bias, dtype=self.dtype, name='ccm_0')(x)
    return layers.pointwise(x.shape[-1], use_bias=self.use_bias, dtype=self.dtype, name='ccm_2')(layers.gelu(y))


class Block(nn.Module):
  """x + SAFM(x), then x + CCM(x); each after a layer norm, and with biases, unless it is `plain`."""

  factors: tuple[int, ...]
  hidden: int
  plain: bool
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = x + SAFM(self.factors, not self.plain, self.dtype, name='safm')(self._norm(x, 'norm1'))
    return x + CCM(self.hidden, not self.plain, self.dtype, name='ccm')(self._norm(x, 'norm2'))

  def _norm(self, x: Array, name: str) -> Array:
    return x if self.plain else layers.LayerNorm(epsilon=1e-6, dtype=self.dtype, name=name)(x)


class GlobalResponseNorm(nn.Module):
  """Scales each channel by its energy over the whole picture, relative to the other channels."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    gamma = self.param('gamma', nn.initializers.zeros, x.shape[-1:])
    beta = self.param('beta', nn.initializers.zeros, x.shape[-1:])
    energy = jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32)), axis=(1, 2), keepdims=True))
    relative = energy / (energy.mean(axis=-1, keepdims=True) + 1e-6)
    return (gamma * (x * relative) + beta + x).astype(x.dtype)


class SAFMN(nn.Module):
  """The network of the paper: (b, h, w, 3) in [0, 1] -> (b, upscale * h, upscale * w, 3) in float32, not clipped."""

  upscale: int = 4
  dim: int = 36
  n_blocks: int = 8
  ffn_scale: float = 2.0
  dtype: Any = jnp.float32  # of the computation; parameters are float32

  factors = (1, 2, 4, 8)
  multiple = 1
  minimum = 8
  tileable = True

  def __post_init__(self):
    super().__post_init__()
    _check_dim(self)

  @property
  def receptive(self) -> int:
    """Radius in input pixels: a block sees 15 through its coarsest scale and 1 through its 3x3 convolution.

    Exact for pictures whose sides are multiples of 8. Tiles give what the whole picture gives only if, moreover, they
    start and end at multiples of 8: elsewhere the pooling bins of a tile lie otherwise than those of the picture.
    """
    return _radius(self)

  @nn.compact
  def __call__(self, x: Array) -> Array:
    _check_size(self, x)
    # float32, so that the sums between the blocks are, too: in bfloat16 they would double its rounding error.
    first = nn.Conv(self.dim, (3, 3), dtype=jnp.float32, name='to_feat')(x)
    return _to_image(self, _body(self, first, plain=False) + first)


class SAFMN_NTIRE2023(nn.Module):
  """The challenge entry; same shapes. No layer norms and no biases in the blocks, coarser scales, bilinear skip."""

  upscale: int = 4
  dim: int = 36
  n_blocks: int = 8
  ffn_scale: float = 2.0
  dtype: Any = jnp.float32  # of the computation; parameters are float32

  factors = (1, 4, 8, 16)
  multiple = 1
  minimum = 16
  tileable = False  # the global response norm sees the whole picture

  def __post_init__(self):
    super().__post_init__()
    _check_dim(self)

  @property
  def receptive(self) -> int:
    """Radius in input pixels of all but the global response norm, which has none."""
    return _radius(self)

  @nn.compact
  def __call__(self, x: Array) -> Array:
    _check_size(self, x)
    skip = layers.resize_bilinear(x, self.upscale)
    x = nn.Conv(self.dim, (3, 3), dtype=jnp.float32, name='to_feat')(x)  # as above
    x = GlobalResponseNorm(name='norm')(x)
    return _to_image(self, _body(self, x, plain=True)) + skip


def _body(model: nn.Module, x: Array, plain: bool) -> Array:
  for i in range(model.n_blocks):
    x = Block(model.factors, int(model.dim * model.ffn_scale), plain, model.dtype, name=f'feats_{i}')(x)
  return x


def _to_image(model: nn.Module, x: Array) -> Array:
  # The picture itself stays float32: bfloat16 would round it to 8 bits of mantissa.
  x = nn.Conv(3 * model.upscale**2, (3, 3), dtype=jnp.float32, name='to_img_0')(x)
  return layers.pixel_shuffle(x, model.upscale)


def _radius(model: nn.Module) -> int:
  # In a block: two coarsest cells less a pixel, and one for the 3x3 convolution. Then one for each end of the network.
  return model.n_blocks * 2 * max(model.factors) + 2


def _check_dim(model: nn.Module) -> None:
  if model.dim % len(model.factors):
    raise UserError(f'{type(model).__name__}: dim is {model.dim}; it must be a multiple of {len(model.factors)}.')


def _check_size(model: nn.Module, x: Array) -> None:
  if any(side < model.minimum for side in x.shape[1:3]):
    raise layers.too_small(model, x)


PRESETS = {
  **{f'safmn_x{scale}': ('safmn', {'upscale': scale, 'dim': 36, 'n_blocks': 8}) for scale in (2, 3, 4)},
  **{f'safmn_l_x{scale}': ('safmn', {'upscale': scale, 'dim': 128, 'n_blocks': 16}) for scale in (2, 3, 4)},
  'safmn_ntire2023_x4': ('safmn_ntire2023', {'upscale': 4, 'dim': 36, 'n_blocks': 8}),
}

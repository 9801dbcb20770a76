"""MSRResNet: the residual network of BasicSR without normalisation, and the start of DASR and of one network of LDL."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from adaptsr_jax.errors import UserError
from adaptsr_jax.models import layers

Array = jax.Array

SLOPE = 0.1  # of the leaky ReLUs; those inside the blocks are plain ones
STAGES = {2: (2,), 3: (3,), 4: (2, 2)}  # upscale -> pixel shuffles


class ResidualBlock(nn.Module):
  """x + conv(relu(conv(x)))."""

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    y = layers.small_conv(x.shape[-1], 'conv1', self.dtype)(x)
    y = layers.small_conv(x.shape[-1], 'conv2', self.dtype)(nn.relu(y))
    return x + y.astype(x.dtype)


class MSRResNet(nn.Module):
  """(b, h, w, c) in [0, 1] -> (b, upscale * h, upscale * w, c) in float32, not clipped; c = num_in_ch."""

  upscale: int = 4
  num_feat: int = 64
  num_block: int = 16
  num_in_ch: int = 3
  dtype: Any = jnp.float32  # of the computation; parameters and the sums between blocks are float32

  multiple = 1
  minimum = 1
  tileable = True

  def __post_init__(self):
    super().__post_init__()
    check_upscale(self)

  @property
  def receptive(self) -> int:
    """Radius in input pixels, see `radius`."""
    return radius(self.num_block)

  @nn.compact
  def __call__(self, x: Array) -> Array:
    def conv(features: int, name: str, dtype: Any = self.dtype) -> nn.Module:
      return layers.small_conv(features, name, dtype)

    def network(x: Array) -> Array:
      return forward(self, x, conv, lambda name: ResidualBlock(self.dtype, name=name))

    return layers.in_colours(self, x, self.num_in_ch, network)


def forward(model: nn.Module, x: Array, conv: Callable[..., Any], block: Callable[[str], Any]) -> Array:
  """Returns the picture that the network makes; call it in a compact method.

  Args:
    model: with upscale, num_feat and num_block.
    x: (b, h, w, c).
    conv: (features, name, dtype) -> function of features.
    block: (name) -> function of features.
  """
  y = nn.leaky_relu(conv(model.num_feat, 'conv_first', jnp.float32)(x), SLOPE)  # float32, and so all sums
  for i in range(model.num_block):
    y = block(f'body_{i}')(y)
  for stage, factor in enumerate(STAGES[model.upscale], 1):
    y = conv(model.num_feat * factor**2, f'upconv{stage}')(y)
    y = nn.leaky_relu(layers.pixel_shuffle(y, factor), SLOPE)
  y = nn.leaky_relu(conv(model.num_feat, 'conv_hr')(y), SLOPE)
  # The picture itself stays float32: bfloat16 would round it to 8 bits of mantissa.
  y = conv(x.shape[-1], 'conv_last', jnp.float32)(y.astype(jnp.float32))
  return y + layers.resize_bilinear(x, model.upscale)


def radius(num_block: int) -> int:
  """Returns the receptive radius in input pixels: one per 3x3 convolution; the upsampler, ever finer, makes two."""
  return 2 * num_block + 3


def check_upscale(model: nn.Module) -> None:
  if model.upscale not in STAGES:
    raise UserError(f'{type(model).__name__}: upscale is {model.upscale}; it can be {", ".join(map(str, STAGES))}.')


PRESETS = {f'msrresnet_x{scale}': ('msrresnet', {'upscale': scale}) for scale in STAGES}

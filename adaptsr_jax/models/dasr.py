"""DASR: a network whose kernels are mixed from several for every picture (Liang et al., ECCV 2022).

A predictor looks at the picture and gives the weights of the mixture, which are no probabilities: they may be negative,
and need not sum to one. Two other networks of the same name, of 2021, have nothing to do with this one.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from adaptsr_jax.models import layers, msrresnet
from adaptsr_jax.tree import Params

Array = jax.Array

MAPPED = 15  # width between the two linear layers of the predictor
LARGE = 1024  # pixels; of a larger picture the predictor sees a square of this side in the middle


class Predictor(nn.Module):
  """(b, h, w, c) -> (b, num_models): the weights of the mixture."""

  nf: int
  num_params: int
  num_models: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    for i, width in enumerate((*(self.nf,) * 5, self.num_params)):
      stride = 2 if i == 3 else 1
      conv = layers.torch_conv(width, x.shape[-1], f'ConvNet_{2 * i}', size=5, stride=stride)
      x = nn.leaky_relu(conv(x), 0.2)
    degradation = x.mean((1, 2))
    return nn.Dense(self.num_models, name='MappingNet_1')(nn.Dense(MAPPED, name='MappingNet_0')(degradation))


class MixedConv(nn.Module):
  """A 3x3 convolution whose kernel and bias are sums of `experts` stored ones, weighted for each picture."""

  features: int
  experts: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, mixture: Array) -> Array:
    """x (b, h, w, c), mixture (b, experts)."""
    shape = (self.experts, 3, 3, x.shape[-1], self.features)
    kernel = self.param('kernel', _alike(layers.SMALL_INIT), shape)
    bias = self.param('bias', nn.initializers.zeros, (self.experts, self.features))
    kernels = jnp.einsum('bk,khwio->bhwio', mixture, kernel).astype(self.dtype)
    x = x.astype(self.dtype)
    if x.shape[0] == 1:
      y = _convolved(x, kernels[0])
    else:
      # One after another: with the batch in the kernels it would become a grouped convolution, which is slow.
      y = jax.lax.map(lambda pair: _convolved(pair[0][None], pair[1]).squeeze(0), (x, kernels))
    return y + (mixture @ bias).astype(self.dtype)[:, None, None]

  def plain(self) -> nn.Conv:
    """Returns a convolution with the settings of this one and a single kernel."""
    return nn.Conv(self.features, (3, 3), dtype=self.dtype, parent=None)


def _alike(init: Any) -> Any:
  """Returns an initialiser that makes all experts equal, as training starts."""
  return lambda key, shape, dtype=jnp.float32: jnp.broadcast_to(init(key, shape[1:], dtype), shape)


def _convolved(x: Array, kernel: Array) -> Array:
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


class MixedBlock(nn.Module):
  """x + conv(relu(conv(x)))."""

  experts: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, mixture: Array) -> Array:
    y = MixedConv(x.shape[-1], self.experts, self.dtype, name='conv1')(x, mixture)
    y = MixedConv(x.shape[-1], self.experts, self.dtype, name='conv2')(nn.relu(y), mixture)
    return x + y.astype(x.dtype)


class Generator(nn.Module):
  """(b, h, w, c), (b, num_models) -> the picture: MSRResNet with mixed kernels."""

  upscale: int
  num_feat: int
  num_block: int
  num_models: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, mixture: Array) -> Array:
    def conv(features: int, name: str, dtype: Any = self.dtype) -> Any:
      module = MixedConv(features, self.num_models, dtype, name=name)
      return lambda x: module(x, mixture)

    def block(name: str) -> Any:
      module = MixedBlock(self.num_models, self.dtype, name=name)
      return lambda x: module(x, mixture)

    return msrresnet.forward(self, x, conv, block)


class DASR(nn.Module):
  """(b, h, w, 3) in [0, 1] -> (b, upscale * h, upscale * w, 3) in float32, not clipped.

  Adapters are sites of the generator alone, with one update for all experts of a kernel: the mixture is linear, so that
  it acts with the sum of its weights, in training as in what is exported.
  """

  upscale: int = 4
  num_feat: int = 64
  num_block: int = 16
  num_models: int = 5
  nf: int = 64  # channels of the predictor
  num_params: int = 33  # numbers that describe a degradation
  dtype: Any = jnp.float32  # of the generator; parameters, predictor and the sums between blocks are float32

  multiple = 1
  minimum = 1
  tileable = True  # with what `once` returns
  frozen = ('^net_p/',)

  def __post_init__(self):
    super().__post_init__()
    msrresnet.check_upscale(self)

  @property
  def receptive(self) -> int:
    """Radius in input pixels of the generator; the predictor sees the whole picture."""
    return msrresnet.radius(self.num_block)

  @nn.compact
  def __call__(self, x: Array) -> Array:
    generator = Generator(self.upscale, self.num_feat, self.num_block, self.num_models, self.dtype, name='net_g')
    if self.has_variable('params', 'mixture'):
      mixture = jnp.broadcast_to(self.get_variable('params', 'mixture'), (x.shape[0], self.num_models))
    else:
      mixture = Predictor(self.nf, self.num_params, self.num_models, name='net_p')(x)
    return generator(x, mixture)

  def once(self, params: Params, x: Array) -> Params:
    """Returns `params` with the mixture of the whole picture x (1, h, w, 3), which then holds for all of its tiles."""
    _, h, w, _ = x.shape
    top, left = (max(0, side - LARGE) // 2 for side in (h, w))
    seen = x[:, top : top + LARGE, left : left + LARGE]
    predictor = Predictor(self.nf, self.num_params, self.num_models, parent=None)
    return {**params, 'mixture': predictor.apply({'params': params['net_p']}, seen)}


PRESETS = {'dasr_x4': ('dasr', {'upscale': 4})}

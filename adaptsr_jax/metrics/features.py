"""The convolutional parts of AlexNet, VGG16 and VGG19, as features to compare pictures by.

Weights are {'0': {'kernel': (h, w, in, out), 'bias': (out,)}, '3': ...}: the keys are the positions of the convolutions
in `features` of torchvision's networks. Convolutions compute in full float32 on every device: the shortened mantissas
that accelerators take by default change LPIPS in the third digit.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Weights = Mapping[str, Mapping[str, Any]]


class Conv(NamedTuple):
  """A convolution with bias and ReLU; `index` is its position in `features`."""

  index: int
  inputs: int
  outputs: int
  kernel: int = 3
  stride: int = 1
  padding: int = 1


class Layout(NamedTuple):
  """What a network consists of.

  Attributes:
    name: how it is called.
    stages: convolutions; the features after each stage are compared.
    pooled: the stages that a pooling comes before.
    window: side of the maximum pooling, of stride 2 and without padding.
    least: side of the smallest picture that something is left of.
  """

  name: str
  stages: tuple[tuple[Conv, ...], ...]
  pooled: tuple[int, ...]
  window: int
  least: int

  @property
  def convs(self) -> list[Conv]:
    return [conv for stage in self.stages for conv in stage]


ALEXNET = Layout(
  name='AlexNet',
  stages=(
    (Conv(0, 3, 64, kernel=11, stride=4, padding=2),),
    (Conv(3, 64, 192, kernel=5, padding=2),),
    (Conv(6, 192, 384),),
    (Conv(8, 384, 256),),
    (Conv(10, 256, 256),),
  ),
  pooled=(1, 2),
  window=3,
  least=31,
)


def _vgg(name: str, depths: tuple[int, ...]) -> Layout:
  """Returns VGG with so many 3x3 convolutions in its stages, each followed by a ReLU, and the last by a pooling."""
  index, inputs, stages = 0, 3, []
  for outputs, depth in zip((64, 128, 256, 512, 512), depths, strict=True):
    convs = [Conv(index + 2 * i, outputs if i else inputs, outputs) for i in range(depth)]
    index, inputs = index + 2 * depth + 1, outputs
    stages.append(tuple(convs))
  return Layout(name, tuple(stages), pooled=(1, 2, 3, 4), window=2, least=16)


VGG16 = _vgg('VGG16', (2, 2, 3, 3, 3))
VGG19 = _vgg('VGG19', (2, 2, 4, 4, 4))


def layout_of(weights: Weights) -> Layout:
  """Returns the network that the weights are of."""
  return next(layout for layout in (ALEXNET, VGG16, VGG19) if len(layout.convs) == len(weights))


def taps(
  weights: Weights, x: Array, pool: Callable[[Array], Array] | None = None, before_relu: bool = False
) -> Iterator[Array]:
  """Yields the features after each of the five stages, behind their ReLU.

  Args:
    weights: see `metrics.weights.trunk`.
    x: normalised pictures (B, H, W, 3).
    pool: what takes the place of the maximum pooling.
    before_relu: yield what the last convolution of each stage gives instead.
  """
  layout = layout_of(weights)
  for number, stage in enumerate(layout.stages):
    if number in layout.pooled:
      window = (1, layout.window, layout.window, 1)
      x = pool(x) if pool else jax.lax.reduce_window(x, -np.inf, jax.lax.max, window, (1, 2, 2, 1), 'VALID')
    for conv in stage:
      y = _convolve(weights[str(conv.index)], x, conv)
      x = jax.nn.relu(y)
    yield y if before_relu else x


def _convolve(weights: Mapping[str, Any], x: Array, conv: Conv) -> Array:
  y = jax.lax.conv_general_dilated(
    x,
    weights['kernel'],
    (conv.stride, conv.stride),
    [(conv.padding, conv.padding)] * 2,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    precision=jax.lax.Precision.HIGHEST,
  )
  return y + weights['bias']


def l2_pool(x: Array) -> Array:
  """Halves (B, H, W, C) to the root of blurred squares (Hann window, zeros around): (B, ceil(H/2), ceil(W/2), C).

  The pooling of DISTS, after Hénaff and Simoncelli 2016.
  """
  x = x * x
  for axis in (1, 2):
    padding = [(0, 0)] * 4
    padding[axis] = (1, 1)
    padded, length = jnp.pad(x, padding), x.shape[axis]
    left, middle, right = (
      jax.lax.slice_in_dim(padded, start, start + length, stride=2, axis=axis) for start in (0, 1, 2)
    )
    x = (left + 2 * middle + right) / 4
  return jnp.sqrt(x + 1e-12)

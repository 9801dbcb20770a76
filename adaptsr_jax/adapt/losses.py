"""Training losses: a table of terms, and their weighted sum as `config.loss` asks for it.

Pictures are (B, H, W, 3) in [0, 1] and computed in float32; a prediction may leave the interval. The terms that compare
features take the weights that the metrics of the same name take, and do not differentiate the target.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from ml_collections import ConfigDict

from adaptsr_jax.errors import UserError
from adaptsr_jax.metrics import features, perceptual
from adaptsr_jax.zoo import metric_weights
from adaptsr_jax.zoo.metric_weights import METRIC_FILES, Unavailable

Array = jax.Array

# How much the stages of VGG19 count (Real-ESRGAN).
_STAGES = (0.1, 0.1, 1.0, 1.0, 1.0)
_COLOUR_SIDE = 16  # pixels of the squares whose mean colours are compared


def l1(prediction: Array, target: Array) -> Array:
  """Mean absolute error over everything, computed in float32."""
  return jnp.mean(jnp.abs(prediction.astype(jnp.float32) - target))


def charbonnier(prediction: Array, target: Array) -> Array:
  """L1 that is smooth below a thousandth (Lai et al. 2017)."""
  return jnp.mean(jnp.sqrt((prediction.astype(jnp.float32) - target) ** 2 + 1e-6))


def mse(prediction: Array, target: Array) -> Array:
  """Mean squared error over everything."""
  return jnp.mean((prediction.astype(jnp.float32) - target) ** 2)


def colour(prediction: Array, target: Array) -> Array:
  """Mean absolute error of the mean colours of squares of 16 pixels: what an adversarial loss lets drift."""
  difference = prediction.astype(jnp.float32) - target
  side = min(_COLOUR_SIDE, *difference.shape[1:3])
  window = (1, side, side, 1)
  sums = jax.lax.reduce_window(difference, 0.0, jax.lax.add, window, window, 'VALID')
  return jnp.mean(jnp.abs(sums)) / side**2


def perceptual_vgg19(weights: Mapping[str, Any], prediction: Array, target: Array) -> Array:
  """L1 between features of VGG19 before their ReLU, conv1_2 to conv5_4, weighted as Real-ESRGAN weights them."""

  def stages(x: Array) -> list[Array]:
    return list(features.taps(weights['vgg19'], (x - perceptual.MEAN) / perceptual.STD, before_relu=True))

  pairs = zip(_STAGES, stages(prediction.astype(jnp.float32)), stop_gradient(stages(target)), strict=True)
  return sum(factor * l1(x, y) for factor, x, y in pairs)


def lpips(weights: Mapping[str, Any], prediction: Array, target: Array) -> Array:
  """LPIPS with AlexNet, the mean over the batch; lengths of features have a floor, so that the gradient has an end."""

  def directions(x: Array) -> list[Array]:
    return list(perceptual.lpips_directions(weights['alexnet'], x, floor=1e-8))

  stages = zip(
    weights['lpips_alex'], directions(prediction.astype(jnp.float32)), stop_gradient(directions(target)), strict=True
  )
  return sum(jnp.mean(jnp.sum((x - y) ** 2 * head, -1)) for head, x, y in stages)


def dists(weights: Mapping[str, Any], prediction: Array, target: Array) -> Array:
  """DISTS at the size of the crops, the mean over the batch."""
  x = perceptual.dists_taps(weights['vgg16'], prediction.astype(jnp.float32))
  y = stop_gradient(perceptual.dists_taps(weights['vgg16'], target))
  return jnp.mean(perceptual.dists_of_taps(weights['dists'], zip(x, y, strict=True)))


class Term(NamedTuple):
  """A row of the table.

  Attributes:
    fn: (weights of `files` by name, prediction, target) -> scalar.
    files: what it needs, of `METRIC_FILES`; the small ones first, so that the large ones are not fetched in vain.
    layout: the network whose features are compared, if any.
  """

  fn: Callable[[Mapping[str, Any], Array, Array], Array]
  files: tuple[str, ...] = ()
  layout: features.Layout | None = None


TERMS = {
  'l1': Term(lambda _, prediction, target: l1(prediction, target)),
  'charbonnier': Term(lambda _, prediction, target: charbonnier(prediction, target)),
  'mse': Term(lambda _, prediction, target: mse(prediction, target)),
  'colour': Term(lambda _, prediction, target: colour(prediction, target)),
  'perceptual': Term(perceptual_vgg19, ('vgg19',), features.VGG19),
  'lpips': Term(lpips, ('lpips_alex', 'alexnet'), features.ALEXNET),
  'dists': Term(dists, ('dists', 'vgg16'), features.VGG16),
}


class Criterion(NamedTuple):
  """The loss of a run without what a discriminator adds.

  Attributes:
    factors: term -> what it is multiplied by; terms of 0 are absent.
    weights: what the terms need, by file; an argument of compiled steps, as networks are too large for constants.
  """

  factors: dict[str, float]
  weights: dict[str, Any]

  def terms(self, prediction: Array, target: Array, weights: Mapping[str, Any]) -> tuple[Array, dict[str, Array]]:
    """Returns (weighted sum, {'loss/NAME': the term by itself})."""
    values = {name: TERMS[name].fn(weights, prediction, target) for name in self.factors}
    total = sum(factor * values[name] for name, factor in self.factors.items())
    return total, {f'loss/{name}': value for name, value in values.items()}

  def __call__(self, prediction: Array, target: Array, weights: Mapping[str, Any]) -> tuple[Array, dict[str, Array]]:
    """Returns `terms`, without a single term that would say again what the sum does."""
    total, values = self.terms(prediction, target, weights)
    return total, values if len(values) > 1 else {}


def make(config: ConfigDict) -> Criterion:
  """Returns the loss that `config.loss` describes, with its weights in memory.

  Raises:
    UserError: nothing is asked for; weights cannot be had, or are damaged; the crops are too small for a network.
  """
  factors = {name: float(config.loss[name]) for name in TERMS if config.loss[name]}
  if not factors:
    raise UserError(f'config.loss asks for nothing: give one of {", ".join(TERMS)} a weight above 0.')
  weights: dict[str, Any] = {}
  for name in factors:
    layout = TERMS[name].layout
    if layout and config.patch < layout.least:
      raise UserError(
        f'config.patch is {config.patch}; config.loss.{name} compares features of {layout.name}, which needs crops of '
        f'at least {layout.least} pixels a side.'
      )
    for file in TERMS[name].files:
      weights[file] = weights[file] if file in weights else _read(name, file, config.metric_weights)
  return Criterion(factors, jax.device_put(weights))


def _read(name: str, file: str, folder: str) -> Any:
  try:
    return metric_weights.load(file, folder)
  except Unavailable as error:
    needed = ' and '.join(METRIC_FILES[each].published for each in TERMS[name].files)
    text = str(error).replace('--metric_weights', '--config.metric_weights')
    raise UserError(f'config.loss.{name} needs {needed}: {text}') from error

"""EDSR in the key style of BasicSR, and in the official one (head, body, tail; frozen shifts of the mean)."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from adaptsr_jax.convert import names, shapes
from adaptsr_jax.convert.architectures import window
from adaptsr_jax.errors import UserError

MEAN_SHIFT_TOLERANCE = 1e-3  # of the identity weights, and of the mean as a part of the range


def _basicsr_fields(weights: shapes.Weights) -> shapes.Found:
  fields, assumed = _fields(weights, 'conv_first.weight', 'body.{}.conv1.weight', 'upsample.{}.weight')
  why = 'not stored under these key names; every published network has it'
  fields |= {'img_range': 255.0, 'rgb_mean': shapes.DIV2K_MEAN}
  return fields, assumed | {'img_range': why, 'rgb_mean': f'{why} (the mean of DIV2K)'}


def _official_fields(weights: shapes.Weights) -> shapes.Found:
  fields, assumed = _fields(weights, 'head.0.weight', 'body.{}.body.0.weight', 'tail.0.{}.weight')
  if 'add_mean.bias' not in weights:
    why = 'the file has no add_mean; every published network has it'
    return fields | {'img_range': 255.0, 'rgb_mean': shapes.DIV2K_MEAN}, assumed | {'img_range': why, 'rgb_mean': why}
  img_range, rgb_mean, exact = _mean_shift(weights)
  if not exact:
    assumed['rgb_mean'] = 'the stored mean shifts differ from each other in the last digits; that of add_mean is taken'
  return fields | {'img_range': img_range, 'rgb_mean': rgb_mean}, assumed


def _fields(weights: shapes.Weights, first: str, block: str, stage: str) -> shapes.Found:
  """Reads what both key styles have; `{}` in a key stands for a number."""
  width, colours = shapes.of(weights, first, 4)[:2]
  if colours != 3:
    raise UserError(f"'{first}' takes {colours} colours; only networks for RGB pictures are known.")
  fields = {
    'upscale': window.shuffled(weights, stage, width),
    'num_feat': width,
    'num_block': shapes.count(weights, block),
    'res_scale': 0.1 if width == 256 else 1.0,
  }
  return fields, {'res_scale': 'not stored; published networks have 0.1 with 256 features and 1 with 64'}


def _mean_shift(weights: shapes.Weights) -> tuple[float, tuple[float, ...], bool]:
  """Returns img_range and rgb_mean of the frozen convolutions around the official EDSR, and whether they are exact.

  The mean is given in the fewest decimals that reproduce the stored numbers: 0.4488 rather than 0.44880000282.

  Raises:
    UserError: the convolutions do more than to shift a mean.
  """
  bias = weights['add_mean.bias']
  if np.shape(bias) != (3,) or not np.all(np.isfinite(np.float64(bias))):
    raise UserError(f"'add_mean.bias' should be three means, but has shape {np.shape(bias)} or is not finite.")
  img_range = 255.0 if np.max(np.float64(bias)) > 1 else 1.0
  rgb_mean = tuple(_decimal(value, img_range, known) for value, known in zip(bias, shapes.DIV2K_MEAN, strict=True))
  exact = True
  for entry in mean_shifts(img_range, rgb_mean):
    value = entry.value()
    found = weights.get(entry.key, value)
    unit = 1 if entry.key.endswith('weight') else img_range
    near = np.shape(found) == value.shape and np.abs(np.float64(found) - value).max() <= MEAN_SHIFT_TOLERANCE * unit
    if not near:
      raise UserError(
        f"'{entry.key}' is not the fixed shift of the mean that it should be (identity weights, -/+ {img_range:g} "
        'times the mean): a network that was trained with a moving shift cannot be represented.'
      )
    exact = exact and np.array_equal(np.asarray(found), value.astype(found.dtype))
  return img_range, rgb_mean, exact


def _decimal(value: np.floating, img_range: float, known: float) -> float:
  """Returns the shortest decimal that gives `value` in its own type when multiplied by `img_range` in float32."""
  exact = float(value) / img_range
  for candidate in (known, *(round(exact, digits) for digits in range(1, 17))):
    if (np.float32(img_range) * np.float32(candidate)).astype(value.dtype) == value:
      return candidate
  return exact


def _basicsr(model: Any) -> Iterator[names.Entry]:
  keys = {'first': 'conv_first', 'conv1': 'body.{}.conv1', 'conv2': 'body.{}.conv2', 'after': 'conv_after_body'}
  return _convs(model, {**keys, 'upsample': 'upsample.{}', 'last': 'conv_last'})


def _official(model: Any) -> Iterator[names.Entry]:
  keys = {'first': 'head.0', 'conv1': 'body.{}.body.0', 'conv2': 'body.{}.body.2', 'after': 'body.{}'}
  yield from mean_shifts(model.img_range, model.rgb_mean)
  yield from _convs(model, {**keys, 'upsample': 'tail.0.{}', 'last': 'tail.1'})


def _convs(model: Any, keys: Mapping[str, str]) -> Iterator[names.Entry]:
  """The convolutions of EDSR, under the names that `keys` gives to its parts."""
  width, colours = model.num_feat, model.num_in_ch
  yield from names.conv(keys['first'], 'conv_first', colours, width)
  for i in range(model.num_block):
    yield from names.conv(keys['conv1'].format(i), f'body_{i}/conv1', width, width)
    yield from names.conv(keys['conv2'].format(i), f'body_{i}/conv2', width, width)
  yield from names.conv(keys['after'].format(model.num_block), 'conv_after_body', width, width)
  from adaptsr_jax.models import layers

  for stage, factor in enumerate(layers.shuffles(model.upscale)):
    yield from names.conv(keys['upsample'].format(2 * stage), f'upsample_{2 * stage}', width, width * factor**2)
  yield from names.conv(keys['last'], 'conv_last', width, colours)


def mean_shifts(img_range: float, rgb_mean: tuple[float, ...]) -> Iterator[names.Entry]:
  """The frozen 1x1 convolutions that take the mean off and put it on again.

  Weights are the identity, biases -/+ img_range * rgb_mean, multiplied in float32 as PyTorch does.
  """
  colours = len(rgb_mean)
  identity = np.eye(colours, dtype=np.float32).reshape(colours, colours, 1, 1)
  shift = np.float32(img_range) * np.array(rgb_mean, np.float32)
  for key, bias in (('sub_mean', -shift), ('add_mean', shift)):
    yield names.Entry(f'{key}.weight', identity.shape, '', 'conv', lambda: identity)
    yield names.Entry(f'{key}.bias', bias.shape, '', 'vector', lambda bias=bias: bias)


ARCHITECTURES = (
  names.Architecture(
    'edsr_official', ('head.0.weight', 'body.0.body.0.weight', 'tail.1.weight'), _official_fields, _official
  ),
  names.Architecture(
    'edsr', ('conv_first.weight', 'body.0.conv1.weight', 'conv_after_body.weight'), _basicsr_fields, _basicsr
  ),
)

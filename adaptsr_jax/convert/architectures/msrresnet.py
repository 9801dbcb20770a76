"""MSRResNet of BasicSR, and DASR, whose generator it is: every tensor once for each expert."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from adaptsr_jax.convert import names, shapes
from adaptsr_jax.errors import UserError

_KEYS = ('conv_first.weight', 'body.0.conv1.weight', 'upconv1.weight', 'conv_hr.weight')
_MAPPED = 15  # width between the two linear layers of the predictor of DASR


def _fields(weights: shapes.Weights) -> shapes.Found:
  width, colours = shapes.of(weights, 'conv_first.weight', 4)[:2]
  fields = _network_fields(weights, '', shapes.of(weights, 'upconv1.weight', 4)[0], width)
  return {**fields, 'num_in_ch': colours}, {}


def _dasr_fields(weights: shapes.Weights) -> shapes.Found:
  experts, width = shapes.of(weights, 'net_g.conv_first.weight', 5)[:2]
  return {
    **_network_fields(weights, 'net_g.', shapes.of(weights, 'net_g.upconv1.weight', 5)[1], width),
    'num_models': experts,
    'nf': shapes.of(weights, 'net_p.ConvNet.0.weight', 4)[0],
    'num_params': shapes.of(weights, 'net_p.ConvNet.10.weight', 4)[0],
  }, {}


def _network_fields(weights: shapes.Weights, prefix: str, outputs: int, width: int) -> dict[str, Any]:
  factor = math.isqrt(outputs // width)
  if factor not in (2, 3) or outputs != width * factor**2:
    raise UserError(f"'{prefix}upconv1.weight' has {outputs} outputs, which are not {width} * 2**2 or 3**2.")
  return {
    'upscale': 4 if f'{prefix}upconv2.weight' in weights else factor,
    'num_feat': width,
    'num_block': shapes.count(weights, prefix + 'body.{}.conv1.weight'),
  }


def _entries(model: Any) -> Iterator[names.Entry]:
  return _network(model, model.num_in_ch, names.conv)


def _network(model: Any, colours: int, conv: Callable[..., Iterator[names.Entry]]) -> Iterator[names.Entry]:
  width = model.num_feat
  yield from conv('conv_first', 'conv_first', colours, width)
  for i in range(model.num_block):
    for k in (1, 2):
      yield from conv(f'body.{i}.conv{k}', f'body_{i}/conv{k}', width, width)
  for stage, factor in enumerate((3,) if model.upscale == 3 else (2,) * (model.upscale // 2), 1):
    yield from conv(f'upconv{stage}', f'upconv{stage}', width, width * factor**2)
  yield from conv('conv_hr', 'conv_hr', width, width)
  yield from conv('conv_last', 'conv_last', width, colours)


def _dasr_entries(model: Any) -> Iterator[names.Entry]:
  def experts(key: str, path: str, cin: int, cout: int) -> Iterator[names.Entry]:
    count = model.num_models
    yield names.Entry(f'net_g.{key}.weight', (count, cout, cin, 3, 3), f'net_g/{path}/kernel', 'experts')
    yield names.Entry(f'net_g.{key}.bias', (count, cout), f'net_g/{path}/bias', 'vector')

  yield from _network(model, 3, experts)
  inputs = 3
  for i, width in enumerate((*(model.nf,) * 5, model.num_params)):
    yield from names.conv(f'net_p.ConvNet.{2 * i}', f'net_p/ConvNet_{2 * i}', inputs, width, 5)
    inputs = width
  yield from names.dense('net_p.MappingNet.0', 'net_p/MappingNet_0', inputs, _MAPPED)
  yield from names.dense('net_p.MappingNet.1', 'net_p/MappingNet_1', _MAPPED, model.num_models)


def half_of_dasr(weights: shapes.Weights) -> str:
  """Returns 'net_g' or 'net_p' if the weights are one of the two files of DASR, else ''."""
  if 'ConvNet.0.weight' in weights and 'MappingNet.1.weight' in weights:
    return 'net_p'
  return 'net_g' if all(key in weights and np.ndim(weights[key]) == 5 for key in _KEYS) else ''


ARCHITECTURES = (
  names.Architecture('msrresnet', _KEYS, _fields, _entries),
  names.Architecture('dasr', ('net_g.conv_first.weight', 'net_p.MappingNet.1.weight'), _dasr_fields, _dasr_entries),
)
FOREIGN = (
  names.Foreign(
    'the generator of DASR, net_g, which needs its predictor: net_p.pth beside it',
    lambda weights: half_of_dasr(weights) == 'net_g' or _only(weights, 'net_g.conv_first.weight', 'net_p.'),
  ),
  names.Foreign(
    'the predictor of DASR, net_p, which needs its generator: net_g.pth beside it',
    lambda weights: half_of_dasr(weights) == 'net_p' or _only(weights, 'net_p.MappingNet.1.weight', 'net_g.'),
  ),
)


def _only(weights: shapes.Weights, key: str, lacking: str) -> bool:
  return key in weights and not any(other.startswith(lacking) for other in weights)

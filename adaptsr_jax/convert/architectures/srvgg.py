"""SRVGGNetCompact."""

import math
from collections.abc import Iterator
from typing import Any

from adaptsr_jax.convert import names, shapes
from adaptsr_jax.errors import UserError


def _fields(weights: shapes.Weights) -> shapes.Found:
  width, colours = shapes.of(weights, 'body.0.weight', 4)[:2]
  shapes.of(weights, 'body.1.weight', 1)
  last = shapes.count(weights, 'body.{}.weight') - 1
  outputs = shapes.of(weights, f'body.{last}.weight', 4)[0]
  upscale = math.isqrt(outputs // colours)
  if outputs != colours * upscale**2:
    raise UserError(f"'body.{last}.weight' has {outputs} outputs, which are not {colours} * upscale**2.")
  return {'upscale': upscale, 'num_feat': width, 'num_conv': last // 2 - 1, 'num_in_ch': colours}, {}


def _entries(model: Any) -> Iterator[names.Entry]:
  width, colours, last = model.num_feat, model.num_in_ch, 2 * model.num_conv + 2
  for i in range(0, last, 2):
    yield from names.conv(f'body.{i}', f'body_{i}', width if i else colours, width)
    yield names.Entry(f'body.{i + 1}.weight', (width,), f'body_{i + 1}/slope', 'vector')
  yield from names.conv(f'body.{last}', f'body_{last}', width, colours * model.upscale**2)


ARCHITECTURES = (names.Architecture('srvgg', ('body.0.weight', 'body.1.weight', 'body.2.weight'), _fields, _entries),)
FOREIGN = (
  names.Foreign(
    'SRVGGNetCompact with ReLU or LeakyReLU, which cannot be told from each other; only PReLU is known here',
    lambda weights: {'body.0.weight', 'body.2.weight'} <= weights.keys() and 'body.1.weight' not in weights,
  ),
)

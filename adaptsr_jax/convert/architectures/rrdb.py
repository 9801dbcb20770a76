"""RRDBNet in three styles of key names: BasicSR (Real-ESRGAN, LDL), BSRGAN (RealSR, ESRGAN of 2019), old ESRGAN."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from adaptsr_jax.convert import names, shapes
from adaptsr_jax.errors import UserError


class _Style(NamedTuple):
  """Key names; `{}` stands for the number of a block, a dense block in it, a convolution in that, or a stage."""

  first: str
  dense: str
  body: str
  stage: str
  hr: str
  last: str


def _esrgan(blocks: int, stages: int) -> _Style:
  """Numbers in a row; those between hold upsamplers and activations. The last block is followed by the convolution."""
  hr, last = f'model.{3 * stages + 2}', f'model.{3 * stages + 4}'
  return _Style('model.0', 'model.1.sub.{}.RDB{}.conv{}.0', f'model.1.sub.{blocks}', 'model.{}', hr, last)


def with_model(weights: shapes.Weights) -> shapes.Weights:
  """Returns the weights of old ESRGAN with the `model.` that belongs to their names, which some programs take off."""
  if '1.sub.0.RDB1.conv1.0.weight' in weights:
    return {f'model.{key}': value for key, value in weights.items()}
  return weights


def _fields_of(style: Callable[[int, int], _Style], old: bool) -> Callable[[shapes.Weights], shapes.Found]:
  def fields(weights: shapes.Weights) -> shapes.Found:
    blocks = shapes.count(weights, style(0, 0).dense.format('{}', 1, 1) + '.weight')
    top = shapes.count(weights, 'model.{}.weight')  # of old files: first, stages, hr, last
    stages = top - 3 if old else shapes.count(weights, style(0, 0).stage + '.weight')
    if not 0 <= stages <= 3:
      raise UserError(f'The weights look like RRDBNet, but have {stages} doublings; there can be 0 to 3.')
    keys = style(blocks, stages)
    width, inputs = shapes.of(weights, f'{keys.first}.weight', 4)[:2]
    colours = shapes.of(weights, f'{keys.last}.weight', 4)[0]
    unshuffle = {4 * colours: 2, 16 * colours: 4}.get(inputs, 1)
    if 2**stages % unshuffle:
      raise UserError(f"'{keys.first}.weight' takes {inputs} channels, too many for {stages} doublings.")
    found = {
      'upscale': 2**stages // unshuffle,
      'num_feat': width,
      'num_block': blocks,
      'num_grow_ch': shapes.of(weights, keys.dense.format(0, 1, 1) + '.weight', 4)[0],
      'unshuffle': unshuffle,
      'num_in_ch': colours,
    }
    assumed = {'upscale': 'old networks for x3 have the same names and shapes'} if old and stages == 1 else {}
    return found, assumed

  return fields


def _entries_of(style: Callable[[int, int], _Style], old: bool) -> Callable[[Any], Iterator[names.Entry]]:
  def entries(model: Any) -> Iterator[names.Entry]:
    stages = (model.upscale * model.unshuffle).bit_length() - 1
    keys, width, grow = style(model.num_block, stages), model.num_feat, model.num_grow_ch
    yield from names.conv(keys.first, 'conv_first', model.num_in_ch * model.unshuffle**2, width)
    for i in range(model.num_block):
      for j in range(1, 4):
        for k in range(1, 6):
          path = f'body_{i}/rdb{j}/conv{k}'
          yield from names.conv(keys.dense.format(i, j, k), path, width + (k - 1) * grow, grow if k < 5 else width)
    yield from names.conv(keys.body, 'conv_body', width, width)
    for stage in range(1, stages + 1):
      yield from names.conv(keys.stage.format(3 * stage if old else stage), f'conv_up{stage}', width, width)
    yield from names.conv(keys.hr, 'conv_hr', width, width)
    yield from names.conv(keys.last, 'conv_last', width, model.num_in_ch)

  return entries


def _architecture(name: str, keys: tuple[str, ...], style: Callable[[int, int], _Style]) -> names.Architecture:
  old = style is _esrgan
  return names.Architecture(name, keys, _fields_of(style, old), _entries_of(style, old))


ARCHITECTURES = (
  _architecture(
    'rrdb',
    ('conv_first.weight', 'body.0.rdb1.conv1.weight', 'conv_body.weight', 'conv_last.weight'),
    lambda *_: _Style('conv_first', 'body.{}.rdb{}.conv{}', 'conv_body', 'conv_up{}', 'conv_hr', 'conv_last'),
  ),
  _architecture(
    'rrdb_bsrgan',
    ('conv_first.weight', 'RRDB_trunk.0.RDB1.conv1.weight', 'trunk_conv.weight', 'conv_last.weight'),
    lambda *_: _Style('conv_first', 'RRDB_trunk.{}.RDB{}.conv{}', 'trunk_conv', 'upconv{}', 'HRconv', 'conv_last'),
  ),
  _architecture('rrdb_esrgan', ('model.0.weight', 'model.1.sub.0.RDB1.conv1.0.weight'), _esrgan),
)
FOREIGN = (
  names.Foreign(
    'a discriminator (of Real-ESRGAN and its kin), which judges pictures and makes none; the generator is another file',
    lambda weights: {'conv0.weight', 'conv1.weight_orig'} <= weights.keys(),
  ),
  names.Foreign(
    'a discriminator (of ESRGAN), which judges pictures and makes none; the generator is another file',
    lambda weights: {'conv0_0.weight', 'linear1.weight'} <= weights.keys(),
  ),
  names.Foreign(
    'ESRGAN+, a variant of ESRGAN with 1x1 convolutions in its dense blocks, which is not known here',
    lambda weights: 'model.1.sub.0.RDB1.conv1x1.weight' in weights,
  ),
)

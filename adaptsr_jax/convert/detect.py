"""Tells from names and shapes which network a set of weights belongs to, and with which settings.

Each row of `FAMILIES` names keys that tell an architecture from the others, and a function that reads its settings from
shapes. What a file cannot tell (`res_scale` of EDSR) gets the value of the published networks and is listed as assumed.
Then every name and shape is checked against the table in `names`, so nothing is left over and nothing is missing.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from adaptsr_jax.convert import names
from adaptsr_jax.errors import UserError

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)
_POSITIONS = 'attn.relative_position_bias_table'
MEAN_SHIFT_TOLERANCE = 1e-3  # of the identity weights, and of the mean as a part of the range

Weights = Mapping[str, np.ndarray]
Found = tuple[dict[str, Any], dict[str, str]]  # fields, assumed


class Family(NamedTuple):
  """One architecture: model name, keys that tell it from the others, and what reads its fields."""

  name: str
  keys: tuple[str, ...]
  read: Callable[[Weights], Found]


def detect(weights: Weights) -> tuple[str, dict[str, Any], dict[str, str]]:
  """Returns model name, fields for `models.build`, and the assumed fields with the reason for each value.

  Args:
    weights: arrays by PyTorch key, wrappers and prefixes removed.

  Raises:
    UserError: no known architecture, or one with names or shapes that do not fit it.
  """
  for family in FAMILIES:
    if all(key in weights for key in family.keys):
      fields, assumed = family.read(weights)
      check(family.name, fields, {key: np.shape(value) for key, value in weights.items()})
      return family.name, fields, assumed
  some = ', '.join(list(weights)[:4])
  known = ', '.join(family.name for family in FAMILIES)
  raise UserError(f'The weights ({some}, ... {len(weights)} in all) are of no known architecture; known are {known}.')


def check(name: str, fields: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
  """Raises a UserError that names the first differences unless the keys and shapes are those of the network.

  Buffers may be absent, for they are computed.
  """
  expected = names.entries(name, fields)
  known = {entry.key for entry in expected}
  faults = [f"'{key}' is unknown" for key in shapes if key not in known]
  for entry in expected:
    if entry.key not in shapes and not entry.value:
      faults.append(f"'{entry.key}' {entry.shape} is missing")
    elif entry.key in shapes and tuple(shapes[entry.key]) != entry.shape:
      faults.append(f"'{entry.key}' is {tuple(shapes[entry.key])} instead of {entry.shape}")
  if faults:
    settings = ', '.join(f'{field}={value}' for field, value in fields.items())
    more = f'; and {len(faults) - 5} more' if len(faults) > 5 else ''
    raise UserError(f'The weights look like {name} ({settings}), but {"; ".join(faults[:5])}{more}.')


def _safmn(weights: Weights) -> Found:
  dim = _shape(weights, 'to_feat.weight', 4)[0]
  hidden = _shape(weights, 'feats.0.ccm.ccm.0.weight', 4)[0]
  out = _shape(weights, 'to_img.0.weight', 4)[0]
  upscale = math.isqrt(out // 3)
  if out != 3 * upscale**2:
    raise UserError(f"'to_img.0.weight' has {out} outputs, which are not 3 * upscale**2.")
  blocks = _count(weights, 'feats.{}.safm.aggr.weight')
  return {'upscale': upscale, 'dim': dim, 'n_blocks': blocks, 'ffn_scale': _factor((dim, hidden))}, {}


def _edsr(weights: Weights) -> Found:
  fields, assumed = _edsr_fields(weights, 'conv_first.weight', 'body.{}.conv1.weight', 'upsample.{}.weight')
  why = 'not stored under these key names; every published network has it'
  fields |= {'img_range': 255.0, 'rgb_mean': DIV2K_MEAN}
  return fields, assumed | {'img_range': why, 'rgb_mean': f'{why} (the mean of DIV2K)'}


def _edsr_official(weights: Weights) -> Found:
  fields, assumed = _edsr_fields(weights, 'head.0.weight', 'body.{}.body.0.weight', 'tail.0.{}.weight')
  if 'add_mean.bias' not in weights:
    why = 'the file has no add_mean; every published network has it'
    return fields | {'img_range': 255.0, 'rgb_mean': DIV2K_MEAN}, assumed | {'img_range': why, 'rgb_mean': why}
  img_range, rgb_mean, exact = _mean_shift(weights)
  if not exact:
    assumed['rgb_mean'] = 'the stored mean shifts differ from each other in the last digits; that of add_mean is taken'
  return fields | {'img_range': img_range, 'rgb_mean': rgb_mean}, assumed


def _edsr_fields(weights: Weights, first: str, block: str, stage: str) -> Found:
  """Reads what both key styles have; `{}` in a key stands for a number."""
  width, colours = _shape(weights, first, 4)[:2]
  if colours != 3:
    raise UserError(f"'{first}' takes {colours} colours; only networks for RGB pictures are known.")
  outputs = _shape(weights, stage.format(0), 4)[0]
  fields = {
    'upscale': 3 if outputs == 9 * width else 2 ** _count(weights, stage),
    'num_feat': width,
    'num_block': _count(weights, block),
    'res_scale': 0.1 if width == 256 else 1.0,
  }
  return fields, {'res_scale': 'not stored; published networks have 0.1 with 256 features and 1 with 64'}


def _swinir(weights: Weights) -> Found:
  block = 'layers.{}.residual_group.blocks.{}'
  groups = range(_count(weights, block.format('{}', 0) + '.norm1.weight'))
  tables = [_shape(weights, block.format(i, 0) + f'.{_POSITIONS}', 2) for i in groups]
  fields, assumed = _window_fields(weights, [block.format(0, 0)], odd='.blocks.1.')
  fields |= {
    'depths': tuple(_count(weights, block.format(i, '{}') + '.norm1.weight') for i in groups),
    'num_heads': tuple(heads for _, heads in tables),
    'resi_connection': '3conv' if 'conv_after_body.0.weight' in weights else '1conv',
  }
  if 'conv_before_upsample.0.weight' not in weights:
    if 'upsample.0.weight' not in weights:
      # Of those that restore at the same size, the ones against JPEG artefacts have windows of 7.
      img_range = 255.0 if fields['window_size'] == 7 else 1.0
      return fields | {'upsampler': '', 'upscale': 1, 'img_range': img_range}, assumed
    outputs = _shape(weights, 'upsample.0.weight', 4)[0]
    upscale = math.isqrt(outputs // len(fields['rgb_mean']))
    return fields | {'upsampler': 'pixelshuffledirect', 'upscale': upscale}, assumed
  if 'conv_up1.weight' not in weights:
    return fields | {'upsampler': 'pixelshuffle'} | _shuffle_fields(weights), assumed
  num_feat = _shape(weights, 'conv_before_upsample.0.weight', 4)[0]
  upscale = 2 ** _count(weights, 'conv_up{}.weight')
  return fields | {'upsampler': 'nearest+conv', 'upscale': upscale, 'num_feat': num_feat}, assumed


def _drct(weights: Weights) -> Found:
  groups = range(_count(weights, 'layers.{}.swin1.norm1.weight'))
  tables = [_shape(weights, f'layers.{i}.swin1.{_POSITIONS}', 2) for i in groups]
  fields, assumed = _window_fields(weights, [f'layers.0.swin{k}' for k in (1, 2, 3)], odd='.swin2.')
  fields |= {
    'gc': _shape(weights, 'layers.0.adjust1.weight', 4)[0],
    'num_heads': tuple(heads for _, heads in tables),
    'resi_connection': '1conv' if 'conv_after_body.weight' in weights else 'identity',
  }
  return fields | _shuffle_fields(weights), assumed


def _window_fields(weights: Weights, blocks: Sequence[str], odd: str) -> Found:
  """Reads what SwinIR and DRCT share.

  Args:
    weights: as for `detect`.
    blocks: the first block, and others whose MLPs have the same ratio at another width.
    odd: what is in the names of the blocks that may be shifted.
  """
  block = blocks[0]
  width, colours = _shape(weights, 'conv_first.weight', 4)[:2]
  window = (math.isqrt(_shape(weights, f'{block}.{_POSITIONS}', 2)[0]) + 1) // 2
  img_size, why = _img_size(weights, window, odd)
  assumed = {'img_size': why} if why else {}
  if img_size <= window:
    assumed['window_size'] = 'no window is shifted; that of the blocks is taken, and pictures may be extended to more'
  fields = {
    'embed_dim': width,
    'window_size': window,
    'mlp_ratio': _factor(*(_shape(weights, f'{other}.mlp.fc1.weight', 2)[::-1] for other in blocks)),
    'img_size': img_size,
    'img_range': 1.0,
    'rgb_mean': DIV2K_MEAN if colours == 3 else (0.0,) * colours,
    'qkv_bias': f'{block}.attn.qkv.bias' in weights,
    'qk_scale': None,
    'patch_norm': 'patch_embed.norm.weight' in weights,
    'ape': 'absolute_pos_embed' in weights,
  }
  return fields, assumed | {
    'img_range': 'not stored; published networks have 255 against JPEG artefacts (windows of 7 pixels, x1) and else 1',
    'rgb_mean': 'not stored; every published network has it (the mean of DIV2K, 0 for gray pictures)',
    'qk_scale': 'not stored; no published network sets it',
  }


def _img_size(weights: Weights, window: int, odd: str) -> tuple[int, str]:
  """Returns the side of the training pictures, which were square, and why it is an assumption ('' if it is none)."""
  if 'absolute_pos_embed' in weights:
    return math.isqrt(_shape(weights, 'absolute_pos_embed', 3)[1]), ''
  for key in weights:
    if key.endswith('.attn_mask'):
      return math.isqrt(_shape(weights, key, 3)[0]) * window, ''
  if any(odd in key and key.endswith('.relative_position_index') for key in weights):
    return window, ''  # The buffers are stored, and there are no masks among them: nothing is shifted.
  return max(2, 64 // window) * window, 'not stored; above one window, as here, it decides the stored masks only'


def _shuffle_fields(weights: Weights) -> dict[str, Any]:
  """Reads the head of pixel shuffles."""
  num_feat = _shape(weights, 'conv_before_upsample.0.weight', 4)[0]
  nine = _shape(weights, 'upsample.0.weight', 4)[0] == 9 * num_feat
  return {'upscale': 3 if nine else 2 ** _count(weights, 'upsample.{}.weight'), 'num_feat': num_feat}


def _mean_shift(weights: Weights) -> tuple[float, tuple[float, ...], bool]:
  """Returns img_range and rgb_mean of the frozen convolutions around the official EDSR, and whether they are exact.

  The mean is given in the fewest decimals that reproduce the stored numbers: 0.4488 rather than 0.44880000282.

  Raises:
    UserError: the convolutions do more than to shift a mean.
  """
  bias = weights['add_mean.bias']
  if np.shape(bias) != (3,) or not np.all(np.isfinite(np.float64(bias))):
    raise UserError(f"'add_mean.bias' should be three means, but has shape {np.shape(bias)} or is not finite.")
  img_range = 255.0 if np.max(np.float64(bias)) > 1 else 1.0
  rgb_mean = tuple(_decimal(value, img_range, known) for value, known in zip(bias, DIV2K_MEAN, strict=True))
  exact = True
  for entry in names.mean_shifts(img_range, rgb_mean):
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


def _factor(*sizes: tuple[int, int]) -> float:
  """Returns the shortest decimal f with int(width * f) == hidden for all (width, hidden), as the networks do."""
  least = max(hidden / width for width, hidden in sizes)
  for digits in range(1, 16):
    unit = 10**digits
    for candidate in (round(least, digits), (math.floor(least * unit) + 1) / unit):
      # And not just below the next number.
      if all(int(width * candidate) == int(width * candidate + 1e-6) == hidden for width, hidden in sizes):
        return candidate
  told = ', '.join(f'{hidden} of {width}' for width, hidden in sizes)
  raise UserError(f'The hidden layers have {told} channels, which no common factor gives.')


def _shape(weights: Weights, key: str, ndim: int) -> tuple[int, ...]:
  if key not in weights:
    raise UserError(f"'{key}' is missing from the weights.")
  shape = np.shape(weights[key])
  if len(shape) != ndim or 0 in shape:
    raise UserError(f"'{key}' has shape {shape} instead of {ndim} axes.")
  return shape


def _count(weights: Weights, key: str) -> int:
  """Returns how many keys there are like `key`, in which `{}` stands for a number."""
  pattern = re.escape(key).replace(r'\{\}', r'\d+')
  return sum(re.fullmatch(pattern, other) is not None for other in weights)


FAMILIES = (
  Family('safmn_ntire2023', ('norm.gamma', 'to_feat.weight', 'feats.0.safm.aggr.weight'), _safmn),
  Family('safmn', ('feats.0.norm1.weight', 'to_feat.weight', 'feats.0.safm.aggr.weight'), _safmn),
  Family('edsr_official', ('head.0.weight', 'body.0.body.0.weight', 'tail.1.weight'), _edsr_official),
  Family('drct', ('conv_first.weight', f'layers.0.swin1.{_POSITIONS}', 'layers.0.adjust1.weight'), _drct),
  Family('swinir', ('conv_first.weight', f'layers.0.residual_group.blocks.0.{_POSITIONS}', 'norm.weight'), _swinir),
  Family('edsr', ('conv_first.weight', 'body.0.conv1.weight', 'conv_after_body.weight'), _edsr),
)

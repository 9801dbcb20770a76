"""SAFMN of the paper and of the NTIRE 2023 challenge."""

import functools
import math
from collections.abc import Iterator
from typing import Any

from adaptsr_jax.convert import names, shapes
from adaptsr_jax.errors import UserError


def _fields(weights: shapes.Weights) -> shapes.Found:
  dim = shapes.of(weights, 'to_feat.weight', 4)[0]
  hidden = shapes.of(weights, 'feats.0.ccm.ccm.0.weight', 4)[0]
  out = shapes.of(weights, 'to_img.0.weight', 4)[0]
  upscale = math.isqrt(out // 3)
  if out != 3 * upscale**2:
    raise UserError(f"'to_img.0.weight' has {out} outputs, which are not 3 * upscale**2.")
  blocks = shapes.count(weights, 'feats.{}.safm.aggr.weight')
  return {'upscale': upscale, 'dim': dim, 'n_blocks': blocks, 'ffn_scale': shapes.factor((dim, hidden))}, {}


def _entries(model: Any, ntire2023: bool = False) -> Iterator[names.Entry]:
  """SAFMN of the paper; that of NTIRE 2023 has one response norm instead of LayerNorms, and no biases in its blocks."""
  dim, bias = model.dim, not ntire2023
  hidden = int(dim * model.ffn_scale + 1e-6)  # as the model rounds
  if ntire2023:
    yield names.Entry('norm.gamma', (1, dim, 1, 1), 'norm/gamma', 'channels')
    yield names.Entry('norm.beta', (1, dim, 1, 1), 'norm/beta', 'channels')
  yield from names.conv('to_feat', 'to_feat', 3, dim)
  for i in range(model.n_blocks):
    key, path = f'feats.{i}', f'feats_{i}'
    for norm in () if ntire2023 else ('norm1', 'norm2'):
      yield from names.layer_norm(f'{key}.{norm}', f'{path}/{norm}', dim)
    for level in range(4):
      yield from names.conv(f'{key}.safm.mfr.{level}', f'{path}/safm/mfr_{level}', 1, dim // 4, bias=bias)
    yield from names.conv(f'{key}.safm.aggr', f'{path}/safm/aggr', dim, dim, 1, bias)
    yield from names.conv(f'{key}.ccm.ccm.0', f'{path}/ccm/ccm_0', dim, hidden, 3, bias)
    yield from names.conv(f'{key}.ccm.ccm.2', f'{path}/ccm/ccm_2', hidden, dim, 1, bias)
  yield from names.conv('to_img.0', 'to_img_0', dim, 3 * model.upscale**2)


def takes_plain(weights: shapes.Weights) -> bool:
  """Tells whether the published programs take the plain weights ('params') although averaged ones are there, too.

  The x4 file of real photographs, SAFMN_L_Real_LSDIR_x4, is the one that has both.
  """
  last = weights.get('to_img.0.weight')
  return 'feats.0.norm1.weight' in weights and last is not None and last.shape[0] == 3 * 4**2


_COMMON = 'to_feat.weight', 'feats.0.safm.aggr.weight'
ARCHITECTURES = (
  names.Architecture('safmn_ntire2023', ('norm.gamma', *_COMMON), _fields, functools.partial(_entries, ntire2023=True)),
  names.Architecture('safmn', ('feats.0.norm1.weight', *_COMMON), _fields, _entries),
)
FOREIGN = (
  names.Foreign(
    'SAFMN_BCIE, a network against JPEG artefacts that is not known here',
    lambda weights: {'to_feat.1.weight', 'to_img.2.weight'} <= weights.keys(),
  ),
)

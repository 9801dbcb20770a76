"""What SwinIR and DRCT share."""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from adaptsr_jax.convert import names, shapes

POSITIONS = 'attn.relative_position_bias_table'


def fields_of(weights: shapes.Weights, blocks: Sequence[str], odd: str) -> shapes.Found:
  """Reads what SwinIR and DRCT share.

  Args:
    weights: as for `detect`.
    blocks: the first block, and others whose MLPs have the same ratio at another width.
    odd: what is in the names of the blocks that may be shifted.
  """
  block = blocks[0]
  width, colours = shapes.of(weights, 'conv_first.weight', 4)[:2]
  window = (math.isqrt(shapes.of(weights, f'{block}.{POSITIONS}', 2)[0]) + 1) // 2
  img_size, why = _img_size(weights, window, odd)
  assumed = {'img_size': why} if why else {}
  if img_size <= window:
    assumed['window_size'] = 'no window is shifted; that of the blocks is taken, and pictures may be extended to more'
  fields = {
    'embed_dim': width,
    'window_size': window,
    'mlp_ratio': shapes.factor(*(shapes.of(weights, f'{other}.mlp.fc1.weight', 2)[::-1] for other in blocks)),
    'img_size': img_size,
    'img_range': 1.0,
    'rgb_mean': shapes.DIV2K_MEAN if colours == 3 else (0.0,) * colours,
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


def _img_size(weights: shapes.Weights, window: int, odd: str) -> tuple[int, str]:
  """Returns the side of the training pictures, which were square, and why it is an assumption ('' if it is none)."""
  if 'absolute_pos_embed' in weights:
    return math.isqrt(shapes.of(weights, 'absolute_pos_embed', 3)[1]), ''
  for key in weights:
    if key.endswith('.attn_mask'):
      return math.isqrt(shapes.of(weights, key, 3)[0]) * window, ''
  if any(odd in key and key.endswith('.relative_position_index') for key in weights):
    return window, ''  # The buffers are stored, and there are no masks among them: nothing is shifted.
  return max(2, 64 // window) * window, 'not stored; above one window, as here, it decides the stored masks only'


def shuffle_fields(weights: shapes.Weights) -> dict[str, Any]:
  """Reads the head of pixel shuffles."""
  num_feat = shapes.of(weights, 'conv_before_upsample.0.weight', 4)[0]
  nine = shapes.of(weights, 'upsample.0.weight', 4)[0] == 9 * num_feat
  return {'upscale': 3 if nine else 2 ** shapes.count(weights, 'upsample.{}.weight'), 'num_feat': num_feat}


def embedding(model: Any) -> Iterator[names.Entry]:
  width = model.embed_dim
  if model.ape:
    yield names.Entry('absolute_pos_embed', (1, model.img_size**2, width), 'absolute_pos_embed', 'vector')
  yield from names.conv('conv_first', 'conv_first', len(model.rgb_mean), width)
  if model.patch_norm:
    yield from names.layer_norm('patch_embed.norm', 'patch_embed/norm', width)


def swin_block(
  model: Any, key: str, path: str, width: int, heads: int, hidden: int, shift: int
) -> Iterator[names.Entry]:
  """A block of attention and MLP; what follows from sizes alone, its mask and its index of positions, are buffers."""
  from adaptsr_jax.models import attention, window

  side, _ = window.geometry(model)
  pixels = side**2
  if shift:
    shape = ((model.img_size // side) ** 2, pixels, pixels)
    mask = functools.partial(attention.mask, model.img_size, side, shift)
    yield names.Entry(f'{key}.attn_mask', shape, '', 'constant', mask)
  yield from names.layer_norm(f'{key}.norm1', f'{path}/norm1', width)
  table, index = 'relative_position_bias_table', functools.partial(attention.position_index, side)
  yield names.Entry(f'{key}.attn.{table}', ((2 * side - 1) ** 2, heads), f'{path}/attn/{table}', 'vector')
  yield names.Entry(f'{key}.attn.relative_position_index', (pixels, pixels), '', 'constant', index)
  yield from names.dense(f'{key}.attn.qkv', f'{path}/attn/qkv', width, 3 * width, model.qkv_bias)
  yield from names.dense(f'{key}.attn.proj', f'{path}/attn/proj', width, width)
  yield from names.layer_norm(f'{key}.norm2', f'{path}/norm2', width)
  yield from names.dense(f'{key}.mlp.fc1', f'{path}/mlp/fc1', width, hidden)
  yield from names.dense(f'{key}.mlp.fc2', f'{path}/mlp/fc2', hidden, width)


def shuffle_head(model: Any) -> Iterator[names.Entry]:
  from adaptsr_jax.models import window

  width = model.num_feat
  yield from names.conv('conv_before_upsample.0', 'conv_before_upsample_0', model.embed_dim, width)
  for stage, factor in enumerate(window.STAGES[model.upscale]):
    yield from names.conv(f'upsample.{2 * stage}', f'upsample_{2 * stage}', width, width * factor**2)
  yield from names.conv('conv_last', 'conv_last', width, len(model.rgb_mean))

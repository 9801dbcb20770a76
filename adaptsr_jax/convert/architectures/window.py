"""What SwinIR and DRCT share."""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from adaptsr_jax.convert import names, shapes
from adaptsr_jax.errors import UserError

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
  if (img_size if isinstance(img_size, int) else min(img_size)) <= window:
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


def _img_size(weights: shapes.Weights, window: int, odd: str) -> tuple[int | tuple[int, int], str]:
  """Returns the side of the training pictures, or (height, width), and why it is an assumption ('' if it is none)."""
  for key in weights:
    if key.endswith('.attn_mask'):
      return _masked_size(weights[key], shapes.of(weights, key, 3)[0], window), ''
  if 'absolute_pos_embed' in weights:
    pixels = shapes.of(weights, 'absolute_pos_embed', 3)[1]
    side = math.isqrt(pixels)
    if side**2 != pixels:
      raise UserError(
        f"'absolute_pos_embed' has {pixels} positions, of pictures that are not square, and without shifted windows "
        'nothing tells their height and width: such a network is not read.'
      )
    return side, 'of the positions only the number is stored; square pictures are taken'
  if any(odd in key and key.endswith('.relative_position_index') for key in weights):
    return window, ''  # The buffers are stored, and there are no masks among them: nothing is shifted.
  return max(2, 64 // window) * window, 'not stored; above one window, as here, it decides the stored masks only'


def _masked_size(mask: Any, count: int, window: int) -> int | tuple[int, int]:
  """Returns the size of the pictures that `count` windows cut, with the mask of their last rows and columns."""
  from adaptsr_jax.models import attention

  sizes = [(rows * window, count // rows * window) for rows in range(1, count + 1) if count % rows == 0]
  for size in sizes:
    if np.array_equal(np.asarray(mask, np.float32), attention.mask(size, window, window // 2)):
      return size if size[0] != size[1] else size[0]
  return math.isqrt(count) * window


def shuffle_fields(weights: shapes.Weights) -> dict[str, Any]:
  """Reads the head of pixel shuffles."""
  num_feat = shapes.of(weights, 'conv_before_upsample.0.weight', 4)[0]
  return {'upscale': shuffled(weights, 'upsample.{}.weight', num_feat), 'num_feat': num_feat}


def shuffled(weights: shapes.Weights, stage: str, width: int) -> int:
  """Returns the upscale of pixel shuffles behind convolutions of `width` channels, `stage` with {} for their places."""
  first = stage.format(0)
  if first not in weights:
    return 1
  return 3 if shapes.of(weights, first, 4)[0] == 9 * width else 2 ** shapes.count(weights, stage)


def embedding(model: Any) -> Iterator[names.Entry]:
  width = model.embed_dim
  if model.ape:
    from adaptsr_jax.models.window import sides

    yield names.Entry('absolute_pos_embed', (1, math.prod(sides(model)), width), 'absolute_pos_embed', 'vector')
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
    size = window.sides(model)
    shape = (math.prod(size) // pixels, pixels, pixels)
    mask = functools.partial(attention.mask, size, side, shift)
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
  from adaptsr_jax.models import layers

  width = model.num_feat
  yield from names.conv('conv_before_upsample.0', 'conv_before_upsample_0', model.embed_dim, width)
  for stage, factor in enumerate(layers.shuffles(model.upscale)):
    yield from names.conv(f'upsample.{2 * stage}', f'upsample_{2 * stage}', width, width * factor**2)
  yield from names.conv('conv_last', 'conv_last', width, len(model.rgb_mean))

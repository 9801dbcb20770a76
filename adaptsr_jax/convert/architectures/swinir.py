"""SwinIR, in all its variants."""

import math
from collections.abc import Iterator
from typing import Any

from adaptsr_jax.convert import names, shapes
from adaptsr_jax.convert.architectures import window


def _fields(weights: shapes.Weights) -> shapes.Found:
  block = 'layers.{}.residual_group.blocks.{}'
  groups = range(shapes.count(weights, block.format('{}', 0) + '.norm1.weight'))
  tables = [shapes.of(weights, block.format(i, 0) + f'.{window.POSITIONS}', 2) for i in groups]
  fields, assumed = window.fields_of(weights, [block.format(0, 0)], odd='.blocks.1.')
  fields |= {
    'depths': tuple(shapes.count(weights, block.format(i, '{}') + '.norm1.weight') for i in groups),
    'num_heads': tuple(heads for _, heads in tables),
    'resi_connection': '3conv' if 'conv_after_body.0.weight' in weights else '1conv',
  }
  if 'conv_before_upsample.0.weight' not in weights:
    if 'upsample.0.weight' not in weights:
      # Of those that restore at the same size, the ones against JPEG artefacts have windows of 7.
      img_range = 255.0 if fields['window_size'] == 7 else 1.0
      return fields | {'upsampler': '', 'upscale': 1, 'img_range': img_range}, assumed
    outputs = shapes.of(weights, 'upsample.0.weight', 4)[0]
    upscale = math.isqrt(outputs // len(fields['rgb_mean']))
    return fields | {'upsampler': 'pixelshuffledirect', 'upscale': upscale}, assumed
  if 'conv_up1.weight' not in weights:
    return fields | {'upsampler': 'pixelshuffle'} | window.shuffle_fields(weights), assumed
  num_feat = shapes.of(weights, 'conv_before_upsample.0.weight', 4)[0]
  upscale = 2 ** shapes.count(weights, 'conv_up{}.weight')
  return fields | {'upsampler': 'nearest+conv', 'upscale': upscale, 'num_feat': num_feat}, assumed


def _entries(model: Any) -> Iterator[names.Entry]:
  from adaptsr_jax.models.window import geometry

  width = model.embed_dim
  _, shift = geometry(model)
  hidden = int(width * model.mlp_ratio + 1e-6)
  yield from window.embedding(model)
  for i, (depth, heads) in enumerate(zip(model.depths, model.num_heads, strict=True)):
    for j in range(depth):
      key, path = f'layers.{i}.residual_group.blocks.{j}', f'layers_{i}/blocks_{j}'
      yield from window.swin_block(model, key, path, width, heads, hidden, shift if j % 2 else 0)
    yield from _residual_conv(f'layers.{i}.conv', f'layers_{i}/conv', width, model.resi_connection)
  yield from names.layer_norm('norm', 'norm', width)
  yield from _residual_conv('conv_after_body', 'conv_after_body', width, model.resi_connection)
  if model.upsampler == 'pixelshuffle':
    yield from window.shuffle_head(model)
  elif model.upsampler == 'pixelshuffledirect':
    yield from names.conv('upsample.0', 'upsample_0', width, len(model.rgb_mean) * model.upscale**2)
  elif model.upsampler == 'nearest+conv':
    yield from names.conv('conv_before_upsample.0', 'conv_before_upsample_0', width, model.num_feat)
    for key in ('conv_up1', *(('conv_up2',) if model.upscale == 4 else ()), 'conv_hr'):
      yield from names.conv(key, key, model.num_feat, model.num_feat)
    yield from names.conv('conv_last', 'conv_last', model.num_feat, len(model.rgb_mean))
  else:
    yield from names.conv('conv_last', 'conv_last', width, len(model.rgb_mean))


def _residual_conv(key: str, path: str, width: int, resi_connection: str) -> Iterator[names.Entry]:
  if resi_connection == '1conv':
    yield from names.conv(key, path, width, width)
    return
  narrow = width // 4
  for i, sizes in ((0, (width, narrow, 3)), (2, (narrow, narrow, 1)), (4, (narrow, width, 3))):
    yield from names.conv(f'{key}.{i}', f'{path}_{i}', *sizes)


ARCHITECTURES = (
  names.Architecture(
    'swinir',
    ('conv_first.weight', f'layers.0.residual_group.blocks.0.{window.POSITIONS}', 'norm.weight'),
    _fields,
    _entries,
  ),
)

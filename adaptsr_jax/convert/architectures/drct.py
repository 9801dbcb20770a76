"""DRCT."""

from collections.abc import Iterator
from typing import Any

from adaptsr_jax.convert import names, shapes
from adaptsr_jax.convert.architectures import window


def _fields(weights: shapes.Weights) -> shapes.Found:
  groups = range(shapes.count(weights, 'layers.{}.swin1.norm1.weight'))
  tables = [shapes.of(weights, f'layers.{i}.swin1.{window.POSITIONS}', 2) for i in groups]
  fields, assumed = window.fields_of(weights, [f'layers.0.swin{k}' for k in (1, 2, 3)], odd='.swin2.')
  fields |= {
    'gc': shapes.of(weights, 'layers.0.adjust1.weight', 4)[0],
    'num_heads': tuple(heads for _, heads in tables),
    'resi_connection': '1conv' if 'conv_after_body.weight' in weights else 'identity',
  }
  return fields | window.shuffle_fields(weights), assumed


def _entries(model: Any) -> Iterator[names.Entry]:
  from adaptsr_jax.models.window import geometry

  _, shift = geometry(model)
  yield from window.embedding(model)
  for i, first_heads in enumerate(model.num_heads):
    blocks = zip(model.widths, model.heads_of(first_heads), model.hidden, strict=True)
    for k, (width, heads, hidden) in enumerate(blocks, 1):
      key, path = f'layers.{i}.swin{k}', f'layers_{i}/swin{k}'
      yield from window.swin_block(model, key, path, width, heads, hidden, 0 if k % 2 else shift)
      out = model.embed_dim if k == len(model.widths) else model.gc
      yield from names.conv(f'layers.{i}.adjust{k}', f'layers_{i}/adjust{k}', width, out, 1)
  yield from names.layer_norm('norm', 'norm', model.embed_dim)
  if model.resi_connection == '1conv':
    yield from names.conv('conv_after_body', 'conv_after_body', model.embed_dim, model.embed_dim)
  yield from window.shuffle_head(model)


ARCHITECTURES = (
  names.Architecture(
    'drct', ('conv_first.weight', f'layers.0.swin1.{window.POSITIONS}', 'layers.0.adjust1.weight'), _fields, _entries
  ),
)

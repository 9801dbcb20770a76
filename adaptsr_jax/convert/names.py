"""One table for both directions: which tensor of a PyTorch file is which Flax parameter.

`entries(name, fields)` lists every tensor of a network in the order of its PyTorch `state_dict`, with shape, Flax path
and kind; the kind says how the numbers are laid out on each side (`KINDS`). Buffers, which are computed and not
learned, have no Flax path but a function that computes them. A further architecture is a function here, a row in
`TABLES` and a row in `detect.FAMILIES`.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np


class Entry(NamedTuple):
  """One tensor.

  Attributes:
    key: PyTorch name.
    shape: in PyTorch.
    path: 'a/b/kernel' among the Flax parameters; '' for a buffer.
    kind: key of `KINDS`.
    value: for a buffer, what computes it: in float32, or in the type of the file where the kind is 'constant'.
  """

  key: str
  shape: tuple[int, ...]
  path: str
  kind: str
  value: Callable[[], np.ndarray] | None = None


class Kind(NamedTuple):
  to_flax: Callable[[np.ndarray], np.ndarray]
  to_torch: Callable[[np.ndarray], np.ndarray]


KINDS = {
  'conv': Kind(lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1)),  # OIHW <-> HWIO, depthwise too
  'dense': Kind(np.transpose, np.transpose),  # (out, in) <-> (in, out)
  'vector': Kind(lambda v: v, lambda v: v),  # biases, LayerNorm, tables of positions
  'channels': Kind(lambda v: v.reshape(-1), lambda v: v.reshape(1, -1, 1, 1)),  # (1, C, 1, 1) <-> (C,)
  'constant': Kind(lambda v: v, lambda v: v),  # a buffer that keeps its own type, whatever that of the parameters
}


def entries(name: str, fields: Mapping[str, Any]) -> tuple[Entry, ...]:
  """Returns the tensors of the network `name` with these fields, in the order of its `state_dict`.

  Raises:
    UserError: no such network, or no such field.
  """
  from adaptsr_jax import models

  return tuple(TABLES[name](models.build(name, **fields)))


def flax_shape(entry: Entry) -> tuple[int, ...]:
  """Returns the shape that the tensor has among the Flax parameters."""
  return KINDS[entry.kind].to_flax(np.broadcast_to(np.float32(0), entry.shape)).shape


def _conv(key: str, path: str, cin: int, cout: int, size: int = 3, bias: bool = True) -> Iterator[Entry]:
  """A convolution; `cin` counts the inputs of one group: 1 for a depthwise one."""
  yield Entry(f'{key}.weight', (cout, cin, size, size), f'{path}/kernel', 'conv')
  if bias:
    yield Entry(f'{key}.bias', (cout,), f'{path}/bias', 'vector')


def _dense(key: str, path: str, cin: int, cout: int, bias: bool = True) -> Iterator[Entry]:
  yield Entry(f'{key}.weight', (cout, cin), f'{path}/kernel', 'dense')
  if bias:
    yield Entry(f'{key}.bias', (cout,), f'{path}/bias', 'vector')


def _layer_norm(key: str, path: str, width: int) -> Iterator[Entry]:
  yield Entry(f'{key}.weight', (width,), f'{path}/scale', 'vector')
  yield Entry(f'{key}.bias', (width,), f'{path}/bias', 'vector')


def _safmn(model: Any, ntire2023: bool = False) -> Iterator[Entry]:
  """SAFMN of the paper; that of NTIRE 2023 has one response norm instead of LayerNorms, and no biases in its blocks."""
  dim, bias = model.dim, not ntire2023
  hidden = _hidden(model)
  if ntire2023:
    yield Entry('norm.gamma', (1, dim, 1, 1), 'norm/gamma', 'channels')
    yield Entry('norm.beta', (1, dim, 1, 1), 'norm/beta', 'channels')
  yield from _conv('to_feat', 'to_feat', 3, dim)
  for i in range(model.n_blocks):
    key, path = f'feats.{i}', f'feats_{i}'
    if not ntire2023:
      yield from _layer_norm(f'{key}.norm1', f'{path}/norm1', dim)
    for level in range(4):
      yield from _conv(f'{key}.safm.mfr.{level}', f'{path}/safm/mfr_{level}', 1, dim // 4, bias=bias)
    yield from _conv(f'{key}.safm.aggr', f'{path}/safm/aggr', dim, dim, 1, bias)
    if not ntire2023:
      yield from _layer_norm(f'{key}.norm2', f'{path}/norm2', dim)
    yield from _conv(f'{key}.ccm.ccm.0', f'{path}/ccm/ccm_0', dim, hidden, 3, bias)
    yield from _conv(f'{key}.ccm.ccm.2', f'{path}/ccm/ccm_2', hidden, dim, 1, bias)
  yield from _conv('to_img.0', 'to_img_0', dim, 3 * model.upscale**2)


def _hidden(model: Any) -> int:
  return int(model.dim * model.ffn_scale + 1e-6)  # as the model rounds


def _safmn_ntire2023(model: Any) -> Iterator[Entry]:
  return _safmn(model, ntire2023=True)


def _edsr(model: Any) -> Iterator[Entry]:
  keys = {'first': 'conv_first', 'conv1': 'body.{}.conv1', 'conv2': 'body.{}.conv2', 'after': 'conv_after_body'}
  return _edsr_convs(model, {**keys, 'upsample': 'upsample.{}', 'last': 'conv_last'})


def _edsr_official(model: Any) -> Iterator[Entry]:
  keys = {'first': 'head.0', 'conv1': 'body.{}.body.0', 'conv2': 'body.{}.body.2', 'after': 'body.{}'}
  yield from mean_shifts(model.img_range, model.rgb_mean)
  yield from _edsr_convs(model, {**keys, 'upsample': 'tail.0.{}', 'last': 'tail.1'})


def _edsr_convs(model: Any, keys: Mapping[str, str]) -> Iterator[Entry]:
  """The convolutions of EDSR, under the names that `keys` gives to its parts."""
  width, colours = model.num_feat, model.num_in_ch
  yield from _conv(keys['first'], 'conv_first', colours, width)
  for i in range(model.num_block):
    yield from _conv(keys['conv1'].format(i), f'body_{i}/conv1', width, width)
    yield from _conv(keys['conv2'].format(i), f'body_{i}/conv2', width, width)
  yield from _conv(keys['after'].format(model.num_block), 'conv_after_body', width, width)
  factors = (3,) if model.upscale == 3 else (2,) * (model.upscale.bit_length() - 1)
  for stage, factor in enumerate(factors):
    yield from _conv(keys['upsample'].format(2 * stage), f'upsample_{2 * stage}', width, width * factor**2)
  yield from _conv(keys['last'], 'conv_last', width, colours)


def mean_shifts(img_range: float, rgb_mean: tuple[float, ...]) -> Iterator[Entry]:
  """The frozen 1x1 convolutions that take the mean off and put it on again.

  Weights are the identity, biases -/+ img_range * rgb_mean, multiplied in float32 as PyTorch does.
  """
  colours = len(rgb_mean)
  identity = np.eye(colours, dtype=np.float32).reshape(colours, colours, 1, 1)
  shift = np.float32(img_range) * np.array(rgb_mean, np.float32)
  for key, bias in (('sub_mean', -shift), ('add_mean', shift)):
    yield Entry(f'{key}.weight', identity.shape, '', 'conv', lambda: identity)
    yield Entry(f'{key}.bias', bias.shape, '', 'vector', lambda bias=bias: bias)


def _swinir(model: Any) -> Iterator[Entry]:
  from adaptsr_jax.models import window

  width = model.embed_dim
  _, shift = window.geometry(model)
  hidden = int(width * model.mlp_ratio + 1e-6)
  yield from _embedding(model)
  for i, (depth, heads) in enumerate(zip(model.depths, model.num_heads, strict=True)):
    for j in range(depth):
      key, path = f'layers.{i}.residual_group.blocks.{j}', f'layers_{i}/blocks_{j}'
      yield from _swin_block(model, key, path, width, heads, hidden, shift if j % 2 else 0)
    yield from _residual_conv(f'layers.{i}.conv', f'layers_{i}/conv', width, model.resi_connection)
  yield from _layer_norm('norm', 'norm', width)
  yield from _residual_conv('conv_after_body', 'conv_after_body', width, model.resi_connection)
  if model.upsampler == 'pixelshuffle':
    yield from _shuffle_head(model)
  elif model.upsampler == 'pixelshuffledirect':
    yield from _conv('upsample.0', 'upsample_0', width, len(model.rgb_mean) * model.upscale**2)
  elif model.upsampler == 'nearest+conv':
    yield from _conv('conv_before_upsample.0', 'conv_before_upsample_0', width, model.num_feat)
    for key in ('conv_up1', *(('conv_up2',) if model.upscale == 4 else ()), 'conv_hr'):
      yield from _conv(key, key, model.num_feat, model.num_feat)
    yield from _conv('conv_last', 'conv_last', model.num_feat, len(model.rgb_mean))
  else:
    yield from _conv('conv_last', 'conv_last', width, len(model.rgb_mean))


def _drct(model: Any) -> Iterator[Entry]:
  from adaptsr_jax.models import window

  _, shift = window.geometry(model)
  yield from _embedding(model)
  for i, first_heads in enumerate(model.num_heads):
    blocks = zip(model.widths, model.heads_of(first_heads), model.hidden, strict=True)
    for k, (width, heads, hidden) in enumerate(blocks, 1):
      key, path = f'layers.{i}.swin{k}', f'layers_{i}/swin{k}'
      yield from _swin_block(model, key, path, width, heads, hidden, 0 if k % 2 else shift)
      out = model.embed_dim if k == len(model.widths) else model.gc
      yield from _conv(f'layers.{i}.adjust{k}', f'layers_{i}/adjust{k}', width, out, 1)
  yield from _layer_norm('norm', 'norm', model.embed_dim)
  if model.resi_connection == '1conv':
    yield from _conv('conv_after_body', 'conv_after_body', model.embed_dim, model.embed_dim)
  yield from _shuffle_head(model)


def _embedding(model: Any) -> Iterator[Entry]:
  width = model.embed_dim
  if model.ape:
    yield Entry('absolute_pos_embed', (1, model.img_size**2, width), 'absolute_pos_embed', 'vector')
  yield from _conv('conv_first', 'conv_first', len(model.rgb_mean), width)
  if model.patch_norm:
    yield from _layer_norm('patch_embed.norm', 'patch_embed/norm', width)


def _swin_block(model: Any, key: str, path: str, width: int, heads: int, hidden: int, shift: int) -> Iterator[Entry]:
  """A block of attention and MLP; what follows from sizes alone, its mask and its index of positions, are buffers."""
  from adaptsr_jax.models import attention, window

  side, _ = window.geometry(model)
  pixels = side**2
  if shift:
    shape = ((model.img_size // side) ** 2, pixels, pixels)
    mask = functools.partial(attention.mask, model.img_size, side, shift)
    yield Entry(f'{key}.attn_mask', shape, '', 'constant', mask)
  yield from _layer_norm(f'{key}.norm1', f'{path}/norm1', width)
  table, index = 'relative_position_bias_table', functools.partial(attention.position_index, side)
  yield Entry(f'{key}.attn.{table}', ((2 * side - 1) ** 2, heads), f'{path}/attn/{table}', 'vector')
  yield Entry(f'{key}.attn.relative_position_index', (pixels, pixels), '', 'constant', index)
  yield from _dense(f'{key}.attn.qkv', f'{path}/attn/qkv', width, 3 * width, model.qkv_bias)
  yield from _dense(f'{key}.attn.proj', f'{path}/attn/proj', width, width)
  yield from _layer_norm(f'{key}.norm2', f'{path}/norm2', width)
  yield from _dense(f'{key}.mlp.fc1', f'{path}/mlp/fc1', width, hidden)
  yield from _dense(f'{key}.mlp.fc2', f'{path}/mlp/fc2', hidden, width)


def _residual_conv(key: str, path: str, width: int, resi_connection: str) -> Iterator[Entry]:
  if resi_connection == '1conv':
    yield from _conv(key, path, width, width)
    return
  narrow = width // 4
  for i, sizes in ((0, (width, narrow, 3)), (2, (narrow, narrow, 1)), (4, (narrow, width, 3))):
    yield from _conv(f'{key}.{i}', f'{path}_{i}', *sizes)


def _shuffle_head(model: Any) -> Iterator[Entry]:
  from adaptsr_jax.models import window

  width = model.num_feat
  yield from _conv('conv_before_upsample.0', 'conv_before_upsample_0', model.embed_dim, width)
  for stage, factor in enumerate(window.STAGES[model.upscale]):
    yield from _conv(f'upsample.{2 * stage}', f'upsample_{2 * stage}', width, width * factor**2)
  yield from _conv('conv_last', 'conv_last', width, len(model.rgb_mean))


TABLES: dict[str, Callable[[Any], Iterator[Entry]]] = {
  'safmn': _safmn,
  'safmn_ntire2023': _safmn_ntire2023,
  'edsr': _edsr,
  'edsr_official': _edsr_official,
  'swinir': _swinir,
  'drct': _drct,
}

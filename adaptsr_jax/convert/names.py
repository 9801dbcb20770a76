"""One table for both directions: which tensor of a PyTorch file is which Flax parameter.

`entries(name, fields)` lists every tensor of a network in the order of its PyTorch `state_dict`, with shape, Flax path
and kind; the kind says how the numbers are laid out on each side (`KINDS`). Buffers, which are computed and not
learned, have no Flax path but a function that computes them. A further architecture is a function here, a row in
`TABLES` and a row in `detect.FAMILIES`.
"""

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
    value: for a buffer, what computes it in float32.
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
  'vector': Kind(lambda v: v, lambda v: v),  # biases and LayerNorm
  'channels': Kind(lambda v: v.reshape(-1), lambda v: v.reshape(1, -1, 1, 1)),  # (1, C, 1, 1) <-> (C,)
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


TABLES: dict[str, Callable[[Any], Iterator[Entry]]] = {
  'safmn': _safmn,
  'safmn_ntire2023': _safmn_ntire2023,
  'edsr': _edsr,
  'edsr_official': _edsr_official,
}

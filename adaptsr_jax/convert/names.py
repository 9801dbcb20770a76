"""What the tables of `architectures` are made of: which tensor of a PyTorch file is which Flax parameter.

The kind of an entry says how its numbers are laid out on each side (`KINDS`). Buffers, which are computed and not
learned, have no Flax path but a function that computes them.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from adaptsr_jax.convert import shapes


class Architecture(NamedTuple):
  """One network in one style of key names.

  Attributes:
    name: key of `models.MODELS`.
    keys: PyTorch names that tell it from the others.
    fields: (weights) -> fields for `models.build`, and the assumed ones among them with the reason for each value.
    entries: (model) -> every tensor, in the order of the PyTorch `state_dict`.
  """

  name: str
  keys: tuple[str, ...]
  fields: Callable[[shapes.Weights], shapes.Found]
  entries: Callable[[Any], 'Iterator[Entry]']


class Foreign(NamedTuple):
  """Weights that are told from those of known networks only to be refused by name."""

  what: str
  found: Callable[[shapes.Weights], bool]


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
  'experts': Kind(lambda w: w.transpose(0, 3, 4, 2, 1), lambda w: w.transpose(0, 4, 3, 1, 2)),  # KOIHW <-> KHWIO
  'dense': Kind(np.transpose, np.transpose),  # (out, in) <-> (in, out)
  'vector': Kind(lambda v: v, lambda v: v),  # biases, LayerNorm, tables of positions
  'channels': Kind(lambda v: v.reshape(-1), lambda v: v.reshape(1, -1, 1, 1)),  # (1, C, 1, 1) <-> (C,)
  'constant': Kind(lambda v: v, lambda v: v),  # a buffer that keeps its own type, whatever that of the parameters
}


def flax_shape(entry: Entry) -> tuple[int, ...]:
  """Returns the shape that the tensor has among the Flax parameters."""
  return KINDS[entry.kind].to_flax(np.broadcast_to(np.float32(0), entry.shape)).shape


def conv(key: str, path: str, cin: int, cout: int, size: int = 3, bias: bool = True) -> Iterator[Entry]:
  """A convolution; `cin` counts the inputs of one group: 1 for a depthwise one."""
  yield Entry(f'{key}.weight', (cout, cin, size, size), f'{path}/kernel', 'conv')
  if bias:
    yield Entry(f'{key}.bias', (cout,), f'{path}/bias', 'vector')


def dense(key: str, path: str, cin: int, cout: int, bias: bool = True) -> Iterator[Entry]:
  yield Entry(f'{key}.weight', (cout, cin), f'{path}/kernel', 'dense')
  if bias:
    yield Entry(f'{key}.bias', (cout,), f'{path}/bias', 'vector')


def layer_norm(key: str, path: str, width: int) -> Iterator[Entry]:
  yield Entry(f'{key}.weight', (width,), f'{path}/scale', 'vector')
  yield Entry(f'{key}.bias', (width,), f'{path}/bias', 'vector')

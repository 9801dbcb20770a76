"""Published weights: PyTorch files to Flax parameters and back, exactly.

    source = convert.read_source('SAFMN_DF2K_x2.pth')           # weights by PyTorch key, and how the file was laid out
    name, fields, assumed = convert.detect(source.weights)      # 'safmn', {'upscale': 2, 'dim': 36, ...}, {}
    params = convert.to_flax(name, source.weights)
    convert.write('adapted.pth', convert.to_torch(name, fields, params), source.layout)

No PyTorch is needed, and nothing that a file holds is executed.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from adaptsr_jax.convert import architectures, names, parts
from adaptsr_jax.convert.detect import detect
from adaptsr_jax.convert.source import Source, read, read_source, write
from adaptsr_jax.errors import UserError

# What needs jax (tree, models) is imported where it is used: the help of the command comes at once.

__all__ = ['Source', 'detect', 'parts', 'read', 'read_source', 'to_flax', 'to_torch', 'write']


def to_flax(name: str, weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Returns Flax parameters (numpy, in the types of the file) of weights by PyTorch key; buffers are left out.

  Raises:
    UserError: the weights are not those of the network `name`.
  """
  from adaptsr_jax import tree

  found, fields, _ = detect(weights)
  if found != name:
    raise UserError(f'The weights are of {found}, not of {name}.')
  weights = architectures.rrdb.with_model(weights)
  return tree.unflatten({
    entry.path: np.ascontiguousarray(names.KINDS[entry.kind].to_flax(weights[entry.key]))
    for entry in architectures.entries(name, fields)
    if entry.path
  })  # fmt: skip


def to_torch(name: str, fields: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Returns weights by PyTorch key, in the order of the network's `state_dict`, in the types of the parameters.

  Buffers are computed, in the type of the first parameter of the network unless they have one of their own.

  Raises:
    UserError: the parameters are not those of the network `name` with these fields.
  """
  from adaptsr_jax import tree

  entries = architectures.entries(name, fields)
  expected = {entry.path: np.broadcast_to(np.float32(0), names.flax_shape(entry)) for entry in entries if entry.path}
  if faults := tree.compare(tree.unflatten(expected), params):
    more = f' and {len(faults) - 5} more' if len(faults) > 5 else ''
    raise UserError(f'The parameters are not those of {name}:{";".join(faults[:5])}{more}.')
  flat = {path: np.asarray(leaf) for path, leaf in tree.flatten(params).items()}
  dtype = next(flat[entry.path].dtype for entry in entries if entry.path)
  return {
    entry.key: _buffer(entry, dtype)
    if entry.value
    else np.ascontiguousarray(names.KINDS[entry.kind].to_torch(flat[entry.path]))
    for entry in entries
  }


def _buffer(entry: names.Entry, dtype: np.dtype) -> np.ndarray:
  value = entry.value()
  return value.copy() if entry.kind == 'constant' else value.astype(dtype)

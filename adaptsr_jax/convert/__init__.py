"""Published weights: PyTorch files to Flax parameters and back, exactly.

    source = convert.read_source('SAFMN_DF2K_x2.pth')           # weights by PyTorch key, and how the file was laid out
    name, fields, assumed = convert.detect(source.weights)      # 'safmn', {'upscale': 2, 'dim': 36, ...}, {}
    params = convert.to_flax(name, source.weights)
    convert.write('adapted.pth', convert.to_torch(name, fields, params), source.layout)

No PyTorch is needed, and nothing that a file holds is executed.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from adaptsr_jax import tree
from adaptsr_jax.convert import architectures, names, parts
from adaptsr_jax.convert.detect import detect
from adaptsr_jax.convert.source import Source, read, read_source, write
from adaptsr_jax.convert.torchfile import ORIGIN, faults
from adaptsr_jax.errors import UserError, some


def to_flax(name: str, weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Returns Flax parameters (numpy, in the types of the file) of weights by PyTorch key; buffers are left out.

  Raises:
    UserError: the weights are not those of the network `name`.
  """
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
  entries = architectures.entries(name, fields)
  expected = {entry.path: np.broadcast_to(np.float32(0), names.flax_shape(entry)) for entry in entries if entry.path}
  if difference := tree.compare(tree.unflatten(expected), params):
    raise UserError(f'The parameters are not those of {name}:{some(difference, 5, ";")}.')
  flat = {path: np.asarray(leaf) for path, leaf in tree.flatten(params).items()}
  dtype = next(flat[entry.path].dtype for entry in entries if entry.path)
  return {
    entry.key: np.array(entry.value(), None if entry.kind == 'constant' else dtype)
    if entry.value
    else np.ascontiguousarray(names.KINDS[entry.kind].to_torch(flat[entry.path]))
    for entry in entries
  }


def learned(name: str, fields: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the weights that are learned, without buffers, by PyTorch key."""
  return {entry.key: weights[entry.key] for entry in architectures.entries(name, fields) if entry.path}


def types(name: str, fields: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Returns what a layout notes of the types of a file's tensors, for `cast`.

  Returns:
    'dtype': that of most learned tensors; 'dtypes': those that differ from it, by Flax path, or by key for buffers
    (which differ where it is not int64 or float32 either).
  """
  entries = [entry for entry in architectures.entries(name, fields) if entry.key in weights]
  found = {entry: weights[entry.key].dtype.name for entry in entries}
  ((usual, _),) = Counter(found[entry] for entry in entries if entry.path).most_common(1)
  differing = {
    entry.path or entry.key: dtype
    for entry, dtype in found.items()
    if dtype != usual and (entry.kind != 'constant' or dtype not in ('int64', 'float32'))
  }
  constants = {entry.key: usual for entry, dtype in found.items() if entry.kind == 'constant' and dtype == usual}
  return {'dtype': usual, 'dtypes': differing | (constants if usual != 'float32' else {})}


def cast(
  name: str, fields: Mapping[str, Any], weights: Mapping[str, Any], layout: Mapping[str, Any], dtype: str | None = None
) -> dict[str, np.ndarray]:
  """Returns weights of `to_torch` in the types that `types` found in a file, or all learned ones in `dtype`."""
  dtypes = {} if dtype else layout.get('dtypes', {})
  usual = dtype or layout.get('dtype') or 'float32'
  wanted = {
    entry.key: dtypes.get(entry.path or entry.key, weights[entry.key].dtype if entry.kind == 'constant' else usual)
    for entry in architectures.entries(name, fields)
  }
  with np.errstate(over='ignore'):
    return {key: np.asarray(array).astype(wanted[key], copy=False) for key, array in weights.items()}

"""Reads and writes .safetensors: an int64 header length, a JSON header, then the raw tensors, little-endian.

The library `safetensors` has no bfloat16 for numpy and writes metadata in an order that changes from call to call, so
both sides of this simple format are written out here.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import ml_dtypes
import numpy as np

from adaptsr_jax.errors import UserError, shown

MAX_HEADER = 100_000_000  # bytes, as in the format's own reader
MAX_AXES = 64  # as in numpy

_DTYPES = {
  **{f'{kind.upper()}{8 * size}': np.dtype(f'<{kind}{size}') for kind in 'iu' for size in (8, 4, 2, 1)},
  **{f'F{8 * size}': np.dtype(f'<f{size}') for size in (8, 4, 2)},
  'BF16': np.dtype(ml_dtypes.bfloat16),
  'F8_E4M3': np.dtype(ml_dtypes.float8_e4m3fn),
  'F8_E5M2': np.dtype(ml_dtypes.float8_e5m2),
  'BOOL': np.dtype('?'),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def load(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Returns the tensors of a file in the order of its header, and its metadata.

  Raises:
    UserError: the file is not there, is damaged, or holds a type that is not known here.
  """
  try:
    data = memoryview(Path(path).read_bytes())
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror}.') from error
  length = int.from_bytes(data[:8], 'little')
  if len(data) < 8 or length > min(MAX_HEADER, len(data) - 8):
    raise UserError(f'{path} is not a safetensors file, or is cut short: its header of {length} bytes is not there.')
  try:
    header = json.loads(bytes(data[8 : 8 + length]))
    metadata = {str(key): str(value) for key, value in header.pop('__metadata__', {}).items()}
    content = data[8 + length :]
    return {name: _tensor(content, **entry) for name, entry in header.items()}, metadata
  except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
    reason = shown(error, 200) or type(error).__name__
    raise UserError(f'{path} has a damaged safetensors header or is cut short ({reason}).') from error


def _tensor(content: memoryview, dtype: str, shape: list[int], data_offsets: list[int]) -> np.ndarray:
  start, stop = data_offsets
  if dtype not in _DTYPES:
    raise ValueError(f'type {shown(dtype)} is not known')
  if len(shape) > MAX_AXES or not all(isinstance(n, int) and 0 <= n < 2**63 for n in shape):
    raise ValueError('a shape is not a list of a few sizes')
  size = math.prod(shape) * _DTYPES[dtype].itemsize
  if not 0 <= start <= stop <= len(content) or stop - start != size:
    raise ValueError(f'{shown(size)} bytes are not at {shown(data_offsets)}')
  return np.frombuffer(content[start:stop], _DTYPES[dtype]).reshape(shape).copy()


def save(file: BinaryIO, weights: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
  """Writes tensors, widest type first and then by name, so that each is aligned; same tensors, same bytes.

  Raises:
    UserError: an array has a type that the format has no name for.
  """
  order = sorted(weights, key=lambda name: (-weights[name].dtype.itemsize, name))
  header: dict[str, object] = {'__metadata__': dict(sorted(metadata.items()))} if metadata else {}
  start = 0
  for name in order:
    array = weights[name]
    if array.dtype not in _NAMES:
      raise UserError(f'A .safetensors file cannot hold {array.dtype.name}.')
    header[name] = {
      'dtype': _NAMES[array.dtype],
      'shape': list(array.shape),
      'data_offsets': [start, start + array.nbytes],
    }
    start += array.nbytes
  text = json.dumps(header, separators=(',', ':'), ensure_ascii=False).encode()
  text += b' ' * (-len(text) % 8)
  file.write(len(text).to_bytes(8, 'little') + text)
  for name in order:
    file.write(weights[name].tobytes())

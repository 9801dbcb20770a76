"""What the pickles of PyTorch files may speak of: tensors, storages, and a fixed list of names."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

MAX_EXPANDED = 2**24  # elements of a tensor that is larger than its storage (stride 0)


class Refused(Exception):
  """The pickle holds something that is not plain data; the text says what."""


class Storage:
  """A run of elements of one type that tensors look into; `data` is filled in by the reader of the container."""

  def __init__(self, key: str, dtype: np.dtype, count: int):
    self.key, self.dtype, self.count = key, dtype, count
    self.data: memoryview | None = None
    self.swapped = False  # the bytes are big-endian

  @property
  def nbytes(self) -> int:
    return self.count * self.dtype.itemsize


class StorageView(NamedTuple):
  """A part of a storage, as files before 2018 have them."""

  root: Storage
  start: int


class Tensor(NamedTuple):
  """A tensor of the file; offset and strides count elements of `dtype`."""

  storage: Storage
  dtype: np.dtype
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]

  def numpy(self) -> np.ndarray:
    """Returns the tensor as a contiguous array of its own.

    Raises:
      ValueError: shape, strides or offset do not fit the storage.
    """
    count, step = math.prod(self.shape), self.dtype.itemsize
    if min((self.offset, *self.shape, *self.strides)) < 0:
      raise ValueError('a tensor has a negative offset, size or stride')
    if count * step > self.storage.nbytes and count > MAX_EXPANDED:
      raise ValueError(f'a tensor of {count} elements is larger than its storage')
    if count == 0:
      return np.zeros(self.shape, self.dtype)
    strides = tuple(step * s for s in self.strides)
    view = np.ndarray(self.shape, self.dtype, self.storage.data, self.offset * step, strides)
    array = np.array(view, order='C')
    return array.byteswap(inplace=True) if self.storage.swapped else array


class Opaque:
  """Stands for a harmless object that is of no use here (a hook, a device, a setting of the training run)."""


class StorageType(NamedTuple):
  dtype: np.dtype


def _rebuild_tensor(storage, offset, size, stride, *_) -> Tensor:
  root, start = storage if isinstance(storage, StorageView) else (storage, 0)
  if not isinstance(root, Storage):
    raise Refused('it holds a tensor without a storage')
  if not all(isinstance(number, int) for number in (start, offset, *size, *stride)):
    raise Refused('it holds a tensor with an offset, size or stride that is not an integer')
  return Tensor(root, root.dtype, start + offset, tuple(size), tuple(stride))


def _rebuild_typed_tensor(storage, offset, size, stride, _grad, _hooks, dtype, *_) -> Tensor:
  """Types that have no storage class of their own lie in a storage of bytes."""
  if not isinstance(dtype, np.dtype):
    raise Refused('it holds a tensor of a type that is not known here')
  return _rebuild_tensor(storage, offset, size, stride)._replace(dtype=dtype)


def _rebuild_parameter(data, *_) -> Tensor:
  return data


def _rebuild_from_type(function, _type, arguments, _state) -> Any:
  return call(function, arguments)


def plain_dict(pairs: Any = ()) -> dict:
  """Returns a dict of pairs, or a copy of a dict.

  Raises:
    Refused: a key is neither text nor number; the hash of a tuple of tuples of tuples can take for ever.
  """
  pairs = list(pairs.items() if isinstance(pairs, dict) else pairs)
  if not all(isinstance(key, str | bytes | int | float | None) for key, _ in pairs):
    raise Refused('it has a dict with a key that is neither text nor number')
  return dict(pairs)


def _default_dict(_factory: Any = None, pairs: Any = ()) -> dict:
  return plain_dict(pairs)


_FUNCTIONS: dict[str, Callable] = {
  'collections.OrderedDict': plain_dict,
  'collections.Counter': plain_dict,
  'collections.defaultdict': _default_dict,
  'torch.Size': tuple,
  'torch._utils._rebuild_tensor': _rebuild_tensor,
  'torch._utils._rebuild_tensor_v2': _rebuild_tensor,
  'torch._utils._rebuild_tensor_v3': _rebuild_typed_tensor,
  'torch._utils._rebuild_parameter': _rebuild_parameter,
  'torch._utils._rebuild_parameter_with_state': _rebuild_parameter,
  'torch._tensor._rebuild_from_type_v2': _rebuild_from_type,
}

_DTYPES = {
  'float64': 'f8',
  'float32': 'f4',
  'float16': 'f2',
  'bfloat16': ml_dtypes.bfloat16,
  'int64': 'i8',
  'int32': 'i4',
  'int16': 'i2',
  'int8': 'i1',
  'uint8': 'u1',
  'uint16': 'u2',
  'uint32': 'u4',
  'uint64': 'u8',
  'bool': '?',
  'complex64': 'c8',
  'complex128': 'c16',
  'float8_e4m3fn': ml_dtypes.float8_e4m3fn,
  'float8_e5m2': ml_dtypes.float8_e5m2,
}

STORAGE_CLASSES = {
  'DoubleStorage': 'float64',
  'FloatStorage': 'float32',
  'HalfStorage': 'float16',
  'BFloat16Storage': 'bfloat16',
  'LongStorage': 'int64',
  'IntStorage': 'int32',
  'ShortStorage': 'int16',
  'CharStorage': 'int8',
  'ByteStorage': 'uint8',
  'BoolStorage': 'bool',
  'ComplexFloatStorage': 'complex64',
  'ComplexDoubleStorage': 'complex128',
}

_NAMES: dict[str, Any] = {
  **_FUNCTIONS,
  **{f'torch.{name}': np.dtype(code) for name, code in _DTYPES.items()},
  **{f'torch.{name}': StorageType(np.dtype(_DTYPES[dtype])) for name, dtype in STORAGE_CLASSES.items()},
  **{f'torch.cuda.{name}': StorageType(np.dtype(_DTYPES[dtype])) for name, dtype in STORAGE_CLASSES.items()},
  **{f'torch.{name}': StorageType(np.dtype('u1')) for name in ('UntypedStorage', 'storage.UntypedStorage')},
  **{f'torch.{name}': StorageType(np.dtype('u1')) for name in ('_UntypedStorage', 'storage._UntypedStorage')},
}

# Records that training programs leave beside the weights. They are skipped: calling them yields an `Opaque`.
_SKIPPED = frozenset({
  'torch.device',
  'torch.Tensor',
  'torch.nn.parameter.Parameter',
  'numpy.dtype',
  'numpy.ndarray',
  'numpy.core.multiarray.scalar',
  'numpy.core.multiarray._reconstruct',
  'numpy._core.multiarray.scalar',
  'numpy._core.multiarray._reconstruct',
  '_codecs.encode',
  'argparse.Namespace',
  'pathlib.PosixPath',
  'pathlib.WindowsPath',
  'pathlib.PurePosixPath',
  'datetime.datetime',
  'copyreg._reconstructor',
  'copy_reg._reconstructor',
  *(f'builtins.{name}' for name in ('object', 'int', 'float', 'set', 'list', 'dict')),
  *(f'__builtin__.{name}' for name in ('object', 'int', 'float', 'set', 'list', 'dict')),  # protocol 2 and before
})  # fmt: skip


def find(name: str) -> Any:
  """Returns what a pickle means by a name 'module.attribute'; raises Refused unless it is on the list."""
  if name in _SKIPPED:
    return Opaque()
  if name not in _NAMES:
    raise Refused(f"it names '{name}', which is not on the list of what a weight file may hold, and was not executed")
  return _NAMES[name]


def call(function: Any, arguments: Any) -> Any:
  """Returns what a call in a pickle makes; only functions of the list are ever called."""
  if isinstance(function, Opaque):
    return Opaque()
  if not any(function is allowed for allowed in _FUNCTIONS.values()):
    raise Refused('it calls something that is not a function')
  return function(*arguments)

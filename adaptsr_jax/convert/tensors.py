"""What the pickles of PyTorch files may speak of: tensors, storages, and names.

Names of tensors and containers have a meaning here. Names of other classes stand for objects that are of no use and
stay opaque: they are neither imported nor made. What only a program would name (`os.system`, `builtins.eval`), or would
call, ends the reading, although it would not be run either.
"""

import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401 (numpy then knows its types by name)
import numpy as np

from adaptsr_jax.errors import shown

MAX_EXPANDED = 2**24  # elements of a tensor that is larger than its storage (stride 0)
MAX_AXES = 64  # as in numpy


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
    numbers = (self.offset, *self.shape, *self.strides)
    if len(numbers) > 1 + 2 * MAX_AXES or not all(0 <= number < 2**63 for number in numbers):
      raise ValueError('a tensor has an offset, size or stride that is negative or beyond all bounds')
    count, step = math.prod(self.shape), self.dtype.itemsize
    if count * step > self.storage.nbytes and count > MAX_EXPANDED:
      raise ValueError(f'a tensor of {shown(count)} elements is larger than its storage')
    if count == 0:
      return np.zeros(self.shape, self.dtype)
    strides = tuple(step * s for s in self.strides)
    view = np.ndarray(self.shape, self.dtype, self.storage.data, self.offset * step, strides)
    array = np.array(view, order='C')
    return array.byteswap(inplace=True) if self.storage.swapped else array


class Name(NamedTuple):
  """A class or function by name that has no meaning here."""

  text: str  # 'module.attribute'


class Opaque:
  """Stands for an object that is of no use here (a hook, a device, a setting of the training run).

  Attributes:
    kind: name of its class; '' where it is not known.
    items: what lies in it, if it is a dict.
    is_model: it is a `torch.nn.Module`.
  """

  def __init__(self, kind: str = ''):
    self.kind = kind
    self.items: dict = {}
    self.is_model = False

  def build(self, state: Any) -> None:
    """Takes note of what the state, which pickle would set, tells of the object."""
    parts = state if isinstance(state, tuple) else (state,)
    self.is_model |= any(isinstance(part, dict) and {'_parameters', '_modules'} <= part.keys() for part in parts)


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


_PLAIN = str | bytes | int | float | complex | None | Name | Opaque | np.dtype


def plain_dict(pairs: Any = ()) -> dict:
  """Returns a dict of pairs, or a copy of a dict.

  Raises:
    Refused: a key is neither plain nor a tuple of what is plain; the hash of tuples in tuples can take for ever.
  """
  pairs = list(pairs.items() if isinstance(pairs, dict) else pairs)
  for key, _ in pairs:
    if not all(isinstance(part, _PLAIN) for part in (key if isinstance(key, tuple) else (key,))):
      raise Refused('it has a dict with a key that is neither text nor number')
  return dict(pairs)


_FUNCTIONS: dict[str, Callable] = {
  'collections.OrderedDict': plain_dict,
  'collections.Counter': plain_dict,
  'collections.defaultdict': lambda _factory=None, pairs=(): plain_dict(pairs),
  'torch.Size': tuple,
  'torch._utils._rebuild_tensor': _rebuild_tensor,
  'torch._utils._rebuild_tensor_v2': _rebuild_tensor,
  'torch._utils._rebuild_tensor_v3': _rebuild_typed_tensor,
  'torch._utils._rebuild_qtensor': _rebuild_tensor,
  'torch._utils._rebuild_parameter': lambda data, *_: data,
  'torch._utils._rebuild_parameter_with_state': lambda data, *_: data,
  'torch._tensor._rebuild_from_type_v2': lambda function, _type, arguments, _state: call(function, arguments),
}

_DTYPES = {
  name: np.dtype(name)
  for name in (
    *('float64', 'float32', 'float16', 'bfloat16', 'float8_e4m3fn', 'float8_e5m2', 'complex64', 'complex128', 'bool'),
    *('int64', 'int32', 'int16', 'int8', 'uint8', 'uint16', 'uint32', 'uint64'),
  )
}
# Of quantised ones the numbers are of no use without their scales.
_DTYPES |= {'quint8': np.dtype('uint8'), 'qint8': np.dtype('int8'), 'qint32': np.dtype('int32')}

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
_QUANTISED = {'QUInt8Storage': 'quint8', 'QInt8Storage': 'qint8', 'QInt32Storage': 'qint32'}

_NAMES: dict[str, Any] = {
  **_FUNCTIONS,
  **{f'torch.{name}': dtype for name, dtype in _DTYPES.items()},
  **{
    f'{module}.{name}': StorageType(_DTYPES[dtype])
    for module in ('torch', 'torch.cuda')
    for name, dtype in (STORAGE_CLASSES | _QUANTISED).items()
  },
  **{f'torch.{name}': StorageType(np.dtype('u1')) for name in ('UntypedStorage', 'storage.UntypedStorage')},
  **{f'torch.{name}': StorageType(np.dtype('u1')) for name in ('_UntypedStorage', 'storage._UntypedStorage')},
}

# Functions, and classes in small letters, that only make records which training programs leave beside the weights.
_HARMLESS = frozenset({
  'torch.device',
  # Tensors without numbers of their own, or of a layout that no weight has.
  *(f'torch._utils._rebuild_{name}' for name in ('sparse_tensor', 'sparse_csr_tensor', 'nested_tensor')),
  *(f'torch._utils._rebuild_{name}' for name in ('meta_tensor_no_storage', 'wrapper_subclass')),
  'torch.serialization._get_layout',
  'torch.Generator',
  'numpy.dtype',
  'numpy.ndarray',
  *(f'numpy.{core}.multiarray.{name}' for core in ('core', '_core') for name in ('scalar', '_reconstruct')),
  *(f'numpy.{core}.numeric._frombuffer' for core in ('core', '_core')),
  *(f'numpy.random._pickle.__{name}_ctor' for name in ('randomstate', 'generator', 'bit_generator')),
  'numpy.random.bit_generator.__pyx_unpickle_SeedSequence',
  '_codecs.encode',
  'argparse.Namespace',
  'types.SimpleNamespace',
  'functools.partial',
  *(f'collections.{name}' for name in ('deque', 'ChainMap', 'UserDict', 'UserList', 'UserString')),
  'time.struct_time',
  'array.array',
  'array._array_reconstructor',
  'logging.getLogger',
  'random.Random',
  're._compile',
  'zoneinfo.ZoneInfo._unpickle',
  'copyreg._reconstructor',
  'copyreg.__newobj__',
  'copy_reg._reconstructor',
  *(f'datetime.{name}' for name in ('date', 'time', 'datetime', 'timedelta', 'timezone')),
  *(f'operator.{name}' for name in ('itemgetter', 'attrgetter')),
  *(
    f'{module}.{name}'
    for module in ('builtins', '__builtin__')  # the second up to protocol 2
    for name in (
      'object', 'int', 'float', 'complex', 'bool', 'str', 'bytes', 'bytearray', 'set', 'frozenset', 'list', 'tuple',
      'dict', 'slice', 'range', 'type', 'xrange', 'long', 'unicode', 'Ellipsis', 'NotImplemented',
    )
  ),
})  # fmt: skip
_HARMLESS_MODULES = frozenset(
  {'typing', 'datetime', 'decimal', 'fractions', 'uuid', 'pathlib', 'enum', 'abc', 'ipaddress'}
)
_GETATTR = ('builtins.getattr', '__builtin__.getattr')  # what Python 3.11 writes for members of an enum
_SYSTEM = sys.stdlib_module_names | {'__builtin__', 'commands', 'copy_reg', 'nt', 'posix'}


def find(name: str) -> Any:
  """Returns what a pickle means by a name 'module.attribute'.

  Raises:
    Refused: it is something of Python itself that makes no data.
  """
  if name in _NAMES:
    return _NAMES[name]
  module = name.split('.')[0]
  if module in _SYSTEM and name not in _HARMLESS and name not in _GETATTR and module not in _HARMLESS_MODULES:
    raise Refused(_not_listed(name, 'names'))
  return Name(name)


def call(function: Any, arguments: Any) -> Any:
  """Returns what a call in a pickle makes: only functions of the list are called, an instance of a class is opaque.

  Raises:
    Refused: it is a function that is not on the list.
  """
  if isinstance(function, Name):
    return _made(function.text, arguments)
  if isinstance(function, Opaque):
    return Opaque()
  if not any(function is allowed for allowed in _FUNCTIONS.values()):
    raise Refused('it calls something that is not a function')
  return function(*arguments)


def instance(kind: Any, arguments: Any) -> Any:
  """Returns what `kind.__new__(kind, ...)` would make: an opaque object of every class that is not known."""
  return Opaque(kind.text) if isinstance(kind, Name) else call(kind, arguments)


def _made(name: str, arguments: Any) -> Any:
  first = arguments[0] if isinstance(arguments, tuple) and arguments else None
  if name in _GETATTR and isinstance(first, Name | Opaque) and isinstance(arguments[1], str):
    return Name(f'{first.text}.{arguments[1]}') if isinstance(first, Name) else Opaque()
  if name.endswith(('._reconstructor', '.__newobj__')):
    return Opaque(first.text) if isinstance(first, Name) else Opaque()
  is_class = name.rpartition('.')[2].lstrip('_')[:1].isupper()
  if name in _HARMLESS or (is_class and name not in _GETATTR):
    return Opaque(name)
  raise Refused(_not_listed(name, 'would call'))


def _not_listed(name: str, does: str) -> str:
  return f"it {does} '{shown(name)}', which is not on the list of what a weight file may hold, and was not executed"

"""Reads and writes the files of `torch.save` with numpy alone.

Two formats are read. The zip format (PyTorch 1.6 and later): uncompressed entries NAME/data.pkl, NAME/data/KEY (one
storage each), NAME/byteorder, NAME/version. The stream format before it (the files of EDSR, for one): five pickles in a
row (magic number, protocol, system, value, storage keys), then each storage as an int64 count and its raw elements. The
zip format is written, in a form that `torch.load(weights_only=True)` accepts; the same tensors give the same bytes.
"""

import contextlib
import io
import mmap
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from adaptsr_jax.convert import tensors, unpickle
from adaptsr_jax.errors import UserError, shown

MAGIC = 0x1950A86A20F9469CFC6C
ALIGNMENT = 64  # of storages in the file, so that they can be mapped into memory
ORIGIN = 'adaptsr_jax'  # what merged networks tell of themselves, in JSON: readers of PyTorch pass over the record
MAX_ORIGIN = 65536  # bytes of that record

_STORAGE_CLASS = {dtype: name for name, dtype in tensors.STORAGE_CLASSES.items()}


def load(path: str | Path) -> Any:
  """Returns the value that was saved, with `tensors.Tensor` for tensors (call `.numpy()` for the array).

  Raises:
    UserError: the file is no PyTorch file, is damaged, or names something other than plain data.
  """
  path = Path(path)
  with faults(path), open(path, 'rb') as file:
    head = file.read(512)
    kind = sniff(head)
    if kind not in ('zip', 'pickle'):
      raise UserError(f'{path} is {kind}, not a weight file that can be read.')
    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return _load_zip(path, data) if kind == 'zip' else _load_stream(path, data)


def extra(path: str | Path) -> dict[str, str]:
  """Returns {ORIGIN: JSON} of a file that has such a record beside its weights, {} of any other."""
  if not zipfile.is_zipfile(path):
    return {}
  with zipfile.ZipFile(path) as archive:
    names = [name for name in archive.namelist() if name.split('/')[1:] == ['extra', f'{ORIGIN}.json']]
    small = names and archive.getinfo(names[0]).file_size < MAX_ORIGIN
    return {ORIGIN: archive.read(names[0]).decode(errors='replace')} if small else {}


def sniff(head: bytes) -> str:
  """Tells from the first 512 bytes what a file is: 'zip', 'pickle', 'safetensors', or words for anything else."""
  text = head.lstrip().lower()
  if not head:
    return 'an empty file'
  if head[8:9] == b'{' and 2 <= int.from_bytes(head[:8], 'little') < 2**40:
    return 'safetensors'
  if head.startswith(b'PK\x03\x04'):
    return 'zip'
  if head[257:262] == b'ustar':
    return 'a tar archive (the format of PyTorch before 0.2: load and save it again with a newer PyTorch)'
  if head.startswith(b'\x1f\x8b'):
    return 'compressed by gzip (unpack it first)'
  if head[0] == 0x80 and len(head) > 1 and head[1] <= 5:
    return 'pickle'
  if text.startswith((b'<!doctype', b'<html', b'<?xml', b'<head', b'<body')):
    return 'a web page (the download link led to a page, not to the file)'
  if text.startswith(b'version https://git-lfs'):
    return 'a Git LFS pointer (fetch the real file with `git lfs pull`)'
  return f'not of a known format (it begins with {bytes(head[:8])!r})'


@contextlib.contextmanager
def faults(path: Path):
  """Turns whatever a foreign or damaged file sets off into one sentence that names the file."""
  try:
    yield
  except UserError:
    raise
  except FileNotFoundError:
    raise UserError(f'{path} does not exist.') from None
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror or error}.') from error
  except tensors.Refused as error:
    raise UserError(f'{path} was refused: {error}.') from error
  except Exception as error:  # a damaged pickle or directory can raise nearly anything
    raise UserError(f'{path} is damaged or cut short ({shown(error, 200) or type(error).__name__}).') from error


def _load_zip(path: Path, data: mmap.mmap) -> Any:
  with zipfile.ZipFile(path) as archive:
    entries = {info.filename: info for info in archive.infolist()}
  roots = [name.removesuffix('data.pkl') for name in entries if name.split('/')[1:] == ['data.pkl']]
  if not roots:
    inner = next((name for name in entries if name.endswith(('.pth', '.pt', '.ckpt', '.safetensors'))), '')
    advice = f'; unpack it, and give {shown(inner)}' if inner else ''
    raise UserError(f'{path} is a zip archive without data.pkl: not written by torch.save{advice}.')
  root = roots[0]
  if f'{root}constants.pkl' in entries:
    raise UserError(f'{path} is a TorchScript program: save the state_dict of its model with torch.save instead.')
  value, storages = unpickle.load(io.BytesIO(_record(data, entries[f'{root}data.pkl'])))
  order = entries.get(f'{root}byteorder')
  swapped = order is not None and bytes(_record(data, order)).strip() == b'big'
  for key, storage in storages.items():
    if f'{root}data/{key}' not in entries:
      raise ValueError(f'the entry data/{shown(key)} is missing')
    storage.data, storage.swapped = _record(data, entries[f'{root}data/{key}']), swapped
    if len(storage.data) < storage.nbytes:
      raise ValueError(f'the entry data/{shown(key)} has {len(storage.data)} of {storage.nbytes} bytes')
  return value


def _record(data: mmap.mmap, info: zipfile.ZipInfo) -> memoryview:
  """Returns the bytes of an entry where they lie; PyTorch can be told to write no checksum, which is then 0."""
  if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
    raise ValueError(f'the entry {shown(info.filename)} is compressed or encrypted, which torch.save does not do')
  signature, name_length, extra_length = struct.unpack_from('<4s22xHH', data, info.header_offset)
  start = info.header_offset + 30 + name_length + extra_length
  if signature != b'PK\x03\x04' or start + info.file_size > len(data):
    raise ValueError(f'the entry {shown(info.filename)} does not lie in the file')
  content = memoryview(data)[start : start + info.file_size]
  if info.CRC not in (0, zlib.crc32(content)):
    raise ValueError(f'the entry {shown(info.filename)} does not have its checksum')
  return content


def _load_stream(path: Path, data: mmap.mmap) -> Any:
  if unpickle.load(data)[0] != MAGIC:
    raise UserError(f'{path} is a pickle, but not of torch.save.')
  unpickle.load(data)  # protocol
  unpickle.load(data)  # system: storages are little-endian whatever it says
  value, storages = unpickle.load(data)
  keys, _ = unpickle.load(data)
  start = data.tell()
  for key in keys:
    storage = storages[key]
    (count,) = struct.unpack_from('<q', data, start)
    if count != storage.count:
      raise ValueError(f'the storage {shown(key)} has {count} elements instead of {storage.count}')
    end = start + 8 + storage.nbytes
    storage.data, start = memoryview(data)[start + 8 : end], end
  for key, storage in storages.items():
    if storage.data is None or len(storage.data) < storage.nbytes:
      raise ValueError(f'the storage {shown(key)} is not all there')
  return value


def save(file: BinaryIO, tree: Mapping[str, Any], extra: Mapping[str, str] | None = None) -> None:
  """Writes a dict of arrays, or a dict of such dicts, as a zip file of `torch.save`; `extra` as that function has it.

  Dicts of arrays become OrderedDicts. An array that occurs twice is stored once.

  Raises:
    UserError: an array has a type that PyTorch has no storage for.
  """
  arrays: dict[int, np.ndarray] = {}
  pickle = b'\x80\x02' + _pickled(tree, arrays) + b'.'
  with zipfile.ZipFile(file, 'w') as archive:
    _entry(archive, file, 'data.pkl', pickle)
    _entry(archive, file, 'byteorder', b'little')
    for key, array in enumerate(arrays.values()):
      little = array.astype(array.dtype.newbyteorder('<')) if array.dtype.kind in 'iufc' else array
      _entry(archive, file, f'data/{key}', little.tobytes())
    _entry(archive, file, 'version', b'3\n')
    for name, text in (extra or {}).items():
      _entry(archive, file, f'extra/{name}.json', text.encode())


def _entry(archive: zipfile.ZipFile, file: BinaryIO, name: str, content: bytes) -> None:
  """Adds an entry whose content starts at a multiple of `ALIGNMENT`; date and system are fixed."""
  info = zipfile.ZipInfo(f'archive/{name}', (1980, 1, 1, 0, 0, 0))
  info.create_system, info.external_attr = 0, 0
  unpadded = file.tell() + 30 + len(info.filename) + 4
  padding = -unpadded % ALIGNMENT
  info.extra = struct.pack('<2sH', b'FB', padding) + b'Z' * padding
  archive.writestr(info, content)


def _pickled(value: Any, arrays: dict[int, np.ndarray]) -> bytes:
  """Returns the opcodes (protocol 2) that build `value`, and enters its arrays in order of appearance."""
  if not isinstance(value, Mapping):
    return _pickled_tensor(value, arrays)
  nested = any(isinstance(item, Mapping) for item in value.values())
  start = b'}' if nested else _global('collections', 'OrderedDict') + b')R'
  return start + b'(' + b''.join(_text(key) + _pickled(item, arrays) for key, item in value.items()) + b'u'


def _pickled_tensor(array: np.ndarray, arrays: dict[int, np.ndarray]) -> bytes:
  if array.dtype.name not in _STORAGE_CLASS:
    raise UserError(f'A .pth file cannot hold {array.dtype.name}: convert to float32, float16 or bfloat16 first.')
  key = list(arrays).index(id(array)) if id(array) in arrays else len(arrays)
  arrays[id(array)] = array
  kind = _global('torch', _STORAGE_CLASS[array.dtype.name])
  storage = _tuple(_text('storage'), kind, _text(str(key)), _text('cpu'), _integer(array.size)) + b'Q'
  strides = [int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim)]
  hooks = _global('collections', 'OrderedDict') + b')R'
  shape, strides = (_tuple(*map(_integer, numbers)) for numbers in (array.shape, strides))
  return (
    _global('torch._utils', '_rebuild_tensor_v2') + _tuple(storage, _integer(0), shape, strides, b'\x89', hooks) + b'R'
  )


def _global(module: str, name: str) -> bytes:
  return f'c{module}\n{name}\n'.encode()


def _text(text: str) -> bytes:
  content = text.encode()
  return b'X' + struct.pack('<I', len(content)) + content


def _integer(number: int) -> bytes:
  if number < 2**31:
    return b'J' + struct.pack('<i', number)
  return b'\x8a\x08' + struct.pack('<q', number)


def _tuple(*items: bytes) -> bytes:
  return b'(' + b''.join(items) + b't'

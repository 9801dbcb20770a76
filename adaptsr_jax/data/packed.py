"""Crops of pictures in one file with random access, for large data sets and slow disks.

A packed folder holds `index.json` and `crops.array_record`. A record is two bytes, the bytes per sample of HR and LR (1
or 2), and then the samples of both crops, row by row, RGB, little endian. Array_record compresses them. Against PNG of
the same crops this takes a third more space and a fifth of the time to read (`docs/data.md`).
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from adaptsr_jax import files
from adaptsr_jax.data.folders import choose, restriction
from adaptsr_jax.data.sources import Source, Stored, pairs
from adaptsr_jax.errors import UserError

INDEX = 'index.json'
_RECORDS = 'crops.array_record'
_FORMAT = 1
# One record per chunk: random access does not decompress neighbours.
_WRITER = 'group_size:1'
_DTYPES = {1: np.dtype(np.uint8), 2: np.dtype('<u2')}


class PackedSource(Stored):
  """The crops of a packed folder, each a pair of its own; names are those of the pictures and _s000, _s001, ..."""

  def __init__(self, folder: Path, index: dict[str, Any], chosen: list[int], cache_bytes: int, degrade: str):
    """Takes the records `chosen`; the rest as `Source` takes it."""
    from array_record.python import array_record_data_source

    self._path = folder / _RECORDS
    try:
      self._records = array_record_data_source.ArrayRecordDataSource(str(self._path))
    except Exception as error:  # the reader raises what its C++ layers report
      raise UserError(f'packed: {self._path} cannot be opened ({error}); pack the pictures again.') from error
    self._chosen = chosen
    self._source = index['source']
    names, s = crop_names(index), index['scale']
    sizes = [(tuple(size), (size[0] // s, size[1] // s)) for size in (index['hr_sizes'][i] for i in chosen)]
    label = folder.name
    title = f'{label} (crops of {len(index["pictures"])} pictures), x{s}'
    super().__init__(
      [names[i] for i in chosen], sizes, s, cache_bytes, label=label, title=title, degrade=degrade, made=index['made']
    )

  def _read(self, index: int, kinds: tuple[str, ...]) -> dict[str, np.ndarray]:
    try:
      record = self._records[self._chosen[index]]
    except Exception as error:  # as above
      raise UserError(f'{self._path} cannot be read at {self.names[index]} ({error}).') from error
    return _unpacked(record, self._sizes[index], self.origin(index))

  def _identity(self) -> list[str]:
    return [self._source, *map(repr, zip(self.names, self._sizes, strict=True))]


def open_packed(config: Any, scale: int, cache_bytes: int, split: str) -> PackedSource:
  """Opens the folder `config.packed`; see `opening.open_source`. `names` may be those of pictures or of crops."""
  del split  # a packed folder is one part
  folder = Path(config.packed).expanduser().absolute()
  index = read_index(folder)
  if index['scale'] != scale:
    raise UserError(
      f'packed: {folder} has pairs of x{index["scale"]}, and the model is x{scale}; pack with --scale={scale}.'
    )
  pictures = [name for name, count in index['pictures'] for _ in range(count)]
  forms = list(zip(crop_names(index), pictures, strict=True))
  chosen = choose(forms, **restriction(config), where=str(folder))
  return PackedSource(folder, index, chosen, cache_bytes, getattr(config, 'degrade', ''))


def read_index(folder: Path) -> dict[str, Any]:
  """Returns the content of index.json: 'scale', 'pictures' [[name, number of crops], ...], 'hr_sizes' of the crops, ...

  Raises:
    UserError: the folder is not there or is not a packed one, or its files do not agree.
  """
  try:
    index = files.read_json(folder / INDEX)
    fits = index['format'] == _FORMAT and len(index['hr_sizes']) == sum(number for _, number in index['pictures'])
    size = (folder / _RECORDS).stat().st_size
  except OSError as error:
    raise UserError(
      f'packed: {folder} is no folder that adaptsr_jax.pack wrote (no {Path(error.filename).name}).'
    ) from error
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f'packed: {folder / INDEX} is damaged ({type(error).__name__}: {error}); pack again.') from error
  if not fits or size != index['bytes']:
    raise UserError(
      f'packed: {folder} is damaged or of another version: its index does not fit {_RECORDS}; pack again.'
    )
  return index


def crop_names(index: dict[str, Any]) -> list[str]:
  """Returns the names of all crops in the order of their records."""
  return [f'{name}_s{number:03}' for name, count in index['pictures'] for number in range(count)]


def write(folder: Path, source: Source, crop: int, stride: int, force: bool = False) -> Iterator[str]:
  """Packs `source` into a new folder, which appears whole or not at all; yields the name of each picture when done.

  Args:
    folder: to be written.
    source: pairs; those made from HR keep the LR pixels of the whole picture.
    crop: side of the crops in HR pixels, a multiple of the scale; smaller pictures stay whole.
    stride: from crop to crop, a multiple of the scale and at most `crop`; the last crop ends with the picture.
    force: replaces a packed folder of that name.

  Raises:
    UserError: sizes that do not suit, or the folder is there.
  """
  for name, value, most in (('crop', crop, None), ('stride', stride, crop)):
    if value < 1 or value % source.scale or (most and value > most):
      limit = f' and at most the crop of {most}' if most else ''
      raise UserError(f'{name} is {value}; it must be a positive multiple of the scale, {source.scale}{limit}.')
  if folder.exists() and not (folder / INDEX).is_file():
    raise UserError(f'{folder} is there and is not a packed folder; choose another name.')
  if folder.exists() and not force:
    raise UserError(f'{folder} is there; replace it with --force, or choose another name.')
  return _write(folder, source, crop, stride)


def _write(folder: Path, source: Source, crop: int, stride: int) -> Iterator[str]:
  from array_record.python import array_record_module

  index = {
    'format': _FORMAT,
    'scale': source.scale,
    'crop': crop,
    'stride': stride,
    'made': source.made,
    'source': repr(source),
    'pictures': [],
    'hr_sizes': [],
  }
  folder.parent.mkdir(parents=True, exist_ok=True)
  with files.aside_folder(folder) as aside:
    writer = array_record_module.ArrayRecordWriter(str(aside / _RECORDS), _WRITER)
    try:
      for name, lr, hr in pairs(source):
        crops = list(_crops(lr, hr, crop // source.scale, stride // source.scale))
        for pair in crops:
          writer.write(_record(*pair))
        index['pictures'].append([name, len(crops)])
        index['hr_sizes'] += [hr.shape[:2] for _, hr in crops]
        yield name
    finally:
      writer.close()
    index['bytes'] = (aside / _RECORDS).stat().st_size
    (aside / INDEX).write_text(json.dumps(index) + '\n')


def _crops(lr: np.ndarray, hr: np.ndarray, size: int, stride: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields (lr, hr) crops of `size` LR pixels, row by row."""
  h, w = lr.shape[:2]
  scale = hr.shape[0] // h
  for top in _starts(h, size, stride):
    for left in _starts(w, size, stride):
      bottom, right = min(top + size, h), min(left + size, w)
      yield lr[top:bottom, left:right], hr[scale * top : scale * bottom, scale * left : scale * right]


def _starts(length: int, size: int, stride: int) -> Iterable[int]:
  last = max(0, length - size)
  return sorted({*range(0, last, stride), last})


def _record(lr: np.ndarray, hr: np.ndarray) -> bytes:
  header = bytes([hr.itemsize, lr.itemsize])
  return header + b''.join(x.astype(_DTYPES[x.itemsize], copy=False).tobytes() for x in (hr, lr))


def _unpacked(record: bytes, sizes: tuple[tuple[int, int], tuple[int, int]], origin: str) -> dict[str, np.ndarray]:
  """Returns views of `record`: {'hr': (H, W, 3), 'lr': (h, w, 3)}."""
  pictures, start = {}, 2
  expected = 2 + sum(3 * h * w * itemsize for (h, w), itemsize in zip(sizes, record[:2], strict=True))
  if len(record) != expected:
    raise UserError(f'{origin} has {len(record)} bytes instead of {expected}; pack the pictures again.')
  for kind, (h, w), itemsize in zip(('hr', 'lr'), sizes, record[:2], strict=True):
    flat = np.frombuffer(record, _DTYPES[itemsize], 3 * h * w, start)
    pictures[kind] = flat.reshape(h, w, 3)
    start += flat.nbytes
  return pictures

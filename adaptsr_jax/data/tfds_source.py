"""Data sets of TensorFlow Datasets, read without TensorFlow.

`tfds='div2k/bicubic_x4'` reads what is prepared in TFDS' own folder (environment variable TFDS_DATA_DIR, by default
~/tensorflow_datasets), with features 'lr' and 'hr'. Only array_record files give random access, and only they can be
read without TensorFlow; preparing the published builders needs it.
"""

import io
import os
from collections.abc import Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np

from adaptsr_jax.data.folders import check_sizes, choose, restriction
from adaptsr_jax.data.sources import SHOWN, PairError, Size, Stored, show
from adaptsr_jax.errors import UserError, escaped

_SPLITS = {'train': ('train',), 'test': ('validation', 'test')}
# Threads that read the headers of all records at the start.
_THREADS = 4


class TfdsSource(Stored):
  """Pairs of one split of a prepared builder; a name is the place of a record in its split."""

  def __init__(
    self, builder: Any, split: str, names: Sequence[str], sizes: Sequence[tuple[Size, Size]], *args, **words
  ):
    """Takes the chosen `names` with the sizes of their (HR, LR) pictures; the rest as `Source` takes it."""
    self._features = builder.info.features
    self._records = _encoded(builder, split)
    self._version = f'{builder.info.full_name} {split}'
    super().__init__(names, sizes, *args, **words)

  def _read(self, index: int, kinds: tuple[str, ...]) -> dict[str, np.ndarray]:
    record = self._records[int(self.names[index])]
    sizes = dict(zip(('hr', 'lr'), self._sizes[index], strict=True))
    pictures = {kind: self._decode(index, kind, record[kind], sizes[kind]) for kind in kinds}
    h, w = self._hr_size(index)
    return {**pictures, 'hr': pictures['hr'][:h, :w]}

  def _decode(self, index: int, kind: str, encoded: bytes, size: Size) -> np.ndarray:
    try:
      array = self._features[kind].decode_example_np(encoded)
    except Exception as error:  # damaged bytes make decoders raise anything
      raise UserError(f'{kind} of {self.origin(index)} cannot be decoded ({error}).') from error
    if array is None or array.shape[:2] != size:
      raise UserError(f'{kind} of {self.origin(index)} is not the {show(size)} that its header tells.')
    return np.repeat(array, 3, -1) if array.shape[-1] == 1 else array[..., :3]

  def _identity(self) -> list[str]:
    return [self._version, *map(repr, zip(self.names, self._sizes, strict=True))]


def open_tfds(config: Any, scale: int, cache_bytes: int, split: str) -> TfdsSource:
  """Opens the prepared builder `config.tfds`, 'name/config' or 'name/config:version'; see `opening.open_source`.

  Raises:
    PairError: names the records whose sizes are no pairs of `scale`.
    UserError: TFDS is not installed, or the builder is not prepared, or not as pairs in array_record.
  """
  builder = _builder(config.tfds)
  known = builder.info.splits
  chosen = next((name for name in _SPLITS[split] if name in known), None)
  if chosen is None:
    raise UserError(f'tfds: {config.tfds} has no split {" or ".join(_SPLITS[split])}; it has {", ".join(known)}.')
  if not {'lr', 'hr'} <= set(builder.info.features):
    raise UserError(
      f'tfds: {config.tfds} has the features {", ".join(builder.info.features)}; pairs need features lr and hr.'
    )
  try:
    records = _encoded(builder, chosen)
  except (NotImplementedError, ValueError) as error:
    stored = builder.info.file_format
    what = f'is prepared in {builder.data_dir} as {stored.value if stored else "unknown files"}, not array_record'
    raise UserError(_ways_out(config.tfds, what)) from error
  width = len(str(len(records) - 1))
  names = [f'{number:0{width}}' for number in range(len(records))]
  left = choose([(name,) for name in names], **restriction(config), where=f'{config.tfds} {chosen}')
  sizes = _sizes_of(records, left, scale, f'{config.tfds} {chosen}')
  words = {'label': f'{config.tfds} {chosen}', 'title': f'{config.tfds} {chosen}, x{scale}'}
  degrade = getattr(config, 'degrade', '')
  return TfdsSource(builder, chosen, [names[n] for n in left], sizes, scale, cache_bytes, **words, degrade=degrade)


def _builder(name: str) -> Any:
  try:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import read_only_builder
  except ImportError as error:
    raise UserError(f'tfds: {name} needs the package tensorflow-datasets, which is not installed.') from error
  folder = _data_folder()
  try:
    return read_only_builder.builder_from_files(name, data_dir=str(folder))
  except (tfds.core.DatasetNotFoundError, ValueError, AttributeError) as error:
    raise UserError(_ways_out(name, f'is not prepared in {folder}')) from error


def _data_folder() -> Path:
  return Path(os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets').expanduser().absolute()


def _ways_out(name: str, what: str) -> str:
  return (
    f'tfds: {name} {what}; either prepare it on a machine with TensorFlow, by '
    f"tfds.builder('{name}', file_format='array_record').download_and_prepare(), and copy it to {_data_folder()} (or "
    'where TFDS_DATA_DIR points), or unpack the archives and give their folder: root=FOLDER.'
  )


def _encoded(builder: Any, split: str) -> Any:
  """Returns the records with random access, pictures as encoded bytes."""
  import tensorflow_datasets as tfds

  decoders = dict.fromkeys(('lr', 'hr'), tfds.decode.SkipDecoding())
  return builder.as_data_source(split, decoders=decoders)


def _sizes_of(records: Any, chosen: Sequence[int], scale: int, where: str) -> list[tuple[Size, Size]]:
  """Returns the sizes of the (HR, LR) pictures of each record, from the headers of their files."""

  def sizes(number: int) -> tuple[Size, Size] | str:
    try:
      record = records[number]
      hr, lr = _header(record['hr']), _header(record['lr'])
      check_sizes(hr, lr, scale)
    except (UserError, OSError) as error:
      return f'{number}: {error}'
    return hr, lr

  with futures.ThreadPoolExecutor(_THREADS) as threads:
    found = list(threads.map(sizes, chosen))
  faults = [fault for fault in found if isinstance(fault, str)]
  if faults:
    rest = [f'and {len(faults) - SHOWN} more'] if len(faults) > SHOWN else []
    text = '\n'.join(f'  {escaped(line)}' for line in faults[:SHOWN] + rest)
    raise PairError(f'{len(faults)} records of {where} cannot be used:\n{text}')
  return found


def _header(encoded: bytes) -> Size:
  from PIL import Image

  with Image.open(io.BytesIO(encoded)) as picture:
    return picture.height, picture.width

"""Random access to checked pairs of pictures: decoded when asked for, kept where memory allows."""

import hashlib
import threading
from collections.abc import Iterable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np

from adaptsr_jax import bicubic, image
from adaptsr_jax.data.folders import Pair, PairError, find_pairs, show
from adaptsr_jax.errors import UserError

# LR pixels to each side that a bicubic LR pixel is made of.
_REACH = 2


class Source:
  """A checked set of pairs with random access; decoded pictures are kept while all of them fit in `cache_bytes`.

  Picklable; the cache is not pickled, so every worker process fills its own. Arrays are read-only. The `repr` holds a
  digest of names, sizes and scale, but not of the folder's place: a moved folder is the same source, a changed one not.
  """

  def __init__(self, items: Iterable[Pair], scale: int, cache_bytes: int = 0):
    self.items = tuple(items)
    self.scale = scale
    self.names = [item.name for item in self.items]
    decoded = sum(3 * (h * w + lh * lw) for _, _, _, (h, w), (lh, lw) in self.items)
    self._cache_bytes = cache_bytes if decoded <= cache_bytes else 0
    self._digest = _digest(self.items, scale)
    self._clear()

  def __len__(self) -> int:
    return len(self.items)

  def __repr__(self) -> str:
    return f'Source({len(self)} pairs, x{self.scale}, {self._digest})'

  def __getstate__(self) -> dict[str, Any]:
    return {key: value for key, value in self.__dict__.items() if key not in ('_cache', '_cached_bytes', '_lock')}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    self._clear()

  def _clear(self) -> None:
    self._cache: dict[int, dict[str, np.ndarray]] = {}
    self._cached_bytes = 0
    self._lock = threading.Lock()

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    """Returns {'lr': (h, w, 3), 'hr': (scale h, scale w, 3)}, uint8 or uint16 RGB; HR is cut at the bottom and right.

    Raises:
      ImageError: the file cannot be decoded; names it.
    """
    index = range(len(self))[index]
    if index in self._cache:
      return self._cache[index]
    item = self.items[index]
    hr = self._decode_hr(item)
    lr = shrink(hr, self.scale) if item.lr is None else _decode(item.lr, item.lr_size)
    pair = {'hr': hr, 'lr': lr}
    for array in pair.values():
      array.flags.writeable = False
    self._keep(index, pair)
    return pair

  def crop(self, index: int, top: int, left: int, size: int) -> dict[str, np.ndarray]:
    """Returns the `size` x `size` LR pixels at (top, left), given in LR pixels, and the HR pixels of the same place.

    Equal to cutting the whole pair, without making the whole LR picture where it comes from HR and is not kept.
    """
    item, s = self.items[index], self.scale
    inside_hr = np.s_[s * top : s * (top + size), s * left : s * (left + size)]
    if item.lr is None and not self._cache_bytes:
      hr = self._decode_hr(item)
      return {'hr': hr[inside_hr], 'lr': shrink_window(hr, s, top, left, size)}
    pair = self[index]
    return {'hr': pair['hr'][inside_hr], 'lr': pair['lr'][top : top + size, left : left + size]}

  def describe(self) -> str:
    """Returns one line such as '93 pairs, x4, LR 128x128' (width x height)."""
    smallest, largest = (
      show(choose((item.lr_size for item in self.items), key=lambda size: size[0] * size[1])) for choose in (min, max)
    )
    parts = [
      f'{len(self)} {"pair" if len(self) == 1 else "pairs"}',
      f'x{self.scale}',
      f'LR {smallest}' + (f' to {largest}' if largest != smallest else ''),
    ]
    if self.items[0].lr is None:
      parts.append('made from HR by bicubic shrinking')
    cut = sum(item.hr_size != _times(item.lr_size, self.scale) for item in self.items)
    return ', '.join(parts + ([f'HR cut at the bottom or right in {cut}'] if cut else []))

  def _decode_hr(self, item: Pair) -> np.ndarray:
    h, w = _times(item.lr_size, self.scale)
    return _decode(item.hr, item.hr_size)[:h, :w]

  def _keep(self, index: int, pair: dict[str, np.ndarray]) -> None:
    # Counted in real bytes: 16-bit pictures take twice what their headers let expect.
    size = sum(array.nbytes for array in pair.values())
    with self._lock:
      if index not in self._cache and self._cached_bytes + size <= self._cache_bytes:
        self._cache[index] = pair
        self._cached_bytes += size


def open_source(config: Any, scale: int, cache_gb: float | None = None) -> Source:
  """Opens the folders of `config` as pairs, after a check of every name and header.

  Files belong together when their stems are equal, or equal without a known suffix (name_HR / name_LR4, name /
  namex4, name_x1 / name_x4); file endings may differ, and both kinds may lie in one folder. HR may be larger than
  scale * LR by less than two LR pixels at the bottom and right.

  Args:
    config: has `hr` and `lr`, folders; an empty `lr` makes LR from HR with MATLAB's bicubic kernel. It may have `names`
      and `skip_names` ('a,b,c', or a text file with one name a line) that restrict the pairs, and `cache_gb`.
    scale: HR pixels per LR pixel and axis.
    cache_gb: decoded pictures are kept, in every process that reads, if all fit in this many GiB. By default
      `config.cache_gb`, or 2.

  Raises:
    PairError: names each pair that cannot be used, with its reason (the first 20, and how many more).
    UserError: a folder is missing or without pictures, or a listed name is not there.
  """
  if cache_gb is None:
    cache_gb = getattr(config, 'cache_gb', 2.0)
  return Source(find_pairs(config, scale), scale, int(cache_gb * 2**30))


def check_pixels(source: Source) -> None:
  """Decodes every pair once, which fills the cache too: headers tell sizes, not whether a file was cut off.

  Raises:
    PairError: names each bad picture with its reason.
  """

  def fault(index: int) -> str | None:
    try:
      source[index]
    except UserError as error:
      return str(error)
    return None

  with futures.ThreadPoolExecutor(2) as threads:
    faults = [reason for reason in threads.map(fault, range(len(source))) if reason]
  if faults:
    more = f'; and {len(faults) - 20} more' if len(faults) > 20 else ''
    raise PairError(f'{len(faults)} of {len(source)} pairs cannot be read: {"; ".join(faults[:20])}{more}')


def pairs(source: Source) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
  """Yields (name, lr, hr) of each whole pair, decoded one at a time; arrays as in `Source.__getitem__`."""
  for name, index in zip(source.names, range(len(source)), strict=True):
    pair = source[index]
    yield name, pair['lr'], pair['hr']


def shrink(hr: np.ndarray, scale: int) -> np.ndarray:
  """Returns the LR picture (H // scale, W // scale, 3) of an integer HR picture as MATLAB's `imresize` makes it.

  MATLAB stores integers between its two passes (rows, then columns) and rounds halves up both times. With that the LR
  pictures of Set5 come out without one differing value; rounding only once leaves a tenth of them off by one.
  """
  h, w = (n // scale * scale for n in hr.shape[:2])
  columns_left = _shrink_rows(hr[:h, :w], scale)
  return np.ascontiguousarray(_shrink_rows(columns_left.swapaxes(0, 1), scale).swapaxes(0, 1))


def shrink_window(hr: np.ndarray, scale: int, top: int, left: int, size: int) -> np.ndarray:
  """Returns `shrink(hr, scale)[top : top + size, left : left + size]` from the HR pixels that matter for it only."""
  starts = [max(0, start - _REACH) for start in (top, left)]
  stops = [min(n // scale, start + size + _REACH) for n, start in zip(hr.shape, (top, left), strict=False)]
  rows, columns = (slice(scale * start, scale * stop) for start, stop in zip(starts, stops, strict=True))
  lr = shrink(hr[rows, columns], scale)
  top, left = top - starts[0], left - starts[1]
  return lr[top : top + size, left : left + size]


def _shrink_rows(x: np.ndarray, scale: int) -> np.ndarray:
  largest = np.iinfo(x.dtype).max
  # The tiny addend makes exact halves go up whatever the last bit of their sum is, hence also alike in every window.
  resized = bicubic.resize_rows(x.astype(np.float64), 1 / scale, True)
  return np.clip(np.floor(resized + (0.5 + 1e-6)), 0, largest).astype(x.dtype)


def _decode(path: Path, size: tuple[int, int]) -> np.ndarray:
  array = image.read_array(path)
  if array.shape[:2] != size:
    raise UserError(f'{path} is {show(array.shape)} now, but was {show(size)} when the run began.')
  return array


def _digest(items: tuple[Pair, ...], scale: int) -> str:
  text = [f'x{scale}']
  for _, hr, lr, *sizes in items:
    text.append(repr([(path.name, path.stat().st_size) for path in (hr, lr) if path] + sizes))
  return hashlib.sha256('\n'.join(text).encode()).hexdigest()[:16]


def _times(size: tuple[int, int], scale: int) -> tuple[int, int]:
  return size[0] * scale, size[1] * scale

"""Random access to checked pairs of pictures: decoded when asked for, kept where memory allows."""

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from adaptsr_jax import bicubic
from adaptsr_jax.errors import UserError, escaped

# LR pixels to each side that a bicubic LR pixel is made of.
_REACH = 2
_COLUMNS = 1024  # that are shrunk at a time
# Bad pairs that are named before the rest is only counted.
SHOWN = 20
# Values of `degrade` that ask for no simulated camera: pairs stay as given, HR alone is shrunk by MATLAB's bicubic.
PLAIN = ('', 'none', 'bicubic')
_KINDS = ('hr', 'lr')

Size = tuple[int, int]  # (height, width)


class PairError(UserError):
  """Pictures that cannot be used as pairs, each with its reason; names in them are to be escaped before."""

  lines = True


class Source(Protocol):
  """A checked set of pairs with random access: what batches and measurements need of it, whatever holds the pictures.

  Picklable, and each worker process has its own. Arrays are read-only. The `repr` holds a digest of names, sizes and
  scale, but not of the folder's place: a moved folder is the same source, a changed one not.
  """

  names: list[str]
  scale: int  # HR pixels per LR pixel and axis
  label: str  # a few words for lists
  made: bool  # LR pictures come from HR
  weights: tuple[int, ...]  # of the parts: batches are mixed in these proportions
  lengths: tuple[int, ...]  # pairs of each part
  cache_bytes: int

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    """Returns {'lr': (h, w, 3), 'hr': (scale h, scale w, 3)}, uint8 or uint16 RGB; HR is cut at the bottom and right.

    Raises:
      ImageError: the file cannot be decoded; names it.
    """

  def crop(self, index: int, top: int, left: int, size: int) -> dict[str, np.ndarray]:
    """Returns the `size` x `size` LR pixels at (top, left), given in LR pixels, and the HR pixels of the same place."""

  def hr(self, index: int) -> np.ndarray:
    """Returns the HR picture of pair `index`, as `source[index]['hr']`."""

  def lr_size(self, index: int) -> Size:
    """Returns (height, width) of LR picture `index`, known without decoding."""

  def origin(self, index: int) -> str:
    """Returns what messages call picture `index`."""

  def photograph(self, index: int) -> Path | None:
    """Returns the file of LR picture `index`, as a camera left it; None where it is made, or lies in no such file."""

  def preset(self, index: int) -> str:
    """Returns the simulated camera that makes the LR picture `index` in training; '' where there is one."""

  def describe(self, canvas: int = 0) -> str:
    """Returns a line such as '93 pairs, x4, LR 128x128' (width x height), or several.

    Args:
      canvas: side of the HR crops that a simulated camera takes; tells how many pictures are smaller.
    """


class Cameras(NamedTuple):
  """Simulated cameras: HR crops in, training pairs out.

  Attributes:
    presets: name -> fn(key, (n, canvas, canvas, 3) float32) -> {'lr', 'hr'}, compiled; of the patch that batches are
      asked for.
    canvas: side of the crops in HR pixels, at least the patch.
    digest: changes with the settings, so that a run does not go on under other ones.
  """

  presets: Mapping[str, Callable[[Any, Any], Mapping[str, Any]]]
  canvas: int
  digest: str


class Stored:
  """A `Source` of one kind of storage, which implements `_read` and `_identity`.

  Decoded pictures are kept while all of them fit in `cache_bytes`; the cache is not pickled.
  """

  weights: tuple[int, ...] = (1,)

  def __init__(
    self,
    names: Sequence[str],
    sizes: Sequence[tuple[Size, Size]],
    scale: int,
    cache_bytes: int = 0,
    *,
    label: str = '',
    title: str = '',
    degrade: str = '',
    made: bool = False,
  ):
    """Keeps what is known before a picture is decoded.

    Args:
      names: of the pairs.
      sizes: of their (HR, LR) pictures; HR is cut to `scale` times LR.
      scale: HR pixels per LR pixel and axis.
      cache_bytes: decoded pictures are kept if all fit in.
      label: a few words for lists, e.g. 'DIV2K unknown'.
      title: begins the description, scale included, where there is more to say than numbers.
      degrade: preset that makes the LR pictures of training; needs `made`.
      made: LR pictures come from HR.
    """
    self.names = list(names)
    self.scale = scale
    self.label = label
    self._sizes = list(sizes)
    self._title = title
    self.made = made
    self._degrade = '' if degrade in PLAIN else degrade
    if degrade not in ('', 'none') and not made:
      raise UserError(
        f'degrade is {degrade}, but {label or "this source"} has LR pictures of its own; '
        'give the folder of HR pictures alone (hr=FOLDER), or set degrade=none.'
      )
    decoded = sum(3 * (h * w + lh * lw) for (h, w), (lh, lw) in self._sizes)
    self.cache_bytes = decoded if decoded <= cache_bytes else 0
    lines = '\n'.join([f'x{scale}', *self._identity()])
    self._digest = hashlib.sha256(lines.encode(errors='surrogateescape')).hexdigest()[:16]
    self._clear()

  def __len__(self) -> int:
    return len(self.names)

  def __repr__(self) -> str:
    preset = f', {self._degrade}' if self._degrade else ''
    return f'Source({len(self)} pairs, x{self.scale}, {self._digest}{preset})'

  def __getstate__(self) -> dict[str, Any]:
    return {key: value for key, value in self.__dict__.items() if key not in ('_cache', '_cached_bytes', '_lock')}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    self._clear()

  def _clear(self) -> None:
    self._cache: dict[tuple[int, str], np.ndarray] = {}
    self._cached_bytes = 0
    self._lock = threading.Lock()

  @property
  def lengths(self) -> tuple[int, ...]:
    return (len(self),)

  def lr_size(self, index: int) -> Size:
    return self._sizes[index][1]

  def photograph(self, index: int) -> Path | None:
    return None

  def preset(self, index: int) -> str:
    return self._degrade

  def origin(self, index: int) -> str:
    return f'{self.names[index]} of {self.label}'

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    return self._get(range(len(self))[index], _KINDS)

  def hr(self, index: int) -> np.ndarray:
    return self._get(index, ('hr',))['hr']

  def crop(self, index: int, top: int, left: int, size: int) -> dict[str, np.ndarray]:
    s, pair = self.scale, self[index]
    inside_hr = np.s_[s * top : s * (top + size), s * left : s * (left + size)]
    return {'hr': pair['hr'][inside_hr], 'lr': pair['lr'][top : top + size, left : left + size]}

  def describe(self, canvas: int = 0) -> str:
    number = len(self)
    parts = [f'{number} {"picture" if self._degrade else "pair"}{"" if number == 1 else "s"}']
    if not self._title:
      parts.append(f'x{self.scale}')
    if self._degrade:
      sizes = [self._hr_size(index) for index in range(number)]
      parts += [_span('HR', sizes), f'LR made by {self._degrade}']
      small = sum(min(size) < canvas for size in sizes)
      parts += [f'{small} mirrored at the bottom or right up to {canvas} pixels'] if small else []
    else:
      parts.append(_span('LR', [lr for _, lr in self._sizes]))
      parts += ['made from HR by bicubic shrinking'] if self.made else []
    cut = sum(hr != _times(lr, self.scale) for hr, lr in self._sizes)
    parts += [f'HR cut at the bottom or right in {cut}'] if cut else []
    return f'{self._title}: {", ".join(parts)}' if self._title else ', '.join(parts)

  def _hr_size(self, index: int) -> Size:
    return _times(self.lr_size(index), self.scale)

  def _get(self, index: int, kinds: tuple[str, ...]) -> dict[str, np.ndarray]:
    try:
      return {kind: self._cache[index, kind] for kind in kinds}
    except KeyError:
      pictures = self._read(index, kinds)
    for kind, array in pictures.items():
      array.flags.writeable = False
      # Counted in real bytes: 16-bit pictures take twice what their headers let expect.
      with self._lock:
        if (index, kind) not in self._cache and self._cached_bytes + array.nbytes <= self.cache_bytes:
          self._cache[index, kind] = array
          self._cached_bytes += array.nbytes
    return pictures

  def _read(self, index: int, kinds: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Decodes the pictures `kinds` ('hr', 'lr') of pair `index`, HR cut to `scale` times LR."""
    raise NotImplementedError

  def _identity(self) -> Sequence[str]:
    """Returns what makes this set of pictures another one; lines of the digest."""
    raise NotImplementedError


def check_task(source: Source) -> None:
  """Raises UserError where LR would be HR itself: made from it at x1, by no simulated camera."""
  if source.scale == 1 and source.made and not any(map(source.preset, range(len(source)))):
    raise UserError(
      'At x1 LR pictures made from HR would be HR itself, and nothing would be to restore: give lr, or for training a '
      'simulated camera (degrade).'
    )


def check_pixels(source: Source) -> None:
  """Decodes every pair once, which fills the cache too: headers tell sizes, not whether a file was cut off.

  Raises:
    PairError: names each bad picture with its reason.
  """

  def fault(index: int) -> str | None:
    try:
      source.hr(index) if source.preset(index) else source[index]
    except UserError as error:
      return str(error)
    return None

  with futures.ThreadPoolExecutor(2) as threads:
    faults = [reason for reason in threads.map(fault, range(len(source))) if reason]
  if faults:
    more = f'; and {len(faults) - SHOWN} more' if len(faults) > SHOWN else ''
    shown = '; '.join(fault.rstrip('.') for fault in faults[:SHOWN])
    raise PairError(f'{len(faults)} of {len(source)} pairs cannot be read: {escaped(shown)}{more}.')


def pairs(source: Source, which: Iterable[int] | None = None) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
  """Yields (name, lr, hr) of each whole pair, or of some, decoded one at a time; arrays as `Source.__getitem__`."""
  for index in range(len(source)) if which is None else which:
    pair = source[index]
    yield source.names[index], pair['lr'], pair['hr']


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
  largest, parts = np.iinfo(x.dtype).max, []
  for start in range(0, x.shape[1], _COLUMNS):  # float64 takes eight times the memory
    resized = bicubic.resize_rows(x[:, start : start + _COLUMNS].astype(np.float64), 1 / scale, True)
    # The tiny addend makes exact halves go up whatever the last bit of their sum is, hence also alike in every window.
    parts.append(np.clip(np.floor(resized + (0.5 + 1e-6)), 0, largest).astype(x.dtype))
  return np.concatenate(parts, axis=1)


def show(size: Size) -> str:
  return f'{size[1]}x{size[0]}'


def _span(kind: str, sizes: Sequence[Size]) -> str:
  smallest, largest = (show(choose(sizes, key=lambda size: size[0] * size[1])) for choose in (min, max))
  return f'{kind} {smallest}' + (f' to {largest}' if largest != smallest else '')


def _times(size: Size, scale: int) -> Size:
  return size[0] * scale, size[1] * scale

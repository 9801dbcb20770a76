"""Folders of pictures as pairs of files: matched by name, and checked by their headers before any work."""

import collections
import itertools
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adaptsr_jax import image
from adaptsr_jax.data.sources import SHOWN, PairError, Size, Stored, show, shrink, shrink_window
from adaptsr_jax.errors import UserError, escaped, some

# What published data sets append to the common part of a name: RealSR Canon_001_HR / Canon_001_LR4, DRealSR P1_x1 /
# P1_x4, Set5 and DIV2K baby / babyx4.
_SEVERAL = 'several LR pictures fit'
_HR_SUFFIX = re.compile(r'_(hr|gt|x1)$', re.IGNORECASE)
# 0001x4m, and d, of DIV2K mild and difficult, 0001x4w1 of wild.
_LR_SUFFIX = re.compile(r'(?:_lr|_lr([2-9])|_?x([2-9])(?:[md]|w\d?)?)$', re.IGNORECASE)
# The same anywhere in a name, and more of them: P1_x4_0012 and P1_x1_0012, 0001x4m.
MARKS = re.compile(r'_?x[1-9](?:[md]|w\d?)?(?=_|$)|_(?:hr|lr|gt|lq)[1-9]?(?=_|$)', re.IGNORECASE)
# Pairs that are looked at before files are paired by order, and the mean correlation they need; strangers have about 0.
_LOOKED_AT = 8
_LEAST_LIKENESS = 0.5


class Folders(NamedTuple):
  """Where pairs lie: HR and LR folders, which may be one and the same, or HR alone."""

  hr: str
  lr: str = ''
  camera: str = ''  # goes before the names if pictures of several cameras have the same
  in_order: bool = False  # files may be paired by the order of their names where the names themselves do not tell
  names: str = ''  # of the LR pictures in their folder, those in whose names this expression is found


class Pair(NamedTuple):
  """Two files of one scene, as their headers tell; sizes are (height, width)."""

  name: str  # stem of the HR file
  hr: Path
  lr: Path | None  # None: made from HR by bicubic shrinking
  hr_size: Size
  lr_size: Size


class FolderSource(Stored):
  """Pairs of files."""

  def __init__(self, items: Sequence[Pair], scale: int, cache_bytes: int = 0, **words: str):
    """Takes the pairs of `find_pairs`; `words` as `Source` takes them."""
    self.items = tuple(items)
    sizes = [(item.hr_size, item.lr_size) for item in self.items]
    names = [item.name for item in self.items]
    super().__init__(names, sizes, scale, cache_bytes, made=self.items[0].lr is None, **words)

  def origin(self, index: int) -> str:
    return str(self.items[index].hr)

  def photograph(self, index: int) -> Path | None:
    return self.items[index].lr

  def crop(self, index: int, top: int, left: int, size: int) -> dict[str, np.ndarray]:
    """As of `Source.crop`, without making the whole LR picture where it comes from HR and is not kept."""
    if self.items[index].lr is not None or self.cache_bytes:
      return super().crop(index, top, left, size)
    s, hr = self.scale, self.hr(index)
    inside_hr = np.s_[s * top : s * (top + size), s * left : s * (left + size)]
    return {'hr': hr[inside_hr], 'lr': shrink_window(hr, s, top, left, size)}

  def _read(self, index: int, kinds: tuple[str, ...]) -> dict[str, np.ndarray]:
    item = self.items[index]
    h, w = (self.scale * n for n in item.lr_size)
    pictures = {'hr': _decode(item.hr, item.hr_size)[:h, :w]}
    if 'lr' in kinds:
      made = item.lr is None
      pictures['lr'] = shrink(pictures['hr'], self.scale) if made else _decode(item.lr, item.lr_size)
    return pictures

  def _identity(self) -> list[str]:
    return [
      repr([(path.name, path.stat().st_size) for path in (item.hr, item.lr) if path] + [item.hr_size, item.lr_size])
      for item in self.items
    ]


def open_folders(config: Any, scale: int, cache_bytes: int, split: str) -> FolderSource:
  """Opens the folders `config.hr` and `config.lr`; see `opening.open_source`."""
  del split  # these folders are one part
  items = find_pairs([Folders(config.hr, getattr(config, 'lr', ''))], scale, **restriction(config))
  path = Path(config.hr).resolve()
  label = path.parent.name if path.name.lower() in ('hr', 'gt') else path.name
  return FolderSource(items, scale, cache_bytes, label=label, degrade=getattr(config, 'degrade', ''))


def restriction(config: Any) -> dict[str, str]:
  """Returns the fields of `config` that restrict the pairs, as arguments."""
  return {field: getattr(config, field, '') for field in ('names', 'skip_names')}


def find_pairs(places: Sequence[Folders], scale: int, names: str = '', skip_names: str = '') -> list[Pair]:
  """Returns the pairs of `places`, restricted by `names` and `skip_names`; errors as of `opening.open_source`."""
  named, matched, faults, counts = {}, {}, {}, []
  for place in places:
    hr_files, lr_files, partners, unfit = pairs_of(place, scale)
    named |= {path: (place.camera, _stem(path)) for path in hr_files}
    matched |= partners
    faults |= unfit
    counts.append(f'{len(hr_files)} HR in {place.hr}' + (f', {len(lr_files)} LR in {place.lr}' if lr_files else ''))
  named = _with_camera(named)
  number = collections.Counter(named.values())
  faults |= {path: f'{number[name]} HR pictures have this name' for path, name in named.items() if number[name] > 1}

  where = ' and '.join(place.hr for place in places)
  files = list(named)
  forms = [(named[path], _stem(path), unicodedata.normalize('NFC', path.name)) for path in files]
  chosen = {files[index] for index in choose(forms, names, skip_names, where)}
  if len(chosen) < len(files):
    faults = {path: reason for path, reason in faults.items() if path in chosen}
  items = []
  for path in files:
    if path in chosen and path not in faults:
      try:
        items.append(_check(named[path], path, matched[path], scale))
      except UserError as error:
        faults[path] = str(error)
  if faults:
    raise PairError(_refusal(faults, '; '.join(counts)))
  return items


def pairs_of(place: Folders, scale: int) -> tuple[list[Path], list[Path], dict[Path, Path | None], dict[Path, str]]:
  """Returns the HR files, the LR files, the LR file of each HR file, and why other files have no partner."""
  if not place.lr:
    hr_files = _list(place.hr, 'hr')
    return hr_files, [], dict.fromkeys(hr_files), {}
  hr_files, lr_files = _list_both(place.hr, place.lr)
  lr_files = [path for path in lr_files if re.search(place.names, path.stem, re.IGNORECASE)]
  partners, unfit = _match(hr_files, lr_files, scale)
  if unfit and place.in_order:
    in_order = _match_in_order(hr_files, lr_files)
    partners, unfit = (in_order, {}) if in_order else (partners, unfit)
  return hr_files, lr_files, partners, unfit


def scale_of(lr: str, hr: str) -> int:
  """Returns by how much the pictures of folder `hr` are larger than those of `lr`, told from the first pair.

  Raises:
    UserError: a folder without pictures, or two without a name in common.
  """
  matched, faults = _match(*_list_both(hr, lr), 0)
  if not matched:
    raise no_pairs(lr, hr, faults)
  hr_file, lr_file = next(iter(matched.items()))
  return max(1, round(image.size(hr_file)[0] / image.size(lr_file)[0]))


def no_pairs(lr: str, hr: str, faults: Mapping[Path, str]) -> UserError:
  """Returns the error of two folders of which no pictures belong together, with `faults` as of `pairs_of`."""
  several = next((fault for fault in faults.values() if fault.startswith(_SEVERAL)), '')
  if several:
    marks = {_marked_scale(path) for path in _list(lr, 'lr')}
    way = 'give --scale' if len(marks) > 1 else 'keep one for each'
    return UserError(f'{lr} holds more than one LR picture for each of {hr} ({several}): {way}.')
  return UserError(f'No picture of {lr} has the name of a picture of {hr}.')


def _list_both(hr: str, lr: str) -> tuple[list[Path], list[Path]]:
  """Returns the HR and the LR files; one folder may hold both."""
  hr_files, lr_files = _list(hr, 'hr'), _list(lr, 'lr')
  return _split(hr_files, hr) if Path(hr).resolve() == Path(lr).resolve() else (hr_files, lr_files)


def _list(folder: str, field: str) -> list[Path]:
  if not folder:
    raise UserError(f'{field} is empty; give a folder of pictures.')
  path = Path(folder)
  if not path.is_dir():
    raise UserError(f'{field}: {folder} is {"a file, not a folder" if path.is_file() else "not there"}.')
  files = image.list_images(path)
  if not files:
    inner = sorted(child.name for child in path.iterdir() if child.is_dir() and not child.name.startswith('.'))
    hint = f'; its folders are not searched ({", ".join(inner[:3])}): give one of them' if inner else ''
    raise UserError(f'{field}: {image.no_pictures(path)}{hint}.')
  image.tell_unread(path)
  return files


def _split(files: list[Path], folder: str) -> tuple[list[Path], list[Path]]:
  """Parts one folder into HR and LR by the suffixes of the names."""
  lr = [path for path in files if is_lr_name(path.stem)]
  if not 0 < len(lr) < len(files):
    raise UserError(
      f'hr and lr are the same folder, {folder}, whose names do not tell LR from HR, as a_HR and a_LR4 or a and ax4 do.'
    )
  return [path for path in files if not is_lr_name(path.stem)], lr


def is_lr_name(stem: str) -> bool:
  """Tells whether a name ends as those of LR pictures do: a_LR4, ax4."""
  return bool(_LR_SUFFIX.search(stem)) and not _HR_SUFFIX.search(stem)


def _match(hr_files: list[Path], lr_files: list[Path], scale: int) -> tuple[dict[Path, Path], dict[Path, str]]:
  """Returns the LR file of each HR file, and the reasons why files have no partner."""
  by_stem, by_key = collections.defaultdict(list), collections.defaultdict(list)
  for path in lr_files:
    by_stem[_stem(path)].append(path)
    by_key[_stem(path, _LR_SUFFIX)].append(path)
  matched, faults, owner = {}, {}, {}
  used = set()
  for path in hr_files:
    alike = by_key.get(_stem(path, _HR_SUFFIX), [])
    found = by_stem.get(_stem(path), []) or alike
    used.update(found, alike)
    marks = {_marked_scale(lr) for lr in found}
    if len(found) > 1:
      found = [lr for lr in found if _marked_scale(lr) == scale] or found
    if not found:
      faults[path] = 'no LR picture of this name'
    elif len(found) > 1 and scale and not {None, scale} & marks:
      faults[path] = f'no LR picture for x{scale}, but {", ".join(lr.name for lr in found[:3])}'
    elif len(found) > 1:
      faults[path] = f'{_SEVERAL}: {", ".join(lr.name for lr in found[:3])}'
    elif found[0] in owner:
      faults[path] = f'its LR picture {found[0].name} also belongs to {owner[found[0]].name}'
    else:
      matched[path] = found[0]
      owner[found[0]] = path
  faults.update({path: 'no HR picture of this name' for path in lr_files if path not in used})
  return matched, faults


def _stem(path: Path, suffix: re.Pattern | None = None) -> str:
  # Composed, as some file systems hand out the same name with accents as separate characters.
  stem = unicodedata.normalize('NFC', path.stem)
  return suffix.sub('', stem) if suffix else stem


def _marked_scale(path: Path) -> int | None:
  match = _LR_SUFFIX.search(path.stem)
  digit = match and (match[1] or match[2])
  return int(digit) if digit else None


def _match_in_order(hr_files: list[Path], lr_files: list[Path]) -> dict[Path, Path] | None:
  """Returns the LR file of each HR file by their names without marks of scale; failing that, by order.

  DRealSR marks either side by x1, inside the names too, and its own loader goes by order alone. Names that share
  nothing are taken in order only where the pictures look alike. None: neither way works for all files.
  """
  if len(hr_files) != len(lr_files):
    return None
  by_key = {MARKS.sub('', _stem(path)): path for path in lr_files}
  keys = [MARKS.sub('', _stem(path)) for path in hr_files]
  if len(by_key) == len(set(keys)) == len(keys) and by_key.keys() == set(keys):
    return {path: by_key[key] for path, key in zip(hr_files, keys, strict=True)}
  in_order = list(zip(hr_files, lr_files, strict=True))
  looked_at = in_order[:: max(1, len(in_order) // _LOOKED_AT)][:_LOOKED_AT]
  if by_key.keys() & set(keys) or np.mean([_likeness(*pair) for pair in looked_at]) < _LEAST_LIKENESS:
    return None
  return dict(in_order)


def _likeness(hr: Path, lr: Path) -> float:
  """Returns the correlation of the two pictures' brightness at the size of LR."""
  import cv2

  large, small = (image.read_array(path).mean(-1, dtype=np.float32) for path in (hr, lr))
  large = cv2.resize(large, small.shape[::-1], interpolation=cv2.INTER_AREA)
  large, small = large - large.mean(), small - small.mean()
  return float((large * small).sum() / max(np.sqrt((large**2).sum() * (small**2).sum()), 1e-12))


def _with_camera(named: dict[Path, tuple[str, str]]) -> dict[Path, str]:
  """Returns the name of each file, with the camera where cameras share names."""
  cameras = collections.defaultdict(set)
  for camera, stem in named.values():
    cameras[stem].add(camera)
  shared = any(len(alike) > 1 for alike in cameras.values())
  return {path: f'{camera}_{stem}' if shared and camera else stem for path, (camera, stem) in named.items()}


def choose(forms: Sequence[tuple[str, ...]], names: str, skip_names: str, where: str) -> list[int]:
  """Returns the places in `forms`, the names that each picture goes by, which `names` and `skip_names` leave.

  Raises:
    UserError: a listed name is not there, or nothing is left of `where`.
  """
  chosen = set(range(len(forms)))
  for field, value in (('names', names), ('skip_names', skip_names)):
    if not value:
      continue
    listed = {unicodedata.normalize('NFC', name): name for name in _read_names(value)}
    hits = {index for index, known in enumerate(forms) if not listed.keys().isdisjoint(known)}
    known = {form for index in hits for form in forms[index]}
    unknown = [name for form, name in listed.items() if form not in known]
    if unknown:
      raise UserError(f'{field}={value} lists {some([*map(repr, unknown)], 1)}, which {where} does not contain.')
    chosen = chosen & hits if field == 'names' else chosen - hits
  if not chosen:
    raise UserError(f'names and skip_names leave no picture of {where}.')
  return sorted(chosen)


def _read_names(value: str) -> list[str]:
  """Reads 'a,b,c', or a text file with one name a line."""
  try:
    entries = Path(value).read_text(encoding='utf-8-sig').splitlines()
  except UnicodeDecodeError as error:
    raise UserError(f'{value} is not a text file in UTF-8.') from error
  except OSError as error:
    if ',' not in value and (value.endswith('.txt') or '/' in value):
      raise UserError(f'{value} is not there; give a text file with one name a line, or a,b,c.') from error
    entries = value.split(',')
  return [entry.strip() for entry in entries if entry.strip()]


def _check(name: str, hr: Path, lr: Path | None, scale: int) -> Pair:
  """Returns the pair as its headers tell; raises UserError with the reason why it cannot be used."""
  hr_size = image.size(hr)
  if lr is None:
    lr_size = hr_size[0] // scale, hr_size[1] // scale
    if not all(lr_size):
      raise UserError(f'HR {show(hr_size)} is smaller than one LR pixel at x{scale}')
  else:
    lr_size = image.size(lr)
    check_sizes(hr_size, lr_size, scale)
  return Pair(name, hr, lr, hr_size, lr_size)


def check_sizes(hr: Size, lr: Size, scale: int) -> None:
  """Raises UserError with the reason why pictures of these sizes are no pair of `scale`."""
  fault = _size_fault(hr, lr, scale)
  if fault:
    raise UserError(f'{fault} (LR {show(lr)}, HR {show(hr)})')


def _size_fault(hr: Size, lr: Size, scale: int) -> str | None:
  if _covers(hr, lr, scale):
    return None
  if hr == lr:
    return 'LR has the size of HR, as in RealSR where LR was enlarged beforehand; pairs with small LR are needed'
  factor = hr[0] // lr[0]
  if factor > 1 and factor != scale and _covers(hr, lr, factor):
    return f'x{factor} pairs given to a x{scale} model'
  if lr[0] > hr[0] and lr[1] > hr[1]:
    return 'LR is larger than HR; perhaps the folders are swapped'
  if all(0 <= scale * small - large < scale for large, small in zip(hr, lr, strict=True)):
    return f'HR is smaller than {scale} times LR; cut the last LR row or column off'
  return f'HR is not {scale} times LR'


def _covers(hr: Size, lr: Size, scale: int) -> bool:
  """Tells whether HR is `scale` times LR, or larger by less than two LR pixels."""
  return all(0 <= large - scale * small < 2 * scale for large, small in zip(hr, lr, strict=True))


def _refusal(faults: dict[Path, str], where: str) -> str:
  """Words what is wrong with which files, with one in a sentence; a reason that all of several share comes first."""
  if len(faults) == 1:
    ((path, reason),) = faults.items()
    name = '' if str(path) in reason else f'{path.name}: '
    return escaped(f'1 picture cannot be used ({where}): {name}{reason}')
  kinds = {reason.partition(' (LR ')[0] for reason in faults.values()}
  shared = f'{kinds.pop()}: ' if len(kinds) == 1 else ''
  count = f'{len(faults)} pictures cannot be used ({escaped(where)}):'
  lines = [escaped(f'  {path.name}: {faults[path]}') for path in _alternating(faults)]
  rest = [f'  and {len(lines) - SHOWN} more'] if len(lines) > SHOWN else []
  return '\n'.join([shared + count, *lines[:SHOWN], *rest])


def _alternating(paths: Iterable[Path]) -> list[Path]:
  """Sorts by name, in turn from each folder, so that a list cut short shows how names look on both sides."""
  by_folder = collections.defaultdict(list)
  for path in sorted(paths):
    by_folder[path.parent].append(path)
  turns = itertools.zip_longest(*by_folder.values())
  return [path for turn in turns for path in turn if path is not None]


def _decode(path: Path, size: Size) -> np.ndarray:
  array = image.read_array(path)
  if array.shape[:2] != size:
    raise UserError(f'{path} is {show(array.shape)} now, but was {show(size)} when the run began.')
  return array

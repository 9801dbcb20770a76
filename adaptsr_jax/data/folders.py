"""Folders of pictures as pairs of files: matched by name, and checked by their headers before any work."""

import collections
import itertools
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from adaptsr_jax import image
from adaptsr_jax.errors import UserError

# What published data sets append to the common part of a name: RealSR Canon_001_HR / Canon_001_LR4, DRealSR P1_x1 /
# P1_x4, Set5 and DIV2K baby / babyx4.
_HR_SUFFIX = re.compile(r'_(hr|gt|x1)$', re.IGNORECASE)
_LR_SUFFIX = re.compile(r'(?:_lr|_lr([2-9])|_?x([2-9]))$', re.IGNORECASE)
# Bad pairs that are named before the rest is only counted.
_SHOWN = 20


class PairError(UserError):
  """Pictures of a folder that cannot be used as pairs, each with its reason."""


class Pair(NamedTuple):
  """Two files of one scene, as their headers tell; sizes are (height, width)."""

  name: str  # stem of the HR file
  hr: Path
  lr: Path | None  # None: made from HR by bicubic shrinking
  hr_size: tuple[int, int]
  lr_size: tuple[int, int]


def find_pairs(config: Any, scale: int) -> list[Pair]:
  """Returns the pairs of the folders `config.lr` and `config.hr`; arguments and errors as of `open_source`."""
  if config.lr:
    hr_files, lr_files = _list_both(config.hr, config.lr)
    matched, faults = _match(hr_files, lr_files, scale)
  else:
    hr_files, lr_files = _list(config.hr, 'hr'), []
    matched, faults = dict.fromkeys(hr_files), {}
  faults |= _homonyms(hr_files)

  chosen = _choose(hr_files, config)
  if len(chosen) < len(hr_files):
    faults = {path: reason for path, reason in faults.items() if path in chosen}
  items = []
  for path in hr_files:
    if path in chosen and path not in faults:
      try:
        items.append(_check(path, matched[path], scale))
      except UserError as error:
        faults[path] = str(error)
  if faults:
    where = f'{len(hr_files)} HR in {config.hr}' + (f', {len(lr_files)} LR in {config.lr}' if lr_files else '')
    raise PairError(_refusal(faults, where))
  return items


def scale_of(lr: str, hr: str) -> int:
  """Returns by how much the pictures of folder `hr` are larger than those of `lr`, told from the first pair.

  Raises:
    UserError: a folder without pictures, or two without a name in common.
  """
  matched, _ = _match(*_list_both(hr, lr), 0)
  if not matched:
    raise UserError(f'No picture of {lr} has the name of a picture of {hr}.')
  hr_file, lr_file = next(iter(matched.items()))
  return max(1, round(image.size(hr_file)[0] / image.size(lr_file)[0]))


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
    inner = sorted(child.name for child in path.iterdir() if child.is_dir())
    hint = f'; its folders are not searched ({", ".join(inner[:3])})' if inner else ''
    raise UserError(f'{field}: {folder} contains no pictures ({", ".join(sorted(image.SUFFIXES))}){hint}.')
  return files


def _split(files: list[Path], folder: str) -> tuple[list[Path], list[Path]]:
  """Parts one folder into HR and LR by the suffixes of the names."""
  lr = [path for path in files if _LR_SUFFIX.search(path.stem) and not _HR_SUFFIX.search(path.stem)]
  if not 0 < len(lr) < len(files):
    raise UserError(
      f'hr and lr are the same folder, {folder}, whose names do not tell LR from HR, as a_HR and a_LR4 or a and ax4 do.'
    )
  return [path for path in files if path not in lr], lr


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
    if len(found) > 1:
      found = [lr for lr in found if _marked_scale(lr) == scale] or found
    if not found:
      faults[path] = 'no LR picture of this name'
    elif len(found) > 1:
      faults[path] = f'several LR pictures fit: {", ".join(lr.name for lr in found[:3])}'
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


def _homonyms(files: list[Path]) -> dict[Path, str]:
  by_stem = collections.defaultdict(list)
  for path in files:
    by_stem[_stem(path)].append(path)
  return {
    path: f'{len(alike)} HR pictures have this name' for alike in by_stem.values() if len(alike) > 1 for path in alike
  }


def _choose(files: list[Path], config: Any) -> set[Path]:
  """Returns the files that `config.names` and `config.skip_names` leave."""
  chosen = set(files)
  for field in ('names', 'skip_names'):
    value = getattr(config, field, '')
    if not value:
      continue
    listed = {unicodedata.normalize('NFC', name): name for name in _read_names(value)}
    hits = {path for path in files if _stem(path) in listed or unicodedata.normalize('NFC', path.name) in listed}
    known = {form for path in hits for form in (_stem(path), unicodedata.normalize('NFC', path.name))}
    unknown = [name for form, name in listed.items() if form not in known]
    if unknown:
      more = f' and {len(unknown) - 1} more' if len(unknown) > 1 else ''
      raise UserError(f'{field}={value} lists {unknown[0]!r}{more}, which {config.hr} does not contain.')
    chosen = chosen & hits if field == 'names' else chosen - hits
  if not chosen:
    raise UserError(f'names and skip_names leave no picture of {config.hr}.')
  return chosen


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


def _check(hr: Path, lr: Path | None, scale: int) -> Pair:
  """Returns the pair as its headers tell; raises UserError with the reason why it cannot be used."""
  hr_size = image.size(hr)
  if lr is None:
    lr_size = hr_size[0] // scale, hr_size[1] // scale
    if not all(lr_size):
      raise UserError(f'HR {show(hr_size)} is smaller than one LR pixel at x{scale}')
  else:
    lr_size = image.size(lr)
    fault = _size_fault(hr_size, lr_size, scale)
    if fault:
      raise UserError(f'{fault} (LR {show(lr_size)}, HR {show(hr_size)})')
  return Pair(_stem(hr), hr, lr, hr_size, lr_size)


def _size_fault(hr: tuple[int, int], lr: tuple[int, int], scale: int) -> str | None:
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


def _covers(hr: tuple[int, int], lr: tuple[int, int], scale: int) -> bool:
  """Tells whether HR is `scale` times LR, or larger by less than two LR pixels."""
  return all(0 <= large - scale * small < 2 * scale for large, small in zip(hr, lr, strict=True))


def _refusal(faults: dict[Path, str], where: str) -> str:
  """Words what is wrong with which files; a reason that all share comes first."""
  kinds = {reason.partition(' (LR ')[0] for reason in faults.values()}
  shared = f'{kinds.pop()}: ' if len(kinds) == 1 else ''
  count = f'{len(faults)} {"picture" if len(faults) == 1 else "pictures"} cannot be used ({where}):'
  lines = [f'  {path.name}: {faults[path]}' for path in _alternating(faults)]
  rest = [f'  and {len(lines) - _SHOWN} more'] if len(lines) > _SHOWN else []
  return '\n'.join([shared + count, *lines[:_SHOWN], *rest])


def _alternating(paths: Iterable[Path]) -> list[Path]:
  """Sorts by name, in turn from each folder, so that a list cut short shows how names look on both sides."""
  by_folder = collections.defaultdict(list)
  for path in sorted(paths):
    by_folder[path.parent].append(path)
  turns = itertools.zip_longest(*by_folder.values())
  return [path for turn in turns for path in turn if path is not None]


def show(size: tuple[int, ...]) -> str:
  return f'{size[1]}x{size[0]}'

"""Writes copies of pairs in which LR and HR show the same place, and leaves out what cannot be mended.

HR is moved by whole HR pixels, not resampled: interpolation would take away some of the finest detail, which is what
the network is to learn, and differently in each pair. What remains is at most half an HR pixel, an eighth of an LR
pixel at x4, which is about as well as a shift is known. LR is what the camera gives and is only cut.
"""

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adaptsr_jax import files, image
from adaptsr_jax.data.folders import Pair
from adaptsr_jax.doctor.examine import Measures, Tone
from adaptsr_jax.doctor.findings import FAULT, Finding
from adaptsr_jax.errors import UserError
from adaptsr_jax.log import watched

_LOSSLESS = ('.png', '.tif', '.tiff')
_OF_LIGHT = {'exposure', 'white balance', 'contrast'}


def check_folder(folder: Path, inputs: Sequence[str], flag: str) -> None:
  """Raises UserError if writing to `folder` could touch, or be taken for, the folders of `inputs`."""
  place = folder.resolve()
  for given in map(Path, inputs):
    if place.is_relative_to(given.resolve()):
      raise UserError(f'{flag}={folder} lies in the input {given}, which is never written to: give another folder.')
  if folder.exists() and not folder.is_dir():
    raise UserError(f'{flag}={folder} is a file: give a folder.')


def mend(
  folder: Path,
  pairs: Sequence[Pair],
  measures: Mapping[str, Measures],
  found: Sequence[Finding],
  scale: int,
  light: bool = False,
) -> dict[str, Any]:
  """Writes `folder`/LR, `folder`/HR and mended.json; the folder appears whole or not at all.

  Pairs without a finding about shift are copied byte by byte. Those that are cut are stored without loss, as PNG where
  the original format has losses. Pairs at fault and duplicates are left out.

  Args:
    folder: new or empty.
    pairs: all pairs.
    measures: by name of the pair.
    found: what `findings.judge` and `duplicates` say.
    scale: HR pixels per LR pixel.
    light: give HR the exposure, white balance and contrast of LR where a finding names them.

  Returns:
    What mended.json holds: 'pairs' (name -> what was done) and 'left_out' (name or file -> why).

  Raises:
    UserError: no pair is left, or a file cannot be read or written.
  """
  left_out = {f.pair: f.text for f in reversed(found) if f.severity == FAULT or f.kind == 'duplicate'}
  kept = [pair for pair in pairs if pair.name not in left_out]
  if not kept:
    raise UserError('No pair is left to write: all are at fault or duplicates.')
  folder = folder.absolute()
  folder.parent.mkdir(parents=True, exist_ok=True)
  needs = sum(path.stat().st_size for pair in kept for path in (pair.lr, pair.hr))
  with files.aside_folder(folder, needs) as aside:
    for side in ('LR', 'HR'):
      (aside / side).mkdir()
    done = {
      pair.name: _mend_pair(aside, pair, measures[pair.name], found, scale, light)
      for pair in watched(kept, 'Writing pairs', len(kept))
    }
    content = {'scale': scale, 'pairs': done, 'left_out': left_out}
    files.write_json(aside / 'mended.json', content)
  return content


def _mend_pair(
  folder: Path, pair: Pair, measures: Measures, found: Sequence[Finding], scale: int, light: bool
) -> dict[str, Any]:
  kinds = {finding.kind for finding in found if finding.pair == pair.name}
  tone = measures.tone if light and kinds & _OF_LIGHT else None
  moved = np.rint(scale * np.array(measures.shift[:2])).astype(int) if 'shift' in kinds else np.zeros(2, int)
  if not moved.any() and tone is None:
    for side, path in (('LR', pair.lr), ('HR', pair.hr)):
      shutil.copyfile(path, folder / side / path.name)
    return {'copied': True}
  lr_box, hr_box = common_area(pair.lr_size, pair.hr_size, moved, scale)
  _write(folder / 'LR', pair.lr, lr_box, None)
  _write(folder / 'HR', pair.hr, hr_box, tone)
  return {
    'hr_moved_by': {'down': int(moved[0]), 'right': int(moved[1])},
    'lr_box': lr_box,
    'hr_box': hr_box,
    **({'hr_gain': tone.gain, 'hr_offset_levels': tone.offset} if tone else {}),
  }


def common_area(
  lr_size: tuple[int, int], hr_size: tuple[int, int], moved: Sequence[int], scale: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Returns what LR and HR both show when HR is moved by whole HR pixels (down, right).

  Of each picture (top, left, height, width) in its pixels.
  """
  starts, sizes, hr_starts = [], [], []
  for small, large, by in zip(lr_size, hr_size, moved, strict=True):
    start = max(0, math.ceil(by / scale))
    stop = min(small, (large + by) // scale)
    if stop <= start:
      raise UserError(f'a shift of {by} HR pixels leaves nothing in common')
    starts.append(start)
    sizes.append(int(stop - start))
    hr_starts.append(int(scale * start - by))
  return (*starts, *sizes), (*hr_starts, *(scale * size for size in sizes))


def _write(folder: Path, path: Path, box: tuple[int, ...], tone: Tone | None) -> None:
  picture = image.read(path)
  top, left, height, width = box
  inside = np.s_[top : top + height, left : left + width]
  rgb = picture.rgb[inside]
  if tone:
    rgb = rgb * np.float32(tone.gain) + np.float32(tone.offset) / 255
  picture = picture._replace(rgb=rgb, alpha=None if picture.alpha is None else picture.alpha[inside])
  suffix = path.suffix if path.suffix.lower() in _LOSSLESS else '.png'
  image.write(folder / f'{path.stem}{suffix}', rgb, picture)

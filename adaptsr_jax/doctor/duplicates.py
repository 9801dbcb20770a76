"""Compares pairs with each other: pictures that occur twice, and LR pictures that belong to another HR."""

import filecmp
from collections.abc import Sequence

import numpy as np

from adaptsr_jax.data.folders import Pair
from adaptsr_jax.doctor.examine import Measures
from adaptsr_jax.doctor.findings import FAULT, UNRELATED, WARNING, Finding

# Correlation of thumbnails. The real pairs: at most 0.55 between two scenes, mostly above 0.94 between LR and its HR.
ALIKE = 0.95
_BELONGS = 0.85
_BLOCK = 1024  # rows of the table of correlations that are in memory at a time


def find(pairs: Sequence[Pair], measures: Sequence[Measures]) -> list[Finding]:
  """Returns a finding for each pair whose HR or LR picture an earlier pair has too, under another name."""
  if not measures:
    return []
  hr = _earlier([m.hr_pixels for m in measures], _stack([m.hr_thumbnail for m in measures]))
  # A wrong LR picture is known as such, and must not make a duplicate of the pair that it belongs to.
  strange = [_unrelated(m) for m in measures]
  digests = [
    f'{index}' if wrong else m.lr_pixels for index, (m, wrong) in enumerate(zip(measures, strange, strict=True))
  ]
  lr = _earlier(digests, _stack([m.lr_thumbnail for m in measures]) * ~np.array(strange)[:, None])
  found = []
  for index, pair in enumerate(pairs):
    if index in hr:
      other, both = pairs[hr[index]], lr.get(index) == hr[index]
      same = filecmp.cmp(pair.hr, other.hr, shallow=False)
      likeness, weight = ('the same file as', 2.0) if same else ('the same picture as, or nearly,', 1.0)
      text = f'HR is {likeness} {other.hr.name}{", and so is LR" if both else ", with another LR"}'
      found.append(Finding(pair.name, 'duplicate', WARNING, text, weight))
    elif index in lr:
      other = pairs[lr[index]]
      text = f'LR is the picture {other.lr.name} again, but HR is another: one of the two pairs is wrong'
      found.append(Finding(pair.name, 'duplicate', WARNING, text, 3.0))
  return found


def whose(pairs: Sequence[Pair], measures: Sequence[Measures]) -> list[Finding]:
  """Returns, for each LR picture that does not show the scene of its HR, which HR does."""
  lost = [index for index, m in enumerate(measures) if _unrelated(m)]
  if not lost:
    return []
  alike = _stack([measures[index].lr_thumbnail for index in lost]) @ _stack([m.hr_thumbnail for m in measures]).T
  found = []
  for index, row in zip(lost, alike, strict=True):
    best = int(row.argmax())
    if best != index and row[best] > _BELONGS:
      text = f'LR shows the scene of {pairs[best].hr.name}: its pictures may have been swapped or renamed'
      found.append(Finding(pairs[index].name, 'swapped', FAULT, text, 0.5))
  return found


def _unrelated(measures: Measures) -> bool:
  return measures.shift.agreement < UNRELATED  # nan, of flat pictures, is not


def _stack(thumbnails: Sequence[np.ndarray]) -> np.ndarray:
  return np.stack([thumbnail.ravel() for thumbnail in thumbnails])


def _earlier(digests: Sequence[str], thumbnails: np.ndarray) -> dict[int, int]:
  """Returns the first earlier picture that each picture repeats."""
  first, found = {}, {}
  for index, digest in enumerate(digests):
    if first.setdefault(digest, index) != index:
      found[index] = first[digest]
  for start in range(0, len(thumbnails), _BLOCK):
    block = thumbnails[start : start + _BLOCK]
    alike = np.tril(block @ thumbnails[: start + len(block)].T, start - 1) > ALIKE
    for row in np.flatnonzero(alike.any(1)):
      found.setdefault(start + int(row), int(alike[row].argmax()))
  return found

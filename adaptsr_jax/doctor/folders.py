"""Which files are pairs, and why the others are not."""

import collections
import unicodedata
from pathlib import Path
from typing import NamedTuple

from adaptsr_jax import image
from adaptsr_jax.data.folders import Folders, Pair, check_sizes, no_pairs, pairs_of
from adaptsr_jax.errors import UserError


class Listing(NamedTuple):
  """Two folders as their names and headers tell."""

  pairs: list[Pair]
  faults: dict[Path, str]  # file -> why it is no half of a pair
  scale: int  # HR pixels per LR pixel


def find(lr: str, hr: str, scale: int = 0) -> Listing:
  """Lists the pairs of two folders; unlike `data.open_source` it goes on after files that cannot be used.

  Args:
    lr: folder of LR pictures.
    hr: folder of HR pictures, matched by name as `data.open_source` does; may be the same folder.
    scale: HR pixels per LR pixel; 0: what most pairs have.

  Raises:
    UserError: a folder is missing or without pictures, or no name of one has a partner in the other.
  """
  place = Folders(hr, lr)
  scale = scale or _usual_scale(place)
  *_, matched, unmatched = pairs_of(place, scale)
  pairs, faults = [], dict(unmatched)
  for hr_file, lr_file in matched.items():
    try:
      sizes = image.size(hr_file), image.size(lr_file)
      check_sizes(*sizes, scale)
    except UserError as error:
      faults[hr_file] = str(error)
    else:
      pairs.append(Pair(unicodedata.normalize('NFC', hr_file.stem), hr_file, lr_file, *sizes))
  return Listing(pairs, faults, scale)


def _usual_scale(place: Folders) -> int:
  """Returns the most frequent scale; unlike the first pair, most pairs are seldom wrong."""
  *_, matched, faults = pairs_of(place, 0)
  if not matched:
    raise no_pairs(place.lr, place.hr, dict(faults))
  counts = collections.Counter()
  for hr_file, lr_file in matched.items():
    try:
      counts[max(1, round(image.size(hr_file)[0] / image.size(lr_file)[0]))] += 1
    except image.ImageError:
      continue  # named when its pair is checked
  if not counts:
    raise UserError(f'No pair of {place.lr} and {place.hr} can be read, so the scale is unknown: give --scale.')
  return counts.most_common(1)[0][0]

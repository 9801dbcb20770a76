"""Which photographs an adapter is for, by their EXIF: the entry 'cameras' of its header.

It is a list. The adapter is for what fits any of its members, each of which has some of
  make, model, lens   text as cameras write it, in any case; * and ? stand for other characters as in names of files
  iso                 [lowest, highest]
and a photograph fits a member if it agrees with all that the member has.
"""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from adaptsr_jax.errors import UserError, shown
from adaptsr_jax.image import Shot

TEXTS = ('make', 'model', 'lens')
_HIGHEST = 10_000_000  # above what any camera has


def recorded(shots: Iterable[Shot]) -> list[dict[str, Any]]:
  """Returns what an adapter that was trained on `shots` is for: each camera with each lens, and its ISO.

  From a stop below the lowest to a stop above the highest that there were. Shots that name no camera say nothing.
  """
  values: dict[tuple[str, ...], list[int]] = {}
  for shot in shots:
    if shot.make or shot.model:
      values.setdefault(shot[:3], []).append(shot.iso)
  found = []
  for texts, isos in sorted(values.items()):
    camera = {name: text for name, text in zip(TEXTS, texts, strict=True) if text}
    found.append(camera | ({'iso': [min(isos) // 2, 2 * max(isos)]} if all(isos) else {}))
  return found


def tagged(make: str = '', model: str = '', lens: str = '', iso: str = '') -> dict[str, Any]:
  """Returns a member of the list; `iso` is 'LOWEST-HIGHEST' or one number.

  Raises:
    UserError: nothing is given, or no such range.
  """
  camera: dict[str, Any] = {name: ' '.join(text.split()) for name, text in zip(TEXTS, (make, model, lens), strict=True)}
  camera = {name: text for name, text in camera.items() if text}
  if iso:
    low, _, high = iso.partition('-')
    numbers = [int(part) for part in (low, high or low) if part.strip().isdecimal()]
    if len(numbers) < 2 or not 0 < numbers[0] <= numbers[1] <= _HIGHEST:
      raise UserError(f'--iso={iso} is no range; give it as 100-400, or as one number.')
    camera['iso'] = numbers
  if not camera:
    raise UserError('Nothing is given: say which photographs the adapter is for by --make, --model, --lens or --iso.')
  return camera


def of(meta: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Returns the cameras of a header, as far as they have the form above: who else wrote it is not known."""
  given = meta.get('cameras')
  members = [member for member in given if isinstance(member, dict)] if isinstance(given, list) else []
  known = [{key: value for key, value in member.items() if _is_known(key, value)} for member in members]
  return [member for member in known if member]


def _is_known(key: str, value: Any) -> bool:
  if key == 'iso':
    return isinstance(value, list) and len(value) == 2 and all(type(n) in (int, float) for n in value)
  return key in TEXTS and isinstance(value, str) and value != ''


def words(camera: Mapping[str, Any]) -> str:
  """Returns a member of the list for people: 'Canon EOS 5D, EF50mm, ISO 100 to 400'."""
  make, model, lens = (camera.get(name, '') for name in TEXTS)
  body = model if model.lower().startswith(make.lower()) else f'{make} {model}'.strip()
  low, high = camera.get('iso', (0, 0))
  iso = f'ISO {low:g}' + (f' to {high:g}' if high != low else '')
  return shown(', '.join(part for part in (body or make, lens, iso if 'iso' in camera else '') if part), 160)


class Choice(NamedTuple):
  """The adapter for one photograph, and the sentence that tells of it; no name is the base."""

  name: str | None
  why: str


def choose(shot: Shot, adapters: Mapping[str, Sequence[Mapping[str, Any]]]) -> Choice:
  """Returns which of `adapters` (name -> its cameras) is for the photograph `shot`.

  Of several the one that says most: more fields alike to the letter, then more fields, then the narrower ISO, then the
  first by name.
  """
  seen = {**dict(zip(TEXTS, shot[:3], strict=True)), **({'iso': [shot.iso] * 2} if shot.iso else {})}
  fitting, nearly = [], []
  for name, cameras in sorted(adapters.items()):
    for camera in cameras:
      wrong = [field for field, value in camera.items() if not _agrees(field, value, shot)]
      letters = sum(camera.get(field, '').lower() == getattr(shot, field).lower() != '' for field in TEXTS)
      low, high = camera.get('iso', (0, _HIGHEST))
      if not wrong:
        fitting.append(((-letters, -len(camera), high - low, name), camera))
      elif letters:
        nearly.append(((len(wrong), name), camera))
  if fitting:
    (*_, name), camera = min(fitting, key=lambda each: each[0])
    return Choice(name, f'by {shown(name)}, for {words(camera)}')
  if not any(shot):
    return Choice(None, 'by the base: no EXIF tells of a camera')
  why = f'by the base: no adapter is for {words(seen)}'
  if nearly:
    (_, name), camera = min(nearly, key=lambda each: each[0])
    why += f' ({shown(name)} is for {words(camera)})'
  return Choice(None, why)


def _agrees(field: str, value: Any, shot: Shot) -> bool:
  if field == 'iso':
    return value[0] <= shot.iso <= value[1]
  text = getattr(shot, field).lower()
  return text == value.lower() or fnmatch.fnmatchcase(text, value.lower())

"""Judges measures: what is worth knowing, what harms training and measuring, and in which words.

The limits come from 93 pairs of real cameras (the DRealSR test crops, which passed its authors' registration) and from
faults planted in them; docs/doctor.md has the numbers.
"""

import math
from typing import NamedTuple

import numpy as np

from adaptsr_jax.data.folders import Pair
from adaptsr_jax.doctor.examine import Measures, Shift, Tone

FAULT, WARNING, NOTE = 'fault', 'warning', 'note'
SEVERITIES = (FAULT, WARNING, NOTE)

# (note, warning). Of the real pairs nineteen in twenty stay below every note.
LIMITS = {
  'shift': (0.2, 0.35),  # LR pixels
  'rotation or zoom': (0.3, 0.6),  # LR pixels at the corners
  'local shift': (0.4, 0.8),  # LR pixels
  'exposure': (0.12, 0.3),  # stops
  'white balance': (0.25, 0.5),  # stops between the channels
  'contrast': (1.25, 1.6),  # gain, or its inverse
  'agreement': (0.9, 0.8),  # correlation; less is worse
  'detail': (6.0, 4.0),  # energy against an enlargement; less is worse
  'detail x2': (2.5, 1.5),  # the octave reaches up to the finest HR pixels, where cameras' pictures are soft
  'clipped': (0.1, math.inf),  # share of the pixels
}
UNRELATED = 0.5  # correlation: real pairs have at least 0.88, strangers at most 0.23
_LEAST_LEVELS = 3.0  # differences of light below this are invisible, whatever they are in stops
_SURE = 3  # standard errors that a shift must exceed


class Finding(NamedTuple):
  """One thing about one pair, in words."""

  pair: str  # name, or the file that is half of none
  kind: str
  severity: str
  text: str
  weight: float = 1.0  # how far beyond the limit, to sort by


def order(findings: list[Finding]) -> list[Finding]:
  """Sorts the worst first."""
  return sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), -f.weight, f.pair, f.kind))


def judge(pair: Pair, measures: Measures, scale: int) -> list[Finding]:
  """Returns what is to be said about one pair, apart from the others."""
  shift = measures.shift
  if shift.agreement < UNRELATED:
    text = f'LR and HR show different scenes (their structures correlate by {shift.agreement:.2f})'
    return [Finding(pair.name, 'unrelated', FAULT, text, 1 - shift.agreement)]
  said = [*_registration(shift, scale), *_light(measures.tone), *_content(measures, scale)]
  return [Finding(pair.name, *rest) for rest in said if rest]


def _registration(shift: Shift, scale: int) -> list[tuple | None]:
  if math.isnan(shift.agreement):
    return [('flat', NOTE, 'hardly any structure, so a shift cannot be told', 0.0)]
  length = math.hypot(shift.down, shift.right)
  words = f'LR lies {_way(shift)} of HR (LR pixels; {scale * length:.1f} HR pixels)'
  return [
    _beyond('shift', length, words) if length > _SURE * shift.error else None,
    _beyond(
      'rotation or zoom', shift.corner, f'LR is turned or zoomed: {shift.corner:.1f} px at the corners against HR'
    ),
    _beyond('local shift', shift.local, f'parts of LR are shifted by {shift.local:.1f} px: parallax or movement'),
    _beyond('agreement', shift.agreement, f'LR and HR agree poorly (correlation {shift.agreement:.2f})'),
  ]


def _way(shift: Shift) -> str:
  ways = [(shift.right, 'right', 'left'), (shift.down, 'below', 'above')]
  return ' and '.join(f'{abs(d):.2f} px {a if d > 0 else b}' for d, a, b in ways if abs(d) >= 0.05)


def _light(tone: Tone) -> list[tuple | None]:
  stops, levels = np.mean(tone.stops), np.mean(tone.levels)
  spread, spread_levels = np.ptp(tone.stops), np.ptp(tone.levels)
  gain = float(np.mean(tone.gain))
  tint = ', '.join(f'{name} {s:+.2f}' for name, s in zip('RGB', tone.stops, strict=True))
  exposure = f'LR is {abs(stops):.2f} stops {"brighter" if stops > 0 else "darker"} than HR ({levels:+.0f} levels)'
  contrast = f'LR has {"more" if gain > 1 else "less"} contrast than HR (x {gain:.2f})'
  return [
    _beyond('exposure', abs(stops), exposure) if abs(levels) > _LEAST_LEVELS else None,
    _beyond('white balance', spread, f'white balance differs (LR against HR in stops: {tint})')
    if spread_levels > _LEAST_LEVELS
    else None,
    _beyond('contrast', max(gain, 1 / max(gain, 0.01)), contrast),
  ]


def _content(measures: Measures, scale: int) -> list[tuple | None]:
  lr, hr = measures.clipped
  detail = measures.detail
  soft = f'HR is blurred or was enlarged: {detail:.1f} times the fine detail of an enlarged LR'
  clipped = f'{100 * lr:.0f} % of LR and {100 * hr:.0f} % of HR are clipped to black or white in a channel'
  return [
    _beyond('detail', detail, soft, LIMITS['detail x2' if scale == 2 else 'detail']),
    _beyond('clipped', max(lr, hr), clipped),
  ]


def _beyond(kind: str, value: float, text: str, limits: tuple[float, float] | None = None) -> tuple | None:
  note, warning = limits or LIMITS[kind]
  if note > warning:  # less is worse
    value, note, warning = 1 / max(value, 0.01), 1 / note, 1 / warning
  if not value > note:  # nan: unknown
    return None
  return kind, WARNING if value > warning else NOTE, text, float(value / note)

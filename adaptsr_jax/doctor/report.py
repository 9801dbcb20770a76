"""What the doctor says: lines for the terminal, doctor.json, and a sheet of the worst pairs."""

import collections
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adaptsr_jax import figures, image
from adaptsr_jax.data.folders import Pair
from adaptsr_jax.doctor import findings as findings_lib
from adaptsr_jax.doctor.examine import Measures, shrunk, to_levels
from adaptsr_jax.doctor.findings import FAULT, NOTE, SEVERITIES, WARNING, Finding
from adaptsr_jax.errors import escaped, shown

_SHOWN = 60  # lines on the terminal; doctor.json holds all
_SHEET = 8  # pairs on the sheet
_SIDE = 96  # LR pixels a side of what the sheet shows of a pair
_GAIN = 2  # of the difference on the sheet


def lines(found: Sequence[Finding], notes: bool = False) -> list[str]:
  """Returns what matters, worst first, one line per finding, followed by the notes if asked for."""
  matter = [f for f in findings_lib.order(found) if notes or f.severity != NOTE]
  width = max((len(shown(f.pair)) for f in matter[:_SHOWN]), default=0)
  text = [f'{f.severity:8} {shown(f.pair):{width}}  {escaped(f.text)}' for f in matter[:_SHOWN]]
  return text + ([f'... and {len(matter) - _SHOWN} more in doctor.json'] if len(matter) > _SHOWN else [])


def summary(found: Sequence[Finding], measures: Mapping[str, Measures], scale: int) -> list[str]:
  """Returns the counts, and what all pairs have in common."""
  worst = {}
  for finding in findings_lib.order(found):
    worst.setdefault(finding.pair, finding.severity)
  count = collections.Counter(worst.values())
  fine = sum(name not in worst for name in measures)
  kinds = collections.Counter(f.kind for f in found)
  text = [
    f'{len(measures)} pairs examined at x{scale}: {fine} fine, {count[NOTE]} with notes only (--notes lists them), '
    f'{count[WARNING]} with warnings; {count[FAULT]} pairs or files at fault.'
  ]
  if kinds:
    text.append('Findings: ' + ', '.join(f'{number} {kind}' for kind, number in kinds.most_common()) + '.')
  if measures:
    down, right = median_shift(measures)
    stops, psnr = np.median([(np.mean(m.tone.stops), m.psnr) for m in measures.values()], axis=0)
    text.append(
      f'Median pair: LR lies {right:+.2f} px right and {down:+.2f} px below, is {stops:+.2f} stops brighter, and has '
      f'{psnr:.1f} dB against the shrunk HR.'
    )
    if max(abs(down), abs(right)) > findings_lib.LIMITS['shift'][0]:
      text.append(
        'Most LR pictures are shifted alike: they were shrunk with another idea of where a pixel lies (its corner '
        'instead of its centre), or the camera was moved between LR and HR.'
      )
  return text


def median_shift(measures: Mapping[str, Measures]) -> tuple[float, float]:
  """Returns the median (down, right) of the shifts that are known; zeros where none is."""
  known = [m.shift[:2] for m in measures.values() if m.shift.agreement > findings_lib.UNRELATED and m.shift.error < 0.1]
  return tuple(map(float, np.median(known, axis=0))) if known else (0.0, 0.0)


def content(
  pairs: Sequence[Pair], measures: Mapping[str, Measures], found: Sequence[Finding], scale: int
) -> dict[str, Any]:
  """Returns what doctor.json holds: pairs with their measures and findings, files that are in none, and the limits."""
  by_name = collections.defaultdict(list)
  for finding in findings_lib.order(found):
    by_name[finding.pair].append({'kind': finding.kind, 'severity': finding.severity, 'text': finding.text})
  rows = {
    pair.name: {
      'lr': str(pair.lr),
      'hr': str(pair.hr),
      'measures': _plain(measures[pair.name]) if pair.name in measures else None,
      'findings': by_name.pop(pair.name, []),
    }
    for pair in pairs
  }
  down, right = median_shift(measures)
  return {
    'scale': scale,
    'median_shift': {'down': down, 'right': right},
    'counts': {severity: sum(f.severity == severity for f in found) for severity in SEVERITIES},
    'limits': {kind: dict(zip((NOTE, WARNING), limits, strict=True)) for kind, limits in findings_lib.LIMITS.items()},
    'pairs': rows,
    'files': dict(by_name),
  }


def _plain(measures: Measures) -> dict[str, Any]:
  return {
    **{key: getattr(measures, key) for key in ('psnr', 'psnr_mended', 'detail')},
    **{key: getattr(measures, key)._asdict() for key in ('shift', 'tone')},
    'clipped': dict(zip(('lr', 'hr'), measures.clipped, strict=True)),
  }


def sheet(path: Path, pairs: Sequence[Pair], found: Sequence[Finding], scale: int) -> bool:
  """Draws the worst pairs that can be read: LR, HR and their difference, where they differ most; tells if any."""
  by_name = {pair.name: pair for pair in pairs}
  worst: dict[str, Finding] = {}
  for finding in findings_lib.order(found):
    if finding.severity != NOTE and finding.pair in by_name:
      worst.setdefault(finding.pair, finding)
  rows, names = [], []
  for name, finding in worst.items():
    if len(rows) == _SHEET:
      break
    try:
      rows.append(_panels(by_name[name], scale))
    except image.ImageError:
      continue
    names.append(f'{name}: {finding.kind}')
  if rows:
    figures.compare_strip(path, rows, names)
  return bool(rows)


def _panels(pair: Pair, scale: int) -> list[tuple[str, np.ndarray]]:
  lr, hr = image.read_array(pair.lr), image.read_array(pair.hr)
  small = to_levels(lr)
  difference = small - shrunk(hr, scale, lr.shape[:2])
  box = figures.heaviest_box(np.abs(difference).mean(-1), min(_SIDE, *lr.shape[:2]))
  inside = box.window()
  return [
    ('LR', small[inside] / 255),
    ('HR', to_levels(hr[box.window(scale)]) / 255),
    (f'LR - HR, x{_GAIN} on gray', 0.5 + _GAIN * difference[inside] / 255),
  ]

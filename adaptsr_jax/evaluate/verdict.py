"""What single pictures say beside the mean of their gains: median, how many gained, and the one that decides."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from adaptsr_jax.evaluate import statistics

_OUTLIER = 3 * 1.4826  # median absolute deviations: three standard deviations of a normal distribution


class Spread(NamedTuple):
  """How the gains in dB of single pictures lie."""

  median: float  # nan without pictures
  gained: int
  pictures: int
  p: float  # of the signed-rank test (Wilcoxon 1945), two-sided; nan with fewer than `statistics.FEW` pictures
  decides: str | None  # the picture far from all others that the mean hangs on
  own: float  # its gain
  without: float  # mean gain of the others
  rising: bool  # whether pictures gain, by the test or for certain, whatever one of them does to the mean


def gains(after: Mapping[str, Any], before: Mapping[str, Any], metric: str = 'psnr_y') -> dict[str, float]:
  """Returns the difference of two results of `measure.score` on each picture where it is a finite number."""
  rows = {name: (row[metric], before['images'][name][metric]) for name, row in after['images'].items()}
  return {name: a - b for name, (a, b) in rows.items() if None not in (a, b) and np.isfinite((a, b)).all()}


def spread(gains: Mapping[str, float]) -> Spread:
  """Examines the gains of pictures, finite numbers.

  One picture decides the mean if it lies apart from all, and without it the mean moves by more than half of itself or
  `statistics.certain` says otherwise.
  """
  names, values = list(gains), np.array(list(gains.values()), np.float64)
  if not names:
    return Spread(np.nan, 0, 0, np.nan, None, np.nan, np.nan, False)
  p = np.nan
  if len(names) >= statistics.FEW and values.any():
    from scipy import stats  # slow to import

    p = float(stats.wilcoxon(values).pvalue)
  median = float(np.median(values))
  rising = median > 0 and p < 0.05
  distance = np.abs(values - median)
  farthest = int(np.argmax(distance))
  others, decides, own, without = np.delete(values, farthest), None, np.nan, np.nan
  if others.size > 1 and distance[farthest] > _OUTLIER * np.median(distance):
    own, without = float(values[farthest]), float(others.mean())
    sure = [statistics.certain(*statistics.bootstrap(some), some.size) for some in (values, others)]
    if sure[0] != sure[1] or abs(without - values.mean()) > abs(values.mean()) / 2:
      decides, rising = names[farthest], rising or (sure[1] and without > 0)
  return Spread(median, int((values > 0).sum()), len(names), p, decides, own, without, rising)


def words(
  of: Spread, after: Mapping[str, Any], before: Mapping[str, Any], signed: Callable[[float, int], str]
) -> list[str]:
  """Returns the sentences on the pictures: median and count, and the picture that decides, if one does.

  Args:
    of: at least one picture.
    after: result of `measure.score`; those of versions that kept no levels tell less.
    before: the same of what it is compared with.
    signed: (number, digits) -> text with a sign.
  """
  p = f' (signed-rank p {"< 0.001" if of.p < 0.001 else f"= {of.p:.2g}"})' if of.p == of.p else ''
  noun = 'picture' if of.pictures == 1 else 'pictures'
  said = [f'Better on {of.gained} of {of.pictures} {noun}{p}, median {signed(of.median, 2)} dB.']
  if of.decides:
    levels = [result.get('levels', {}).get(of.decides) for result in (after, before)]
    level = ''
    if None not in levels:
      level = f', its level shifted by {signed(levels[0] - levels[1], 1)} grey levels ({signed(levels[0], 1)} from HR)'
    own, without = signed(of.own, 2), signed(of.without, 2)
    said.append(f'{of.decides} decides the mean: {own} dB{level}; without it the mean is {without} dB.')
  return said

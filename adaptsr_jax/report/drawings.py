"""Drawings of a report: one of a template, which takes the colours of the page, and those of `adaptsr_jax.figures`."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.ticker import MaxNLocator

from adaptsr_jax import figures, page
from adaptsr_jax.report.gather import Interval, Run

_MINUS = '\N{MINUS SIGN}'


def gains_svg(gains: Mapping[str, float], interval: Interval, what: str) -> str:
  """Returns an SVG with one bar per picture in the given order, and the mean with its interval behind them.

  Args:
    gains: picture -> gain; at least one.
    interval: mean gain.
    what: the unit of the gains, for the title of each bar and the axis.
  """
  finite = [0.0, *(value for value in (*gains.values(), interval.low, interval.high) if math.isfinite(value))]
  low, high = min(finite), max(finite)
  margin = 0.06 * (high - low) or 1.0
  low, high = low - margin * (low < 0), high + margin * (high > 0 or low == 0)
  ticks = [tick for tick in MaxNLocator(5).tick_values(low, high) if low <= tick <= high]
  values = list(gains.values())
  ends = ' to '.join(f'{value:+.3g}'.replace('-', _MINUS) for value in (values[0], values[-1]))
  better = sum(value > 0 for value in values)
  text = f'Gain of each picture in {what}, from {ends}; {better} of {len(values)} gained.'
  drawn = {'low': low, 'high': high, 'ticks': ticks, 'text': text, 'minus': _MINUS}
  return page.render('report/gains.svg', gains=gains, interval=interval, what=what, **drawn)


def draw_curve(path: Path, runs: Sequence[Run], baselines: Mapping[str, float]) -> bool:
  """Draws validation PSNR against steps, from the base on; returns False where no run has measured on its way."""
  histories = {}
  for run in runs:
    measured = [(row['step'], row['valid/psnr_y']) for row in run.history if 'valid/psnr_y' in row]
    # Every method begins as its base.
    histories[run.label] = measured and [(0, run.results['base']['mean']['psnr_y']), *measured]
  series = {label: tuple(zip(*points, strict=True)) for label, points in histories.items() if points}
  if series:
    figures.learning_curves(path, series, 'step', 'PSNR (Y) in dB', baselines=baselines)
  return bool(series)

"""Drawings of a report: SVG text that is drawn here, and files drawn by `adaptsr_jax.figures`."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from adaptsr_jax import figures
from adaptsr_jax.report.gather import Interval, Run

# Okabe and Ito's blue and vermilion: apart for colour-blind readers; above and below the line they differ in place too.
_GAIN, _LOSS = '#0072B2', '#D55E00'
# Of the drawing in its own units, which are pixels on a phone.
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 360, 190, 44, 6, 10, 22


def gains_svg(gains: Mapping[str, float], interval: Interval, what: str) -> str:
  """Returns an SVG with one bar per picture in the given order, and the mean with its interval behind them.

  Args:
    gains: picture -> gain; at least one.
    interval: mean gain.
    what: the unit of the gains, for the title of each bar and the axis.
  """
  low, high = _limits([*gains.values(), interval.low, interval.high])
  inner = _HEIGHT - _TOP - _BOTTOM

  def y(value: float) -> float:
    return _TOP + inner * (high - value) / (high - low)

  right = _WIDTH - _RIGHT
  parts = [
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" color="#333" role="img" '
    f'font-family="system-ui, sans-serif" font-size="10"><title>{escape(_gains_text(gains, what))}</title>'
  ]
  if math.isfinite(interval.low):
    parts.append(
      f'<rect x="{_LEFT}" y="{y(interval.high):.1f}" width="{right - _LEFT}" '
      f'height="{max(1, y(interval.low) - y(interval.high)):.1f}" fill="currentColor" opacity="0.1"/>'
    )
  for tick in _ticks(low, high):
    parts.append(
      f'<path d="M{_LEFT} {y(tick):.1f}H{right}" stroke="currentColor" stroke-width="0.5" opacity="0.25"/>'
      f'<text x="{_LEFT - 5}" y="{y(tick) + 3.5:.1f}" text-anchor="end" fill="currentColor">{_tick(tick)}</text>'
    )
  step = (right - _LEFT) / len(gains)
  width = min(0.8 * step, 36)
  for i, (name, value) in enumerate(gains.items()):
    x, top, bottom = _LEFT + (i + 0.5) * step - width / 2, y(max(value, 0)), y(min(value, 0))
    parts.append(
      f'<rect x="{x:.2f}" y="{top:.2f}" width="{width:.2f}" height="{max(bottom - top, 0.4):.2f}" '
      f'fill="{_GAIN if value >= 0 else _LOSS}"><title>{escape(name)}: {_signed(value)} {what}</title></rect>'
    )
  parts.append(f'<path d="M{_LEFT} {y(0):.1f}H{right}" stroke="currentColor"/>')
  parts.append(
    f'<path d="M{_LEFT} {y(interval.mean):.1f}H{right}" stroke="currentColor" stroke-dasharray="4 3"/>'
    f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 6}" text-anchor="middle" fill="currentColor">'
    f'{len(gains)} picture{"s" * (len(gains) != 1)}, the largest gain first</text></svg>'
  )
  return ''.join(parts)


def _gains_text(gains: Mapping[str, float], what: str) -> str:
  values = list(gains.values())
  better = sum(value > 0 for value in values)
  return (
    f'Gain of each picture in {what}, from {_signed(values[0])} to {_signed(values[-1])}; '
    f'{better} of {len(values)} gained.'
  )


def _limits(values: Sequence[float]) -> tuple[float, float]:
  """Returns the range of the axis: that of the finite values and 0, with a margin."""
  finite = [0.0, *(value for value in values if math.isfinite(value))]
  low, high = min(finite), max(finite)
  margin = 0.06 * (high - low) or 1.0
  return low - margin * (low < 0), high + margin * (high > 0 or low == 0)


def _ticks(low: float, high: float) -> list[float]:
  """Returns round numbers within the range, 3 to 6 of them."""
  rough = (high - low) / 4
  power = 10 ** math.floor(math.log10(rough))
  step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
  first = math.ceil(low / step)
  return [round(n * step, 9) for n in range(first, math.floor(high / step) + 1)]


def _tick(value: float) -> str:
  return f'{value:g}'.replace('-', '\N{MINUS SIGN}')


def _signed(value: float) -> str:
  return f'{value:+.3g}'.replace('-', '\N{MINUS SIGN}')


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


def draw_ranks(path: Path, run: Run) -> bool:
  """Draws the ranks of the sites; returns False for a method without."""
  ranks = run.ranks.get('ranks')
  if ranks:
    figures.rank_heatmap(path, ranks, f'Ranks by {run.ranks["rule"]}')
  return bool(ranks)

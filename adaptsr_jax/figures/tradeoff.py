"""Quality against the number of trained parameters, and one quality against another."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from adaptsr_jax.errors import escaped
from adaptsr_jax.figures import style


def tradeoff(
  path: str | os.PathLike,
  points: Sequence[tuple],
  ylabel: str,
  better: Literal['higher', 'lower'] = 'higher',
  baselines: Mapping[str, float] | None = None,
) -> None:
  """Draws values against trained parameters on a logarithmic axis, every point with its label in the right margin.

  Args:
    path: .png or .svg file.
    points: (label, trained parameters, value), and behind them, where it is known, the range (low, high) of the value
      over repeats; parameters > 0. What trains nothing is a baseline.
    ylabel: what the values are, with their unit.
    better: which values are better, said at the axis.
    baselines: label -> y of a horizontal reference line.
  """
  if not points:
    raise ValueError('a trade-off needs at least one point')
  if better not in ('higher', 'lower'):
    raise ValueError(f"better is 'higher' or 'lower', not {better!r}")
  for label, *numbers in points:
    if not all(map(math.isfinite, numbers)) or numbers[0] <= 0:
      raise ValueError(f'{label} needs finite numbers and more than 0 parameters')
  baselines, labels = baselines or {}, []
  room = max(style.text_width(label, style.SMALL) for label in (*baselines, *(point[0] for point in points)))
  figure = style.new_figure(4.8 + room, 3.4)
  axes = style.plot_axes(figure, 'trained parameters', f'{ylabel}, {better} is better')
  axes.set_xscale('log')
  for i, (label, parameters, value, *spread) in enumerate(points):
    labels.append((label, (parameters, value), style.colour(i)))
    axes.vlines(parameters, *(spread or (value, value)), color=style.colour(i), linewidth=1, zorder=2)
    axes.plot(
      parameters,
      value,
      style.marker(i),
      color=style.colour(i),
      markersize=6.5,
      markeredgecolor=style.PAPER,
      markeredgewidth=0.5,
      zorder=3,
    )
  axes.margins(x=0.12, y=0.14)
  _widen(axes)
  axes.ticklabel_format(axis='y', style='plain', useOffset=False)
  style.label_in_margin(axes, labels, baselines)
  style.save(figure, path)


def slider(
  path: str | os.PathLike,
  points: Sequence[tuple[str, float, float]],
  xlabel: str,
  ylabel: str,
  title: str = '',
) -> None:
  """Draws a line through points in their order, such as mixtures of two models, with a label beside each that has one.

  Args:
    path: .png or .svg file.
    points: (label or '', x, y).
    xlabel: what x is, with its unit.
    ylabel: as `xlabel`.
    title: above the plot.
  """
  figure = style.new_figure(4.8, 3.4)
  axes = style.plot_axes(figure, xlabel, ylabel, title)
  axes.plot(
    [x for _, x, _ in points], [y for *_, y in points], color=style.colour(0), linewidth=1.2, marker='o', markersize=4
  )
  for label, x, y in points:
    letters = {'size': style.SMALL, 'color': style.ink_of(style.colour(0)), 'parse_math': False}
    axes.annotate(escaped(label), (x, y), (5, 5), textcoords='offset points', **letters)
  axes.margins(x=0.12, y=0.12)
  for axis in (axes.xaxis, axes.yaxis):
    axis.get_major_formatter().set_useOffset(False)
  style.save(figure, path)


def _widen(axes: Axes) -> None:
  """Gives the logarithmic axis at least a decade, and ticks that suit its length."""
  low, high = axes.get_xlim()
  middle = math.sqrt(low * high)
  low, high = min(low, middle / math.sqrt(10)), max(high, middle * math.sqrt(10))
  axes.set_xlim(low, high)
  axes.xaxis.set_major_locator(LogLocator(subs=(1,) if high / low > 1e3 else (1, 3) if high / low > 30 else (1, 2, 5)))
  axes.xaxis.set_major_formatter(EngFormatter(sep=''))
  axes.xaxis.set_minor_formatter(NullFormatter())

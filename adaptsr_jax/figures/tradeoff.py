"""Quality against the number of trained parameters, and one quality against another."""

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from adaptsr_jax.errors import escaped
from adaptsr_jax.figures import style

_MARK = 6.5  # points: size of the marks
_POINT = style.DPI / 72  # pixels
# Where a label may stand: directions in the order of preference, and distances from the mark in points.
_DIRECTIONS = [(1, 0), (-1, 0), (0, 1), (0, -1), *itertools.product((1, -1), (1, -1))]
_DIRECTIONS = np.array(
  [*_DIRECTIONS, *itertools.product((1, -1), (0.5, -0.5)), *itertools.product((0.5, -0.5), (1, -1))]
)
_DISTANCES = (3, 9, 16, 26, 38, 52, 70, 90)


def tradeoff(
  path: str | os.PathLike,
  points: Sequence[tuple],
  ylabel: str,
  better: Literal['higher', 'lower'] = 'higher',
  baselines: Mapping[str, float] | None = None,
) -> None:
  """Draws values against trained parameters on a logarithmic axis, every point with its label beside it.

  Args:
    path: .png or .svg file.
    points: (label, trained parameters, value, low, high), of which the last two, the range of the value over repeats,
      may be None or missing; parameters > 0. What trains nothing is a baseline.
    ylabel: what the values are, with their unit.
    better: which values are better, said at the axis.
    baselines: label -> y of a horizontal reference line.
  """
  if not points:
    raise ValueError('a trade-off needs at least one point')
  if better not in ('higher', 'lower'):
    raise ValueError(f"better is 'higher' or 'lower', not {better!r}")
  baselines = baselines or {}
  points = [(*p[:3], *(p[2] if edge is None else edge for edge in (*p[3:], None, None)[:2])) for p in points]
  for label, *numbers in points:
    if not all(map(math.isfinite, numbers)) or numbers[0] <= 0:
      raise ValueError(f'{label} needs finite numbers and more than 0 parameters')
  room = max([style.text_width(label, style.SMALL) for label in baselines], default=0.0)
  widest = max(style.text_width(label, style.SMALL) for label, *_ in points)
  figure = style.new_figure(max(4.8, 1 + widest) + room, max(3.4, 1 + 0.13 * len(points)))
  axes = style.plot_axes(figure, 'trained parameters', f'{ylabel}, {better} is better')
  axes.set_xscale('log')
  colours = style.colours(len(points))
  for i, (_, parameters, value, low, high) in enumerate(points):
    axes.vlines(parameters, low, high, color=colours[i], linewidth=1, zorder=2)
    axes.plot(
      parameters,
      value,
      style.marker(i),
      color=colours[i],
      markersize=_MARK,
      markeredgecolor=style.PAPER,
      markeredgewidth=0.5,
      zorder=3,
    )
  axes.margins(x=0.12, y=0.14)
  _widen(axes)
  axes.ticklabel_format(axis='y', style='plain', useOffset=False)
  style.label_in_margin(axes, [], baselines)
  figure.draw_without_rendering()
  figure.set_layout_engine('none')  # labels are fitted into the axes as they are now
  _label_points(axes, points, colours, list(baselines.values()))
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
    [x for _, x, _ in points], [y for *_, y in points], color=style.COLOURS[0], linewidth=1.2, marker='o', markersize=4
  )
  for label, x, y in points:
    axes.annotate(escaped(label), (x, y), (5, 5), textcoords='offset points', **style.letters(style.COLOURS[0]))
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


def _label_points(axes: Axes, points: Sequence[tuple], colours: Sequence[str], lines: Sequence[float]) -> None:
  """Writes each label at the nearest free place around its mark; where none is free, where it covers least."""
  pixels, inside, radius = axes.transData.transform, axes.get_window_extent(), _MARK / 2 * _POINT
  taken = [pixels([(x, y) for x in axes.get_xlim()]) + [[-0.5], [0.5]] for y in lines]
  taken += [pixels([(x, y)] * 2) + [[-radius], [radius]] for _, x, y, *_ in points]
  taken += [pixels([(x, low), (x, high)]) + [[-2], [2]] for _, x, _, low, high in points]
  pending = set(range(len(points)))
  # What fits beside its mark goes first.
  for i, distances in ((i, most) for most in (_DISTANCES[:1], _DISTANCES[:3], _DISTANCES) for i in sorted(pending)):
    label, x, y, *_ = points[i]
    size = np.array([style.text_width(label, style.SMALL), 1.3 * style.SMALL / 72]) * style.DPI + 4
    mark, places = pixels((x, y)), []
    for distance, direction in itertools.product(distances, _DIRECTIONS):
      offset = direction * (radius + distance * _POINT + size / 2)
      offset = np.clip(offset, inside.min + size / 2 - mark, inside.max - size / 2 - mark)
      boxes = [mark + offset + np.outer((-0.5, 0.5), size)]
      moved = (abs(offset) - size / 2).max() > radius + 6 * _POINT
      if moved:  # a line leads to the mark, and should cover nothing either
        line = np.linspace(20 / np.hypot(*offset), 1, 16)
        boxes += [mark + offset * part + [[-5], [5]] for part in line]
      places.append((_covered(boxes, taken) + distance, len(places), offset, moved, boxes))
    cost, _, offset, moved, boxes = min(places)
    if cost < distances[-1] + 1 or distances == _DISTANCES:
      pending.remove(i)
      taken += boxes
      leader = {**style.LEADER, 'color': colours[i], 'shrinkB': _MARK / 2} if moved else None
      place = {'xytext': offset / _POINT, 'textcoords': 'offset points', 'ha': 'center', 'va': 'center'}
      axes.annotate(escaped(label), (x, y), arrowprops=leader, **place, **style.letters(colours[i]))


def _covered(boxes: Sequence[np.ndarray], taken: Sequence[np.ndarray]) -> float:
  """Returns how much of the boxes others take, in square pixels; all are (lower left, upper right) corners."""
  (low, high), (lows, highs) = np.stack(boxes, 1)[:, :, None], np.stack(taken, 1)
  return np.clip(np.minimum(high, highs) - np.maximum(low, lows), 0, None).prod(-1).sum()

"""Quality against the number of trained parameters, and one quality against another."""

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from adaptsr_jax.errors import escaped
from adaptsr_jax.figures import style

_MARK = 6.5  # points: size of the marks
# Where a label may stand: directions in the order of preference, and distances from the mark in points.
_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
_DISTANCES = (3, 9, 16, 26, 38, 52)
_UNIT = style.DPI / 72  # pixels in a point
_LEADER = 9  # points: from this distance on a line leads from the label to its mark


class Point(NamedTuple):
  """One result: its label, trained parameters, value, and where known the range of the value over repeats."""

  label: str
  parameters: float
  value: float
  low: float | None = None
  high: float | None = None


def tradeoff(
  path: str | os.PathLike,
  points: Sequence[Point | tuple],
  ylabel: str,
  better: Literal['higher', 'lower'] = 'higher',
  baselines: Mapping[str, float] | None = None,
  title: str = '',
) -> None:
  """Draws values against trained parameters on a logarithmic axis, every point with its label beside it.

  Args:
    path: .png or .svg file.
    points: `Point`s, or tuples of their fields; parameters > 0. What trains nothing is a baseline.
    ylabel: what the values are, with their unit.
    better: which values are better, said at the axis.
    baselines: label -> y of a horizontal reference line.
    title: above the plot.
  """
  points, baselines = [Point(*point) for point in points], baselines or {}
  _check(points, better)
  room = max([style.text_width(label, style.SMALL) for label in baselines], default=0.0)
  figure = style.new_figure(4.8 + room, 3.4)
  axes = style.plot_axes(figure, 'trained parameters', f'{ylabel}, {better} is better', title)
  axes.set_xscale('log')
  for i, point in enumerate(points):
    low, high = _range(point)
    axes.vlines(point.parameters, low, high, color=style.colour(i), linewidth=1, zorder=2)
    axes.plot(
      point.parameters,
      point.value,
      style.marker(i),
      color=style.colour(i),
      markersize=_MARK,
      markeredgecolor=style.PAPER,
      markeredgewidth=0.5,
      zorder=3,
    )
  for y in baselines.values():
    axes.axhline(y, color=style.BASELINE, linewidth=0.9, linestyle=(0, (3, 2)), zorder=1)
  axes.margins(x=0.12, y=0.14)
  _widen(axes)
  axes.ticklabel_format(axis='y', style='plain', useOffset=False)
  right = axes.get_xlim()[1]
  style.label_in_margin(axes, [(label, (right, y), style.BASELINE) for label, y in baselines.items()])
  figure.draw_without_rendering()
  figure.set_layout_engine('none')  # labels are fitted into the axes as they are now
  _label_points(axes, points, list(baselines.values()))
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


def _check(points: Sequence[Point], better: str) -> None:
  if not points:
    raise ValueError('a trade-off needs at least one point')
  if better not in ('higher', 'lower'):
    raise ValueError(f"better is 'higher' or 'lower', not {better!r}")
  for point in points:
    numbers = (point.parameters, point.value, *_range(point))
    if not all(map(math.isfinite, numbers)) or point.parameters <= 0:
      raise ValueError(f'{point} needs finite numbers and more than 0 parameters')


def _range(point: Point) -> tuple[float, float]:
  return (
    point.value if point.low is None else point.low,
    point.value if point.high is None else point.high,
  )


def _widen(axes: Axes) -> None:
  """Gives the logarithmic axis at least a decade, and ticks that suit its length."""
  low, high = axes.get_xlim()
  middle = math.sqrt(low * high)
  low, high = min(low, middle / math.sqrt(10)), max(high, middle * math.sqrt(10))
  axes.set_xlim(low, high)
  axes.xaxis.set_major_locator(LogLocator(subs=(1,) if high / low > 1e3 else (1, 3) if high / low > 30 else (1, 2, 5)))
  axes.xaxis.set_major_formatter(style.short_number)
  axes.xaxis.set_minor_formatter(NullFormatter())


def _label_points(axes: Axes, points: Sequence[Point], lines: Sequence[float]) -> None:
  """Writes each label at the nearest free place around its mark; where none is free, where it covers least."""
  marks = [axes.transData.transform((point.parameters, point.value)) for point in points]
  taken = _obstacles(axes, points, lines)
  inside = axes.get_window_extent()
  for i, (point, mark) in enumerate(zip(points, marks, strict=True)):
    size = _size(axes, point.label)
    places = [
      (distance, mark + direction * ((_MARK / 2 + distance) * _UNIT + size / 2))
      for distance, direction in itertools.product(_DISTANCES, np.array(_DIRECTIONS))
    ]
    boxes = [Bbox([centre - size / 2, centre + size / 2]) for _, centre in places]
    best = min(range(len(places)), key=lambda j: _covered(boxes[j], taken, inside))
    distance, centre = places[best]
    axes.annotate(
      escaped(point.label),
      (point.parameters, point.value),
      (centre - mark) / _UNIT,
      textcoords='offset points',
      size=style.SMALL,
      color=style.ink_of(style.colour(i)),
      ha='center',
      va='center',
      parse_math=False,
      arrowprops={'arrowstyle': '-', 'color': style.colour(i), 'linewidth': 0.6, 'shrinkA': 0, 'shrinkB': _MARK / 2}
      if distance >= _LEADER
      else None,
    )
    taken.append(boxes[best])


def _obstacles(axes: Axes, points: Sequence[Point], lines: Sequence[float]) -> list[Bbox]:
  """Returns where marks, ranges and reference lines are, in pixels."""
  to_pixels = axes.transData.transform
  boxes = []
  for point in points:
    places = to_pixels([(point.parameters, y) for y in (point.value, point.value, *_range(point))])
    half = np.array([[_MARK / 2], [_MARK / 2], [0.5], [0.5]]) * _UNIT
    boxes += [
      Bbox([places[0] - half[0], places[1] + half[1]]),
      Bbox([places[2] - half[2], places[3] + half[3]]),
    ]
  left, right = axes.get_window_extent().intervalx
  for value in lines:
    y = to_pixels((1, value))[1]
    boxes.append(Bbox([[left, y - _UNIT], [right, y + _UNIT]]))
  return boxes


def _size(axes: Axes, label: str) -> np.ndarray:
  """Returns (width, height) of a label in pixels, with a little space around."""
  text = axes.text(0.5, 0.5, escaped(label), transform=axes.transAxes, size=style.SMALL, parse_math=False)
  box = text.get_window_extent()
  text.remove()
  return np.array([box.width, box.height]) + 2 * _UNIT


def _covered(box: Bbox, taken: Sequence[Bbox], inside: Bbox) -> float:
  """Returns the area of `box` that is taken, and that lies outside, in square pixels."""
  shared = [Bbox.intersection(box, other) for other in (*taken, inside)]
  areas = [part.width * part.height if part else 0.0 for part in shared]
  return round(sum(areas[:-1]) + box.width * box.height - areas[-1], 3)

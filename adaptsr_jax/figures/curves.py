"""Numbers against steps, and how numbers scatter."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import EngFormatter

from adaptsr_jax.figures import style


def learning_curves(
  path: str | os.PathLike,
  series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
  xlabel: str,
  ylabel: str,
  baselines: Mapping[str, float],
) -> None:
  """Draws lines against a common axis, each with its label in the right margin, at the height of its last point.

  Args:
    path: .png or .svg file.
    series: label -> (x, y); points that are not finite leave a gap.
    xlabel: what x is, with its unit.
    ylabel: what y is, with its unit.
    baselines: label -> y of a horizontal reference line.
  """
  room = max([style.text_width(label, style.SMALL) for label in (*series, *baselines)], default=0.0)
  figure = style.new_figure(5 + room, max(3.2, 0.7 + 0.13 * (len(series) + len(baselines))))
  axes = style.plot_axes(figure, xlabel, ylabel)
  colours, labels = style.colours(len(series)), []
  for i, (label, (x, y)) in enumerate(series.items()):
    x, y = np.asarray(x, float), np.asarray(y, float)
    axes.plot(
      x,
      y,
      color=colours[i],
      linestyle=style.DASHES[i % len(style.DASHES)],
      linewidth=1.5,
      marker=style.marker(i) if len(x) <= 25 else None,
      markersize=3.5,
    )
    if np.isfinite(y).any():
      last = np.flatnonzero(np.isfinite(y))[-1]
      labels.append((label, (x[last], y[last]), colours[i]))
  axes.margins(x=0.02, y=0.08)
  if axes.get_xlim()[1] > 1e4:
    axes.xaxis.set_major_formatter(EngFormatter(sep=''))
  axes.ticklabel_format(axis='y', style='plain', useOffset=False)
  style.label_in_margin(axes, labels, baselines)
  style.save(figure, path)


def spreads(
  path: str | os.PathLike,
  samples: Mapping[str, Sequence[float]],
  ylabel: str,
  title: str = '',
  groups: Mapping[str, str] | None = None,
) -> None:
  """Draws how samples scatter, one position per name in order of falling median.

  The mark is the median, the thick line holds the middle half, the thin line runs from the least to the largest.

  Args:
    path: .png or .svg file.
    samples: name -> numbers.
    ylabel: what the numbers are.
    title: above the plot.
    groups: name -> group, told apart by colour and mark.
  """
  names = sorted(samples, key=lambda name: (-np.median(samples[name]), name))
  groups = groups or {}
  labelled = len(names) <= 90
  room = max(style.text_width(name, 6) for name in names) if labelled else 0.0
  figure = style.new_figure(float(np.clip(1.0 + 0.13 * len(names), 4.5, 12.0)), 3.0 + room)
  axes = style.plot_axes(figure, '' if labelled else f'{len(names)} modules, by median', ylabel, title)
  kinds = dict.fromkeys(groups.get(name, '') for name in samples)
  for i, (group, hue) in enumerate(zip(kinds, style.colours(len(kinds)), strict=True)):
    at = [j for j, name in enumerate(names) if groups.get(name, '') == group]
    low, first, middle, third, high = np.percentile([samples[names[j]] for j in at], (0, 25, 50, 75, 100), axis=1)
    axes.vlines(at, low, high, color=hue, linewidth=0.7, alpha=0.7)
    axes.vlines(at, first, third, color=hue, linewidth=2.6, alpha=0.55)
    axes.plot(at, middle, style.marker(i), color=hue, markersize=3.2, label=group)
  axes.set_xlim(-0.8, len(names) - 0.2)
  axes.grid(axis='x', visible=False)
  if labelled:
    axes.set_xticks(range(len(names)), names, rotation=90, size=6)
  else:
    axes.set_xticks([])
  if len(set(groups.values())) > 1:
    axes.legend(
      frameon=False, fontsize=style.SMALL, ncols=4, loc='lower left', bbox_to_anchor=(0, 1), borderaxespad=0.1
    )
    axes.set_title(title, size=style.LARGE, color=style.INK, loc='left', pad=18)
  style.save(figure, path)

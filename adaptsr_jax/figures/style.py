"""What all figures share: the file, the letters, the colours, the axes."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from matplotlib.transforms import ScaledTranslation

from adaptsr_jax import files, image
from adaptsr_jax.errors import UserError, escaped

SUFFIXES = ('.png', '.svg')

DPI = 200
LEAST, SMALL, MEDIUM, LARGE = 4.5, 7, 8, 9  # points: still readable; numbers and ticks; axis labels; titles
PAPER, INK, FAINT = 'white', '0.15', '0.72'
BASELINE = '0.45'  # lines that results are held against
# Okabe and Ito's colours in an order of alternating lightness, without the yellow that vanishes on white paper.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00', '#000000')
DASHES = ('-', (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
LEADER = {'arrowstyle': '-', 'linewidth': 0.6, 'shrinkA': 1}  # a line from a label to what it names
MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X')
_DARKEST = 0.45  # luma from which letters stand out on paper


def check_path(path: str | os.PathLike) -> None:
  """Raises a UserError where `save` could not write: an unknown suffix, or a folder that does not exist."""
  path = Path(path)
  if path.suffix.lower() not in SUFFIXES:
    raise UserError(f'A figure cannot be written to {path.name}: choose one of the suffixes {", ".join(SUFFIXES)}.')
  if not path.parent.is_dir():
    raise UserError(f'The folder of the figure {path} does not exist: make it first.')


def save(figure: Figure, path: str | os.PathLike) -> None:
  """Writes `figure` to `path`, whole or not at all: a file that is there stays until the new one is complete.

  The same figure is the same file. The letters of an .svg stay letters, so that they can be searched and edited.

  Raises:
    UserError: as of `check_path`.
  """
  check_path(path)
  path = Path(path)
  metadata = {'Date': None} if path.suffix.lower() == '.svg' else None
  style = {'svg.hashsalt': 'adaptsr_jax', 'svg.fonttype': 'none'}
  with files.aside(path) as aside, matplotlib.rc_context(style):
    figure.savefig(aside, format=path.suffix[1:].lower(), dpi=figure.dpi, facecolor=PAPER, metadata=metadata)


def new_figure(width: float, height: float) -> Figure:
  """Returns an empty figure of this many inches that no window shows."""
  figure = Figure((width, height), dpi=DPI)
  FigureCanvasAgg(figure)
  return figure


def plot_axes(figure: Figure, xlabel: str, ylabel: str, title: str = '') -> Axes:
  """Returns axes that fill the figure beside their labels."""
  figure.set_layout_engine('constrained')
  axes = figure.add_subplot()
  axes.spines[['top', 'right']].set_visible(False)
  axes.spines[['left', 'bottom']].set_color(FAINT)
  axes.grid(color='0.92', linewidth=0.7)
  axes.set_axisbelow(True)
  axes.tick_params(which='both', labelsize=SMALL, color=FAINT, labelcolor=INK)
  axes.set_xlabel(xlabel, size=MEDIUM, color=INK)
  axes.set_ylabel(ylabel, size=MEDIUM, color=INK)
  axes.set_title(title, size=LARGE, color=INK, loc='left')
  return axes


def colours(count: int) -> Sequence[str]:
  """Returns a colour for each of several things; none comes twice."""
  if count <= len(COLOURS):
    return COLOURS[:count]
  order = [*range(0, count, 2), *range(1, count, 2)]  # neighbours get colours half a map apart
  shades = np.linspace(0, 0.88, count)[np.argsort(order)]  # without the yellow
  return [to_hex(colormaps['plasma'](shade)) for shade in shades]


def marker(i: int) -> str:
  """Returns the mark of the i-th of several things."""
  return MARKERS[i % len(MARKERS)]


def letters(colour: str) -> dict:
  """Returns how a label is written whose mark has this colour, darkened as far as letters need."""
  rgb = np.array(to_rgb(colour))
  ink = tuple(rgb * min(1, _DARKEST / max(rgb @ image.LUMA, 1e-3)))
  return {'size': SMALL, 'color': ink, 'parse_math': False}


def text_width(text: str, size: float) -> float:
  """Returns the width of one line of text in inches; `size` in points."""
  letters = escaped(text).replace('$', r'\$')  # as they are, and no formula
  return TextPath((0, 0), letters, size=size).get_extents().width / 72 if text else 0.0


def label_in_margin(
  axes: Axes, labels: Sequence[tuple[str, tuple[float, float], str]], baselines: Mapping[str, float]
) -> None:
  """Writes labels right of the axes, level with what they name, moved apart where they would overlap.

  Args:
    axes: with their final limits.
    labels: (text, the point (x, y) that it names in data coordinates, colour).
    baselines: text -> y of a horizontal reference line, which is drawn too.
  """
  for y in baselines.values():
    axes.axhline(y, color=BASELINE, linewidth=0.9, linestyle=(0, (3, 2)), zorder=1)
  right = axes.get_xlim()[1]
  labels = [*labels, *((label, (right, y), BASELINE) for label, y in baselines.items())]
  if not labels:
    return
  axes.figure.draw_without_rendering()  # settles the height of the axes
  line = 1.25 * SMALL / 72 * DPI / axes.get_window_extent().height
  low, high = axes.get_ylim()
  heights = apart([(y - low) / (high - low) for _, (_, y), _ in labels], line, 0, 1)
  margin = axes.transAxes + ScaledTranslation(9 / 72, 0, axes.figure.dpi_scale_trans)
  for (text, point, colour), height in zip(labels, heights, strict=True):
    leader = {**LEADER, 'color': colour, 'shrinkB': 2, 'relpos': (0, 0.5)}
    place = {'xytext': (1, height), 'textcoords': margin, 'va': 'center', 'annotation_clip': False}
    axes.annotate(escaped(text), point, arrowprops=leader, **place, **letters(colour))


def apart(wanted: Sequence[float], gap: float, low: float, high: float) -> np.ndarray:
  """Returns places at least `gap` apart, in the order of the wanted ones and with the least sum of squared moves.

  They lie between `low` and `high`; where there are too many for that, from `low` upwards.
  """
  order = np.argsort(wanted, kind='stable')
  from scipy import optimize  # slow to import, and few figures need it

  # Without the gaps the places only have to rise.
  rising = optimize.isotonic_regression(np.asarray(wanted, float)[order] - gap * np.arange(len(order))).x
  places = np.empty(len(order))
  places[order] = np.clip(rising, low, max(low, high - gap * (len(order) - 1))) + gap * np.arange(len(order))
  return places

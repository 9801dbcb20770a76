"""Figures as files: heat maps of numbers per module, curves, spreads and strips of pictures.

Drawn with matplotlib's own objects instead of pyplot: no window and no global figure. The suffix of the path chooses
the format, .png or .svg. Colours stay apart for colour-blind readers and in grey print.
"""

import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath
from matplotlib.ticker import LogLocator, MaxNLocator
from matplotlib.transforms import IdentityTransform

from adaptsr_jax.errors import UserError

SUFFIXES = ('.png', '.svg')

_DPI = 200
_LEAST, _SMALL, _MEDIUM = 4.5, 7, 8  # points: still readable; numbers and ticks; labels and titles
_PAPER, _INK, _FAINT = 'white', '0.15', '0.72'
# Okabe and Ito's colours in an order of alternating lightness, without the yellow that vanishes on white paper.
_COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00', '#000000')
_LUMA = (0.299, 0.587, 0.114)
_DASHES = ('-', (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
_MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X')


def save(figure: Figure, path: str | os.PathLike) -> None:
  """Writes `figure` to `path`, whole or not at all: a file that is there stays until the new one is complete.

  Raises:
    UserError: a suffix other than .png and .svg, or a folder that does not exist.
  """
  path = Path(path)
  if path.suffix.lower() not in SUFFIXES:
    raise UserError(f'A figure cannot be written to {path.name}: choose one of the suffixes {", ".join(SUFFIXES)}.')
  if not path.parent.is_dir():
    raise UserError(f'The folder of the figure {path} does not exist: make it first.')
  metadata = {'Date': None} if path.suffix.lower() == '.svg' else None  # the same figure is the same file
  aside = path.with_name(f'.{path.name}.part')
  try:
    with matplotlib.rc_context({'svg.hashsalt': path.stem}):
      figure.savefig(aside, format=path.suffix[1:].lower(), dpi=figure.dpi, facecolor=_PAPER, metadata=metadata)
    os.replace(aside, path)
  finally:
    aside.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------------------ heat map


class Cell(NamedTuple):
  """Where a module stands in the grid of a heat map; `column` is the first of `span` columns."""

  row: int
  column: int
  span: int


class Grid(NamedTuple):
  """Modules by blocks: row and column labels, the cell of every name, and the names that are in no block."""

  rows: tuple[str, ...]
  columns: tuple[str, ...]
  cells: dict[str, Cell]
  singles: tuple[str, ...]


def module_grid(names: Sequence[str]) -> Grid:
  """Sorts module names into blocks (columns) and modules within a block (rows), both in order of appearance.

  A block is the path up to the last numbered element above the module itself: 'layers_0/blocks_3/attn/qkv' is row
  'attn/qkv' of block 'layers_0/blocks_3', 'feats_4/ccm/ccm_0' is row 'ccm/ccm_0' of block 'feats_4'. What belongs to a
  group of blocks, as 'layers_0/conv', spans all its columns. 'conv_first' or 'upsample_0' are in no block.
  """
  blocks = {name: _block(name) for name in names}
  of_block = [block for block in dict.fromkeys(blocks.values()) if block]
  columns = tuple(c for c in of_block if not any(other.startswith(f'{c}/') for other in of_block))
  rows = tuple(dict.fromkeys(name[len(block) + 1 :] for name, block in blocks.items() if block))
  cells = {}
  for name, block in blocks.items():
    if block:
      spanned = [i for i, column in enumerate(columns) if f'{column}/'.startswith(f'{block}/')]
      cells[name] = Cell(rows.index(name[len(block) + 1 :]), spanned[0], len(spanned))
  return Grid(rows, columns, cells, tuple(name for name, block in blocks.items() if not block))


def _block(name: str) -> str:
  """Returns the path of the block that the module belongs to, '' if there is none."""
  parents = name.split('/')[:-1]
  while parents and not re.search(r'_\d+$', parents[-1]):
    parents.pop()
  return '/'.join(parents)


def rank_heatmap(
  path: str | os.PathLike, values: Mapping[str, float], title: str = '', label: str = 'rank', log: bool = False
) -> None:
  """Draws one number per module: blocks from left to right, the modules of a block from top to bottom.

  Modules outside all blocks stand in a strip below; a place without a module is hatched. Numbers are printed where they
  fit. The figure grows with the model: about 8 inches wide for 36 blocks.

  Args:
    path: .png or .svg file.
    values: module name ('a/b/c') -> finite number >= 0.
    title: above the map.
    label: what the numbers are, beside the colour scale.
    log: colours by the logarithm; for scores that span decades.
  """
  if not values:
    raise ValueError('a heat map needs at least one value')
  grid = module_grid(list(values))
  scale = _ColourScale(list(values.values()), log)
  # One coordinate system for everything: inches from the upper left corner.
  cell = float(np.clip(6.4 / max(len(grid.columns), 1), 0.2, 0.42))
  left = max([_text_width(row, _SMALL) for row in grid.rows], default=0.0) + 0.16
  top = 0.42 if title else 0.12
  grid_bottom = top + len(grid.rows) * _ROW
  right = left + cell * len(grid.columns)
  bar_bottom = max(grid_bottom, top + 0.8)
  strip_top = max(grid_bottom + 0.52, bar_bottom + 0.1) if grid.rows else top
  places = _strip_places(grid.singles, left, strip_top, max(right + 0.6, left + 3.2))
  strip_right = max([x + _strip_width(name) for name, (x, _) in places.items()], default=0.0)
  if not grid.rows:
    right = strip_right  # the colour scale stands beside the strip
  bottom = max(bar_bottom, grid_bottom + 0.36, *(y + _ROW for _, y in places.values()))
  widest = max(right + 0.75, strip_right, left + _text_width(title, _MEDIUM + 1))
  figure = _figure(widest + 0.1, bottom + 0.1)
  axes = _inch_axes(figure)

  axes.text(left, 0.1, title, size=_MEDIUM + 1, va='top', color=_INK)
  _draw_grid(axes, grid, values, scale, left, top, cell)
  for name, (x, y) in places.items():
    _draw_cell(axes, x, y, _STRIP_CELL, values[name], scale)
    axes.text(x + _STRIP_CELL + 0.05, y + _ROW / 2, name, size=_SMALL, va='center_baseline', color=_INK)
  _draw_colour_bar(figure, scale, label, right + 0.14, top, bar_bottom)
  save(figure, path)


_ROW, _STRIP_CELL = 0.24, 0.36  # inches: height of all cells, width of those below the grid


def _inch_axes(figure: Figure) -> Axes:
  """Returns axes over the whole figure in inches from its upper left corner."""
  width, height = figure.get_size_inches()
  axes = figure.add_axes((0, 0, 1, 1))
  axes.set_xlim(0, width)
  axes.set_ylim(height, 0)
  axes.set_axis_off()
  return axes


def _strip_places(names: Sequence[str], left: float, top: float, right: float) -> dict[str, tuple[float, float]]:
  """Returns the corners of cells that have their names behind them, laid out like words in lines."""
  places, x, y = {}, left, top
  for name in names:
    width = _strip_width(name)
    if x > left and x + width > right:
      x, y = left, y + _ROW + 0.04
    places[name] = (x, y)
    x += width + 0.2
  return places


def _strip_width(name: str) -> float:
  return _STRIP_CELL + 0.05 + _text_width(name, _SMALL)


class _ColourScale:
  """Colours from light (low) to dark (high), from 0 upwards or over the decades of the positive values."""

  def __init__(self, values: Sequence[float], log: bool):
    positive = [value for value in values if value > 0]
    self.log = log and bool(positive)
    if self.log:
      self.normalise = LogNorm(min(positive), max(max(positive), 1.01 * min(positive)), clip=True)
    else:
      self.normalise = Normalize(0, max(positive, default=1))
    self.map = colormaps['viridis_r']
    self.whole = all(float(value).is_integer() for value in values)

  def __call__(self, value: float) -> tuple[float, ...]:
    return self.map(self.normalise(max(value, self.normalise.vmin)))


def _draw_grid(
  axes: Axes, grid: Grid, values: Mapping[str, float], scale: _ColourScale, left: float, top: float, cell: float
) -> None:
  if not grid.rows:
    return
  size = (len(grid.columns) * cell, len(grid.rows) * _ROW)
  axes.add_patch(Rectangle((left, top), *size, facecolor='0.97', edgecolor='0.85', hatch='//////', linewidth=0))
  for name, (row, column, span) in grid.cells.items():
    _draw_cell(axes, left + column * cell, top + row * _ROW, span * cell, values[name], scale)
  for row, name in enumerate(grid.rows):
    axes.text(left - 0.06, top + (row + 0.5) * _ROW, name, size=_SMALL, ha='right', va='center_baseline', color=_INK)
  _label_blocks(axes, grid.columns, left, top + size[1], cell)


def _draw_cell(axes: Axes, x: float, y: float, width: float, value: float, scale: _ColourScale) -> None:
  colour = scale(value)
  axes.add_patch(Rectangle((x, y), width, _ROW, facecolor=colour, edgecolor=_PAPER, linewidth=0.8))
  text = _number(value)
  size = min(_SMALL, _SMALL * (width - 0.03) / _text_width(text, _SMALL))
  if size >= _LEAST:
    ink = _PAPER if np.dot(colour[:3], _LUMA) < 0.5 else 'black'
    axes.text(x + width / 2, y + _ROW / 2, text, size=size, color=ink, ha='center', va='center_baseline')


def _label_blocks(axes: Axes, columns: Sequence[str], left: float, top: float, cell: float) -> None:
  """Writes the numbers of the blocks below them, and below these the names of what is numbered."""
  groups: dict[str, list[int]] = {}
  for i, column in enumerate(columns):
    group, _, number = column.rpartition('_')
    groups.setdefault(group, []).append(i)
    axes.text(left + (i + 0.5) * cell, top + 0.12, number, size=_SMALL, ha='center', va='baseline', color=_INK)
  # With 'layers_0/blocks', 'layers_1/blocks', ... the common 'blocks' is said once, in front.
  parents, common = zip(*(group.rpartition('/')[::2] for group in groups), strict=True)
  nested = len(set(common)) == 1 and all(parents)
  if nested:
    axes.text(left - 0.06, top + 0.12, common[0], size=_SMALL, ha='right', va='baseline', color=_INK)
  for name, members in zip(parents if nested else groups, groups.values(), strict=True):
    first, last = left + members[0] * cell, left + (members[-1] + 1) * cell
    axes.plot([first + 0.04, last - 0.04], [top + 0.185] * 2, color=_FAINT, linewidth=0.8)
    axes.text((first + last) / 2, top + 0.31, name, size=_SMALL, ha='center', va='baseline', color=_INK)


def _draw_colour_bar(figure: Figure, scale: _ColourScale, label: str, x: float, top: float, bottom: float) -> None:
  width, height = figure.get_size_inches()
  axes = figure.add_axes((x / width, 1 - bottom / height, 0.09 / width, (bottom - top) / height))
  bar = figure.colorbar(ScalarMappable(scale.normalise, scale.map), cax=axes)
  bar.outline.set_visible(False)
  if scale.log:
    bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=5))
    bar.ax.yaxis.set_major_formatter(lambda value, _: f'{value:g}')
  else:
    bar.ax.yaxis.set_major_locator(MaxNLocator(4, integer=scale.whole))
  bar.ax.minorticks_off()
  bar.ax.tick_params(labelsize=_SMALL, length=2, color=_FAINT, labelcolor=_INK)
  bar.set_label(label, size=_SMALL, color=_INK)


def _number(value: float) -> str:
  if float(value).is_integer() and abs(value) < 1e5:
    return str(int(value))
  text = f'{value:.1e}' if value < 1e-3 else f'{value:.2g}'
  return text.replace('e-0', 'e-').replace('e+0', 'e')


def _text_width(text: str, size: float) -> float:
  """Returns the width of one line of text in inches."""
  return TextPath((0, 0), text, size=size).get_extents().width / 72 if text else 0.0


# -------------------------------------------------------------------------------------------------- curves and spreads


def learning_curves(
  path: str | os.PathLike,
  series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
  xlabel: str,
  ylabel: str,
  title: str = '',
  baselines: Mapping[str, float] | None = None,
) -> None:
  """Draws lines against a common axis.

  Args:
    path: .png or .svg file.
    series: label -> (x, y); points that are not finite leave a gap.
    xlabel: what x is, with its unit.
    ylabel: what y is, with its unit.
    title: above the plot.
    baselines: label -> y of a horizontal reference line.
  """
  figure = _figure(5.4, 3.2)
  axes = _axes(figure, xlabel, ylabel, title)
  for i, (label, (x, y)) in enumerate(series.items()):
    axes.plot(
      x,
      np.asarray(y, float),
      label=label,
      color=_COLOURS[i % len(_COLOURS)],
      linestyle=_DASHES[i % len(_DASHES)],
      linewidth=1.5,
      marker=_MARKERS[i % len(_MARKERS)] if len(x) <= 25 else None,
      markersize=3.5,
    )
  axes.margins(x=0.02, y=0.08)
  _draw_baselines(axes, baselines or {})
  if len(series) > 1:
    axes.legend(frameon=False, fontsize=_SMALL, handlelength=2.6)
  save(figure, path)


def _draw_baselines(axes: Axes, baselines: Mapping[str, float]) -> None:
  """Draws horizontal lines with their labels in the right margin, moved apart where lines are close."""
  for y in baselines.values():
    axes.axhline(y, color='0.45', linewidth=0.9, linestyle=(0, (3, 2)), zorder=1)
  low, high = axes.get_ylim()
  at = -np.inf
  for label, y in sorted(baselines.items(), key=lambda item: item[1]):
    at = max((y - low) / (high - low), at + 0.045)
    axes.annotate(
      label,
      (1, at),
      (3, 0),
      xycoords='axes fraction',
      textcoords='offset points',
      size=_SMALL,
      color='0.35',
      va='center',
      annotation_clip=False,
    )


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
  room = max(_text_width(name, 6) for name in names) if labelled else 0.0
  figure = _figure(float(np.clip(1.0 + 0.13 * len(names), 4.5, 12.0)), 3.0 + room)
  axes = _axes(figure, '' if labelled else f'{len(names)} modules, by median', ylabel, title)
  for i, group in enumerate(dict.fromkeys(groups.get(name, '') for name in samples)):
    at = [j for j, name in enumerate(names) if groups.get(name, '') == group]
    low, first, middle, third, high = np.percentile([samples[names[j]] for j in at], (0, 25, 50, 75, 100), axis=1)
    colour = _COLOURS[i % len(_COLOURS)]
    axes.vlines(at, low, high, color=colour, linewidth=0.7, alpha=0.7)
    axes.vlines(at, first, third, color=colour, linewidth=2.6, alpha=0.55)
    axes.plot(at, middle, _MARKERS[i % len(_MARKERS)], color=colour, markersize=3.2, label=group)
  axes.set_xlim(-0.8, len(names) - 0.2)
  axes.grid(axis='x', visible=False)
  if labelled:
    axes.set_xticks(range(len(names)), names, rotation=90, size=6)
  else:
    axes.set_xticks([])
  if len(set(groups.values())) > 1:
    axes.legend(frameon=False, fontsize=_SMALL, ncols=4, loc='lower left', bbox_to_anchor=(0, 1), borderaxespad=0.1)
    axes.set_title(title, size=_MEDIUM + 1, color=_INK, loc='left', pad=18)
  save(figure, path)


def _figure(width: float, height: float) -> Figure:
  figure = Figure((width, height), dpi=_DPI)
  FigureCanvasAgg(figure)
  return figure


def _axes(figure: Figure, xlabel: str, ylabel: str, title: str) -> Axes:
  figure.set_layout_engine('constrained')
  axes = figure.add_subplot()
  axes.spines[['top', 'right']].set_visible(False)
  axes.spines[['left', 'bottom']].set_color(_FAINT)
  axes.grid(color='0.92', linewidth=0.7)
  axes.set_axisbelow(True)
  axes.tick_params(labelsize=_SMALL, color=_FAINT, labelcolor=_INK)
  axes.set_xlabel(xlabel, size=_MEDIUM, color=_INK)
  axes.set_ylabel(ylabel, size=_MEDIUM, color=_INK)
  axes.set_title(title, size=_MEDIUM + 1, color=_INK, loc='left')
  return axes


# ------------------------------------------------------------------------------------------------------------ pictures

_LEAST_PANEL = 240  # pixels: narrower panels leave no room for their titles


def compare_strip(
  path: str | os.PathLike,
  rows: Sequence[Sequence[tuple[str, np.ndarray]]],
  names: Sequence[str] = (),
) -> None:
  """Draws pictures beside each other, pixel for pixel, one row per scene.

  Nothing is resampled: every picture is enlarged by a whole factor, to the height of the tallest of its row and further
  while panels are narrower than their titles need.

  Args:
    path: .png or .svg file.
    rows: per scene the panels, as (title, picture (H, W, 3) float in [0, 1]); a line break in the title begins a
      second line. Heights in a row are equal, or fit a whole number of times into the largest (an LR picture).
    names: of the scenes, written above their rows; empty for none.
  """
  if not rows or not all(rows):
    raise ValueError('a strip needs at least one row of at least one panel')
  factor = -(-_LEAST_PANEL // max(picture.shape[1] for row in rows for _, picture in _to_one_height(row)))
  panels = [[(title, _enlarge(picture, factor)) for title, picture in _to_one_height(row)] for row in rows]

  size = _letter_size(panels)
  line, space = round(1.35 * size), max(4, size // 3)
  above = line + space if names else 0
  heights, below = [], []
  for row in panels:
    heights.append(max(picture.shape[0] for _, picture in row))
    below.append(line * max(title.count('\n') + 1 for title, _ in row) + 2 * space)
  width = max(sum(picture.shape[1] + space for _, picture in row) for row in panels) + space
  height = sum(heights) + sum(below) + len(panels) * above + space

  figure = _figure(width / _DPI, height / _DPI)
  write = partial(figure.text, size=size / _DPI * 72, color=_INK, transform=IdentityTransform(), parse_math=False)
  top = height - space
  for i, row in enumerate(panels):
    if names:
      write(space, top - 0.8 * line, names[i], weight='bold')
    left, bottom = space, top - above - heights[i]
    for title, picture in row:
      figure.figimage(picture, left, bottom + heights[i] - picture.shape[0], origin='upper')
      for n, part in enumerate(title.split('\n')):
        write(left + picture.shape[1] / 2, bottom - (n + 1) * line + 0.05 * size, part, ha='center')
      left += picture.shape[1] + space
    top = bottom - below[i]
  save(figure, path)


def _letter_size(panels: Sequence[Sequence[tuple[str, np.ndarray]]]) -> int:
  """Returns the height of the letters in pixels: a fifteenth of the panels, less where a title would not fit."""
  size = np.clip(max(picture.shape[1] for row in panels for _, picture in row) / 15, 14, 40)
  for title, picture in (panel for row in panels for panel in row):
    for part in title.split('\n'):
      size = min(size, picture.shape[1] / max(_text_width(part, 72), 1e-3))
  return max(8, int(size))


def _to_one_height(row: Sequence[tuple[str, np.ndarray]]) -> list[tuple[str, np.ndarray]]:
  """Enlarges each picture by the whole factor that brings it nearest to the height of the tallest."""
  tallest = max(picture.shape[0] for _, picture in row)
  return [(title, _enlarge(picture, tallest // picture.shape[0])) for title, picture in row]


def _enlarge(picture: np.ndarray, factor: int) -> np.ndarray:
  picture = np.clip(np.asarray(picture, np.float32), 0, 1)
  return picture.repeat(factor, axis=0).repeat(factor, axis=1)

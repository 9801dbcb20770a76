"""The rank of every module of a network as a heat map of modules by blocks."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from adaptsr_jax import image
from adaptsr_jax.figures.style import FAINT, INK, LARGE, LEAST, PAPER, SMALL, new_figure, save, text_width

_ROW, _STRIP_CELL = 0.24, 0.36  # inches: height of all cells, width of those below the grid


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


def rank_heatmap(path: str | os.PathLike, ranks: Mapping[str, float], title: str = '') -> None:
  """Draws the rank of every module: blocks from left to right, the modules of a block from top to bottom.

  Modules outside all blocks stand in a strip below; a place without a module is hatched. Numbers are printed where they
  fit. The figure grows with the model: about 8 inches wide for 36 blocks.

  Args:
    path: .png or .svg file.
    ranks: module name ('a/b/c') -> finite number >= 0.
    title: above the map.
  """
  if not ranks:
    raise ValueError('a heat map needs at least one value')
  grid = module_grid(list(ranks))
  scale = ScalarMappable(Normalize(0, max(ranks.values()) or 1), colormaps['viridis_r'])  # from light to dark
  whole = all(float(rank).is_integer() for rank in ranks.values())
  # One coordinate system for everything: inches from the upper left corner.
  cell = float(np.clip(6.4 / max(len(grid.columns), 1), 0.2, 0.42))
  left = max([text_width(row, SMALL) for row in grid.rows], default=0.0) + 0.16
  top = 0.42 if title else 0.12
  grid_bottom = top + len(grid.rows) * _ROW
  right = left + cell * len(grid.columns)
  bar_bottom = top + float(np.clip(grid_bottom - top, 0.8, 2.4))
  strip_top = max(grid_bottom + 0.52, bar_bottom + 0.1) if grid.rows else top
  places = _strip_places(grid.singles, left, strip_top, max(right + 0.6, left + 3.2))
  strip_right = max([x + _strip_width(name) for name, (x, _) in places.items()], default=0.0)
  if not grid.rows:
    right = strip_right  # the colour scale stands beside the strip
  bottom = max(bar_bottom, grid_bottom + 0.36, *(y + _ROW for _, y in places.values()))
  widest = max(right + 0.75, strip_right, left + text_width(title, LARGE))
  figure = new_figure(widest + 0.1, bottom + 0.1)
  axes = figure.add_axes((0, 0, 1, 1), xlim=(0, widest + 0.1), ylim=(bottom + 0.1, 0))
  axes.set_axis_off()

  axes.text(left, 0.1, title, size=LARGE, va='top', color=INK)
  _draw_grid(axes, grid, ranks, scale, left, top, cell)
  for name, (x, y) in places.items():
    _draw_cell(axes, x, y, _STRIP_CELL, ranks[name], scale)
    axes.text(x + _STRIP_CELL + 0.05, y + _ROW / 2, name, size=SMALL, va='center_baseline', color=INK)
  _draw_colour_bar(figure, scale, whole, right + 0.14, top, bar_bottom)
  save(figure, path)


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
  return _STRIP_CELL + 0.05 + text_width(name, SMALL)


def _draw_grid(
  axes: Axes, grid: Grid, values: Mapping[str, float], scale: ScalarMappable, left: float, top: float, cell: float
) -> None:
  if not grid.rows:
    return
  size = (len(grid.columns) * cell, len(grid.rows) * _ROW)
  axes.add_patch(Rectangle((left, top), *size, facecolor='0.97', edgecolor='0.85', hatch='//////', linewidth=0))
  for name, (row, column, span) in grid.cells.items():
    _draw_cell(axes, left + column * cell, top + row * _ROW, span * cell, values[name], scale)
  for row, name in enumerate(grid.rows):
    axes.text(left - 0.06, top + (row + 0.5) * _ROW, name, size=SMALL, ha='right', va='center_baseline', color=INK)
  _label_blocks(axes, grid.columns, left, top + size[1], cell)


def _draw_cell(axes: Axes, x: float, y: float, width: float, value: float, scale: ScalarMappable) -> None:
  colour = scale.to_rgba(value)
  axes.add_patch(Rectangle((x, y), width, _ROW, facecolor=colour, edgecolor=PAPER, linewidth=0.8))
  text = str(int(value)) if float(value).is_integer() else f'{value:.2g}'
  size = min(SMALL, SMALL * (width - 0.03) / text_width(text, SMALL))
  if size >= LEAST:
    ink = PAPER if np.dot(colour[:3], image.LUMA) < 0.5 else 'black'
    axes.text(x + width / 2, y + _ROW / 2, text, size=size, color=ink, ha='center', va='center_baseline')


def _label_blocks(axes: Axes, columns: Sequence[str], left: float, top: float, cell: float) -> None:
  """Writes the numbers of the blocks below them, and below these the names of what is numbered."""
  groups: dict[str, list[int]] = {}
  for i, column in enumerate(columns):
    group, _, number = column.rpartition('_')
    groups.setdefault(group, []).append(i)
    axes.text(left + (i + 0.5) * cell, top + 0.12, number, size=SMALL, ha='center', va='baseline', color=INK)
  # With 'layers_0/blocks', 'layers_1/blocks', ... the common 'blocks' is said once, in front.
  parents, common = zip(*(group.rpartition('/')[::2] for group in groups), strict=True)
  nested = len(set(common)) == 1 and all(parents)
  if nested:
    axes.text(left - 0.06, top + 0.12, common[0], size=SMALL, ha='right', va='baseline', color=INK)
  for name, members in zip(parents if nested else groups, groups.values(), strict=True):
    first, last = left + members[0] * cell, left + (members[-1] + 1) * cell
    axes.plot([first + 0.04, last - 0.04], [top + 0.185] * 2, color=FAINT, linewidth=0.8)
    axes.text((first + last) / 2, top + 0.31, name, size=SMALL, ha='center', va='baseline', color=INK)


def _draw_colour_bar(figure: Figure, scale: ScalarMappable, whole: bool, x: float, top: float, bottom: float) -> None:
  width, height = figure.get_size_inches()
  axes = figure.add_axes((x / width, 1 - bottom / height, 0.09 / width, (bottom - top) / height))
  bar = figure.colorbar(scale, cax=axes)
  bar.outline.set_visible(False)
  bar.ax.yaxis.set_major_locator(MaxNLocator(4, integer=whole))
  bar.ax.minorticks_off()
  bar.ax.tick_params(labelsize=SMALL, length=2, color=FAINT, labelcolor=INK)
  bar.set_label('rank', size=SMALL, color=INK)

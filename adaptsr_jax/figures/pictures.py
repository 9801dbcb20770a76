"""Pictures beside each other, pixel for pixel: strips and attribution maps."""

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.patches import Rectangle

from adaptsr_jax import image
from adaptsr_jax.errors import escaped
from adaptsr_jax.figures.style import COLOURS, DPI, INK, PAPER, new_figure, save, text_width

_LEAST_PANEL = 240  # pixels: narrower panels leave no room for their titles
_BOX = COLOURS[1]


class Box(NamedTuple):
  """A rectangle in pixels of a picture; (x, y) is its upper left one."""

  x: int
  y: int
  width: int
  height: int

  def window(self, scale: int = 1) -> tuple[slice, slice]:
    """Returns (rows, columns) of the box in the picture, or in one that is `scale` times as large."""
    x, y, width, height = (scale * n for n in self)
    return slice(y, y + height), slice(x, x + width)


class _Panel(NamedTuple):
  """A picture with the lines below it, and a box drawn into it."""

  title: str
  picture: np.ndarray
  box: Box | None = None


# --------------------------------------------------------------------------------------------------------------- strips


def compare_strip(
  path: str | os.PathLike,
  rows: Sequence[Sequence[tuple[str, np.ndarray]]],
  names: Sequence[str] = (),
  title: str = '',
) -> None:
  """Draws pictures beside each other, pixel for pixel, one row per scene.

  Nothing is resampled: every picture is enlarged by a whole factor, to the height of the tallest of its row and further
  while panels are narrower than their titles need.

  Args:
    path: .png or .svg file.
    rows: per scene the panels, as (title, picture (H, W, 3) float in [0, 1]); a line break in the title begins a
      second line. Heights in a row are equal, or fit a whole number of times into the largest (an LR picture).
    names: of the scenes, written above their rows; empty for none.
    title: written above all, in as many lines as it needs.
  """
  _draw_strip(path, [[_Panel(label, picture) for label, picture in row] for row in rows], names, title)


def attribution(
  path: str | os.PathLike, title: str, picture: np.ndarray, box: Box, maps: Sequence[tuple[str, np.ndarray]]
) -> None:
  """Draws a picture with the patch that is explained, and beside it the attribution maps of several networks.

  White is 0 and dark red is 1, half and half with the gray picture.

  Args:
    path: .png or .svg file.
    title: below the picture.
    picture: (H, W, 3), float in [0, 1].
    box: the patch that is explained, in pixels of `picture`.
    maps: (title, saliency (h, w) in [0, 1]); H and W are the same whole multiple of h and w.
  """
  gray = 0.5 * (np.clip(picture, 0, 1) @ image.LUMA)[..., None]
  panels = [_Panel(title, picture, box)]
  for name, saliency in maps:  # a box would hide their middle
    colours = colormaps['seismic'](0.5 + 0.5 * np.clip(saliency, 0, 1))[..., :3]
    panels.append(_Panel(name, gray + 0.5 * _enlarge(colours, len(picture) // len(saliency))))
  _draw_strip(path, [panels], ())


def _draw_strip(
  path: str | os.PathLike, rows: Sequence[Sequence[_Panel]], names: Sequence[str], title: str = ''
) -> None:
  if not rows or not all(rows):
    raise ValueError('a strip needs at least one row of at least one panel')
  tallest = [max(panel.picture.shape[0] for panel in row) for row in rows]
  rows = [[_enlarge_panel(p, n // p.picture.shape[0]) for p in row] for row, n in zip(rows, tallest, strict=True)]
  factor = -(-_LEAST_PANEL // max(panel.picture.shape[1] for row in rows for panel in row))
  rows = [[_enlarge_panel(panel, factor) for panel in row] for row in rows]

  size = _letter_size(panel for row in rows for panel in row)
  line, space = round(1.35 * size), max(4, size // 3)
  above = line + space if names else 0
  heights = [max(panel.picture.shape[0] for panel in row) for row in rows]
  below = [line * max(panel.title.count('\n') + 1 for panel in row) + 2 * space for row in rows]
  width = max(sum(panel.picture.shape[1] + space for panel in row) for row in rows) + space
  head = _wrapped(title, (width - 2 * space) / size)
  sheet = _Sheet(width, sum(heights) + sum(below) + len(rows) * above + space + len(head) * line, size)

  for n, part in enumerate(head):
    sheet.write(part, space, space + (n + 0.8) * line)
  top = space + len(head) * line
  for i, row in enumerate(rows):
    if names:
      sheet.write(names[i], space, top + 0.8 * line, weight='bold')
    left = space
    for panel in row:
      sheet.show(panel.picture, left, top + above)
      if panel.box:
        sheet.frame(panel.box, left, top + above)
      for n, part in enumerate(panel.title.split('\n'), 1):
        baseline = top + above + heights[i] + n * line - 0.05 * size
        sheet.write(part, left + panel.picture.shape[1] / 2, baseline, ha='center')
      left += panel.picture.shape[1] + space
    top += above + heights[i] + below[i]
  save(sheet.figure, path)


def _wrapped(text: str, width: float) -> list[str]:
  """Breaks a text between words into lines of at most `width` times the size of its letters."""
  lines: list[str] = []
  for word in text.split():
    longer = f'{lines[-1]} {word}' if lines else word
    lines[-1:] = [longer] if text_width(longer, 72) <= width else [*lines[-1:], word]
  return lines


def _enlarge_panel(panel: _Panel, factor: int) -> _Panel:
  box = panel.box and Box(*(factor * side for side in panel.box))
  return _Panel(panel.title, _enlarge(panel.picture, factor), box)


def _enlarge(picture: np.ndarray, factor: int) -> np.ndarray:
  picture = np.clip(np.asarray(picture, np.float32), 0, 1)
  return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def _letter_size(panels: Iterable[_Panel]) -> int:
  """Returns the height of the letters in pixels: a fifteenth of the panels, less where a title would not fit."""
  panels = list(panels)
  size = np.clip(max(panel.picture.shape[1] for panel in panels) / 15, 14, 40)
  for panel in panels:
    for part in panel.title.split('\n'):
      size = min(size, panel.picture.shape[1] / max(text_width(part, 72), 1e-3))
  return max(8, int(size))


class _Sheet:
  """A figure on which places are pixels from the upper left corner."""

  def __init__(self, width: int, height: int, size: int):
    """Opens a sheet of `width` x `height` pixels with letters `size` pixels high."""
    self._width, self._height, self._size = width, height, size
    # A hundredth of a pixel more: matplotlib cuts the fraction off, and inches are not exact.
    self.figure = new_figure((width + 0.01) / DPI, (height + 0.01) / DPI)

  def show(self, picture: np.ndarray, left: int, top: int) -> None:
    """Places a picture pixel for pixel."""
    self.figure.figimage(picture, left, self._height - top - picture.shape[0], origin='upper')

  def frame(self, box: Box, left: int, top: int) -> None:
    """Draws a box of a picture that stands at (left, top)."""
    corner = (left + box.x) / self._width, 1 - (top + box.y + box.height) / self._height
    for colour, width in ((PAPER, 2.2), (_BOX, 1.2)):
      self.figure.add_artist(
        Rectangle(
          corner,
          box.width / self._width,
          box.height / self._height,
          transform=self.figure.transFigure,
          fill=False,
          edgecolor=colour,
          linewidth=width,
          joinstyle='miter',
        )
      )

  def write(self, text: str, x: float, baseline: float, **style) -> None:
    """Writes a line at its left end, or as `style` says."""
    style = {'size': self._size / DPI * 72, 'color': INK, 'parse_math': False, **style}
    self.figure.text(x / self._width, 1 - baseline / self._height, escaped(text), **style)


# ------------------------------------------------------------------------------------------------ what is shown of many


def evenly(length: int, most: int) -> list[int]:
  """Returns the indices of at most so many of `length` things, from the first to the last in equal steps."""
  return np.unique(np.linspace(0, length - 1, most).round().astype(int)).tolist()


def busiest_box(reference: np.ndarray, size: int, step: int = 1) -> Box:
  """Returns the square with the largest sum of luma gradients: most edges and texture.

  Args:
    reference: picture (H, W, 3), such as HR; not an output, or the box flatters who made it.
    size: side in pixels, less where the picture is smaller.
    step: corners lie on its multiples, and so do sides; the scale factor gives boxes on whole LR pixels.
  """
  luma = np.asarray(reference, np.float64) @ image.LUMA
  edges = np.abs(np.diff(luma, axis=0, append=luma[-1:])) + np.abs(np.diff(luma, axis=1, append=luma[:, -1:]))
  return heaviest_box(edges, size, step)


def heaviest_box(weight: np.ndarray, size: int, step: int = 1) -> Box:
  """Returns the square with the largest sum of `weight` (H, W); `size` and `step` as of `busiest_box`."""
  height, width = (min(size, side) // step * step for side in weight.shape)
  if min(height, width) < 1:
    raise ValueError(f'there is no box of {size} pixels on a grid of {step} in {weight.shape[1]} x {weight.shape[0]}')
  total = np.pad(np.asarray(weight, np.float64), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
  sums = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
  sums = sums[::step, ::step]
  y, x = np.unravel_index(sums.argmax(), sums.shape)
  return Box(int(x) * step, int(y) * step, width, height)

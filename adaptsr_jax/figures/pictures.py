"""Pictures beside each other, pixel for pixel: strips, magnified crops, attribution maps."""

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.patches import Rectangle

from adaptsr_jax.figures.style import COLOURS, DPI, INK, LUMA, PAPER, new_figure, save, text_width

_LEAST_PANEL = 240  # pixels: narrower panels leave no room for their titles
_BOX = COLOURS[1]


class Box(NamedTuple):
  """A rectangle in pixels of a picture; (x, y) is its upper left one."""

  x: int
  y: int
  width: int
  height: int


class Zoom(NamedTuple):
  """A row of `zoom_strips`.

  Attributes:
    name: of the scene.
    picture: (H, W, 3), the whole scene, float in [0, 1].
    box: what is magnified, in pixels of `picture`.
    panels: (title, picture) of the same scene; a line break in the title begins a second line. Sides are those of
      `picture`, or a whole number of times smaller (an LR picture), then the box lies on whole pixels there too.
  """

  name: str
  picture: np.ndarray
  box: Box
  panels: Sequence[tuple[str, np.ndarray]]


class Attribution(NamedTuple):
  """A row of `attribution`.

  Attributes:
    title: below the picture.
    picture: (H, W, 3), float in [0, 1].
    box: the patch that is explained, in pixels of `picture`.
    maps: (title, saliency (h, w) in [0, 1]); H and W are the same whole multiple of h and w.
  """

  title: str
  picture: np.ndarray
  box: Box
  maps: Sequence[tuple[str, np.ndarray]]


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


def attribution(path: str | os.PathLike, rows: Sequence[Attribution]) -> None:
  """Draws pictures with the patch that is explained, and beside each the attribution maps of several networks.

  White is 0 and dark red is 1, half and half with the gray picture.

  Args:
    path: .png or .svg file.
    rows: see `Attribution`.
  """
  panels = []
  for title, picture, box, maps in rows:
    drawn = [_Panel(name, _overlaid(picture, saliency)) for name, saliency in maps]  # a box would hide their middle
    panels.append([_Panel(title, picture, box), *drawn])
  _draw_strip(path, panels, ())


def _overlaid(picture: np.ndarray, saliency: np.ndarray) -> np.ndarray:
  factor = _factor(picture.shape, saliency.shape)
  colours = colormaps['seismic'](0.5 + 0.5 * np.clip(saliency, 0, 1))[..., :3]
  gray = np.clip(picture, 0, 1) @ np.array(LUMA)
  return 0.5 * _enlarge(colours, factor) + 0.5 * gray[..., None]


def _factor(large: tuple[int, ...], small: tuple[int, ...]) -> int:
  """Returns how many times the sides of `small` fit into those of `large`."""
  factor = large[0] // small[0]
  if (factor * small[0], factor * small[1]) != tuple(large[:2]):
    raise ValueError(f'pictures of {small[:2]} do not fit a whole number of times into {large[:2]}')
  return factor


def _draw_strip(
  path: str | os.PathLike, rows: Sequence[Sequence[_Panel]], names: Sequence[str], title: str = ''
) -> None:
  if not rows or not all(rows):
    raise ValueError('a strip needs at least one row of at least one panel')
  rows = [_to_one_height(row) for row in rows]
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
      sheet.write_lines(panel.title, left + panel.picture.shape[1] / 2, top + above + heights[i])
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


def _to_one_height(row: Sequence[_Panel]) -> list[_Panel]:
  """Enlarges each picture by the whole factor that brings it nearest to the height of the tallest."""
  tallest = max(panel.picture.shape[0] for panel in row)
  return [_enlarge_panel(panel, tallest // panel.picture.shape[0]) for panel in row]


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
    self._line = round(1.35 * size)
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
    self.figure.text(x / self._width, 1 - baseline / self._height, text, **style)

  def write_lines(self, text: str, x: float, top: float) -> None:
    """Writes centred lines below `top`."""
    for n, part in enumerate(text.split('\n')):
      self.write(part, x, top + (n + 1) * self._line - 0.05 * self._size, ha='center')


# ---------------------------------------------------------------------------------------------------------------- zooms

_CROP = 192  # pixels: crops are magnified until they are this wide; three and their scene fill a page of print
_LETTERS = 20  # pixels: height of the letters where titles allow it
_WIDEST = 1.8  # a wider picture is shown less high than its crops


def zoom_strips(path: str | os.PathLike, rows: Sequence[Zoom]) -> None:
  """Draws each scene with a box in it, and beside it what several methods make of the box.

  The crops are magnified by a whole factor without smoothing; more than three of them stand in two lines. The scene
  itself is shown as large as its crops allow, and is the only thing that is resampled.

  Args:
    path: .png or .svg file.
    rows: see `Zoom`.
  """
  if not rows or not all(row.panels for row in rows):
    raise ValueError('zoom strips need at least one row of at least one panel')
  crops = [_crops(row) for row in rows]
  size = min(_LETTERS, _letter_size([*(crop for row in crops for crop in row)]))
  line, space = round(1.35 * size), max(6, size // 2)

  # Everything is laid out before it is drawn: crops in equal cells, scenes in a column of equal width.
  lines = [2 if len(row) > 3 else 1 for row in crops]
  columns = [-(-len(row) // n) for row, n in zip(crops, lines, strict=True)]
  cell_width = max(crop.picture.shape[1] for row in crops for crop in row) + space
  crop_heights = [max(crop.picture.shape[0] for crop in row) for row in crops]
  labels = [line * max(crop.title.count('\n') + 1 for crop in row) + space for row in crops]
  bodies = [n * h + (n - 1) * (label + space) for n, h, label in zip(lines, crop_heights, labels, strict=True)]
  scenes = [_scene(row, body) for row, body in zip(rows, bodies, strict=True)]
  first = max(scene.picture.shape[1] for scene in scenes) + 2 * space
  heights = [body + label + space for body, label in zip(bodies, labels, strict=True)]
  sheet = _Sheet(first + cell_width * max(columns), sum(heights) + space, size)

  top = space
  for i, scene in enumerate(scenes):
    height, width = scene.picture.shape[:2]
    left, upper = space + (first - 2 * space - width) // 2, top + (bodies[i] - height) // 2
    sheet.show(scene.picture, left, upper)
    sheet.frame(scene.box, left, upper)
    sheet.write_lines(scene.title, left + width / 2, upper + height)
    for n, crop in enumerate(crops[i]):
      row, column = divmod(n, columns[i])
      x, y = first + column * cell_width, top + row * (crop_heights[i] + labels[i] + space)
      sheet.show(crop.picture, x, y)
      sheet.write_lines(crop.title, x + crop.picture.shape[1] / 2, y + crop.picture.shape[0])
    top += heights[i]
  save(sheet.figure, path)


def _crops(row: Zoom) -> list[_Panel]:
  """Cuts the box out of every panel and magnifies it."""
  x, y, width, height = row.box
  if min(x, y) < 0 or min(width, height) < 1 or x + width > row.picture.shape[1] or y + height > row.picture.shape[0]:
    raise ValueError(
      f'{row.box} does not lie in the {row.picture.shape[1]} x {row.picture.shape[0]} pixels of {row.name}'
    )
  magnify = -(-_CROP // width)
  crops = []
  for title, picture in row.panels:
    factor = _factor(row.picture.shape, picture.shape)
    if any(side % factor for side in row.box):
      raise ValueError(f'{row.box} does not lie on whole pixels of a picture that is {factor} times smaller')
    x, y, width, height = (side // factor for side in row.box)
    crops.append(_Panel(title, _enlarge(picture[y : y + height, x : x + width], factor * magnify)))
  return crops


def _scene(row: Zoom, height: int) -> _Panel:
  """Resizes the scene to `height` pixels, less where it would become too wide."""
  h, w = row.picture.shape[:2]
  height = min(height, round(_WIDEST * height * h / w))
  width = max(1, round(height * w / h))
  picture = np.clip(_averaged(_averaged(row.picture, height, 0), width, 1), 0, 1)
  x, y, box_width, box_height = row.box
  box = Box(
    round(x * width / w),
    round(y * height / h),
    max(1, round(box_width * width / w)),
    max(1, round(box_height * height / h)),
  )
  return _Panel(row.name, picture, box)


def _averaged(x: np.ndarray, length: int, axis: int) -> np.ndarray:
  """Resizes an axis to `length`: every new pixel is the mean of the stretch of old ones that it covers."""
  x = np.moveaxis(np.asarray(x, np.float64), axis, 0)
  total = np.concatenate([np.zeros_like(x[:1]), x.cumsum(0)])
  edges = np.linspace(0, len(x), length + 1)
  below = np.minimum(edges.astype(int), len(x) - 1)
  part = (edges - below).reshape(-1, *[1] * (x.ndim - 1))
  at_edges = total[below] * (1 - part) + total[below + 1] * part
  return np.moveaxis(np.diff(at_edges, axis=0) * (length / len(x)), 0, axis)


# ---------------------------------------------------------------------------------------------------------------- boxes


def busiest_box(reference: np.ndarray, size: int, step: int = 1) -> Box:
  """Returns the square with the largest sum of luma gradients: most edges and texture.

  Args:
    reference: picture (H, W, 3), such as HR; not an output, or the box flatters who made it.
    size: side in pixels, less where the picture is smaller.
    step: corners lie on its multiples, and so do sides; the scale factor gives boxes on whole LR pixels.
  """
  luma = np.asarray(reference, np.float64) @ np.array(LUMA)
  return _heaviest_box(
    np.abs(np.diff(luma, axis=0, append=luma[-1:])) + np.abs(np.diff(luma, axis=1, append=luma[:, -1:])), size, step
  )


def largest_difference_box(a: np.ndarray, b: np.ndarray, size: int, step: int = 1) -> Box:
  """Returns the square in which two pictures (H, W, 3) differ most, by the sum of magnitudes; see `busiest_box`."""
  return _heaviest_box(np.abs(np.asarray(a, np.float64) - b).sum(-1), size, step)


def _heaviest_box(weight: np.ndarray, size: int, step: int) -> Box:
  height, width = (min(size, side) // step * step for side in weight.shape)
  if min(height, width) < 1:
    raise ValueError(f'there is no box of {size} pixels on a grid of {step} in {weight.shape[1]} x {weight.shape[0]}')
  total = np.pad(weight, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
  sums = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
  sums = sums[::step, ::step]
  y, x = np.unravel_index(sums.argmax(), sums.shape)
  return Box(int(x) * step, int(y) * step, width, height)

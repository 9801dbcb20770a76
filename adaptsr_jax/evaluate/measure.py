"""The measuring core: pictures in, numbers of each and their means out.

Decoding, restoring and measuring of neighbouring pictures overlap, and only the few in hand are in memory.
"""

import collections
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adaptsr_jax import data, image, infer, metrics, processes
from adaptsr_jax.data.folders import MARKS
from adaptsr_jax.errors import UserError, lacks_memory, some
from adaptsr_jax.evaluate import statistics

Pairs = Iterable[tuple[str, np.ndarray, np.ndarray]]
Functions = Iterable[Callable[[np.ndarray, np.ndarray, int], dict[str, float]]]

_SCORERS = 2  # pictures measured at a time
_SHOWN = 20  # bad pictures that are named before the rest is only counted
# Where a name ends and what a program appended to it begins: a_out, a-SwinIR, a (1), ax4; but not a1 or ab.
_APPENDED = re.compile(r'$|[\W_]|x[1-9](?![^\W_])', re.IGNORECASE)


class Restored(NamedTuple):
  """A picture to be measured."""

  name: str
  output: np.ndarray  # (H, W, 3), uint8 or uint16
  hr: np.ndarray  # the same; both are measured in 8 bit
  crop: int  # border to leave out, in pixels


def measure(
  restore: Callable[[np.ndarray, int], np.ndarray], pairs: Pairs, functions: Functions = (metrics.quality,)
) -> dict[str, Any]:
  """Measures what `restore` makes of LR pictures; result and errors as of `score`.

  Args:
    restore: (lr float32 (h, w, 3) in [0, 1], scale) -> (s * h, s * w, 3), floats or uint8; such as `infer.Network`.
    pairs: (name, lr, hr), uint8 or uint16, hr (s * h, s * w, 3).
    functions: see `score`.
  """
  return score(restored(restore, pairs), functions)


def restored(restore: Callable[[np.ndarray, int], np.ndarray], pairs: Pairs, at_once: int = 0) -> Iterator[Restored]:
  """Yields what `restore` makes of each LR picture; arguments as of `measure`.

  Args:
    restore: see `measure`.
    pairs: see `measure`.
    at_once: how many pictures go through it at the same time; 0: as many as devices take turns (`infer.at_work`).

  Raises:
    UserError: a picture too small for the window of SSIM, or values that are not finite; names it.
  """

  def result(name: str, lr: np.ndarray, hr: np.ndarray) -> Restored:
    scale = hr.shape[0] // lr.shape[0]
    _check_size(name, hr, scale)
    try:
      output = np.asarray(restore(image.to_float(lr), scale))
    except UserError as error:
      raise UserError(f'{name}: {error}') from error
    if output.dtype.kind == 'f' and not np.isfinite(output).all():
      raise UserError(f'The output for {name} holds values that are no finite numbers: the weights are of no use.')
    return Restored(name, image.to_levels(output, lr.dtype), hr, scale)

  at_once = at_once or len(infer.at_work())
  if at_once == 1:
    yield from (result(*pair) for pair in _ahead(pairs))
    return
  with futures.ThreadPoolExecutor(at_once) as threads:
    begun = (threads.submit(result, *pair) for pair in _ahead(pairs))
    yield from (each.result() for each in infer.ahead(begun, at_once))


def score(items: Iterable[Restored], functions: Functions = (metrics.quality,)) -> dict[str, Any]:
  """Measures finished pictures, as they come; those of all processes, which have a share each (`processes.share`).

  Values that are not finite, such as the PSNR of identical pictures, stay out of means and intervals; `left_out`
  counts them.

  Args:
    items: with different names.
    functions: (output uint8, hr uint8, border to leave out) -> {metric: value}; called from two threads.

  Returns:
    {'mean': {metric: value}, 'interval': {metric: (low, high)} (see `statistics.bootstrap`),
    'images': {name: {metric: value}}, 'levels': {name: output minus HR in grey levels (see `metrics.level`)}}.
  """
  functions = tuple(functions)
  with futures.ThreadPoolExecutor(_SCORERS) as threads:
    begun = ((item.name, threads.submit(_row, functions, item)) for item in items)
    rows = [[name, *row.result()] for name, row in infer.ahead(begun, _SCORERS)]
  shares = processes.gathered(rows)
  # They took turns.
  everything = [row for turn in itertools.zip_longest(*shares) for row in turn if row]
  images = {name: values for name, values, _ in everything}
  columns = {key: [row[key] for row in images.values()] for key in next(iter(images.values()), {})}
  return {
    'mean': {key: statistics.mean(values) for key, values in columns.items()},
    'interval': {key: statistics.bootstrap(values) for key, values in columns.items()},
    'images': images,
    'levels': {name: level for name, _, level in everything},
  }


def left_out(result: dict[str, Any]) -> dict[str, int]:
  """Returns for each metric with values that are not finite how many they are."""
  # In files, what is not finite is null.
  values = {key: [row[key] for row in result['images'].values()] for key in result['mean']}
  counts = {key: sum(value is None or not np.isfinite(value) for value in row) for key, row in values.items()}
  return {key: count for key, count in counts.items() if count}


def saved(items: Iterable[Restored], folder: Path) -> Iterator[Restored]:
  """Writes each picture to `folder`/NAME.png as it passes, in 16 bit where LR is."""
  folder.mkdir(parents=True, exist_ok=True)
  for item in items:
    image.write(folder / f'{item.name}.png', item.output)
    yield item


def finished(source: data.Source, files: dict[str, Path]) -> Iterator[Restored]:
  """Yields the pictures `files` of `find_finished` beside the HR pictures of `source`; this process' share of them.

  Raises:
    UserError: a picture that cannot be decoded, or is too small to be measured; names it.
  """

  def decoded() -> Pairs:
    for index in processes.share(len(source)):
      name, hr = source.names[index], source.hr(index)
      yield name, image.read_array(files[name])[: hr.shape[0], : hr.shape[1]], hr

  for name, output, hr in _ahead(decoded()):
    _check_size(name, hr, source.scale)
    yield Restored(name, output, hr, source.scale)


def find_finished(folder: str, source: data.Source, beside: Iterable[str] = ()) -> dict[str, Path]:
  """Returns for each pair of `source` its finished picture in `folder`, by headers alone.

  A picture belongs to the longest name that it begins with; what a program appended may follow (a_out, a_SwinIR), and
  the marks of data sets do not count (a_x1 and a_x4). Of several pictures the one that has the very name is taken, then
  one with nothing appended. As HR is cut to `scale` times LR, a picture may be larger by less than two LR pixels.

  Args:
    folder: of pictures.
    source: the HR pictures.
    beside: names of other HR pictures, as what begins with one of them belongs to it.

  Raises:
    UserError: names what is missing, what fits several times, and what has another size than its HR picture.
  """
  image.tell_unread(folder)
  groups = _by_owner(image.list_images(folder), source.names, beside)
  missing = [name for name in source.names if name not in groups]
  faults = [f'no picture for {some(missing, _SHOWN)}'] if missing else []
  unfit = [
    fault
    for index, name in enumerate(source.names)
    if name in groups and (fault := _fault(name, groups[name], source.lr_size(index), source.scale))
  ]
  faults += [some(unfit, _SHOWN, '; ')] if unfit else []
  if faults:
    number = len(missing) + len(unfit)
    raise UserError(
      f'{folder} cannot be measured, {number} of {len(source)} pictures do not fit: {"; ".join(faults)}. '
      '--names restricts what is measured.'
    )
  return {name: groups[name][0] for name in source.names}


def _row(functions: tuple[Callable, ...], item: Restored) -> tuple[dict[str, float], float]:
  try:
    pair = image.to_uint8(item.output), image.to_uint8(item.hr), item.crop
    return {key: float(value) for fn in functions for key, value in fn(*pair).items()}, metrics.level(*pair)
  except Exception as error:
    if lacks_memory(error) and not isinstance(error, UserError):
      height, width = item.hr.shape[:2]
      raise UserError(f'{item.name}: {width} x {height} pixels are too many for the memory of this machine.') from error
    if isinstance(error, UserError):  # too small for a metric, or too large
      raise UserError(f'{item.name}: {error}') from error
    raise


def _check_size(name: str, hr: np.ndarray, crop: int) -> None:
  least = metrics.WINDOW + 2 * crop
  if min(hr.shape[:2]) < least:
    raise UserError(f'{name} is {hr.shape[1]}x{hr.shape[0]}; to be measured it needs at least {least} pixels a side.')


def _ahead(items: Iterable[Any]) -> Iterator[Any]:
  """Yields the items while a thread already makes the next one."""
  iterator = iter(items)
  with futures.ThreadPoolExecutor(1) as thread:
    upcoming = thread.submit(next, iterator, None)
    while (item := upcoming.result()) is not None:
      upcoming = thread.submit(next, iterator, None)
      yield item


def _by_owner(files: list[Path], names: list[str], beside: Iterable[str]) -> dict[str, list[Path]]:
  """Returns for each of `names` the pictures that fit it best."""
  owners = {form: None for name in map(_composed, beside) for form in (_plain(name), name)}
  owners |= {_plain(name): name for name in names}
  owners |= {name: name for name in names}
  groups = collections.defaultdict(lambda: collections.defaultdict(list))
  for path in files:
    stem = _composed(path.stem)
    beginning = _beginning(stem, owners) or _beginning(_plain(stem), owners)
    name = owners.get(beginning)
    if name is not None:
      appended = beginning not in (stem, _plain(stem))
      groups[name][0 if stem == name else 1 + appended].append(path)
  return {name: ranks[min(ranks)] for name, ranks in groups.items()}


def _composed(name: str) -> str:
  return unicodedata.normalize('NFC', name)  # as names of pairs are; some file systems hand out accents apart


def _plain(name: str) -> str:
  return MARKS.sub('', name)


def _beginning(stem: str, owners: dict[str, str | None]) -> str:
  """Returns the longest name of `owners` that `stem` consists of or begins with; '' if there is none."""
  ends = range(len(stem), 0, -1)
  return next((stem[:end] for end in ends if stem[:end] in owners and _APPENDED.match(stem, end)), '')


def _fault(name: str, found: list[Path], lr_size: tuple[int, int], scale: int) -> str | None:
  """Returns why the pictures found for `name` cannot be used, or None."""
  if len(found) > 1:
    return f'several for {name} ({", ".join(path.name for path in found[:3])})'
  size, cut = image.size(found[0]), tuple(scale * n for n in lr_size)
  if all(0 <= n - least < 2 * scale for n, least in zip(size, cut, strict=True)):
    return None
  of_lr = ' like LR' if size == lr_size else ''
  return f'{found[0].name} is {size[1]}x{size[0]}{of_lr}, not {cut[1]}x{cut[0]}'

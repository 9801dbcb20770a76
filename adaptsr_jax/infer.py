"""One picture through a network: padded, in tiles where it is large, averaged over flips and turns where wished."""

import collections
import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adaptsr_jax import bicubic, memory
from adaptsr_jax.errors import UserError, enough_memory, lacks_memory
from adaptsr_jax.log import say
from adaptsr_jax.tree import Params

SIDES = (64, 96, 128, 192, 256, 384, 512, 768)  # of the tiles of a large picture when none is given, in LR pixels
AUTO_WHOLE = 768 * 768  # LR pixels up to which a picture goes through whole when no tile is given
WHOLE = -1  # given as a tile: the whole picture, however large

# Tiles start at its multiples: networks that pool or attend in blocks of 8 then see the blocks of the whole picture.
_GRID = 8
_KEPT = 32  # programs of different shapes
_RAMP = 8  # LR pixels over which a tile fades into the next
# LR pixels at the edges of a tile that serve as surroundings only: for convolutions, and for attention in windows.
_OVERLAP, _WINDOW_OVERLAP = 16, 32


class _Span(NamedTuple):
  """The part of a tile along one axis: LR pixels from `start`, and the weight of each of its HR pixels."""

  start: int
  weights: np.ndarray


class Network(NamedTuple):
  """A network ready to enlarge pictures.

  Attributes:
    model: that it is.
    params: of it, on the device.
    options: keyword arguments of `upscale`: its tiles, and whether it averages over flips and turns.
    apply_fn: what is called for `model.apply`.
  """

  model: Any
  params: Params
  options: dict[str, Any]
  apply_fn: Callable[..., Any]

  def __call__(self, lr: np.ndarray, scale: int = 0, on_tile: Callable[[int, int], None] | None = None) -> np.ndarray:
    """Enlarges (h, w, 3) as `upscale` does; `scale` is there for callers that have kernels in the place of networks."""
    return upscale(self.apply_fn, self.params, lr, self.model.upscale, on_tile=on_tile, **self.options)


def network(
  model: Any,
  params: Params,
  tile: int = 0,
  overlap: int | None = None,
  ensemble: bool = False,
  apply_fn: Callable[..., Any] | None = None,
) -> Network:
  """Returns a network ready to enlarge, with `tile`, `overlap` and `ensemble` as of `upscale`.

  Without an overlap it is 16, and 32 for networks that attend in windows (`model.multiple` > 1): every block sees half
  a window further, and where attention is sharp 16 changes pixels by up to 0.7 / 255, 32 by 0.001 / 255
  (benchmarks/README.md).

  Raises:
    UserError: tiles that leave nothing beside their overlap.
  """
  if overlap is None:
    overlap = _OVERLAP if model.multiple == 1 else _WINDOW_OVERLAP
  tiling(tile, overlap, model.multiple, model.minimum)
  fields = {'tile': tile, 'overlap': overlap, 'multiple': model.multiple, 'minimum': model.minimum}
  fields |= {'once': model.once} if hasattr(model, 'once') else {}
  return Network(model, jax.device_put(params), {**fields, 'ensemble': ensemble}, apply_fn or model.apply)


def upscale(
  apply_fn: Callable[..., Any],
  params: Params,
  lr: np.ndarray,
  scale: int,
  multiple: int = 1,
  tile: int = 0,
  overlap: int = _OVERLAP,
  ensemble: bool = False,
  minimum: int = 1,
  on_tile: Callable[[int, int], None] | None = None,
  once: Callable[[Params, Any], Params] | None = None,
  devices: Sequence[jax.Device] = (),
) -> np.ndarray:
  """Enlarges one picture.

  Picture and result stay in the memory of the host; the device holds a tile at a time. All tiles have one shape, so the
  function compiled for the first serves them all, and all later pictures. A picture that goes through whole compiles
  for its size.

  A tile counts only where it is at least `overlap` pixels away from its cut edges, and fades into the next over 8 more.
  So with `overlap` >= the receptive radius of a convolutional network the result is that of the whole picture. For a
  network that pools on a grid this holds where the sides of the picture are multiples of the grid. Smaller overlaps
  give slightly different values, without seams: for the published SAFMN x2 (radius 130) and a photo of 400 x 400, tiles
  of 192 are 88 dB from the whole picture with overlap 16, 118 dB with 32; for 397 x 403, 51 dB with either.

  Args:
    apply_fn: a model's `apply`.
    params: its parameters; put them on the device first if many pictures follow.
    lr: (h, w, 3), floats in [0, 1].
    scale: factor of the network.
    multiple: the sides of the network's input must be multiples of it.
    tile: side of the tiles in LR pixels, rounded up to a multiple of 8 and of `multiple`; 0: the whole picture up to
      `AUTO_WHOLE` pixels, or tiles of that of `SIDES` which makes the least work, as the memory that is free allows;
      `WHOLE`: always the whole picture. Where the memory does not suffice all the same, half the side is tried once.
    overlap: LR pixels at each cut edge of a tile that serve as surroundings only.
    ensemble: average over the eight flips and turns, at eight times the cost.
    minimum: smallest side of the network's input; smaller pictures are padded by reflection.
    on_tile: called after each tile with (done, total).
    once: (params, (1, h, w, 3)) -> params, called with the whole picture before its tiles, for networks that take
      something from all of it.
    devices: that take groups of tiles, or whole pictures, in turn; (): as of `at_work`.

  Returns:
    (scale * h, scale * w, 3) float32, not clipped.

  Raises:
    UserError: the tile leaves nothing beside its overlap, or does not fit into the memory of the device.
  """
  lr = np.asarray(lr, np.float32)
  if lr.ndim != 3 or lr.shape[-1] != 3 or not lr.size:
    raise ValueError(f'a picture to enlarge is (h, w, 3), not {lr.shape}')
  tiling(tile, overlap, multiple, minimum)
  params = jax.device_put(params)
  if once:
    params = _once(once, params, lr[None])
  apply = _Applied(apply_fn, params, ensemble, jax.local_devices()[0])
  cut = _Cut(overlap, multiple, minimum, scale)
  others = devices or at_work(), on_tile
  side = 0 if tile == WHOLE else tile or _side(apply, lr.shape[:2], cut)
  smaller = _smaller(lr.shape[:2], side, cut) if tile != WHOLE else 0
  if smaller:
    try:
      return _enlarged(apply, lr, side, cut, *others)
    except (RuntimeError, MemoryError) as error:
      if not lacks_memory(error):
        raise
    say(f'The memory does not suffice for {side or "a whole picture"} pixels at a time; tiles of {smaller} are tried.')
    _limits[apply_fn] = side = smaller
  height, width = (side, side) if side else lr.shape[:2]
  advice = f'choose a smaller tile, such as --tile={max(_GRID, min(height, width) // 2 // _GRID * _GRID)}'
  with enough_memory(f'for {height} x {width} pixels at a time: {advice} (in a run --config.eval_tile)'):
    return _enlarged(apply, lr, side, cut, *others)


def at_work() -> list[jax.Device]:
  """Returns the devices that enlarge pictures in turn: all accelerators of this process, or one CPU."""
  devices = jax.local_devices()
  return devices[:1] if devices[0].platform == 'cpu' else devices


class _Cut(NamedTuple):
  """How pictures are cut into tiles."""

  overlap: int
  multiple: int
  minimum: int
  scale: int


class _Applied(NamedTuple):
  """A network with its parameters, whether it averages over flips and turns, and the device that computes."""

  apply_fn: Callable[..., Any]
  params: Params
  ensemble: bool
  device: jax.Device

  def __call__(self, x: Any) -> jax.Array:
    """Enlarges (n, h, w, 3); does not wait for it."""
    with jax.default_device(self.device):
      return _ensemble(self._run, x) if self.ensemble else self._run(x)

  def _run(self, x: Any) -> jax.Array:
    program = _program(self, x.shape)
    return program(self.params, x) if program else _forward(self.apply_fn, self.params, x)


def _enlarged(
  apply: _Applied,
  lr: np.ndarray,
  side: int,
  cut: _Cut,
  devices: Sequence[jax.Device],
  on_tile: Callable[[int, int], None] | None,
) -> np.ndarray:
  """Enlarges a picture in tiles of `side`, or whole where that is 0; the others as of `upscale`."""
  side, stride = tiling(side, cut.overlap, cut.multiple, cut.minimum) if side else (0, 0)
  scale = cut.scale
  # To whole multiples with tiles too: the last tile ends with the picture, and its windows must be the picture's.
  size = [_up(max(n, side or cut.minimum), cut.multiple) for n in lr.shape[:2]]
  check_memory(size, scale, 'choose a smaller tile' if side else 'cut the picture into parts')
  padded = _padded(lr, size)
  height, width = (side, side) if side else padded.shape[:2]
  _check_program(apply, height, width)
  rows = _spans(padded.shape[0], height, stride, scale)
  columns = _spans(padded.shape[1], width, stride, scale)
  tiles = list(itertools.product(rows, columns))
  number = min(len(tiles), _at_a_time(apply, height, width))
  # The last ones go through again where they do not make up the number.
  groups = [[*tiles[i : i + number], *tiles[:number]][:number] for i in range(0, len(tiles), number)]
  inputs = (
    np.stack([padded[y.start : y.start + height, x.start : x.start + width] for y, x in group]) for group in groups
  )
  computed = (apply._replace(device=devices[next(_turns) % len(devices)])(x) for x in inputs)
  outputs = (output for group in ahead(computed, len(devices)) for output in np.asarray(group, np.float32))
  canvas = np.zeros((scale * padded.shape[0], scale * padded.shape[1], 3), np.float32)
  for done, ((y, x), output) in enumerate(zip(tiles, outputs, strict=False), 1):
    _paste(canvas, output, y, x, scale)
    if on_tile:
      on_tile(done, len(tiles))
  return canvas[: scale * lr.shape[0], : scale * lr.shape[1]]


_turns = itertools.count()  # of the devices, whatever picture
_limits: dict[Any, int] = {}  # apply_fn -> side of the tiles that were tried after memory did not suffice
_programs: dict[Any, Any] = {}  # whose memory was asked for; `_KEPT` of them


def _side(apply: _Applied, size: tuple[int, int], cut: _Cut) -> int:
  """Returns the side of the tiles that enlarge a picture of `size` LR pixels with the least work in free memory.

  0 is the whole picture. Tiles are no larger than the picture where they can be, as its edges would be others.
  """
  free, limit = _free(size, cut.scale), _limits.get(apply.apply_fn, 0)
  sides = [side for side in _sides(cut) if not limit or side <= limit] or [limit]
  within = [side for side in sides if side <= min(size)] or sides[:1]
  choices = sorted(within, key=lambda side: (_work(size, side, cut), -side))
  if not limit and size[0] * size[1] <= AUTO_WHOLE:
    choices = [0, *choices]
  each = 0.0  # bytes for a pixel of a tile
  for side in choices:
    height, width = (side, side) if side else [_up(max(n, cut.minimum), cut.multiple) for n in size]
    if each * height * width <= free:
      needs = _needs(apply, (1, height, width, 3))
      each = needs / (height * width)
      if needs <= free:
        _tell(side, needs, free)
        return side
  return sides[0]


def _sides(cut: _Cut) -> list[int]:
  found = []
  for side in SIDES:
    with contextlib.suppress(UserError):
      found.append(tiling(side, cut.overlap, cut.multiple, cut.minimum)[0])
  return found


def _work(size: tuple[int, int], side: int, cut: _Cut) -> int:
  """Returns how many pixels go through the network in tiles of `side`."""
  stride = tiling(side, cut.overlap, cut.multiple, cut.minimum)[1]
  rows, columns = (1 + max(0, -(-(n - side) // stride)) for n in size)
  return rows * columns * side**2


def _smaller(size: tuple[int, int], side: int, cut: _Cut) -> int:
  """Returns the side of tiles to be tried where those of `side`, or 0: the whole picture, are too large; 0 for none."""
  half = (side or max(size)) // 2 // _GRID * _GRID
  with contextlib.suppress(UserError):
    smaller = tiling(half, cut.overlap, cut.multiple, cut.minimum)[0] if half else 0
    return smaller if smaller < (side or max(size)) else 0
  return 0


def _free(size: tuple[int, int], scale: int) -> float:
  """Returns how many bytes tiles may take beside a picture of `size` LR pixels: of the device, where it tells."""
  stats = jax.local_devices()[0].memory_stats() or {}
  if 'bytes_limit' in stats:
    return 0.8 * (stats['bytes_limit'] - stats.get('bytes_in_use', 0))
  free = memory.available()
  # Half of it: what libraries take beside is not known to the compiler.
  return math.inf if free is None else 0.5 * (free - 15 * scale**2 * size[0] * size[1])


def _needs(apply: _Applied, shape: tuple[int, ...]) -> float:
  """Returns how many bytes the program for `shape` takes beside the parameters; compiles it, and keeps it."""
  program = _program(apply, shape)
  if not program:
    shapes = jax.ShapeDtypeStruct(shape, np.float32)
    program = _programs[_key(apply, shape)] = _forward.lower(apply.apply_fn, apply.params, shapes).compile()
    if len(_programs) > _KEPT:
      del _programs[next(iter(_programs))]
  analysis = program.memory_analysis()
  return analysis.temp_size_in_bytes + analysis.output_size_in_bytes if analysis else 0


def _check_program(apply: _Applied, height: int, width: int) -> None:
  """Raises MemoryError where a large tile does not fit into a host, which would end the process unheard."""
  if height * width > AUTO_WHOLE and jax.default_backend() == 'cpu':
    free = memory.available()
    if free is not None and _needs(apply, (1, height, width, 3)) > free:
      raise MemoryError


def _program(apply: _Applied, shape: tuple[int, ...]) -> Any:
  return _programs.get(_key(apply, shape))


def _key(apply: _Applied, shape: tuple[int, ...]) -> Any:
  leaves, structure = jax.tree.flatten(apply.params)
  return apply.apply_fn, apply.device, shape, structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def _at_a_time(apply: _Applied, height: int, width: int) -> int:
  """Returns how many tiles go through together: on a CPU one, else as many as make up a large one."""
  if jax.default_backend() == 'cpu':
    return 1
  needs = _needs(apply, (1, height, width, 3))
  return max(1, int(min(max(SIDES) ** 2 / (height * width), _free((0, 0), 1) / max(1, needs))))


_told: set[int] = set()


def _tell(side: int, needs: float, free: float) -> None:
  if side and side not in _told and math.isfinite(free):
    _told.add(side)
    say(f'Tiles of {side} x {side} pixels take {needs / 1e9:.2f} GB; up to {free / 1e9:.1f} GB are left for them.')


def check_memory(size: Sequence[int], scale: int, advice: str = 'cut the picture into parts') -> None:
  """Raises UserError where the memory does not suffice for what `upscale` makes of a picture of `size` LR pixels."""
  height, width = (scale * n for n in size)
  memory.check(15 * height * width, f'an output of {width} x {height} pixels', advice)


def bled(rgb: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
  """Gives fully transparent pixels the colour of the nearest visible one, or edges would take on what is hidden.

  Args:
    rgb: (h, w, 3).
    alpha: (h, w), 0 is transparent; None: nothing is.
  """
  if alpha is None or alpha.min() > 0 or alpha.max() == 0:
    return rgb
  from scipy import ndimage

  nearest = ndimage.distance_transform_edt(alpha == 0, return_distances=False, return_indices=True)
  return rgb[tuple(nearest)]


def enlarged_alpha(alpha: np.ndarray | None, scale: int) -> np.ndarray | None:
  """Returns the transparency (h, w) of an enlarged picture, by the bicubic kernel: (scale * h, scale * w)."""
  return None if alpha is None else np.clip(bicubic.imresize(alpha, scale), 0, 1)


def tiling(tile: int, overlap: int, multiple: int = 1, minimum: int = 1) -> tuple[int, int]:
  """Returns (side of the tiles, distance of their starts) for the arguments of `upscale`; UserError if impossible."""
  if tile < WHOLE:
    raise UserError(f'The tile is {tile}; it can be a number of pixels, 0 (automatic) or {WHOLE} (the whole picture).')
  if overlap < 0:
    raise UserError(f'The overlap is {overlap}; it can be 0 or more pixels.')
  grid = math.lcm(_GRID, multiple)
  side = _up(max(tile if tile > 0 else max(SIDES), minimum), grid)
  stride = (side - 2 * overlap - _RAMP) // grid * grid
  if stride < grid and tile != WHOLE:
    least = _up(2 * overlap + _RAMP + grid, grid)
    raise UserError(
      f'Tiles of {side} pixels with an overlap of {overlap} leave nothing: give --tile={least} or a smaller overlap.'
    )
  return side, stride


def _up(n: int, unit: int) -> int:
  """Rounds up to a multiple of `unit`."""
  return -(-n // unit) * unit


def _padded(x: np.ndarray, size: list[int]) -> np.ndarray:
  """Extends (h, w, c) at the bottom and the right by reflection; by repeated mirroring where there is too little."""
  for axis, (n, target) in enumerate(zip(x.shape, size, strict=False)):
    if target > n:
      widths = [(0, target - n) if i == axis else (0, 0) for i in range(x.ndim)]
      x = np.pad(x, widths, mode='reflect' if target < 2 * n else 'symmetric')
  return x


def _spans(length: int, side: int, stride: int, scale: int) -> list[_Span]:
  """Covers one axis of `length` LR pixels by tiles; at every HR pixel the weights add up to one."""
  starts = [*range(0, length - side, stride), length - side] if length > side else [0]
  # rise[i] is 0 before the border of tiles i - 1 and i, 1 behind it, and a ramp in the middle of what they share.
  at = (np.arange(length * scale) + 0.5) / scale
  borders = [(after + before + side) / 2 for before, after in itertools.pairwise(starts)]
  rise = [np.ones_like(at), *(np.clip((at - b) / _RAMP + 0.5, 0, 1) for b in borders), np.zeros_like(at)]
  weights = (before - after for before, after in itertools.pairwise(rise))
  return [
    _Span(start, w[start * scale : (start + side) * scale].astype(np.float32))
    for start, w in zip(starts, weights, strict=True)
  ]


@functools.partial(jax.jit, static_argnums=0)
def _once(once: Callable[..., Params], params: Params, x: jax.Array) -> Params:
  return once(params, x)


@functools.partial(jax.jit, static_argnums=0)
def _forward(apply_fn: Callable[..., Any], params: Params, x: jax.Array) -> jax.Array:
  return apply_fn({'params': params}, x)


def _ensemble(run: Callable[[Any], jax.Array], x: np.ndarray) -> jax.Array:
  """Averages over the eight flips and turns of (n, h, w, 3), each undone on the output."""
  total = 0
  for turns, flip in itertools.product(range(4), (False, True)):
    turned = np.rot90(x, turns, axes=(1, 2))
    y = run(np.ascontiguousarray(turned[:, :, ::-1] if flip else turned))
    total += jnp.rot90(y[:, :, ::-1] if flip else y, -turns, axes=(1, 2))
  return total / 8


def ahead(items: Iterator[Any], number: int) -> Iterator[Any]:
  """Asks for `number` more items before handing one out: what computes them goes on while one is dealt with."""
  asked = collections.deque()
  for item in items:
    asked.append(item)
    if len(asked) > number:
      yield asked.popleft()
  yield from asked


def _paste(canvas: np.ndarray, tile: np.ndarray, y: _Span, x: _Span, scale: int) -> None:
  """Adds a weighted tile to the canvas where its weights are not zero."""
  (top, bottom), (left, right) = (np.flatnonzero(span.weights)[[0, -1]] + (0, 1) for span in (y, x))
  weights = y.weights[top:bottom, None, None] * x.weights[left:right, None]
  at_y, at_x = scale * y.start, scale * x.start
  canvas[at_y + top : at_y + bottom, at_x + left : at_x + right] += weights * tile[top:bottom, left:right]

"""Training batches: shuffled, cropped and turned, the same for the same seed, and resumed exactly.

Batch i is a function of the seed, the pictures and i alone: neither the number of workers nor what was read before
changes it. Hence the whole state of an iterator is one number. Transformations are numpy only, because worker processes
run them; a worker that touched an accelerator would claim memory there. Simulated cameras run on the accelerator, so
they get their HR crops in the main process, when a batch is handed out.
"""

import functools
import itertools
import os
import sys
import time
import weakref
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from absl import flags

from adaptsr_jax import command
from adaptsr_jax.data.sources import Cameras, Source
from adaptsr_jax.devices import Devices
from adaptsr_jax.errors import UserError

# Two threads decode while a step computes; more would take cores from it. Batches prepared ahead, per reader.
_THREADS = 2
_AHEAD = 4
_AHEAD_IN_WORKER = 2


def train_batches(
  source: Source,
  batch_size: int,
  patch: int,
  scale: int,
  seed: int,
  workers: int = 0,
  degrade: Cameras | None = None,
  match_exposure: bool = False,
  devices: Devices | None = None,
) -> 'Batches':
  """Returns an endless iterator of training batches.

  Each picture appears once per epoch in shuffled order, at a new random place, in one of the eight orientations of the
  square. Epochs run on into each other, so a source smaller than a batch works too. The parts of a mixture take turns
  by their weights, and each has its own epochs.

  Args:
    source: the pairs.
    batch_size: pairs per batch. With simulated cameras, a multiple of the sum of the weights gives all batches the same
      numbers of each part, and so spares compilations.
    patch: side of the HR crops in pixels, a multiple of `scale`.
    scale: that of the source and the model.
    seed: of order, places and orientations, 0 <= seed < 2**32.
    workers: processes that read and crop; 0 does it in threads of this one. With workers, the main module is imported
      again in each (guard it with `if __name__ == '__main__'`), and each keeps its own cache.
    degrade: the simulated cameras; needed where the source names presets.
    match_exposure: give HR crops the exposure of LR (see `exposure_matched`).
    devices: that share the batches, whose processes read a share of each.

  Raises:
    UserError: the patch does not suit the scale or the size of a picture, or a preset is unknown; names it.
  """
  if scale != source.scale:
    raise ValueError(f'the source is x{source.scale}, not x{scale}')
  _check_patch(source, patch)
  simulated = _check_presets(source, patch, degrade)
  if simulated and devices:
    _check_shares(source, batch_size, devices)
  dataset = (
    grain.MapDataset.range(len(source))
    .seed(seed)
    .repeat()
    .map_with_index(Order.of(source.lengths, source.weights, seed))
    .random_map(RandomCrop(source, patch // scale, degrade.canvas if simulated else 0))
    .batch(batch_size // (jax.process_count() if devices else 1), drop_remainder=True, batch_fn=_stack)
  )
  if devices and jax.process_count() > 1:
    dataset = dataset[jax.process_index() :: jax.process_count()]
  origin = {'pictures': repr(source), 'batch_size': batch_size, 'patch': patch, 'seed': seed}
  if match_exposure:
    dataset, origin = dataset.map(exposure_matched), {**origin, 'match_exposure': True}
  if not simulated:
    return Batches(dataset, origin, workers)
  return Batches(dataset, {**origin, 'degrade': degrade.digest}, workers, Simulation(degrade.presets, seed, devices))


class Order(NamedTuple):
  """Maps places in the endless sequence to pictures: the parts of a source take turns, and each is shuffled by itself.

  Of any first n places, every part has its share of n up to less than one.
  """

  turns: tuple[tuple[int, int], ...]  # (part, how often it had a turn before) of one round
  weights: tuple[int, ...]  # turns of each part in a round
  starts: tuple[int, ...]  # number of the first picture of each part
  shuffles: tuple['Shuffle', ...]

  @classmethod
  def of(cls, lengths: Sequence[int], weights: Sequence[int], seed: int) -> 'Order':
    starts = tuple(itertools.accumulate(lengths, initial=0))[:-1]
    shuffles = tuple(Shuffle(length, seed, part) for part, length in enumerate(lengths))
    return cls(_turns(weights), tuple(weights), starts, shuffles)

  def __call__(self, place: int, _: int) -> int:
    round_, place = divmod(place, len(self.turns))
    part, before = self.turns[place]
    return self.starts[part] + self.shuffles[part](round_ * self.weights[part] + before)


def _turns(weights: Sequence[int]) -> tuple[tuple[int, int], ...]:
  """Returns one round of sum(weights) turns, interleaved evenly.

  Turn k of a part of weight w, in a round of n, belongs between the places k n / w and (k + 1) n / w. To serve the
  earliest of these deadlines first keeps all of them, which is the fair scheduling of Baruah et al. (1996).
  """
  total, had, turns = sum(weights), [0] * len(weights), []
  for place in range(total):
    ready = [
      part for part, weight in enumerate(weights) if had[part] < weight and had[part] * total < (place + 1) * weight
    ]
    part = min(ready, key=lambda part: -(-(had[part] + 1) * total // weights[part]))
    turns.append((part, had[part]))
    had[part] += 1
  return tuple(turns)


class Shuffle(NamedTuple):
  """Maps turns of a part to its pictures, each once per epoch. (Grain's own takes 0.2 ms per picture.)"""

  count: int
  seed: int
  part: int = 0

  def __call__(self, turn: int) -> int:
    epoch, place = divmod(turn, self.count)
    return int(_permutation(self.count, self.seed, epoch, self.part)[place])


@functools.lru_cache(maxsize=256)  # batches that are read ahead may reach into the next epoch of every part
def _permutation(count: int, seed: int, epoch: int, part: int) -> np.ndarray:
  entropy = (seed, epoch, part) if part else (seed, epoch)  # the first part in the order that it has alone
  return np.random.default_rng(entropy).permutation(count)


class RandomCrop(NamedTuple):
  """Cuts a random place out of a pair and turns it; `size` in LR pixels, `canvas` in HR pixels."""

  source: Source
  size: int
  canvas: int = 0

  def __call__(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
    """Returns a sample of pair `index` as views, uint8 or uint16.

    Returns:
      {'lr': (size, size, 3), 'hr': (scale size, scale size, 3)}, or, where a simulated camera makes the LR picture,
      {'raw': (its preset, (canvas, canvas, 3))}.
    """
    preset = self.source.preset(index)
    return {'raw': (preset, self._raw(index, rng))} if preset else self._pair(index, rng)

  def _pair(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    h, w = self.source.lr_size(index)
    top, left = (int(rng.integers(n - self.size + 1)) for n in (h, w))
    orientation = int(rng.integers(8))
    crop = self.source.crop(index, top, left, self.size)
    return {key: _oriented(crop[key], orientation) for key in ('lr', 'hr')}

  def _raw(self, index: int, rng: np.random.Generator) -> np.ndarray:
    hr, side = self.source.hr(index), self.canvas
    top, left = (int(rng.integers(max(0, n - side) + 1)) for n in hr.shape[:2])
    orientation = int(rng.integers(8))
    crop = hr[top : top + side, left : left + side]
    lack = [(0, side - n) for n in crop.shape[:2]]
    if any(map(any, lack)):
      crop = np.pad(crop, [*lack, (0, 0)], 'reflect')  # without the edge itself, as Real-ESRGAN does
    return _oriented(crop, orientation)


class Simulation(NamedTuple):
  """Turns the raw crops of a batch into pairs; batch number and seed decide every draw."""

  presets: Mapping[str, Callable[[Any, Any], Mapping[str, Any]]]
  seed: int
  devices: Devices | None = None

  def __call__(self, batch: dict[str, Any], number: int) -> dict[str, Any]:
    """Returns {'lr', 'hr'} of the pairs in `batch` and those made from its raw crops; does not wait for them.

    Devices make those of their own crops, where these divide among them; all draws are those of one device.

    Where any camera gives 'plain', the unsharpened 'hr', the batch has it too.
    """
    import jax
    import jax.numpy as jnp

    raws = sorted(batch.get('raw', {}).items())
    pairs = {key: batch[key] for key in ('lr', 'hr') if key in batch}
    divided = self.devices and self.devices.divide(*(len(crops) for crops in (*pairs.values(), *dict(raws).values())))
    made = [self.devices.divided(pairs) if divided else pairs] if pairs else []
    for preset, raw in raws:
      key = jax.random.fold_in(jax.random.key(self.seed), zlib.crc32(preset.encode()))
      # Sent as integers, a quarter of the bytes, and divided over there.
      there = self.devices.divided({'raw': raw})['raw'] if divided else jnp.asarray(raw)
      canvas = there / np.float32(np.iinfo(raw.dtype).max)
      made.append(self.presets[preset](jax.random.fold_in(key, number), canvas))
    if any('plain' in pairs for pairs in made):
      made = [{'plain': pairs['hr'], **pairs} for pairs in made]
    join = self.devices.joined if divided else jnp.concatenate
    return made[0] if len(made) == 1 else {key: join([pairs[key] for pairs in made]) for key in made[0]}


class Batches(grain.DatasetIterator):
  """Iterator over {'lr', 'hr'} batches whose state is the number of the next one and where the batches come from.

  Works with `grain.checkpoint.CheckpointSave` and `CheckpointRestore`. A state may be restored with another number of
  workers, but neither with other pictures nor with other settings.
  """

  def __init__(
    self, dataset: grain.MapDataset, origin: dict[str, Any], workers: int = 0, simulation: Simulation | None = None
  ):
    super().__init__()
    self._dataset = dataset
    self._simulation = simulation
    self._origin = origin
    self._workers = workers
    self._next_batch = 0
    self._reader: grain.DatasetIterator | None = None
    self.waited = 0.0  # seconds spent waiting for pictures, without what simulated cameras take on the device

  def __next__(self) -> dict[str, Any]:
    """Returns {'lr', 'hr'}, float32 in [0, 1]: numpy arrays, or jax arrays where simulated cameras are at work."""
    self._assert_not_closed()
    self.start_prefetch()
    start = time.perf_counter()
    with command.deaf_children():  # grain starts some of its processes late
      batch, number = next(self._reader), self._next_batch
    self.waited += time.perf_counter() - start
    self._next_batch += 1
    return self._simulation(batch, number) if self._simulation else batch

  def get_state(self) -> dict[str, Any]:
    return {'next_batch': self._next_batch, **self._origin}

  def set_state(self, state: dict[str, Any]) -> None:
    """Continues at the batch that `state` is about to read.

    Raises:
      UserError: the state belongs to other pictures or settings; names what differs.
    """
    for key, value in self._origin.items():
      if state.get(key) != value:
        raise UserError(
          f'The saved run cannot go on with other data: its {key} was {state.get(key)} and is {value} now; '
          'restore what it was, or begin a new run.'
        )
    self._stop()
    self._next_batch = state['next_batch']

  def start_prefetch(self) -> None:
    # Readers start here, not at creation: restoring a state would start them twice.
    if self._reader is None:
      with command.deaf_children():
        self._reader = _read(self._dataset[self._next_batch :], self._workers)
        # Also at the end of the program: processes that are left to the interpreter's own end complain.
        self._close_reader = weakref.finalize(self, self._reader.close)
        self._reader.start_prefetch()

  def close(self) -> None:
    self._stop()
    super().close()

  def _stop(self) -> None:
    if self._reader is not None:
      self._close_reader()
      self._reader = None


def _read(dataset: grain.MapDataset, workers: int) -> grain.DatasetIterator:
  if not workers:
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_AHEAD)))
  if not flags.FLAGS.is_parsed():  # in a notebook or a test; grain asks for its flags when it starts processes
    flags.FLAGS.mark_as_parsed()
  options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=_AHEAD_IN_WORKER)
  in_worker = dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=_AHEAD_IN_WORKER))
  return iter(in_worker.mp_prefetch(options, worker_init_fn=_begin_worker))


def _begin_worker(worker: int, workers: int) -> None:
  """Binds a worker process to its parent, and keeps it off the accelerator, as grain has imported jax there already."""
  command.follow_parent()
  os.environ['JAX_PLATFORMS'] = 'cpu'
  if 'jax' in sys.modules:
    sys.modules['jax'].config.update('jax_platforms', 'cpu')


def _check_patch(source: Source, patch: int) -> None:
  scale = source.scale
  if patch < 1 or patch % scale:
    raise UserError(f'The patch is {patch} HR pixels; it must be a positive multiple of the scale, {scale}.')
  # Crops for a simulated camera are filled up.
  sizes = {index: source.lr_size(index) for index in range(len(source)) if not source.preset(index)}
  small = {index: size for index, size in sizes.items() if min(size) < patch // scale}
  if small:
    index, size = next(iter(small.items()))
    h, w = (scale * n for n in size)
    more = f' and {len(small) - 1} more are' if len(small) > 1 else ' is'
    least = min(map(min, small.values())) * scale
    raise UserError(
      f'{source.origin(index)} ({w}x{h}){more} smaller than the patch of {patch} HR pixels; '
      f'use a patch of at most {least}, or leave such pictures out.'
    )


def _check_presets(source: Source, patch: int, degrade: Cameras | None) -> bool:
  """Returns whether any picture goes through a simulated camera, all of which must be there."""
  wanted = {source.preset(index) for index in range(len(source))} - {''}
  if not wanted:
    return False
  if degrade is None or degrade.canvas < patch:
    raise ValueError(f'{", ".join(sorted(wanted))} needs `degrade` with a canvas of at least the patch, {patch}')
  unknown = sorted(wanted - set(degrade.presets))
  if unknown:
    raise UserError(f'degrade is {unknown[0]}; it can be one of: bicubic, {", ".join(degrade.presets)}.')
  return True


def _check_shares(source: Source, batch_size: int, devices: Devices) -> None:
  """Raises UserError where processes would simulate different numbers of crops, or devices a part of one."""
  least = devices.number * sum(source.weights)
  if jax.process_count() > 1 and batch_size % least:
    raise UserError(
      f'config.batch_size is {batch_size}; where {devices.number} devices of several processes simulate cameras, it '
      f'has to be a multiple of {least}, their number times the sum of the weights.'
    )


def _oriented(x: np.ndarray, orientation: int) -> np.ndarray:
  """Returns one of the eight orientations of `x` (n, n, C): bits 0, 1, 2 flip up-down, left-right and transpose."""
  x = x[:: -1 if orientation & 1 else 1, :: -1 if orientation & 2 else 1]
  return x.swapaxes(0, 1) if orientation & 4 else x


def _stack(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """Returns the batch of `samples`: pairs as float32 in [0, 1], and {'raw': {preset: crops}} as integers."""
  pairs = [sample for sample in samples if 'raw' not in sample]
  batch = {key: _unit_range([sample[key] for sample in pairs]) for key in pairs[0]} if pairs else {}
  raw = {}
  for preset, crop in (sample['raw'] for sample in samples if 'raw' in sample):
    raw.setdefault(preset, []).append(crop)
  if raw:
    batch['raw'] = {preset: _of_one_depth(crops) for preset, crops in raw.items()}
  return batch


def _unit_range(crops: Sequence[np.ndarray]) -> np.ndarray:
  """Returns `crops` as one float32 array in [0, 1]: one pass over the pixels, as the crops are views."""
  out = np.empty((len(crops), *crops[0].shape), np.float32)
  for row, crop in zip(out, crops, strict=True):
    np.divide(crop, np.float32(np.iinfo(crop.dtype).max), out=row)
  return out


def exposure_matched(batch: dict[str, Any]) -> dict[str, Any]:
  """Returns `batch` with the HR crop of every given pair at the exposure of its LR crop; raw crops are left alone.

  Photographs of one scene taken one after the other differ in exposure, which no network can know from the LR picture:
  it learns the mean difference instead, and shifts flat pictures by it. HR becomes gain * HR + offset, the same in all
  channels, by least squares between the means of squares of 8 LR pixels, in which blur and noise hardly count. A flat
  crop tells no gain: it is drawn to 1 as if by a contrast of two grey levels.
  """
  if 'lr' not in batch:
    return batch
  lr, hr = (batch[key] for key in ('lr', 'hr'))
  scale = hr.shape[1] // lr.shape[1]
  side = min(_SQUARE, lr.shape[1])
  x, y = _square_means(hr, side * scale), _square_means(lr, side)
  mean_x, mean_y = (values.mean(axis=1, keepdims=True) for values in (x, y))
  ridge = np.float32((2 / 255) ** 2)
  covariance, variance = ((x - mean_x) * (y - mean_y)).mean(axis=1), ((x - mean_x) ** 2).mean(axis=1)
  gain = ((covariance + ridge) / (variance + ridge))[:, None]
  offset = mean_y - gain * mean_x
  return {**batch, 'hr': gain[..., None, None] * hr + offset[..., None, None]}


_SQUARE = 8


def _square_means(x: np.ndarray, side: int) -> np.ndarray:
  """Returns (n, squares * 3), the means of the whole squares of `side` pixels in (n, h, w, 3)."""
  n, h, w, c = x.shape
  rows, columns = h // side, w // side
  squares = x[:, : rows * side, : columns * side].reshape(n, rows, side, columns, side, c)
  return squares.mean(axis=(2, 4)).reshape(n, -1)


def _of_one_depth(crops: Sequence[np.ndarray]) -> np.ndarray:
  """Returns `crops` as one array, 8-bit ones among 16-bit ones stretched to 65535."""
  if len({crop.dtype for crop in crops}) == 1:
    return np.stack(crops)
  return np.stack([crop if crop.itemsize == 2 else crop.astype(np.uint16) * np.uint16(257) for crop in crops])

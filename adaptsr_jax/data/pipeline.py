"""Training batches: shuffled, cropped and turned, the same for the same seed, and resumed exactly.

Batch i is a function of the seed, the pictures and i alone: neither the number of workers nor what was read before
changes it. Hence the whole state of an iterator is one number. Transformations are numpy only, because worker processes
run them; a worker that touched an accelerator would claim memory there.
"""

import functools
import os
import sys
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
from absl import flags

from adaptsr_jax.data.sources import Source
from adaptsr_jax.errors import UserError

# Two threads decode while a step computes; more would take cores from it. Batches prepared ahead, per reader.
_THREADS = 2
_AHEAD = 4
_AHEAD_IN_WORKER = 2


def train_batches(source: Source, batch_size: int, patch: int, scale: int, seed: int, workers: int = 0) -> 'Batches':
  """Returns an endless iterator of training batches.

  Each picture appears once per epoch in shuffled order, at a new random place, in one of the eight orientations of the
  square. Epochs run on into each other, so a source smaller than a batch works too.

  Args:
    source: the pairs.
    batch_size: pairs per batch.
    patch: side of the HR crops in pixels, a multiple of `scale`.
    scale: that of the source and the model.
    seed: of order, places and orientations, 0 <= seed < 2**32.
    workers: processes that read and crop; 0 does it in threads of this one. With workers, the main module is imported
      again in each (guard it with `if __name__ == '__main__'`), and each keeps its own cache.

  Raises:
    UserError: the patch does not suit the scale or the size of a picture; names it.
  """
  if scale != source.scale:
    raise ValueError(f'the source is x{source.scale}, not x{scale}')
  _check_patch(source, patch)
  dataset = (
    grain.MapDataset.range(len(source))
    .seed(seed)
    .repeat()
    .map_with_index(Shuffle(len(source), seed))
    .random_map(RandomCrop(source, patch // scale))
    .batch(batch_size, drop_remainder=True, batch_fn=_stack)
  )
  origin = {'pictures': repr(source), 'batch_size': batch_size, 'patch': patch, 'seed': seed}
  return Batches(dataset, origin, workers)


class Shuffle(NamedTuple):
  """Maps places in the endless sequence to pictures, each once per epoch. (Grain's own takes 0.2 ms per picture.)"""

  count: int
  seed: int

  def __call__(self, place: int, _: int) -> int:
    epoch, place = divmod(place, self.count)
    return int(_permutation(self.count, self.seed, epoch)[place])


@functools.lru_cache(maxsize=4)  # batches that are read ahead may reach into the next epoch
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
  return np.random.default_rng((seed, epoch)).permutation(count)


class RandomCrop(NamedTuple):
  """Cuts a random place out of a pair and turns it; `size` in LR pixels."""

  source: Source
  size: int

  def __call__(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns {'lr': (size, size, 3), 'hr': (scale size, scale size, 3)} of pair `index` as views, uint8 or uint16."""
    h, w = self.source.items[index].lr_size
    top, left = (int(rng.integers(n - self.size + 1)) for n in (h, w))
    orientation = int(rng.integers(8))
    crop = self.source.crop(index, top, left, self.size)
    return {key: _oriented(crop[key], orientation) for key in ('lr', 'hr')}


class Batches(grain.DatasetIterator):
  """Iterator over {'lr', 'hr'} batches whose state is the number of the next one and where the batches come from.

  Works with `grain.checkpoint.CheckpointSave` and `CheckpointRestore`. A state may be restored with another number of
  workers, but neither with other pictures nor with other settings.
  """

  def __init__(self, dataset: grain.MapDataset, origin: dict[str, Any], workers: int = 0):
    super().__init__()
    self._dataset = dataset
    self._origin = origin
    self._workers = workers
    self._next_batch = 0
    self._reader: grain.DatasetIterator | None = None

  def __next__(self) -> dict[str, np.ndarray]:
    self._assert_not_closed()
    self.start_prefetch()
    batch = next(self._reader)
    self._next_batch += 1
    return batch

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
  return iter(in_worker.mp_prefetch(options, worker_init_fn=_stay_on_cpu))


def _stay_on_cpu(worker: int, workers: int) -> None:
  """Keeps a worker process off the accelerator, even though grain has imported jax there already."""
  del worker, workers
  os.environ['JAX_PLATFORMS'] = 'cpu'
  if 'jax' in sys.modules:
    sys.modules['jax'].config.update('jax_platforms', 'cpu')


def _check_patch(source: Source, patch: int) -> None:
  scale = source.scale
  if patch < 1 or patch % scale:
    raise UserError(f'The patch is {patch} HR pixels; it must be a positive multiple of the scale, {scale}.')
  small = [item for item in source.items if min(item.lr_size) < patch // scale]
  if small:
    h, w = (scale * n for n in small[0].lr_size)
    more = f' and {len(small) - 1} more are' if len(small) > 1 else ' is'
    least = min(min(item.lr_size) for item in small) * scale
    raise UserError(
      f'{small[0].hr} ({w}x{h}){more} smaller than the patch of {patch} HR pixels; '
      f'use a patch of at most {least}, or leave such pictures out.'
    )


def _oriented(x: np.ndarray, orientation: int) -> np.ndarray:
  """Returns one of the eight orientations of `x` (n, n, C): bits 0, 1, 2 flip up-down, left-right and transpose."""
  x = x[:: -1 if orientation & 1 else 1, :: -1 if orientation & 2 else 1]
  return x.swapaxes(0, 1) if orientation & 4 else x


def _stack(crops: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  """Returns the batch of `crops` as float32 in [0, 1]: one pass over the pixels, as the crops are views."""
  batch = {key: np.empty((len(crops), *x.shape), np.float32) for key, x in crops[0].items()}
  for key, out in batch.items():
    for row, crop in zip(out, crops, strict=True):
      np.divide(crop[key], np.float32(np.iinfo(crop[key].dtype).max), out=row)
  return batch

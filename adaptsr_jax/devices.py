"""The devices that share a batch: every one has all parameters and computes a part of the pictures.

Programs are those of one device, as jit takes them on a mesh with Auto axes: batches come in parts, everything else
whole. What is a mean over the batch is taken by `Devices.mean`, with one sum between devices (`tests/test_devices.py`
reads the programs).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import flatten_util
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from adaptsr_jax import processes
from adaptsr_jax.errors import UserError

_AXIS = 'data'


class Devices(NamedTuple):
  """Devices of one or several processes, the same number of each.

  Attributes:
    mesh: their only axis is that of a batch; those of one process lie side by side.
    left_out: how many there are beside, which do nothing.
  """

  mesh: Mesh
  left_out: int = 0

  @property
  def number(self) -> int:
    """How many share a batch."""
    return self.mesh.size

  def divide(self, *shares: int) -> bool:
    """Tells whether so many pictures, each number a process' share, can be divided among the devices."""
    return all(jax.process_count() * share % self.number == 0 for share in shares)

  def everywhere(self, tree: Any) -> Any:
    """Returns arrays that all devices hold, of arrays that all processes have alike."""
    sharding = NamedSharding(self.mesh, PartitionSpec())

    def put(leaf: Any) -> jax.Array:
      leaf = np.asarray(leaf)
      return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(put, tree)

  def divided(self, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Returns a batch whose pictures lie on the devices in their order; numpy arrays are this process' share of it."""
    sharding = NamedSharding(self.mesh, PartitionSpec(_AXIS))
    return {
      name: jax.device_put(value, sharding)
      if isinstance(value, jax.Array)
      else jax.make_array_from_process_local_data(sharding, value)
      for name, value in batch.items()
    }

  def mean(self, fn: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Returns fn(whole, divided) -> arrays as their mean over the devices, each sees its part of `divided`.

    Summed as a single array: between processes on CPUs each array of a sum is a message round of its own, of 5 ms where
    they share cores (`benchmarks.processes`).
    """

    def mean(whole: Any, divided: Any) -> Any:
      flat, restore = flatten_util.ravel_pytree(fn(whole, divided))
      return restore(jax.lax.pmean(flat, _AXIS))

    every, part = PartitionSpec(), PartitionSpec(_AXIS)
    return jax.shard_map(mean, mesh=self.mesh, in_specs=(every, part), out_specs=every, check_vma=False)

  def over(self, x: jax.Array) -> jax.Array:
    """Returns, inside of `mean`, the mean of what each device has, as a sum of its own; gradients go through it."""
    return jax.lax.pmean(x, _AXIS)

  def joined(self, parts: Sequence[jax.Array]) -> jax.Array:
    """Returns one array of several divided ones, each device's part of it made of what it has of them."""
    return _joined(self.mesh)(*parts)


def agreed(tree: Any) -> Any:
  """Returns, in every process, the arrays of the first, to the bit; shapes and types must be the same in all."""
  if processes.count() == 1:
    return tree
  leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, tree))
  packed = np.concatenate([np.ascontiguousarray(leaf).reshape(-1).view(np.uint8) for leaf in leaves])
  data = multihost_utils.broadcast_one_to_all(packed).tobytes()
  ends = np.cumsum([leaf.nbytes for leaf in leaves])
  parts = [
    np.frombuffer(data[end - leaf.nbytes : end], leaf.dtype).reshape(leaf.shape).copy()
    for leaf, end in zip(leaves, ends, strict=True)
  ]
  return jax.tree.unflatten(structure, parts)


@functools.cache
def _joined(mesh: Mesh) -> Any:
  part = PartitionSpec(_AXIS)
  return jax.jit(jax.shard_map(lambda *parts: jax.numpy.concatenate(parts), mesh=mesh, in_specs=part, out_specs=part))


def choose(asked: int, batch_size: int) -> Devices | None:
  """Returns the devices that share batches; None for a single one, which needs no sharing.

  Args:
    asked: how many of each process; 0: all accelerators that the batch can be divided among, or one CPU.
    batch_size: pictures in a batch, of all processes together.

  Raises:
    UserError: there are fewer, or they do not divide the batch.
  """
  local, count = jax.local_devices(), jax.process_count()
  if asked > len(local):
    only = 'of this host there is 1' if len(local) == 1 else f'of this host there are {len(local)}'
    raise UserError(f'config.devices is {asked}, and {only} ({local[0].platform}).')
  if batch_size % count:
    raise UserError(
      f'config.batch_size is {batch_size}, which {count} processes cannot share: give a multiple of {count}.'
    )
  available = asked or (1 if local[0].platform == 'cpu' else len(local))
  number = asked or max(n for n in range(1, available + 1) if batch_size // count % n == 0)
  if batch_size // count % number:
    each = f' in each of {count} processes' if count > 1 else ''
    raise UserError(
      f'config.batch_size is {batch_size}, which {asked} devices{each} cannot share: give a multiple of '
      f'{count * asked}, or another config.devices.'
    )
  if number * count == 1:
    return None
  # Those of a process side by side, so that its pictures are neighbours in the batch.
  order = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
  chosen = [[device for device in order if device.process_index == process][:number] for process in range(count)]
  if len({len(group) for group in chosen}) > 1:
    raise UserError('The processes have different numbers of devices: set config.devices to the smallest.')
  devices = Devices(Mesh(np.array(chosen).reshape(-1), (_AXIS,)), available - number)
  if count > 1:
    _meet(devices)
  return devices


def _meet(devices: Devices) -> None:
  """Connects the processes: a first exchange waits half a minute for the slowest, later ones as long as it takes."""
  processes.gathered(None)
  agreed([np.zeros(1, np.uint8)])
  ones = devices.divided({'ones': np.ones(devices.number // jax.process_count(), np.float32)})['ones']
  jax.jit(jax.numpy.sum)(ones).block_until_ready()

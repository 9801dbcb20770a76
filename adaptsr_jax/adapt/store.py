"""The states of a run on disk, in orbax's format."""

import hashlib
import itertools
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from adaptsr_jax import devices, files, params_folder, processes
from adaptsr_jax.errors import UserError, first_line, shown
from adaptsr_jax.log import say


def latest_step(folder: str | os.PathLike) -> int:
  """Returns the newest step that a `RunStore` has saved in `folder`, 0 if none; only looks."""
  return max(map(int, _steps(Path(folder))), default=0)


def _steps(folder: Path) -> list[str]:
  """Returns the names of the saved states: numbers as they are written, in ASCII and without zeros in front."""
  names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
  return [name for name in names if name.isascii() and name.isdecimal() and name == str(int(name[:18]))]


class RunStore:
  """Latest and best state of a run, in `folder`; the state is a pytree, the position in the data a grain iterator.

  Of several processes the first reads and writes, and the others have from it what was restored.
  """

  def __init__(self, folder: str | os.PathLike, metric: str, lower: bool = False):
    """Opens or creates the store; `metric` is the key that `save` compares to keep the best (lower?) state."""
    self._metric, self._lower = metric, lower
    self._folder = Path(folder).absolute()
    if not processes.first():
      return
    self._folder.mkdir(parents=True, exist_ok=True)
    # What orbax would take for a state, or stumble over.
    for path in self._folder.iterdir():
      if path.name[:1].isnumeric() and path.name not in _steps(self._folder) and 'checkpoint-tmp' not in path.name:
        say(f'{path} is no state of a run; it is kept in {self._set_aside(path.name)}.')
    for name in _steps(self._folder):
      if why := self._fault(name):
        self._tell_damaged(int(name), why)
    self._manager = ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        # orbax's best_fn with max_to_keep would delete the newest step, and a resume would lose work.
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(
          [
            checkpoint_managers.LatestN(2),  # one to fall back to
            checkpoint_managers.BestN(get_metric_fn=self._score, n=1, keep_checkpoints_without_metrics=False),
          ]
        ),
        enable_async_checkpointing=False,
        cleanup_tmp_directories=True,  # of a start that was killed
        create=False,
        multiprocessing_options=params_folder.alone(),
      ),
    )

  def _score(self, metrics: dict[str, Any]) -> float:
    return -metrics[self._metric] if self._lower else metrics[self._metric]

  def latest(self) -> int | None:
    """Returns the newest saved step, or None."""
    return self._manager.latest_step()

  def save(self, step: int, state: Any, iterator: Any, notes: dict[str, Any]) -> None:
    """Saves `state` as of `step`, the position of `iterator`, and `notes` (JSON; its `metric` key decides the best)."""
    if not processes.first():
      return
    state = jax.device_get(state)  # as one host has it: a run may go on with other devices
    items = {'state': ocp.args.StandardSave(state), 'notes': ocp.args.JsonSave({**notes, _DIGEST: _digest(state)})}
    if iterator is not None:
      import grain  # Only runs have data; reading parameters should not wait for it.

      items['data'] = grain.checkpoint.CheckpointSave(iterator)
    metrics = {self._metric: notes[self._metric]} if self._metric in notes else None
    try:
      with files.room(self._manager.directory.parent, sum(leaf.nbytes for leaf in jax.tree.leaves(state))):
        self._manager.save(step, args=ocp.args.Composite(**items), metrics=metrics)
    except BaseException:
      for half in self._manager.directory.glob('*.orbax-checkpoint-tmp*'):
        shutil.rmtree(half, ignore_errors=True)
      raise

  def restore(self, step: int, target: Any, iterator: Any = None) -> tuple[Any, dict[str, Any]]:
    """Returns (state, notes) of `step` and moves `iterator` to where it was.

    Args:
      target: a freshly initialised state: without it orbax turns named tuples into dicts and needs the same devices.
    """
    if not processes.first():
      return _agreed(target, {})
    try:
      return _agreed(*self._restored(step, target, iterator))
    except Exception as error:
      raise UserError(
        f'The state of step {step} in {self._folder} does not fit this run ({first_line(error)}); '
        'give the config and data it was started with, or another --workdir.'
      ) from error

  def resume(self, target: Any, iterator: Any) -> tuple[int, Any, dict[str, Any]]:
    """Returns (step, state, notes) of the newest state that is whole; (0, `target`, {}) where there is none.

    States that are damaged are set aside, with a sentence, so that their steps can be done again.

    Raises:
      UserError: the state belongs to other pictures.
    """
    step, state, notes = self._resumed(target, iterator) if processes.first() else (0, target, {})
    # Of several processes the first looks; the others hear of it.
    step, place = processes.decide(lambda: [step, iterator.get_state()])
    if not processes.first():
      iterator.set_state(place)
    return step, *(_agreed(state, notes) if step else (state, notes))

  def _resumed(self, target: Any, iterator: Any) -> tuple[int, Any, dict[str, Any]]:
    begin = iterator.get_state()
    while step := self.latest():
      try:
        state, notes = self._restored(step, target, iterator)
        if begin.keys() == iterator.get_state().keys() and iterator.get_state().get('next_batch', step) != step:
          raise ValueError('its place in the data is that of another step')
        return step, state, notes
      except UserError:
        raise
      except Exception as error:
        iterator.set_state(begin)
        self._tell_damaged(step, first_line(error))
        self._manager.reload()
    return 0, target, {}

  def _restored(self, step: int, target: Any, iterator: Any) -> tuple[Any, dict[str, Any]]:
    target = jax.device_get(target)
    items = {'state': ocp.args.StandardRestore(target), 'notes': ocp.args.JsonRestore()}
    if iterator is not None:
      import grain

      items['data'] = grain.checkpoint.CheckpointRestore(iterator)
    restored = self._manager.restore(step, args=ocp.args.Composite(**items))
    state, notes = restored['state'], restored['notes']
    # States of versions before this one have no digest.
    if notes.pop(_DIGEST, None) not in (None, _digest(state)):
      raise ValueError('its numbers are not those that were saved')
    if int(getattr(state, 'step', step)) != step:
      raise ValueError(f'it is the state of step {int(state.step)}')
    if notes.get('best') and notes['best']['step'] not in self._manager.all_steps():  # set aside as damaged
      notes['best'] = None
    return state, notes

  def _fault(self, name: str) -> str:
    """Returns what is wrong with the small files of a state, which orbax reads of all states; '' if nothing is."""
    try:
      notes = files.read_json(self._folder / name / 'notes' / 'metadata')
      best, described = notes.get('best') or {'step': 0}, files.read_json(self._folder / name / '_CHECKPOINT_METADATA')
      values = [
        notes.get('seconds', 0),
        notes.get('joules') or 0,
        best['step'],
        *best.values(),
        notes.get(self._metric, 0),
      ]
      values.append((described.get('metrics') or {self._metric: 0})[self._metric])
      return '' if all(type(value) in (int, float) for value in values) else 'what is noted of it are no numbers'
    except (UserError, OSError, KeyError, TypeError, AttributeError) as error:
      return first_line(error)

  def _tell_damaged(self, step: int, why: str) -> None:
    aside = self._set_aside(str(step))
    before = latest_step(self._folder)
    there = f'step {before}' if before else 'its beginning'
    say(f'The state of step {step} is damaged ({shown(why)}); it is kept in {aside}, and the run goes on from {there}.')

  def _set_aside(self, name: str) -> Path:
    """Moves a state out of the way; returns where it is now."""
    folder = self._folder.with_name('damaged')
    folder.mkdir(exist_ok=True)
    taken = itertools.count(2)
    path = folder / name
    while path.exists():
      path = folder / f'{name}_{next(taken)}'
    (self._folder / name).rename(path)
    return path

  def close(self) -> None:
    """Waits for what is being written."""
    if processes.first():
      self._manager.close()


def _agreed(state: Any, notes: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
  """Returns in all processes what the first has restored."""
  return devices.agreed(state), processes.decide(lambda: notes)


_DIGEST = 'state_sha256'  # in the notes


def _digest(state: Any) -> str:
  """Returns what tells a state from any other; orbax does not notice all damage to what it saved."""
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(state):
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    digest.update(np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes())
  return digest.hexdigest()

"""The states of a run on disk, in orbax's format."""

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

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
    for half in self._folder.glob('*.orbax-checkpoint-tmp*'):  # of a start that was killed
      shutil.rmtree(half) if half.is_dir() and not half.is_symlink() else half.unlink()
    # What orbax would take for a state, or stumble over.
    for path in self._folder.iterdir():
      if path.name[:1].isnumeric() and path.name not in _steps(self._folder):
        say(f'{path} is no state of a run; it is kept in {self._set_aside(path.name)}.')
    self._scores: dict[int, float] = {}  # step -> what is measured, the larger the better
    for name in _steps(self._folder):
      try:
        self._note_score(int(name), self._read_notes(name))
      except (UserError, OSError, KeyError, TypeError, AttributeError) as error:
        self._tell_damaged(int(name), first_line(error))
    self._manager = ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        # orbax's best_fn with max_to_keep would delete the newest step, and a resume would lose work.
        preservation_policy=self,
        enable_async_checkpointing=False,
        create=False,
        multiprocessing_options=params_folder.alone(),
      ),
    )

  def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
    """Returns which states stay, as orbax asks for it: the latest two, one of them to fall back to, and the best.

    What orbax itself knows of measurements is forgotten at the end of the process.
    """
    steps = [checkpoint.step for checkpoint in checkpoints]
    best = max(filter(self._scores.__contains__, steps), key=lambda step: (self._scores[step], step), default=None)
    return [place >= len(steps) - 2 or step == best for place, step in enumerate(steps)]

  def save(self, step: int, state: Any, iterator: Any, notes: dict[str, Any]) -> None:
    """Saves `state` as of `step`, the position of `iterator`, and `notes` (JSON; its `metric` key decides the best)."""
    if not processes.first():
      return
    state = jax.device_get(state)  # as one host has it: a run may go on with other devices
    notes = {**notes, _PLACE: files.json_digest(iterator and iterator.get_state())}
    notes |= {_DIGEST: _digest(state, notes)}
    items = {'state': ocp.args.StandardSave(state), 'notes': ocp.args.JsonSave(notes)}
    if iterator is not None:
      # Not in grain's way, which has a file for each process: a run may go on with others.
      items['data'] = ocp.args.JsonSave(iterator.get_state())
    self._note_score(step, notes)
    try:
      with files.room(self._manager.directory.parent, sum(leaf.nbytes for leaf in jax.tree.leaves(state))):
        self._manager.save(step, args=ocp.args.Composite(**items))
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
      state, notes = self._restored(step, target, iterator)
    except Exception as error:
      raise UserError(
        f'The state of step {step} in {self._folder} does not fit this run ({first_line(error)}); '
        'give the config and data it was started with, or another --workdir.'
      ) from error
    return _agreed(state, self._with_best(notes))

  def resume(self, target: Any, iterator: Any, needs_best: bool = False) -> tuple[int, Any, dict[str, Any]]:
    """Returns (step, state, notes) of the newest state that is whole; (0, `target`, {}) where there is none.

    States that are damaged are set aside, with a sentence, so that their steps can be done again.

    Args:
      target: as of `restore`.
      iterator: over the data.
      needs_best: the best state is going to be restored: those that name one that is damaged are of no use.

    Raises:
      UserError: all states belong to other pictures.
    """
    step, state, notes = self._resumed(target, iterator, needs_best) if processes.first() else (0, target, {})
    # Of several processes the first looks; the others hear of it.
    step, place = processes.decide(lambda: [step, iterator.get_state()])
    if not processes.first():
      iterator.set_state(place)
    return step, *(_agreed(state, notes) if step else (state, notes))

  def _resumed(self, target: Any, iterator: Any, needs_best: bool) -> tuple[int, Any, dict[str, Any]]:
    begin, failed, other = iterator.get_state(), [], None
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        state, notes = self._restored(step, target, iterator)
        if begin.keys() == iterator.get_state().keys() and iterator.get_state().get('next_batch', step) != step:
          raise ValueError('its place in the data is that of another step')
        best = (notes.get('best') or {'step': step})['step']
        if needs_best and best != step:
          self._restored(best, target)
      except Exception as error:
        iterator.set_state(begin)
        failed.append((step, first_line(error)))
        other = other or (error if isinstance(error, UserError) else None)
        continue
      self._leave(failed)
      return step, state, self._with_best(notes)
    if other:
      raise other
    self._leave(failed)
    return 0, target, {}

  def _restored(self, step: int, target: Any, iterator: Any = None) -> tuple[Any, dict[str, Any]]:
    target = jax.device_get(target)
    items = {'state': ocp.args.StandardRestore(target), 'notes': ocp.args.JsonRestore()}
    # As versions before this one kept the place in the data.
    older = self._folder / str(step) / 'data' / 'process_0-of-1.json'
    if iterator is not None and not older.is_file():
      items['data'] = ocp.args.JsonRestore()
    restored = self._manager.restore(step, args=ocp.args.Composite(**items))
    state, notes = restored['state'], restored['notes']
    if iterator is not None:
      iterator.set_state(restored['data'] if 'data' in items else json.loads(older.read_bytes()))
    # The digest of versions before this one was of the state alone; older ones had none.
    own, before = (notes.pop(name, None) for name in (_DIGEST, 'state_sha256'))
    if own not in (None, _digest(state, notes)) or before not in (None, _digest(state)):
      raise ValueError('it is not what was saved')
    if notes.pop(_PLACE, None) not in (None, files.json_digest(iterator and iterator.get_state())) and iterator:
      raise ValueError('its place in the data is not what was saved')
    if int(getattr(state, 'step', step)) != step:
      raise ValueError(f'it is the state of step {int(state.step)}')
    return state, notes

  def _with_best(self, notes: dict[str, Any]) -> dict[str, Any]:
    """Returns the notes of a state without the best one where that was set aside as damaged."""
    gone = notes.get('best') and notes['best']['step'] not in self._manager.all_steps()
    return {**notes, 'best': None} if gone else notes

  def _read_notes(self, name: str) -> dict[str, Any]:
    """Returns what is noted of a state; raises nearly anything where that, or what orbax reads of it, is damaged."""
    files.check_plain(self._folder / name)
    files.read_json(self._folder / name / '_CHECKPOINT_METADATA').keys()
    notes = files.read_json(self._folder / name / 'notes' / 'metadata')
    best = notes.get('best') or {'step': 0}
    values = [notes.get('seconds', 0), notes.get('joules') or 0, best['step'], *best.values()]
    values.append(notes.get(self._metric, 0))
    if not all(type(value) in (int, float) for value in values):
      raise TypeError('what is noted of it are no numbers')
    return notes

  def _note_score(self, step: int, notes: dict[str, Any]) -> None:
    if self._metric in notes:
      self._scores[step] = -notes[self._metric] if self._lower else notes[self._metric]

  def _leave(self, failed: Sequence[tuple[int, str]]) -> None:
    """Sets states aside, with a sentence on each: (step, what is wrong with it)."""
    for step, why in failed:
      self._tell_damaged(step, why)
    if failed:
      self._manager.reload()

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


_DIGEST, _PLACE = 'sha256', 'place_sha256'  # in the notes


def _digest(state: Any, notes: dict[str, Any] | None = None) -> str:
  """Returns what tells a state with its notes from any other; orbax does not notice all damage to what it saved."""
  digest = hashlib.sha256(files.json_digest(notes).encode() if notes is not None else b'')
  for leaf in jax.tree.leaves(state):
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    digest.update(np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes())
  return digest.hexdigest()

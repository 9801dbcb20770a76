"""What is kept on disk in orbax's format: params folders, and the state of a run.

A params folder holds `params/` (orbax) and `model.json` with all that is needed to use them: {'model': name of the
architecture, 'fields': its hyper-parameters, 'assumed', 'source': layout of the file it came from, ...}.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from adaptsr_jax import files
from adaptsr_jax.errors import UserError
from adaptsr_jax.tree import Params

_INFO = 'model.json'


def is_params_folder(path: str | os.PathLike) -> bool:
  """Tells whether `path` is a folder that `save_params` wrote."""
  return (Path(path) / _INFO).is_file()


def save_params(path: str | os.PathLike, params: Params, info: dict[str, Any]) -> None:
  """Writes a params folder; one that is there is replaced once the new one is whole.

  Raises:
    UserError: where `path` is a file, or a folder of something else.
  """
  path = Path(path).absolute()
  if path.exists() and not is_params_folder(path):
    raise UserError(f'{path} is there and is no params folder; choose another name.')
  path.parent.mkdir(parents=True, exist_ok=True)
  needs = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
  with files.aside_folder(path, needs) as aside:
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(aside / 'params', jax.tree.map(np.asarray, params))
    files.write_json(aside / _INFO, info)


def read_info(path: str | os.PathLike) -> dict[str, Any]:
  """Returns the `model.json` of a params folder."""
  file = Path(path) / _INFO
  try:
    info = json.loads(file.read_text())
    return {**info, 'model': info['model'], 'fields': info['fields']}
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(f'{file} does not describe a model ({type(error).__name__}: {error}).') from error


def load_params(path: str | os.PathLike) -> tuple[Params, dict[str, Any]]:
  """Reads a params folder: (params as numpy arrays in their stored dtype, content of model.json).

  Raises:
    UserError: where the folder is none, or is damaged.
  """
  path = Path(path).absolute()
  if not is_params_folder(path):
    raise UserError(f'{path} is not a params folder: it has no {_INFO}.')
  info = read_info(path)
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      shapes = checkpointer.metadata(path / 'params').item_metadata.tree
      # A target of numpy arrays: restored on any machine, whatever devices they were saved from.
      target = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
      return checkpointer.restore(path / 'params', target), info
  except Exception as error:
    raise UserError(f'{path}/params cannot be read as parameters: {_first_line(error)}') from error


def latest_step(folder: str | os.PathLike) -> int:
  """Returns the newest step that a `RunStore` has saved in `folder`, 0 if none; only looks."""
  folder = Path(folder)
  return max((int(path.name) for path in folder.iterdir() if path.name.isdigit()), default=0) if folder.is_dir() else 0


class RunStore:
  """Latest and best state of a run, in `folder`; the state is a pytree, the position in the data a grain iterator."""

  def __init__(self, folder: str | os.PathLike, metric: str, lower: bool = False):
    """Opens or creates the store; `metric` is the key that `save` compares to keep the best (lower?) state."""
    self._metric, self._lower = metric, lower
    self._manager = ocp.CheckpointManager(
      Path(folder).absolute(),
      options=ocp.CheckpointManagerOptions(
        # orbax's best_fn with max_to_keep would delete the newest step, and a resume would lose work.
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(
          [
            checkpoint_managers.LatestN(1),
            checkpoint_managers.BestN(get_metric_fn=self._score, n=1, keep_checkpoints_without_metrics=False),
          ]
        ),
        enable_async_checkpointing=False,
        cleanup_tmp_directories=True,  # of a start that was killed
      ),
    )

  def _score(self, metrics: dict[str, Any]) -> float:
    return -metrics[self._metric] if self._lower else metrics[self._metric]

  def latest(self) -> int | None:
    """Returns the newest saved step, or None."""
    return self._manager.latest_step()

  def save(self, step: int, state: Any, iterator: Any, notes: dict[str, Any]) -> None:
    """Saves `state` as of `step`, the position of `iterator`, and `notes` (JSON; its `metric` key decides the best)."""
    items = {'state': ocp.args.StandardSave(state), 'notes': ocp.args.JsonSave(notes)}
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
    items = {'state': ocp.args.StandardRestore(target), 'notes': ocp.args.JsonRestore()}
    if iterator is not None:
      import grain

      items['data'] = grain.checkpoint.CheckpointRestore(iterator)
    try:
      restored = self._manager.restore(step, args=ocp.args.Composite(**items))
    except ValueError as error:
      raise UserError(
        f'The state of step {step} in {self._manager.directory} does not fit this run ({_first_line(error)}); '
        'give the config and data it was started with, or another --workdir.'
      ) from error
    return restored['state'], restored['notes']

  def close(self) -> None:
    """Waits for what is being written."""
    self._manager.close()


def _first_line(error: Exception) -> str:
  return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

"""Params folders: the parameters of a network on disk, in orbax's format.

A folder holds `params/` (orbax) and `model.json` with all that is needed to use them: {'model': name of the
architecture, 'fields': its hyper-parameters, 'assumed', 'source': layout of the file it came from, 'fingerprint': of
the parameters, ...}.
"""

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from adaptsr_jax import files, tree
from adaptsr_jax.errors import UserError, first_line, shown
from adaptsr_jax.tree import Params

_INFO = 'model.json'
_FINGERPRINT = 'fingerprint'


def is_params_folder(path: str | os.PathLike) -> bool:
  """Tells whether `path` is a folder that `save_params` wrote."""
  return (Path(path) / _INFO).is_file()


def alone() -> ocp.options.MultiprocessingOptions:
  """Returns by what orbax waits for no other process: of several each reads by itself, and one writes."""
  if jax.process_count() == 1:
    return ocp.options.MultiprocessingOptions()
  return ocp.options.MultiprocessingOptions(primary_host=jax.process_index(), active_processes={jax.process_index()})


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
    with ocp.StandardCheckpointer(multiprocessing_options=alone()) as checkpointer:
      checkpointer.save(aside / 'params', jax.tree.map(np.asarray, params))
    files.write_json(aside / _INFO, {**info, _FINGERPRINT: tree.fingerprint(params)})


def read_info(path: str | os.PathLike) -> dict[str, Any]:
  """Returns the `model.json` of a params folder."""
  file = Path(path) / _INFO
  try:
    info = files.read_json(file)
    forms = {'model': str, 'fields': dict, 'assumed': dict | None, 'source': dict | None}
    wrong = [name for name, form in forms.items() if not isinstance(info.get(name), form)]
  except (OSError, UserError, AttributeError) as error:
    raise UserError(f'{file} does not describe a model ({first_line(error)}).') from error
  if wrong:
    raise UserError(f'{file} does not describe a model: its {wrong[0]} is {shown(info.get(wrong[0]))}.')
  return info


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
    files.check_plain(path / 'params')
    with ocp.StandardCheckpointer(multiprocessing_options=alone()) as checkpointer:
      described = checkpointer.metadata(path / 'params').item_metadata
      if described is None:
        raise ValueError('what tells of its arrays is damaged or gone')
      shapes = described.tree
      # A target of numpy arrays: restored on any machine, whatever devices they were saved from.
      target = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
      params = checkpointer.restore(path / 'params', target)
    # orbax does not notice all damage; folders of versions before this one do not tell.
    if info.pop(_FINGERPRINT, None) not in (None, tree.fingerprint(params)):
      raise ValueError('they are not those that were written')
    return params, info
  except Exception as error:
    raise UserError(f'{path}/params cannot be read as parameters: {first_line(error)}') from error

"""The adapter file: a .safetensors file with what a method trained, bound to the base that it was trained on.

Tensors:
  NAME             `tree.flatten` of what was trained, float32; of method 'lora' 'adapters/SITE/a', 'adapters/SITE/b'
                   (shapes by site and form, see `lora.adapters`) and 'biases/PATH'
  constants/NAME   constants of the method, such as index sets, of any type

The header's metadata has one entry, 'adaptsr_jax', with this JSON:
  format            'adaptsr_jax adapter'
  version           2
  model, fields     as `models.build` takes them
  base_fingerprint  of the base's parameters, see `tree.fingerprint`
  base_file         where the base came from, for people to read
  metrics           {name: value} of the run, may be empty
  method, ...       `Method.spec`: what `methods.from_spec` needs
Further entries are kept and not read. Version 1 was of method 'lora' alone, with 'extra/PATH' for 'biases/PATH'.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from adaptsr_jax import files, methods, tree
from adaptsr_jax.errors import UserError, shown

FORMAT, VERSION = 'adaptsr_jax adapter', 2
_ENTRY = 'adaptsr_jax'  # A single entry: the order of several is not defined, and equal adapters shall be equal files.
_OF_THE_FILE = (
  *('format', 'version', 'model', 'fields', 'base_fingerprint', 'base_file', 'base_licence', 'metrics', 'gains'),
  *('pictures', 'data', 'steps', 'date', 'versions', 'mixed_from', 'extracted_from', 'resized_from'),
  *('cameras', 'thumbnail', 'data_licence'),
)
_FIELDS = {'model': str, 'fields': dict, 'base_fingerprint': str, 'method': str}
_WORDS = {
  **{str: 'text', int: 'a whole number', float: 'a number', bool: 'true or false'},
  **{dict: 'a table', list: 'a list'},
}


class Adapter(NamedTuple):
  """What an adapter file holds.

  Attributes:
    meta: as in the module's text.
    tensors: `tree.flatten` of what was trained, float32.
    constants: of the method.
  """

  meta: dict[str, Any]
  tensors: dict[str, np.ndarray]
  constants: dict[str, np.ndarray] = {}


def save(path: str | os.PathLike, adapter: Adapter) -> None:
  """Writes an adapter file, aside first, so that a reader never sees half of it.

  Args:
    path: of the file; its folder is created where it is missing.
    adapter: 'format' and 'version' of its meta are filled in here.

  Raises:
    UserError: the meta lacks a field, or does not describe the tensors.
  """
  path = Path(path)
  meta = {**adapter.meta, 'format': FORMAT, 'version': VERSION}
  tensors = {name: np.ascontiguousarray(leaf, np.float32) for name, leaf in adapter.tensors.items()}
  _check(path, meta, tensors)
  constants = {methods.CONSTANTS + name: np.ascontiguousarray(leaf) for name, leaf in adapter.constants.items()}
  content = safetensors.numpy.save(tensors | constants, {_ENTRY: json.dumps(meta)})
  path.parent.mkdir(parents=True, exist_ok=True)
  files.write(path, content)


def load(path: str | os.PathLike) -> Adapter:
  """Reads and validates an adapter file.

  Raises:
    UserError: where the file is missing, truncated, of another kind or version, or contradicts itself.
  """
  header, tensors = _read(Path(path))
  if _ENTRY not in header:
    raise UserError(f'{path} is a .safetensors file but not an adapter file: its header has no {_ENTRY!r} entry.')
  try:
    meta = json.loads(header[_ENTRY])
  except ValueError as error:
    raise UserError(f'{path} has a damaged header: its {_ENTRY!r} entry is not JSON ({shown(error, 200)}).') from error
  if isinstance(meta, dict) and meta.get('version') == 1:
    meta['version'] = VERSION
    tensors = {re.sub('^extra/', 'biases/', name): leaf for name, leaf in tensors.items()}
  trained, constants = methods.parted(tensors)
  _check(path, meta, trained)
  return Adapter(meta, trained, constants)


def spec_of(adapter: Adapter) -> dict[str, Any]:
  """Returns what of the meta is the method's."""
  return {key: value for key, value in adapter.meta.items() if key not in _OF_THE_FILE}


def check_base(meta: Mapping[str, Any], params: tree.Params) -> None:
  """Makes sure that an adapter with `meta` was trained on the base `params`.

  Raises:
    UserError: it was trained on another one.
  """
  found = tree.fingerprint(params)
  if found != meta['base_fingerprint']:
    raise UserError(
      f'The adapter was trained on another base: {meta["model"]} from {meta.get("base_file") or "a file unknown"} with '
      f'fingerprint {meta["base_fingerprint"][:12]}, and this base has {found[:12]}; give the base it was trained on.'
    )


def _read(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
  if not path.is_file():
    raise UserError(f'{path} is not a file; give the .safetensors file of an adapter.')
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
  except (safetensors.SafetensorError, OSError, TypeError) as error:
    raise UserError(
      f'{path} cannot be read as .safetensors: truncated, damaged or of another kind ({shown(error, 200)}).'
    ) from error


def _check(path: str | os.PathLike, meta: Any, tensors: Mapping[str, np.ndarray]) -> None:
  """Raises UserError unless `meta` is complete and the tensors are those that it describes."""
  if not isinstance(meta, dict) or meta.get('format') != FORMAT:
    raise UserError(f'{path} is not an adapter file: its header does not say format {FORMAT!r}.')
  if meta.get('version') != VERSION:
    raise UserError(
      f'{path} has version {shown(meta.get("version"))} and this program reads {VERSION}; update adaptsr_jax.'
    )
  for name, leaf in tensors.items():
    if count := leaf.size - int(np.isfinite(leaf).sum()):
      raise UserError(f"{path} cannot be used: '{shown(name)}' has NaN or infinite values ({count} of {leaf.size}).")
  try:
    module = methods.module_of(meta)
    for field, kind in {**_FIELDS, **getattr(module, 'SPEC', {})}.items():
      if not isinstance(meta.get(field), int | float if kind is float else kind):
        raise UserError(f'{field} = {meta.get(field)!r} in its header, where {_WORDS[kind]} belongs.')
    if hasattr(module, 'check_tensors'):
      module.check_tensors(meta, tensors)
  except UserError as error:
    raise UserError(f'{path}: {shown(error, 400)}') from error

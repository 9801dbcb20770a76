"""The adapter file: a .safetensors file with what was trained, bound to the base that it was trained on.

Tensors, all float32:
  adapters/SITE/a, adapters/SITE/b   of every site of rank above 0; shapes by site and form (see `lora.adapters`)
  extra/PATH                         other trained leaves, whole values, not differences: 'extra/conv_first/bias'

The header's metadata has one entry, 'adaptsr_jax', with this JSON:
  format            'adaptsr_jax adapter'
  version           1
  model, fields     as `models.build` takes them
  base_fingerprint  of the base's parameters, see `fingerprint`
  base_file         where the base came from, for people to read
  method            'lora'
  form              '1x1_kxk' | 'kxk_1x1' | 'loralib'
  alpha, rslora     the update is alpha / r * BA, or alpha / sqrt(r) * BA where rslora is true
  sites             [{name, path, kind, shape, part, rank}], see `lora.Site`; rank 0 has no tensors
  metrics           {name: value} of the run, may be empty
Further entries are kept and not read.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from adaptsr_jax import lora, tree
from adaptsr_jax.errors import UserError

FORMAT, VERSION = 'adaptsr_jax adapter', 1
_ENTRY = 'adaptsr_jax'  # A single entry: the order of several is not defined, and equal adapters shall be equal files.
_FIELDS = {
  'model': (str, 'text'),
  'fields': (dict, 'a table'),
  'base_fingerprint': (str, 'text'),
  'method': (str, 'text'),
  'form': (str, 'text'),
  'alpha': ((int, float), 'a number'),
  'rslora': (bool, 'true or false'),
  'sites': (list, 'a list'),
}


class Adapter(NamedTuple):
  """What an adapter file holds.

  Attributes:
    adapters: site name -> {'a', 'b'}, float32.
    extra: 'path/bias' -> float32 array that takes the place of the base's.
    meta: as in the module's text.
  """

  adapters: lora.Adapters
  extra: dict[str, np.ndarray]
  meta: dict[str, Any]


def save(path: str | os.PathLike, adapters: Mapping, meta: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
  """Writes an adapter file, aside first, so that a reader never sees half of it.

  Args:
    path: of the file; its folder is created where it is missing.
    adapters: site name -> {'a', 'b'}.
    meta: see the module's text; 'format' and 'version' are filled in here.
    extra: 'a/b/c' -> trained leaf.

  Raises:
    UserError: `meta` lacks a field, or does not describe `adapters`.
  """
  path = Path(path)
  meta = {**meta, 'format': FORMAT, 'version': VERSION}
  tensors = {f'adapters/{site}/{name}': leaf for site, ab in adapters.items() for name, leaf in ab.items()}
  tensors |= {f'extra/{name}': leaf for name, leaf in extra.items()}
  tensors = {name: np.ascontiguousarray(leaf, np.float32) for name, leaf in tensors.items()}
  _check(path, meta, tensors)
  content = safetensors.numpy.save(tensors, {_ENTRY: json.dumps(meta)})
  path.parent.mkdir(parents=True, exist_ok=True)
  aside = path.with_name(f'.{path.name}.part')
  try:
    aside.write_bytes(content)
    os.replace(aside, path)
  finally:
    aside.unlink(missing_ok=True)


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
    raise UserError(f'{path} has a damaged header: its {_ENTRY!r} entry is not JSON ({error}).') from error
  _check(path, meta, tensors)
  adapters: lora.Adapters = {}
  extra = {}
  for name, array in tensors.items():
    group, rest = name.split('/', 1)
    if group == 'extra':
      extra[rest] = array
    else:
      site, leaf = rest.rsplit('/', 1)
      adapters.setdefault(site, {})[leaf] = array
  return Adapter(adapters, extra, meta)


def fingerprint(params: tree.Params) -> str:
  """Returns the SHA-256, in hexadecimal, over names, shapes and float32 values of all leaves in the order of names."""
  digest = hashlib.sha256()
  for name, leaf in sorted(tree.flatten(params).items()):
    array = np.ascontiguousarray(leaf, '<f4')
    digest.update(f'{name} {array.shape}\n'.encode())
    digest.update(array.data)
  return digest.hexdigest()


def check_base(meta: Mapping[str, Any], params: tree.Params) -> None:
  """Makes sure that an adapter with `meta` was trained on the base `params`.

  Raises:
    UserError: it was trained on another one.
  """
  found = fingerprint(params)
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
      f'{path} cannot be read as .safetensors: truncated, damaged or of another kind ({error}).'
    ) from error


def _check(path: str | os.PathLike, meta: Any, tensors: Mapping[str, np.ndarray]) -> None:
  """Raises UserError unless `meta` is complete and the tensors are those that it describes."""
  if not isinstance(meta, dict) or meta.get('format') != FORMAT:
    raise UserError(f'{path} is not an adapter file: its header does not say format {FORMAT!r}.')
  if meta.get('version') != VERSION:
    raise UserError(f'{path} has version {meta.get("version")!r} and this program reads {VERSION}; update adaptsr_jax.')
  for field, (kind, word) in _FIELDS.items():
    if not isinstance(meta.get(field), kind):
      raise UserError(f'{path} has {field} = {meta.get(field)!r} in its header, where {word} belongs.')
  if not (math.isfinite(meta['alpha']) and meta['alpha'] > 0):
    raise UserError(f'{path} has alpha = {meta["alpha"]} in its header; it must be a positive number.')
  try:
    sites, ranks = lora.from_json(meta['sites'])
    shapes = {site.name: lora.shapes(site, ranks[site.name], meta['form']) for site in sites}
  except UserError as error:
    raise UserError(f'{path}: {error}') from error
  expected = {
    f'adapters/{name}/{leaf}': shape for name, ab in shapes.items() if ranks[name] for leaf, shape in ab.items()
  }
  found = {name: array.shape for name, array in tensors.items()}
  for name in [*expected, *found]:
    if not name.startswith('extra/') and expected.get(name) != found.get(name):
      raise UserError(
        f'{path} contradicts itself: tensor {name} should be {expected.get(name, "absent")} by its list of sites '
        f'and is {found.get(name, "absent")}.'
      )

"""What can be done with trained adapters: fold one into its base, mix several into one."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from adaptsr_jax import log, lora, methods, tree
from adaptsr_jax.adapters import cameras, card, file
from adaptsr_jax.adapters.file import Adapter
from adaptsr_jax.errors import UserError


@methods.fitting()
def apply(adapter: Adapter, params: tree.Params, strength: float = 1.0) -> tree.Params:
  """Returns the base `params` with `adapter` folded in: strength 0 gives the base, 1 the adapted model.

  Whether `params` are the base that it was trained on is for `file.check_base` to say.

  Raises:
    UserError: the adapter has sites or leaves that `params` lack, or its method cannot be scaled or folded in.
  """
  method, base = methods.from_spec(adapter.meta, adapter.constants), tree.flatten(params)
  for site in lora.from_json(adapter.meta.get('sites', ()))[0]:
    kernel = np.shape(base.get('/'.join((*site.path, 'kernel')), ()))[-len(site.shape) :]  # of one expert
    columns = site.part or (0, site.shape[-1])
    if kernel[:-1] != site.shape[:-1] or columns[1] > kernel[-1] or (site.part is None and kernel != site.shape):
      raise UserError(
        f'The adapter has a site {site.name} of shape {site.shape}; the base has {kernel or "none"} there.'
      )
  tensors = methods.scale(adapter.meta, adapter.tensors, params, strength)
  return method.merge(*methods.restore(method, params, tensors))


def folded(params: tree.Params, given: Sequence[str]) -> tree.Params:
  """Returns the base `params` with adapter files folded in, as commands take them: 'FILE' or 'FILE:WEIGHT'.

  Raises:
    UserError: a file is none, was trained on another base, or does not go together with the others.
  """
  files, weights = zip(*map(weighted, given), strict=True)
  adapters = [file.load(path) for path in files]
  for adapter in adapters:
    file.check_base(adapter.meta, params)
  return combined(params, adapters, weights, files)


def folder(path: str | os.PathLike, params: tree.Params) -> dict[str, Adapter]:
  """Returns the adapter files of a folder by name; says which of them are not of the base `params`.

  Raises:
    UserError: no folder, or none in it that tells which photographs it is for.
  """
  try:
    paths = sorted(each for each in Path(path).iterdir() if each.suffix == '.safetensors' and each.name[0] != '.')
  except OSError as error:
    raise UserError(f'{path} cannot be listed as a folder of adapter files: {error.strerror}.') from error
  found, fingerprint = {}, tree.fingerprint(params)
  for each in paths:
    try:
      adapter = file.load(each)
    except UserError as error:
      log.say(f'Left out: {error}')
      continue
    if adapter.meta['base_fingerprint'] != fingerprint:
      log.say(f'Left out: {each} was trained on another base.')
    elif not cameras.of(adapter.meta):
      log.say(f'Left out: {each} does not tell which photographs it is for (see `adapters tag`).')
    else:
      found[each.name] = adapter
  if not found:
    raise UserError(f'{path} holds no adapter of this base that tells which photographs it is for.')
  return found


def combined(
  params: tree.Params, adapters: Sequence[Adapter], weights: Sequence[float], names: Sequence[str]
) -> tree.Params:
  """Returns the base `params` with the weighted sum of `adapters` folded in; errors as of `mix` and `apply`."""
  if len(adapters) == 1:
    return apply(adapters[0], params, weights[0])
  return apply(mix(adapters, weights, names, params), params)


def weighted(text: str) -> tuple[str, float]:
  """Returns (file, weight) of 'FILE:WEIGHT'; without a number behind the last colon the whole is a file of weight 1."""
  path, colon, number = text.rpartition(':')
  try:
    weight = float(number) if colon and path else None
  except ValueError:
    weight = None
  if weight is None:
    return text, 1.0
  if not math.isfinite(weight):
    raise UserError(f'--adapter={text} has the weight {number}; give a finite number.')
  return path, weight


@methods.fitting()
def mix(
  adapters: Sequence[Adapter], weights: Sequence[float], names: Sequence[str], base: tree.Params | None = None
) -> Adapter:
  """Returns one adapter whose change of the base is the weighted sum of the changes of all `adapters`.

  Args:
    adapters: all of one base and method.
    weights: one for each.
    names: of the adapters, for messages and for the record in the new meta.
    base: parameters that they were trained on; see `methods.mix`.

  Raises:
    UserError: they do not go together.
  """
  first = adapters[0].meta
  for adapter, name in zip(adapters, names, strict=True):
    if adapter.meta['base_fingerprint'] != first['base_fingerprint']:
      raise UserError(
        f'{name} has base_fingerprint {adapter.meta["base_fingerprint"]} and {names[0]} has '
        f'{first["base_fingerprint"]}; only adapters of one base can be mixed.'
      )
  states = [{**a.tensors, **{methods.CONSTANTS + name: leaf for name, leaf in a.constants.items()}} for a in adapters]
  spec, mixed = methods.mix([file.spec_of(a) for a in adapters], states, weights, names, base)
  meta = {
    **{field: first.get(field) for field in ('model', 'fields', 'base_fingerprint', 'base_file')},
    'base_licence': first.get('base_licence', ''),
    'date': card.today(),
    **spec,
    'metrics': {},
    'mixed_from': [{'file': name, 'weight': weight} for name, weight in zip(names, weights, strict=True)],
  }
  return Adapter(meta, *methods.parted(mixed))

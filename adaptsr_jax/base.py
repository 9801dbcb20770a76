"""The base: a backbone with its parameters, from whatever holds them, and back into the same kind of file."""

import contextlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from adaptsr_jax import convert, models, params_folder, tree, zoo
from adaptsr_jax.convert import graph
from adaptsr_jax.errors import UserError, first_line, lacks_memory, naming, shown, some
from adaptsr_jax.log import Work
from adaptsr_jax.tree import Params

FILES = ('.pth', '.pt', '.safetensors')


class Base(NamedTuple):
  """A backbone and its parameters.

  Attributes:
    name: architecture, as `models.build` takes it.
    fields: hyper-parameters, as `models.build` takes them.
    params: float32 numpy arrays.
    assumed: field -> why its value is an assumption.
    source: layout of the PyTorch file that it came from, or None: that of `convert.read_source`, and 'dtype' of its
      learned floating tensors with 'dtypes' of those that differ, by path among the parameters or else by key.
    notes: sentences on the file that a user should know.
  """

  name: str
  fields: dict[str, Any]
  params: Params
  assumed: dict[str, str]
  source: dict[str, Any] | None
  notes: tuple[str, ...] = ()

  def model(self, **options) -> nn.Module:
    """Builds the network; `options` such as dtype come on top of the fields."""
    return models.build(self.name, **self.fields, **options)

  @property
  def licence(self) -> str:
    """Licence of the published weights that it is, or comes of; '' where that is not known."""
    return (self.source or {}).get('licence', '')

  @property
  def origin(self) -> dict[str, Any]:
    """What a merged network tells of where it comes from (`adapters.card`); {} where it does not."""
    with contextlib.suppress(ValueError, KeyError):
      return json.loads(self.source['metadata'][convert.ORIGIN]) if self.source else {}
    return {}

  def with_origin(self, origin: Mapping[str, Any]) -> 'Base':
    """Returns this base as one whose files tell `origin`."""
    source = self.source or {}
    metadata = {**source.get('metadata', {}), convert.ORIGIN: json.dumps(origin)}
    return self._replace(source={**source, 'metadata': metadata})

  def info(self) -> dict[str, Any]:
    """Returns what a params folder notes beside the parameters."""
    return {'model': self.name, 'fields': self.fields, 'assumed': self.assumed, 'source': self.source}


def load(
  spec: str | os.PathLike,
  fields: Mapping[str, Any] | None = None,
  key: str | None = None,
  as_stored: bool = False,
) -> Base:
  """Reads a .pth, .pt or .safetensors file of PyTorch weights, or a params folder.

  Args:
    spec: the path, a name of `zoo.ZOO` (downloaded once), or 'bundled:NAME'; 'FILE::NAME' for one of several networks.
    fields: hyper-parameters that win over detected ones, such as res_scale.
    key: which network of a file with several, e.g. 'params'; by default the averaged one.
    as_stored: keep the types of the file, not float32.

  Raises:
    UserError: where there is no such file, or it is not a backbone that is known here, or has values that are not
      finite or that float32 cannot hold.
  """
  where, name = place(os.fspath(spec))
  key = name or key
  path = zoo.locate(where)
  if key is None and where in zoo.ZOO and not os.path.exists(where):
    key = zoo.ZOO[where].key or None
  if path.is_dir():
    if key:
      raise UserError(f'{path} is a params folder, which has one network: there is no {shown(key)} to choose.')
    with Work(f'Reading {path.name}'):
      loaded = _load_folder(path, as_stored)
  elif path.is_file() and is_onnx(path):
    raise UserError(f'{path} is ONNX, which can be written and not be read here; give what it was made of.')
  elif path.is_file():
    with Work(f'Reading {path.name}'):
      loaded = _load_file(path, key, as_stored)
  else:
    raise UserError(f'{spec} is neither a file nor a folder; give {", ".join(FILES)} or a params folder.')
  if str(spec).startswith(zoo.BUNDLED):
    # Half precision saves space in the package; what is trained from it is written in full.
    loaded = loaded._replace(source={**loaded.source, 'dtype': 'float32', 'dtypes': {}})
  if licence := zoo.licence((loaded.source or {}).get('sha256', '')):
    loaded = loaded._replace(source={**loaded.source, 'licence': licence})
  return _with_fields(loaded, fields or {}, spec, as_stored)


def place(spec: str) -> tuple[str, str]:
  """Returns file and network of 'FILE::NAME'."""
  where, joined, name = spec.rpartition('::')
  return (where, name) if joined and where and not os.path.exists(spec) else (spec, '')


def _load_folder(path: Path, as_stored: bool) -> Base:
  if not params_folder.is_params_folder(path):
    raise UserError(f'{path} is not a params folder{_instead(path)}.')
  params, info = params_folder.load_params(path)
  _check_values(path, tree.flatten(params), as_stored)
  return Base(info['model'], dict(info['fields']), params, info.get('assumed') or {}, info.get('source'))


def _instead(path: Path) -> str:
  """Returns the end of the sentence on a folder that holds no parameters: what is meant, as far as can be told."""
  if params_folder.is_params_folder(path / 'merged'):
    return f' but that of a run; its network is {path / "merged"}'
  if params_folder.is_params_folder(path.parent):
    return f' but a part of one: give {path.parent}'
  if (path / 'config.json').is_file():
    return ' but that of a run without a result: it has to be finished first'
  files = sorted(file.name for file in path.iterdir() if is_file(file))
  return f': give one of its files ({", ".join(map(shown, files[:5]))})' if files else ': it has no model.json'


def _load_file(path: Path, key: str | None, as_stored: bool) -> Base:
  source = convert.parts.read(path, key)
  with naming(path), convert.faults(path):
    name, fields, assumed = convert.detect(source.weights)
    learned = convert.learned(name, fields, source.weights)
    layout = {**source.layout, **convert.types(name, fields, source.weights)}
    params = convert.to_flax(name, source.weights)
  _check_values(path, learned, as_stored)
  notes = source.notes
  if name == 'safmn' and 'purescale' in path.name.lower():
    notes += (f'{path.name} looks like PureScale, whose tensors are those of SAFMN but which computes otherwise.',)
  return Base(name, fields, params, assumed, layout, notes)


def _check_values(path: Path, arrays: Mapping[str, np.ndarray], as_stored: bool) -> None:
  """Raises a UserError for values that are not finite, and for those of float64 that float32 cannot hold."""
  for name, array in arrays.items():
    if array.dtype.kind not in 'fV':
      raise UserError(f"{path} cannot be used: '{shown(name)}' is {array.dtype.name}, and weights are real numbers.")
  bad = {name: count for name, array in arrays.items() if (count := np.size(array) - int(np.isfinite(array).sum()))}
  if bad:
    name, count = next(iter(bad.items()))
    more = f', and {len(bad) - 1} other tensors have {sum(bad.values()) - count} more' if len(bad) > 1 else ''
    raise UserError(
      f"{path} cannot be used: '{shown(name)}' has NaN or infinite values ({count} of {np.size(arrays[name])}){more}."
    )
  with np.errstate(over='ignore'):
    finer = [name for name, a in arrays.items() if a.dtype == np.float64 and (a != a.astype(np.float32)).any()]
  if finer and not as_stored:
    raise UserError(
      f"{path} has float64 digits that float32 cannot hold ({len(finer)} tensors, the first is '{shown(finer[0])}'); "
      f'round them first: python -m adaptsr_jax.convert {path} OUT.pth --dtype float32'
    )


def remarks(base: Base, flag: str) -> list[str]:
  """Returns what a command tells of a base: what was taken of its file, and what was assumed.

  Args:
    base: from `load`.
    flag: how the command sets a field, e.g. '--fields='.
  """
  assumed = [
    f'Assumed: {name} = {listed(base.fields[name])} ({why}); change it with {flag}{name}={listed(base.fields[name])}'
    for name, why in base.assumed.items()
  ]
  return [*base.notes, *assumed]


def listed(value: Any) -> str:
  """Returns the value of a field as it is set: 6,6 for (6, 6)."""
  return ','.join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def interpolated(bases: Sequence[Base], weights: Sequence[float], names: Sequence[str]) -> Base:
  """Returns the network whose parameters are the weighted sums of those of `bases`, in the layout of the first.

  Between a network trained for PSNR and one that was trained on from it adversarially, or for more and for less
  denoising, lies a network in between (Wang et al., Deep Network Interpolation, CVPR 2019).

  Args:
    bases: of one architecture and one size.
    weights: one for each.
    names: of the bases, for messages.

  Raises:
    UserError: they are not of one architecture and size.
  """
  first = bases[0]
  for other, name in zip(bases, names, strict=True):
    if other.model() != first.model():
      told = ', '.join(f'{key}={value}' for key, value in other.fields.items())
      raise UserError(
        f'{name} is {other.name} ({told}), which cannot be interpolated with {names[0]}, {first.name} ('
        + ', '.join(f'{key}={value}' for key, value in first.fields.items())
        + '): give networks of one architecture.'
      )

  def total(*leaves: np.ndarray) -> np.ndarray:
    return sum(w * np.float64(leaf) for w, leaf in zip(weights, leaves, strict=True)).astype(np.float32)

  return first._replace(params=jax.tree.map(total, *(base.params for base in bases)))


def kinship(one: Base, other: Base) -> float:
  """Returns the correlation of the kernels of two networks of one size: near 0 where they were trained apart."""
  flat, same = tree.flatten(one.params), tree.flatten(other.params)
  kernels = [name for name in flat if name.endswith('kernel')]
  a, b = (np.concatenate([np.float64(leaves[name]).ravel() for name in kernels]) for leaves in (flat, same))
  return float(np.corrcoef(a, b)[0, 1])


def random(preset: str, seed: int, fields: Mapping[str, Any] | None = None) -> Base:
  """Returns the variant `preset` (a name of `models.PRESETS`) with freshly initialised parameters."""
  if preset not in models.PRESETS:
    raise UserError(f'config.model is {preset!r}; with a random base it can be one of: {", ".join(models.PRESETS)}.')
  name, preset_fields = models.PRESETS[preset]
  fields = {**preset_fields, **(fields or {})}
  _check_given(fields)
  try:
    model = models.build(name, **fields)
    x = jnp.zeros((1, model.minimum, model.minimum, 3))
    # Not compiled as a whole: every draw would be compiled for itself, again and again for the same shape.
    params = model.init(jax.random.key(seed), x)['params']
  except Exception as error:
    if isinstance(error, UserError) or lacks_memory(error):
      raise
    # Values that no network has: linen raises whatever they lead to.
    raise UserError(f'There is no {name} with {shown(fields)}: {shown(first_line(error))}.') from error
  return Base(name, fields, jax.tree.map(np.asarray, params), {}, None)


def _check_given(fields: Mapping[str, Any]) -> None:
  """Raises UserError for what says how a network is computed, not what it is."""
  for name in ('dtype', 'remat'):
    if name in fields:
      raise UserError(f'{name} is no setting of a network; in a run it is config.{name}.')


def _with_fields(base: Base, given: Mapping[str, Any], spec: str | os.PathLike, as_stored: bool) -> Base:
  fields = {**base.fields, **given}
  _check_given(fields)
  params = base.params if as_stored else jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), base.params)
  try:
    with naming(spec):
      model = models.build(base.name, **fields)
      _check_counts(fields, len(jax.tree.leaves(params)))
      x = jax.ShapeDtypeStruct((1, model.minimum, model.minimum, 3), jnp.float32)
      expected = jax.eval_shape(model.init, jax.random.key(0), x)['params']
  except UserError:
    raise
  except Exception as error:  # values that no network has: linen raises whatever they lead to
    raise UserError(f'{spec} is no {shown(base.name)} with {shown(fields)}: {shown(error)}.') from error
  if difference := tree.compare(expected, params):
    raise UserError(f'{spec} does not fit {base.name} with {fields}: {some(difference, 4, ";")} (- expected, + found).')
  assumed = {name: why for name, why in base.assumed.items() if name not in given}
  return base._replace(fields=fields, params=params, assumed=assumed)


def _check_counts(fields: Mapping[str, Any], tensors: int) -> None:
  """Raises UserError for more blocks than there are tensors: to build what they say could take for ever."""
  for name, value in fields.items():
    if re.match('n_|num_|depth', name) and np.ndim(value) < 2 and np.sum(value) > 1000 + tensors:
      raise UserError(f'{shown(name)} is {shown(value)}, more than {tensors} tensors can make up.')


def export(
  path: str | os.PathLike,
  base: Base,
  params: Params,
  dtype: str | None = None,
  like_source: bool = False,
  buffers: bool = True,
) -> None:
  """Writes `params` with the key names of PyTorch.

  Args:
    path: .pth, .pt or .safetensors.
    base: its layout says what the weights lie in, see `convert.write`.
    params: as those of `base`.
    dtype: of the weights in the file; by default each as in the source (float32 where there was none).
    like_source: see `convert.write`.
    buffers: whether what is computed from the shape of the network, such as masks of windows, is written too.
  """
  layout = base.source or {}
  weights = convert.cast(base.name, base.fields, convert.to_torch(base.name, base.fields, params), layout, dtype)
  weights = weights if buffers else convert.learned(base.name, base.fields, weights)
  for key, array in weights.items():
    if array.dtype.kind in 'fV' and not np.isfinite(array).all():
      raise UserError(
        f"{path} is not written: there are weights ('{key}') that {array.dtype.name} cannot hold; choose another dtype."
      )
  convert.parts.write(path, weights, layout, like_source)


def save(path: str | os.PathLike, base: Base, params: Params, like_source: bool = False) -> None:
  """Writes `params` as `export` does, as ONNX, or as a params folder, by the ending of `path`."""
  if is_onnx(path):
    export_onnx(path, base, params)
  elif is_file(path):
    export(path, base, params, like_source=like_source)
  else:
    params_folder.save_params(path, params, base.info())


def export_onnx(path: str | os.PathLike, base: Base, params: Params, half: bool = False) -> float:
  """Writes `params` as ONNX; arguments, result and errors as of `convert.graph.write`."""
  told = {'model': base.name, 'scale': str(base.model().upscale), 'fields': json.dumps(base.fields)}
  told |= {name: text for name, text in (('licence', base.licence), (convert.ORIGIN, json.dumps(base.origin))) if text}
  params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params)
  return graph.write(path, base.model(), params, told, half)


def is_file(path: str | os.PathLike, written: bool = False) -> bool:
  """Tells by its ending whether `path` is a file of PyTorch weights, not a params folder; `written`: or of ONNX."""
  return Path(path).suffix.lower() in FILES or (written and is_onnx(path))


def is_onnx(path: str | os.PathLike) -> bool:
  """Tells by its ending whether `path` is a file of ONNX, which can be written and not be read."""
  return Path(path).suffix.lower() == graph.SUFFIX

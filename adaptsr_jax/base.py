"""The base: a backbone with its parameters, from whatever holds them, and back into the same kind of file."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from adaptsr_jax import checkpoint, convert, models, tree, zoo
from adaptsr_jax.errors import UserError
from adaptsr_jax.tree import Params

_FILES = ('.pth', '.pt', '.safetensors')


class Base(NamedTuple):
  """A backbone and its parameters.

  Attributes:
    name: architecture, as `models.build` takes it.
    fields: hyper-parameters, as `models.build` takes them.
    params: float32 numpy arrays.
    assumed: field -> why its value is an assumption.
    source: layout of the PyTorch file that it came from (see `convert.read_source`), or None.
  """

  name: str
  fields: dict[str, Any]
  params: Params
  assumed: dict[str, str]
  source: dict[str, Any] | None

  def model(self, **options) -> nn.Module:
    """Builds the network; `options` such as dtype come on top of the fields."""
    return models.build(self.name, **self.fields, **options)

  def info(self) -> dict[str, Any]:
    """Returns what a params folder notes beside the parameters."""
    return {'model': self.name, 'fields': self.fields, 'assumed': self.assumed, 'source': self.source}


def load(spec: str | os.PathLike, fields: Mapping[str, Any] | None = None, key: str | None = None) -> Base:
  """Reads a .pth, .pt or .safetensors file of PyTorch weights, or a params folder.

  Args:
    spec: the path, a name of `zoo.ZOO` (downloaded once), or 'bundled:NAME'.
    fields: hyper-parameters that win over detected ones, such as res_scale.
    key: which weights of a file with several, e.g. 'params'; by default the averaged ones.

  Raises:
    UserError: where there is no such file, or it is not a backbone that is known here.
  """
  path = zoo.locate(spec)
  if path.is_dir():
    loaded = _load_folder(path)
  elif path.is_file():
    loaded = _load_file(path, key)
  else:
    raise UserError(f'{spec} is neither a file nor a folder; give {", ".join(_FILES)} or a params folder.')
  if str(spec).startswith(zoo.BUNDLED):
    # Half precision saves space in the package; what is trained from it is written in full.
    loaded = loaded._replace(source={**loaded.source, 'dtype': 'float32'})
  return _with_fields(loaded, fields or {}, spec)


def _load_folder(path: Path) -> Base:
  params, info = checkpoint.load_params(path)
  return Base(info['model'], dict(info['fields']), params, info.get('assumed') or {}, info.get('source'))


def _load_file(path: Path, key: str | None) -> Base:
  source = convert.parts.read(path, key)
  try:
    name, fields, assumed = convert.detect(source.weights)
  except UserError as error:
    raise UserError(f'{path}: {error}') from error
  return Base(name, fields, convert.to_flax(name, source.weights), assumed, source.layout)


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
  model = models.build(name, **fields)
  x = jnp.zeros((1, model.minimum, model.minimum, 3))
  params = jax.jit(model.init)(jax.random.key(seed), x)['params']
  return Base(name, fields, jax.tree.map(np.asarray, params), {}, None)


def _with_fields(base: Base, given: Mapping[str, Any], spec: str | os.PathLike) -> Base:
  fields = {**base.fields, **given}
  params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), base.params)
  model = models.build(base.name, **fields)
  x = jax.ShapeDtypeStruct((1, model.minimum, model.minimum, 3), jnp.float32)
  expected = jax.eval_shape(model.init, jax.random.key(0), x)['params']
  difference = tree.compare(expected, params)
  if difference:
    more = f' and {len(difference) - 4} more' if len(difference) > 4 else ''
    raise UserError(
      f'{spec} does not fit {base.name} with {fields}: ' + ';'.join(difference[:4]) + f'{more} (- expected, + found).'
    )
  assumed = {name: why for name, why in base.assumed.items() if name not in given}
  return base._replace(fields=fields, params=params, assumed=assumed)


def export(path: str | os.PathLike, base: Base, params: Params, dtype: str | None = None) -> None:
  """Writes `params` with the key names of PyTorch, in the layout of the file that `base` came from.

  Args:
    path: .pth, .pt or .safetensors.
    dtype: of the weights in the file; by default as in the source, of each tensor (float32 where there was none).
  """
  layout = base.source or {}
  by_axes = {} if dtype else layout.get('dtypes') or {}
  dtype = dtype or layout.get('dtype') or 'float32'

  def cast(leaf: Any) -> np.ndarray:
    wanted = jnp.dtype(by_axes.get(str(np.ndim(leaf)), dtype))
    with np.errstate(over='ignore'):
      value = np.asarray(leaf).astype(wanted)
    if not np.isfinite(np.asarray(value, np.float32)).all():
      raise UserError(f'{path} is not written: there are weights that {wanted.name} cannot hold; choose another dtype.')
    return value

  convert.parts.write(path, convert.to_torch(base.name, base.fields, jax.tree.map(cast, params)), layout or None)


def is_file(path: str | os.PathLike) -> bool:
  """Tells by its ending whether `path` is a file of PyTorch weights, not a params folder."""
  return Path(path).suffix.lower() in _FILES

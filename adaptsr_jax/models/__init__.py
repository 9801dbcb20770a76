"""The backbones: super-resolution networks as plain linen modules that know nothing of adapters.

  model = models.build('safmn', upscale=4, dim=36)
  y = model.apply({'params': params}, x)      # (b, h, w, 3) in [0, 1] -> (b, 4 * h, 4 * w, 3), not clipped

Besides its fields, every model has the attributes
  upscale    factor of the output size
  multiple   unit of the sides of the input: what window models extend them to, and where tiles have to be cut
  minimum    the smallest side it takes; a smaller one is a UserError while tracing
  receptive  radius in input pixels beyond which the input does not matter: the overlap of exact tiles
  tileable   False where tiles cannot give what the whole picture gives
and where they have a use
  once       (params, x (1, h, w, 3)) -> params that hold what is taken from the whole picture, for its tiles
  frozen     regular expressions: names of modules that take no adapters
  remat      True: blocks are computed again for their gradients, which saves memory
"""

import dataclasses
import functools
import numbers
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from adaptsr_jax.errors import UserError
from adaptsr_jax.models import dasr, drct, edsr, msrresnet, rrdb, safmn, srvgg, swinir

MODELS: dict[str, type[nn.Module]] = {
  'dasr': dasr.DASR,
  'drct': drct.DRCT,
  'edsr': edsr.EDSR,
  'edsr_official': edsr.EDSR,  # the same network; the name keeps the key style of its weight files
  'msrresnet': msrresnet.MSRResNet,
  'rrdb': rrdb.RRDBNet,
  'rrdb_bsrgan': rrdb.RRDBNet,  # again the same network under other key names
  'rrdb_esrgan': rrdb.RRDBNet,
  'safmn': safmn.SAFMN,
  'safmn_ntire2023': safmn.SAFMN_NTIRE2023,
  'srvgg': srvgg.SRVGGNetCompact,
  'swinir': swinir.SwinIR,
}

# Published configurations: name -> (model name, fields).
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
  name: preset
  for family in (edsr, safmn, swinir, drct, rrdb, srvgg, msrresnet, dasr)
  for name, preset in family.PRESETS.items()
}

_MOST = 2**16  # channels, blocks, factors, ranges: far above any network's


def build(name: str, /, **fields: Any) -> nn.Module:
  """Returns the model `name` (a key of MODELS) with `fields`, those not given at their defaults.

  Sequences become tuples, so fields may come from json, and where a tuple is due a number stands for one of one value.
  An unknown name or field is a UserError. The same fields give the same object: what is compiled for a model serves all
  parameters of its shape.
  """
  if name not in MODELS:
    raise UserError(f"There is no model '{name}'; there are {', '.join(MODELS)}.")
  known = {f.name: f.default for f in dataclasses.fields(MODELS[name]) if f.name not in ('parent', 'name')}
  for field in fields:
    if field not in known:
      raise UserError(f"Model '{name}' has no field '{field}'; it has {', '.join(known)}.")
  fitting = {field: _fitting(name, field, value, known[field]) for field, value in fields.items()}
  return _built(MODELS[name], tuple(sorted(fitting.items())))


@functools.lru_cache(maxsize=64)
def _built(model: type[nn.Module], fields: tuple[tuple[str, Any], ...]) -> nn.Module:
  return model(**dict(fields))


def _fitting(name: str, field: str, value: Any, default: Any) -> Any:
  """Returns `value` in the type that the field of this default has."""
  if isinstance(default, tuple):
    value = tuple(value) if isinstance(value, list | tuple) else (value,)
    fits, kind = all(map(_is_number, value)), 'numbers'
  elif isinstance(default, bool):
    fits, kind = isinstance(value, bool), 'true or false'
  elif field == 'img_size' and isinstance(value, tuple | list):  # height and width
    value = tuple(value)
    fits, kind = len(value) == 2 and all(isinstance(n, int) for n in value), 'a whole number, or two'
  elif isinstance(default, int):
    fits, kind = _is_number(value) and isinstance(value, numbers.Integral), 'a whole number'
  elif isinstance(default, float):
    fits, kind = _is_number(value), 'a number'
  elif isinstance(default, str):
    fits, kind = isinstance(value, str), 'a word'
  elif default is None:
    fits, kind = value is None or _is_number(value), 'a number or None'
  else:
    fits, kind = _is_dtype(value), 'a type of numbers'
  if not fits:
    raise UserError(f"Model '{name}': {field} is {value!r}, but it should be {kind}.")
  for number in value if isinstance(value, tuple) else (value,):
    if isinstance(number, int) and number < 0:
      raise UserError(f"Model '{name}': {field} is {value!r}; it cannot be negative.")
    if _is_number(number) and not -_MOST <= number <= _MOST:
      raise UserError(f"Model '{name}': {field} is {value!r}, beyond what a network can have ({_MOST:,}).")
  return value


def _is_dtype(value: Any) -> bool:
  try:
    jnp.dtype(value)
  except TypeError:
    return False
  return True


def _is_number(value: Any) -> bool:
  return isinstance(value, numbers.Real) and not isinstance(value, bool)

"""Tells from names and shapes which network a set of weights belongs to, and with which settings.

What a file cannot tell (`res_scale` of EDSR) gets the value of the published networks and is listed as assumed. Then
every name and shape is checked against the network's table, so nothing is left over and nothing is missing.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from adaptsr_jax.convert import architectures, shapes
from adaptsr_jax.errors import UserError, shown

# A kernel that is stored in parts: by weight_norm and spectral_norm, as they were and as they are now.
_PARTS = re.compile(r'\.(weight_g|weight_v|weight_orig|weight_u|parametrizations\..+)$')


def detect(weights: shapes.Weights) -> tuple[str, dict[str, Any], dict[str, str]]:
  """Returns model name, fields for `models.build`, and the assumed fields with the reason for each value.

  Args:
    weights: arrays by PyTorch key, wrappers and prefixes removed.

  Raises:
    UserError: no known architecture, or one with names or shapes that do not fit it.
  """
  weights = architectures.rrdb.with_model(weights)
  for foreign in architectures.FOREIGN:
    if foreign.found(weights):
      raise UserError(f'The weights are of {foreign.what}.')
  if parts := [key for key in weights if _PARTS.search(key)]:
    raise UserError(
      f"The weights hold kernels in parts ({len(parts)} tensors, the first is '{shown(parts[0])}'), as weight_norm, "
      'spectral_norm and other parametrizations do; before saving, join them in each such module by '
      "torch.nn.utils.parametrize.remove_parametrizations(module, 'weight'), or remove_weight_norm(module) and "
      'remove_spectral_norm(module) for the older kind.'
    )
  for architecture in architectures.ARCHITECTURES.values():
    if all(key in weights for key in architecture.keys):
      fields, assumed = architecture.fields(weights)
      check(architecture.name, fields, {key: np.shape(value) for key, value in weights.items()})
      return architecture.name, fields, assumed
  some = ', '.join(map(shown, list(weights)[:4]))
  known = ', '.join(architectures.ARCHITECTURES)
  raise UserError(f'The weights ({some}, ... {len(weights)} in all) are of no known architecture; known are {known}.')


def check(name: str, fields: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
  """Raises a UserError that names the first differences unless the keys and shapes are those of the network.

  Buffers may be absent, for they are computed.
  """
  expected = architectures.entries(name, fields)
  known = {entry.key for entry in expected}
  faults = [f"'{shown(key)}' is unknown" for key in shapes if key not in known]
  for entry in expected:
    if entry.key not in shapes and not entry.value:
      faults.append(f"'{entry.key}' {entry.shape} is missing")
    elif entry.key in shapes and tuple(shapes[entry.key]) != entry.shape:
      faults.append(f"'{entry.key}' is {tuple(shapes[entry.key])} instead of {entry.shape}")
  if faults:
    settings = ', '.join(f'{field}={value}' for field, value in fields.items())
    more = f'; and {len(faults) - 5} more' if len(faults) > 5 else ''
    raise UserError(f'The weights look like {name} ({settings}), but {"; ".join(faults[:5])}{more}.')

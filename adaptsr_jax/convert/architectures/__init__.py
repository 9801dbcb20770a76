"""The networks whose weights are known: one module a family, with detection and the table of names for both directions.

A further network is a module here, its row in `ARCHITECTURES`, and its class in `models.MODELS`.
"""

from collections.abc import Mapping
from typing import Any

from adaptsr_jax.convert import names
from adaptsr_jax.convert.architectures import drct, edsr, msrresnet, rrdb, safmn, srvgg, swinir

_FAMILIES = (safmn, drct, swinir, edsr, rrdb, srvgg, msrresnet)

# In the order of detection. What the models need (jax) is imported where it is used.
ARCHITECTURES = {architecture.name: architecture for family in _FAMILIES for architecture in family.ARCHITECTURES}
FOREIGN = (*safmn.FOREIGN, *rrdb.FOREIGN, *srvgg.FOREIGN, *msrresnet.FOREIGN)


def entries(name: str, fields: Mapping[str, Any]) -> tuple[names.Entry, ...]:
  """Returns the tensors of the network `name` with these fields, in the order of its `state_dict`.

  Raises:
    UserError: no such network, or no such field.
  """
  from adaptsr_jax import models

  model = models.build(name, **fields)
  return tuple(ARCHITECTURES[name].entries(model))

"""BitFit: the biases are trained, nothing else (Ben Zaken et al., ACL 2022). A cheap control.

Spec: 'norms', whether the shifts of normalisations are trained beside the biases of layers. Trainable: flat
{'path/bias': array}, whole values. A leaf is told by its own name: 'relative_position_bias_table' is no bias.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from adaptsr_jax import tree
from adaptsr_jax.lora import Site
from adaptsr_jax.methods import full
from adaptsr_jax.methods.base import Method, Plan, Scores, Tensors, mixed_leaves, through_merge
from adaptsr_jax.tree import Params

DEFAULTS = {'lr': 1e-3, 'schedule': 'steps'}
SPEC = {'norms': bool}
SHIFTS = ('bias', 'beta')


def fields() -> ConfigDict:
  """Returns the fields `config.bitfit`."""
  # Train the shifts of normalisations too.
  return ConfigDict({'norms': False})


def plan(config: ConfigDict, sites: Sequence[Site], scores: Scores | None) -> Plan:
  """Returns what is trained, whatever the sites."""
  return Plan({'method': 'bitfit', 'norms': bool(config.bitfit.norms)})


def build(spec: Mapping[str, Any], constants: Mapping[str, np.ndarray]) -> Method:
  """Returns the method of `spec`."""

  def init(key, base: Params) -> tuple[Params, Params]:
    flat = tree.flatten(base)
    # Copies, because a training step may overwrite its buffers in place.
    return base, {name: leaf.copy() for name, leaf in flat.items() if trained(name, flat)}

  def trained(name: str, flat: Params) -> bool:
    module, _, leaf = name.rpartition('/')
    return leaf in SHIFTS and (spec['norms'] or f'{module}/kernel' in flat)

  return Method(init, tree.overlay, lambda trainable: 'train', through_merge(tree.overlay), spec)


scale = full.scale


def mix(specs, states: Sequence[Tensors], weights, names, base: Tensors) -> tuple[dict[str, Any], Tensors]:
  """Returns the weighted sum of the changes of all shifts that any of them trains."""
  return {'method': 'bitfit', 'norms': any(s['norms'] for s in specs)}, mixed_leaves(states, weights, names, base)

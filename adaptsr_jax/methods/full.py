"""Full fine-tuning: the parameters themselves are trained, all of them or those of some kinds of site.

Restricted to convolutions, MLP or attention (`config.sites.kinds`) it is the upper half of Table 4 of the paper:
kernels and biases of the sites, no normalisation and no position tables.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from adaptsr_jax import tree
from adaptsr_jax.lora import Site
from adaptsr_jax.methods.base import Method, Plan, Scores, Tensors, between, mixed_leaves, through_merge
from adaptsr_jax.tree import Params

# experiments/008_promise tells the rate's why; the paper's is that for SwinIR.
DEFAULTS = {'lr': 5e-4, 'paper_lr': 2e-4, 'schedule': 'halvings'}


def plan(config: ConfigDict, sites: Sequence[Site], scores: Scores | None) -> Plan:
  """Returns {'method', 'modules'}: names of the modules that are trained, or None for every parameter."""
  kinds = tuple(config.sites.kinds)
  modules = list(dict.fromkeys('/'.join(site.path) for site in sites if site.kind in kinds))
  return Plan({'method': 'full', 'modules': modules if kinds else None})


def build(spec: Mapping[str, Any], constants: Mapping[str, np.ndarray]) -> Method:
  """Returns the method of `spec`. Trainable: flat {'path/of/module/kernel': array}, or the whole tree."""
  modules = spec['modules']

  def init(key, base: Params) -> tuple[Params, Params]:
    # Copies, because a training step may overwrite its buffers in place.
    if modules is None:
      return {}, jax.tree.map(lambda leaf: leaf.copy(), base)
    flat = tree.flatten(base)
    return base, {name: flat[name].copy() for name in flat if name.rpartition('/')[0] in modules}

  def merge(frozen: Params, trainable: Params) -> Params:
    return trainable if modules is None else tree.overlay(frozen, trainable)

  return Method(init, merge, lambda trainable: 'train', through_merge(merge), spec)


def scale(spec: Mapping[str, Any], tensors: Tensors, base: Tensors, strength: float) -> Tensors:
  """Returns parameters on the line from those of the base to the trained ones."""
  return {name: between(base[name], leaf, strength) for name, leaf in tensors.items()}


def mix(specs, states: Sequence[Tensors], weights, names, base: Tensors) -> tuple[dict[str, Any], Tensors]:
  """Returns the weighted sum of the changes of all parameters that any of them trains."""
  modules = list(dict.fromkeys(name for spec in specs for name in spec['modules'] or ()))
  every = any(spec['modules'] is None for spec in specs)
  return {'method': 'full', 'modules': None if every else modules}, mixed_leaves(states, weights, names, base)

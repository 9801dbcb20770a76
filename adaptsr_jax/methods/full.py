"""Full fine-tuning: the parameters themselves are trained, all of them or those of some kinds of site.

Restricted to convolutions, MLP or attention it is the upper half of Table 4 of the paper: kernels and biases of the
sites, no normalisation and no position tables.
"""

from typing import Any

import jax
from ml_collections import ConfigDict

from adaptsr_jax import tree
from adaptsr_jax.lora import Site
from adaptsr_jax.methods.base import Method, through_merge
from adaptsr_jax.tree import Params


def spec(config: ConfigDict, sites: tuple[Site, ...], ranks: dict[str, int]) -> dict[str, Any]:
  """Returns {'method', 'modules'}: names of the modules that are trained, or None for every parameter."""
  del ranks
  kinds = tuple(config.full.kinds)
  modules = None
  if kinds:
    modules = list(dict.fromkeys('/'.join(site.path) for site in sites if site.kind in kinds))
  return {'method': 'full', 'modules': modules}


def build(spec: dict[str, Any]) -> Method:
  """Returns the method of `spec`. Trainable: flat {'path/of/module/kernel': array}, or the whole tree."""
  modules = spec['modules']

  def init(key, base: Params) -> tuple[Params, Params]:
    del key
    # Copies, because a training step may overwrite its buffers in place.
    if modules is None:
      return {}, jax.tree.map(lambda leaf: leaf.copy(), base)
    flat = tree.flatten(base)
    return base, {name: flat[name].copy() for name in flat if name.rpartition('/')[0] in modules}

  def merge(frozen: Params, trainable: Params) -> Params:
    if modules is None:
      return trainable
    return tree.overlay(frozen, trainable)

  return Method(init, merge, lambda trainable: 'train', through_merge(merge), spec)

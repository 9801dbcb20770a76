"""DiffFit: a trained gain for every channel that a residual branch adds (Xie et al., ICCV 2023).

    x + g_attn * attn(norm1 x), then x + g_mlp * mlp(norm2 x);   g starts at 1

A gain folds into kernel and bias of the last layer of its branch, column by column. A branch that ends with something
else than a layer has none: in SAFMN, the modulation.

Spec: 'scope', what is trained: 'gains'; 'recipe', also every vector (biases, scales and shifts of norms), as published;
'recipe_and_tables', also what else is no kernel (tables of positions). 'branches': {path of the last layer: channels}.
Trainable: 'gains' {path: (out,)}; 'leaves' {'path/bias': array}, whole values, into which gains fold.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from adaptsr_jax import tree
from adaptsr_jax.errors import UserError
from adaptsr_jax.lora import Site
from adaptsr_jax.methods.base import Method, Plan, Scores, Tensors, branches_of, through_merge
from adaptsr_jax.tree import Params

DEFAULTS = {'lr': 1e-3, 'schedule': 'steps'}
SCOPES = {
  'gains': lambda name, leaf: False,
  'recipe': lambda name, leaf: np.ndim(leaf) == 1,
  'recipe_and_tables': lambda name, leaf: not name.endswith('kernel'),
}
CHOICES = {'scope': tuple(SCOPES)}
SPEC = {'scope': str, 'branches': dict}


def fields() -> ConfigDict:
  """Returns the fields `config.difffit`."""
  c = ConfigDict()
  # 'gains', 'recipe' or 'recipe_and_tables'.
  c.scope = 'gains'
  # Regular expressions; a site is the last layer of a residual branch where one is found in its path.
  c.branches = ('attn/proj$', 'mlp/fc2$', r'body_\d+/conv2$', r'rdb\d/conv5$', 'ccm/ccm_2$')
  return c


def plan(config: ConfigDict, sites: Sequence[Site], scores: Scores | None) -> Plan:
  """Returns the last layers of the residual branches."""
  c = config.difffit
  branches = {path: site.shape[-1] for path, site in branches_of('difffit', sites, c.branches).items()}
  return Plan({'method': 'difffit', 'scope': c.scope, 'branches': branches})


def build(spec: Mapping[str, Any], constants: Mapping[str, np.ndarray]) -> Method:
  """Returns the method of `spec`."""

  def init(key, base: Params) -> tuple[Params, Params]:
    trained = SCOPES[spec['scope']]
    gains = {path: jnp.ones(width, jnp.float32) for path, width in spec['branches'].items()}
    # Copies, because a training step may overwrite its buffers in place.
    leaves = {name: leaf.copy() for name, leaf in tree.flatten(base).items() if trained(name, leaf)}
    return base, {'gains': gains, 'leaves': leaves}

  def merge(frozen: Params, trainable: Params) -> Params:
    params = tree.overlay(frozen, trainable['leaves'])
    for name, gain in trainable['gains'].items():
      path = tuple(name.split('/'))
      params = tree.replaced(params, path, {leaf: x * gain for leaf, x in tree.get(params, path).items()})
    return params

  return Method(init, merge, lambda trainable: 'train', through_merge(merge), spec)


def scale(spec: Mapping[str, Any], tensors: Tensors, base: Tensors, strength: float) -> Tensors:
  """Returns gains nearer to 1, or farther."""
  return mix([spec], [tensors], [strength], [''], base)[1]


def mix(specs, states: Sequence[Tensors], weights, names, base: Tensors) -> tuple[dict[str, Any], Tensors]:
  """Returns gains whose distance from 1 is the weighted sum of the distances of all."""
  if any(spec['scope'] != 'gains' for spec in specs):
    raise UserError(
      "DiffFit's recipe cannot be scaled or mixed exactly: gains multiply trained biases, and a product does not "
      "change in proportion. What scope 'gains' trained can."
    )
  branches = {path: width for spec in specs for path, width in spec['branches'].items()}
  pairs = list(zip(states, weights, strict=True))
  mixed = {
    name: 1 + sum(np.float32(weight) * (state[name] - 1) for state, weight in pairs if name in state)
    for name in (f'gains/{path}' for path in branches)
  }
  return {**specs[0], 'branches': branches}, mixed

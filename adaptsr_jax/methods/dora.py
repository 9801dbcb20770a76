"""DoRA: low-rank adapters turn a kernel, a trained vector gives its size (Liu et al., ICML 2024).

    W' = V * (m / ||V||),   V = W + delta,   the norm of each output channel over all other axes

m starts at ||W||, so the start is the base to the bit: W times exactly 1. Gradients take the norm as a constant. All
but m is as in `methods.lora`, from the fields `config.lora` too.

Spec: that of 'lora' with 'method' = 'dora'. Trainable: that of 'lora', and 'm': {site: (out,)}.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from adaptsr_jax import lora as adapters
from adaptsr_jax import tree
from adaptsr_jax.errors import UserError
from adaptsr_jax.lora import Site
from adaptsr_jax.methods import lora
from adaptsr_jax.methods.base import Method, Plan, Scores, Tensors, through_merge
from adaptsr_jax.tree import Params

DEFAULTS = {'lr': 1e-3, 'schedule': 'steps'}  # a higher rate, as adapters have, was not tried
SPEC = lora.SPEC


def plan(config: ConfigDict, sites: Sequence[Site], scores: Scores | None) -> Plan:
  """Returns the ranks that LoRA would have."""
  return _renamed(lora.plan(config, sites, scores))


def with_ranks(config: ConfigDict, sites: Sequence[Site], ranks: Mapping[str, int]) -> Plan:
  """Returns the plan with `ranks`."""
  return _renamed(lora.with_ranks(config, sites, ranks))


def _renamed(planned: Plan) -> Plan:
  return planned._replace(spec={**planned.spec, 'method': 'dora', 'path': 'merged'})


def build(spec: Mapping[str, Any], constants: Mapping[str, np.ndarray]) -> Method:
  """Returns the method of `spec`."""
  inner = lora.build(spec, constants)
  sites, ranks = adapters.from_json(spec['sites'])
  adapted = [site for site in sites if ranks[site.name]]

  def init(key, base: Params) -> tuple[Params, Params]:
    frozen, trainable = inner.init(key, base)
    sizes = {site.name: _columns(_size(tree.get(base, site.path)['kernel']), site) for site in adapted}
    return frozen, {**trainable, 'm': sizes}

  def merge(frozen: Params, trainable: Params) -> Params:
    params = inner.merge(frozen, trainable)
    for site in adapted:
      kernel = tree.get(params, site.path)['kernel']
      size = jax.lax.stop_gradient(_size(kernel))
      # An output of zeros has no direction to turn.
      ratio = trainable['m'][site.name] / _columns(jnp.where(size, size, 1), site)
      kernel *= _columns(jnp.ones_like(size).at, site).set(ratio)
      params = tree.replaced(params, (*site.path, 'kernel'), kernel)
    return params

  labels = lambda trainable: {**inner.labels(trainable), 'm': 'train'}  # noqa: E731
  return Method(init, merge, labels, through_merge(merge), spec)


def _size(kernel) -> jax.Array:
  """Returns the norm of every output channel, float32 (out,)."""
  kernel = jnp.asarray(kernel, jnp.float32)
  return jnp.sqrt(jnp.sum(jnp.square(kernel), axis=tuple(range(kernel.ndim - 1))))


def _columns(vector, site: Site):
  return vector[slice(*(site.part or (None,)))]


def check_tensors(spec: Mapping[str, Any], tensors: Tensors) -> None:
  """Raises UserError unless the adapters of `tensors` are those of the sites and ranks of `spec`."""
  lora.check_tensors(spec, {name: tensor for name, tensor in tensors.items() if not name.startswith('m/')})


def table(spec: Mapping[str, Any], tensors: Mapping[str, Any]) -> str:
  """Returns the sites with their ranks and parameters."""
  sizes = tree.count([leaf for name, leaf in tensors.items() if name.startswith('m/')])
  return f'{lora.table(spec, tensors)}\nBeside these, {sizes:,} sizes of output channels.'


def scale(*_) -> tuple:
  """Refuses, for `mix` too."""
  raise UserError(
    'What DoRA trained cannot be scaled or mixed exactly: each kernel is divided by its own norm, so parts of its '
    'change do not add up.'
  )


mix = scale

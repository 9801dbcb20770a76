"""Adaptation methods: each is a choice of what is trained and of how it folds into the base, and one module here.

Such a module has

  DEFAULTS                           learning rate 'lr' and 'schedule' that `config.optim` takes where it says so, and
                                     'paper_lr' where the paper's is another
  fields() -> ConfigDict             its own fields of a config, which stand under its name; optional, as are CHOICES,
                                     LEAST and MOST (field -> what it can be), and check(config) for the rest
  plan(config, sites, scores)        -> `Plan`: what is decided before training
  build(spec, constants) -> Method   the method that a plan decided on

and, where they apply,

  with_ranks(config, sites, ranks)   -> `Plan` by ranks that are given (site name -> rank)
  SPEC                               entry of the spec -> its type, checked when an adapter file is read
  check_tensors(spec, tensors)       raises UserError where an adapter file's tensors are not those of its spec
  grow(config, sites, spec, tensors)   -> (`Plan`, tensors) of a run that starts from an adapter, where it may become
                                     larger; by default the plan is the adapter's
  table(spec, tensors) -> str        what a run and `adapters inspect` print of a plan
  scale(spec, tensors, base, s)      -> tensors with s times the change: 0 is the base, 1 what was trained
  mix(specs, states, weights, names, base)   -> (spec, tensors) whose change is the weighted sum of all changes

`tensors` and `base` are flat, 'a/b/c' -> array; `base` of `mix` may be empty, and its states and result hold constants
too (see `parted`). A method that cannot be scaled or mixed exactly raises a UserError there that says why.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from adaptsr_jax import tree
from adaptsr_jax.errors import UserError, shown
from adaptsr_jax.lora import Site
from adaptsr_jax.methods import arc, bitfit, difffit, dora, full, lora, rasa, shira
from adaptsr_jax.methods.base import CONSTANTS, Method, Plan, Scores, Tensors, fitting, parted
from adaptsr_jax.tree import Params

METHODS = {
  'lora': lora,
  'full': full,
  'arc': arc,
  'difffit': difffit,
  'rasa': rasa,
  'shira': shira,
  'dora': dora,
  'bitfit': bitfit,
}


def plan(config: ConfigDict, sites: Sequence[Site], scores: Scores | None = None) -> Plan:
  """Returns what the method that `config.method` names decides before training."""
  return METHODS[config.method].plan(config, tuple(sites), scores)


def make(
  config: ConfigDict, sites: Sequence[Site], ranks: Mapping[str, int] | None = None, scores: Scores | None = None
) -> Method:
  """Returns the method that `config.method` names, on `sites`.

  Args:
    config: of the run.
    sites: from `lora.find_sites`.
    ranks: site name -> rank; where the method has ranks, they are taken instead of its own plan.
    scores: what the method may plan by.
  """
  module = METHODS[config.method]
  given = ranks is not None and hasattr(module, 'with_ranks')
  planned = module.with_ranks(config, tuple(sites), ranks) if given else plan(config, sites, scores)
  return from_spec(planned.spec, planned.constants)


def from_spec(spec: Mapping[str, Any], constants: Mapping[str, np.ndarray] | None = None) -> Method:
  """Inverse of `Method.spec`, also after a trip through JSON; entries that are not the method's are left alone."""
  return module_of(spec).build(spec, constants or {})


def module_of(spec: Mapping[str, Any]) -> Any:
  """Returns the module of the method of `spec`; raises UserError where it is not known."""
  if str(spec.get('method')) not in METHODS:
    raise UserError(f'Method {shown(repr(spec.get("method")))} is not known; this program has {", ".join(METHODS)}.')
  return METHODS[spec['method']]


def grow(
  config: ConfigDict,
  sites: Sequence[Site],
  spec: Mapping[str, Any],
  tensors: Tensors,
  constants: Mapping[str, np.ndarray],
) -> tuple[Plan, Tensors]:
  """Returns the plan of a run that goes on training what `spec` and `tensors` hold, and what it starts from.

  Raises:
    UserError: `config` asks for another method, or for what cannot come out of this one.
  """
  if spec['method'] != config.method:
    raise UserError(f'The adapter is of method {spec["method"]}; give --config.method={spec["method"]} to train it on.')
  module = module_of(spec)
  return (
    module.grow(config, tuple(sites), spec, tensors) if hasattr(module, 'grow') else (Plan(spec, constants), tensors)
  )


def restore(method: Method, base: Params, tensors: Tensors, key: Any = None) -> tuple[Params, Params]:
  """Returns (frozen, trainable) of `method` on `base` with the trained values `tensors`.

  Args:
    key: what is not given is left as it starts by this key; without one, what would be drawn is 0.

  Raises:
    UserError: a tensor that has no place there, or a spec that does not fit the base.
  """
  with fitting():
    frozen, trainable = method.init(key, base)
  start = tree.flatten(trainable)
  for name, tensor in tensors.items():
    if np.shape(start.get(name, ())) != np.shape(tensor) or name not in start:
      there = f'of shape {np.shape(start[name])}' if name in start else 'absent'
      raise UserError(
        f'The adapter has a tensor {shown(name)} of shape {np.shape(tensor)}; on this base it would be {there}.'
      )
  return frozen, tree.filled(trainable, tensors)


def deployed(method: Method, apply_fn: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
  """Returns how a trained network is used: what to call for `apply_fn`, and (frozen, trainable) -> params for it.

  These are the merged parameters of the model itself, or all that `method.forward` needs where nothing can be merged.
  """
  if not method.unmergeable:
    return apply_fn, method.merge
  return lambda variables, x: method.forward(apply_fn, *variables['params'], x), lambda *parts: parts


def table(spec: Mapping[str, Any], tensors: Mapping[str, Any]) -> str:
  """Returns what there is to print of a plan; may be empty."""
  module = module_of(spec)
  return module.table(spec, tensors) if hasattr(module, 'table') else ''


def scale(spec: Mapping[str, Any], tensors: Tensors, base: Params, strength: float) -> Tensors:
  """Returns `tensors` with `strength` times their change of `base`; raises UserError where that is not exact."""
  if strength == 1:
    return tensors
  return _function(spec, 'scale', 'scaled')(spec, tensors, tree.flatten(base), strength)


def mix(
  specs: Sequence[Mapping[str, Any]],
  states: Sequence[Tensors],
  weights: Sequence[float],
  names: Sequence[str],
  base: Params | None = None,
) -> tuple[dict[str, Any], Tensors]:
  """Returns the spec and tensors whose change of the base is the weighted sum of the changes of all `states`.

  Args:
    specs: one for each state.
    states: what was trained.
    weights: one for each.
    names: of the adapters, for messages.
    base: that they were trained on; some can be mixed without.

  Raises:
    UserError: they do not go together.
  """
  for spec, name in zip(specs, names, strict=True):
    if spec['method'] != specs[0]['method']:
      raise UserError(f'{name} is of method {spec["method"]} and {names[0]} of {specs[0]["method"]}; they do not mix.')
  return _function(specs[0], 'mix', 'mixed')(specs, states, weights, names, tree.flatten(base or {}))


def _function(spec: Mapping[str, Any], name: str, done: str) -> Any:
  module = module_of(spec)
  if not hasattr(module, name):
    raise UserError(f'What method {spec["method"]} trained cannot be {done}.')
  return getattr(module, name)

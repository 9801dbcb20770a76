"""The contract of a method: what a module of this folder gives, and what is built from its spec."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from adaptsr_jax import tree
from adaptsr_jax.errors import UserError, first_line, shown
from adaptsr_jax.lora import Site
from adaptsr_jax.tree import Params

Tensors = dict[str, np.ndarray]  # `tree.flatten` of what is trained, as an adapter file holds it
CONSTANTS = 'constants/'  # before the names of constants where they stand among tensors


class Method(NamedTuple):
  """A choice of what is trained (`trainable`), what is not (`frozen`), and how both make a parameter tree.

  Attributes:
    init: (key, base) -> (frozen, trainable); `merge` of them gives base exactly. Without a key (None) what it would
      draw is 0: for values that are yet to be filled in.
    merge: (frozen, trainable) -> params with the names, shapes and dtypes of base. Pure.
    labels: (trainable) -> prefix tree of 'train' | 'b' | 'bias' | 'frozen', read by `optim.make`; 'b' are the second
      factors of adapters, which start at 0.
    forward: (apply_fn, frozen, trainable, x) -> y, with apply_fn as `model.apply`.
    spec: JSON of all that `from_spec` needs to build the method again and to read its adapter.
    constants: what was decided before training and is too large for JSON, such as index sets; `init` puts it into
      `frozen`, and it stands in the adapter file.
    unmergeable: why there is no such parameter tree, where there is none: `merge` then raises UserError, and a network
      is used through `forward`.
    thin: no gradient of a whole kernel is computed on the way to what is trained.
  """

  init: Callable[[Any, Params], tuple[Params, Params]]
  merge: Callable[[Params, Params], Params]
  labels: Callable[[Params], Any]
  forward: Callable[..., Any]
  spec: dict[str, Any]
  constants: Mapping[str, np.ndarray] = {}
  unmergeable: str = ''
  thin: bool = False


class Plan(NamedTuple):
  """What is decided before training.

  Attributes:
    spec: see `Method`; its 'sites', where it has any, are rows of `lora.to_json`.
    constants: see `Method`.
    start: where training starts, of what does not start as `Method.init` has it.
    ranks: content of ranks.json, of a method that shares out ranks: 'ranks' (site name -> rank), 'rule', 'parameters'
      and whatever led to them.
  """

  spec: dict[str, Any]
  constants: Mapping[str, np.ndarray] = {}
  start: Tensors = {}
  ranks: Mapping[str, Any] = {}


class Scores(Protocol):
  """How much each site matters on the training pictures; nothing is computed before it is asked for, nor twice."""

  available: bool  # whether there are training pictures; without them everything below raises UserError
  params: Params  # of the base, numpy
  trains: bool  # whether `warmed_up` can be asked

  def by_site(self, form: str = '1x1_kxk') -> dict[str, float]:
    """Returns site name -> score as `config.score` asks for it; `form` is for its normalisation by cost."""

  def gains(self, form: str = '1x1_kxk') -> dict[str, np.ndarray]:
    """Returns site name -> gain of each unit of rank (`ranks.spectral_gains`)."""

  def warmed_up(self, planned: Plan) -> tuple[Tensors, float]:
    """Returns what a tenth of the run's steps train of `planned`, and the seconds that they took."""

  def gradients(self) -> dict[str, np.ndarray]:
    """Returns site name -> mean gradient of the training loss at its kernel, float32 of site.shape."""


@contextlib.contextmanager
def fitting() -> Iterator[None]:
  """Turns whatever a spec that does not fit its tensors, the base or itself sets off into a UserError.

  Specs come in files of others, where anything can stand.
  """
  try:
    yield
  except (UserError, MemoryError):
    raise
  except Exception as error:
    why = f'{type(error).__name__}: {shown(first_line(error), 200)}'
    raise UserError(f'The adapter has a header that does not fit its tensors, this base or itself ({why}).') from error


def through_merge(merge: Callable[[Params, Params], Params]) -> Callable[..., Any]:
  """Returns the forward pass that every method has: merge, then apply."""
  return lambda apply_fn, frozen, trainable, x: apply_fn({'params': merge(frozen, trainable)}, x)


def parted(tensors: Tensors) -> tuple[Tensors, Tensors]:
  """Returns what was trained, and the constants."""
  trained = {name: leaf for name, leaf in tensors.items() if not name.startswith(CONSTANTS)}
  return trained, {name.removeprefix(CONSTANTS): leaf for name, leaf in tensors.items() if name not in trained}


def between(start: np.ndarray, value: np.ndarray, strength: float) -> np.ndarray:
  """Returns a leaf that stands at `start` for strength 0 and at the trained `value` for 1."""
  return (1 - strength) * np.asarray(start, np.float32) + strength * value


def mixed_leaves(
  states: Sequence[Tensors],
  weights: Sequence[float],
  names: Sequence[str],
  starts: Mapping[str, np.ndarray],
) -> Tensors:
  """Returns whole trained values whose changes are the weighted sums of the changes in all `states`.

  Args:
    states: leaves of each adapter; where one has none, nothing was changed.
    weights: one for each.
    names: of the adapters, for the error.
    starts: the leaves before training, empty where they are not known.

  Raises:
    UserError: a start is not known, and the weights do not sum to 1 or not all have the leaf.
  """
  mixed = {}
  for leaf in sorted({leaf for state in states for leaf in state}):
    lacking = [name for state, name in zip(states, names, strict=True) if leaf not in state]
    if leaf in starts:
      start = np.asarray(starts[leaf], np.float32)
    elif not lacking and np.isclose(sum(weights), 1, rtol=0, atol=1e-6):
      start = np.float32(0)
    else:
      reason = f'{lacking[0]} has none' if lacking else f'the weights sum to {sum(weights):g}, not to 1'
      raise UserError(f'The trained leaf {leaf} cannot be mixed because {reason}; give their base with --base.')
    members = [(state[leaf], weight) for state, weight in zip(states, weights, strict=True) if leaf in state]
    mixed[leaf] = start + sum(np.float32(weight) * (value - start) for value, weight in members)
  return mixed


def branches_of(method: str, sites: Sequence[Site], patterns: Sequence[str]) -> dict[str, Site]:
  """Returns path -> site of the layers in whose path one of `patterns` is found.

  Raises:
    UserError: there is none, or a pattern is no regular expression.
  """
  try:
    found = {'/'.join(site.path): site for site in sites if tree.matches('/'.join(site.path), patterns)}
  except re.error as error:
    raise UserError(f'config.{method}.branches has a pattern that is no regular expression ({error}).') from error
  if not found:
    raise UserError(
      f'Method {method} acts on residual branches, and this network has no site that config.{method}.branches '
      f'({", ".join(patterns)}) finds; choose another method, or name the layers there.'
    )
  return found

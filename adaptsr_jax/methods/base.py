"""The contract of a method."""

from collections.abc import Callable
from typing import Any, NamedTuple

from adaptsr_jax.tree import Params


class Method(NamedTuple):
  """A choice of what is trained (`trainable`), what is not (`frozen`), and how both make a parameter tree.

  Attributes:
    init: (key, base) -> (frozen, trainable); `merge` of them gives base exactly.
    merge: (frozen, trainable) -> params with the names, shapes and dtypes of base. Pure.
    labels: (trainable) -> prefix tree of 'train' | 'bias' | 'frozen', read by `optim.make`.
    forward: (apply_fn, frozen, trainable, x) -> y, with apply_fn as `model.apply`.
    spec: JSON of all that `from_spec` needs to build the method again and to read its adapter.
  """

  init: Callable[[Any, Params], tuple[Params, Params]]
  merge: Callable[[Params, Params], Params]
  labels: Callable[[Params], Any]
  forward: Callable[..., Any]
  spec: dict[str, Any]


def through_merge(merge: Callable[[Params, Params], Params]) -> Callable[..., Any]:
  """Returns the forward pass that every method has: merge, then apply."""
  return lambda apply_fn, frozen, trainable, x: apply_fn({'params': merge(frozen, trainable)}, x)

"""Parameter trees by name: nested dicts of arrays seen as 'a/b/c' -> array."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from etils import epy

with epy.lazy_imports():  # readers of flags come by this module, and need not wait for jax
  import jax
  from flax import traverse_util

Params = dict[str, Any]


def flatten(tree: Params) -> dict[str, Any]:
  """Returns {'a/b/c': leaf} of a nested dict or FrozenDict with str keys, in the order of the tree."""
  return traverse_util.flatten_dict(tree, sep='/')


def unflatten(flat: Mapping[str, Any]) -> Params:
  """Inverse of `flatten`."""
  return traverse_util.unflatten_dict(flat, sep='/')


def get(tree: Mapping[str, Any], path: Iterable[str]) -> Any:
  """Returns the node of `tree` at `path`."""
  for key in path:
    tree = tree[key]
  return tree


def replaced(tree: Mapping[str, Any], path: tuple[str, ...], value: Any) -> Params:
  """Returns `tree` with the node at `path` replaced; nothing given is modified."""
  if not path:
    return value
  return {**tree, path[0]: replaced(tree[path[0]], path[1:], value)}


def overlay(tree: Params, leaves: Mapping[str, Any]) -> Params:
  """Returns `tree` with the leaves {'a/b/c': array} in place of its own; nothing given is modified."""
  for name, leaf in leaves.items():
    tree = replaced(tree, tuple(name.split('/')), leaf)
  return tree


def filled(tree: Mapping[str, Any], leaves: Mapping[str, Any], prefix: str = '') -> Params:
  """Returns `tree` with the leaves {'a/b/c': array}; unlike `overlay`, of any dict whose keys may hold a '/'."""
  return {
    key: filled(value, leaves, f'{prefix}{key}/') if isinstance(value, Mapping) else leaves.get(prefix + key, value)
    for key, value in tree.items()
  }


def matches(name: str, patterns: Iterable[str]) -> bool:
  """Tells whether any regular expression of `patterns` is found in `name`."""
  return any(re.search(pattern, name) for pattern in patterns)


def count(tree: Any) -> int:
  """Returns the number of scalars in all leaves."""
  return sum(int(np.prod(np.shape(leaf))) for leaf in jax.tree.leaves(tree))


def compare(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
  """Returns the differences of two trees in names and shapes, one line each.

  Lines start with ' - ' for what is expected and missing, ' + ' for what is there and not expected.
  """
  want = {name: tuple(np.shape(leaf)) for name, leaf in flatten(expected).items()}
  have = {name: tuple(np.shape(leaf)) for name, leaf in flatten(found).items()}
  lines = []
  for name in sorted(want | have):
    if want.get(name) != have.get(name):
      lines += [f' - {name} {want[name]}'] if name in want else []
      lines += [f' + {name} {have[name]}'] if name in have else []
  return lines


def fingerprint(params: Mapping[str, Any]) -> str:
  """Returns the SHA-256, in hexadecimal, over names, shapes and float32 values of all leaves in the order of names."""
  digest = hashlib.sha256()
  for name, leaf in sorted(flatten(params).items()):
    array = np.ascontiguousarray(leaf, '<f4')
    digest.update(f'{name} {array.shape}\n'.encode())
    digest.update(array.data)
  return digest.hexdigest()

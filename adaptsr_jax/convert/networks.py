"""Finds the networks in what a weight file holds, by their own keys, whatever they are wrapped in and stand beside.

A training program saves more than a network: averaged weights beside the plain ones, dicts in dicts, a discriminator,
losses and metrics under other prefixes, counters, the state of an optimiser. A network is what has the telling keys of
an architecture behind one prefix, in one dict; its name is where it lies ('state_dict.net_g').
"""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adaptsr_jax.convert import architectures, tensors
from adaptsr_jax.errors import UserError, shown, some

MAX_DICTS, MAX_DEPTH = 10_000, 8  # that are looked into; a file may hold a dict that holds itself

# The usual names of the network that is wanted, first of all the bare weights; an average of it goes before it.
_USUAL = (
  '', 'params', 'state_dict', 'model_state_dict', 'model', 'net_g', 'netg', 'generator', 'gen', 'g', 'net', 'network',
  'weights', 'student',
)  # fmt: skip
_AVERAGED = re.compile('(?<![a-z])ema|ema(?![a-z])')
# What may stand beside bare keys of a network without being a part of it.
_OTHERS = re.compile(
  'loss|criteri|metric|psnr|ssim|lpips|dists|fid|disc|^net_?d|^d$|vgg|percep|optim|sched|scaler|ema|averag|teacher'
)
_OPTIMISER = re.compile('optim|sched')
_COUNTERS = re.compile('averag|update|decay|step|epoch|iter|best')
_PROFILED = re.compile(r'(?:^|\.)total_(?:ops|params)$')  # what thop counts, in every module of a network
_NUMPY = 'multiarray._reconstruct'  # how pickle makes an array


class Network(NamedTuple):
  """Tensors of one dict behind one prefix.

  Attributes:
    path: keys of the dicts around it, from the outermost.
    prefix: what stands before each of its keys.
    weights: by key, without the prefix.
    beside: keys in the same dict that are of something else.
    known: it has the telling keys of an architecture.
  """

  path: tuple[str, ...]
  prefix: str
  weights: dict[str, Any]
  beside: tuple[str, ...]
  known: bool

  @property
  def name(self) -> str:
    """Where it lies: 'state_dict.net_g'; '' for keys that lie bare in the file."""
    return '.'.join(filter(None, (*self.path, self.prefix.rstrip('._/'))))


def find(path: Path, tree: Any) -> list[Network]:
  """Returns the networks in what the file `path` holds: the known ones, then what else has layers.

  Raises:
    UserError: there is none; says what there is instead.
  """
  values = list(_containers(tree))
  known = [network for where, value in values for network in _known(where, _weights(value))]
  if not known:
    _refuse_other_kinds(path, values)
  seen = {network.path for network in known}
  others = [
    Network(where, '', weights, (), False)
    for where, value in values
    if where not in seen and _has_layers(weights := _weights(value)) and not _OPTIMISER.search('.'.join(where))
  ]
  if not known and not others:
    _refuse_arrays(path, values)
    raise UserError(f'{path} holds no weights of a network (no dict with a tensor of two or four axes).')
  return known + others


def choose(path: Path, found: list[Network], key: str | None) -> Network:
  """Returns the network `key`, or that which is meant: averaged weights, then those under the usual name.

  Args:
    path: of the file.
    found: from `find`.
    key: its name or the end of it; '.' for bare weights.

  Raises:
    UserError: there is no such network, or the names do not tell which is meant.
  """
  if key:
    wanted = key.rstrip('.')
    matching = [n for n in found if n.name == wanted] or [n for n in found if f'.{n.name}'.endswith(f'.{wanted}')]
    if len(matching) != 1:
      many = f'several networks that end in {shown(key)}' if matching else f'no network {shown(key)}'
      raise UserError(f'{path} has {many}; what it has: {listed(matching or found)}.')
    return matching[0]
  candidates = [network for network in found if network.known] or found
  by_name = {network.name: network for network in candidates}
  if {'params', 'params_ema'} <= by_name.keys() and architectures.safmn.takes_plain(by_name['params'].weights):
    return by_name['params']
  best = min(map(_rank, candidates))
  chosen = [network for network in candidates if _rank(network) == best]
  if not all(_same(chosen[0], other) for other in chosen[1:]):
    raise UserError(f'{path} holds several networks ({listed(found)}): choose one as {address(path, chosen[0])}.')
  return chosen[0]


def _same(one: Network, other: Network) -> bool:
  """Tells whether two networks are one that the file has under two names."""
  return one.weights.keys() == other.weights.keys() and all(
    item is other.weights[key] or (isinstance(item, tensors.Tensor) and item == other.weights[key])
    for key, item in one.weights.items()
  )


def listed(found: list[Network]) -> str:
  """Returns the names of networks for a sentence."""
  return some([shown(network.name) or 'bare weights' for network in found], 10)


def address(path: Path, network: Network) -> str:
  """Returns how a command is told to take this network of the file."""
  return f'{path}::{shown(network.name) or "."}'


def stripped(network: Network, weights: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
  """Returns the weights that are the network's own, and the keys in the same dict of what is no counter.

  Not its own are counters, and what is called like a loss, a metric or another network, under a name that the network
  does not have. All else stays: with other layers it is another architecture, which the detection has to say.

  Args:
    network: from `find`.
    weights: its weights as arrays.
  """
  architecture = _architecture('', weights)
  try:
    fields, _ = architecture.fields(weights)
    own = {entry.key for entry in architectures.entries(architecture.name, fields)}
  except (UserError, AttributeError):  # of no architecture, or odd, as the detection will say
    return weights, network.beside
  roots = {key.split('.')[0] for key in own}
  foreign = {key for key in weights if key not in own and key.split('.')[0] not in roots}
  counters = {key for key in foreign if _is_counter(key, weights[key])}
  counters |= {key for key in weights if key not in own and _PROFILED.search(key)}
  others = {key for key in foreign - counters if _OTHERS.search(key.split('.')[0].lower())}
  kept = {key: array for key, array in weights.items() if key not in counters | others}
  return kept, (*network.beside, *(network.prefix + key for key in sorted(others)))


def _containers(tree: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
  """Yields everything that holds other things, with where it lies, outer ones first; optimisers are not opened."""
  level, left = [((), tree)], MAX_DICTS
  for _ in range(MAX_DEPTH):
    below = []
    for where, value in level[:left]:
      yield where, value
      content = _content(value)
      if 'param_groups' not in content:
        below += [((*where, str(key)), item) for key, item in content.items() if _is_container(item)]
    left -= len(level[:left])
    level = below


def _is_container(value: Any) -> bool:
  return isinstance(value, dict | list | tuple | tensors.Opaque) and not isinstance(value, tensors.Tensor)


def _content(value: Any) -> Mapping[Any, Any]:
  """Returns a container as a dict; that of an object which pickle would make is what was put into it."""
  if isinstance(value, tensors.Opaque):
    return value.items
  if not _is_container(value):
    return {}
  return value if isinstance(value, dict) else dict(enumerate(value))


def _weights(value: Any) -> dict[str, Any]:
  return {
    key: item
    for key, item in _content(value).items()
    if isinstance(key, str) and isinstance(item, tensors.Tensor | np.ndarray)
  }


def _is_counter(key: str, item: Any) -> bool:
  return math.prod(item.shape) <= 1 and (item.dtype.kind in 'iub' or bool(_COUNTERS.search(key.lower())))


def _has_layers(weights: Mapping[str, Any]) -> bool:
  return any(len(item.shape) in (2, 4) for item in weights.values())


def _known(where: tuple[str, ...], weights: dict[str, Any]) -> Iterator[Network]:
  """Yields the networks of one dict, by the telling keys of each architecture."""
  firsts = {architecture.keys[0] for architecture in architectures.ARCHITECTURES.values()}
  ends = [key.removesuffix(first) for key in weights for first in firsts if key.endswith(first)]
  found = {prefix: known for prefix in ends if (known := _architecture(prefix, weights))}
  # What the names of one network begin with is no prefix of another: 'net_g.' of DASR, 'model.' of old ESRGAN.
  parts = {
    other
    for other in found
    for prefix, known in found.items()
    if other != prefix and other.startswith(prefix) and any((prefix + key).startswith(other) for key in known.keys)
  }
  prefixes = [prefix for prefix in found if prefix not in parts]
  networks = {}
  for prefix in prefixes:
    deeper = tuple(other for other in prefixes if other != prefix and other.startswith(prefix))
    inside = [key for key in weights if key.startswith(prefix) and not (deeper and key.startswith(deeper))]
    networks[prefix] = {key.removeprefix(prefix): weights[key] for key in inside}
  for own in list(networks.values()):
    networks |= _without_dots(own, weights)
  taken = tuple(networks)
  beside = [key for key, item in weights.items() if not (key.startswith(taken) or _is_counter(key, item))]
  for prefix, own in networks.items():
    yield Network(where, prefix, own, tuple(beside), True)


def _without_dots(own: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """Returns {prefix: weights} of copies of a network whose keys lack the dots, as some averages of Lightning do."""
  plain = {key: key.replace('.', '') for key in own}
  first = next(iter(plain.values()))
  prefixes = [key.removesuffix(first) for key in weights if key.endswith(first)]
  return {
    prefix: {key: weights[prefix + short] for key, short in plain.items()}
    for prefix in prefixes
    if all(prefix + short in weights for short in plain.values())
  }


def _architecture(prefix: str, weights: Mapping[str, Any]) -> Any:
  """Returns the architecture whose telling keys stand behind `prefix`, or None."""
  known = architectures.ARCHITECTURES.values()
  return next((a for a in known if all(prefix + key in weights for key in a.keys)), None)


def _rank(network: Network) -> tuple[bool, int]:
  """Sorts what is meant to the front."""
  parts = [part for part in network.name.lower().split('.') if part not in ('module', '_orig_mod')]
  last = re.sub('[^a-z]+', '_', parts[-1] if parts else '')
  plain = _AVERAGED.sub('', last).strip('_')
  averaged = any(map(_AVERAGED.search, parts))
  return not averaged, _USUAL.index(plain) if plain in _USUAL else len(_USUAL)


def _refuse_arrays(path: Path, values: list[tuple[tuple[str, ...], Any]]) -> None:
  """Raises a UserError for a file that holds arrays of NumPy."""
  for where, value in values:
    if isinstance(value, tensors.Opaque) and value.kind.endswith(_NUMPY):
      place = ''.join(f'[{shown(key)!r}]' for key in where[:-1])
      raise UserError(
        f'{path} holds NumPy arrays and no tensors; where PyTorch is, and if you trust the file, make tensors of them: '
        f'torch.save({{key: torch.as_tensor(value) for key, value in torch.load({path.name!r}, weights_only=False)'
        f"{place}.items()}}, '{path.stem}_tensors.pth')."
      )


def _refuse_other_kinds(path: Path, values: list[tuple[tuple[str, ...], Any]]) -> None:
  """Raises a UserError for a file of another kind than weights, where it can be told."""
  for where, value in values:
    if isinstance(value, tensors.Opaque) and value.is_model:
      place = ''.join(f'[{shown(key)!r}]' for key in where)
      raise UserError(
        f'{path} holds a whole pickled model (class {shown(value.kind) or "unknown"}), whose code is not run here; '
        f'where its code is, save the weights: torch.save(torch.load({path.name!r}, weights_only=False){place}'
        f".state_dict(), '{path.stem}_weights.pth')"
      )
  keys = [key for _, value in values for key in _weights(value)]
  if any('.lora_' in key for key in keys):
    raise UserError(f'{path} holds low-rank updates of another program, not a network; give the merged weights.')
  optimisers = [where for where, value in values if 'param_groups' in _content(value)]
  if optimisers and not any(_has_layers(_weights(value)) for where, value in values if where not in optimisers):
    raise UserError(
      f'{path} holds the state of an optimiser, no weights of a network; give the file of weights that the training '
      'program saved beside it.'
    )

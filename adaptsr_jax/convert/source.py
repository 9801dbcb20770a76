"""Weight files from and to disk: .pth, .pt and .safetensors, with what is wrapped around the weights."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adaptsr_jax import files
from adaptsr_jax.convert import architectures, networks, safefile, tensors, torchfile
from adaptsr_jax.errors import UserError, shown, some

SUFFIXES = ('.pth', '.pt', '.safetensors')

# Names under which the programs of the authors look for weights; others are not written unless asked for.
_WRAPPERS = ('params', 'params_ema')

_QUANTISED = re.compile(r'(zero_points?|qweight|qzeros|weight_scale|absmax|quant_map)$')


class Source(NamedTuple):
  """Weights of a file, its layout (what is needed to write others in the same way), and what a user should know.

  layout (JSON): file, sha256, format ('pth' or 'safetensors'), networks (the names of all in the file), key (the name
  of that which was taken), places ([[keys of the dicts around it], prefix] of it and of those with the same shapes),
  metadata (of a safetensors file; of a .pth what `torchfile.extra` finds).
  """

  weights: dict[str, np.ndarray]
  layout: dict[str, Any]
  notes: tuple[str, ...] = ()


def read(path: str | Path, key: str | None = None) -> dict[str, np.ndarray]:
  """Returns the weights of a network by PyTorch key, without wrapper and prefix, in the types of the file.

  See `read_source` for arguments and errors.
  """
  return read_source(path, key).weights


def read_source(path: str | Path, key: str | None = None) -> Source:
  """Reads weights and layout of a .pth, .pt or .safetensors file; the content, not the suffix, tells the format.

  Args:
    path: the file.
    key: the network to take ('params', 'state_dict.net_g'); by default what `networks.choose` takes to be meant.

  Raises:
    UserError: the file is absent, foreign, damaged, quantised, would execute code, or has no such network.
  """
  path = Path(path)
  with torchfile.faults(path):
    digest = files.sha256(path)
    with open(path, 'rb') as file:
      is_safe = torchfile.sniff(file.read(512)) == 'safetensors'
    tree, metadata = safefile.load(path) if is_safe else (torchfile.load(path), torchfile.extra(path))
    # Merged networks have an entry of this name too, on where they come from.
    if is_safe and '"adaptsr_jax adapter"' in metadata.get('adaptsr_jax', ''):
      raise UserError(
        f'{path} is an adapter, not a network; fold it into its base: python -m adaptsr_jax.adapters merge BASE '
        f'{path} OUT.pth'
      )
    found = networks.find(path, tree)
    chosen = networks.choose(path, found, key)
    arrays = {name: item.numpy() if isinstance(item, tensors.Tensor) else item for name, item in chosen.weights.items()}
    _refuse_quantised(path, arrays)
    weights, beside = networks.stripped(chosen, architectures.rrdb.with_model(arrays))
  shapes = {(name, array.shape) for name, array in weights.items()}
  same = [other for other in found if shapes <= {(name, item.shape) for name, item in other.weights.items()}]
  layout = {
    'file': path.name,
    'sha256': digest,
    'format': 'safetensors' if is_safe else 'pth',
    'networks': [network.name for network in found],
    'key': chosen.name,
    'places': [[list(network.path), network.prefix] for network in same],
    'metadata': metadata,
  }
  return Source(weights, layout, tuple(_notes(path, found, chosen, beside)))


def _notes(
  path: Path, found: list[networks.Network], chosen: networks.Network, beside: tuple[str, ...]
) -> Iterator[str]:
  others = [network for network in found if network is not chosen]
  if others:
    name = shown(chosen.name) or 'the bare weights'
    yield (
      f'Taken from {name}; the file also has {networks.listed(others)}: choose with {networks.address(path, others[0])}'
    )
  if beside:
    roots = [shown(root) for root in dict.fromkeys(key.split('.')[0] for key in beside)]
    yield f'Left aside in {path.name}: {some(roots, 5)} ({len(beside)} tensors)'


def _refuse_quantised(path: Path, weights: Mapping[str, np.ndarray]) -> None:
  named = [key for key in weights if _QUANTISED.search(key)]
  whole = [key for key, array in weights.items() if key.endswith(('weight', 'bias')) and array.dtype.kind in 'iub']
  if bad := whole or named:
    raise UserError(
      f"{path} holds quantised weights ({len(bad)} tensors, the first is '{shown(bad[0])}' in "
      f'{weights[bad[0]].dtype.name}): give the network as it was before it was quantised.'
    )


def write(
  path: str | Path, weights: Mapping[str, Any], layout: Mapping[str, Any] | None = None, like_source: bool = False
) -> None:
  """Writes weights as .pth, .pt or .safetensors, by the suffix; the file appears whole or not at all.

  Args:
    path: the file to write.
    weights: arrays by PyTorch key; they are written in the types that they have.
    layout: of a `Source`. A .pth has the weights under 'params' and 'params_ema' or bare if the source had them so.
      Otherwise the keys of the official EDSR lie bare and all others under 'params', where the original programs look
      for them.
    like_source: put them wherever the source had this network, behind its prefix.

  Raises:
    UserError: unknown suffix, no such folder, or a type the format cannot hold.
  """
  path = Path(path)
  if path.suffix.lower() not in SUFFIXES:
    raise UserError(f'{path}: weights are written as {", ".join(SUFFIXES)}; choose one of these endings.')
  is_safe = path.suffix.lower() == '.safetensors'
  layout = layout or {}
  arrays = {key: np.asarray(value) for key, value in weights.items()}
  places = layout.get('places', []) if like_source else _plain_places(arrays, layout)
  metadata = layout.get('metadata', {})
  origin = {name: text for name, text in metadata.items() if name == torchfile.ORIGIN}
  tree: dict[str, Any] = {}
  for where, prefix in places or [[[], '']]:
    node = tree
    for key in () if is_safe else where:
      node = node.setdefault(key, {})
    node.update({prefix + key: array for key, array in arrays.items()})
  try:
    with files.aside(path) as temporary, open(temporary, 'r+b') as file:
      if is_safe:
        safefile.save(file, tree, {'format': 'pt'} | (metadata if layout.get('format') == 'safetensors' else origin))
      else:
        torchfile.save(file, tree, origin)
  except OSError as error:
    raise UserError(f'{path} cannot be written: {error.strerror or error}.') from error


def _plain_places(weights: Mapping[str, Any], layout: Mapping[str, Any]) -> list[tuple[list[str], str]]:
  """Returns where the original programs look for the weights in a .pth."""
  places = layout.get('places', []) if layout.get('format') == 'pth' else []
  usual = [(where, '') for where, _ in places if len(where) == 1 and where[0] in _WRAPPERS]
  bare = any(not where for where, _ in places) or (not places and 'head.0.weight' in weights)
  return usual or ([([], '')] if bare else [(['params'], '')])

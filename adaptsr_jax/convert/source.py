"""Weight files from and to disk: .pth, .pt and .safetensors, with what is wrapped around the weights."""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from adaptsr_jax.convert import safefile, tensors, torchfile
from adaptsr_jax.convert.architectures import safmn
from adaptsr_jax.errors import UserError

SUFFIXES = ('.pth', '.pt', '.safetensors')

# Names under which training programs put the weights, the wanted one first: an average of the weights is preferred.
WRAPPERS = (
  'params_ema', 'params', 'state_dict_ema', 'model_ema', 'state_dict', 'model_state_dict', 'model', 'net_g', 'netG',
  'generator', 'net', 'network', 'weights',
)  # fmt: skip

# What wrappers such as DataParallel and torch.compile put before every key.
PREFIXES = ('module.', '_orig_mod.', 'params_ema.', 'params.', 'model.', 'net_g.', 'netG.', 'generator.', 'net.')


class Source(NamedTuple):
  """Weights of a file, and its layout: what is needed to write others in the same way.

  layout (JSON): file, sha256, format ('pth' or 'safetensors'), wrappers (names under which the same network is stored),
  key (the wrapper the weights were taken from, or None), prefix, dtype (of all floating tensors; None if they differ),
  dtypes (where they differ by number of axes, as half kernels and whole biases do: {'4': 'float16', ...}; else None),
  metadata (of a safetensors file).
  """

  weights: dict[str, np.ndarray]
  layout: dict[str, Any]


def read(path: str | Path, key: str | None = None) -> dict[str, np.ndarray]:
  """Returns the weights of a file by PyTorch key, without wrapper and prefix, in the types of the file.

  See `read_source` for arguments and errors.
  """
  return read_source(path, key).weights


def read_source(path: str | Path, key: str | None = None) -> Source:
  """Reads weights and layout of a .pth, .pt or .safetensors file; the content, not the suffix, tells the format.

  Args:
    path: the file.
    key: the wrapper to take ('params', 'params_ema'); by default the first of `WRAPPERS` that is there.

  Raises:
    UserError: the file is absent, foreign, damaged, would execute code, or has no such wrapper.
  """
  path = Path(path)
  with torchfile.faults(path), open(path, 'rb') as file:
    digest = hashlib.file_digest(file, 'sha256').hexdigest()
    file.seek(0)
    is_safe = torchfile.sniff(file.read(512)) == 'safetensors'
  if is_safe:
    tree, metadata = safefile.load(path)
  else:
    tree, metadata = torchfile.load(path), {}
  with torchfile.faults(path):
    key, wrappers, found = _unwrapped(path, tree, key)
    prefix, found = _without_prefix(found)
    weights = {name: item.numpy() if isinstance(item, tensors.Tensor) else item for name, item in found.items()}
  types = {array.dtype.name for array in weights.values() if 'float' in array.dtype.name}
  by_axes = {str(array.ndim): array.dtype.name for array in weights.values()}
  told = all(array.dtype.name == by_axes[str(array.ndim)] for array in weights.values())
  layout = {
    'file': path.name,
    'sha256': digest,
    'format': 'safetensors' if is_safe else 'pth',
    'wrappers': wrappers,
    'key': key,
    'prefix': prefix,
    'dtype': types.pop() if len(types) == 1 else None,
    'dtypes': by_axes if len(types) > 1 and told else None,
    'metadata': metadata,
  }
  return Source(weights, layout)


def write(path: str | Path, weights: Mapping[str, Any], layout: Mapping[str, Any] | None = None) -> None:
  """Writes weights as .pth, .pt or .safetensors, by the suffix; the file appears whole or not at all.

  Args:
    path: the file to write.
    weights: arrays by PyTorch key; they are written in the types that they have.
    layout: of a `Source`; if `path` has the same format, its wrappers, prefix and metadata are reproduced. Otherwise a
      .pth has the keys of the official EDSR bare and all others under 'params', where the original programs look for
      them.

  Raises:
    UserError: unknown suffix, no such folder, or a type the format cannot hold.
  """
  path = Path(path)
  if path.suffix.lower() not in SUFFIXES:
    raise UserError(f'{path}: weights are written as {", ".join(SUFFIXES)}; choose one of these endings.')
  is_safe = path.suffix.lower() == '.safetensors'
  if not layout or (layout.get('format') == 'safetensors') != is_safe:
    layout = {'wrappers': [] if 'head.0.weight' in weights else ['params']}
  prefix, wrappers = layout.get('prefix', ''), layout.get('wrappers', ())
  flat = {prefix + key: np.asarray(value) for key, value in weights.items()}
  with _replacing(path) as file:
    if is_safe:
      safefile.save(file, flat, {'format': 'pt'} | layout.get('metadata', {}))
    else:
      torchfile.save(file, {wrapper: flat for wrapper in wrappers} if wrappers else flat)


def _unwrapped(path: Path, tree: Any, key: str | None) -> tuple[str | None, list[str], dict[str, Any]]:
  """Returns the chosen wrapper, all wrappers that hold the same network, and the tensors."""
  items = tree.items() if isinstance(tree, dict) else ()
  networks = {name: found for name, value in items if isinstance(name, str) and (found := _network(value))}
  if key is not None:
    if key not in networks:
      there = ', '.join(networks) or 'none, the weights lie bare'
      raise UserError(f"{path} has no weights under '{key}'; what it has: {there}.")
    chosen = key
  elif networks:
    known = [name for name in WRAPPERS if name in networks]
    if {'params', 'params_ema'} <= networks.keys() and safmn.takes_plain(networks['params']):
      known.insert(0, 'params')
    if not known and len(networks) > 1:
      raise UserError(f'{path} holds several networks ({", ".join(networks)}): choose one with the key.')
    chosen = (known or list(networks))[0]
  elif bare := _network(tree):
    return None, [], bare
  else:
    raise UserError(f'{path} holds no weights of a network (no tensor with two or four axes).')
  shapes = {name: {k: v.shape for k, v in items.items()} for name, items in networks.items()}
  same = [name for name in networks if name == chosen or (name in WRAPPERS and shapes[name] == shapes[chosen])]
  return chosen, same, networks[chosen]


def _network(value: Any) -> dict[str, Any]:
  """Returns the tensors of a state dict by key; nothing if `value` is none."""
  if not isinstance(value, dict):
    return {}
  found = {key: item for key, item in value.items() if isinstance(item, tensors.Tensor | np.ndarray)}
  has_layers = any(len(item.shape) in (2, 4) for item in found.values())
  return found if has_layers and all(isinstance(key, str) for key in found) else {}


def _without_prefix(weights: dict[str, Any]) -> tuple[str, dict[str, Any]]:
  """Returns what stands before all keys ('module.', also several in a row), and the weights without it."""
  removed = ''
  while prefix := next((p for p in PREFIXES if all(_stands_before(p, key) for key in weights)), ''):
    removed += prefix
    weights = {key.removeprefix(prefix): item for key, item in weights.items()}
  return removed, weights


def _stands_before(prefix: str, key: str) -> bool:
  # In the names of old ESRGAN, model.0 and model.1.sub.0, it is a part and no prefix.
  return key.startswith(prefix) and not key.removeprefix(prefix)[:1].isdigit()


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
  """Opens a file beside `path` that takes its place if all went well, and vanishes if not."""
  aside = path.with_name(f'.{path.name}.{os.getpid()}.part')
  try:
    with open(aside, 'wb') as file:
      yield file
    os.replace(aside, path)
  except OSError as error:
    raise UserError(f'{path} cannot be written: {error.strerror or error}.') from error
  finally:
    aside.unlink(missing_ok=True)

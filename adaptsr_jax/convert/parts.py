"""DASR is published in two files, net_g.pth and net_p.pth: they are read as one network, and written as two or as one.

Joined, their keys begin with `net_g.` and `net_p.`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptsr_jax.convert import source
from adaptsr_jax.convert.architectures import msrresnet

PARTS = ('net_g', 'net_p')


def read(path: str | Path, key: str | None = None) -> source.Source:
  """Reads a file as `source.read_source` does, and with one part of DASR the other.

  The other is the file beside it with 'net_p' for 'net_g' in its name, or the other way round. Where there is none, the
  part is returned as it is. The layout of each part is in layout['parts'].
  """
  path = Path(path)
  found = source.read_source(path, key)
  part = msrresnet.half_of_dasr(found.weights)
  if not part or part not in path.name:
    return found
  other = next(name for name in PARTS if name != part)
  beside = path.with_name(path.name.replace(part, other))
  if not beside.is_file():
    return found
  sources = {part: found, other: source.read_source(beside)}
  joined = {f'{name}.{key}': value for name in PARTS for key, value in sources[name].weights.items()}
  layouts = {name: sources[name].layout for name in PARTS}
  return source.Source(joined, {**layouts['net_g'], 'places': [[[], '']], 'key': '', 'parts': layouts}, found.notes)


def write(
  path: str | Path, weights: Mapping[str, Any], layout: Mapping[str, Any] | None = None, like_source: bool = False
) -> None:
  """Writes weights as `source.write` does; those of DASR as two files if the name of `path` contains 'net_g'."""
  path = Path(path)
  if 'net_g' not in path.name or not any(key.startswith('net_p.') for key in weights):
    source.write(path, weights, layout, like_source)
    return
  format = 'safetensors' if path.suffix.lower() == '.safetensors' else 'pth'
  for part in PARTS:
    own = {key.removeprefix(f'{part}.'): value for key, value in weights.items() if key.startswith(f'{part}.')}
    bare = {'format': format, 'places': [[[], '']]}
    known = (layout or {}).get('parts', {}).get(part)
    source.write(path.with_name(path.name.replace('net_g', part)), own, known or bare, like_source)

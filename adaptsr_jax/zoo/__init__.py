"""Published weights by name, and those that come with the package.

  python -m adaptsr_jax.zoo                                        lists them
  python -m adaptsr_jax.zoo swinir_light_x4 safmn_x4               downloads them, and prints where they are
  python -m adaptsr_jax.evaluate --params=swinir_light_x4 ...      a name stands wherever a file of weights can

A name of `ZOO` is downloaded once, to ~/.cache/adaptsr_jax or the folder ADAPTSR_JAX_CACHE. Proxies are taken from
HTTP_PROXY, HTTPS_PROXY and NO_PROXY. A transfer that breaks off is continued where the server allows it, and a file
stands under its name only when it is whole, has the published SHA-256 where one is known, and can be read as weights.
FILE.json beside it records the SHA-256 that it came with; every later use compares.

'bundled:NAME' is assets/NAME.safetensors of the package: half precision with the official key names, as

  python -m adaptsr_jax.convert runs/pretrain/merged adaptsr_jax/assets/safmn_x4.safetensors --dtype float16

writes it. `base.load` gives float32, and writes what came of it in float32: half precision is for storage alone.
"""

import difflib
import os
from importlib import resources
from pathlib import Path

from adaptsr_jax.errors import UserError
from adaptsr_jax.files import cache_folder
from adaptsr_jax.zoo import cache
from adaptsr_jax.zoo.table import ASSETS, LICENCES, ZOO, Entry

BUNDLED = 'bundled:'


def locate(spec: str | os.PathLike) -> Path:
  """Returns the file or folder that `spec` stands for; a name of `ZOO` is downloaded if it is not in the cache.

  Args:
    spec: a path, 'bundled:NAME', or a name of `ZOO`; a file or folder of that name goes before the published weights.

  Raises:
    UserError: the weights cannot be had, or a word is neither a path nor a known name. A path with a folder or an
      ending is returned whether or not it exists.
  """
  text = os.fspath(spec)
  if text.startswith(BUNDLED):
    return bundled(text.removeprefix(BUNDLED))
  path = Path(text)
  if path.exists():
    return path
  if text in ZOO:
    return fetch(text)
  if path.name == text and not path.suffix:
    raise UserError(f"'{text}' is neither a file, a folder nor the name of published weights; {_suggestion(text)}.")
  return path


def licence(sha256: str) -> str:
  """Returns the licence of the published weights in a file with this SHA-256; '' where it is none that is known.

  Of those that come with the package, the licences of their training pictures as well.
  """
  for entry in (*ZOO.values(), *ASSETS.values()):
    # Some entries tell the leading digits only.
    if len(entry.sha256) >= 8 and sha256.startswith(entry.sha256):
      return entry.licence + (f'; trained on: {entry.trained}' if entry in ASSETS.values() else '')
  return ''


def _suggestion(word: str) -> str:
  names = [*ZOO, *(BUNDLED + name for name in bundled_names())]
  close = difflib.get_close_matches(word.lower(), names, n=3)
  everything = '`python -m adaptsr_jax.zoo` lists the names'
  return f'did you mean {" or ".join(close)}? {everything}' if close else everything


def bundled_names() -> list[str]:
  """Returns the names of the weights that come with the package."""
  return sorted(path.stem for path in _assets().glob('*.safetensors'))


def bundled(name: str) -> Path:
  """Returns the file of the weights `name` that come with the package.

  Raises:
    UserError: there are none of that name.
  """
  if name not in bundled_names():
    there = ', '.join(BUNDLED + other for other in bundled_names()) or 'none'
    raise UserError(f"No weights '{BUNDLED}{name}' come with the package; there are: {there}.")
  return _assets() / f'{name}.safetensors'


def _assets() -> Path:
  return Path(str(resources.files('adaptsr_jax') / 'assets'))


def fetch(name: str) -> Path:
  """Returns the file of published weights, from the cache or downloaded to it.

  Args:
    name: a key of `ZOO`.

  Raises:
    UserError: unknown name; no network, or no such file there; the cache cannot be written; the file is not the one
      that was published, or that was there first. The text says how to go on.
  """
  if name not in ZOO:
    raise UserError(f"'{name}' is not the name of published weights; {_suggestion(name)}.")
  return cache.fetch(name, ZOO[name])

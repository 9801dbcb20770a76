"""The folder of downloaded weights: what stands there under its name is whole, and stays what it was."""

import datetime
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from adaptsr_jax import files
from adaptsr_jax.errors import UserError
from adaptsr_jax.zoo.table import Entry
from adaptsr_jax.zoo.transfer import Broken, transfer

# What needs the network or reads weights is imported where it is used: the list of names comes at once.


class Unavailable(UserError):
  """A file that cannot be had now: no network, no such file there, or no place to put it."""


class Use(NamedTuple):
  """What files are for.

  Attributes:
    check: takes a path; raises a UserError unless the file can be read: no web page, no foreign file, not cut short.
    instead: how a user gives a file that is not in the cache.
  """

  check: Callable[[Path], object]
  instead: str


def _read_weights(path: Path) -> None:
  from adaptsr_jax import convert

  convert.read(path)


SR_WEIGHTS = Use(_read_weights, 'give the path of the file instead of the name')


def fetch(name: str, entry: Entry, use: Use = SR_WEIGHTS) -> Path:
  """Returns the file of `entry`, downloaded if it is not in the cache; see `zoo.fetch`.

  Raises:
    Unavailable: the file cannot be had.
    UserError: the file is not the one that was published, or that was there first.
  """
  path = files.cache_folder() / entry.file
  try:
    if not path.is_file():
      if not entry.url:
        raise Unavailable(
          f'{name} has no direct download: fetch it from {entry.page} with a browser, and {_by_hand(path, use)}.'
        )
      _download(name, entry, path, use)
    _check_cached(entry, path, use)
  except (OSError, UserError) as error:
    if isinstance(error, UserError) and not files.is_full(error):
      raise
    raise Unavailable(
      f'{path.parent} cannot be used as the cache ({getattr(error, "strerror", "") or error}); '
      'choose another folder by the environment variable ADAPTSR_JAX_CACHE.'
    ) from error
  return path


def _by_hand(path: Path, use: Use) -> str:
  return f'{use.instead}, or save it as {path}'


def _check_cached(entry: Entry, path: Path, use: Use) -> None:
  """Compares a file of the cache with its record; one without a record, put there by hand perhaps, gets it."""
  record = _read_record(path)
  digest = files.sha256(path)
  if fault := _hash_fault(digest, entry, record):
    beside = f', and {_record(path).name} beside it if it is the file you want' if record else ''
    raise UserError(f'{path} {fault}: it is damaged or another file; delete it to get it anew{beside}.')
  if not record:
    use.check(path)
    files.write_json(_record(path), {
      'url': entry.url or entry.page,
      'sha256': digest,
      'bytes': path.stat().st_size,
      'recorded': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    })  # fmt: skip


def _record(path: Path) -> Path:
  return path.with_name(f'{path.name}.json')


def _read_record(path: Path) -> dict[str, Any]:
  record = _record(path)
  if not record.exists():
    return {}
  try:
    content = json.loads(record.read_text())
    return {**content, 'sha256': str(content['sha256'])}
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f'{record} is damaged; delete it, and the SHA-256 of {path.name} is recorded anew.') from error


def _hash_fault(digest: str, entry: Entry, record: dict[str, Any]) -> str:
  """Returns what is wrong with the SHA-256 `digest`, or ''."""
  for expected, whence in ((entry.sha256, 'published'), (record.get('sha256', ''), 'recorded when it was first there')):
    if not digest.startswith(expected):
      return f'has SHA-256 {digest[:16]}..., not {expected[:16]}{"..." * (len(expected) > 16)} as {whence}'
  return ''


def _download(name: str, entry: Entry, path: Path, use: Use) -> None:
  """Downloads the file of `entry`; it appears at `path` whole and checked, or not at all."""
  import requests

  print(f'Downloading {entry.url}', file=sys.stderr, flush=True)
  path.parent.mkdir(parents=True, exist_ok=True)
  try:
    with files.aside(path) as target:
      transfer(name, entry.url, target)
      _check_download(entry, target, _read_record(path), use)
  except (Broken, requests.RequestException) as error:
    elsewhere = f' (or from {entry.page})' if entry.page else ''
    raise Unavailable(
      f'{name} could not be downloaded from {entry.url}: {_reason(error)}; '
      f'fetch it on another machine or later{elsewhere}, and {_by_hand(path, use)}.'
    ) from error


def _check_download(entry: Entry, target: Path, record: dict[str, Any], use: Use) -> None:
  if fault := _hash_fault(files.sha256(target), entry, record):
    beside = f', or delete {_record(files.cache_folder() / entry.file)} if the change is meant' if record else ''
    raise UserError(f'What {entry.url} sent {fault}; it was not kept: try again, {use.instead}{beside}.')
  try:
    use.check(target)
  except UserError as error:
    raise UserError(
      f'What {entry.url} sent is not a file of weights; it was not kept: ' + str(error).replace(str(target), entry.file)
    ) from error


def _reason(error: Exception) -> str:
  import requests

  if isinstance(error, requests.HTTPError):
    return f'the server answered {error.response.status_code} {error.response.reason}'
  reasons = {
    Broken: str(error),
    requests.exceptions.ProxyError: 'the proxy does not answer',
    requests.exceptions.SSLError: 'the certificate of the server cannot be verified',
    requests.Timeout: 'the server does not answer',
    requests.ConnectionError: 'there is no connection to the server',
  }
  return next((text for kind, text in reasons.items() if isinstance(error, kind)), str(error) or type(error).__name__)

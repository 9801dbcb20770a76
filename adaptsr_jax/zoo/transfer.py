"""One download over HTTP that survives a connection that breaks off."""

import time
from pathlib import Path
from typing import Any

from adaptsr_jax.log import Work

ATTEMPTS = 5  # of one transfer, the first included
PAUSE = 1.0  # seconds before the second attempt; doubled for each one after it
TIMEOUT = (5, 60)  # seconds to connect, and between two pieces
CHUNK = 1 << 14  # bytes; what is lost of a transfer that breaks off


class Broken(Exception):
  """A transfer that broke off for good."""


def transfer(name: str, url: str, target: Path) -> None:
  """Writes what `url` sends to `target`; goes on where a connection broke, or starts again.

  Raises:
    requests.RequestException: nothing was sent at all.
    Broken: less was sent than announced, in every attempt.
  """
  import requests

  with open(target, 'wb') as file, requests.Session() as session, Work(name, unit='B') as work:
    tag, total = '', None
    for attempt in range(ATTEMPTS):
      if attempt:
        time.sleep(PAUSE * 2 ** (attempt - 1))
      try:
        headers = {'Accept-Encoding': 'identity'}
        if tag and file.tell():  # the rest, provided that the file still has the tag
          headers |= {'Range': f'bytes={file.tell()}-', 'If-Range': tag}
        with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
          answer.raise_for_status()
          start, total = _extent(answer)
          # A weak tag does not promise the same bytes, so it cannot join two transfers.
          tag = '' if answer.headers.get('ETag', '').startswith('W/') else answer.headers.get('ETag', '')
          file.seek(start)
          file.truncate()
          work.restart(total, start)
          for chunk in answer.iter_content(CHUNK):
            file.write(chunk)
            work.advance(len(chunk))
        if total is None or file.tell() == total:
          return
      except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
        if total is None and not file.tell():
          raise
    sizes = f'{file.tell():,} of {total:,} bytes' if total else f'{file.tell():,} bytes'
    raise Broken(f'the transfer broke off {ATTEMPTS} times, at last after {sizes}')


def _extent(answer: Any) -> tuple[int, int | None]:
  """Returns at which byte the body of an answer starts, and the size of the whole file where it is told."""
  unit, _, content = answer.headers.get('Content-Range', '').partition(' ')
  if answer.status_code == 206 and unit == 'bytes':
    extent, _, total = content.partition('/')
    return int(extent.partition('-')[0]), int(total) if total.isdigit() else None
  length = answer.headers.get('Content-Length', '')
  return 0, int(length) if length.isdigit() else None

"""Damage to files at random: bytes, JSON, and what lies where a file should be."""

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

Random = np.random.Generator

# Text that a terminal obeys, that forges a line, that no encoding has, or beyond all bounds.
TEXTS = (
  '\x1b[2J\x07',
  'x\nforged',
  '\nError: forged',
  '\u202e\u2028forged',
  '\r\x00',
  'x' * 60_000,
  '\ud800',
  '',
  '.',
  '../../x',
  'NaN',
)
VALUES = (
  *(None, True, False, -1, 0, 1, 2, 3, 1.5, -0.0, 1e300, float('nan'), float('inf'), 10**18, 2**63, int('9' * 400)),
  *([], {}, [[]], [None], {'a': {}}, [1, 2], '1', 'null', *TEXTS),
)


def pick(random: Random, items: Any) -> Any:
  """Returns a copy of one of `items`; numpy would turn it into one of its own types."""
  items = list(items)
  return copy.deepcopy(items[random.integers(len(items))])


def damaged(random: Random, content: bytes) -> bytes:
  """Returns bytes that differ: flipped, cut off, cut out, put in, doubled, zeroed, exchanged or gone."""
  changed, size = bytearray(content), len(content)
  start, stop = sorted(int(n) for n in random.integers(0, size + 1, 2))
  how = random.integers(10)
  if how <= 3:
    for _ in range(random.integers(1, 5) if size else 0):
      place = random.integers(size)
      changed[place] = changed[place] ^ (1 << random.integers(8)) if how else random.integers(256)
  elif how == 4:
    del changed[start:]
  elif how == 5:
    del changed[start : min(stop, start + 64)]
  elif how == 6:
    changed[start:start] = random.bytes(random.integers(1, 64))
  elif how == 7:
    changed[start:stop] = bytes(stop - start)
  elif how == 8:
    changed += pick(random, (random.bytes(40), content, b'\n', b'\xff\xfe', b'{"step": 1}\n[]\n3\n'))
  else:
    return pick(random, (b'', b'\x00' * 64, random.bytes(200), b'null', b'[]', b'"a"', b'{}', b'[' * 100_000))
  return bytes(changed)


def damaged_json(random: Random, text: bytes) -> bytes:
  """Returns JSON in which one to three values, keys or entries are others."""
  content = json.loads(text)
  for _ in range(random.integers(1, 4)):
    content = _changed(random, content)
  return json.dumps(content).encode()


def _changed(random: Random, content: Any) -> Any:
  places = list(_places(content))
  if not places or random.random() < 0.05:
    return pick(random, VALUES)
  parent, key = pick(random, places)
  value, how = parent[key], random.integers(8)
  if how <= 2:
    parent[key] = pick(random, VALUES)
  elif how == 3:
    del parent[key]
  elif how == 4 and isinstance(value, int | float):
    parent[key] = pick(random, (value + 1, -value, value * 2, value // 2, f'{value!r:.99}', [value]))
  elif how == 5 and isinstance(parent, dict):
    parent[pick(random, TEXTS)] = parent.pop(key)
  elif how == 6:
    other, place = pick(random, places)
    parent[key], other[place] = copy.deepcopy((other[place], value))
  elif isinstance(parent, list):
    parent.append(copy.deepcopy(value))
  else:
    parent[pick(random, TEXTS)] = pick(random, VALUES)
  return content


def _places(content: Any):
  if isinstance(content, dict | list):
    for key in list(content) if isinstance(content, dict) else range(len(content)):
      yield content, key
      yield from _places(content[key])


def damage(random: Random, path: Path) -> str:
  """Damages a file; returns what was done."""
  content = path.read_bytes()
  how = random.integers(8)
  if how == 0:
    return misplaced(random, path)
  try:
    if how >= 4:
      path.write_bytes(damaged_json(random, content))
      return 'json'
  except ValueError:
    pass
  path.write_bytes(damaged(random, content))
  return 'bytes'


def misplaced(random: Random, path: Path) -> str:
  """Puts something else, or nothing, where a file or folder is; returns what."""
  how = pick(random, ('gone', 'folder', 'dangling', 'loop', 'pipe', 'file', 'locked', 'device'))
  if how == 'locked':
    path.chmod(0)
    return how
  shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
  if how == 'folder':
    path.mkdir()
  elif how == 'dangling':
    path.symlink_to('gone')
  elif how == 'loop':
    path.symlink_to(path.name)
  elif how == 'pipe':
    os.mkfifo(path)
  elif how == 'file':
    path.write_bytes(random.bytes(9))
  elif how == 'device':
    path.symlink_to('/dev/zero')  # without an end
  return how

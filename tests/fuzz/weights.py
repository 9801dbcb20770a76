"""Weight files damaged, wrapped and forged at random, through the convert command."""

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from adaptsr_jax import convert
from adaptsr_jax.convert import __main__ as command
from adaptsr_jax.convert import safefile, torchfile
from adaptsr_jax.errors import UserError
from tests.fuzz import rule

CASES = Path(__file__).parents[1] / 'cases'
Random = np.random.Generator
_EITHER = 'the same, or refused'
State = dict[str, np.ndarray]


def make(folder: Path) -> Callable[[Random, Path], str]:
  """Returns a trial: (random, empty folder) -> outcome; see `tests.fuzz.__main__`."""
  del folder
  weights = convert.read(CASES / 'nested.pth')

  def trial(random: Random, folder: Path) -> str:
    source, out, mark = folder / 'in.pth', folder / 'out.pth', folder / 'executed'
    kind = list(KINDS)[random.integers(len(KINDS))]
    expected = KINDS[kind](random, source, weights, mark)
    before = set(folder.iterdir())
    said = rule.run(command.main, [source, out])
    where = f'{kind}: {said}'
    assert not mark.exists(), where
    if said.code == 0:
      assert expected != 'refused', where
      written = convert.read(out)
      assert written.keys() == weights.keys(), where
      if isinstance(expected, dict):
        expected = expected.get(_EITHER, expected)
        assert all(written[key].tobytes() == expected[key].tobytes() for key in expected), where
    else:
      assert not isinstance(expected, dict) or _EITHER in expected, where
      assert set(folder.iterdir()) == before, where
    return f'{kind}, {("read", "", "refused")[said.code]}'

  return trial


# Each writes a file and returns the weights that have to be read from it, 'refused', or None for either.


def _flipped(random: Random, path: Path, _weights: State, _mark: Path) -> State | None:
  """Bytes of a good file, in its directory, its pickle or its numbers, of all of which it keeps checksums."""
  good = _good(random)
  content = bytearray(good.read_bytes())
  for _ in range(random.integers(1, 5)):
    content[random.integers(len(content))] = random.integers(256)
  path.write_bytes(content)
  try:
    return {_EITHER: convert.read(good)}
  except UserError:
    return None


def _flipped_pickle(random: Random, path: Path, weights: State, _mark: Path) -> None:
  pickled = bytearray(_pickled(weights))
  for _ in range(random.integers(1, 4)):
    pickled[random.integers(len(pickled))] = random.integers(256)
  write_zip(path, bytes(pickled), weights)


def _cut(random: Random, path: Path, _weights: State, _mark: Path) -> None:
  content = _good(random).read_bytes()
  start, stop = sorted(random.integers(0, len(content) + 1, 2))
  path.write_bytes(content[:start] + content[stop:])


def _noise(random: Random, path: Path, _weights: State, _mark: Path) -> str:
  heads = (b'', b'\x80\x02', b'PK\x03\x04', struct.pack('<Q', 64) + b'{"', b'<html>', b'\x89PNG')
  path.write_bytes(heads[random.integers(len(heads))] + random.bytes(random.integers(0, 600)))
  return 'refused'


def _wrapped(random: Random, path: Path, weights: State, _mark: Path) -> State:
  """A good network in dicts and behind prefixes, beside what training programs leave."""
  prefix = ''.join(random.choice(['module.', '_orig_mod.', 'net_g.', 'sr.', 'a.b.'], random.integers(0, 3)))
  tree: dict[str, Any] = {prefix + key: value for key, value in weights.items()}
  others = {
    'n_averaged': np.array(5),
    'epoch': np.array([3]),
    'net_d.conv0.weight': np.ones((2, 3, 3, 3), np.float32),
    'criterion.weight': np.ones(4, np.float32),
    'val_psnr.total': np.zeros(2, np.float32),
  }
  tree |= {key: value for key, value in others.items() if random.random() < 0.5}
  tree = {key: tree[key] for key in random.permutation(list(tree))}
  for name in random.choice(['params', 'state_dict', 'model', 'g_ema', 'x'], random.integers(0, 4)):
    tree = {name: tree} | ({'d': {'c.weight': np.ones((2, 2), np.float32)}} if random.random() < 0.5 else {})
  with open(path, 'wb') as file:
    torchfile.save(file, tree)
  return weights


def _foreign(random: Random, path: Path, weights: State, mark: Path) -> State:
  """Objects of classes that are not known, which stay opaque."""
  names = ('attrdict.AttrDict', 'omegaconf.DictConfig', 'datetime.timedelta', 'mypkg.cfg.node', 'numpy.random.Box')
  objects = b''
  for number in range(random.integers(1, 4)):
    module, _, name = names[random.integers(len(names))].rpartition('.')
    made = f'c{module}\n{name}\n'.encode() + b')\x81'
    state = (b'', b'}b', b'(X\x01\x00\x00\x00kK\x01u', b'}X\x01\x00\x00\x00eX\x03\x00\x00\x00rm sb')[random.integers(4)]
    objects += torchfile._text(f'o{number}') + made + state
  write_zip(path, b'\x80\x02}(' + objects + torchfile._text('params') + _pickled(weights)[2:-1] + b'u.', weights)
  return weights


def _hostile(random: Random, path: Path, weights: State, mark: Path) -> str:
  """Calls that would leave `mark` if anything ran them."""
  calls: list[tuple[Callable, tuple]] = [
    (os.system, (f'touch {mark}',)),
    (eval, (f"open({str(mark)!r}, 'w')",)),
    (exec, (f"open({str(mark)!r}, 'w')",)),
    (open, (str(mark), 'w')),
    (os.mkdir, (str(mark),)),
  ]
  function, arguments = calls[random.integers(len(calls))]
  evil = pickle.dumps(_Call(function, arguments), protocol=int(random.integers(0, 5)))
  evil = evil[2:] if evil[0] == 0x80 else evil
  whole = b'\x80\x04}(' + torchfile._text('params') + _pickled(weights)[2:-1] + torchfile._text('x')
  # Protocol 4 frames its content; a frame in the middle of another is passed over.
  write_zip(path, whole + evil[:-1] + b'u.', weights)
  return 'refused'


class _Call:
  def __init__(self, function: Callable, arguments: tuple):
    self.function, self.arguments = function, arguments

  def __reduce__(self):
    return self.function, self.arguments


def _named(random: Random, path: Path, weights: State, _mark: Path) -> None:
  """Keys with what a terminal obeys, and of any length."""
  bad = ['\x1b[2J', '\nError: forged', '\x00', '\u202e', '\r', 'ä' * 60_000, '.' * 1000, '']
  picked = bad[random.integers(len(bad))]
  renamed = random.choice(list(weights))
  state = {(picked + key if key == renamed or random.random() < 0.1 else key): v for key, v in weights.items()}
  state |= {f'{picked}.weight': np.ones((2, 2), np.float32)}
  with open(path, 'wb') as file:
    if random.random() < 0.5:
      safefile.save(file, state, {})
    else:
      torchfile.save(file, {picked: state} if random.random() < 0.5 else state)


def _shaped(random: Random, path: Path, weights: State, _mark: Path) -> None:
  """Headers of .safetensors with values of other types and sizes beyond all bounds."""
  buffer = io.BytesIO()
  safefile.save(buffer, weights, {'format': 'pt'})
  content = buffer.getvalue()
  length = int.from_bytes(content[:8], 'little')
  header = json.loads(content[8 : 8 + length])
  values = [None, True, -1, 0, 1.5, 10**18, int('9' * 4000), 'x' * 9999, [], {}, [[]], [2**62] * 300, '\x1b[2J']
  value = values[random.integers(len(values))]
  entry = header[random.choice(list(header))]
  field = random.choice(['dtype', 'shape', 'data_offsets', 'more'])
  if random.random() < 0.3:
    header[random.choice(list(header))] = value
  elif isinstance(entry.get(field), list) and entry[field] and random.random() < 0.5:
    entry[field][random.integers(len(entry[field]))] = value
  else:
    entry[field] = value
  text = json.dumps(header).encode()
  path.write_bytes(len(text).to_bytes(8, 'little') + text + content[8 + length :])


def _not_finite(random: Random, path: Path, weights: State, _mark: Path) -> str:
  key = random.choice(list(weights))
  array = weights[key].copy()
  array.flat[random.integers(array.size)] = (np.nan, np.inf, -np.inf)[random.integers(3)]
  convert.write(path, weights | {key: array})
  return 'refused'


def _typed(random: Random, path: Path, weights: State, _mark: Path) -> State | str:
  """Tensors each in a type of its own; whole numbers are quantised ones."""
  types = ['float16', 'float32', 'float64'] + ['int8'] * (random.random() < 0.2)
  chosen = {key: types[random.integers(len(types))] for key in weights}
  with np.errstate(all='ignore'):
    state = {key: array.astype(chosen[key]) for key, array in weights.items()}
  convert.write(path, state)
  return 'refused' if 'int8' in chosen.values() else state


KINDS: dict[str, Callable[[Random, Path, State, Path], Any]] = {
  'flipped': _flipped,
  'flipped pickle': _flipped_pickle,
  'cut': _cut,
  'noise': _noise,
  'wrapped': _wrapped,
  'foreign': _foreign,
  'hostile': _hostile,
  'named': _named,
  'shaped': _shaped,
  'not finite': _not_finite,
  'typed': _typed,
}


def _good(random: Random) -> Path:
  files = sorted(CASES.glob('*.p*t*')) + sorted(CASES.glob('*.ckpt'))
  return files[random.integers(len(files))]


def _pickled(weights: State) -> bytes:
  return b'\x80\x02' + torchfile._pickled(weights, {}) + b'.'


def write_zip(path: Path, pickled: bytes, weights: State) -> Path:
  """Writes a .pth with another pickle than that of `weights`, whose numbers it has."""
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('archive/data.pkl', pickled)
    for number, array in enumerate(weights.values()):
      archive.writestr(f'archive/data/{number}', array.tobytes())
  return path

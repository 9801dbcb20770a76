"""Lets each write of each command fail for lack of room, one after the other.

  python -m tests.full_disk main|evaluate|...|all

A command whose write fails says 'No space left on FOLDER' and ends with code 2; nothing half-written is left, and once
there is room the same command comes to the same result. Three kinds of lack are tried: the file aside cannot be
created, it cannot be finished (each for the first write, the second, ...), and files may have no more than so many
bytes (a kernel limit, at fractions of the largest file). A real small disk is in `tests/test_stopping.py`.
"""

import argparse
import contextlib
import errno
import fnmatch
import itertools
import json
import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import orbax.checkpoint as ocp

from adaptsr_jax import adapt, base, degrade, files, lam, pack, params_folder, upscale
from adaptsr_jax.adapters import __main__ as adapters
from adaptsr_jax.convert import __main__ as convert
from adaptsr_jax.doctor import __main__ as doctor
from adaptsr_jax.evaluate import __main__ as evaluate
from adaptsr_jax.report import __main__ as report
from configs import tiny
from tests.fuzz import rule
from tests.pictures import write_pairs

_SHARES = (0.05, 0.3, 0.6, 0.95)  # of the largest file


class Case(NamedTuple):
  """A command that writes into a folder, and the files (patterns) that are others each time."""

  run: Callable[[Path], rule.Said]
  differing: tuple[str, ...] = ()


def cases(folder: Path) -> dict[str, Case]:
  """Makes what commands need in `folder`; returns them by name."""
  lr, hr = write_pairs(folder / 'pictures', 3, size=32)
  network, net = base.random('safmn_x2', 0, {'dim': 8, 'n_blocks': 1}), folder / 'params'
  params_folder.save_params(net, network.params, network.info())
  pairs = [f'--lr={lr}', f'--hr={hr}']

  def train(out: Path) -> None:
    c = tiny.get_config()
    c.steps, c.save_every, c.patch, c.lora.rule = 2, 1, 16, 'uniform'
    for part in (c.data.train, c.data.valid):
      part.lr, part.hr = str(lr), str(hr)
    adapt.run(c, out)

  done = folder / 'done'
  assert rule.run(lambda: train(done)).code == 0
  adapter = done / 'adapter.safetensors'

  def of(main: Callable[..., int | None], *words: object, differing: tuple[str, ...] = ()) -> Case:
    """Returns the case of a command; @ in its words is where it writes."""
    return Case(lambda out: rule.run(main, [str(word).replace('@', f'{out}/') for word in words], (0, 1, 2)), differing)

  orbax, tables = ('*params*', '*checkpoints*'), [f'--out=@x.{ending}' for ending in ('json', 'csv', 'md')]
  return {
    'main': Case(lambda out: rule.run(lambda: train(out / 'run')), (*orbax, '*.json', '*.jsonl', '*.png', '*events*')),
    'evaluate': of(evaluate.main, '--params=bicubic', '--scale=2', *pairs, *tables, '--save=@y'),
    'upscale': of(upscale.main, f'--params={net}', lr, '@large'),
    'convert': of(convert.main, net, '@x.pth'),
    'convert to .safetensors': of(convert.main, net, '@x.safetensors'),
    'convert to a folder': of(convert.main, done / 'merged.pth', '@x', differing=orbax),
    'pack': of(pack.main, *pairs, '--scale=2', '--crop=16', '--stride=8', '--out=@x'),
    'merge': of(adapters.main, 'merge', net, adapter, '@x.pth'),
    'mix': of(adapters.main, 'mix', adapter, '@x.safetensors', '--weights=1'),
    'resize': of(adapters.main, 'resize', adapter, '@x.safetensors', '--rank=1'),
    'report': of(report.main, done, '--out=@x', '--pictures=1', differing=('*.html', '*.md')),
    'degrade': of(degrade.main, f'--hr={hr}', '--out=@x', '--preset=bicubic', '--scale=2', '--force'),
    'doctor': of(doctor.main, *pairs, '--out=@x', '--fix=@y'),
    'lam': of(lam.main, f'--params={net}', f'--picture={lr}/p00.png', '--box=4,4,8', '--out=@x.png'),
  }


def check(case: Case, folder: Path, every: int = 1) -> int:
  """Lets each write of a command fail; returns how often it did.

  Args:
    case: of `cases`.
    folder: to work in.
    every: let only every so many writes fail.

  Raises:
    AssertionError: the command did not end as it should, left something half-written, or came to another result after.
  """
  whole = folder / 'whole'
  whole.mkdir()
  good = case.run(whole)
  expected = _content(whole, case)
  largest = max(path.stat().st_size for path in whole.rglob('*') if path.is_file())
  failures = 0
  for place in (*_PLACES, None):
    for number in range(0, 99, every) if place else _SHARES:
      out = folder / f'{place[1] if place else "limit"}_{number}'
      out.mkdir()
      with _failing(place, number) if place else _limited(int(number * largest)) as failed:
        said = case.run(out)
      if place and not failed:
        break  # there are no more writes
      failures += said.code != good.code
      _check(said, good, out, expected, case)
      again = case.run(out)
      assert again.code == good.code, again
      assert _content(out, case) == expected
      shutil.rmtree(out)
  return failures


def _check(said: rule.Said, good: rule.Said, out: Path, expected: dict[str, bytes], case: Case) -> None:
  rule.check_whole(out)
  assert _content(out, case).items() <= expected.items(), said  # what is there is whole
  for path in out.rglob('*.json'):
    json.loads(path.read_bytes())
  if said.code == good.code:  # nothing was too large, or what failed can be left out
    return
  assert said.code in (1, 2), said
  assert 'No space left on ' in said.err, said


def _content(out: Path, case: Case) -> dict[str, bytes]:
  files_there = (path for path in out.rglob('*') if path.is_file())
  names = {str(path.relative_to(out)): path for path in files_there}
  kept = {name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in case.differing)}
  return {name: names[name].read_bytes().replace(os.fsencode(out), b'') for name in kept}


# What makes a file aside, what puts it in its place, what saves a state.
_PLACES = ((files, '_new_file'), (os, 'replace'), (ocp.CheckpointManager, 'save'))


@contextlib.contextmanager
def _failing(place: tuple[object, str], number: int) -> Iterator[list[int]]:
  """Lets one call of a function fail, and that alone; yields a list in which it then leaves its number."""
  owner, name = place
  function, calls, failed = getattr(owner, name), itertools.count(), []

  def wrapped(*args, **kwargs):
    ours = name != 'replace' or Path(args[0]).name.startswith('.adaptsr-')
    if ours and next(calls) == number:
      failed.append(number)
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return function(*args, **kwargs)

  with mock.patch.object(owner, name, wrapped):
    yield failed


@contextlib.contextmanager
def _limited(size: int) -> Iterator[None]:
  """Lets files have no more than `size` bytes."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def main() -> None:
  parser = argparse.ArgumentParser(prog='python -m tests.full_disk', description=__doc__.split('\n')[0])
  parser.add_argument('command', help='as listed in this file, or all')
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    for name, case in cases(Path(folder) / 'cases').items():
      if args.command in ('all', name):
        (Path(folder) / name).mkdir()
        try:
          print(f'{name}: {check(case, Path(folder) / name)} failures, each told, nothing half-written', flush=True)
        except AssertionError as error:
          print(f'{name}: {str(error)[:1500]}', flush=True)


if __name__ == '__main__':
  main()

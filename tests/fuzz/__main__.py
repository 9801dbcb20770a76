"""Damages files at random and holds the rule of `tests.fuzz.rule` for the commands that read them.

  python -m tests.fuzz all 10000 [--seed 0] [--first 0]
  python -m tests.fuzz runs 1 --first 1234

The trials of a kind are a function of seed and number alone: each that fails is printed with the line that makes it
again, and the loop goes on. It ends with code 1 if any failed.
"""

import argparse
import collections
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np

from adaptsr_jax import command
from tests.fuzz import rule

KINDS = ('weights', 'params', 'adapters', 'runs', 'reports', 'pictures', 'configs')
_SLOWEST = 120  # seconds of a trial
_MEMORY = 8  # GiB of address space


def run(kind: str, trials: int, folder: Path, seed: int = 0, first: int = 0) -> tuple[collections.Counter, list[str]]:
  """Makes `trials` trials of a kind in `folder`; returns how often each outcome was seen, and the failures."""
  trial = importlib.import_module(f'tests.fuzz.{kind}').make(folder / kind)
  outcomes, failures = collections.Counter(), []
  for number in range(first, first + trials):
    place = folder / f'{kind}_{number}'
    place.mkdir()
    try:
      with _limit():
        outcomes[trial(np.random.default_rng((seed, number)), place)] += 1
    except (Exception, Late) as error:
      last = traceback.extract_tb(error.__traceback__)[-1]
      again = f'python -m tests.fuzz {kind} 1 --seed {seed} --first {number}'
      failures.append(f'{again}\n  {rule.short(error)}\n  in {last.filename}:{last.lineno}')
      print(failures[-1], flush=True)
    shutil.rmtree(place, ignore_errors=True)
  return outcomes, failures


class Late(BaseException):
  """A trial took too long; no command catches it."""


class _limit:
  """Raises Late in what takes too long."""

  def __enter__(self) -> None:
    signal.signal(signal.SIGALRM, self._late)
    signal.alarm(_SLOWEST)

  def __exit__(self, *exception) -> None:
    signal.alarm(0)

  def _late(self, *_) -> None:
    raise Late(f'more than {_SLOWEST} s')


def main() -> int:
  parser = argparse.ArgumentParser(prog='python -m tests.fuzz', description=__doc__.split('\n')[0])
  parser.add_argument('kind', choices=[*KINDS, 'all'])
  parser.add_argument('trials', type=int, help='of the kind; of all kinds together')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--first', type=int, default=0, help='number of the first trial of each kind (default 0)')
  args = parser.parse_args()
  os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', '')
  command._hush()
  rule.keep_memory(_MEMORY)
  kinds = KINDS if args.kind == 'all' else [args.kind]
  shares = [args.trials // len(kinds) + (i < args.trials % len(kinds)) for i in range(len(kinds))]
  failed = []
  for kind, trials in zip(kinds, shares, strict=True):
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
      outcomes, failures = run(kind, trials, Path(folder), args.seed, args.first)
    failed += failures
    seconds = time.perf_counter() - start
    print(f'{kind}: {trials} trials in {seconds:.0f} s, {len(failures)} failed')
    for outcome, count in sorted(outcomes.items()):
      print(f'  {count:6} {outcome}')
  return int(bool(failed))


if __name__ == '__main__':
  sys.exit(main())

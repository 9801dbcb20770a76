"""Kills a short run with reading processes at random moments, again and again, until it has been killed N times.

  python -m tests.kills 50 [--seed 0]

After each kill no process may be left after five seconds; after the next start nothing half-written may be left; and a
run that comes to its end, however often it was killed, must have the bits of one that never was.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.fuzz import rule
from tests.pictures import write_pairs
from tests.test_stopping import begin, left_of

_FLAGS = (
  *('--config.steps=12', '--config.save_every=2', '--config.eval_every=3', '--config.log_every=1', '--config.patch=16'),
  *('--config.data.workers=2', '--config.export=best', '--config.tensorboard=True'),
)


def run(kills: int, folder: Path, seed: int = 0) -> dict[str, int]:
  """Kills a run `kills` times in all; returns how many runs came to their end, and in how many states they were.

  Raises:
    AssertionError: a process, something half-written or other bits are left.
  """
  random, pictures = np.random.default_rng(seed), write_pairs(folder / 'pictures', 4, size=32)
  whole = begin(pictures, folder / 'whole', *_FLAGS)
  lines = len(whole.stdout.readlines())
  assert whole.wait() == 0, whole.stderr.read()
  outcome, workdir = {'runs': 0, 'kills': 0, 'kills while training or later': 0}, folder / 'run'
  while outcome['kills'] < kills or workdir.exists():
    # Lines come at every stage, however slow the machine: each of them is as likely, and the time behind it random.
    last = int(random.integers(lines)) if outcome['kills'] < kills else lines
    process = begin(pictures, workdir, *_FLAGS)
    for _ in range(last):
      if not process.stdout.readline():
        break
    else:
      time.sleep(random.uniform(0, 0.3))
      if last < lines and process.poll() is None:
        process.kill()
    code = process.wait()
    assert not (left := left_of(process.pid)), left
    error = process.stderr.read()
    assert code in (0, -9), error
    if code:
      assert 'Traceback' not in error, error
      outcome['kills'] += 1
      outcome['kills while training or later'] += (workdir / 'checkpoints').exists()
      continue
    rule.check_whole(workdir)
    for name in ('merged.pth', 'adapter.safetensors'):
      assert (workdir / name).read_bytes() == (folder / 'whole' / name).read_bytes(), (name, outcome)
    outcome['runs'] += 1
    shutil.rmtree(workdir)
  return outcome


def main() -> None:
  parser = argparse.ArgumentParser(prog='python -m tests.kills', description=__doc__.split('\n')[0])
  parser.add_argument('kills', type=int)
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    start = time.perf_counter()
    print(run(args.kills, Path(folder), args.seed), f'{time.perf_counter() - start:.0f} s')


if __name__ == '__main__':
  sys.exit(main())

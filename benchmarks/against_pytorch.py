"""The same work here and in PyTorch, taking turns: full step, adapter step (PEFT), inference.

  python -m venv torchenv && torchenv/bin/pip install torch torchvision spandrel peft
  python -m benchmarks.against_pytorch --python torchenv/bin/python --out against_pytorch.json

PyTorch runs in a process and an environment of its own. In every round each row is run once here and once there; the
ratio is formed within the round and then its median taken, so that what else the machine does falls on both. On a GPU
there are rows of `torch.compile` too. Adapters have rank 8 at every convolution and linear layer in both; PEFT trains
the form `kxk_1x1` and no biases, and so does the adapter step here.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from adaptsr_jax import command

ROWS = ('full', 'lora', 'inference')


class Case(NamedTuple):
  """A network and what it is given."""

  batch: int
  patch: int  # side in LR pixels
  preset: str = ''
  fields: dict[str, Any] = {}  # beside those of the preset
  rows: tuple[str, ...] = ROWS


_SMALL = {'embed_dim': 60, 'gc': 16, 'num_heads': (6, 6), 'window_size': 8}
CASES = {
  'safmn_x4': Case(8, 64),
  'swinir_light_x4': Case(2, 64),
  'edsr_baseline_x4': Case(4, 48),
  'drct_small_x4': Case(2, 64, 'drct_x4', _SMALL),
  'rrdb_x4': Case(1, 128, rows=ROWS[2:]),
  'srvgg_x4': Case(1, 128, rows=ROWS[2:]),
}
# Largest ratio that is aimed at.
GOALS = {
  **{(name, 'full'): 0.9 for name in ('safmn_x4', 'swinir_light_x4', 'edsr_baseline_x4')},
  **{(name, 'lora'): 0.75 for name in ('safmn_x4', 'swinir_light_x4', 'edsr_baseline_x4')},
  **{
    (name, 'inference'): goal
    for name, goal in (('safmn_x4', 0.6), ('swinir_light_x4', 0.6), ('edsr_baseline_x4', 0.95))
  },
}


class Peer:
  """A process that runs PyTorch."""

  def __init__(self, python: str, name: str, case: Case, rank: int, threads: int):
    script = Path(__file__).with_name('pytorch_steps.py')
    call = [python, str(script), name, *map(str, (case.batch, case.patch, rank, threads))]
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'text': True, 'env': environment}
    self._process = subprocess.Popen(call, **pipes)
    self.about = self._read()

  def run(self, row: str) -> tuple[float, float]:
    """Runs `row` once; returns seconds and CPU seconds."""
    self._process.stdin.write(f'{row}\n')
    self._process.stdin.flush()
    return tuple(self._read())

  def _read(self) -> Any:
    line = self._process.stdout.readline()
    if not line:
      raise RuntimeError(f'PyTorch ended with code {self._process.wait()}; see above.')
    return json.loads(line)

  def close(self) -> None:
    self._process.stdin.close()
    self._process.wait()


def calls_of(name: str, case: Case, rank: int, path: str) -> dict[str, Any]:
  """Returns row -> what runs it once here and returns an array to wait for; compiled."""
  from adaptsr_jax import base as base_lib
  from adaptsr_jax import config, lora, methods
  from benchmarks import step_time

  base = base_lib.random(case.preset or name, 0, case.fields)
  shape = (case.batch, case.patch, case.patch, 3)
  model = base.model()
  sites = lora.find_sites(model)

  def method_of(row: str) -> Any:
    c = config.default()
    c.method = row
    c.lora.form, c.lora.path, c.lora.biases = 'kxk_1x1', path, False
    return c, methods.make(c, sites, {site.name: rank for site in sites})

  steps = [row for row in case.rows if row != 'inference']
  started = {row: step_time.training(*method_of(row), base, model, shape).start() for row in steps}
  infer = step_time.Row('inference', 'base')
  return {**started, 'inference': step_time.variants(base, case.batch, case.patch, rank, [infer])[0].start()}


def measure(name: str, case: Case, args: argparse.Namespace) -> dict[str, Any]:
  """Returns {'pytorch': about it, 'rows': {row: {'ms', 'cpu_ms' of both, and their ratios}}}."""
  ours = calls_of(name, case, args.rank, args.path)
  peer = Peer(args.python, name, case, args.rank, args.threads)
  try:
    theirs = [*case.rows, *(f'{row} compiled' for row in case.rows)] if peer.about['cuda'] else list(case.rows)
    turns: dict[str, list[Any]] = {row: [] for row in theirs}
    for row in theirs:  # sets things up
      _clocked(ours[row.partition(' ')[0]])
      peer.run(row)
    for _ in range(args.rounds):
      for row in theirs:
        call = ours[row.partition(' ')[0]]
        turns[row].append((_turn(lambda call=call: _clocked(call), args), _turn(lambda row=row: peer.run(row), args)))
  finally:
    peer.close()
  return {'pytorch': peer.about, 'rows': {row: _numbers(pairs) for row, pairs in turns.items()}}


def _turn(call: Any, args: argparse.Namespace) -> tuple[float, float]:
  """Returns the median of some calls, as they follow each other in training; the first finds the other's caches."""
  call()
  return tuple(statistics.median(column) for column in zip(*(call() for _ in range(args.calls)), strict=True))


def _clocked(call: Any) -> tuple[float, float]:
  import jax

  wall, cpu = time.perf_counter(), time.process_time()
  jax.block_until_ready(call())
  return time.perf_counter() - wall, time.process_time() - cpu


def _numbers(pairs: list[Any]) -> dict[str, float]:
  found = {}
  for i, clock in enumerate(('ms', 'cpu_ms')):
    ours, theirs = ([1e3 * pair[side][i] for pair in pairs] for side in (0, 1))
    found |= {clock: statistics.median(ours), f'pytorch_{clock}': statistics.median(theirs)}
    found |= {f'{clock}_min': min(ours), f'pytorch_{clock}_min': min(theirs)}
    found[f'{clock}_ratio'] = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
  return found


def text(name: str, case: Case, rows: dict[str, dict[str, float]]) -> str:
  """Returns the lines of one network in the table."""
  lines = []
  for row, numbers in rows.items():
    what = f'{name}, {case.batch} of {case.patch}x{case.patch}, {row}'
    cells = [f'{numbers[key]:.0f}' for key in ('ms', 'pytorch_ms')] + [f'{numbers["ms_ratio"]:.2f}']
    cells += [f'{numbers[key]:.0f}' for key in ('cpu_ms', 'pytorch_cpu_ms')] + [f'{numbers["cpu_ms_ratio"]:.2f}']
    cells.append(str(GOALS.get((name, row), '')))
    lines.append(f'| {what} | {" | ".join(cells)} |')
  return '\n'.join(lines)


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  parser = argparse.ArgumentParser(prog='python -m benchmarks.against_pytorch', description=__doc__.split('\n')[0])
  parser.add_argument('--python', required=True, help='interpreter of an environment with torch, spandrel and peft')
  parser.add_argument('--models', default=','.join(CASES), help='some of them')
  parser.add_argument('--rank', type=int, default=8, help='of every adapter')
  parser.add_argument('--path', default='auto', help='of adapters, see config.lora.path')
  parser.add_argument('--rounds', type=int, default=10, help='turns of every row')
  parser.add_argument('--calls', type=int, default=3, help='measured in a turn, after one that is not')
  parser.add_argument('--threads', type=int, default=os.cpu_count(), help='of PyTorch')
  parser.add_argument('--out', metavar='FILE', help='where to write the numbers as JSON')
  args = parser.parse_args(argv)
  names = args.models.split(',')
  if unknown := [name for name in names if name not in CASES]:
    print(f'Error: --models has {unknown[0]!r}; it can have {", ".join(CASES)}.', file=sys.stderr)
    return 2
  command.reuse_memory()  # as `adaptsr_jax.main` does
  from benchmarks import step_time

  content = {'machine': step_time.machine(), 'settings': vars(args), 'models': {}}
  print('  '.join(f'{key} {value}' for key, value in content['machine'].items()))
  print('\n| work | ms | PyTorch | ratio | CPU ms | PyTorch | ratio | goal |\n|---|---:|---:|---:|---:|---:|---:|---:|')
  for name in names:
    found = content['models'][name] = measure(name, CASES[name], args)
    print(text(name, CASES[name], found['rows']), flush=True)
    if args.out:
      Path(args.out).write_text(json.dumps(content, indent=1) + '\n')
  return 0


if __name__ == '__main__':
  sys.exit(main())

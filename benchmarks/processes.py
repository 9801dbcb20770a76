"""What sharing a batch among processes of one machine costs: CPU time and time of a step, one process against several.

  python -m benchmarks.processes --processes 1,4 --model safmn_x4 --batch 8 --patch 64

Each count starts its processes anew, `--rounds` times in turn. On a machine whose cores are all used by one process,
several have no more of them: then throughput is to what the cores allow as CPU time of one is to that of all.
"""

import argparse
import json
import socket
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np


def child(args: argparse.Namespace) -> None:
  """Takes steps as one of the processes; prints [seconds of a step, CPU seconds of a step]."""
  import jax

  from adaptsr_jax import processes

  def work() -> None:
    from adaptsr_jax import base, config, devices, lora, methods
    from adaptsr_jax.adapt import gan, losses, step

    c = config.default()
    c.method = args.method
    if args.discriminator:
      c.loss.adversarial, c.gan.discriminator = 0.1, args.discriminator
    loaded = base.random(args.model, 0)
    model = loaded.model()
    sites = lora.find_sites(model)
    method = methods.make(c, sites, dict.fromkeys((site.name for site in sites), 8))
    shared = devices.choose(0, args.batch)
    parts = method.init(jax.random.key(0), loaded.params)
    made = (gan.two_players if args.discriminator else step.plain)(
      c, model.apply, method, *parts, losses.make(c), shared
    )
    state = made.place(made.state)
    rng, share = np.random.default_rng(0), args.batch // processes.count()
    sides = {'lr': args.patch, 'hr': args.patch * model.upscale}
    batch = {key: rng.random((share, side, side, 3), np.float32) for key, side in sides.items()}
    state, scalars = made.step(state, batch)
    jax.block_until_ready(scalars)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(args.steps):
      state, scalars = made.step(state, batch)
    jax.block_until_ready((state, scalars))
    spent = (time.perf_counter() - wall) / args.steps, (time.process_time() - cpu) / args.steps
    print(json.dumps(spent), file=sys.stderr, flush=True)

  if args.of == 1:
    work()
  else:
    processes.joined(work, '', f'localhost:{args.port}', args.of, args.child)


def measured(number: int, args: argparse.Namespace) -> tuple[float, float]:
  """Returns (seconds, CPU seconds of all) of a step of `number` processes."""
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    port = probe.getsockname()[1]
  flags = [
    f'--{name}={getattr(args, name)}' for name in ('model', 'method', 'discriminator', 'batch', 'patch', 'steps')
  ]
  call = [sys.executable, '-m', 'benchmarks.processes', *flags, f'--of={number}', f'--port={port}']
  started = [subprocess.Popen([*call, f'--child={i}'], stderr=subprocess.PIPE, text=True) for i in range(number)]
  lines = [process.communicate()[1].splitlines() for process in started]
  rows = [json.loads(next(line for line in each if line.startswith('['))) for each in lines]
  return max(row[0] for row in rows), sum(row[1] for row in rows)


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  parser = argparse.ArgumentParser(prog='python -m benchmarks.processes', description=__doc__.split('\n')[0])
  parser.add_argument('--processes', default='1,4', help='numbers of processes')
  parser.add_argument('--model', default='safmn_x4', help='a preset')
  parser.add_argument('--method', default='full')
  parser.add_argument('--discriminator', default='', help='patch or unet: steps of two players')
  parser.add_argument('--batch', type=int, default=8, help='of all processes together')
  parser.add_argument('--patch', type=int, default=64, help='side in LR pixels')
  parser.add_argument('--steps', type=int, default=10)
  parser.add_argument('--rounds', type=int, default=2)
  for name in ('child', 'of', 'port'):
    parser.add_argument(f'--{name}', type=int, help=argparse.SUPPRESS)
  args = parser.parse_args(argv)
  if args.of:
    child(args)
    return 0
  numbers = [int(number) for number in args.processes.split(',')]
  found: dict[int, list[Any]] = {number: [] for number in numbers}
  for _ in range(args.rounds):
    for number in numbers:
      found[number].append(measured(number, args))
  print('| processes | ms of a step | CPU ms of all, least | throughput to what the cores allow |')
  print('|---:|---:|---:|---:|')
  least = min(cpu for _, cpu in found[numbers[0]])
  for number, rows in found.items():
    cpu = min(cpu for _, cpu in rows)
    print(
      f'| {number} | {1e3 * statistics.median(wall for wall, _ in rows):.0f} | {1e3 * cpu:.0f} | {least / cpu:.2f} |'
    )
  return 0


if __name__ == '__main__':
  sys.exit(main())

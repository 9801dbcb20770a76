"""Large pictures: `infer.upscale` against PyTorch's forward of the same picture, and one photograph end to end.

  python -m benchmarks.large_pictures --python torchenv/bin/python
  python -m benchmarks.large_pictures --photograph 4000x3000 --models safmn_x4

PyTorch takes the picture whole, in a process of its own (see `benchmarks.against_pytorch`); both take turns. The
photograph goes through the command, in a process whose peak memory is told by the system.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.against_pytorch import Case, Peer

_MODELS = ('safmn_x4', 'edsr_baseline_x4', 'swinir_light_x4')


def against_pytorch(name: str, side: int, tile: int, args: argparse.Namespace) -> str:
  """Returns a row of the table: megapixels of the result a second, and the ratio of times, ours to PyTorch's."""
  from adaptsr_jax import base, infer

  loaded = base.random(name, 0)
  network = infer.network(loaded.model(), loaded.params, tile)
  picture = np.random.default_rng(0).random((side, side, 3), np.float32)
  peer = Peer(args.python, name, Case(1, side), 8, args.threads)
  try:
    network(picture)  # sets things up
    peer.run('inference')
    turns = [(_clocked(lambda: network(picture)), peer.run('inference')) for _ in range(args.rounds)]
  finally:
    peer.close()
  pixels = (4 * side) ** 2 / 1e6
  cells = [f'{pixels / statistics.median(turn[i][0] for turn in turns):.2f}' for i in (0, 1)]
  for clock in (0, 1):
    cells.append(f'{statistics.median(ours[clock] / theirs[clock] for ours, theirs in turns):.2f}')
  cells += [f'{pixels / min(turn[i][1] for turn in turns):.2f}' for i in (0, 1)]
  return f'| {name}, {side} x {side}, {f"tiles of {tile}" if tile else "automatic"} | {" | ".join(cells)} |'


def photograph(name: str, size: tuple[int, int]) -> str:
  """Returns what it takes to enlarge a picture file of `size` (width, height) into another."""
  from adaptsr_jax import base, image, params_folder

  with tempfile.TemporaryDirectory() as folder:
    loaded = base.random(name, 0)
    params_folder.save_params(Path(folder) / 'params', loaded.params, loaded.info())
    y, x = np.mgrid[: size[1], : size[0]].astype(np.float32)
    waves = np.stack([np.sin(x / 7 + y / 50), np.sin(y / 9), np.sin((x + y) / 31)], -1)
    image.write(f'{folder}/photo.jpg', 0.5 + 0.3 * waves)
    call = ['-m', 'adaptsr_jax.upscale', f'--params={folder}/params', f'{folder}/photo.jpg', f'{folder}/large.png']
    start, before = time.perf_counter(), _children()
    done = subprocess.run([sys.executable, *call], check=True, capture_output=True, text=True)
    wall, cpu = time.perf_counter() - start, _children() - before
    told = next((line for line in done.stdout.splitlines() if line.startswith('Tiles of')), '')
  peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
  return f'{name}, {size[0]} x {size[1]}: {wall:.0f} s, {cpu:.0f} s of CPU time, at most {peak:.1f} GB. {told}'


def _children() -> float:
  usage = resource.getrusage(resource.RUSAGE_CHILDREN)
  return usage.ru_utime + usage.ru_stime


def _clocked(call: Any) -> tuple[float, float]:
  wall, cpu = time.perf_counter(), time.process_time()
  call()
  return time.perf_counter() - wall, time.process_time() - cpu


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  parser = argparse.ArgumentParser(prog='python -m benchmarks.large_pictures', description=__doc__.split('\n')[0])
  parser.add_argument('--python', help='interpreter of an environment with torch and spandrel')
  parser.add_argument('--models', default=','.join(_MODELS), help='some of them')
  parser.add_argument('--sides', default='256,512', help='of the pictures, in LR pixels')
  parser.add_argument('--tiles', default='0', help='0: automatic')
  parser.add_argument('--rounds', type=int, default=5, help='turns of each')
  parser.add_argument('--threads', type=int, default=os.cpu_count(), help='of PyTorch')
  parser.add_argument('--photograph', metavar='WxH', help='enlarge one of this size by the command instead')
  args = parser.parse_args(argv)
  if args.photograph:
    for name in args.models.split(','):
      print(photograph(name, tuple(map(int, args.photograph.split('x')))), flush=True)
    return 0
  print('| work | MP/s | PyTorch | time ratio | CPU time ratio | MP/s of CPU, best | PyTorch |')
  print('|---|---:|---:|---:|---:|---:|---:|')
  for name in args.models.split(','):
    for side in map(int, args.sides.split(',')):
      for tile in map(int, args.tiles.split(',')):
        print(against_pytorch(name, side, tile, args), flush=True)
  return 0


if __name__ == '__main__':
  sys.exit(main())

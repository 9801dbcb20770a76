"""What tiles cost in accuracy: a picture through a network whole and in tiles, by overlap.

  python -m benchmarks.seams --model swinir_light_x4
  python -m benchmarks.seams --base 002_lightweightSR_DIV2K_s64w8_SwinIR-S_x4.pth --picture photo.png --tile 192

Attention reaches half a window further with every block, so no overlap of a usual size is exact.
Differences are those of all pixels, in steps of 1/255; fresh weights and a picture of noise where none are given.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the table; returns the exit code."""
  args = _parser().parse_args(argv)
  import jax

  from adaptsr_jax import base as base_lib
  from adaptsr_jax import image, infer
  from adaptsr_jax.errors import UserError

  try:
    base = base_lib.load(args.base) if args.base else base_lib.random(args.model, seed=0)
    lr = image.read(args.picture).rgb if args.picture else _noise(args.side)
    # Fresh attention looks at all pixels of a window alike; larger kernels make it choose.
    params = jax.tree.map(lambda leaf: leaf * (args.gain if leaf.ndim == 2 else 1), base.params)
    params, model = jax.device_put(params), base.model()
    fields = {'multiple': model.multiple, 'minimum': model.minimum}
    whole = infer.upscale(model.apply, params, lr, model.upscale, tile=infer.WHOLE, **fields)
    height, width, _ = lr.shape
    print(f'{args.base or args.model} (radius {model.receptive}), {width} x {height} pixels, {os.cpu_count()} CPUs')
    print('tile  overlap  largest difference  root mean square    seconds')
    for overlap in args.overlaps:
      start = time.perf_counter()
      tiled = infer.upscale(model.apply, params, lr, model.upscale, tile=args.tile, overlap=overlap, **fields)
      difference = 255 * (tiled - whole)
      largest, spread = abs(difference).max(), (difference**2).mean() ** 0.5
      print(f'{args.tile:4}  {overlap:7}  {largest:18.5f}  {spread:16.6f}  {time.perf_counter() - start:9.1f}')
  except UserError as error:
    print(f'Error: {error}', file=sys.stderr)
    return 2
  return 0


def _noise(side: int):
  """Returns a picture with detail at every scale."""
  import numpy as np

  rng = np.random.default_rng(0)
  layers = (
    np.kron(rng.random((-(-side // n), -(-side // n), 3)), np.ones((n, n, 1)))[:side, :side] for n in (1, 4, 16)
  )
  return np.mean(list(layers), axis=0).astype(np.float32)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog='python -m benchmarks.seams', description=__doc__.splitlines()[0])
  parser.add_argument('--model', default='swinir_light_x4', help='variant with fresh weights (default swinir_light_x4)')
  parser.add_argument('--base', default='', help='weights instead: a file or a params folder')
  parser.add_argument('--gain', type=float, default=1.0, help='factor of the dense kernels and the position tables')
  parser.add_argument('--picture', default='', help='instead of noise')
  parser.add_argument('--side', type=int, default=184, help='of the noise, in pixels (default 184)')
  parser.add_argument('--tile', type=int, default=96, help='side of the tiles, in pixels (default 96)')
  parser.add_argument('--overlaps', type=lambda text: [int(n) for n in text.split(',')], default=[0, 8, 16, 24, 32])
  return parser


if __name__ == '__main__':
  raise SystemExit(main())

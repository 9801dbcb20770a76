"""Cuts the pictures of a data set into crops, packed in one file with fast random access.

python -m adaptsr_jax.pack --root=DIV2K --track=unknown --scale=4 --crop=480 --stride=240 --out=packed/div2k
python -m adaptsr_jax.pack --lr=LR --hr=HR --scale=4 --out=packed/camera
python -m adaptsr_jax.main --config=... --config.data.train.packed=packed/div2k
"""

import argparse
import contextlib
from pathlib import Path

from adaptsr_jax import command
from adaptsr_jax.errors import UserError, shown
from adaptsr_jax.files import check_folder


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog='python -m adaptsr_jax.pack', description=__doc__.split('\n')[0])
  command.add_flags(parser, 'hr', 'lr', 'root', 'track', 'names', 'skip_names')
  parser.add_argument('--split', choices=('train', 'test'), default='train', help='part of --root (default train)')
  parser.add_argument('--scale', type=int, required=True, help='HR pixels per LR pixel')
  parser.add_argument('--crop', type=int, default=480, help='side of the crops in HR pixels (default 480)')
  parser.add_argument('--stride', type=int, default=240, help='from crop to crop in HR pixels (default 240)')
  parser.add_argument('--out', required=True, metavar='DIR', help='folder to write')
  parser.add_argument('--force', action='store_true', help='replace a packed folder that is there')
  return parser


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  args = _parser().parse_args(command.arguments(argv))
  return command.ended(lambda: _run(args), f'Stopped; nothing was written to {shown(args.out)}.')


def _run(args: argparse.Namespace) -> None:
  from adaptsr_jax import data, log
  from adaptsr_jax.data import packed

  check_folder(args.out)
  if args.scale < 1:
    raise UserError(f'--scale is {args.scale}; it must be at least 1.')
  source = data.open_source(args, args.scale, cache_gb=0, split=args.split)
  print(source.describe(), flush=True)
  out = Path(args.out).absolute()
  with contextlib.closing(packed.write(out, source, args.crop, args.stride, args.force)) as written:
    for _ in log.watched(written, 'Packing pictures', len(source)):
      pass
  index = packed.read_index(out)
  print(
    f'{len(index["hr_sizes"]):,} crops in {args.out}, {index["bytes"] / 1e6:,.1f} MB; use them as packed={args.out}.'
  )


if __name__ == '__main__':
  command.start(main)

"""Makes low-resolution pictures of HR pictures by a simulated camera.

python -m adaptsr_jax.degrade --hr=HR --out=LR --preset=realesrgan --scale=4 --seed=0
python -m adaptsr_jax.degrade --hr=HR --out=LR --preset=stablesr --set 'blur1_sigma=(0.2, 3)' blur2_prob=0
python -m adaptsr_jax.degrade --sheet=draws.png --picture=photo.png --preset=realesrgan --draws=16
"""

import argparse
import ast
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etils import epy

from adaptsr_jax import command, log, memory
from adaptsr_jax.errors import UserError, naming, shown
from adaptsr_jax.files import check_folder

with epy.lazy_imports():
  import jax
  import numpy as np

  from adaptsr_jax import figures, image
  from adaptsr_jax.data import degrade, sources

# Side of what a sheet shows of its photo, in HR pixels, and the panels in a row.
_SHOWN = 256
_COLUMNS = 6
_MOST_DRAWS = 600
# Memory for each pixel of a canvas; measured with pictures of 1024 and 1536 pixels a side.
_BYTES = {'bicubic': 100, 'second_order': 400}


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m adaptsr_jax.degrade',
    description='Makes low-resolution pictures of HR pictures by a simulated camera.',
    epilog='Options of the camera are those of adaptsr_jax.data.degrade.Options (docs/degrade.md).',
  )
  parser.add_argument('--hr', metavar='DIR', help='HR pictures')
  parser.add_argument('--out', metavar='DIR', help='where to write the LR pictures, as PNG of the same names')
  parser.add_argument('--sheet', metavar='FILE', help='instead: draw --picture through --draws draws into this file')
  parser.add_argument('--picture', metavar='FILE', help='the photo of the sheet')
  parser.add_argument('--draws', type=int, default=16, metavar='N', help='draws on the sheet (default 16)')
  parser.add_argument('--preset', default='realesrgan', help='realesrgan (default), stablesr or bicubic')
  parser.add_argument('--scale', type=int, default=4, help='HR pixels per LR pixel and axis (default 4)')
  parser.add_argument('--seed', type=int, default=0, help='of all random numbers (default 0)')
  parser.add_argument('--force', action='store_true', help='overwrite pictures that are there')
  parser.add_argument(
    '--set', nargs='+', action='extend', default=[], metavar='NAME=VALUE', help="e.g. 'blur1_sigma=(0.2, 3)'"
  )
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  args = _parser().parse_args(command.arguments(argv))
  return command.ended(lambda: _main(args), 'Stopped; what is written is whole.')


def _main(args: argparse.Namespace) -> None:
  if bool(args.sheet) != bool(args.picture) or bool(args.hr) != bool(args.out) or bool(args.sheet) == bool(args.hr):
    raise UserError('Give either --hr and --out, or --sheet and --picture.')
  if args.scale < 1:
    raise UserError(f'--scale is {args.scale}; it must be at least 1.')
  if not 0 <= args.seed < 2**31:
    raise UserError(f'--seed is {args.seed}; it must be from 0 to {2**31 - 1}.')
  if not 1 <= args.draws <= _MOST_DRAWS:
    raise UserError(f'--draws is {args.draws}; it must be from 1 to {_MOST_DRAWS}.')
  if args.sheet:
    _draw_sheet(args)
  else:
    _write_pictures(args)


def _options(args: argparse.Namespace) -> 'degrade.Options':
  changes = {}
  for item in args.set:
    name, equals, value = item.partition('=')
    if not equals:
      raise UserError(f"--set {item} has no value: write it as 'name=value'.")
    try:
      changes[name] = ast.literal_eval(value)
    except (SyntaxError, ValueError):
      changes[name] = value  # a word; options() tells where it does not fit
  return degrade.options(args.preset, changes)


def _write_pictures(args: argparse.Namespace) -> None:
  options = _options(args)
  check_folder(args.out)
  out, files = Path(args.out), image.list_images(args.hr)
  if not files:
    raise UserError(f'{image.no_pictures(args.hr)}.')
  image.tell_unread(args.hr)
  if out.resolve() == Path(args.hr).resolve():
    raise UserError(f'--out is the folder of the HR pictures, {args.hr}: choose another one.')
  stems: dict[str, Path] = {}
  for path in files:
    if stems.setdefault(path.stem, path) != path:
      raise UserError(f'{stems[path.stem]} and {path} would both become {path.stem}.png: rename one of them.')
  there = [stem for stem in stems if (out / f'{stem}.png').exists()]
  if there and not args.force:
    raise UserError(
      f'{out / there[0]}.png is there already ({len(there)} of {len(files)}): give --force, or another --out.'
    )
  out.mkdir(parents=True, exist_ok=True)
  for number, path in enumerate(log.watched(files, 'Degrading', len(files)), 1):
    hr = _read(path, args.scale)
    with naming(path):
      lr = _degraded(hr, _key(args.seed, path), args.scale, options)
    image.write(out / f'{path.stem}.png', lr)
    height, width = image.size(path)
    cut = f' (HR cut to {_size(hr)})' if (height, width) != hr.shape[:2] else ''
    log.say(f'[{number}/{len(files)}] {shown(path.name)} {width}x{height}{cut} -> {_size(lr)}')


def _read(path: Path, scale: int) -> 'np.ndarray':
  """Returns a picture, uint8 or uint16, cut at the bottom and right to multiples of `scale`."""
  hr = image.read_array(path)
  h, w = (n // scale * scale for n in hr.shape[:2])
  if not h or not w:
    raise UserError(f'{path} is {_size(hr)}, too small to be shrunk by {scale}.')
  return hr[:h, :w]


def _degraded(hr: 'np.ndarray', key: 'jax.Array', scale: int, options: 'degrade.Options') -> 'np.ndarray':
  """Returns LR in the type of HR."""
  if options.kind == 'bicubic' and not options.source_usm and hr.dtype == np.uint16:
    return sources.shrink(hr, scale)  # the cameras round to 8 bit, as what they imitate does
  return image.to_levels(shrink(key, image.to_float(hr), scale, options), hr.dtype)


def _size(x: 'np.ndarray') -> str:
  return f'{x.shape[1]}x{x.shape[0]}'


def _key(seed: int, path: Path) -> 'jax.Array':
  """Returns the key of a picture: by its name, so that it does not depend on the other pictures of the folder."""
  return jax.random.fold_in(jax.random.key(seed), zlib.crc32(os.fsencode(path.stem)))


def shrink(key: 'jax.Array', hr: 'np.ndarray', scale: int, options: 'degrade.Options') -> 'np.ndarray':
  """Returns the LR picture of one HR picture of any size.

  Args:
    key: of all random numbers.
    hr: (h, w, 3) float32 in [0, 1], h and w multiples of `scale`.
    scale: HR pixels per LR pixel and axis.
    options: of the camera.

  Returns:
    (h // scale, w // scale, 3) float32.
  """
  h, w = hr.shape[:2]
  size = _canvas(h, scale), _canvas(w, scale)
  each = _BYTES[options.kind]
  memory.check(each * size[0] * size[1], f'a picture of {w} x {h} pixels', 'cut it into parts')
  canvas = np.zeros((1, *size, 3), np.float32)
  canvas[0, :h, :w] = hr
  lr = degrade.realesrgan(key, canvas, scale, options, (h, w))
  return np.asarray(lr[0, : h // scale, : w // scale])


def _canvas(side: int, scale: int) -> int:
  """Returns a side that serves many sizes, as each one takes a compilation: at most an eighth above `side`."""
  step = scale * 2 ** max(0, (side // scale).bit_length() - 4)
  return -(-side // step) * step


def _draw_sheet(args: argparse.Namespace) -> None:
  options = _options(args)
  path = Path(args.picture)
  hr = image.to_float(_read(path, args.scale))
  side = min(_SHOWN // args.scale, *(n // args.scale for n in hr.shape[:2]))  # in LR pixels
  top, left = ((n // args.scale - side) // 2 for n in hr.shape[:2])
  middle = [slice(args.scale * start, args.scale * (start + side)) for start in (top, left)]
  panels = [(f'HR\n{args.preset}, x{args.scale}', hr[tuple(middle)])]
  decide = jax.jit(lambda key: degrade.decisions(key, options, 1)[0])
  for number in range(args.draws):
    key = jax.random.fold_in(_key(args.seed, path), number)
    lr = shrink(key, hr, args.scale, options)[top : top + side, left : left + side]
    label = _label(decide(key)) if options.kind == 'second_order' else 'bicubic\n'
    panels.append((label, lr.repeat(args.scale, 0).repeat(args.scale, 1)))
    print(f'[{number + 1}/{args.draws}] {" ".join(label.split())}', flush=True)
  rows = [panels[start : start + _COLUMNS] for start in range(0, len(panels), _COLUMNS)]
  figures.compare_strip(args.sheet, [[(title, np.asarray(picture)) for title, picture in row] for row in rows])
  print(f'Written to {shown(args.sheet)}')


def _label(draws: 'degrade.Draws') -> str:
  """Returns the decisions that show most, one line for each stage."""
  lines = []
  for blur, resize, noise, quality in (
    (draws.blur1, draws.resize1, draws.noise1, draws.jpeg1),
    (draws.blur2 if draws.has_blur2 else None, draws.resize2, draws.noise2, draws.jpeg2),
  ):
    grain = f'n{float(noise.sigma[0]):.0f}' if noise.is_gaussian else f'p{float(noise.scale[0]):.1f}'
    parts = [_blur_label(blur), f'x{float(resize.factor):.2f}', grain, f'q{float(quality[0]):.0f}']
    lines.append(' '.join(filter(None, parts)))
  return '\n'.join(lines)


def _blur_label(blur: Any) -> str:
  if blur is None:
    return ''
  if blur.sinc[0]:
    return 'sinc'
  sigma = f'b{float(blur.sigma_x[0]):.1f}'
  return sigma if blur.family[0] % 2 == 0 else f'{sigma}/{float(blur.sigma_y[0]):.1f}'


if __name__ == '__main__':
  command.start(main)

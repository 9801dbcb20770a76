"""Enlarges pictures: photos in, photos out.

python -m adaptsr_jax.upscale --params=runs/camera/merged photo.jpg large.png
python -m adaptsr_jax.upscale --params=safmn.pth PHOTOS LARGE --format=png --skip_existing
python -m adaptsr_jax.upscale --params=safmn.pth --adapter=faithful.safetensors:0.6 --adapter=sharp.safetensors:0.4 \
  PHOTOS LARGE
python -m adaptsr_jax.upscale --params=safmn.pth --adapters=CAMERAS PHOTOS LARGE
"""

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from adaptsr_jax import command, files
from adaptsr_jax.errors import UserError, lacks_memory, shown

if TYPE_CHECKING:
  from adaptsr_jax import base as base_lib
  from adaptsr_jax.image import Picture
  from adaptsr_jax.tree import Params


class Job(NamedTuple):
  """One picture to enlarge."""

  source: Path
  target: Path


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m adaptsr_jax.upscale',
    usage='%(prog)s --params=X [options] IN ... OUT',
    description='Enlarges pictures. 16 bit, gray, transparency, colour profile and EXIF are kept.',
  )
  parser.add_argument('inputs', nargs='+', metavar='IN', help='pictures, or folders of pictures')
  parser.add_argument('output', metavar='OUT', help='a picture for a single picture, otherwise a folder')
  parser.add_argument('--params', required=True, metavar='X', help='params folder, .pth, .pt or .safetensors file')
  adapters = parser.add_mutually_exclusive_group()
  adapters.add_argument(
    '--adapter',
    action='append',
    default=[],
    metavar='FILE[:WEIGHT]',
    help='adapter file of these params, folded in while enlarging; repeatable, e.g. --adapter=A:0.6 --adapter=B:0.4',
  )
  adapters.add_argument(
    '--adapters',
    metavar='DIR',
    help='folder of adapter files of these params: of each picture that of its camera, by EXIF; else none',
  )
  parser.add_argument(
    '--key', metavar='NAME', help='which network of a file with several; as X::NAME (default: the averaged one)'
  )
  parser.add_argument('--fields', default='', help="what a checkpoint does not tell, e.g. 'res_scale=0.1'")
  parser.add_argument('--format', choices=('png', 'jpg', 'webp', 'tif'), help='of the results; default: as each input')
  parser.add_argument('--suffix', default='', help="added to the names in a folder, e.g. '_x4'")
  parser.add_argument('--tile', type=int, default=0, help='side of tiles in input pixels; 0: automatic; -1: no tiles')
  parser.add_argument(
    '--overlap', type=int, help='surroundings of a tile in input pixels (default 16; SwinIR and DRCT 32)'
  )
  parser.add_argument('--ensemble', action='store_true', help='average over the eight flips and turns: 8 times slower')
  parser.add_argument('--skip_existing', action='store_true', help='leave out pictures whose result is there')
  return parser


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns 0, 1 if some pictures failed, 2 if all did or it was called wrongly."""
  args = _parser().parse_intermixed_args(command.arguments(argv))
  return command.ended(lambda: _main(args), 'Stopped; with --skip_existing the same command goes on from here.')


def _main(args: argparse.Namespace) -> int:
  jobs, skipped = _jobs(args)
  for folder in {job.target.parent for job in jobs}:
    files.sweep(folder)
  enlarge, scale = _enlarger(args)
  if skipped:
    print(f'{skipped} pictures left out, their results are there.')
  failures = _run(jobs, enlarge, scale)
  for failure in failures:
    print(f'Failed: {failure}', file=sys.stderr)
  return 0 if not failures else 1 if len(failures) < len(jobs) else 2


def _jobs(args: argparse.Namespace) -> tuple[list[Job], int]:
  """Pairs the inputs with their results; refuses what would overwrite an input or write a result twice.

  Returns:
    What is to be done, and how many pictures are left out because their results exist.
  """
  from adaptsr_jax import image

  sources = _sources(args.inputs)
  output = Path(args.output)
  if output.suffix.lower() in image.SUFFIXES and not output.is_dir():
    if len(sources) > 1 or Path(args.inputs[0]).is_dir():
      raise UserError(f'{output} is one picture, but several are to be written: give a folder.')
    image.check_format(output, image.Picture(None))
    if args.format and not _same_format(output.suffix, args.format):
      raise UserError(f'{output} does not agree with --format={args.format}.')
    jobs = [Job(sources[0], output)]
  else:
    files.check_folder(output, image.WRITABLE, strict=len(sources) == 1 and not Path(args.inputs[0]).is_dir())
    jobs = [Job(source, output / _name(source, args)) for source in sources]
  _check_targets(jobs)
  left = [job for job in jobs if not (args.skip_existing and job.target.exists())]
  return left, len(jobs) - len(left)


def _sources(inputs: list[str]) -> list[Path]:
  from adaptsr_jax import image

  sources = []
  for path in map(Path, inputs):
    if not path.exists():
      raise UserError(f'{path} does not exist.')
    found = image.list_images(path) if path.is_dir() else [path]
    if not found:
      raise UserError(f'{image.no_pictures(path)}.')
    if path.is_dir():
      image.tell_unread(path)
    sources += found
  return sources


def _name(source: Path, args: argparse.Namespace) -> str:
  from adaptsr_jax import image

  kept = source.suffix if source.suffix.lower() in image.WRITABLE else '.png'
  return f'{source.stem}{args.suffix}{f".{args.format}" if args.format else kept}'


def _same_format(suffix: str, name: str) -> bool:
  """Tells whether a suffix stands for the format `name`."""
  return {'.jpeg': 'jpg', '.tiff': 'tif'}.get(suffix.lower(), suffix.lower()[1:]) == name


def _check_targets(jobs: list[Job]) -> None:
  # A link to nothing has no identity; it is named when its turn comes.
  inputs = {_identity(job.source): job.source for job in jobs if job.source.exists()}
  writers: dict[Path, Path] = {}
  for source, target in jobs:
    if target.exists() and _identity(target) in inputs:
      raise UserError(f'{target} would overwrite an input: choose another folder, or add to the names by --suffix=_x4.')
    if target in writers:
      raise UserError(f'{writers[target]} and {source} would both become {target}: enlarge them into two folders.')
    writers[target] = source


def _identity(path: Path) -> tuple[int, int]:
  """Tells files apart whatever they are called: links, letter case, relative paths."""
  status = path.stat()
  return status.st_dev, status.st_ino


def _enlarger(args: argparse.Namespace) -> tuple[Any, int]:
  """Loads the network; returns a function (picture, on_tile) -> (enlarged picture, what to say of it), its factor."""
  from adaptsr_jax import base, config, infer

  loaded = base.load(args.params, config.parse_fields(args.fields), args.key)
  for remark in base.remarks(loaded, '--fields='):
    print(remark)
  model = loaded.model()
  tile = args.tile
  if not model.tileable:
    note = f'{loaded.name} uses statistics of the whole picture'
    if tile:
      print(f'Note: {note}: tiles differ from it in tone. Without --tile pictures go through whole.')
    else:
      print(f'Note: {note}, so there are no tiles; if memory does not suffice, --tile gives a similar result.')
      tile = infer.WHOLE
  choose, params_of = _adapters(args, loaded)

  @functools.lru_cache(maxsize=2)
  def network(adapter: Any) -> infer.Network:
    return infer.network(model, params_of(adapter), tile, args.overlap, args.ensemble)

  def enlarge(picture: 'Picture', on_tile: Any) -> tuple['Picture', str]:
    adapter, said = choose(picture)
    rgb = network(adapter)(_bled(picture), on_tile=on_tile)
    return picture._replace(rgb=rgb, alpha=_enlarged_alpha(picture, model.upscale)), said

  network(None)  # what cannot be is said before any picture
  return enlarge, model.upscale


def _adapters(args: argparse.Namespace, loaded: 'base_lib.Base') -> tuple[Callable[..., Any], Callable[..., 'Params']]:
  """Returns what chooses an adapter, picture -> (name, what to say), and name -> parameters; None is no choice."""
  from adaptsr_jax import image
  from adaptsr_jax.adapters import cameras, operations

  if not args.adapters:
    params = operations.folded(loaded.params, args.adapter) if args.adapter else loaded.params
    return lambda _: (None, ''), lambda _: params
  found = operations.folder(args.adapters, loaded.params)
  known = {name: cameras.of(adapter.meta) for name, adapter in found.items()}
  return (
    lambda picture: cameras.choose(image.shot(picture.exif), known),
    lambda name: operations.apply(found[name], loaded.params) if name else loaded.params,
  )


def _bled(picture: 'Picture') -> Any:
  """Gives fully transparent pixels the colour of the nearest visible one, or edges would take on what is hidden."""
  if picture.alpha is None or picture.alpha.min() > 0 or picture.alpha.max() == 0:
    return picture.rgb
  from scipy import ndimage

  nearest = ndimage.distance_transform_edt(picture.alpha == 0, return_distances=False, return_indices=True)
  return picture.rgb[tuple(nearest)]


def _enlarged_alpha(picture: 'Picture', scale: int) -> Any:
  import numpy as np

  from adaptsr_jax import bicubic

  return None if picture.alpha is None else np.clip(bicubic.imresize(picture.alpha, scale), 0, 1)


def _run(jobs: list[Job], enlarge: Any, scale: int) -> list[str]:
  """Does all jobs; a picture that fails is left out. Returns why, one sentence for each failure."""
  from adaptsr_jax import image, infer, log

  failures = []
  with log.Work('Enlarging', len(jobs)) as work:
    for number, (source, target) in enumerate(jobs, 1):
      try:
        infer.check_memory(image.size(source), scale)
        said = _do(source, target, enlarge, lambda _, tiles: work.advance(1 / tiles))
        told = f'-> {shown(target)}{said and f", {said}"}'
      except Exception as error:
        if not isinstance(error, UserError | OSError) and not lacks_memory(error):
          raise
        failures.append(_sentence(source, error))
        told = 'FAILED'
      work.advance(number - work.done)
      log.say(f'[{number}/{len(jobs)}]  {work.state().partition("  ")[2] or "0:00 left"}  {shown(source)} {told}')
  log.say(f'{len(jobs) - len(failures)} of {len(jobs)} pictures enlarged in {work.elapsed()}.')
  return failures


def _do(source: Path, target: Path, enlarge: Any, on_tile: Any) -> str:
  """Enlarges one picture; returns what `enlarge` says of it."""
  from adaptsr_jax import image

  picture = image.read(source)
  image.check_format(target, picture)  # before the work, not after it
  large, said = enlarge(picture, on_tile)
  target.parent.mkdir(parents=True, exist_ok=True)
  image.write(target, large.rgb, large)
  return said


def _sentence(source: Path, error: BaseException) -> str:
  if lacks_memory(error) and not isinstance(error, UserError):
    return f'{source}: the result does not fit into the memory of this machine.'
  text = str(error)
  return text if str(source) in text else f'{source}: {text}'


if __name__ == '__main__':
  command.start(main)

"""Enlarges pictures: photos in, photos out.

python -m adaptsr_jax.upscale --params=runs/camera/merged photo.jpg large.png
python -m adaptsr_jax.upscale --params=safmn.pth PHOTOS LARGE --format=png --skip_existing
python -m adaptsr_jax.upscale --params=safmn.pth --adapter=faithful.safetensors:0.6 --adapter=sharp.safetensors:0.4 \
  PHOTOS LARGE
python -m adaptsr_jax.upscale --params=safmn.pth --adapters=CAMERAS PHOTOS LARGE
python -m adaptsr_jax.upscale --params=runs/camera/merged --guard=safmn.pth --sheet=sheet.png PHOTOS LARGE
python -m adaptsr_jax.upscale --params=runs/camera/merged clip.mp4 large.mp4
python -m adaptsr_jax.upscale --params=runs/camera/merged --watch INBOX LARGE
"""

import argparse
import contextlib
import functools
import sys
import time
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any, NamedTuple

from etils import epy

from adaptsr_jax import command, files, image, log, processes, tree, video
from adaptsr_jax.errors import UserError, escaped, lacks_memory, shown

with epy.lazy_imports():
  from adaptsr_jax import base, bicubic, config, figures, infer
  from adaptsr_jax.adapters import cameras, operations
  from adaptsr_jax.evaluate import guard

_FRAMES = 12  # of a video that are compared with the base, and shown on the contact sheet
_ON_SHEET, _SIDE = 60, 48  # pictures on a contact sheet, and the side of what it shows of each, in input pixels
_PAUSE = 1.0  # seconds between two looks at a folder that is watched


class Job(NamedTuple):
  """One picture or video to enlarge."""

  source: Path
  target: Path


class Enlarged(NamedTuple):
  """What came of a picture."""

  picture: image.Picture
  said: str = ''  # which adapter was chosen, and why
  warning: str = ''  # how it departs from the base; '' where it does not, or nobody asked


class Done(NamedTuple):
  """What came of all jobs."""

  failures: list[str]  # one sentence each
  warnings: list[str]
  panels: list[tuple[str, Any]] | None  # of the contact sheet; None where there is none


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m adaptsr_jax.upscale',
    usage='%(prog)s --params=X [options] IN ... OUT',
    description='Enlarges pictures and videos. 16 bit, gray, transparency, colour profile, EXIF and sound are kept.',
  )
  parser.add_argument('inputs', nargs='+', metavar='IN', help='pictures, folders of pictures, videos (by ffmpeg)')
  parser.add_argument('output', metavar='OUT', help='a picture for a picture, a video for a video, or a folder')
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
  command.add_flags(parser, 'key', 'fields')
  parser.add_argument('--format', choices=('png', 'jpg', 'webp', 'tif'), help='of the results; default: as each input')
  parser.add_argument('--suffix', default='', help="added to the names in a folder, e.g. '_x4'")
  parser.add_argument('--tile', type=int, default=0, help='side of tiles in input pixels; 0: automatic; -1: no tiles')
  parser.add_argument(
    '--overlap', type=int, help='surroundings of a tile in input pixels (default 16; SwinIR and DRCT 32)'
  )
  parser.add_argument('--ensemble', action='store_true', help='average over the eight flips and turns: 8 times slower')
  parser.add_argument('--skip_existing', action='store_true', help='leave out pictures whose result is there')
  parser.add_argument('--guard', metavar='BASE', help='warn of pictures whose level, ends or grid depart from BASE')
  parser.add_argument(
    '--sheet', metavar='FILE', help='draw a contact sheet: a part of each, by bicubic and as enlarged'
  )
  parser.add_argument('--watch', action='store_true', help='go on with what comes into the folders IN, until Ctrl-C')
  processes.add_arguments(parser)
  return parser


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns 0, 1 if some pictures failed, 2 if all did or it was called wrongly."""
  args = _parser().parse_intermixed_args(command.arguments(argv))
  return processes.ended(lambda: _main(args), 'Stopped; with --skip_existing the same command goes on from here.', args)


def _main(args: argparse.Namespace) -> int:
  if args.watch:
    _check_watched(args)
  if args.sheet:
    figures.check_path(args.sheet)
  if processes.count() > 1 and (args.watch or args.sheet):
    raise UserError('--watch and --sheet are of one process; leave them out, or the other processes.')
  # What is there already is seen by the first process before any writes.
  found, skipped = processes.decide(lambda: _swept(args))
  jobs = [Job(*map(Path, found[index])) for index in processes.share(len(found))]
  known = {job.source: _state(job.source) for job in jobs}
  enlarge, scale = _enlarger(args)
  if skipped:
    print(f'{skipped} pictures left out, their results are there.')
  done = Done([], [], [] if args.sheet else None)
  if jobs or not args.watch:
    _tell(_run(jobs, enlarge, scale, done), args)
  if args.watch:
    return _watch(args, known, enlarge, scale)
  failed = sum(processes.gathered(len(done.failures)))
  return 0 if not failed else 1 if failed < len(found) else 2


def _swept(args: argparse.Namespace) -> tuple[list[tuple[str, str]], int]:
  """As `_jobs`, with names for paths; the folders of the results are rid of what earlier writers have left."""
  jobs, skipped = _jobs(args)
  for folder in {job.target.parent for job in jobs}:
    files.sweep(folder)
  return [(str(source), str(target)) for source, target in jobs], skipped


def _tell(done: Done, args: argparse.Namespace) -> None:
  """Tells what failed and what departs from the base, and draws the contact sheet."""
  for kind, sentences in (('Failed', done.failures), ('Warning', done.warnings)):
    for sentence in sentences:
      print(f'{kind}: {sentence}', file=sys.stderr)
  if done.panels:
    row = 6  # panels, of three pictures
    figures.compare_strip(args.sheet, [done.panels[i : i + row] for i in range(0, len(done.panels), row)])
    print(args.sheet)


def _jobs(args: argparse.Namespace) -> tuple[list[Job], int]:
  """Pairs the inputs with their results; refuses what would overwrite an input or write a result twice.

  Returns:
    What is to be done, and how many pictures are left out because their results exist.
  """
  sources = _sources(args.inputs, args.watch)
  output = Path(args.output)
  if video.is_video(output) and not output.is_dir():
    if args.watch or len(sources) > 1 or not video.is_video(sources[0]):
      raise UserError(f'{output} is one video, and can be made of one video only: give a folder.')
    jobs = [Job(sources[0], output)]
  elif output.suffix.lower() in image.SUFFIXES and not output.is_dir():
    if args.watch or len(sources) > 1 or Path(args.inputs[0]).is_dir():
      raise UserError(f'{output} is one picture, but several are to be written: give a folder.')
    if video.is_video(sources[0]):
      raise UserError(f'{output} is a picture, and {sources[0]} a video: give a video, or a folder.')
    image.check_format(output, image.Picture(None))
    suffix = output.suffix.lower()
    if args.format and {'.jpeg': '.jpg', '.tiff': '.tif'}.get(suffix, suffix) != f'.{args.format}':
      raise UserError(f'{output} does not agree with --format={args.format}.')
    jobs = [Job(sources[0], output)]
  else:
    files.check_folder(output, image.WRITABLE, strict=len(sources) == 1 and not Path(args.inputs[0]).is_dir())
    jobs = [Job(source, output / _name(source, args)) for source in sources]
  _check_targets(jobs)
  left = [job for job in jobs if not (args.skip_existing and job.target.exists())]
  return left, len(jobs) - len(left)


def _sources(inputs: list[str], watched: bool) -> list[Path]:
  sources = []
  for path in map(Path, inputs):
    if not path.exists():
      raise UserError(f'{path} does not exist.')
    found = _watched(path) if watched else image.list_images(path) if path.is_dir() else [path]
    if not found and not watched:
      raise UserError(f'{image.no_pictures(path)}.')
    if path.is_dir() and not watched:
      image.tell_unread(path)
      if videos := _videos(path):
        print(f'Videos of a folder are enlarged where they are named: {shown(videos[0])}')
    sources += found
  return sources


def _name(source: Path, args: argparse.Namespace) -> str:
  if video.is_video(source):
    return f'{source.stem}{args.suffix}{source.suffix}'
  kept = source.suffix if source.suffix.lower() in image.WRITABLE else '.png'
  return f'{source.stem}{args.suffix}{f".{args.format}" if args.format else kept}'


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


def _enlarger(args: argparse.Namespace) -> tuple[Callable[..., Enlarged], int]:
  """Loads the network; returns a function (picture, on_tile, compared: by the guard) -> `Enlarged`, and its factor."""
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
  reference = _reference(args, model, tile)

  @functools.lru_cache(maxsize=2)
  def network(adapter: Any) -> infer.Network:
    return infer.network(model, params_of(adapter), tile, args.overlap, args.ensemble)

  def enlarge(picture: image.Picture, on_tile: Any, compared: bool = True) -> Enlarged:
    adapter, said = choose(picture)
    lr = infer.bled(picture.rgb, picture.alpha)
    rgb = network(adapter)(lr, on_tile=on_tile)
    warning = guard.warning(rgb, reference(lr), model.upscale) if reference and compared else ''
    alpha = infer.enlarged_alpha(picture.alpha, model.upscale)
    return Enlarged(picture._replace(rgb=rgb, alpha=alpha), said, warning)

  network(None)  # what cannot be is said before any picture
  return enlarge, model.upscale


def _reference(args: argparse.Namespace, model: Any, tile: int) -> Any:
  """Loads what --guard compares with; None where it is not asked for."""
  if not args.guard:
    return None
  loaded = base.load(args.guard)
  if loaded.model().upscale != model.upscale:
    raise UserError(f'{args.guard} enlarges by {loaded.model().upscale}, and {args.params} by {model.upscale}.')
  return infer.network(loaded.model(), loaded.params, tile, args.overlap, args.ensemble)


def _adapters(args: argparse.Namespace, loaded: 'base.Base') -> tuple[Callable[..., Any], Callable[..., tree.Params]]:
  """Returns what chooses an adapter, picture -> (name, what to say), and name -> parameters; None is no choice."""
  if not args.adapters:
    params = operations.folded(loaded.params, args.adapter) if args.adapter else loaded.params
    return lambda _: (None, ''), lambda _: params
  found = operations.folder(args.adapters, loaded.params)
  known = {name: cameras.of(adapter.meta) for name, adapter in found.items()}
  return (
    lambda picture: cameras.choose(image.shot(picture.exif), known),
    lambda name: operations.apply(found[name], loaded.params) if name else loaded.params,
  )


def _run(jobs: list[Job], enlarge: Callable[..., Enlarged], scale: int, done: Done) -> Done:
  """Does all jobs; what fails is left out. Returns `done`, with what came of them.

  While a picture is computed, the next one is read and the one before is written: in memory are at most these three.
  """

  def ended(number: int, job: Job, outcome: Callable[[], str]) -> None:
    try:
      said = outcome()
      told = f'-> {shown(job.target)}{said and f", {said}"}'
    except Exception as error:
      if not isinstance(error, UserError | OSError) and not lacks_memory(error):
        raise
      large = lacks_memory(error) and not isinstance(error, UserError)
      text = 'the result does not fit into the memory of this machine.' if large else command.sentence(error)
      done.failures.append(text if escaped(str(job.source)) in text else escaped(f'{job.source}: {text}'))
      told = 'FAILED'
    work.advance(number - work.done)
    log.say(f'[{number}/{len(jobs)}]  {work.state().partition("  ")[2] or "0:00 left"}  {shown(job.source)} {told}')

  with (
    log.Work('Enlarging', len(jobs)) as work,
    futures.ThreadPoolExecutor(1) as reader,
    futures.ThreadPoolExecutor(1) as writer,
  ):
    before = contextlib.ExitStack()  # the end of the picture that is being written
    upcoming = _begun(reader, jobs[:1])
    for number, job in enumerate(jobs, 1):
      picture, upcoming = upcoming, _begun(reader, jobs[number : number + 1])
      if picture is None:
        before.close()
        ended(number, job, lambda job=job: _do_video(job, enlarge, scale, work, done))
        continue
      outcome = _computed(picture, job, enlarge, scale, work, done, writer, before)
      before.close()
      before.callback(ended, number, job, outcome)
    before.close()
  what = 'videos' if jobs and all(video.is_video(job.source) for job in jobs) else 'pictures'
  log.say(f'{len(jobs) - len(done.failures)} of {len(jobs)} {what} enlarged in {work.elapsed()}.')
  return done


def _begun(reader: futures.Executor, jobs: list[Job]) -> futures.Future | None:
  """Begins to read the picture of the first job; None where there is none, or a video."""

  def read(job: Job) -> image.Picture:
    picture = image.read(job.source)
    image.check_format(job.target, picture)  # before the work, not after it
    return picture

  return reader.submit(read, jobs[0]) if jobs and not video.is_video(jobs[0].source) else None


def _computed(
  reading: futures.Future,
  job: Job,
  enlarge: Callable[..., Enlarged],
  scale: int,
  work: log.Work,
  done: Done,
  writer: futures.Executor,
  before: contextlib.ExitStack,
) -> Callable[[], str]:
  """Enlarges one picture, and begins to write it; returns what waits for that, and returns what is to be said of it.

  `before` is closed, which waits for the picture before, where the memory does not suffice for both.
  """

  def write(large: image.Picture) -> None:
    job.target.parent.mkdir(parents=True, exist_ok=True)
    image.write(job.target, large.rgb, large)

  try:
    picture = reading.result()
    size = picture.rgb.shape[:2]
    try:
      infer.check_memory(size, scale)
    except UserError:
      before.close()
      infer.check_memory(size, scale)
    large = enlarge(picture, lambda _, tiles: work.advance(1 / tiles))
    writing = writer.submit(write, large.picture)
  except Exception as error:
    failed: futures.Future = futures.Future()  # which tells when the turn of this picture comes
    failed.set_exception(error)
    return failed.result

  def outcome() -> str:
    writing.result()
    _note(done, job.source, job.source.name, picture.rgb, large)
    return large.said

  return outcome


def _do_video(job: Job, enlarge: Callable[..., Enlarged], scale: int, work: log.Work, done: Done) -> str:
  """Enlarges the frames of a video as they come, the sound beside them."""
  clip = video.probe(job.source)
  infer.check_memory(clip.size, scale)
  large, seen = Enlarged(image.Picture(None)), done._replace(warnings=[])
  job.target.parent.mkdir(parents=True, exist_ok=True)
  every, size = max(1, -(-clip.frames // _FRAMES)), tuple(scale * side for side in clip.size)
  with video.writer(job.target, clip, size) as write:
    for number, frame in enumerate(video.frames(clip)):
      lr, compared = image.to_float(frame), number % every == 0
      large = enlarge(image.Picture(lr), None, compared)
      write(image.to_levels(large.picture.rgb, clip.dtype))
      if compared:
        _note(seen, f'{job.source}, frame {number + 1}', f'{job.source.name} {number + 1}', lr, large)
      if number < clip.frames:
        work.title = f'Enlarging, frame {number + 1} of {clip.frames}'
        work.advance(1 / clip.frames)
    if large.picture.rgb is None:
      raise UserError(f'{job.source} holds no frame that can be decoded.')
  if seen.warnings:
    more = f' So do {len(seen.warnings) - 1} more of the frames that were compared.' if seen.warnings[1:] else ''
    done.warnings.append(seen.warnings[0] + more)
  return large.said


def _note(done: Done, where: object, name: str, lr: Any, large: Enlarged) -> None:
  """Keeps what is told of a picture at the end: how it departs from the base, and its place on the contact sheet."""
  if large.warning:
    done.warnings.append(f'{where}: {large.warning}.')
  if done.panels is not None and len(done.panels) < 2 * _ON_SHEET:
    rgb = large.picture.rgb
    scale = rgb.shape[0] // lr.shape[0]
    box, label = figures.busiest_box(lr, _SIDE), shown(name, 24)
    small = bicubic.imresize(lr[box.window()], scale)
    done.panels.extend([(f'{label}\nbicubic', small), (f'{label}\nenlarged', rgb[box.window(scale)])])


def _check_watched(args: argparse.Namespace) -> None:
  folders = [Path(path) for path in args.inputs]
  for folder in folders:
    if not folder.is_dir():
      raise UserError(f'{folder} is no folder, and --watch looks at folders.')
  if Path(args.output).resolve() in [folder.resolve() for folder in folders]:
    raise UserError(f'{args.output} is watched, so that its results would be enlarged again: give another folder.')
  if args.sheet:
    raise UserError('--sheet is drawn at the end, and --watch has none.')


def _watch(args: argparse.Namespace, known: dict[Path, Any], enlarge: Callable[..., Enlarged], scale: int) -> int:
  """Enlarges what comes into the folders, or changes there, once it stays as it is from one look to the next."""
  print(f'Watching {", ".join(map(shown, args.inputs))}; Ctrl-C ends.', flush=True)
  before: dict[Path, Any] = {}
  with contextlib.suppress(KeyboardInterrupt):
    while True:
      time.sleep(_PAUSE)
      now = {path: _state(path) for folder in args.inputs for path in _watched(folder)}
      come = [path for path, state in now.items() if state and state == before.get(path) != known.get(path)]
      before = now
      known |= {path: now[path] for path in come}
      jobs = [Job(path, Path(args.output) / _name(path, args)) for path in come]
      jobs = [job for job in jobs if not (args.skip_existing and job.target.exists())]
      try:
        _check_targets(jobs)
        if jobs:
          _tell(_run(jobs, enlarge, scale, Done([], [], None)), args)
      except UserError as error:
        print(f'Failed: {error}', file=sys.stderr)
  print('No longer watching.')
  return 0


def _watched(folder: str | Path) -> list[Path]:
  """Returns the pictures and videos of a folder that is watched: who puts a video there wants it enlarged."""
  return [*image.list_images(folder), *_videos(folder)]


def _videos(folder: str | Path) -> list[Path]:
  videos = [path for path in sorted(Path(folder).iterdir()) if video.is_video(path) and path.is_file()]
  return [path for path in videos if not path.name.startswith('.')]


def _state(path: Path) -> tuple[int, int] | None:
  """Returns what changes while a file is written; None of one that is gone, or still empty."""
  with contextlib.suppress(OSError):
    status = path.stat()
    return (status.st_size, status.st_mtime_ns) if status.st_size else None
  return None


if __name__ == '__main__':
  command.start(main)

"""Examines pairs of pictures for what harms training: wrong sizes, shifts, other light, blurred HR, duplicates.

python -m adaptsr_jax.doctor --lr=LR --hr=HR
python -m adaptsr_jax.doctor --lr=LR --hr=HR --fix=MENDED
"""

import argparse
from concurrent import futures
from pathlib import Path
from typing import Any

from etils import epy

from adaptsr_jax import command, files, log
from adaptsr_jax.errors import UserError, escaped, lacks_memory, shown

with epy.lazy_imports():
  from adaptsr_jax.doctor import duplicates, examine, findings, folders, mend, report

_THREADS = 2


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m adaptsr_jax.doctor',
    description=__doc__.split('\n')[0],
    epilog='Exit code: 0 fine, 1 warnings or faults were found, 2 it could not run.',
    allow_abbrev=False,
  )
  parser.add_argument('--lr', required=True, metavar='DIR', help='LR pictures')
  parser.add_argument('--hr', required=True, metavar='DIR', help='HR pictures')
  parser.add_argument('--scale', type=int, default=0, help='HR pixels per LR pixel; by default what most pairs have')
  parser.add_argument('--out', default='doctor', metavar='DIR', help='folder of doctor.json and worst.png')
  parser.add_argument('--notes', action='store_true', help='list notes too, not only warnings and faults')
  parser.add_argument(
    '--fix',
    default='',
    metavar='DIR',
    help='new folder for aligned copies of the pairs, without faults and duplicates',
  )
  parser.add_argument(
    '--fix_exposure', action='store_true', help='with --fix: give HR the light of LR where it differs'
  )
  return parser


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  args = _parser().parse_args(command.arguments(argv))
  return command.ended(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
  out, fixed = Path(args.out), Path(args.fix)
  for folder in (out, fixed):
    files.check_folder(folder)
  if args.scale < 0:
    raise UserError(f'--scale is {args.scale}, but HR is at least as large as LR: give 1 or more.')
  if args.fix_exposure and not args.fix:
    raise UserError('--fix_exposure changes copies only: give --fix=DIR too.')
  mend.check_folder(out, [args.lr, args.hr], '--out')
  if args.fix:
    mend.check_folder(fixed, [args.lr, args.hr], '--fix')
    if any(Path(given).resolve().is_relative_to(fixed.resolve()) for given in (args.lr, args.hr)):
      raise UserError(f'--fix={fixed} contains an input: give another folder.')
    if fixed.exists() and any(fixed.iterdir()):
      raise UserError(f'--fix={fixed} is not empty: give a new folder.')
  listing = folders.find(args.lr, args.hr, args.scale)
  found = [findings.Finding(path.name, 'file', findings.FAULT, text) for path, text in listing.faults.items()]
  measures, unreadable = _examine_all(listing)
  found += [findings.Finding(name, 'unreadable', findings.FAULT, text) for name, text in unreadable.items()]
  pairs = [pair for pair in listing.pairs if pair.name in measures]
  measured = [measures[pair.name] for pair in pairs]
  for pair, measure in zip(pairs, measured, strict=True):
    found += findings.judge(pair, measure, listing.scale)
  found += duplicates.find(pairs, measured) + duplicates.whose(pairs, measured)
  found = findings.order(found)

  out.mkdir(parents=True, exist_ok=True)
  files.write_json(out / 'doctor.json', report.content(listing.pairs, measures, found, listing.scale))
  (out / 'worst.png').unlink(missing_ok=True)  # of an earlier call
  drawn = report.sheet(out / 'worst.png', pairs, found, listing.scale)
  print('\n'.join([*report.lines(found, args.notes), *report.summary(found, measures, listing.scale)]))
  print(f'Written to {escaped(str(out))}: doctor.json{", worst.png" if drawn else ""}')
  if args.fix:
    done = mend.mend(fixed, pairs, measures, found, listing.scale, args.fix_exposure)
    print(_mended(fixed, done))
  return int(any(f.severity != findings.NOTE for f in found))


def _examine_all(listing: Any) -> tuple[dict[str, Any], dict[str, str]]:
  """Returns the measures of the pairs by name, and why others could not be decoded."""

  def work(pair: Any) -> Any:
    try:
      return examine.examine(pair, listing.scale)
    except Exception as error:
      if lacks_memory(error):
        return f'{pair.hr} does not fit into the memory of this machine.'
      if isinstance(error, UserError):
        return str(error)
      raise

  measures, faults = {}, {}
  threads = futures.ThreadPoolExecutor(_THREADS)
  try:
    results = zip(listing.pairs, threads.map(work, listing.pairs), strict=True)
    for pair, result in log.watched(results, 'Examining pairs', len(listing.pairs)):
      (faults if isinstance(result, str) else measures)[pair.name] = result
  finally:
    threads.shutdown(cancel_futures=True)
  return measures, faults


def _mended(folder: Path, done: dict[str, Any]) -> str:
  copied = sum('copied' in what for what in done['pairs'].values())
  lines = [
    f'Written to {escaped(str(folder))}: {len(done["pairs"])} pairs, {copied} unchanged, '
    f'{len(done["pairs"]) - copied} mended; {len(done["left_out"])} left out{":" if done["left_out"] else "."}'
  ]
  return '\n'.join(lines + [f'  {shown(name)}: {escaped(why)}' for name, why in done['left_out'].items()])


if __name__ == '__main__':
  command.start(main)

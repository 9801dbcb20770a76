"""Makes one page on finished runs: did the adaptation help, by how much, and what does it look like.

python -m adaptsr_jax.report runs/camera --out=report
python -m adaptsr_jax.report runs/camera runs/camera_full --out=report --metrics=lpips --metric_weights=weights
"""

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path

from adaptsr_jax import command, files
from adaptsr_jax.errors import UserError, shown


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m adaptsr_jax.report', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('runs', nargs='+', metavar='RUN', help='workdir of a finished run; the first is the reference')
  parser.add_argument(
    '--out', required=True, metavar='DIR', help='folder for report.html, report.md and their pictures'
  )
  command.add_flags(parser, 'metrics', 'metric_weights')
  parser.add_argument(
    '--pictures',
    type=int,
    default=5,
    metavar='N',
    help='how many of the best, and of the worst, are shown (default: 5)',
  )
  return parser


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  args = _parser().parse_args(command.arguments(argv))
  return command.ended(lambda: print(_run(args)))


def _run(args: argparse.Namespace) -> str:
  """Writes the report; returns what to print."""
  from absl import logging

  from adaptsr_jax import page
  from adaptsr_jax.report import content, gather, markdown, pictures

  logging.set_verbosity(logging.WARNING)  # orbax tells of every file it reads
  if args.pictures < 0:
    raise UserError(f'--pictures is {args.pictures}; it can be 0 or more.')
  with _readable():
    runs = gather.read(args.runs)
    systems = gather.systems(runs)
  asked, order = pictures.ask(args.metrics, args.metric_weights, systems)
  out = Path(args.out).absolute()
  files.check_folder(out)
  out.mkdir(parents=True, exist_ok=True)
  try:
    look, why_not = pictures.look(runs, systems, asked, order, args.pictures, out), ''
  except (UserError, OSError) as error:
    look, why_not = None, str(error)
    print(f'Without pictures: {error}')
  with _readable():
    report = content.compose(runs, systems, look, why_not, asked, out)
    files.write(out / 'report.md', markdown.render(report, out))
    html = page.render('report/report.html', script='report/report.js', title=report.title, report=report)
    files.write(out / 'report.html', html)
  said = [f'{judged.headline} {judged.says} {judged.detail}'.rstrip() for _, judged in report.verdicts]
  return '\n'.join([*said, f'{out / "report.html"}'])


@contextlib.contextmanager
def _readable() -> Iterator[None]:
  """Turns whatever values of other types in the files of runs set off into a UserError."""
  try:
    yield
  except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
    if isinstance(error, UserError):
      raise
    raise UserError(
      f'What runs have left cannot be read ({type(error).__name__}: {shown(error)}): results.json is damaged, or not '
      'of this package; start the run again, which writes it anew.'
    ) from error


if __name__ == '__main__':
  command.start(main)

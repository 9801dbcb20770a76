"""Lists published weights, or downloads them.

python -m adaptsr_jax.zoo
python -m adaptsr_jax.zoo swinir_light_x4 safmn_x4
"""

import argparse
import sys
from pathlib import Path

from adaptsr_jax import command, zoo
from adaptsr_jax.errors import UserError, escaped


def table() -> str:
  """Returns the list that the command prints: all names, and what is known of each."""
  rows = [('name', 'Set5 Y', 'licence', 'trained on', 'file')]
  rows += [_row(zoo.BUNDLED + name, zoo.ASSETS[name], _size(zoo.bundled(name))) for name in zoo.bundled_names()]
  for name, entry in zoo.ZOO.items():
    path = zoo.cache_folder() / entry.file
    state = f'cached, {_size(path)}' if path.is_file() else 'to download' if entry.url else f'by hand: {entry.page}'
    rows.append(_row(name, entry, state))
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = ['  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
  terms = [f'{licence}: {allowed}.' for licence, allowed in zoo.LICENCES.items()]
  return '\n'.join(
    [
      *lines,
      f'Set5 Y: published PSNR in dB. Cache: {zoo.cache_folder()} (set by ADAPTSR_JAX_CACHE).',
      'What may be done with them, in short (what counts is the licence; training pictures had terms of their own):',
      *terms,
    ]
  )


def _row(name: str, entry: zoo.Entry, state: str) -> tuple[str, ...]:
  return name, f'{entry.psnr:.2f}' if entry.psnr else '', entry.licence, entry.trained, state


def _size(path: Path) -> str:
  return f'{path.stat().st_size / 1e6:.1f} MB'


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog='python -m adaptsr_jax.zoo', description='Lists published weights, or downloads them to the cache.'
  )
  parser.add_argument('names', nargs='*', metavar='NAME', help='what to download; without: the list')
  args = parser.parse_args(command.arguments(argv))
  return command.ended(lambda: _fetch(args.names) if args.names else print(table()))


def _fetch(names: list[str]) -> int:
  failed = False
  for name in names:
    try:
      print(f'{name}: {escaped(str(zoo.fetch(name)))}')
    except UserError as error:
      print(f'Error: {error}', file=sys.stderr)
      failed = True
  return 2 if failed else 0


if __name__ == '__main__':
  command.start(main)

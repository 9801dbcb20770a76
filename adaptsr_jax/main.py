"""Adapts a super-resolution network to pairs of pictures.

python -m adaptsr_jax.main --config=configs/safmn.py --config.base=safmn.pth --workdir=runs/camera
"""

import os
import shlex
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from adaptsr_jax.config import RENAMED, renamed

_CONFIG = config_flags.DEFINE_config_file('config', None, 'File with get_config(); its fields are flags too.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run; a second start in it continues.')


def main(argv: list[str]) -> int:
  """Runs what the flags say; returns the exit code."""
  if len(argv) > 1:
    print(f'Unexpected argument {argv[1]!r}: fields are set as --config.name=value.', file=sys.stderr)
    return 2
  if _CONFIG.value.get('deterministic'):
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_gpu_deterministic_ops=true'
  logging.set_verbosity(logging.WARNING)  # orbax tells of every file it writes
  # After the flags: --help need not wait for jax, and XLA reads its own when it starts.
  from adaptsr_jax import adapt, show
  from adaptsr_jax.errors import UserError

  try:
    command = shlex.join(['python', '-m', 'adaptsr_jax.main', *sys.argv[1:]])
    results = adapt.run(_CONFIG.value, _WORKDIR.value, command)
    if results['steps']:
      print(show.next_commands(sys.argv[1:], results, _WORKDIR.value))
  except (UserError, OSError) as error:
    print(f'Error: {error}', file=sys.stderr)
    return 2
  except adapt.Interrupted as stop:
    print(stop)
    return 130
  except KeyboardInterrupt:
    print('Stopped; the same command continues from the last saved state, if there is one.', file=sys.stderr)
    return 130
  return 0


def parse(argv: list[str]) -> list[str]:
  """Returns what the flags leave of `argv`; ends the program with one sentence where they cannot be understood."""
  given = {flag.lstrip('-').partition('=')[0].removeprefix('config.') for flag in argv[1:]}
  try:
    for old in given & set(RENAMED):
      raise ValueError(renamed(old, RENAMED[old]))
    rest = flags.FLAGS(argv)
    _CONFIG.value.get('base')  # a file that cannot be loaded fails at its first use
    return rest
  except (AttributeError, KeyError) as error:
    inner = error
    while isinstance(inner, Exception):
      inner = inner.args[0]
    said = f'the config has no field {inner}'
  except (flags.Error, TypeError, ValueError, OSError) as error:
    said = str(error)
  print(f'Error: {" ".join(said.split())}', file=sys.stderr)
  sys.exit(2)


if __name__ == '__main__':
  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(main, flags_parser=parse)

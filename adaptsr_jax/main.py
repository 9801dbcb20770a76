"""Adapts a super-resolution network to pairs of pictures.

python -m adaptsr_jax.main --config=safmn --config.base=safmn.pth --workdir=runs/camera
"""

from adaptsr_jax import command

if __name__ == '__mp_main__':  # imported by a reader, long before it reads, and before anything that takes its time
  command.follow_parent()

import os
import re
import shlex
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from adaptsr_jax import processes
from adaptsr_jax.config import RENAMED, check_made, find, reason, renamed
from adaptsr_jax.errors import UserError, shown

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  None,
  'File with get_config(), or the name of one that comes with the package: safmn, edsr, swinir, drct, rrdb, srvgg, '
  'quickstart. Its fields are flags too, as --config.steps=300; adaptsr_jax/config.py tells them all.',
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run; a second start in it continues.')

# The same for all commands that several processes share; see `processes`.
flags.DEFINE_bool('distributed', False, processes.HELP['distributed'])
flags.DEFINE_string('coordinator', '', processes.HELP['coordinator'])
flags.DEFINE_integer('processes', 0, processes.HELP['processes'])
flags.DEFINE_integer('process', -1, processes.HELP['process'])


_SWEEP = flags.DEFINE_string(
  'sweep',
  None,
  'Runs for all combinations of some values, in folders of their own inside --workdir, and a table and a page of them: '
  "--sweep='lora.rank=4,8 optim.lr=1e-3,2e-3'.",
)


def main(argv: list[str]) -> int:
  """Runs what the flags say; returns the exit code."""
  if len(argv) > 1:
    print(f'Error: unexpected argument {shown(argv[1])!r}: fields are set as --config.name=value.', file=sys.stderr)
    return 2
  if _CONFIG.value.get('deterministic'):
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_gpu_deterministic_ops=true'
  devices = _CONFIG.value.get('devices', 0)
  if 1 < devices <= _CONFIG.value.get('batch_size', 0) and 'JAX_NUM_CPU_DEVICES' not in os.environ:
    import jax  # which has read its environment by now: the config has imported it

    jax.config.update('jax_num_cpu_devices', devices)  # of no meaning for GPUs
  logging.set_verbosity(logging.WARNING)  # orbax tells of every file it writes
  command.reuse_memory()

  def work() -> int:
    # After the flags: --help need not wait for jax, and XLA reads its own when it starts.
    from adaptsr_jax import adapt
    from adaptsr_jax.adapt import show

    call = shlex.join(['python', '-m', 'adaptsr_jax.main', *sys.argv[1:]])
    try:
      if _SWEEP.value is not None:
        return _sweep(_SWEEP.value, call)
      results = adapt.run(_CONFIG.value, _WORKDIR.value, call)
    except adapt.Interrupted as stop:
      print(stop)
      return command.INTERRUPTED
    if results['steps']:
      print(show.next_commands(sys.argv[1:], results, _WORKDIR.value))
    return 0

  stopped = 'Stopped; the same command continues from the last saved state, if there is one.'
  return processes.ended(work, stopped, flags.FLAGS)


def _sweep(text: str, call: str) -> int:
  """Does all runs and draws their page; returns the exit code: 1 where some of them failed."""
  from adaptsr_jax.adapt import sweep
  from adaptsr_jax.report.__main__ import main as report

  if processes.several(flags.FLAGS):
    raise UserError('--sweep is of one process: leave --distributed, --coordinator, --processes and --process out.')
  workdir = Path(_WORKDIR.value).expanduser()
  folders, failures = sweep.run(sweep.arms(text, _CONFIG.value), workdir, call)
  code = report([*map(str, folders), f'--out={workdir / "report"}'])
  return code or (1 if failures else 0)


def parse(argv: list[str]) -> list[str]:
  """Returns what the flags leave of `argv`; ends the program with one sentence where they cannot be understood."""
  given = {flag.lstrip('-').partition('=')[0].removeprefix('config.') for flag in argv[1:]}
  try:
    for old in given & set(RENAMED):
      raise ValueError(renamed(old, RENAMED[old]))
    rest = flags.FLAGS(_with_file(argv))
    check_made(_CONFIG.value)
    return rest
  except Exception as error:  # a config is a program, and can raise anything
    print(f'Error: {_reason(error, argv)}', file=sys.stderr)
    sys.exit(2)


def _reason(error: BaseException, argv: list[str]) -> str:
  """Returns why flags, or the file of the config, cannot be understood."""
  try:
    words = iter(_with_file(argv))
  except UserError:  # it is that which is to be told
    return str(error)
  files = (word.partition('=')[2] or next(words, '') for word in words if re.fullmatch('--?config(=.*)?', word))
  return reason(error, next(files, ''), argv)


def _with_file(argv: list[str]) -> list[str]:
  """Returns `argv` with the file of the config in place of its name."""
  found = list(argv)
  for place, word in enumerate(argv):
    flag, joined, name = word.partition('=')
    if flag in ('--config', '-config') and joined:
      found[place] = f'{flag}={find(name)}'
    elif flag in ('--config', '-config') and place + 1 < len(argv):
      found[place + 1] = find(argv[place + 1])
  return found


def _with_rate(argv: list[str]) -> list[str]:
  """Returns `argv` with --config.optim.lr=auto, which no field of numbers can be, spelled out."""
  auto = ['--config.optim.lr=0', '--config.optim.preset=auto']
  return [word for given in argv for word in (auto if given == '--config.optim.lr=auto' else [given])]


if __name__ == '__main__':
  flags.mark_flags_as_required(['config', 'workdir'])
  sys.argv[:] = _with_rate(sys.argv)  # where config flags look for the fields that are given
  command.start(lambda: app.run(main, flags_parser=parse))

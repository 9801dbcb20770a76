"""The processes of one command, on one host or many: who does what share, what all agree on, and how all of them end.

    processes.joined(work, ...)            # the same command in every process
    done = processes.decide(lambda: ...)     # what the first one finds, in all
    everything = processes.gathered(mine)    # what each has, in all

Computing together is jax's business. This is the little beside it, as JSON and bytes in the store of jax's coordination
service, never as pickles. A process that cannot go on says why, and all others end with that sentence; one that is gone
without a word is missed after some seconds. Without `joined` there is one process, and nothing of jax is imported.
"""

import argparse
import contextlib
import itertools
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

from adaptsr_jax import command
from adaptsr_jax.errors import UserError, first_line

_POLL = 1.0  # seconds between two looks at how the others are
_MISSED = 60.0  # seconds without a sign of life after which a process counts as gone
_MISSED_AT_ALARM = 5.0  # the same, where a program has failed that ran in all of them
_GOODBYE = 10.0  # seconds that the first process waits for the others to end
_ALIVE, _ENDED = 'adaptsr/alive', 'adaptsr/ended'  # in the store
_PIECE = 2**20  # bytes; messages of the store are small


class Group(NamedTuple):
  """The processes; `client` is that of jax's coordination service."""

  client: Any
  index: int
  count: int
  numbers: Iterator[int]  # of exchanges, the same in all processes


# The flags that say which processes there are.
HELP = {
  'distributed': 'The same command runs in several processes, as the cluster tells: Slurm, Open MPI, Kubernetes.',
  'coordinator': 'HOST:PORT, where no cluster tells: a free port of the host of process 0.',
  'processes': 'How many there are, where no cluster tells.',
  'process': 'Which of them this is, from 0, where no cluster tells.',
}
_group: Group | None = None
_alarm = threading.Event()


def count() -> int:
  """Returns how many processes there are."""
  return _group.count if _group else 1


def index() -> int:
  """Returns which of them this is."""
  return _group.index if _group else 0


def first() -> bool:
  """Tells whether this is the one that writes and speaks."""
  return index() == 0


def share(length: int) -> range:
  """Returns which of `length` things this process does."""
  return range(index(), length, count())


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags that say which processes there are."""
  group = parser.add_argument_group('several processes')
  group.add_argument('--distributed', action='store_true', help=HELP['distributed'])
  group.add_argument('--coordinator', default='', metavar='HOST:PORT', help=HELP['coordinator'])
  group.add_argument('--processes', type=int, default=0, metavar='N', help=HELP['processes'])
  group.add_argument('--process', type=int, default=-1, metavar='I', help=HELP['process'])


def several(args: Any) -> bool:
  """Tells whether `args` of `add_arguments`, or absl's flags of these names, ask for several processes."""
  return bool(args.distributed or args.coordinator or args.processes or args.process >= 0)


def ended(work: Callable[[], int | None], stopped: str, args: Any) -> int:
  """As `command.ended`, in as many processes as `args` say (see `several`)."""
  if several(args):
    joined(work, stopped, args.coordinator, args.processes, args.process)
  return command.ended(work, stopped)


def joined(
  work: Callable[[], int | None], stopped: str, coordinator: str = '', number: int = 0, which: int = -1
) -> NoReturn:
  """Does the work of a command as one of several processes, and ends this one when all are done or one cannot go on.

  Args:
    work: as of `command.ended`.
    stopped: the same.
    coordinator: HOST:PORT of the first process; empty: as the cluster tells.
    number: of processes; 0: as the cluster tells.
    which: of them this is; -1: as the cluster tells.
  """
  global _group
  said = ''

  def told() -> int | None:
    nonlocal said
    try:
      _connect(coordinator, number, which)
      return work()
    except BaseException as error:
      if _group and isinstance(error, RuntimeError):  # of a program in which another process is missing
        _alarm.set()
        time.sleep(2 * _MISSED_AT_ALARM)  # until `_watch` knows which
      said = stopped if isinstance(error, KeyboardInterrupt) else command.sentence(error)
      raise

  try:
    code = command.ended(told, stopped)
  except BaseException:
    traceback.print_exc()
    code = 1
  if not said and _group:
    gathered('done')  # the first may be writing what the others have nothing to do with
  _leave(code, said)


@contextlib.contextmanager
def alone() -> Iterator[None]:
  """In this block the process is the only one: what it does, the others neither do nor wait for."""
  global _group
  group, _group = _group, None
  try:
    yield
  finally:
    _group = group


def decide(find: Callable[[], Any]) -> Any:
  """Returns, in every process, what the first one finds, after a trip through JSON; the others do not look."""
  if count() == 1:
    return find()
  return json.loads(shared(json.dumps(find()).encode() if first() else b''))


def gathered(value: Any) -> list[Any]:
  """Returns, in every process, what each of them gives, in their order, after a trip through JSON."""
  if count() == 1:
    return [value]
  key = f'adaptsr/{next(_group.numbers)}'
  _put(f'{key}/{index()}', json.dumps(value).encode())
  return [json.loads(_got(f'{key}/{process}')) for process in range(count())]


def shared(data: bytes) -> bytes:
  """Returns, in every process, the `data` of the first."""
  if count() == 1:
    return data
  key = f'adaptsr/{next(_group.numbers)}'
  if first():
    _put(key, data)
    return data
  return _got(key)


def _put(key: str, data: bytes) -> None:
  pieces = [data[start : start + _PIECE] for start in range(0, len(data), _PIECE)]
  for number, piece in enumerate(pieces):
    _group.client.key_value_set_bytes(f'{key}/{number}', piece)
  _group.client.key_value_set_bytes(f'{key}/pieces', str(len(pieces)).encode())


def _got(key: str) -> bytes:
  pieces = int(_waited(f'{key}/pieces'))
  return b''.join(_waited(f'{key}/{number}') for number in range(pieces))


def _waited(key: str) -> bytes:
  # However long: a process that is gone is noticed by `_watch`.
  while True:
    try:
      return _group.client.blocking_key_value_get_bytes(key, 10_000)
    except RuntimeError as error:
      if 'DEADLINE_EXCEEDED' not in str(error):
        raise


def _connect(coordinator: str, number: int, which: int) -> None:
  global _group
  import jax
  from jax._src import distributed  # the store has no public name

  flags = {'--coordinator': coordinator, '--processes': number, '--process': which >= 0}
  missing = [flag for flag, given in flags.items() if not given]
  if 0 < len(missing) < 3:
    raise UserError(f'{" and ".join(missing)} must be given too, or none of the three where a cluster tells them.')
  if not missing and not which < number:
    raise UserError(f'--process is {which}; {number} processes are 0 to {number - 1}.')
  jax.config.update('jax_enable_recoverability', True)  # else jax ends the others of a lost process by aborting them
  try:
    jax.distributed.initialize(coordinator or None, number or None, which if which >= 0 else None)
  except (RuntimeError, ValueError, TypeError, IndexError, KeyError, OSError) as error:
    raise UserError(
      f'The processes do not find each other at {coordinator} ({first_line(error)}).'
      if coordinator
      else 'There is no cluster that tells its processes (Slurm, Open MPI, Kubernetes): give --coordinator=HOST:PORT, '
      '--processes and --process.'
    ) from error
  state = distributed.global_state
  _group = Group(state.client, state.process_id, state.num_processes, itertools.count())
  if not first():
    sys.stdout = open(os.devnull, 'w')  # noqa: SIM115
  threading.Thread(target=_watch, args=(_group,), daemon=True, name='other-processes').start()


def _watch(group: Group) -> None:
  """Ends this process once another says that it cannot go on, or is gone."""
  heard = dict.fromkeys(range(group.count), ('', time.monotonic()))
  while True:
    _alarm.wait(_POLL) and time.sleep(_POLL)
    try:
      group.client.key_value_set(f'{_ALIVE}/{group.index}', str(time.time()), allow_overwrite=True)
      ended, alive = (dict(group.client.key_value_dir_get(folder)) for folder in (_ENDED, _ALIVE))
    except RuntimeError:  # the store is in the first process
      _end(2, f'Process 0 of {group.count} is gone without a word.')
    now, patience = time.monotonic(), _MISSED_AT_ALARM if _alarm.is_set() else _MISSED
    for process in set(range(group.count)) - {group.index}:
      if f'{_ENDED}/{process}' in ended:
        code, said = json.loads(ended[f'{_ENDED}/{process}'])
        if said:
          _end(code, f'Process {process} of {group.count} has ended: {said}')
        return  # all is done
      sign = alive.get(f'{_ALIVE}/{process}', '')
      if sign != heard[process][0]:
        heard[process] = sign, now
      elif now - heard[process][1] > patience:
        _end(2, f'Process {process} of {group.count} is gone without a word.')


def _end(code: int, sentence: str) -> NoReturn:
  print(f'{sentence} All end with it.', file=sys.stderr, flush=True)
  _leave(code, sentence)


def _leave(code: int, said: str) -> NoReturn:
  """Ends this process once the others can know why, or that it is done."""
  sys.stdout.flush()
  sys.stderr.flush()
  if _group:
    with contextlib.suppress(RuntimeError):  # of the store, where the first process is gone
      _group.client.key_value_set(f'{_ENDED}/{index()}', json.dumps([code, said]), allow_overwrite=True)
      deadline = time.monotonic() + _GOODBYE
      # The store ends with the first process.
      while first() and time.monotonic() < deadline and len(_group.client.key_value_dir_get(_ENDED)) < count():
        time.sleep(0.05)
  os._exit(code)

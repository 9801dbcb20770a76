"""The rule that holds for every command whatever it is given.

It ends with code 0 and the right result, or with code 2 and one sentence (1 where it is about some of many pictures):
no traceback, no half-written file, nothing executed, no control character, and no line that a name has forged.
"""

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from adaptsr_jax import command

LONGEST = 3000  # characters of a sentence
FORGED = 'forged'  # what names put behind a line end


class Said(NamedTuple):
  """How a command ended, and what it said."""

  code: int
  out: str
  err: str


def run(
  main: Callable[..., int | None],
  argv: Sequence[str] | None = None,
  codes: Sequence[int] = (0, 2),
  longest: float = LONGEST,
) -> Said:
  """Runs a command as `command.start` does, in this process; checks the rule, as far as what it says tells.

  Args:
    main: of the command; without `argv` some work that is done as that of a command.
    argv: its arguments.
    codes: with which it may end.
    longest: line that it may print; JSON holds values whole.

  Raises:
    AssertionError: the rule does not hold. What else the command raises goes on: it would be a traceback.
  """
  streams = [io.TextIOWrapper(io.BytesIO(), 'utf-8') for _ in range(2)]
  steady = [command._Steady(stream) for stream in streams]
  with contextlib.redirect_stdout(steady[0]), contextlib.redirect_stderr(steady[1]):
    try:
      code = command.ended(main) if argv is None else main([str(word) for word in argv])
    except SystemExit as end:  # of argparse
      code = end.code
  for stream in streams:
    stream.flush()
  for stream in steady:
    stream.close()
  out, err = (stream.buffer.getvalue().decode('utf-8') for stream in streams)
  said = Said(code or 0, out, err)
  check(said, codes, longest)
  return said


def check(said: Said, codes: Sequence[int], longest: float) -> None:
  """Raises AssertionError where what a command said breaks the rule."""
  assert said.code in codes, said
  assert 'Traceback' not in said.out + said.err, said
  lines = (said.out + said.err).splitlines()
  assert all(line.replace('\t', ' ').isprintable() for line in lines), said
  assert not any(line.startswith(FORGED) for line in lines), said
  assert max(map(len, lines), default=0) < longest, said
  if said.code == 2 and not said.err.startswith('usage: '):
    faults = said.err.count('\nError: ') + said.err.startswith('Error: ') + said.err.startswith('Failed: ')
    assert faults == 1, said
    assert said.err.endswith('\n'), said


def content(folder: Path) -> dict[str, bytes | None]:
  """Returns path -> bytes of all that is in a folder; None of what is no plain file."""
  return {
    str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob('*'))
  }


def check_whole(folder: Path) -> None:
  """Raises AssertionError where something half-written is left in a folder."""
  half = [str(path) for path in folder.rglob('*') if path.name.endswith('.part') or 'checkpoint-tmp' in path.name]
  assert not half, half


def keep_memory(gigabytes: int) -> None:
  """Makes allocations beyond all bounds fail in this process, in place of taking the machine's memory."""
  with contextlib.suppress(ImportError):
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (gigabytes << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))


def short(error: BaseException) -> str:
  """Returns an error in a line for the log of a loop."""
  return f'{type(error).__name__}: {json.dumps(str(error)[:1500])}'

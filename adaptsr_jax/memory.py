"""The memory that is left, asked for before it is taken: a system that runs out of it may end the process unheard."""

import contextlib
import os
import sys
from pathlib import Path

from adaptsr_jax.errors import UserError

try:
  import resource
except ImportError:  # on Windows
  resource = None

_SMALL = 2**27  # bytes that nobody need ask for
_GB = 10**9
_CGROUP = Path('/sys/fs/cgroup')


def check(needs: float, what: str, advice: str = '') -> None:
  """Raises UserError where `needs` bytes are not free: '`what` needs about N GB of memory, and M GB are free'."""
  if needs < _SMALL:
    return
  free = available()
  if free is not None and needs > free:
    end = f'; {advice}' if advice else ''
    raise UserError(f'{what} needs about {needs / _GB:.1f} GB of memory, and {free / _GB:.1f} GB are free{end}.')


def available() -> int | None:
  """Returns how many bytes this process can still take by the machine, its control group and its own limit.

  None: the system does not tell.
  """
  known = []
  with contextlib.suppress(OSError, ValueError, IndexError):
    lines = dict(line.split(':') for line in Path('/proc/meminfo').read_text().splitlines())
    known.append(1024 * int(lines['MemAvailable'].split()[0]))
  with contextlib.suppress(OSError, ValueError, KeyError):
    most, taken = (int((_CGROUP / f'memory.{name}').read_text()) for name in ('max', 'current'))
    counts = dict(line.split() for line in (_CGROUP / 'memory.stat').read_text().splitlines())
    known.append(most - taken + int(counts['inactive_file']))  # which is given back when there is need
  with contextlib.suppress(OSError, ValueError, AttributeError):
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    pages = int(Path('/proc/self/statm').read_text().split()[0])
    if limit != resource.RLIM_INFINITY:
      known.append(limit - pages * os.sysconf('SC_PAGE_SIZE'))
  return max(0, min(known)) if known else None


def peak() -> int | None:
  """Returns the most bytes that this process has held so far; None where the system does not tell."""
  if resource is None:
    return None
  most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return most if sys.platform == 'darwin' else 1024 * most

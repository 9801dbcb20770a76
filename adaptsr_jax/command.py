"""How every command begins and ends: what is written to the terminal never stops the work, Ctrl-C ends in one line and
code 130, and what a user can mend in one sentence and code 2."""

import argparse
import contextlib
import ctypes
import errno
import io
import logging
import multiprocessing
import os
import platform
import re
import signal
import sys
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, NoReturn, TextIO

from adaptsr_jax import files
from adaptsr_jax.errors import UserError, escaped, lacks_memory

INTERRUPTED = 130
STOPPED = 'Stopped; what was saved is whole.'
_PROGRAMS = 2**30  # bytes of compiled programs that are kept
# Where a path may begin in an argument: --lr=~/LR, --params=ours=~/runs/a, ~/photo.jpg.
_HOME = re.compile(r'(?:^|(?<==))~[^/=]*(?=/|$)')


def _words(text: str) -> list[str]:
  return [word.strip() for word in text.split(',') if word.strip()]


# Flags that several commands have, and mean the same by.
_FLAGS: dict[str, dict[str, Any]] = {
  'lr': {'default': '', 'metavar': 'DIR', 'help': 'LR pictures; without: HR shrunk by the bicubic kernel'},
  'hr': {'default': '', 'metavar': 'DIR', 'help': 'HR pictures'},
  'root': {'default': '', 'metavar': 'DIR', 'help': 'instead of --lr and --hr: a data set as it is distributed'},
  'track': {'default': '', 'help': "of --root where it has several, e.g. 'unknown' of DIV2K"},
  'names': {'default': '', 'help': "only these pictures: 'a,b,c' or a text file with one name a line"},
  'skip_names': {'default': '', 'metavar': 'NAMES', 'help': 'leave these out'},
  'key': {'metavar': 'NAME', 'help': 'which network of a file with several; as FILE::NAME (default: the averaged one)'},
  'fields': {'default': '', 'help': "what a checkpoint does not tell, e.g. 'res_scale=0.1'"},
  'metrics': {
    'type': _words,
    'default': 'psnr,ssim',
    'help': 'of psnr, ssim, lpips, dists, niqe (default %(default)s)',
  },
  'metric_weights': {
    'default': '',
    'metavar': 'DIR',
    'help': 'weights of lpips, dists, niqe; default: downloaded once',
  },
}


def add_flags(parser: argparse.ArgumentParser, *names: str, **changes: Any) -> None:
  """Adds flags that several commands have; `changes` of what argparse is told hold for each of them."""
  for name in names:
    parser.add_argument(f'--{name}', **{**_FLAGS[name], **changes})


_stderr = 2  # its descriptor
_last_word, _said = threading.Lock(), threading.Event()  # that the program stops is said in one line, whoever says it


def start(main: Callable[[], int | None]) -> NoReturn:
  """Runs `main` as the program that this process is, and ends the process.

  Output goes on into nothing once nobody reads it, and what a terminal cannot show is escaped. The first Ctrl-C raises
  KeyboardInterrupt as always; the second ends the process at once, whatever it is doing.
  """
  _open_descriptors()
  sys.stdout, sys.stderr = _Steady(sys.stdout), _Steady(_apart(sys.stderr))
  _end_at_second_interrupt()
  sys.argv[1:] = arguments()  # config_flags looks there too
  _hush()
  keep_programs()
  # multiprocessing's cleaner, a process of its own, would complain of what is left after the second Ctrl-C.
  sys.warnoptions.append('ignore:resource_tracker')
  try:
    code = ended(main)
  except SystemExit as end:  # of argparse and absl
    code = end.code
  sys.stdout.flush()
  sys.stderr.flush()
  if code == INTERRUPTED:
    os._exit(code)  # threads and processes that are at work are not waited for
  sys.exit(code)


def keep_programs() -> None:
  """Lets jax keep compiled programs for the next command, unless its own variable tells where, or not to.

  ADAPTSR_JAX_COMPILED is 'off', or the folder for them. Those of different processors lie apart: programs for a CPU are
  made for the instructions that it has.
  """
  given = os.environ.get('ADAPTSR_JAX_COMPILED', '')
  if 'JAX_COMPILATION_CACHE_DIR' in os.environ or given == 'off':
    return
  parent = Path(given).expanduser().absolute() if given else files.cache_folder() / 'programs'
  folder = parent / f'{zlib.crc32(_processor().encode()):08x}'
  settings = {'jax_compilation_cache_dir': str(folder), 'jax_persistent_cache_min_compile_time_secs': 0.5}
  for name, value in settings.items():
    os.environ.setdefault(name.upper(), str(value))
    if 'jax' in sys.modules:  # it has read its variables
      sys.modules['jax'].config.update(name, value)
  _prune(parent, _PROGRAMS)


def _prune(folder: Path, most: int) -> None:
  """Deletes the files below `folder` that were not used for longest, until they have no more than `most` bytes.

  Not by jax's own limit, which needs another package for its locks. A program that is missed is compiled again.
  """
  found = []
  for path in folder.glob('*/*'):
    with contextlib.suppress(OSError):  # another command may be doing the same
      status = path.stat()
      found.append((max(status.st_atime, status.st_mtime), status.st_size, path))
  excess = sum(size for _, size, _ in found) - most
  for _, size, path in sorted(found):
    if excess <= 0:
      return
    with contextlib.suppress(OSError):
      path.unlink()
    excess -= size


def reuse_memory() -> None:
  """Lets the C library keep memory that is freed, for programs that ask for the same again and again.

  A training step needs hundreds of megabytes for a moment. Returned to the system and asked for anew every time, they
  took an eighth of its CPU time. Call it before there are threads. What a user set by variables MALLOC_... stays, and
  other C libraries than glibc do.
  """
  if any(name.startswith('MALLOC_') for name in os.environ):
    return
  trim_threshold, mmap_max, arena_max = -1, -4, -8  # as malloc.h numbers them
  with contextlib.suppress(AttributeError, OSError, TypeError):
    mallopt = ctypes.CDLL(None).mallopt
    for option, value in ((arena_max, 1), (mmap_max, 0), (trim_threshold, -1)):
      mallopt(option, value)


def _processor() -> str:
  with contextlib.suppress(OSError, StopIteration), open('/proc/cpuinfo', encoding='utf-8') as lines:
    return next(line for line in lines if line.startswith(('flags', 'Features')))
  return platform.processor()


def ended(work: Callable[[], int | None], stopped: str = STOPPED) -> int:
  """Does the work of a command; returns its exit code: that of `work` (None: 0), 2 after an error, 130 after Ctrl-C.

  Args:
    work: may raise UserError and OSError, which end in one sentence on stderr.
    stopped: what is said after Ctrl-C.
  """
  try:
    return work() or 0
  except KeyboardInterrupt:
    with _last_word:
      _said.set()
      print(f'\n{stopped}' if sys.stderr.isatty() else stopped, file=sys.stderr, flush=True)
    return INTERRUPTED
  except Exception as error:
    if not isinstance(error, UserError | OSError) and not lacks_memory(error):
      raise
    print(f'Error: {sentence(error)}', file=sys.stderr)
    return 2


def sentence(error: BaseException) -> str:
  """Returns an error as one sentence for the user, without control characters."""
  if lacks_memory(error) and not isinstance(error, UserError):
    return 'The memory of this machine does not suffice.'
  if not isinstance(error, OSError) or not error.strerror:
    return str(error) if isinstance(error, UserError) else escaped(str(error))
  where = escaped(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else ''
  if files.is_full(error):
    return f'No space left{f" to write {where}" if where else ""}; make room, or write elsewhere.'
  reason = error.strerror[0].lower() + error.strerror[1:]
  return f'{where} cannot be used: {reason}.' if where else f'{escaped(error.strerror)}.'


def at_once(line: bytes) -> None:
  """Writes to stderr past all that may hold a line back, or be interrupted itself."""
  os.write(_stderr, line)


def follow_parent() -> None:
  """Makes this process, started by another, leave Ctrl-C and all words to that one, and end as soon as it is gone."""
  _hush()
  with contextlib.suppress(ValueError):  # only the main thread may say so
    signal.signal(signal.SIGINT, signal.SIG_IGN)
  parent = multiprocessing.parent_process()

  def watch() -> None:
    parent.join()
    os._exit(1)

  if parent is not None:
    threading.Thread(target=watch, daemon=True, name='follow-parent').start()


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
  """Processes that are started meanwhile never hear of Ctrl-C, from their first moment on."""
  resource_tracker.ensure_running()  # to be started by the first of them, it would let the signal through again
  before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def arguments(argv: Sequence[str] | None = None) -> list[str]:
  """Returns the arguments of a command (by default of this process) with ~ written out wherever a path may begin."""
  given = sys.argv[1:] if argv is None else argv
  return [_HOME.sub(lambda match: os.path.expanduser(match[0]), argument) for argument in given]


def _hush() -> None:
  """Keeps what libraries log and warn of to themselves: what went wrong is told by the error that ends the command."""
  logging.disable(logging.CRITICAL)
  os.environ.setdefault('OPENCV_LOG_LEVEL', 'SILENT')  # read when it is imported
  if not sys.warnoptions:
    warnings.simplefilter('ignore')

  def of_main(hook: Callable[..., Any]) -> Callable[..., None]:
    # Of other threads come callbacks that were too late.
    return lambda *error: hook(*error) if threading.current_thread() is threading.main_thread() else None

  sys.excepthook, sys.unraisablehook = of_main(sys.excepthook), of_main(sys.unraisablehook)


def _end_at_once() -> NoReturn:
  with _last_word:
    if not _said.is_set():
      at_once(b'Stopped at once; what was saved is whole.\n')
    os._exit(INTERRUPTED)


def _open_descriptors() -> None:
  """Opens what was closed among stdin, stdout and stderr: files would take their numbers, and be written to."""
  for descriptor, name in enumerate(('stdin', 'stdout', 'stderr')):
    try:
      os.fstat(descriptor)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if getattr(sys, name) is None:
      setattr(sys, name, open(os.devnull, 'w' if descriptor else 'r'))  # noqa: SIM115


def _apart(stream: TextIO) -> TextIO:
  """Returns stderr behind a descriptor of its own: number 2 leads nowhere while pictures are decoded (`image`)."""
  global _stderr
  _stderr = os.dup(2)
  return open(_stderr, 'w', buffering=1, encoding=stream.encoding)


class _Steady(io.TextIOBase):
  """A text stream that never fails: text that it cannot take is escaped, and what nobody reads is dropped."""

  def __init__(self, stream: TextIO):
    self._stream = stream
    if hasattr(stream, 'reconfigure'):
      stream.reconfigure(errors='backslashreplace')
    # A line that is written again and again begins and ends with these; nowhere else may they come from us.
    self._kept = '\n\t\r\x1b' if stream.isatty() else '\n\t'

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)

  @property
  def encoding(self) -> str:
    return self._stream.encoding

  @property
  def errors(self) -> str:
    return self._stream.errors

  def isatty(self) -> bool:
    return self._stream.isatty()

  def fileno(self) -> int:
    return self._stream.fileno()

  def writable(self) -> bool:
    return True

  def write(self, text: str) -> int:
    with self._dropping():
      self._stream.write(escaped(text, keep=self._kept))
    return len(text)

  def flush(self) -> None:
    with self._dropping():
      self._stream.flush()

  @contextlib.contextmanager
  def _dropping(self) -> Iterator[None]:
    try:
      yield
    except (OSError, ValueError) as error:
      # What is still held back would fail again at the end of the program.
      with contextlib.suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self._stream.fileno())
        os.close(nothing)
      if getattr(error, 'errno', None) != errno.EPIPE and self is not sys.stderr:
        print(f'What goes to stdout is lost from here on ({error}); the work goes on.', file=sys.stderr)


def _end_at_second_interrupt() -> None:
  """Watches for Ctrl-C in a thread: the main one may be deep in compiled code, or in what it does after the first."""
  try:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  except ValueError:  # not in the main thread: whoever runs us there handles signals
    return

  def watch() -> None:
    count = 0
    while number := os.read(reader, 1):
      count += number[0] == signal.SIGINT
      if count == 2:
        _end_at_once()

  def swallowed(ignored: Any) -> None:
    if issubclass(ignored.exc_type, KeyboardInterrupt):  # it came up in a callback, whose caller goes on without it
      _end_at_once()
    told(ignored)

  told, sys.unraisablehook = sys.unraisablehook, swallowed
  threading.Thread(target=watch, daemon=True, name='second-interrupt').start()

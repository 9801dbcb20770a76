"""Files and folders that appear whole or not at all: written aside under a short name, then put in place at once.

What is aside is created exclusively, so nothing is ever written through a link that lies there already, and locked for
as long as it is written: what a killed process has left is told by its missing lock, and swept up by the next writer.
"""

import contextlib
import errno
import hashlib
import json
import math
import mimetypes
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from adaptsr_jax.errors import UserError

try:
  import fcntl
  import resource
except ImportError:  # on Windows
  fcntl = resource = None

_PREFIX, _SUFFIX = '.adaptsr-', '.part'
# No room on the disk, no room in the user's share of it, a file larger than files may be.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MB = 10**6
# Endings of files beyond those that the standard library knows.
_ENDINGS = frozenset({
  '.avif', '.bin', '.ckpt', '.dng', '.exr', '.heic', '.heif', '.jfif', '.jxl', '.npy', '.npz', '.onnx', '.pb', '.pkl',
  '.psd', '.pt', '.pth', '.raw', '.safetensors', '.tga', '.toml', '.webp', '.yaml', '.yml',
})  # fmt: skip
_swept: set[Path] = set()


def cache_folder() -> Path:
  """Returns the folder of downloaded weights and compiled programs; it need not exist yet."""
  return Path(os.environ.get('ADAPTSR_JAX_CACHE') or '~/.cache/adaptsr_jax').expanduser().absolute()


def write(path: str | os.PathLike, content: bytes | str) -> None:
  """Writes a file; text in UTF-8.

  Raises:
    UserError: no room for it; nothing is changed.
  """
  path = Path(path)
  data = content.encode(errors='backslashreplace') if isinstance(content, str) else content
  with aside(path, len(data)) as temporary, open(temporary, 'r+b') as file:
    file.write(data)


def write_json(path: str | os.PathLike, content: Any) -> None:
  """Writes `content` as JSON, aside first, so that a reader never sees half a file.

  Numbers that are not finite become null: JSON has no word for them.
  """
  Path(path).parent.mkdir(parents=True, exist_ok=True)
  write(path, json.dumps(finite(content), indent=1, allow_nan=False) + '\n')


def finite(content: Any) -> Any:
  """Returns `content` with None for numbers that are not finite, for which JSON has no word; tuples become lists."""
  if isinstance(content, dict):
    return {key: finite(value) for key, value in content.items()}
  if isinstance(content, list | tuple):
    return [finite(value) for value in content]
  return None if isinstance(content, float) and not math.isfinite(content) else content


def json_digest(content: Any) -> str:
  """Returns the SHA-256 of what JSON keeps of `content`, whatever the order of its keys, in hexadecimal digits."""
  return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sha256(path: str | os.PathLike) -> str:
  """Returns the SHA-256 of a file, in hexadecimal digits."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def read_json(path: str | os.PathLike) -> Any:
  """Reads what `write_json` wrote; UserError where it is no JSON, or no file: a pipe would be waited for for ever."""
  path = Path(path)
  if path.exists() and not path.is_file():
    raise UserError(f'{path} is no file.')
  try:
    return json.loads(path.read_bytes())
  except (ValueError, RecursionError) as error:
    raise UserError(f'{path} is not valid JSON ({error}).') from error


@contextlib.contextmanager
def aside(path: str | os.PathLike, needs: int = 0) -> Iterator[Path]:
  """Yields an empty file beside `path` that takes its place when the block ends, and is gone where the block fails.

  Args:
    path: of the file; any name that the file system takes, as the one aside is short.
    needs: what it is going to take (bytes), as far as known.

  Raises:
    UserError: no room for it; nothing is changed.
  """
  path = Path(path)
  if path.exists() and not (path.is_file() or path.is_dir()):
    raise UserError(f'{path} is a device or a pipe; give the name of a file.')
  with _locked(path, needs, _new_file) as temporary:
    if resource and needs > resource.getrlimit(resource.RLIMIT_FSIZE)[0] >= 0:
      raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    yield temporary
    os.replace(temporary, path)


@contextlib.contextmanager
def aside_folder(path: str | os.PathLike, needs: int = 0) -> Iterator[Path]:
  """As `aside`, for a folder; what is at `path` is replaced whole, and so must be nothing else than its elder."""
  path = Path(path)
  with _locked(path, needs, Path.mkdir) as temporary:
    yield temporary
    if path.is_dir() and not path.is_symlink():
      old = _name(path)
      path.rename(old)
      try:
        temporary.rename(path)
      except OSError:
        old.rename(path)
        raise
      shutil.rmtree(old, ignore_errors=True)
    else:
      os.replace(temporary, path)


def check_folder(path: str | os.PathLike, endings: Iterable[str] = (), strict: bool = False) -> None:
  """Refuses the name of a folder to be made that ends like a file's, as 'out.gif': a file was meant.

  Args:
    path: as given; a folder that is there is fine.
    endings: of files that could be written in its place.
    strict: whatever looks like an ending is one.
  """
  suffix = Path(path).suffix.lower()
  known = suffix in _ENDINGS or mimetypes.MimeTypes().guess_type(f'x{suffix}')[0]
  if (known or (strict and re.fullmatch(r'\.[a-z]\w{1,4}', suffix))) and not os.path.isdir(path):
    instead = f'choose one of the endings {", ".join(endings)}, or ' if endings else ''
    raise UserError(
      f'{path} would become a folder, although it ends in {suffix}: {instead}give a folder a name without an ending.'
    )


def check_plain(folder: str | os.PathLike) -> None:
  """Raises UserError where something in `folder` is no file or folder: libraries would wait for pipes for ever."""
  odd = next((path for path in sorted(Path(folder).rglob('*')) if not (path.is_file() or path.is_dir())), None)
  if odd:
    raise UserError(f'{odd} is neither a file nor a folder.')


def sweep(folder: str | os.PathLike) -> None:
  """Deletes what writers that were killed have left in `folder`; nothing is said where that cannot be done."""
  with contextlib.suppress(OSError):
    for path in Path(folder).glob(f'{_PREFIX}*{_SUFFIX}'):
      with contextlib.suppress(OSError), lock(path) as locked:
        if locked:
          _delete(path)


def check_room(folder: str | os.PathLike, needs: int) -> None:
  """Raises UserError where the file system of `folder`, which need not be there yet, lacks room for `needs` bytes."""
  place = Path(folder).absolute()
  while not place.exists() and place != place.parent:
    place = place.parent
  free = shutil.disk_usage(place).free
  if needs > free:
    raise UserError(f'{_no_room(folder, needs)}, and {free / _MB:.1f} MB are free; make room, or write elsewhere.')


def is_full(error: BaseException | None) -> bool:
  """Tells whether an error, or what led to it, is the lack of room on a disk; libraries wrap it as they like."""
  while error is not None:
    if isinstance(error, OSError) and error.errno in _FULL:
      return True
    if any(os.strerror(number) in str(error) for number in _FULL):
      return True
    error = error.__cause__ or error.__context__
  return False


@contextlib.contextmanager
def room(folder: str | os.PathLike, needs: int = 0) -> Iterator[None]:
  """Turns the lack of room in `folder`, wherever in the block it shows, into a UserError; `needs` as of `aside`."""
  try:
    yield
  except Exception as error:
    if not is_full(error) or isinstance(error, UserError):
      raise
    raise UserError(f'{_no_room(folder, needs)}; make room, or write elsewhere.') from error


def _no_room(folder: str | os.PathLike, needs: int) -> str:
  return f'No space left on {folder}' + (f': needs about {max(needs / _MB, 0.1):.1f} MB' if needs else '')


def _name(path: Path) -> Path:
  return path.with_name(f'{_PREFIX}{secrets.token_hex(4)}{_SUFFIX}')


def _new_file(path: Path) -> None:
  os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))


@contextlib.contextmanager
def _locked(path: Path, needs: int, create: Callable[[Path], None]) -> Iterator[Path]:
  """Yields what `create` makes beside `path`, locked; afterwards it is gone, if it has not become something else."""
  folder = path.parent
  if folder.absolute() not in _swept:
    _swept.add(folder.absolute())
    sweep(folder)
  with room(folder, needs), contextlib.ExitStack() as stack:
    if needs:
      check_room(folder, needs)
    temporary = _name(path)
    create(temporary)
    stack.callback(_delete, temporary)
    stack.enter_context(lock(temporary))
    yield temporary


@contextlib.contextmanager
def lock(path: Path) -> Iterator[bool]:
  """Holds the lock of a file or folder and tells whether there are locks; BlockingIOError where another has it."""
  if fcntl is None:
    yield False
    return
  descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
  try:
    locked = True
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise
    except OSError:  # not every file system knows locks
      locked = False
    yield locked
  finally:
    os.close(descriptor)


def _delete(path: Path) -> None:
  if path.is_dir() and not path.is_symlink():
    for _ in range(50):  # threads of a library that failed may still be writing
      shutil.rmtree(path, ignore_errors=True)
      if not path.exists():
        return
      time.sleep(0.1)
  else:
    path.unlink(missing_ok=True)

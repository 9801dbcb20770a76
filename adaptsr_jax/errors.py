"""What a user can mend: one sentence, exit code 2."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

LONGEST = 80  # characters of a name that is shown
_LONGEST_LINE = 2000  # of an error, whatever stands in it


class UserError(ValueError):
  """A fault in what was given (file, folder, field); its text is one clear sentence for the user.

  Characters that a terminal would obey, or that no encoding has, are escaped; line ends too, but for the errors of
  `lines`, which are lists. What is beyond all bounds is shortened.
  """

  lines = False

  def __init__(self, text: str):
    lines = text.split('\n') if self.lines else [text]
    super().__init__('\n'.join(shown(line, _LONGEST_LINE) for line in lines))


def escaped(text: str, keep: str = '') -> str:
  """Returns `text` with all that cannot be printed (control characters, line ends, half characters) as '\\x1b'."""
  return ''.join(c if c.isprintable() or c in keep else c.encode('unicode_escape').decode() for c in text)


def shown(name: Any, longest: int = LONGEST) -> str:
  """Returns a name from a file of somebody else (key, class, entry) for a sentence: escaped, its middle left out."""
  text = str(name)
  if len(text) > longest:
    half = (longest - 3) // 2
    text = f'{text[:half]}...{text[-half:]}'
  return escaped(text)


def some(items: Sequence[Any], most: int, separator: str = ', ') -> str:
  """Returns the first of `items` for a sentence, and how many more there are: 'a, b and 3 more'."""
  more = f' and {len(items) - most} more' if len(items) > most else ''
  return separator.join(map(str, items[:most])) + more


@contextlib.contextmanager
def naming(where: Any) -> Iterator[None]:
  """Puts `where`, such as a file, before the sentence of a UserError that does not name it."""
  try:
    yield
  except UserError as error:
    if str(where) in str(error):
      raise
    raise type(error)(f'{where}: {error}') from error


def check_option(what: str, value: str, options: Sequence[str]) -> None:
  """Raises UserError that lists `options` where `value` is none of them."""
  if value not in options:
    raise UserError(f'Unknown {what} {value!r}: choose one of {", ".join(options)}.')


@contextlib.contextmanager
def enough_memory(advice: str) -> Iterator[None]:
  """Turns the lack of memory of the device into a UserError that ends in `advice`."""
  try:
    yield
  except (RuntimeError, MemoryError) as error:
    if not lacks_memory(error):
      raise
    raise UserError(f'The device has not enough memory {advice}.') from error


def lacks_memory(error: BaseException) -> bool:
  """Tells whether an error is the lack of memory, as Python, jax or OpenCV tell of it."""
  words = ('RESOURCE_EXHAUSTED', 'Insufficient memory')
  return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def first_line(error: Exception) -> str:
  return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

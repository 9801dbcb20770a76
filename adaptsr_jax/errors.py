"""What a user can mend: one sentence, exit code 2."""

import contextlib
from collections.abc import Iterator


class UserError(ValueError):
  """A fault in what was given (file, folder, field); its text is one clear sentence for the user."""


@contextlib.contextmanager
def enough_memory(advice: str) -> Iterator[None]:
  """Turns the lack of memory of the device, where jax tells of it, into a UserError that ends in `advice`."""
  try:
    yield
  except RuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    raise UserError(f'The device has not enough memory {advice}.') from error

"""One message for every unknown option."""

from collections.abc import Sequence

from adaptsr_jax.errors import UserError


def check_option(what: str, value: str, options: Sequence[str]) -> None:
  """Raises UserError that lists `options` where `value` is none of them."""
  if value not in options:
    raise UserError(f'Unknown {what} {value!r}: choose one of {", ".join(options)}.')

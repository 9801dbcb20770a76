"""Where tests find fixtures: those of the project, and the larger ones beside it."""

from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / 'golden'
SHARED = Path(__file__).parents[2] / 'shared'


def shared(*parts: str) -> Path:
  """Returns a path of the folder `shared` beside the project; skips the test where it is absent."""
  path = SHARED.joinpath(*parts)
  if not path.exists():
    pytest.skip(f'../shared/{"/".join(parts)} is not here')
  return path

"""What detection reads from the shapes of a set of weights."""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from adaptsr_jax.errors import UserError

Weights = Mapping[str, np.ndarray]  # by PyTorch key
Found = tuple[dict[str, Any], dict[str, str]]  # fields, assumed

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)


def of(weights: Weights, key: str, ndim: int) -> tuple[int, ...]:
  """Returns the shape of a tensor that must be there and have `ndim` axes, none of them empty."""
  if key not in weights:
    raise UserError(f"'{key}' is missing from the weights.")
  shape = np.shape(weights[key])
  if len(shape) != ndim or 0 in shape:
    raise UserError(f"'{key}' has shape {shape} instead of {ndim} axes.")
  return shape


def count(weights: Weights, key: str) -> int:
  """Returns how many keys there are like `key`, in which `{}` stands for a number."""
  pattern = re.escape(key).replace(r'\{\}', r'\d+')
  return sum(re.fullmatch(pattern, other) is not None for other in weights)


def factor(*sizes: tuple[int, int]) -> float:
  """Returns the shortest decimal f with int(width * f) == hidden for all (width, hidden), as the networks do."""
  least = max(hidden / width for width, hidden in sizes)
  for digits in range(1, 16):
    unit = 10**digits
    for candidate in (round(least, digits), (math.floor(least * unit) + 1) / unit):
      # And not just below the next number.
      if all(int(width * candidate) == int(width * candidate + 1e-6) == hidden for width, hidden in sizes):
        return candidate
  told = ', '.join(f'{hidden} of {width}' for width, hidden in sizes)
  raise UserError(f'The hidden layers have {told} channels, which no common factor gives.')

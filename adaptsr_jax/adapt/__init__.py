"""Runs: a base and pairs of pictures in, an adapted network, its measurements and pictures out (`whole`)."""

import importlib
from typing import Any

from adaptsr_jax import is_function

_OF = {'run': 'whole', 'Interrupted': 'train', 'TrainState': 'step', 'make_step': 'step'}


def __getattr__(name: str) -> Any:
  # Reports read the folders of runs, and need nothing of what a run imports.
  if name not in _OF:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_OF[name]}'), name)


is_function(__name__)

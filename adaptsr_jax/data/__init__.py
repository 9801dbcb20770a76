"""Pairs of pictures: folders, published data sets, packed crops and mixtures of them, made into batches."""

from typing import Any

from adaptsr_jax.data.folders import scale_of
from adaptsr_jax.data.opening import open_source
from adaptsr_jax.data.sources import Cameras, PairError, Source, check_pixels, check_task, pairs


def __getattr__(name: str) -> Any:
  # Only training needs grain, whose import takes as long as that of jax.
  if name not in ('Batches', 'train_batches'):
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  from adaptsr_jax.data import pipeline

  return getattr(pipeline, name)

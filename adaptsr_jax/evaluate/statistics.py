"""How sure a mean over pictures is: bootstrap intervals."""

from collections.abc import Sequence

import numpy as np
from etils import epy

with epy.lazy_imports():  # slow
  from scipy import stats

RESAMPLES = 10_000
SEED = 0
PROTOCOL = f'95 % percentile bootstrap over pictures, {RESAMPLES:,} resamples, seed {SEED}'

FEW = 6  # below so many pictures an interval without 0 is often luck: of pure noise, one in 4 with 3, in 6 with 5


def bootstrap(values: Sequence[float]) -> tuple[float, float]:
  """Returns the 95 % percentile interval of the mean (Efron 1979).

  Values that are not finite are left out. With fewer than two values nothing can be said: (nan, nan). With fewer than
  about ten the interval is too narrow, as every bootstrap is.

  Args:
    values: one for each picture.

  Returns:
    (low, high); the same for the same values at every call.
  """
  values = np.asarray(values, np.float64)
  values = values[np.isfinite(values)]
  if values.size < 2:
    return float('nan'), float('nan')
  how = {'method': 'percentile', 'n_resamples': RESAMPLES, 'batch': max(1, 2**20 // values.size)}  # for the memory
  low, high = stats.bootstrap((values,), np.mean, **how, rng=SEED).confidence_interval
  return float(low), float(high)


def certain(low: float | None, high: float | None, pictures: int) -> bool:
  """Tells whether an interval of differences over so many pictures leaves 0 out, and is not too rough to say so."""
  return pictures >= FEW and low is not None and high is not None and low * high > 0


def mean(values: Sequence[float]) -> float:
  """Returns the mean of the finite values; without any, what all together give: infinite or nan."""
  values = np.asarray(values, np.float64)
  finite = values[np.isfinite(values)]
  return float(np.mean(finite if finite.size else values)) if values.size else float('nan')


def paired(values: Sequence[float], reference: Sequence[float]) -> tuple[float, float, float]:
  """Returns (mean, low, high) of the differences `values - reference`, picture by picture.

  Pictures differ far more from each other than two methods do on one picture. The interval of the differences tells
  whether a gain is real where the intervals of the two means overlap.

  Args:
    values: one for each picture.
    reference: of the same pictures, in the same order; a picture counts where both are finite.
  """
  values, reference = np.asarray(values, np.float64), np.asarray(reference, np.float64)
  if values.shape != reference.shape:
    raise ValueError(f'paired differences need the same pictures, not {values.shape} and {reference.shape}')
  both = np.isfinite(values) & np.isfinite(reference)
  if not both.any():
    return (float('nan'),) * 3
  difference = values[both] - reference[both]
  return float(difference.mean()), *bootstrap(difference)

"""How far batches agree on the order of the sites: Spearman's rank correlation."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from adaptsr_jax.errors import UserError


def average_ranks(values: np.ndarray) -> np.ndarray:
  """Returns the position of each value in rising order, from 1; equal values share the mean of their positions."""
  from scipy import stats  # slow to import, and only agreement needs it

  return stats.rankdata(values)


def stability(table: np.ndarray, kinds: Sequence[str] | None = None) -> dict[str, Any]:
  """Returns how well batches agree on the order of the sites.

  `mean_pairwise` and `std_pairwise` are over all pairs of batches. `mean_against_average` and `min_against_average`
  compare each batch with the mean score of all; they are higher by construction, since the batch is part of the mean.

  Args:
    table: scores (batches, sites), at least two of each.
    kinds: the kind of every site; adds `within`: kind -> the same numbers among the sites of this kind, where there are
      at least two. Across kinds, the size of the kernels alone keeps the order stable.
  """
  table = np.asarray(table, np.float64)
  if table.ndim != 2 or min(table.shape) < 2:
    raise UserError(f'Stability needs at least 2 batches and 2 sites, but the scores have shape {table.shape}.')
  ranks = np.stack([average_ranks(row) for row in table])
  pairs = _correlations(ranks)[np.triu_indices(len(table), 1)]
  average = average_ranks(table.mean(axis=0))
  against = [_correlations(np.stack([row, average]))[0, 1] for row in ranks]
  result: dict[str, Any] = {
    'mean_pairwise': float(np.mean(pairs)),
    'std_pairwise': float(np.std(pairs)),
    'mean_against_average': float(np.mean(against)),
    'min_against_average': float(np.min(against)),
  }
  if kinds is not None:
    columns = {kind: [i for i, k in enumerate(kinds) if k == kind] for kind in dict.fromkeys(kinds)}
    result['within'] = {kind: stability(table[:, index]) for kind, index in columns.items() if len(index) > 1}
  return result


def _correlations(rows: np.ndarray) -> np.ndarray:
  """Returns Pearson's correlation of every pair of rows; nan where a row is constant."""
  with np.errstate(invalid='ignore', divide='ignore'):
    return np.corrcoef(rows)

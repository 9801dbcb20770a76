"""Low-rank adapters of given updates: the best of each rank, by singular values (Eckart and Young, 1936)."""

from collections.abc import Mapping

import numpy as np

from adaptsr_jax.lora.adapters import scaling
from adaptsr_jax.lora.sites import Site, check_form, is_loralib, shapes, square


def energies(update: np.ndarray, form: str) -> np.ndarray:
  """Returns how much of the squared norm of `update` each unit of rank adds, falling; those without any are left out.

  Arguments as of `unit_energies`.
  """
  by_unit = unit_energies(update, form)
  # What rounding to float32 leaves is no change.
  return by_unit[by_unit > 1e-12 * max(by_unit.sum(), np.finfo(np.float32).tiny)]


def unit_energies(update: np.ndarray, form: str) -> np.ndarray:
  """Returns sigma_i^2 of a change of a kernel, seen as the matrix that the form factors: falling, float64.

  Args:
    update: change of a kernel, numpy, of the shape of its site.
    form: one of `lora.FORMS`; a unit of rank of 'loralib' on a k x k kernel is k singular values, whose squares add up.
  """
  values = np.linalg.svd(_matrix(update, form), compute_uv=False) ** 2
  unit = update.shape[0] if form == 'loralib' and update.ndim == 4 else 1
  return np.add.reduceat(values, np.arange(0, len(values), unit)) if len(values) else values


def truncated(
  site: Site, update: np.ndarray, rank: int, form: str, alpha: float = 1.0, rslora: bool = True
) -> Mapping[str, np.ndarray]:
  """Returns the adapter of `rank` whose update is nearest to `update`, float32; both factors have the same norm."""
  left, values, right = np.linalg.svd(_matrix(update, form), full_matrices=False)
  kept = min(rank * square(site) if is_loralib(site, form) else rank, len(values))
  root = np.sqrt(values[:kept] / scaling(alpha, rank, rslora))
  first, second = left[:, :kept] * root, root[:, None] * right[:kept]
  wanted = shapes(site, rank, form)
  if is_loralib(site, form):
    return {'a': _padded(second, wanted['a']), 'b': _padded(first, wanted['b'])}
  if form == '1x1_kxk' and site.kind == 'conv':
    kh, kw, _, cout = site.shape
    second = second.reshape(kept, kh, kw, cout).transpose(1, 2, 0, 3)
  return {'a': first.reshape(wanted['a']).astype(np.float32), 'b': np.ascontiguousarray(second, np.float32)}


def _matrix(update: np.ndarray, form: str) -> np.ndarray:
  """Returns `update` as the matrix that is a product of 'a' and 'b' (see `lora.adapters`), float64."""
  check_form(form)
  update = np.asarray(update, np.float64)
  if update.ndim == 2:
    return update
  kh, kw, cin, cout = update.shape
  if form == 'loralib':
    return update.transpose(3, 2, 0, 1).reshape(cout * kh, cin * kw)
  if form == '1x1_kxk':
    return update.transpose(2, 0, 1, 3).reshape(cin, kh * kw * cout)
  return update.reshape(kh * kw * cin, cout)


def _padded(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  return np.pad(x, [(0, large - small) for small, large in zip(x.shape, shape, strict=True)]).astype(np.float32)

"""How much each site matters: scores of base kernels (AdaptSR, Algorithm 1, step one)."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from adaptsr_jax import compiler, lora, tree
from adaptsr_jax.errors import UserError, check_option

Batch = dict[str, Any]
LossFn = Callable[[tree.Params, Batch], jax.Array]  # (params, batch) -> ()

KINDS = ('gradient', 'fisher', 'activation', 'random')
REDUCTIONS = ('norm_of_mean', 'mean_of_norms')
NORMALISATIONS = ('none', 'sqrt_size', 'per_cost')
SIDES = ('output', 'input')


def scores(
  kind: str,
  loss_fn: LossFn,
  params: tree.Params,
  batches: Iterable[Batch],
  sites: Sequence[lora.Site],
  key: jax.Array,
  reduce: str = 'norm_of_mean',
  normalise: str = 'none',
  form: str = '1x1_kxk',
  side: str = 'output',
) -> dict[str, float]:
  """Returns one score s >= 0 per site, in the order of `sites`: the larger, the more rank the site should get.

  kind
    'gradient'    Frobenius norm of the gradient of the loss with respect to the base kernel
    'fisher'      mean over all examples of the sum of squares of the gradient of that example alone
    'activation'  root mean square of what the site computes, before any activation function
    'random'      uniform in [0, 1), drawn from `key` for the sites in name order: the control
  A site on a range of columns (q, k or v of a fused kernel) is scored on these columns only.

  Args:
    kind: one of `KINDS`.
    loss_fn: (params, batch) -> scalar; not jitted for kind 'activation', which has to see the modules being called.
    params: the base.
    batches: a finite iterable of dicts of arrays with the examples along axis 0. Not read for kind 'random'.
    sites: from `lora.find_sites`.
    key: only used by kind 'random'.
    reduce: how kind 'gradient' treats several batches: 'norm_of_mean' (the norm of the mean gradient, noise averaged
      out) or 'mean_of_norms' (noise included).
    normalise: 'none', 'sqrt_size' (s / sqrt(number of weights)) or 'per_cost' (s^2 / parameters per unit of rank: the
      first-order gain per adapter parameter).
    form: the adapter form that 'per_cost' asks for its parameters per rank.
    side: 'output' or 'input' of the site, for kind 'activation'.

  Raises:
    UserError: an unknown option, or no batch.
  """
  check_option('score kind', kind, KINDS)
  check_option('score reduction', reduce, REDUCTIONS)
  check_option('score normalisation', normalise, NORMALISATIONS)
  if kind == 'random':
    raw = _random_scores(sites, key)
  elif kind == 'gradient' and reduce == 'norm_of_mean':
    return norm_scores(mean_gradients(loss_fn, params, batches, sites), sites, normalise, form)
  else:
    sizes, rows = zip(*_batch_scores(kind, loss_fn, params, batches, sites, side), strict=True)
    if kind == 'gradient':
      raw = np.mean(rows, axis=0)
    elif kind == 'fisher':
      raw = np.average(rows, axis=0, weights=sizes)
    else:
      raw = np.sqrt(np.average(np.square(rows), axis=0, weights=sizes))
  return {site.name: float(_normalised(s, site, normalise, form)) for site, s in zip(sites, raw, strict=True)}


def score_table(
  kind: str,
  loss_fn: LossFn,
  params: tree.Params,
  batches: Iterable[Batch],
  sites: Sequence[lora.Site],
  normalise: str = 'none',
  form: str = '1x1_kxk',
) -> np.ndarray:
  """Returns the scores of every batch on its own, float64 (batches, sites); compiled once for all of them.

  The arguments are those of `scores`; `kind` is 'gradient', 'fisher' or 'activation'.
  """
  check_option('score kind', kind, tuple(k for k in KINDS if k != 'random'))
  check_option('score normalisation', normalise, NORMALISATIONS)
  rows = [row for _, row in _batch_scores(kind, loss_fn, params, batches, sites)]
  return np.array([[_normalised(s, site, normalise, form) for s, site in zip(row, sites, strict=True)] for row in rows])


def mean_gradients(
  loss_fn: LossFn, params: tree.Params, batches: Iterable[Batch], sites: Sequence[lora.Site]
) -> dict[str, np.ndarray]:
  """Returns site name -> gradient of the loss with respect to its kernel, mean over the batches, float32 site.shape."""
  gradients_fn = _compiled(lambda params, batch: _site_gradients(loss_fn, params, batch, sites))
  add = jax.jit(lambda total, new: jax.tree.map(jnp.add, total, new), donate_argnums=0)
  params = jax.tree.map(jnp.asarray, params)
  total, number = None, 0
  for batch in _present(batches):
    new = gradients_fn(params, batch)
    total = new if total is None else add(total, new)
    number += 1
  return {site.name: np.asarray(gradient) / number for site, gradient in zip(sites, total, strict=True)}


def norm_scores(
  gradients: Mapping[str, np.ndarray], sites: Sequence[lora.Site], normalise: str = 'none', form: str = '1x1_kxk'
) -> dict[str, float]:
  """Returns the scores of kind 'gradient' by the mean gradients that are given (see `scores`)."""
  raw = {site: np.linalg.norm(gradients[site.name].astype(np.float64)) for site in sites}
  return {site.name: float(_normalised(s, site, normalise, form)) for site, s in raw.items()}


def spectral_gains(gradients: Mapping[str, np.ndarray], form: str = '1x1_kxk') -> dict[str, np.ndarray]:
  """Returns site name -> what the 1st, 2nd, ... unit of rank is worth, falling float64, for rule 'marginal'.

  The worth of unit i is sigma_i^2 of the mean gradient, seen as the matrix that the adapter form factors: the best
  update of rank r and unit norm lowers the loss, to first order, by sqrt(sigma_1^2 + ... + sigma_r^2). One unit of
  rank of form 'loralib' on a k x k kernel is k ranks of its matrix, hence a sum of k consecutive sigma^2.

  Args:
    gradients: from `mean_gradients`.
    form: of the adapters.
  """
  return {name: lora.unit_energies(gradient, form) for name, gradient in gradients.items()}


def _batch_scores(
  kind: str,
  loss_fn: LossFn,
  params: tree.Params,
  batches: Iterable[Batch],
  sites: Sequence[lora.Site],
  side: str = 'output',
) -> Iterator[tuple[int, np.ndarray]]:
  """Yields for every batch its number of examples and its scores, float64 (sites,)."""
  check_option('activation side', side, SIDES)
  if kind == 'gradient':
    measure = _compiled(lambda params, batch: _norms(_site_gradients(loss_fn, params, batch, sites)))
  elif kind == 'fisher':
    measure = _compiled(lambda params, batch: _fisher(loss_fn, params, batch, sites))
  else:
    measure = _compiled(lambda params, batch: _mean_squares_of_activations(loss_fn, params, batch, sites, side))
  params = jax.tree.map(jnp.asarray, params)
  for batch in _present(batches):
    row = np.asarray(measure(params, batch), np.float64)
    if kind == 'activation':
      for site, (_, calls) in zip(sites, row, strict=True):
        if not calls:
          raise ValueError(f'Site {site.name} was not seen while the loss was computed; loss_fn must not be jitted.')
      row = np.sqrt(row[:, 0] / row[:, 1])
    yield len(jax.tree.leaves(batch)[0]), row


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
  return jax.jit(function, compiler_options=compiler.options())


def _site_gradients(loss_fn: LossFn, params: tree.Params, batch: Batch, sites: Sequence[lora.Site]) -> list[jax.Array]:
  """Returns the gradient at every site, of site.shape. Only kernels with a site are differentiated, each once."""
  paths = {'/'.join(site.path): (*site.path, 'kernel') for site in sites}
  kernels = {name: tree.get(params, path) for name, path in paths.items()}

  def loss_of(kernels):
    full = params
    for name, path in paths.items():
      full = tree.replaced(full, path, kernels[name])
    return loss_fn(full, batch)

  gradients = jax.grad(loss_of)(kernels)
  found = [(gradients['/'.join(site.path)], site) for site in sites]
  # Experts of a mixed kernel have the update of a site in common.
  return [_columns(x if x.ndim == len(site.shape) else x.sum(0), site) for x, site in found]


def _norms(gradients: Sequence[jax.Array]) -> jax.Array:
  return jnp.stack([jnp.sqrt(jnp.sum(jnp.square(gradient))) for gradient in gradients])


def _fisher(loss_fn: LossFn, params: tree.Params, batch: Batch, sites: Sequence[lora.Site]) -> jax.Array:
  """Returns the mean over examples of the squared gradient norms (sites,), one example in memory at a time.

  Mapping instead of vmap: batched kernel gradients become grouped convolutions, slower than one example after another.
  """

  def of_one(example):
    gradients = _site_gradients(loss_fn, params, jax.tree.map(lambda leaf: leaf[None], example), sites)
    return jnp.square(_norms(gradients))

  return jnp.mean(jax.lax.map(of_one, jax.tree.map(jnp.asarray, batch)), axis=0)


@jax.custom_vjp
def _record(y: jax.Array, value: jax.Array, probe: jax.Array) -> jax.Array:
  """Returns `y`; whatever is computed from it has the derivative `value` with respect to `probe`.

  This carries `value` out of any transformation the model is made of. Appending it to a list would leak a tracer from
  modules under nn.remat.
  """
  return y


_record.defvjp(lambda y, value, probe: (y, value), lambda value, cotangent: (cotangent, jnp.zeros_like(value), value))


def _mean_squares_of_activations(
  loss_fn: LossFn, params: tree.Params, batch: Batch, sites: Sequence[lora.Site], side: str
) -> jax.Array:
  """Returns (sites, 2): the mean square of the output (or input) summed over the calls of the site, and the calls."""
  by_path: dict[tuple[str, ...], list[lora.Site]] = {}
  for site in sites:
    by_path.setdefault(tuple(site.path), []).append(site)

  def loss_of(probes):
    def interceptor(next_fn, args, kwargs, context):
      y = next_fn(*args, **kwargs)
      if context.method_name != '__call__':
        return y
      for site in by_path.get(context.module.path, ()):
        seen = args[0] if side == 'input' else _columns(y, site)
        mean_square = jnp.mean(jnp.square(seen.astype(jnp.float32)))
        y = _record(y, jnp.stack([mean_square, jnp.float32(1)]), probes[site.name])
      return y

    with nn.intercept_methods(interceptor):
      return loss_fn(params, batch)

  recorded = jax.grad(loss_of)({site.name: jnp.zeros(2) for site in sites})
  return jnp.stack([recorded[site.name] for site in sites])


def _columns(array: jax.Array, site: lora.Site) -> jax.Array:
  """Returns the part of the last axis that belongs to the site."""
  return array if site.part is None else array[..., slice(*site.part)]


def _random_scores(sites: Sequence[lora.Site], key: jax.Array) -> np.ndarray:
  names = sorted(site.name for site in sites)
  drawn = dict(zip(names, np.asarray(jax.random.uniform(key, (len(names),))), strict=True))
  return np.array([drawn[site.name] for site in sites], np.float64)


def _normalised(score: float, site: lora.Site, normalise: str, form: str) -> float:
  if normalise == 'sqrt_size':
    return score / math.sqrt(math.prod(site.shape))
  if normalise == 'per_cost':
    return score**2 / lora.cost(site, form)
  return score


def _present(batches: Iterable[Batch]) -> Iterator[Batch]:
  """Yields `batches`; there must be one."""
  batch = None
  for batch in batches:
    yield batch
  if batch is None:
    raise UserError('There is no batch to score the sites on.')

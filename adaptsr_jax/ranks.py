"""How much each site matters, and how a budget of ranks is shared among the sites (AdaptSR, Algorithm 1).

The paper leaves open what the budget counts, what "more rank" means and what happens to the remainder. `allocate` has
one named rule for each reading; with unit 'params' the budget is the number of trained adapter parameters.
"""

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from adaptsr_jax import lora, tree
from adaptsr_jax.errors import UserError

Batch = dict[str, Any]
LossFn = Callable[[tree.Params, Batch], jax.Array]  # (params, batch) -> ()

KINDS = ('gradient', 'fisher', 'activation', 'random')
REDUCTIONS = ('norm_of_mean', 'mean_of_norms')
NORMALISATIONS = ('none', 'sqrt_size', 'per_cost')
SIDES = ('output', 'input')
RULES = ('uniform', 'greedy', 'proportional', 'proportional_per_cost', 'marginal')
UNITS = ('params', 'ranks')


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
  _check_option('score kind', kind, KINDS)
  _check_option('score reduction', reduce, REDUCTIONS)
  _check_option('score normalisation', normalise, NORMALISATIONS)
  if kind == 'random':
    raw = _random_scores(sites, key)
  elif kind == 'gradient' and reduce == 'norm_of_mean':
    gradients = mean_gradients(loss_fn, params, batches, sites)
    raw = np.array([np.linalg.norm(gradients[site.name].astype(np.float64)) for site in sites])
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
  side: str = 'output',
) -> np.ndarray:
  """Returns the scores of every batch on its own, float64 (batches, sites); compiled once for all of them.

  The arguments are those of `scores`; `kind` is 'gradient', 'fisher' or 'activation'.
  """
  _check_option('score kind', kind, tuple(k for k in KINDS if k != 'random'))
  _check_option('score normalisation', normalise, NORMALISATIONS)
  rows = [row for _, row in _batch_scores(kind, loss_fn, params, batches, sites, side)]
  return np.array([[_normalised(s, site, normalise, form) for s, site in zip(row, sites, strict=True)] for row in rows])


def mean_gradients(
  loss_fn: LossFn, params: tree.Params, batches: Iterable[Batch], sites: Sequence[lora.Site]
) -> dict[str, np.ndarray]:
  """Returns site name -> gradient of the loss with respect to its kernel, mean over the batches, float32 site.shape."""
  gradients_fn = jax.jit(lambda params, batch: _site_gradients(loss_fn, params, batch, sites))
  add = jax.jit(lambda total, new: jax.tree.map(jnp.add, total, new), donate_argnums=0)
  params = jax.tree.map(jnp.asarray, params)
  total, number = None, 0
  for batch in batches:
    new = gradients_fn(params, batch)
    total = new if total is None else add(total, new)
    number += 1
  _check_batches(number)
  return {site.name: np.asarray(gradient) / number for site, gradient in zip(sites, total, strict=True)}


def spectral_gains(
  loss_fn: LossFn,
  params: tree.Params,
  batches: Iterable[Batch],
  sites: Sequence[lora.Site],
  form: str = '1x1_kxk',
) -> dict[str, np.ndarray]:
  """Returns site name -> what the 1st, 2nd, ... unit of rank is worth, falling float64, for rule 'marginal'.

  The worth of unit i is sigma_i^2 of the mean gradient, seen as the matrix that the adapter form factors: the best
  update of rank r and unit norm lowers the loss, to first order, by sqrt(sigma_1^2 + ... + sigma_r^2). One unit of
  rank of form 'loralib' on a k x k kernel is k ranks of its matrix, hence a sum of k consecutive sigma^2.

  Raises:
    UserError: a form that is unknown or cannot hold a kernel of `sites`; no batch.
  """
  for site in sites:
    lora.cost(site, form)  # refuses a form that is unknown or cannot hold this kernel, before any work
  gradients = mean_gradients(loss_fn, params, batches, sites)
  return {site.name: _gains(gradients[site.name], form) for site in sites}


def allocate(
  scores: Mapping[str, float],
  costs: Mapping[str, int],
  budget: int,
  r_min: int,
  r_max: int,
  rule: str,
  unit: str = 'params',
  caps: Mapping[str, int] | None = None,
  gains: Mapping[str, Sequence[float]] | None = None,
) -> lora.RankMap:
  """Returns the rank of every site, in the order of `scores`; the budget is never exceeded.

  A unit of rank at a site takes its cost from the budget (unit 'params') or one (unit 'ranks'). Sites stand in order of
  falling score, ties by name, so that the result does not depend on the order in which sites are given.

  rule
    'uniform'                the largest common rank that fits
    'greedy'                 all at r_min, then down the order as much as the site may have and the rest allows
    'proportional'           ranks follow the score, rounded by largest remainder
    'proportional_per_cost'  parameters follow the score: ranks follow score / cost
    'marginal'               all at r_min, then always the unit of rank with the largest gain per unit of budget

  Args:
    scores: site name -> score >= 0.
    costs: site name -> parameters per unit of rank (`lora.cost`).
    budget: parameters or ranks in all, by `unit`; biases and other trained leaves are not part of it.
    r_min: the least rank of any site; 0 allows sites without adapter.
    r_max: the largest rank of any site.
    rule: one of `RULES`.
    unit: one of `UNITS`.
    caps: site name -> a further upper limit of the rank, such as the kernel's width; it wins over r_min.
    gains: site name -> falling gains of its units of rank; only rule 'marginal' uses them. Where they end, so does the
      rank of the site.

  Raises:
    UserError: an unknown rule or unit, bounds out of order, r_min alone above the budget, a score that is negative or
      not finite, no gains for rule 'marginal'.
  """
  _check_option('allocation rule', rule, RULES)
  _check_option('budget unit', unit, UNITS)
  if not 0 <= r_min <= r_max:
    raise UserError(f'Ranks need 0 <= r_min <= r_max, but r_min is {r_min} and r_max is {r_max}.')
  _check_values('score', scores)
  # From here on every array and loop follows this order: sums round alike however the caller ordered the sites.
  order = sorted(scores, key=lambda name: (-scores[name], name))
  price = {name: int(costs[name]) if unit == 'params' else 1 for name in order}
  cap = {name: min(r_max, caps[name]) if caps else r_max for name in order}
  low = {name: min(r_min, cap[name]) for name in order}
  if _spent(low, price) > budget:
    raise UserError(
      f'r_min = {r_min} at all {len(order)} sites takes {_spent(low, price):,} {unit}, more than the budget of '
      f'{budget:,}: lower r_min or raise the budget.'
    )
  if rule == 'uniform':
    ranks = _uniform(price, low, cap, budget)
  elif rule == 'greedy':
    ranks = _greedy(price, low, cap, budget)
  elif rule == 'marginal':
    if gains is None:
      raise UserError("Rule 'marginal' needs the gains of every site: pass `gains`, such as from spectral_gains.")
    ranks = _marginal(price, low, cap, budget, gains)
  else:
    weights = {name: scores[name] / costs[name] if rule == 'proportional_per_cost' else scores[name] for name in order}
    ranks = _proportional(price, low, cap, budget, weights)
  return {name: ranks[name] for name in scores}


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
  """Returns Spearman's rank correlation, with average ranks for ties; nan where one of the two is constant."""
  return float(_correlations(np.stack([average_ranks(np.asarray(a)), average_ranks(np.asarray(b))]))[0, 1])


def average_ranks(values: np.ndarray) -> np.ndarray:
  """Returns the position of each value in rising order, from 1; equal values share the mean of their positions."""
  _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
  last = np.cumsum(counts)
  return (last - (counts - 1) / 2)[index]


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


def _batch_scores(
  kind: str, loss_fn: LossFn, params: tree.Params, batches: Iterable[Batch], sites: Sequence[lora.Site], side: str
) -> Iterator[tuple[int, np.ndarray]]:
  """Yields for every batch its number of examples and its scores, float64 (sites,)."""
  _check_option('activation side', side, SIDES)
  if kind == 'gradient':
    measure = jax.jit(lambda params, batch: _norms(_site_gradients(loss_fn, params, batch, sites)))
  elif kind == 'fisher':
    measure = jax.jit(lambda params, batch: _fisher(loss_fn, params, batch, sites))
  else:
    measure = jax.jit(lambda params, batch: _mean_squares_of_activations(loss_fn, params, batch, sites, side))
  params = jax.tree.map(jnp.asarray, params)
  number = 0
  for batch in batches:
    row = np.asarray(measure(params, batch), np.float64)
    if kind == 'activation':
      row = np.sqrt(_per_call(row, sites))
    yield len(jax.tree.leaves(batch)[0]), row
    number += 1
  _check_batches(number)


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
  return [_columns(gradients['/'.join(site.path)], site) for site in sites]


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
  del value, probe
  return y


def _record_forward(y, value, probe):
  del probe
  return y, value


def _record_backward(value, cotangent):
  return cotangent, jnp.zeros_like(value), value


_record.defvjp(_record_forward, _record_backward)


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


def _per_call(recorded: np.ndarray, sites: Sequence[lora.Site]) -> np.ndarray:
  """Returns the mean squares (sites,) of what `_mean_squares_of_activations` measured."""
  for site, (_, calls) in zip(sites, recorded, strict=True):
    if not calls:
      raise ValueError(f'Site {site.name} was not seen while the loss was computed; loss_fn must not be jitted.')
  return recorded[:, 0] / recorded[:, 1]


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


def _gains(gradient: np.ndarray, form: str) -> np.ndarray:
  """Returns the falling gains of the units of rank of one site."""
  matrix = _adapter_matrix(gradient.astype(np.float64), form)
  squares = np.square(np.linalg.svd(matrix, compute_uv=False))
  group = gradient.shape[0] if form == 'loralib' and gradient.ndim == 4 else 1
  return np.add.reduceat(squares, np.arange(0, len(squares), group))


def _adapter_matrix(kernel: np.ndarray, form: str) -> np.ndarray:
  """Returns the kernel as the matrix of which `form` learns a low-rank update."""
  if kernel.ndim == 2:
    return kernel  # (in, out)
  kh, kw, cin, cout = kernel.shape
  if form == '1x1_kxk':
    return kernel.transpose(2, 0, 1, 3).reshape(cin, kh * kw * cout)
  if form == 'kxk_1x1':
    return kernel.reshape(kh * kw * cin, cout)
  return kernel.transpose(3, 2, 0, 1).reshape(cout * kh, cin * kw)


# The rules. In all of them `price` is the budget that a unit of rank takes, `low` and `cap` are the bounds of the rank;
# each is a dict in order of falling score.


def _spent(ranks: Mapping[str, int], price: Mapping[str, int]) -> int:
  return sum(price[name] * rank for name, rank in ranks.items())


def _uniform(price: Mapping[str, int], low: lora.RankMap, cap: lora.RankMap, budget: int) -> lora.RankMap:
  ranks = dict(low)
  for common in range(max(cap.values(), default=0) + 1):
    larger = {name: max(low[name], min(common, cap[name])) for name in cap}
    if _spent(larger, price) > budget:
      break
    ranks = larger
  return ranks


def _greedy(price: Mapping[str, int], low: lora.RankMap, cap: lora.RankMap, budget: int) -> lora.RankMap:
  ranks, rest = dict(low), budget - _spent(low, price)
  for name in ranks:
    more = min(cap[name] - ranks[name], rest // price[name])
    ranks[name] += more
    rest -= more * price[name]
  return ranks


def _proportional(
  price: Mapping[str, int], low: lora.RankMap, cap: lora.RankMap, budget: int, weights: Mapping[str, float]
) -> lora.RankMap:
  if _spent(cap, price) <= budget:
    return dict(cap)
  names = list(price)
  u, w, lo, hi = (np.array([d[name] for name in names], np.float64) for d in (price, weights, low, cap))
  w = w / (w.max() or 1)
  real = np.clip(_multiplier(u, w, lo, hi, budget) * w, lo, hi)
  floor = np.floor(real + 1e-9)  # a share of 2.9999999999 is 3 up to rounding
  ranks = {name: int(r) for name, r in zip(names, floor, strict=True)}
  fraction = dict(zip(names, real - floor, strict=True))
  rest = budget - _spent(ranks, price)
  rest = _add_one_each(ranks, sorted(names, key=lambda name: -fraction[name]), price, cap, rest)
  before = None
  while rest != before:
    before, rest = rest, _add_one_each(ranks, names, price, cap, rest)
  return ranks


def _multiplier(u: np.ndarray, w: np.ndarray, lo: np.ndarray, hi: np.ndarray, budget: int) -> float:
  """Returns the largest real x that keeps sum u clip(x w, lo, hi) <= budget, by bisection from below."""

  def over(x: float) -> bool:
    return np.sum(u * np.clip(x * w, lo, hi)) > budget

  left, right = 0.0, 1.0
  while not over(right) and right < 2.0**1000:  # sites of score 0 stay at lo for every x, so it may have no end
    left, right = right, 2 * right
  for _ in range(200):
    middle = (left + right) / 2
    left, right = (left, middle) if over(middle) else (middle, right)
  return left


def _add_one_each(
  ranks: lora.RankMap, names: Sequence[str], price: Mapping[str, int], cap: lora.RankMap, rest: int
) -> int:
  """Adds one rank at each of `names`, in order, where it fits; returns what is left of the budget."""
  for name in names:
    if ranks[name] < cap[name] and price[name] <= rest:
      ranks[name] += 1
      rest -= price[name]
  return rest


def _marginal(
  price: Mapping[str, int], low: lora.RankMap, cap: lora.RankMap, budget: int, gains: Mapping[str, Sequence[float]]
) -> lora.RankMap:
  for name in price:
    _check_values('gain', {f'unit {i} of {name}': gain for i, gain in enumerate(gains[name], 1)})
  ranks, rest = dict(low), budget - _spent(low, price)

  def offer(name: str) -> list[tuple[float, str]]:
    rank = ranks[name]
    return [(-gains[name][rank] / price[name], name)] if rank < min(cap[name], len(gains[name])) else []

  heap = [candidate for name in ranks for candidate in offer(name)]
  heapq.heapify(heap)
  while heap:
    _, name = heapq.heappop(heap)
    if price[name] <= rest:
      ranks[name] += 1
      rest -= price[name]
      for candidate in offer(name):
        heapq.heappush(heap, candidate)
  return ranks


def _correlations(rows: np.ndarray) -> np.ndarray:
  """Returns Pearson's correlation of every pair of rows; nan where a row is constant."""
  centred = rows - rows.mean(axis=1, keepdims=True)
  with np.errstate(invalid='ignore', divide='ignore'):
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
  return unit @ unit.T


def _check_option(what: str, value: str, options: Sequence[str]) -> None:
  if value not in options:
    raise UserError(f'Unknown {what} {value!r}: choose one of {", ".join(options)}.')


def _check_values(what: str, values: Mapping[str, float]) -> None:
  for name, value in values.items():
    if not (math.isfinite(value) and value >= 0):
      raise UserError(f'The {what} of {name} is {value}, but it must be finite and not negative.')


def _check_batches(number: int) -> None:
  if not number:
    raise UserError('There is no batch to score the sites on.')

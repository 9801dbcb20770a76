"""How a budget of ranks is shared among the sites (AdaptSR, Algorithm 1, step two).

The paper leaves open what the budget counts, what "more rank" means and what happens to the remainder. `allocate` has
one named rule for each reading; with unit 'params' the budget is the number of trained adapter parameters.
"""

import heapq
import math
from collections.abc import Mapping, Sequence

import numpy as np

from adaptsr_jax import lora
from adaptsr_jax.errors import UserError, check_option

RULES = ('uniform', 'greedy', 'proportional', 'proportional_per_cost', 'marginal')
UNITS = ('params', 'ranks')


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
  check_option('allocation rule', rule, RULES)
  check_option('budget unit', unit, UNITS)
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


def _check_values(what: str, values: Mapping[str, float]) -> None:
  for name, value in values.items():
    if not (math.isfinite(value) and value >= 0):
      raise UserError(f'The {what} of {name} is {value}, but it must be finite and not negative.')

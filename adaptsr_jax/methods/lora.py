"""Low-rank adapters in the kernels of the sites, with the biases of adapted sites trained beside them on request."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from adaptsr_jax import lora, memory, ranks, tree
from adaptsr_jax.errors import UserError
from adaptsr_jax.log import say
from adaptsr_jax.lora import Site
from adaptsr_jax.methods.base import Method, Plan, Scores, Tensors, between, mixed_leaves, through_merge
from adaptsr_jax.tree import Params

# experiments/008_promise tells the rate's why. Of the schedule the paper only says that the rate decays in three steps.
DEFAULTS = {'lr': 2e-3, 'paper_lr': 1e-3, 'schedule': 'steps'}
CHOICES = {
  'form': lora.FORMS,
  'rule': (*ranks.RULES, 'post_hoc'),
  'unit': ranks.UNITS,
  'path': ('auto', 'merged', 'factored', 'hybrid'),
}
LEAST = {'rank': 1, 'budget': 0, 'r_min': 0}
# Far above any kernel's width, where a rank adds no freedom.
MOST = {'rank': 2**14, 'r_max': 2**14}
SPEC = {'form': str, 'alpha': float, 'rslora': bool, 'sites': list}


def fields() -> ConfigDict:
  """Returns the fields `config.lora`."""
  c = ConfigDict()
  # How a convolution is factored: '1x1_kxk' is equation 2 of the paper; its published counts need 'loralib'.
  c.form = '1x1_kxk'
  # The update is alpha / sqrt(rank) * B A with rslora, else alpha / rank * B A as in the paper: there, sites of high
  # rank learn more slowly, and short runs are over before they have (experiments/001_safmn_drealsr).
  c.alpha = 1.0
  c.rslora = True
  # Rank of every site under rule 'uniform', and the rank that sets the default budget.
  c.rank = 8
  # What the ranks may cost in units of `unit`; 0: what uniform ranks of `rank` cost on the same sites.
  c.budget = 0
  # How ranks follow scores: 'uniform', 'greedy', 'proportional', 'proportional_per_cost', 'marginal'. 'post_hoc' trains
  # uniform ranks of twice the budget first, for a tenth of the steps (on top of them), and keeps the largest singular
  # values for their cost: no scores, and training goes on from there.
  c.rule = 'proportional_per_cost'
  # Whether the budget counts adapter parameters ('params') or the sum of ranks ('ranks').
  c.unit = 'params'
  c.r_min = 1
  c.r_max = 32
  # No rank above the width of its kernel, min(in, out): more adds parameters and no freedom. Rule 'uniform' does
  # without r_min, r_max and this.
  c.cap_at_kernel_width = True
  # Train the biases of adapted sites too (outside the budget, as in the paper's counts).
  c.biases = True
  # 'merged' differentiates through W + BA, 'factored' computes x W + (x A) B, 'hybrid' forward like the first and the
  # gradients of A and B like the second; same result. 'auto' takes the fastest.
  c.path = 'auto'
  return c


def check(config: ConfigDict) -> None:
  """Raises UserError for what CHOICES and LEAST do not tell."""
  c = config.lora
  if c.alpha <= 0:
    raise UserError(f'config.lora.alpha is {c.alpha}; it must be above 0.')
  if c.rule == 'post_hoc' and config.method != 'lora':
    raise UserError(f"config.lora.rule='post_hoc' is for config.method='lora', not for {config.method!r}.")
  if c.r_max < c.r_min:
    raise UserError(f'config.lora.r_max is {c.r_max}, below config.lora.r_min of {c.r_min}.')


def plan(config: ConfigDict, sites: Sequence[Site], scores: Scores | None) -> Plan:
  """Scores the sites and shares out the budget (Algorithm 1 of the paper).

  Without training pictures, and under rule 'uniform', nothing is scored and all ranks are equal.
  """
  c = config.lora
  costs = {site.name: lora.cost(site, c.form) for site in sites}
  prices = costs if c.unit == 'params' else dict.fromkeys(costs, 1)
  budget = c.budget or c.rank * sum(prices.values())
  start = time.perf_counter()
  able = scores and (scores.trains if c.rule == 'post_hoc' else scores.available)
  rule, begun = c.rule if able else 'uniform', None
  if rule == 'uniform':
    values = dict.fromkeys(costs, 1.0)
    rank_map = ranks.allocate(values, costs, budget, 0, budget, 'uniform', c.unit)
  else:
    gains = None
    if rule == 'post_hoc':
      begun = _begun(config, sites, scores, budget)
      gains = {site.name: lora.energies(begun.updates[site.name], c.form) for site in sites}
      values = {name: math.sqrt(gain.sum()) for name, gain in gains.items()}
    else:
      values = scores.by_site(c.form)
      gains = scores.gains(c.form) if rule == 'marginal' else None
    caps = {site.name: lora.kernel_width(site) for site in sites} if c.cap_at_kernel_width else None
    by = 'marginal' if begun else rule
    rank_map = ranks.allocate(values, costs, budget, c.r_min, c.r_max, by, c.unit, caps, gains)
  parameters = sum(rank_map[name] * costs[name] for name in rank_map)
  # Themselves, the moments and the average of the optimiser, and the gradient.
  memory.check(
    20 * parameters, f'what trains {parameters:,} parameters of adapters', 'lower config.lora.budget or rank'
  )
  spent = sum(rank_map[name] * prices[name] for name in rank_map)
  if spent < 0.9 * budget:
    say(f'Only {spent:,} of {budget:,} {c.unit} are spent: most sites have the largest rank that is allowed.')
  record = {
    'rule': rule,
    'unit': c.unit,
    'form': c.form,
    'budget': budget,
    'spent': spent,
    'parameters': parameters,
    'score': config.score.to_dict(),
    'seconds': time.perf_counter() - start,
    'training_seconds': begun.seconds if begun else 0.0,
    'scores': values,
    'ranks': rank_map,
  }
  start_at = _cut(config, sites, rank_map, begun) if begun else {}
  return with_ranks(config, sites, rank_map)._replace(ranks=record, start=start_at)


class _Begun(NamedTuple):
  """What was trained before the ranks were shared out."""

  updates: dict[str, np.ndarray]  # site name -> change of its kernel
  biases: Tensors
  seconds: float


def _begun(config: ConfigDict, sites: Sequence[Site], scores: Scores, budget: int) -> _Begun:
  """Trains uniform ranks of twice the budget for a while."""
  wide = config.copy_and_resolve_references()
  wide.lora.rule, wide.lora.budget = 'uniform', 2 * budget
  planned = plan(wide, sites, None)
  trained, seconds = scores.warmed_up(planned)
  adapters, biases = parted(trained)
  scale = planned.spec['alpha'], planned.spec['form'], planned.spec['rslora']
  still = {site.name: np.zeros(site.shape, np.float32) for site in sites}
  moved = {site.name: lora.delta(site, adapters[site.name], *scale) for site in sites if site.name in adapters}
  return _Begun({**still, **moved}, biases, seconds)


def _cut(config: ConfigDict, sites: Sequence[Site], rank_map: Mapping[str, int], begun: _Begun) -> Tensors:
  """Returns what is left of `begun` in adapters of the ranks in `rank_map`."""
  c = config.lora
  adapted = [site for site in sites if rank_map[site.name]]
  modules = {'/'.join(site.path) for site in adapted}
  biases = {name: leaf for name, leaf in begun.biases.items() if name.rpartition('/')[0] in modules}
  cut = {
    site.name: lora.truncated(site, begun.updates[site.name], rank_map[site.name], c.form, c.alpha, c.rslora)
    for site in adapted
    # What did not move starts as adapters do: with both factors 0 it never would.
    if len(lora.energies(begun.updates[site.name], c.form)) >= rank_map[site.name]
  }
  return joined(cut, biases)


def with_ranks(config: ConfigDict, sites: Sequence[Site], rank_map: Mapping[str, int]) -> Plan:
  """Returns the form and scale of the adapters, and every site with its rank (0: left alone)."""
  spec = {
    'method': 'lora',
    'form': config.lora.form,
    'alpha': float(config.lora.alpha),
    'rslora': bool(config.lora.rslora),
    'biases': bool(config.lora.biases),
    'path': _faster(config, sites, rank_map) if config.lora.path == 'auto' else config.lora.path,
    'sites': lora.to_json(sites, rank_map),
  }
  return Plan(spec)


def grow(config: ConfigDict, sites: Sequence[Site], spec: Mapping[str, Any], tensors: Tensors) -> tuple[Plan, Tensors]:
  """Returns the plan and the start of a run that goes on training an adapter, whose update is the same at first.

  Its ranks stay as they are; under rule 'uniform' they grow to those of `config.lora`, by factors that add nothing yet.

  Raises:
    UserError: another form or scale, or ranks that would shrink.
  """
  for field in ('form', 'alpha', 'rslora'):
    if spec[field] != config.lora[field]:
      raise UserError(
        f'The adapter has {field} = {spec[field]}; give --config.lora.{field}={spec[field]} to train it on.'
      )
  own, before = lora.from_json(spec['sites'])
  if config.lora.rule == 'uniform':
    planned = plan(config, sites, None)
  else:
    parameters = sum(before[site.name] * lora.cost(site, spec['form']) for site in own)
    record = {'rule': 'adapter', 'form': spec['form'], 'parameters': parameters, 'ranks': before}
    planned = with_ranks(config, own, before)._replace(ranks=record)
  own, after = lora.from_json(planned.spec['sites'])
  for name, rank in before.items():
    if rank > after.get(name, 0):
      raise UserError(
        f'The adapter has rank {rank} at {name}, where config.lora leaves {after.get(name, 0)}; ranks can only grow.'
      )
  adapters, biases = parted(tensors)
  more = {name: rank - before.get(name, 0) for name, rank in after.items()}
  fresh = lora.init(jax.random.key(config.seed), own, more, spec['form'])
  grown = lora.combine([adapters, fresh], [1, 1], own, spec['form'], spec['rslora'])
  return planned, joined(grown, biases)


def _faster(config: ConfigDict, sites: Sequence[Site], rank_map: Mapping[str, int]) -> str:
  """Returns the path, 'merged' or 'hybrid', that takes less time here."""
  form = config.lora.form
  # 'loralib' has no thin layers in its convolutions. Other devices and types are not measured yet.
  if jax.default_backend() != 'cpu' or form == 'loralib' or config.dtype != 'float32':
    return 'merged'
  # Only windows are asked for: the hybrid leaves small matrices to the merged path itself (`lora.factored`). For each
  # pixel it multiplies with every value of an adapter twice, once for each of two gradients; the merged path multiplies
  # with every value of a kernel once more, for its gradient. At 0.47 (SAFMN) a hybrid step took 0.97 of the CPU time of
  # a merged one, at 0.28 (the same in form 'kxk_1x1') 0.95; by the clock less is gained, as less runs side by side.
  windows = [site for site in sites if rank_map.get(site.name, 0) and math.prod(site.shape[:-2]) > 1]
  thin = 2 * sum(rank_map[site.name] * lora.cost(site, form) for site in windows)
  return 'hybrid' if thin < 0.3 * sum(math.prod(site.shape) for site in windows) else 'merged'


def build(spec: Mapping[str, Any], constants: Mapping[str, np.ndarray]) -> Method:
  """Returns the method of `spec`. Trainable: {'adapters': {site: {'a', 'b'}}, 'biases': {'path/bias': array}}."""
  form, alpha, rslora = spec['form'], spec['alpha'], spec['rslora']
  sites, rank_map = lora.from_json(spec['sites'])
  adapted = dict.fromkeys('/'.join(site.path) for site in sites if rank_map[site.name])

  def init(key, base: Params) -> tuple[Params, Params]:
    flat = tree.flatten(base)
    # Adapter files of version 1 do not say whether biases were trained; they then have those that were.
    names = [f'{module}/bias' for module in adapted if spec.get('biases', True) and f'{module}/bias' in flat]
    # Copies, because a training step may overwrite its buffers in place.
    biases = {name: flat[name].copy() for name in names}
    return base, {'adapters': lora.init(key, sites, rank_map, form), 'biases': biases}

  def merge(frozen: Params, trainable: Params) -> Params:
    base = tree.overlay(frozen, trainable['biases'])
    return lora.merge(base, trainable['adapters'], sites, alpha, form, rslora)

  path = spec.get('path', 'merged')

  def factored(apply_fn, frozen: Params, trainable: Params, x):
    base = tree.overlay(frozen, trainable['biases'])
    return lora.factored.forward(
      apply_fn, base, trainable['adapters'], sites, alpha, form, x, rslora, hybrid=path == 'hybrid'
    )

  forward = through_merge(merge) if path == 'merged' else factored

  def labels(trainable: Params) -> Params:
    return {'adapters': dict.fromkeys(trainable['adapters'], {'a': 'train', 'b': 'b'}), 'biases': 'bias'}

  return Method(init, merge, labels, forward, spec, thin=path != 'merged' and form != 'loralib')


def check_tensors(spec: Mapping[str, Any], tensors: Tensors) -> None:
  """Raises UserError unless the adapters of `tensors` are those of the sites and ranks of `spec`."""
  if not (math.isfinite(spec['alpha']) and spec['alpha'] > 0):
    raise UserError(f'alpha is {spec["alpha"]}; it must be a positive number.')
  sites, rank_map = lora.from_json(spec['sites'])
  shapes = {site.name: lora.shapes(site, rank_map[site.name], spec['form']) for site in sites}
  expected = {
    f'adapters/{name}/{leaf}': shape for name, ab in shapes.items() if rank_map[name] for leaf, shape in ab.items()
  }
  found = {name: array.shape for name, array in tensors.items()}
  for name in [*expected, *found]:
    if not name.startswith('biases/') and expected.get(name) != found.get(name):
      raise UserError(
        f'tensor {name} should be {expected.get(name, "absent")} by the list of sites and is '
        f'{found.get(name, "absent")}: the file contradicts itself.'
      )


def table(spec: Mapping[str, Any], tensors: Mapping[str, Any]) -> str:
  """Returns the sites with their ranks and parameters, and the scale."""
  biases = tree.count([leaf for name, leaf in tensors.items() if name.startswith('biases/')])
  scale = f'scale of the updates {spec["alpha"]:g} / {"sqrt(rank)" if spec["rslora"] else "rank"}'
  return f'{lora.table(*lora.from_json(spec["sites"]), spec["form"], biases)}\n{scale}'


def scale(spec: Mapping[str, Any], tensors: Tensors, base: Tensors, strength: float) -> Tensors:
  """Returns adapters with `strength` times the update, and biases on the line from the base's to the trained ones."""
  adapters, biases = parted(tensors)
  starts = {name: base[name] for name in biases if name in base}
  moved = {name: between(starts.get(name, leaf), leaf, strength) for name, leaf in biases.items()}
  return joined(lora.scale(adapters, strength), moved)


def mix(specs, states: Sequence[Tensors], weights, names, base: Tensors) -> tuple[dict[str, Any], Tensors]:
  """Returns adapters with the ranks of all side by side, so that the sum of the updates is exact.

  Biases are stored as whole values: without `base`, their sum is defined only where the weights sum to 1 and all have
  the leaf.
  """
  first = specs[0]
  for spec, name in zip(specs, names, strict=True):
    for field in ('form', 'rslora'):
      if spec[field] != first[field]:
        raise UserError(
          f'{name} has {field} {spec[field]} and {names[0]} has {first[field]}; '
          'only adapters of one base, form and scale rule can be mixed.'
        )
  sites: dict[str, Site] = {}
  for spec, name in zip(specs, names, strict=True):
    for site in lora.from_json(spec['sites'])[0]:
      if sites.setdefault(site.name, site) != site:
        raise UserError(f'{name} describes site {site.name} otherwise than {names[0]}; they are not of one base.')
  parts = [parted(state) for state in states]
  # All come under the alpha of the first.
  factors = [weight * spec['alpha'] / first['alpha'] for spec, weight in zip(specs, weights, strict=True)]
  union, form = tuple(sites.values()), first['form']
  combined = lora.combine([adapters for adapters, _ in parts], factors, union, form, first['rslora'])
  rank_map = {name: lora.rank_of(sites[name], ab, form) for name, ab in combined.items()}
  biases = mixed_leaves([biases for _, biases in parts], weights, names, base)
  spec = {key: first[key] for key in ('method', 'form', 'alpha', 'rslora')}
  spec |= {'biases': bool(biases), 'path': first.get('path', 'merged'), 'sites': lora.to_json(union, rank_map)}
  return spec, joined(combined, biases)


def parted(tensors: Tensors) -> tuple[lora.Adapters, Tensors]:
  """Returns the adapters and the biases of the flat `tensors`."""
  adapters: lora.Adapters = {}
  biases = {}
  for name, array in tensors.items():
    group, rest = name.split('/', 1)
    if group == 'biases':
      biases[rest] = array
    else:
      site, leaf = rest.rsplit('/', 1)
      adapters.setdefault(site, {})[leaf] = array
  return adapters, biases


def joined(adapters: Mapping, biases: Tensors) -> Tensors:
  """Inverse of `parted`."""
  return tree.flatten({'adapters': adapters, 'biases': biases})

"""Smaller adapters by singular values: of what somebody fine-tuned elsewhere, and of an adapter that is too large."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from adaptsr_jax import lora, methods, ranks, tree
from adaptsr_jax.adapters import card
from adaptsr_jax.adapters.file import Adapter
from adaptsr_jax.errors import UserError, some
from adaptsr_jax.lora import truncation
from adaptsr_jax.methods import lora as method
from adaptsr_jax.tree import Params


class Truncated(NamedTuple):
  """A smaller adapter and what it keeps.

  Attributes:
    adapter: with the ranks that were afforded.
    kept: site name -> share of the squared change of its kernel that is kept; sites that had none are not in it.
    left_out: leaf -> squared change of what no adapter can hold: kernels that are no sites, norms, biases elsewhere.
    share: of the squared change of all leaves, what is kept.
  """

  adapter: Adapter
  kept: dict[str, float]
  left_out: dict[str, float]
  share: float


def extract(
  meta: Mapping[str, Any],
  base: Params,
  tuned: Params,
  sites: Sequence[lora.Site],
  rank: int = 0,
  budget: int = 0,
  form: str = '1x1_kxk',
) -> Truncated:
  """Returns the adapter that leads from `base` towards `tuned`: of every kernel the best update of its rank.

  Biases of adapted sites are kept whole.

  Args:
    meta: model, fields, base_fingerprint and what else the header shall tell.
    base: numpy.
    tuned: of the same shapes.
    sites: that may have an adapter.
    rank: of every site that changed.
    budget: in its place, parameters in all: units of rank go where they keep most of the change for their cost.
    form: of convolutions, one of `lora.FORMS`.

  Raises:
    UserError: the networks are of different shapes, or the same.
  """
  if difference := tree.compare(base, tuned):
    raise UserError(f'The two networks are not of one shape:{";".join(difference[:4])} (- the base, + the other).')
  flat, changed = tree.flatten(base), tree.flatten(tuned)
  changes = {name: np.asarray(leaf, np.float64) - flat[name] for name, leaf in changed.items()}
  squares = {name: float(np.square(change).sum()) for name, change in changes.items()}
  total = sum(squares.values())
  if not total:
    raise UserError('The two networks are the same: there is nothing to extract.')
  updates = {site.name: changes[f'{"/".join(site.path)}/kernel'] for site in sites}
  for site in sites:
    if updates[site.name].ndim != len(site.shape):
      raise UserError(f'{site.name} mixes several kernels, each with a change of its own, which no one adapter holds.')
  chosen, adapters, kept, energy = _cut(sites, updates, rank, budget, form, 1.0, True)
  adapted = ['/'.join(site.path) for site in sites if site.name in adapters]
  biases = {f'{path}/bias': changed[f'{path}/bias'] for path in adapted if f'{path}/bias' in changed}
  spec = {'method': 'lora', 'form': form, 'alpha': 1.0, 'rslora': True, 'biases': bool(biases), 'path': 'merged'}
  adapter = Adapter(
    {**meta, **spec, 'sites': lora.to_json(sites, chosen), 'metrics': {}, 'date': card.today()},
    method.joined(adapters, biases),
  )
  held = {f'{path}/kernel' for path in adapted} | biases.keys()
  left_out = {name: square for name, square in squares.items() if square and name not in held}
  lost = sum(left_out.values()) + sum((1 - kept[name]) * energy[name] for name in adapters)
  return Truncated(adapter, kept, left_out, 1 - lost / total)


@methods.fitting()
def resize(adapter: Adapter, rank: int = 0, budget: int = 0) -> Truncated:
  """Returns an adapter of smaller ranks, whose updates are the nearest to those of `adapter`.

  Biases of sites that lose their adapter go with it.

  Args:
    adapter: of method 'lora'.
    rank: the largest of any site.
    budget: in its place, parameters in all, biases apart.

  Raises:
    UserError: another method, or a budget for nothing.
  """
  meta = adapter.meta
  if meta['method'] != 'lora':
    raise UserError(f'What method {meta["method"]} trained has no ranks to cut; only adapters of lora can be resized.')
  everything, had = lora.from_json(meta['sites'])
  form, alpha, rslora = meta['form'], meta['alpha'], meta['rslora']
  pairs, biases = method.parted(adapter.tensors)
  sites = [site for site in everything if had[site.name]]
  updates = {site.name: lora.delta(site, pairs[site.name], alpha, form, rslora) for site in sites}
  chosen, adapters, kept, energy = _cut(sites, updates, rank, budget, form, alpha, rslora, had)
  modules = {'/'.join(site.path) for site in sites if site.name in adapters}
  held = {name: leaf for name, leaf in biases.items() if name.rpartition('/')[0] in modules}
  measured = ('metrics', 'gains', 'pictures', 'thumbnail')
  rows = lora.to_json(everything, chosen)
  resized = {
    **{name: value for name, value in meta.items() if name not in measured},
    **{'sites': rows, 'metrics': {}, 'resized_from': tree.count(adapter.tensors), 'date': card.today()},
  }
  total = sum(energy.values())
  share = sum(kept[name] * energy[name] for name in kept) / total if total else 1.0
  left_out = {f'biases/{name}': 0.0 for name in biases if name not in held}
  return Truncated(Adapter(resized, method.joined(adapters, held)), kept, left_out, share)


def _cut(
  sites: Sequence[lora.Site],
  updates: Mapping[str, np.ndarray],
  rank: int,
  budget: int,
  form: str,
  alpha: float,
  rslora: bool,
  limits: Mapping[str, int] | None = None,
) -> tuple[dict[str, int], dict[str, Mapping[str, np.ndarray]], dict[str, float], dict[str, float]]:
  """Returns ranks within `limits`, the adapters of them nearest to `updates`, what share of each is kept, and of what.

  The last is the squared update, as far as an adapter of the form can hold it.
  """
  if (rank > 0) == (budget > 0):
    raise UserError('Give a rank or a budget, above 0.')
  gains = {site.name: truncation.energies(updates[site.name], form) for site in sites}
  if limits:
    gains = {name: values[: limits[name]] for name, values in gains.items()}
  energy = {name: float(values.sum()) for name, values in gains.items()}
  if rank:
    chosen = {name: min(rank, len(values)) for name, values in gains.items()}
  else:
    costs = {site.name: lora.cost(site, form) for site in sites}
    largest = max(map(len, gains.values()))
    chosen = ranks.allocate(energy, costs, budget, 0, largest, 'marginal', gains=gains)
  if not any(energy.values()):
    raise UserError('There is no kernel with a change that an adapter can hold.')
  if not any(chosen.values()):
    raise UserError(f'A budget of {budget:,} parameters is too small for a single rank; give a larger one.')
  adapters = {
    site.name: truncation.truncated(site, updates[site.name], chosen[site.name], form, alpha, rslora)
    for site in sites
    if chosen[site.name]
  }
  kept = {name: float(gains[name][: chosen[name]].sum() / whole) for name, whole in energy.items() if whole}
  return chosen, adapters, kept, energy


def text(name: str, result: Truncated) -> str:
  """Returns a row for each site (rank, parameters, energy kept), and what is left out."""
  meta = result.adapter.meta
  sites, chosen = lora.from_json(meta['sites'])
  width = max(len(site.name) for site in sites)
  lines = [f'{"site":{width}}  rank  parameters  energy kept']
  for site in sites:
    if site.name in result.kept:
      spent = chosen[site.name] * lora.cost(site, meta['form'])
      lines.append(f'{site.name:{width}}  {chosen[site.name]:4}  {spent:10,}  {100 * result.kept[site.name]:9.1f} %')
  if result.left_out:
    shown = sorted(result.left_out, key=lambda leaf: -result.left_out[leaf])
    lines.append(f'Left out, for no adapter holds it: the change of {some(shown, 4)}.')
  count = tree.count(result.adapter.tensors)
  lines.append(f'{name}: {count:,} parameters, {100 * result.share:.1f} % of the squared change of all weights kept')
  return '\n'.join(lines)

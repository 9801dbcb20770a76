"""What can be done with trained adapters: fold one into its base, mix several into one."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from adaptsr_jax import lora, tree
from adaptsr_jax.adapters.file import Adapter
from adaptsr_jax.errors import UserError


def apply(adapter: Adapter, params: tree.Params, strength: float = 1.0) -> tree.Params:
  """Returns the base `params` with `adapter` folded in: strength 0 gives the base, 1 the adapted model.

  Whether `params` are the base that it was trained on is for `file.check_base` to say.

  Raises:
    UserError: the adapter has sites or leaves that `params` lack.
  """
  sites, _ = lora.from_json(adapter.meta['sites'])
  base = tree.flatten(params)
  _check_fit(adapter, sites, base)
  extra = {
    name: ((1 - strength) * np.asarray(base[name], np.float32) + strength * leaf).astype(base[name].dtype)
    for name, leaf in adapter.extra.items()
  }
  scaled = lora.scale(adapter.adapters, strength)
  meta = adapter.meta
  return lora.merge(tree.overlay(params, extra), scaled, sites, meta['alpha'], meta['form'], meta['rslora'])


def mix(
  adapters: Sequence[Adapter], weights: Sequence[float], names: Sequence[str], base: tree.Params | None = None
) -> Adapter:
  """Returns one adapter whose change of the base is the weighted sum of the changes of all `adapters`.

  Ranks are concatenated, so the sum of the updates is exact. Other trained leaves are stored as whole values: without
  `base`, the weighted sum is defined only where the weights sum to 1 and all of `adapters` have the leaf.

  Args:
    adapters: all of one base and form.
    weights: one for each.
    names: of the adapters, for messages and for the record in the new meta.
    base: parameters that they were trained on.

  Raises:
    UserError: they do not go together.
  """
  first = adapters[0].meta
  for adapter, name in zip(adapters, names, strict=True):
    for field in ('base_fingerprint', 'form', 'rslora'):
      if adapter.meta[field] != first[field]:
        raise UserError(
          f'{name} has {field} {adapter.meta[field]} and {names[0]} has {first[field]}; '
          'only adapters of one base, form and scale rule can be mixed.'
        )
  sites = _union([lora.from_json(adapter.meta['sites'])[0] for adapter in adapters], names)
  # All come under the alpha of the first.
  factors = [w * adapter.meta['alpha'] / first['alpha'] for adapter, w in zip(adapters, weights, strict=True)]
  combined = lora.combine([adapter.adapters for adapter in adapters], factors, sites, first['form'], first['rslora'])
  ranks = {site.name: lora.rank_of(site, combined[site.name], first['form']) for site in sites if site.name in combined}
  meta = {
    **{field: first[field] for field in ('model', 'fields', 'base_fingerprint', 'method', 'form', 'alpha', 'rslora')},
    'base_file': first.get('base_file'),
    'sites': lora.to_json(sites, ranks),
    'metrics': {},
    'mixed_from': [{'file': name, 'weight': weight} for name, weight in zip(names, weights, strict=True)],
  }
  return Adapter(combined, _mixed_extra(adapters, weights, names, base), meta)


def _check_fit(adapter: Adapter, sites: Sequence[lora.Site], base: Mapping[str, np.ndarray]) -> None:
  for name, leaf in adapter.extra.items():
    if np.shape(base.get(name, ())) != leaf.shape:
      raise UserError(
        f'The adapter has a leaf {name} of shape {leaf.shape} that the base lacks or has in another shape.'
      )
  for site in sites:
    kernel = np.shape(base.get('/'.join((*site.path, 'kernel')), ()))
    columns = site.part or (0, site.shape[-1])
    if kernel[:-1] != site.shape[:-1] or columns[1] > kernel[-1] or (site.part is None and kernel != site.shape):
      raise UserError(
        f'The adapter has a site {site.name} of shape {site.shape}; the base has {kernel or "none"} there.'
      )


def _union(groups: Sequence[Sequence[lora.Site]], names: Sequence[str]) -> tuple[lora.Site, ...]:
  union: dict[str, lora.Site] = {}
  for group, name in zip(groups, names, strict=True):
    for site in group:
      if union.setdefault(site.name, site) != site:
        raise UserError(f'{name} describes site {site.name} otherwise than {names[0]}; they are not of one base.')
  return tuple(union.values())


def _mixed_extra(
  adapters: Sequence[Adapter], weights: Sequence[float], names: Sequence[str], base: tree.Params | None
) -> dict[str, np.ndarray]:
  flat = tree.flatten(base) if base else {}
  mixed = {}
  for leaf in sorted({leaf for adapter in adapters for leaf in adapter.extra}):
    lacking = [name for adapter, name in zip(adapters, names, strict=True) if leaf not in adapter.extra]
    if leaf in flat:
      start = np.asarray(flat[leaf], np.float32)
    elif not lacking and math.isclose(sum(weights), 1, abs_tol=1e-6):
      start = np.float32(0)
    else:
      reason = f'{lacking[0]} has none' if lacking else f'the weights sum to {sum(weights):g}, not to 1'
      raise UserError(f'The trained leaf {leaf} cannot be mixed because {reason}; give their base with --base.')
    members = [(adapter.extra[leaf], w) for adapter, w in zip(adapters, weights, strict=True) if leaf in adapter.extra]
    mixed[leaf] = start + sum(np.float32(w) * (value - start) for value, w in members)
  return mixed

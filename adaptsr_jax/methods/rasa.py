"""RaSA: low-rank adapters that share a part of their ranks (He et al., ICLR 2025).

The members of a group, L kernels of one kind and shape, give k of their r ranks to a pool that all of them use. Each
weighs its own r - k components and the L k shared ones by a vector of its own:

    delta_i = [a_i a_S] diag(m_i) [b_i ; b_S]     m starts at alpha / (2 (r - k)), shared part at alpha / (2 L k)

Sites outside of the groups have plain adapters, alpha / r * a b.

Spec: 'rank' (r), 'shared' (k, at most r), 'alpha', 'form' (see `lora.adapters`), 'groups' {name: [site, ...]}, 'sites'
(see `lora.to_json`; all of rank r).
Trainable: 'adapters' {site: {'a', 'b', 'm'}}, m (r - k + L k,) with the private part first; no 'm' outside of groups,
no 'a' and 'b' where k = r. 'pools' {group: {'a', 'b'}} of rank L k.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from adaptsr_jax import lora, tree
from adaptsr_jax.errors import UserError
from adaptsr_jax.lora import Site
from adaptsr_jax.methods import lora as plain_lora
from adaptsr_jax.methods.base import Method, Plan, Scores, Tensors, through_merge
from adaptsr_jax.tree import Params

# The rate is the authors'.
DEFAULTS = {'lr': 5e-4, 'schedule': 'steps'}
CHOICES = {'form': lora.FORMS, 'groups': ('stages', 'blocks', 'shapes')}
LEAST = {'rank': 1, 'shared': 0}
MOST = {'rank': 2**14}
SPEC = {'form': str, 'rank': int, 'shared': int, 'alpha': float, 'groups': dict, 'sites': list}


def fields() -> ConfigDict:
  """Returns the fields `config.rasa`."""
  c = ConfigDict()
  # How a convolution is factored, as `config.lora.form`.
  c.form = '1x1_kxk'
  c.rank = 8
  # Ranks that every member of a group gives to its pool; 0: an eighth of them, at least 1.
  c.shared = 0
  # The authors' scale, by which the weights start.
  c.alpha = 8.0
  # Which sites of one kind and shape share: 'stages', those whose names differ in their first number only, as the
  # authors have it; 'blocks', in any number; 'shapes', all.
  c.groups = 'stages'
  # Kinds of sites that share ('conv', 'mlp', 'attn'); the others have plain adapters. Empty: all.
  c.kinds = ()
  return c


def check(config: ConfigDict) -> None:
  """Raises UserError for more shared ranks than there are, and for what CHOICES and LEAST do not tell."""
  if config.rasa.alpha <= 0:  # at 0 all gradients are 0, and stay so
    raise UserError(f'config.rasa.alpha is {config.rasa.alpha}; it must be above 0.')
  unknown = [kind for kind in config.rasa.kinds if kind not in ('conv', 'mlp', 'attn')]
  if unknown:
    raise UserError(f'config.rasa.kinds contains {unknown[0]!r}; it can have: conv, mlp, attn.')
  if config.rasa.shared > config.rasa.rank:
    raise UserError(f'config.rasa.shared is {config.rasa.shared}, above config.rasa.rank of {config.rasa.rank}.')


def plan(config: ConfigDict, sites: Sequence[Site], scores: Scores | None) -> Plan:
  """Returns the groups; every site has the same rank."""
  c = config.rasa
  groups: dict[str, list[str]] = {}
  for site in sites:
    if not c.kinds or site.kind in c.kinds:
      name = site.kind if c.groups == 'shapes' else re.sub(r'_\d+', '_*', site.name, count=c.groups == 'stages')
      groups.setdefault(f'{name} {"x".join(map(str, site.shape))}', []).append(site.name)
  spec = {
    'method': 'rasa',
    'form': c.form,
    'rank': c.rank,
    'shared': c.shared or max(1, c.rank // 8),
    'alpha': float(c.alpha),
    'groups': groups,
    'sites': lora.to_json(sites, dict.fromkeys((site.name for site in sites), c.rank)),
  }
  return Plan(spec)


def build(spec: Mapping[str, Any], constants: Mapping[str, np.ndarray]) -> Method:
  """Returns the method of `spec`."""
  rank, shared, alpha, form, groups = (spec[field] for field in ('rank', 'shared', 'alpha', 'form', 'groups'))
  sites, _ = lora.from_json(spec['sites'])
  by_name = {site.name: site for site in sites}

  def init(key, base: Params) -> tuple[Params, Params]:
    ranks = {site.name: rank for site in sites} | dict.fromkeys(_group_of(spec), rank - shared)
    own = lora.init(key, sites, ranks, form)
    heads = [by_name[members[0]]._replace(name=name) for name, members in groups.items()]
    pools = lora.init(key, heads, {name: len(members) * shared for name, members in groups.items()}, form)
    for member, name in _group_of(spec).items():
      sizes = (rank - shared, len(groups[name]) * shared)
      own.setdefault(member, {})['m'] = jnp.concatenate([jnp.full(n, alpha / (2 * n)) for n in sizes if n])
    return base, {'adapters': own, 'pools': pools}

  def merge(frozen: Params, trainable: Params) -> Params:
    return lora.merge(frozen, _plain(spec, sites, trainable), sites, 1.0, form)

  return Method(init, merge, lambda trainable: 'train', through_merge(merge), spec)


def _group_of(spec: Mapping[str, Any]) -> dict[str, str]:
  return {member: name for name, members in spec['groups'].items() for member in members}


def _plain(spec: Mapping[str, Any], sites: Sequence[Site], trained: Mapping[str, Any]) -> lora.Adapters:
  """Returns the plain adapters, of alpha 1, with the same update."""
  form, group_of, plain = spec['form'], _group_of(spec), {}
  for site in sites:
    ab = trained['adapters'][site.name]
    if site.name in group_of:
      parts = [ab] * ('a' in ab) + [trained['pools'][group_of[site.name]]]
      whole = lora.concatenate(site, parts, form)
      # Times the rank by which 'lora' divides: the weights are all the scale there is.
      plain[site.name] = lora.weigh(site, whole, ab['m'] * len(ab['m']), form)
    else:
      plain[site.name] = {'a': ab['a'], 'b': spec['alpha'] * ab['b']}
  return plain


def table(spec: Mapping[str, Any], tensors: Mapping[str, Any]) -> str:
  """Returns the groups, with members and the ranks that each member uses."""
  private, shared = spec['rank'] - spec['shared'], spec['shared']
  return '\n'.join(
    f'{name}  {len(members)} members, rank {private} + {len(members) * shared} shared'
    for name, members in spec['groups'].items()
  )


def scale(spec: Mapping[str, Any], tensors: Tensors, base: Tensors, strength: float) -> Tensors:
  """Returns adapters with `strength` times the update: by the weights, outside of the groups by b."""
  linear = {f'adapters/{site["name"]}/b' for site in spec['sites'] if site['name'] not in _group_of(spec)}
  return {name: strength * x if name.endswith('/m') or name in linear else x for name, x in tensors.items()}


def mix(specs, states: Sequence[Tensors], weights, names, base: Tensors) -> tuple[dict[str, Any], Tensors]:
  """Returns the sum as adapters of method 'lora': exact, and larger, as every member then owns its ranks."""
  specs, states = zip(*map(_as_lora, specs, states), strict=True)
  return plain_lora.mix(specs, states, weights, names, base)


def _as_lora(spec: Mapping[str, Any], tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
  """Returns spec and tensors of method 'lora' with the same update."""
  sites, _ = lora.from_json(spec['sites'])
  both, _ = plain_lora.parted(tensors)  # names of pools have a blank, which those of sites have not
  plain = _plain(spec, sites, {'adapters': both, 'pools': both})
  ranks = {site.name: lora.rank_of(site, plain[site.name], spec['form']) for site in sites}
  rows = lora.to_json(sites, ranks)
  fields = {'method': 'lora', 'form': spec['form'], 'alpha': 1.0, 'rslora': False, 'biases': False, 'path': 'merged'}
  return {**fields, 'sites': rows}, tree.flatten({'adapters': plain})

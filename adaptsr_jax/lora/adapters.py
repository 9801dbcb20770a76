"""Adapters: their arrays and algebra, with no knowledge of models, files or optimisers.

Adapters are a flat dict: site name -> {'a', 'b'}. The update of a kernel is `delta = scale * BA` with scale = alpha / r
(or alpha / sqrt(r), rank-stabilised). The shapes of 'a' and 'b' depend on the kernel and on the form; r is the rank:

  dense (cin, cout)                      a (cin, r)              b (r, cout)
  convolution (kh, kw, cin, cout)
    '1x1_kxk'  AdaptSR, equation 2       a (cin, r)              b (kh, kw, r, cout)
    'kxk_1x1'                            a (kh, kw, cin, r)      b (r, cout)
    'loralib'  square kernels only       a (r k, cin k)          b (cout k, r k)

In the first three rows the last axis of 'a' and the last but one of 'b' are the rank, so that `a @ b` with broadcasting
is the product for all of them. 'loralib' reads its product row by row as (cout, cin, kh, kw).
"""

import functools
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adaptsr_jax import tree
from adaptsr_jax.errors import UserError, some
from adaptsr_jax.lora.sites import Site, is_loralib, shapes, square

Adapters = dict[str, dict[str, jax.Array]]
RankMap = dict[str, int]


def init(key: jax.Array | None, sites: Sequence[Site], ranks: Mapping[str, int], form: str) -> Adapters:
  """Returns fresh float32 adapters: b = 0, so that merging them gives the base; a uniform within 1 / sqrt(fan in).

  The fan in of 'a' is cin, kh kw cin or k cin, by form. A site of rank 0, or absent from `ranks`, has no entry. The
  values at a site depend on the key and the site's name only: adding a site leaves the others as they were.

  Without a key all is 0, in numpy: for adapters whose values are yet to be filled in.

  Raises:
    UserError: `ranks` names a site that is not among `sites`, or the form does not fit.
  """
  _check_names(ranks, sites)
  adapted = [site for site in sites if ranks.get(site.name, 0) > 0]
  sizes = {site.name: shapes(site, ranks[site.name], form) for site in adapted}
  if key is None:
    return {site: {name: np.zeros(size, np.float32) for name, size in both.items()} for site, both in sizes.items()}
  if not adapted:
    return {}
  firsts = [(site, sizes[site.name]['a']) for site in adapted]
  fans = [shape[1] if is_loralib(site, form) else math.prod(shape[:-1]) for site, shape in firsts]
  # One program for all shapes: what is drawn for the first n of a longer row is what would be drawn for n.
  longest = max(math.prod(both['a']) for both in sizes.values())
  labels = np.array([zlib.crc32(site.name.encode()) for site in adapted], np.uint32)
  rows = _drawn(key, labels, np.array([1 / math.sqrt(fan) for fan in fans], np.float32), longest)
  # In numpy where there are values: jax would compile a program for every shape.
  rows, xp = (rows, jnp) if isinstance(rows, jax.core.Tracer) else (np.asarray(rows), np)
  return {
    site: {'a': row[: math.prod(both['a'])].reshape(both['a']), 'b': xp.zeros(both['b'], np.float32)}
    for row, (site, both) in zip(rows, sizes.items(), strict=True)
  }


@functools.partial(jax.jit, static_argnums=3)
def _drawn(key: jax.Array, labels: jax.Array, bounds: jax.Array, length: int) -> jax.Array:
  """Returns (labels, length) float32, each row uniform within its bound."""

  def row(label: jax.Array, bound: jax.Array) -> jax.Array:
    return jax.random.uniform(jax.random.fold_in(key, label), (length,), jnp.float32, -bound, bound)

  return jax.vmap(row)(labels, bounds)


def delta(site: Site, ab: Mapping[str, jax.Array], alpha: float, form: str, rslora: bool = False) -> jax.Array:
  """Returns the update of the kernel of `site`, float32, of shape `site.shape`; numpy where the adapter is."""
  a, b = (ab[name].astype(np.float32) for name in ('a', 'b'))
  factor = scaling(alpha, rank_of(site, ab, form), rslora)
  if not is_loralib(site, form):
    return factor * _product(a, b)
  kh, kw, cin, cout = site.shape
  return factor * _product(b, a).reshape(cout, cin, kh, kw).transpose(2, 3, 1, 0)


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
  """Returns x @ y; of numpy in numpy, which has nothing to compile for every new rank."""
  if _module(x, y) is np:
    return np.matmul(x, y)
  # Full precision on every device: what is exported is what was trained, and the products are small.
  return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def _module(*arrays: jax.Array) -> Any:
  return np if all(isinstance(array, np.ndarray) for array in arrays) else jnp


def merge(
  params: tree.Params, adapters: Mapping, sites: Sequence[Site], alpha: float, form: str, rslora: bool = False
) -> tree.Params:
  """Returns `params` with every adapter added to its kernel; pure, and differentiable in `adapters`.

  Arrays of numpy are merged by numpy: the same result on every device, and nothing is compiled.
  The sum is taken in float32, then cast to the kernel's own dtype. Leaves without an adapter are the same objects.

  Raises:
    UserError: `adapters` names a site that is not among `sites`.
  """
  for path, group in by_kernel(adapters, sites).items():
    base = tree.get(params, path)['kernel']
    kernel = base.astype(np.float32)
    for site in group:
      kernel = kernel + in_columns(delta(site, adapters[site.name], alpha, form, rslora), site.part, base.shape[-1])
    params = tree.replaced(params, (*path, 'kernel'), kernel.astype(base.dtype))
  return params


def scale(adapters: Mapping, s: float | jax.Array) -> Adapters:
  """Returns adapters whose update is `s` times as large: 0 is the base, 1 the adaptation, in between a mixture."""
  return {name: {'a': ab['a'], 'b': s * ab['b']} for name, ab in adapters.items()}


def combine(
  adapters: Sequence[Mapping], weights: Sequence[float], sites: Sequence[Site], form: str, rslora: bool = False
) -> Adapters:
  """Returns adapters whose update is the weighted sum of the updates of all of `adapters`, under the same alpha.

  Ranks are concatenated, so the sum is exact; 'b' is rescaled because alpha / r falls with the larger rank. A site may
  be missing in some of them.

  Raises:
    UserError: one of them names a site that is not among `sites`.
  """
  for each in adapters:
    _check_names(each, sites)
  combined = {}
  for site in sites:
    members = [(each[site.name], weight) for each, weight in zip(adapters, weights, strict=True) if site.name in each]
    if not members:
      continue
    total = sum(rank_of(site, ab, form) for ab, _ in members)
    factors = [
      weight * scaling(1.0, rank_of(site, ab, form), rslora) / scaling(1.0, total, rslora) for ab, weight in members
    ]
    scaled = [{'a': ab['a'], 'b': factor * ab['b']} for (ab, _), factor in zip(members, factors, strict=True)]
    combined[site.name] = concatenate(site, scaled, form)
  return combined


def concatenate(site: Site, members: Sequence[Mapping[str, jax.Array]], form: str) -> dict[str, jax.Array]:
  """Returns one adapter of `site` with the ranks of all `members` side by side: its product is the sum of theirs."""
  axis_a, axis_b = (0, 1) if is_loralib(site, form) else (-1, -2)
  return {
    name: _module(*(ab[name] for ab in members)).concatenate([ab[name] for ab in members], axis)
    for name, axis in (('a', axis_a), ('b', axis_b))
  }


def weigh(site: Site, ab: Mapping[str, jax.Array], weights: jax.Array, form: str) -> dict[str, jax.Array]:
  """Returns `ab` with each of its ranks multiplied by one of `weights` (r,); a rank of 'loralib' is k rows of 'a'."""
  columns = jnp.repeat(weights, square(site))[:, None] if is_loralib(site, form) else weights
  return {'a': ab['a'] * columns, 'b': ab['b']}


def rank_of(site: Site, ab: Mapping[str, jax.Array], form: str) -> int:
  """Returns the rank of the adapter `ab` at `site`."""
  return ab['a'].shape[0] // square(site) if is_loralib(site, form) else ab['a'].shape[-1]


def scaling(alpha: float, rank: int, rslora: bool) -> float:
  """Returns the factor before BA: alpha / r, or alpha / sqrt(r) when rank-stabilised."""
  return alpha / math.sqrt(rank) if rslora else alpha / rank


def by_kernel(adapters: Mapping, sites: Sequence[Site]) -> dict[tuple[str, ...], list[Site]]:
  """Returns the sites that have an adapter, grouped by the module that owns the kernel: parts of one kernel together.

  Raises:
    UserError: `adapters` names a site that is not among `sites`.
  """
  _check_names(adapters, sites)
  groups: dict[tuple[str, ...], list[Site]] = {}
  for site in sites:
    if site.name in adapters:
      groups.setdefault(site.path, []).append(site)
  return groups


def in_columns(x: jax.Array, part: tuple[int, int] | None, width: int) -> jax.Array:
  """Returns `x` (..., columns) placed at columns `part` of zeros (..., width); `x` itself where part is None."""
  if part is None:
    return x
  start, stop = part
  # Padding, not a scatter: it fuses with the addition, and its gradient is a slice.
  return _module(x).pad(x, [(0, 0)] * (x.ndim - 1) + [(start, width - stop)])


def _check_names(names: Mapping, sites: Sequence[Site]) -> None:
  unknown = sorted(set(names) - {site.name for site in sites})
  if unknown:
    raise UserError(
      f'{some(unknown, 3)} is not among the {len(sites)} sites of this model; '
      'ranks and adapters belong to one model and one choice of sites.'
    )

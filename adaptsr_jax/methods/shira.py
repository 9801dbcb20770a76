"""SHiRA: a few entries of the kernels are trained, with no limit of rank (Bhardwaj et al., NeurIPS 2024).

    W' = W with scale * v added at the chosen entries;   v starts at 0, scale is 1 in training

Which entries is decided before the first step, by the mask:

  'struct'     the main diagonal of the kernel as a matrix (kh kw in, out), then whole columns at random
  'random'     without replacement
  'magnitude'  the largest |W|;   'gradient' the largest |G|;   'snip' the largest |W G|; G is the mean gradient

Of equal entries those of the lower index are chosen.

Spec: 'mask', 'scale', 'sites' (see `lora.to_json`, of rank 0). Constants: {site: (K,) int32}, flat indices into the
kernel of the site, row by row. Frozen: {'base': parameters, 'indices': the constants}. Trainable: {'v': {site: (K,)}}.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from adaptsr_jax import lora, tree
from adaptsr_jax.errors import UserError
from adaptsr_jax.lora import Site
from adaptsr_jax.methods.base import CONSTANTS, Method, Plan, Scores, Tensors, through_merge
from adaptsr_jax.tree import Params

# That of full fine-tuning in the paper: the entries are trained in place. 1e-3 swung in a run of 100 steps.
DEFAULTS = {'lr': 2e-4, 'schedule': 'steps'}
CHOICES = {'mask': ('struct', 'random', 'magnitude', 'gradient', 'snip'), 'across': ('site', 'all')}
LEAST = {'share': 0, 'rank': 0}
MOST = {'share': 1, 'rank': 2**14}
SPEC = {'scale': float, 'sites': list}


def fields() -> ConfigDict:
  """Returns the fields `config.shira`."""
  c = ConfigDict()
  # 'struct', 'random', 'magnitude', 'gradient', 'snip'; the last two need training pictures, else it is 'magnitude'.
  c.mask = 'snip'
  # Part of the entries that is trained; the authors train 0.01 to 0.02.
  c.share = 0.02
  # As many entries as an adapter of this rank has parameters, rank * (kh kw in + out), instead of `share`. 0: by share.
  c.rank = 0
  # Choose the entries in each kernel ('site'), or so many in all kernels together ('all').
  c.across = 'site'
  return c


def plan(config: ConfigDict, sites: Sequence[Site], scores: Scores | None) -> Plan:
  """Returns the entries that are trained."""
  c = config.shira
  mask = c.mask if scores.available or c.mask not in ('gradient', 'snip') else 'magnitude'
  worth = [_worth(mask, site, scores, config.seed).ravel() for site in sites]
  sizes = [len(w) for w in worth]
  if c.rank:
    counts = [min(size, c.rank * lora.cost(site, 'kxk_1x1')) for site, size in zip(sites, sizes, strict=True)]
  else:
    counts = [math.floor(c.share * size + 1e-9) for size in sizes]
  if c.across == 'all':
    ends = np.cumsum(sizes)
    chosen = _largest(np.concatenate(worth), sum(counts) if c.rank else round(c.share * ends[-1]))
    parts = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
    indices = [part - start for part, start in zip(parts, ends - sizes, strict=True)]
  else:
    indices = [_largest(w, count) for w, count in zip(worth, counts, strict=True)]
  constants = {site.name: i.astype(np.int32) for site, i in zip(sites, indices, strict=True) if len(i)}
  kept = [site for site in sites if site.name in constants]
  return Plan({'method': 'shira', 'mask': mask, 'scale': 1.0, 'sites': lora.to_json(kept, {})}, constants)


def _worth(mask: str, site: Site, scores: Scores, seed: int) -> np.ndarray:
  """Returns what decides which entries of a kernel come first, of site.shape."""
  rng = np.random.default_rng([seed, zlib.crc32(site.name.encode())])
  if mask == 'random':
    return rng.random(site.shape)
  if mask == 'struct':
    matrix = np.tile(rng.random(site.shape[-1]), (math.prod(site.shape[:-1]), 1))
    np.fill_diagonal(matrix, 1)  # above every column
    return matrix
  kernel = np.asarray(tree.get(scores.params, site.path)['kernel'])
  kernel = kernel.reshape(-1, *kernel.shape[-len(site.shape) :]).mean(axis=0)[..., slice(*(site.part or (None,)))]
  if mask == 'magnitude':
    return np.abs(kernel)
  gradient = scores.gradients()[site.name]
  return np.abs(gradient if mask == 'gradient' else kernel * gradient)


def _largest(worth: np.ndarray, count: int) -> np.ndarray:
  """Returns the sorted indices of the `count` largest; of equal ones the first."""
  if not count:
    return np.zeros(0, int)
  least = np.partition(worth, -count)[-count]
  above = np.flatnonzero(worth > least)
  return np.sort(np.concatenate([above, np.flatnonzero(worth == least)[: count - len(above)]]))


def build(spec: Mapping[str, Any], constants: Mapping[str, np.ndarray]) -> Method:
  """Returns the method of `spec`."""
  sites, _ = lora.from_json(spec['sites'])

  def init(key, base: Params) -> tuple[Params, Params]:
    for site in sites:
      indices = constants[site.name]
      if indices.dtype.kind != 'i' or not ((indices >= 0) & (indices < math.prod(site.shape))).all():
        raise UserError(f'The indices at {site.name} are no places in its kernel.')
    start = {name: jnp.zeros(len(indices), jnp.float32) for name, indices in constants.items()}
    return {'base': base, 'indices': dict(constants)}, {'v': start}

  def merge(frozen: Params, trainable: Params) -> Params:
    params = frozen['base']
    for site in sites:
      kernel = jnp.asarray(tree.get(params, site.path)['kernel'])
      at = _in_kernel(frozen['indices'][site.name], site, kernel.shape[-1])
      # Networks that mix several kernels have them along a first axis; all are changed alike. Not a sum with zeros
      # elsewhere: the other entries keep their bits.
      several = kernel.reshape(-1, math.prod(kernel.shape[-len(site.shape) :]))
      changed = several.at[:, at].add(spec['scale'] * trainable['v'][site.name], unique_indices=True)
      params = tree.replaced(params, (*site.path, 'kernel'), changed.reshape(kernel.shape))
    return params

  return Method(init, merge, lambda trainable: 'train', through_merge(merge), spec, constants)


def _in_kernel(indices, site: Site, width: int):
  """Returns indices into the whole kernel, `width` columns wide, of those into the columns of the site."""
  if site.part is None:
    return indices
  row, column = jnp.divmod(indices, site.shape[-1])
  return row * width + site.part[0] + column


def table(spec: Mapping[str, Any], tensors: Mapping[str, Any]) -> str:
  """Returns how many entries of each kernel are trained."""
  counts = {row['name']: (np.size(tensors[f'v/{row["name"]}']), math.prod(row['shape'])) for row in spec['sites']}
  return '\n'.join(f'{name}  {count:,} of {size:,} entries' for name, (count, size) in counts.items())


def scale(spec: Mapping[str, Any], tensors: Tensors, base: Tensors, strength: float) -> Tensors:
  """Returns `strength` times the values."""
  return {name: strength * values for name, values in tensors.items()}


def mix(specs, states: Sequence[Tensors], weights, names, base: Tensors) -> tuple[dict[str, Any], Tensors]:
  """Returns the weighted sum of the values at all entries that any of them trains."""
  rows = {row['name']: row for spec in specs for row in spec['sites']}
  mixed: Tensors = {}
  for site in rows:
    at, value = f'{CONSTANTS}{site}', f'v/{site}'
    members = [(s, w * spec['scale']) for spec, s, w in zip(specs, states, weights, strict=True) if at in s]
    mixed[at], places = np.unique(np.concatenate([s[at] for s, _ in members]), return_inverse=True)
    mixed[value] = np.bincount(places, np.concatenate([w * s[value] for s, w in members])).astype(np.float32)
  return {**specs[0], 'scale': 1.0, 'sites': list(rows.values())}, mixed

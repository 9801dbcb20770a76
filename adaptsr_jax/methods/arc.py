"""ARC: adapters at the input of residual branches that share their projection (Dong et al., NeurIPS 2023).

An adapter maps what enters a branch to x + ((x P) * c) P^T + e. P (d, r) is shared by the blocks of a stage, one for
each kind of branch; c (r,) and e (d,) belong to one branch. c and e start at 0 (the authors' c of MLPs does not): the
start is the base.

Form 'fold': the adapter stands behind the norm, in front of the first layer of the branch, and folds into it:
W' = W + (P * c) (P^T W), b' = b + e W. Before a convolution the same is done at every position of the window: unlike an
adapter that runs beside it, e then reaches the zeros of the padding too. A layer without a bias takes no e.
Form 'swin' (that of the published counts, very likely): so for attention, but the adapter of an MLP replaces the
residual stream before norm2, which no kernel holds. There is no merged network. No dropout in either form.

Spec: 'form', 'rank' (r), 'branches' {path of the first layer: name of its P}, 'widths' {name of P: d}.
Trainable: 'p' {name: (d, r)}, 'c' {path: (r,)}, 'e' {path: (d,)}.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from adaptsr_jax import tree
from adaptsr_jax.errors import UserError
from adaptsr_jax.lora import Site
from adaptsr_jax.methods.base import Method, Plan, Scores, Tensors, branches_of, through_merge
from adaptsr_jax.tree import Params

DEFAULTS = {'lr': 1e-3, 'schedule': 'steps'}
CHOICES = {'form': ('fold', 'swin')}
LEAST = {'rank': 1}
MOST = {'rank': 2**14}
SPEC = {'form': str, 'rank': int, 'branches': dict, 'widths': dict}
UNMERGEABLE = (
  "ARC of form 'swin' cannot be merged: its MLP adapters act on the residual stream, which no kernel holds; "
  "config.arc.form='fold' can."
)


def fields() -> ConfigDict:
  """Returns the fields `config.arc`."""
  c = ConfigDict()
  # 'fold', or 'swin' for blocks with attention, norm2 and MLP, which leaves no merged network.
  c.form = 'fold'
  # Columns of P. The paper compared with has 50 to 500 for d = 180.
  c.rank = 50
  # Regular expressions; a site is the first layer of a residual branch where one is found in its path.
  c.branches = ('attn/qkv$', 'mlp/fc1$', r'body_\d+/conv1$', 'ccm/ccm_0$')
  return c


def plan(config: ConfigDict, sites: Sequence[Site], scores: Scores | None) -> Plan:
  """Returns the first layers of the residual branches, and which of them share a projection."""
  c = config.arc
  firsts = branches_of('arc', sites, c.branches)
  if c.form == 'swin' and not any(path.endswith('mlp/fc1') for path in firsts):
    raise UserError("config.arc.form is 'swin', and there is no MLP in a block of attention here; use 'fold'.")
  # The branches of a stage share one projection: its name is that of their layer without the number of the block.
  parts = ((path, *path.rpartition('/')) for path in firsts)
  branches = {path: re.sub(r'_\d+(?!.*_\d)', '_*', module) + f'/{layer}' for path, module, _, layer in parts}
  widths = {branches[path]: site.shape[-2] for path, site in firsts.items()}
  return Plan({'method': 'arc', 'form': c.form, 'rank': c.rank, 'branches': branches, 'widths': widths})


def build(spec: Mapping[str, Any], constants: Mapping[str, np.ndarray]) -> Method:
  """Returns the method of `spec`."""
  branches, widths, rank = spec['branches'], spec['widths'], spec['rank']
  swin = spec['form'] == 'swin'
  in_stream = {path: tuple(path.split('/')[:-2]) for path in branches if swin and path.endswith('mlp/fc1')}

  def init(key, base: Params) -> tuple[Params, Params]:
    flat = tree.flatten(base)
    xavier = nn.initializers.xavier_uniform()
    drawn = {name: np.zeros((width, rank), np.float32) for name, width in widths.items()}
    if key is not None:
      keys = jax.random.split(key, len(widths))
      drawn = {name: xavier(each, leaf.shape) for each, (name, leaf) in zip(keys, drawn.items(), strict=True)}
    shifted = [path for path in branches if path in in_stream or f'{path}/bias' in flat]
    return base, {
      'p': drawn,
      'c': {path: jnp.zeros(rank) for path in branches},
      'e': {path: jnp.zeros(widths[branches[path]]) for path in shifted},
    }

  def adapter(trainable: Params, path: str) -> tuple:
    return trainable['p'][branches[path]], trainable['c'][path], trainable['e'].get(path, 0)

  def folded(frozen: Params, trainable: Params) -> Params:
    for path in branches:
      if path not in in_stream:
        keys = tuple(path.split('/'))
        frozen = tree.replaced(frozen, keys, _fold(tree.get(frozen, keys), *adapter(trainable, path)))
    return frozen

  def merge(frozen: Params, trainable: Params) -> Params:
    raise UserError(UNMERGEABLE)

  def forward(apply_fn, frozen: Params, trainable: Params, x):
    blocks = {block: adapter(trainable, path) for path, block in in_stream.items()}
    changes = {}

    def adapt(call, args, kwargs, context):
      *block, name = context.module.path or ('',)
      block = tuple(block)
      if block not in blocks or name not in ('norm2', 'mlp') or context.method_name != '__call__':
        return call(*args, **kwargs)
      if name == 'norm2':
        p, c, e = blocks[block]
        changes[block] = change = _matmul(_matmul(args[0], p) * c, p.T) + e
        return call(args[0] + change)
      # The block adds this to the stream as it was.
      return call(*args, **kwargs) + changes[block]

    with nn.intercept_methods(adapt):
      y = apply_fn({'params': folded(frozen, trainable)}, x)
    if changes.keys() != blocks.keys():
      raise RuntimeError('adapters of the residual stream were not applied: is apply_fn compiled by itself?')
    return y

  labels = lambda trainable: 'train'  # noqa: E731
  if swin:
    return Method(init, merge, labels, forward, spec, unmergeable=UNMERGEABLE)
  return Method(init, folded, labels, through_merge(folded), spec)


def _fold(layer: Params, p, c, e) -> Params:
  """Returns kernel and bias of a layer that takes its input through the adapter."""
  kernel = jnp.asarray(layer['kernel'])
  # Not (I + (P * c) P^T) W, which at c = 0 is W only where products are exact.
  folded = {**layer, 'kernel': kernel + _matmul(p * c, _matmul(p.T, kernel))}
  if 'bias' in layer:
    window = tuple(range(max(0, kernel.ndim - 4), kernel.ndim - 2))
    folded['bias'] = layer['bias'] + _matmul(e, kernel.sum(axis=window))
  return folded


def _matmul(a, b):
  return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def table(spec: Mapping[str, Any], tensors: Mapping[str, Any]) -> str:
  """Returns the projections, and how many branches share each."""
  shares = list(spec['branches'].values())
  return '\n'.join(
    f'{name}  {width} x {spec["rank"]}, {shares.count(name)} branches' for name, width in spec['widths'].items()
  )


def scale(spec: Mapping[str, Any], tensors: Tensors, base: Tensors, strength: float) -> Tensors:
  """Returns adapters with `strength` times the change: c and e in proportion."""
  return {name: x if name.startswith('p/') else strength * x for name, x in tensors.items()}


def mix(specs, states: Sequence[Tensors], weights, names, base: Tensors) -> tuple[dict[str, Any], Tensors]:
  """Returns adapters with the columns of all P side by side, so that the sum is exact."""
  for spec, name in zip(specs, names, strict=True):
    if any(spec[field] != specs[0][field] for field in ('form', 'branches')):
      raise UserError(f'{name} has another form or other branches than {names[0]}; ARC adapters mix where both agree.')
  scaled = [scale(spec, state, {}, w) for spec, state, w in zip(specs, states, weights, strict=True)]
  mixed = {
    name: sum(state[name] for state in scaled)
    if name.startswith('e/')
    else np.concatenate([state[name] for state in scaled], axis=-1)
    for name in states[0]
  }
  return {**specs[0], 'rank': sum(spec['rank'] for spec in specs)}, mixed

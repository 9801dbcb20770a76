"""Low-rank adapters in the kernels of the sites, with the biases of adapted sites trained beside them on request."""

import math
from typing import Any

import jax
from ml_collections import ConfigDict

from adaptsr_jax import lora, tree
from adaptsr_jax.lora import Site
from adaptsr_jax.methods.base import Method, through_merge
from adaptsr_jax.tree import Params


def spec(config: ConfigDict, sites: tuple[Site, ...], ranks: dict[str, int]) -> dict[str, Any]:
  """Returns the form and scale of the adapters, and every site with its rank (0: left alone)."""
  return {
    'method': 'lora',
    'form': config.lora.form,
    'alpha': float(config.lora.alpha),
    'rslora': bool(config.lora.rslora),
    'biases': bool(config.lora.biases),
    'path': _faster(config, sites, ranks) if config.lora.path == 'auto' else config.lora.path,
    'sites': lora.to_json(sites, ranks),
  }


def _faster(config: ConfigDict, sites: tuple[Site, ...], ranks: dict[str, int]) -> str:
  """Returns the path, 'merged' or 'factored', that takes less time here."""
  # CPU time of a factored step over that of a merged one at rank 8 (benchmarks/README.md): '1x1_kxk' 0.66 to 1.06 for
  # EDSR and SAFMN, least for large batches; 'kxk_1x1' 0.74 to 1.4; 'loralib' merges its convolutions either way. Other
  # devices are not measured yet, and the factored step reads and writes up to 1.6 times the bytes.
  form = config.lora.form
  # In low precision, training through merged kernels is closer to the merged network that is exported.
  if jax.default_backend() != 'cpu' or form != '1x1_kxk' or config.dtype != 'float32':
    return 'merged'
  adapted = [site for site in sites if ranks.get(site.name, 0)]
  # Dense layers are cheap to merge and many: 0.83 against 0.88 of a full step for SwinIR-S.
  if any(site.kind != 'conv' for site in adapted):
    return 'merged'
  # For each pixel, the factored path multiplies with every value of an adapter three times, once forward and once in
  # each of two gradients; the merged path multiplies with every value of a kernel once more, for its gradient.
  thin = 3 * sum(ranks[site.name] * lora.cost(site, form) for site in adapted)
  return 'factored' if thin < sum(math.prod(site.shape) for site in adapted) else 'merged'


def build(spec: dict[str, Any]) -> Method:
  """Returns the method of `spec`. Trainable: {'adapters': {site: {'a', 'b'}}, 'biases': {'path/bias': array}}."""
  form, alpha, rslora = spec['form'], spec['alpha'], spec['rslora']
  sites, ranks = lora.from_json(spec['sites'])
  adapted = dict.fromkeys('/'.join(site.path) for site in sites if ranks[site.name])

  def init(key, base: Params) -> tuple[Params, Params]:
    flat = tree.flatten(base)
    names = [f'{module}/bias' for module in adapted if spec['biases'] and f'{module}/bias' in flat]
    # Copies, because a training step may overwrite its buffers in place.
    biases = {name: flat[name].copy() for name in names}
    return base, {'adapters': lora.init(key, sites, ranks, form), 'biases': biases}

  def merge(frozen: Params, trainable: Params) -> Params:
    base = tree.overlay(frozen, trainable['biases'])
    return lora.merge(base, trainable['adapters'], sites, alpha, form, rslora)

  def factored(apply_fn, frozen: Params, trainable: Params, x):
    base = tree.overlay(frozen, trainable['biases'])
    return lora.factored.forward(apply_fn, base, trainable['adapters'], sites, alpha, form, x, rslora)

  forward = factored if spec['path'] == 'factored' else through_merge(merge)
  labels = {'adapters': 'train', 'biases': 'bias'}
  return Method(init, merge, lambda trainable: labels, forward, spec)

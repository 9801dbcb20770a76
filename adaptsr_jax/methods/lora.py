"""Low-rank adapters in the kernels of the sites, with the biases of adapted sites trained beside them on request."""

from typing import Any

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
    'path': 'merged' if config.lora.path == 'auto' else config.lora.path,
    'sites': lora.to_json(sites, ranks),
  }


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

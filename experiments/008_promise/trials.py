"""Other starts, scales and maps of adapters, and ways to keep the level: trials of what the package does not offer.

  python -m experiments.008_promise.trials --safmn=safmn_ntire2023_x4.pth --edsr=edsr_first.safetensors \
    --data=drealsr_x4 --runs=runs/008

Runs as those of `sweep.py`, on DRealSR, with one thing changed that no field of a config changes. Writes trials.jsonl,
of which `report.py` makes tables.
"""

import argparse
import functools
import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from scipy import ndimage

from adaptsr_jax import data, infer, lora, methods, metrics, tree
from adaptsr_jax.adapt import prepare
from adaptsr_jax.evaluate import measure

sweep = importlib.import_module('experiments.008_promise.sweep')

HERE = Path(__file__).parent
NETWORKS = ('SAFMN', 'SwinIR', 'EDSR')
USUAL = {'optim.lr': sweep.BEST['rank-aware'], 'metrics': (), 'strengths': ()}
FULL = {'method': 'full', 'optim.lr': sweep.BEST['full']}
# Budgets of low ranks as in 009.
RANKS = {
  'rank-aware': {},
  'rank 1': {'lora.rank': 1, 'lora.r_max': 64, 'lora.r_min': 0},
  'rank 2': {'lora.rank': 2, 'lora.r_max': 64},
}
GREYS = (0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9)
NOISE = 3 / 255  # about that of the dark picture


class Trial(NamedTuple):
  """One run that is unusual in one way."""

  table: str
  against: str  # name of the arm that it is compared with
  arm: sweep.Arm
  change: Callable[[sweep.Ready], sweep.Ready] = lambda ready: (
    ready
  )  # what is unusual, made of the usual run before its first step
  levelled: bool = False  # measured with its level corrected, too


def trial(
  table: str,
  against: str,
  name: str,
  fields: Mapping[str, Any],
  backbone: str,
  seed: int = 0,
  where: str = 'DRealSR',
  **how: Any,
) -> Trial:
  return Trial(
    table, against, sweep.Arm(name, {**USUAL, **fields}, backbone, where, seed, sweep.STEPS[backbone]), **how
  )


def usual(backbone: str, seed: int = 0) -> Trial:
  return trial('flat', '', 'rank-aware', {}, backbone, seed, levelled=True)


def frozen(backbone: str) -> Trial:
  return trial('flat', 'rank-aware', 'biases frozen', {'lora.biases': False}, backbone)


def starts(backbone: str, name: str, own: Mapping[str, Any]) -> list[Trial]:
  """First factors along the leading directions of the mean gradient, and of the inputs (EVA)."""
  fields = {**RANKS[name], **own}
  return [
    trial('starts', name, f'{name}, along the {what}', fields, backbone, change=functools.partial(along, what))
    for what in ('gradient', 'activation')
  ]


def low_starts(backbone: str, name: str) -> list[Trial]:
  """The same at a low rank, at the network's own rate, with the usual start, which is a row of 009."""
  own = {'optim.lr': sweep.rate_of(backbone, 'rank-aware')}
  return [trial('starts', '', name, {**RANKS[name], **own}, backbone), *starts(backbone, name, own)]


def alphas() -> list[Trial]:
  """Scales that follow the rank otherwise than by its root; that of rank 8 is as usual."""
  of_paper = {'lora.rslora': False, 'lora.alpha': 8**0.5}
  return [
    trial('alphas', 'rank-aware', 'alpha over r', of_paper, 'SAFMN'),
    *(trial('alphas', 'rank-aware', 'one scale for all ranks', {}, 'SAFMN', s, change=one_scale) for s in range(2)),
  ]


def at_own_rate(backbone: str) -> Trial:
  """The usual run at the network's own rate, which is a row of `sweep`."""
  ((name, own),) = sweep.at_own(backbone, 'rank-aware').items()
  return Trial('sites', '', sweep.Arm(name, {**own, **sweep.MEASURED}, backbone, steps=sweep.STEPS[backbone]))


def unusual(table: str, backbone: str, name: str, fields: Mapping[str, Any], **how: Any) -> Trial:
  """A run at the network's own rate that is unusual by fields or otherwise."""
  ((usual, own),) = sweep.at_own(backbone, 'rank-aware').items()
  return trial(table, usual, f'{usual}, {name}', {**own, **fields}, backbone, **how)


def forgotten(backbone: str) -> list[Trial]:
  """What the budget leaves out: convolutions in front of the pixel shuffle, within the same budget and beside it."""
  everywhere = {'sites.exclude': ()}
  return [
    unusual('forgotten', backbone, 'upsampling too', {**everywhere, 'lora.budget': sweep.BUDGETS[backbone]}),
    unusual('forgotten', backbone, 'upsampling too, a larger budget', everywhere),
  ]


def random_map(seed: int) -> Trial:
  """Ranks by chance, with the batches and the start of the usual run."""
  change = functools.partial(mapped, seed)
  return trial('maps', 'rank-aware', f'random map {seed}', {'score.kind': 'random'}, 'SAFMN', change=change)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  sweep.add_flags(parser, HERE)
  args = parser.parse_args()
  args.weights = ''
  rows = []
  for each in TRIALS:
    row = sweep.done(each.arm, args, lambda _, args, each=each: run(each, args))
    rows.append({**row, 'table': each.table, 'against': each.against})
    (args.out / 'trials.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))


def run(each: Trial, args: argparse.Namespace) -> dict[str, Any]:
  """Trains and measures one trial; returns its row."""
  ready = each.change(sweep.prepared(each.arm, args))
  end = sweep.trained(ready)
  row = sweep.row_of(each.arm, args, ready, end)
  return {**row, **(levelled(ready, end) if each.levelled and end.finite else {})}


def mapped(seed: int, ready: sweep.Ready) -> sweep.Ready:
  """Returns what is ready with ranks that another seed gives."""
  config = ready.config.copy_and_resolve_references()
  config.seed = seed
  plan = methods.plan(ready.config, ready.setup.sites, prepare.Scores(config, ready.setup))
  return ready._replace(plan=plan, method=methods.from_spec(plan.spec, plan.constants))


def along(what: str, ready: sweep.Ready) -> sweep.Ready:
  """Returns what is ready with first factors along the leading left singular vectors of what a site's kernel meets.

  That is its mean gradient, (cin, kh kw cout), or all its inputs, (cin, pixels), not centred. Columns are as long as
  those that are drawn are on average, so that only their directions differ.
  """
  sites, ranks = lora.from_json(ready.plan.spec['sites'])
  if what == 'gradient':
    matrices = {name: np.moveaxis(g, -2, 0).reshape(g.shape[-2], -1) for name, g in ready.scores.gradients().items()}
  else:
    moments = second_moments(ready)  # which have the left singular vectors of the inputs
    matrices = {site.name: moments[site.path] for site in sites}
  left = {name: np.linalg.svd(matrix.astype(np.float64), full_matrices=False)[0] for name, matrix in matrices.items()}
  # A value that is drawn within 1 / sqrt(cin) has a mean square of 1 / (3 cin).
  start = {
    f'adapters/{name}/a': (left[name][:, :rank] / 3**0.5).astype(np.float32) for name, rank in ranks.items() if rank
  }
  return ready._replace(plan=ready.plan._replace(start=start))


def second_moments(ready: sweep.Ready) -> dict[tuple[str, ...], np.ndarray]:
  """Returns path of a site -> X X^T (cin, cin) of its inputs X (cin, pixels) on the batches that score."""
  paths = {tuple(site.path) for site in ready.setup.sites}

  @jax.jit
  def moments(params, lr):
    found = {}

    def look(call, given, kwargs, context):
      if context.method_name == '__call__' and context.module.path in paths:
        x = given[0].reshape(-1, given[0].shape[-1])
        found[context.module.path] = x.T @ x
      return call(*given, **kwargs)

    with nn.intercept_methods(look):
      ready.setup.model.apply({'params': params}, lr)
    return found

  batches = prepare.score_batches(ready.config, ready.setup, ready.config.score.batches)
  of_batches = [jax.device_get(moments(ready.setup.base.params, batch['lr'])) for batch in batches]
  return {path: sum(np.asarray(each[path], np.float64) for each in of_batches) for path in of_batches[0]}


def one_scale(ready: sweep.Ready) -> sweep.Ready:
  """Returns what is ready with the scale of rank 8, alpha / sqrt(8), at every site."""
  ranks = lora.from_json(ready.plan.spec['sites'])[1]
  return with_factors(ready, {name: (rank / 8) ** 0.5 for name, rank in ranks.items() if rank})


def rates_by_kernels(ready: sweep.Ready) -> sweep.Ready:
  """Returns what is ready with b times the root mean square of its kernel over the geometric mean of all sites'."""
  sites, ranks = lora.from_json(ready.plan.spec['sites'])
  flat = tree.flatten(ready.setup.base.params)
  sizes = {s.name: float(np.sqrt(np.mean(flat['/'.join((*s.path, 'kernel'))] ** 2))) for s in sites if ranks[s.name]}
  mean = np.exp(np.mean(np.log(list(sizes.values()))))
  return with_factors(ready, {name: size / mean for name, size in sizes.items()})


def with_factors(ready: sweep.Ready, factors: Mapping[str, float]) -> sweep.Ready:
  """Returns what is ready with b times a factor of its site, which is one of its rate as well, as b starts at 0."""
  method = ready.method

  def scaled(trainable: tree.Params) -> tree.Params:
    adapters = {name: {'a': ab['a'], 'b': ab['b'] * factors[name]} for name, ab in trainable['adapters'].items()}
    return {**trainable, 'adapters': adapters}

  changed = method._replace(
    merge=lambda frozen, trainable: method.merge(frozen, scaled(trainable)),
    forward=lambda apply_fn, frozen, trainable, x: method.forward(apply_fn, frozen, scaled(trainable), x),
  )
  return ready._replace(method=changed)


def with_leaves(ready: sweep.Ready) -> sweep.Ready:
  """Returns what is ready with norms and position tables trained as the biases of the sites are."""

  def init(key: Any, base: tree.Params) -> tuple[tree.Params, tree.Params]:
    frozen, trainable = ready.method.init(key, base)
    beside = {
      name: leaf.copy()
      for name, leaf in tree.flatten(base).items()
      if 'norm' in name.split('/')[-2] or name.endswith('table')
    }
    return frozen, {**trainable, 'biases': {**trainable['biases'], **beside}}

  return ready._replace(method=ready.method._replace(init=init))


def levelled(ready: sweep.Ready, end: sweep.Trained) -> dict[str, Any]:
  """Measures with what the adapted network adds to flat grey, against the base, taken off its output.

  A bias of the output, one of each channel, can take off one value for all levels: the mean over `GREYS`, or that at
  the darkest. What no bias can: take off what is added at the mean of the LR picture ('by level'), or around each pixel
  ('by local level'), or what is added to grey with noise; or give each picture the mean of each channel that the base
  gives it, or that its LR picture has, or that around each pixel.
  """
  params = ready.method.merge(end.frozen, end.trainable)
  adapted, base = (infer.network(ready.setup.model, p, infer.WHOLE) for p in (params, ready.setup.base.params))
  flat, noisy = (
    np.array([in_the_middle(adapted, grey, noise) - in_the_middle(base, grey, noise) for grey in GREYS])  # (greys, 3)
    for noise in (0, NOISE)
  )

  def at(levels: np.ndarray, shifts: np.ndarray = flat) -> np.ndarray:  # (..., 3) -> (..., 3)
    return np.stack([np.interp(levels[..., c], GREYS, shifts[:, c]) for c in range(3)], axis=-1)

  def measured(off: Callable[[np.ndarray], np.ndarray]) -> dict[str, dict[str, float]]:
    pairs = data.pairs(ready.setup.valid)
    result = measure.measure(lambda lr, scale: adapted(lr, scale) - off(lr), pairs, (metrics.quality,))
    return {name: sweep.kept(values, result['levels'][name]) for name, values in result['images'].items()}

  ways = {
    'mean of all greys': lambda lr: flat.mean(axis=0),
    'darkest grey': lambda lr: flat[0],
    'by level': lambda lr: at(lr.mean(axis=(0, 1))),
    'by local level': lambda lr: at(wide(lr, 8).repeat(4, 0).repeat(4, 1)),
    'by level, noisy grey': lambda lr: at(lr.mean(axis=(0, 1)), noisy),
    'level of the LR picture': lambda lr: adapted(lr).mean(axis=(0, 1)) - lr.mean(axis=(0, 1)),
    'local level of the LR picture': lambda lr: wide(adapted(lr), 32) - wide(lr, 8).repeat(4, 0).repeat(4, 1),
    'level of the base': lambda lr: (adapted(lr) - base(lr)).mean(axis=(0, 1)),
  }
  return {
    'flat': {f'{grey:g}': [round(float(x) * 255, 4) for x in shift] for grey, shift in zip(GREYS, flat, strict=True)},
    'corrected': {way: measured(off) for way, off in ways.items()},
  }


def wide(picture: np.ndarray, sigma: float) -> np.ndarray:
  return ndimage.gaussian_filter(picture, (sigma, sigma, 0))


def in_the_middle(network: infer.Network, grey: float, noise: float) -> np.ndarray:
  """Returns what a network makes of grey, flat or with noise, channel by channel, far from the border."""
  picture = np.clip(grey + noise * np.random.default_rng(0).standard_normal((64, 64, 3)), 0, 1)
  output = network(picture.astype(np.float32))
  return output[96:-96, 96:-96].mean(axis=(0, 1))


TRIALS = [
  *(usual(backbone, seed) for seed in range(2) for backbone in NETWORKS),
  trial('flat', '', 'full', FULL, 'SwinIR', levelled=True),
  *map(frozen, ('SAFMN', 'SwinIR')),
  *starts('SAFMN', 'rank-aware', {}),
  *starts('SwinIR', 'rank-aware', {}),
  *(each for backbone in ('SAFMN', 'SwinIR') for name in ('rank 1', 'rank 2') for each in low_starts(backbone, name)),
  *alphas(),
  random_map(1),
  *map(at_own_rate, sweep.OWN),
  *(unusual('sites', backbone, 'rates by kernels', {}, change=rates_by_kernels) for backbone in NETWORKS),
  *(each for backbone in sweep.OWN for each in forgotten(backbone)),
  unusual('forgotten', 'SwinIR', 'norms and tables too', {}, change=with_leaves),
]


if __name__ == '__main__':
  main()

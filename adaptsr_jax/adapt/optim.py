"""Optimisers by label, and learning rates that decay in steps."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from adaptsr_jax import methods
from adaptsr_jax.tree import Params

# Where in a run the learning rate is halved. 'halvings': full fine-tuning in the paper, 250k, 400k, 450k and 475k of
# 500k steps.
_HALVED_AT = {'steps': (0.5, 0.75, 0.9), 'halvings': (0.5, 0.8, 0.9, 0.95), 'constant': ()}


def make(config: ConfigDict, labels: Callable[[Any], Any]) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Returns Adam by label, and the learning rate by update.

  Args:
    config: the run's config; reads `method`, `steps` and `optim`.
    labels: (trainable) -> prefix tree of 'train', 'b' (trained at `b_lr_scale` times the rate), 'bias' (at
      `bias_lr_scale` times) and 'frozen'.

  Its `update` may be given `peak`, the rate that is set, as an array: programs are then the same for every rate.
  """
  o = config.optim
  rate = schedule(config)

  def adam(scale: float) -> optax.GradientTransformationExtraArgs:
    return optax.chain(optax.scale_by_adam(b1=o.b1, b2=o.b2), _scaled(config, -scale))

  scales = {'train': 1.0, 'bias': o.bias_lr_scale} | ({'b': o.b_lr_scale} if o.b_lr_scale != 1 else {})
  # At one rate 'b' is 'train': states of older runs have no moments of its own.
  of_scales = lambda label: 'train' if label == 'b' and label not in scales else label  # noqa: E731
  tx = optax.multi_transform(
    {**{label: adam(scale) for label, scale in scales.items()}, 'frozen': optax.set_to_zero()},
    lambda trainable: jax.tree.map(of_scales, labels(trainable)),
  )
  if o.clip:
    tx = optax.chain(optax.clip_by_global_norm(o.clip), tx)
  if o.accumulate > 1:
    tx = optax.MultiSteps(tx, o.accumulate)
  return tx, rate


def _scaled(config: ConfigDict, scale: float) -> optax.GradientTransformationExtraArgs:
  """Returns `optax.scale_by_schedule` of `scale` times the rate, which may depend on an argument of the update."""

  def update(updates, state, params=None, *, peak=None, **_):
    factor = scale * schedule(config, peak)(state.count)
    updates = jax.tree.map(lambda leaf: jnp.asarray(factor, leaf.dtype) * leaf, updates)
    return updates, optax.ScaleByScheduleState(optax.safe_increment(state.count))

  return optax.GradientTransformationExtraArgs(lambda _: optax.ScaleByScheduleState(jnp.zeros((), jnp.int32)), update)


def averaged(average: Params, current: Params, step: jax.Array, decay: float) -> Params:
  """Returns the running average after `step`, its memory short at first: (1 + step) / (10 + step) up to `decay`.

  Otherwise the start would weigh in for thousands of steps. `average` itself where `decay` is 0.
  """
  if not decay:
    return average
  return optax.incremental_update(current, average, 1 - jnp.minimum(decay, (1 + step) / (10 + step)))


def set_rate(config: ConfigDict) -> float:
  """Returns the learning rate that is set, or that the method has by default."""
  preset = methods.METHODS[config.method].DEFAULTS
  return config.optim.lr or (config.optim.preset == 'paper' and preset.get('paper_lr')) or preset['lr']


def schedule(config: ConfigDict, peak: Any = None) -> optax.Schedule:
  """Returns the learning rate as a function of the number of updates, scaled to the run's length.

  `peak` stands in the place of `set_rate(config)`.
  """
  o = config.optim
  preset = methods.METHODS[config.method].DEFAULTS
  peak = set_rate(config) if peak is None else peak
  updates = max(1, config.steps // o.accumulate)
  kind = preset['schedule'] if o.schedule == 'auto' else o.schedule
  if kind == 'cosine':
    rate = optax.cosine_decay_schedule(peak, updates, alpha=0.01)
  elif kind == 'wsd':
    rate = _constant_then_decay(peak, updates)
  else:
    rate = optax.piecewise_constant_schedule(peak, {int(at * updates): 0.5 for at in _HALVED_AT[kind]})
  if not o.warmup:
    return rate
  ramp = optax.linear_schedule(peak / o.warmup, peak, o.warmup)
  # The ramp lies over the schedule, not before it, so that decays stay where they are without it.
  return lambda update: ramp(update) / peak * rate(update)


def peak_rate(config: ConfigDict, results: Mapping[str, Any]) -> float:
  """Returns the learning rate that the schedule of a run fell from, which its results tell where probes found it."""
  without_ramp = config.copy_and_resolve_references()
  without_ramp.optim.warmup = 0
  return float(schedule(without_ramp, results.get('rate', {}).get('rate'))(0))


def _constant_then_decay(peak: float, updates: int) -> optax.Schedule:
  """Returns `peak`, and over the last fifth 1 - sqrt of what has passed of it (Haegele et al., NeurIPS 2024).

  Up to that fifth the rate does not depend on the length, so any state from there can go on to any length.
  """
  start = int(0.8 * updates)

  def rate(update):
    passed = (update - start) / max(1, updates - start)
    return peak * (1 - jnp.sqrt(jnp.clip(passed, 0, 1)))

  return rate

"""Training steps: what the loop drives, and the plain step that trains one network."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from adaptsr_jax import compiler, methods
from adaptsr_jax.adapt import losses, optim
from adaptsr_jax.devices import Devices
from adaptsr_jax.tree import Params


class Training(NamedTuple):
  """What the loop drives; made by whoever knows the losses, the players and the devices.

  Attributes:
    step: compiled (state, batch) -> (state, {name: scalar}), with 'loss' among them; may overwrite the state given.
      That of `plain` may be given the rate that is set, as rates={'peak': rate}, for the same program at another.
    state: where training starts: any pytree of arrays.
    place: a state in memory, as it is saved -> the same where steps take it.
    rates: number of steps taken -> {name: learning rate}, to be logged.
    trained: state -> what is measured and exported of it.
    check: (number of the step, its scalars) -> None; raises UserError where training has gone astray.
  """

  step: Callable[[Any, Mapping[str, jax.Array]], tuple[Any, dict[str, jax.Array]]]
  state: Any
  place: Callable[[Any], Any]
  rates: Callable[[int], dict[str, float]]
  trained: Callable[[Any], Params]
  check: Callable[[int, Mapping[str, float]], None] = lambda step, row: None


class TrainState(NamedTuple):
  """All that a plain training step changes."""

  step: jax.Array
  trainable: Params
  opt_state: Any
  ema: Params  # running average of `trainable`; empty where none is kept


def plain(
  config: ConfigDict,
  apply_fn: Callable[..., jax.Array],
  method: methods.Method,
  frozen: Params,
  trainable: Params,
  criterion: losses.Criterion,
  devices: Devices | None = None,
) -> Training:
  """Returns the training of one network, from `trainable` on.

  Args:
    config: the run's config; reads what `optim.make` does.
    apply_fn: as `model.apply`.
    method: what is trained.
    frozen: from `method.init`.
    trainable: from `method.init`.
    criterion: from `losses.make`.
    devices: that share the batches; None: one device.
  """
  tx, _ = optim.make(config, method.labels)
  frozen, weights = placed((frozen, criterion.weights), devices)
  rate_set = jnp.float32(optim.set_rate(config))
  step = make_step(apply_fn, method, tx, criterion, config.optim.ema, {'weights': weights}, rate_set, devices)
  average = jax.tree.map(jnp.array, trainable) if config.optim.ema else {}
  trainable = jax.tree.map(jnp.array, trainable)
  return Training(
    step=lambda state, batch, **rates: step(state, frozen, devices.divided(batch) if devices else batch, **rates),
    state=TrainState(jnp.zeros((), jnp.int32), trainable, tx.init(trainable), average),
    place=lambda state: placed(state, devices),
    rates=_told(config),
    trained=lambda state: state.ema or state.trainable,
  )


def at_rate(training: Training, config: ConfigDict, peak: float) -> Training:
  """Returns the training of `plain` with `peak` in the place of the rate that `config` sets, by the same program."""
  rates = {'peak': jnp.float32(peak)}
  return training._replace(step=functools.partial(training.step, rates=rates), rates=_told(config, peak))


def _told(config: ConfigDict, peak: float | None = None) -> Callable[[int], dict[str, float]]:
  rate = optim.schedule(config, peak)
  return lambda taken: {'lr': float(rate(taken // config.optim.accumulate))}


def wishes(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """Returns what share of pictures came with the wish to stop: processes agree on it by their steps (see `train`)."""
  return {'stop': jnp.mean(batch['stop'])} if 'stop' in batch else {}


def placed(tree: Any, devices: Devices | None) -> Any:
  """Returns arrays where all devices have them, or the only one."""
  return devices.everywhere(tree) if devices else jax.device_put(tree)


def make_step(
  apply_fn: Callable[..., jax.Array],
  method: methods.Method,
  tx: optax.GradientTransformation,
  loss_fn: Callable[..., Any],
  ema: float = 0.0,
  arrays: Mapping[str, Any] | None = None,
  peak: jax.Array | None = None,
  devices: Devices | None = None,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
  """Returns the compiled step(state, frozen, batch) -> (state, scalars); `state` is overwritten in place.

  Args:
    apply_fn: as `model.apply`.
    method: what is trained, and how it reaches the network.
    tx: from `optim.make`.
    loss_fn: (prediction, hr, **arrays) -> scalar, or (scalar, {name: scalar to log}).
    ema: decay of the average of what is trained (see `optim.averaged`); 0 for none.
    arrays: further arguments of `loss_fn`, too large for constants of the program.
    peak: the rate that is set, for `tx`; None: as `tx` has it, as a constant of the program.
    devices: that share the batch, whose loss is the mean of its pictures'; None: one device.
  """

  def loss(trainable, frozen, arrays, batch):
    value = loss_fn(method.forward(apply_fn, frozen, trainable, batch['lr']), batch['hr'], **arrays)
    value, logged = value if isinstance(value, tuple) else (value, {})
    return value, {**logged, **wishes(batch)}

  def gradients(whole, batch):
    return jax.value_and_grad(loss, has_aux=True)(*whole, batch)

  averaged_gradient = devices.mean(gradients) if devices else gradients

  def step(
    state: TrainState,
    frozen: Params,
    batch: Mapping[str, jax.Array],
    arrays: Mapping[str, Any] = {},
    rates: Mapping[str, jax.Array] = {},
  ):
    (value, logged), gradient = averaged_gradient((state.trainable, frozen, arrays), batch)
    updates, opt_state = tx.update(gradient, state.opt_state, state.trainable, **rates)
    trainable = optax.apply_updates(state.trainable, updates)
    average = optim.averaged(state.ema, trainable, state.step, ema)
    scalars = {'loss': value, **logged, 'grad_norm': optax.tree.norm(gradient)}
    return TrainState(state.step + 1, trainable, opt_state, average), scalars

  compiled = jax.jit(step, donate_argnums=0, compiler_options=compiler.options(kernels=not method.thin))
  further = {'arrays': arrays} if arrays else {}
  further |= {'rates': {'peak': peak}} if peak is not None else {}
  return functools.partial(compiled, **further) if further else compiled

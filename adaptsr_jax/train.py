"""The training loop: compiled steps, with checks, measurements and saves between them."""

import functools
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from adaptsr_jax import checkpoint, compiler, energy, losses, methods, optim
from adaptsr_jax.errors import UserError
from adaptsr_jax.log import Progress, RunLog, say
from adaptsr_jax.prepare import Setup
from adaptsr_jax.tree import Params

# A run is logged, measured and saved this many times by default.
_TIMES = {'log': 50, 'eval': 10, 'save': 10}


class TrainState(NamedTuple):
  """All that a training step changes."""

  step: jax.Array
  trainable: Params
  opt_state: Any
  ema: Params  # running average of `trainable`; empty where none is kept


class Trained(NamedTuple):
  """Where training ended."""

  trainable: Params
  seconds: float  # spent on steps in all starts together, without scoring and measuring
  joules: float | None  # the same, as far as the machine tells
  best: dict[str, Any] | None  # {'step', 'psnr_y'} of the best measurement
  measured: dict[str, Any] | None  # the last measurement, where this start made it


class Interrupted(Exception):
  """The run was asked to stop, and has saved its state."""


def make_step(
  apply_fn: Callable[..., jax.Array],
  method: methods.Method,
  tx: optax.GradientTransformation,
  loss_fn: Callable[..., Any],
  ema: float = 0.0,
  arrays: Mapping[str, Any] | None = None,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
  """Returns the compiled step(state, frozen, batch) -> (state, scalars); `state` is overwritten in place.

  Args:
    apply_fn: as `model.apply`.
    method: what is trained, and how it reaches the network.
    tx: from `optim.make`.
    loss_fn: (prediction, hr, **arrays) -> scalar, or (scalar, {name: scalar to log}).
    ema: decay of the average of what is trained, reached from below as (1 + step) / (10 + step); 0 for none.
    arrays: further arguments of `loss_fn`, too large for constants of the program.
  """

  def step(state: TrainState, frozen: Params, batch: Mapping[str, jax.Array], arrays: Mapping[str, Any] = {}):
    def loss(trainable):
      value = loss_fn(method.forward(apply_fn, frozen, trainable, batch['lr']), batch['hr'], **arrays)
      return value if isinstance(value, tuple) else (value, {})

    (value, logged), gradient = jax.value_and_grad(loss, has_aux=True)(state.trainable)
    updates, opt_state = tx.update(gradient, state.opt_state, state.trainable)
    trainable = optax.apply_updates(state.trainable, updates)
    # Short memory at first, or the start would weigh in for thousands of steps.
    decay = jnp.minimum(ema, (1 + state.step) / (10 + state.step))
    average = optax.incremental_update(trainable, state.ema, 1 - decay) if ema else state.ema
    scalars = {'loss': value, **logged, 'grad_norm': optax.tree.norm(gradient)}
    return TrainState(state.step + 1, trainable, opt_state, average), scalars

  compiled = jax.jit(step, donate_argnums=0, compiler_options=compiler.options())
  return functools.partial(compiled, arrays=arrays) if arrays else compiled


def train(
  config: ConfigDict,
  setup: Setup,
  method: methods.Method,
  frozen: Params,
  trainable: Params,
  criterion: losses.Criterion,
  measure: Callable[[Params], dict[str, Any]],
  workdir: Path,
) -> Trained:
  """Takes the steps that are left, with measurements and saves between them.

  Args:
    config: the run's config.
    setup: model, pictures and batches.
    method: from `methods.make`.
    frozen: from `method.init`.
    trainable: from `method.init`.
    criterion: from `losses.make`.
    measure: (merged params) -> {'mean': ..., 'images': ...}; only called where there are validation pictures.
    workdir: where states and metrics are kept; what is there is continued.

  Raises:
    UserError: a loss that is not a number, or a folder whose state does not fit.
    Interrupted: after Ctrl-C or a termination signal, once the state is saved.
  """
  if not config.steps:
    return Trained(trainable, 0.0, None, None, None)
  tx, rate = optim.make(config, method.labels)
  arrays = {'weights': criterion.weights}
  step_fn = make_step(setup.model.apply, method, tx, criterion, config.optim.ema, arrays)
  average = jax.tree.map(jnp.array, trainable) if config.optim.ema else {}
  trainable = jax.tree.map(jnp.array, trainable)
  state = TrainState(jnp.zeros((), jnp.int32), trainable, tx.init(trainable), average)
  frozen = jax.device_put(frozen)
  batches = setup.batches
  store = checkpoint.RunStore(workdir / 'checkpoints', metric='psnr_y')
  done, notes = store.latest() or 0, {'seconds': 0.0, 'joules': 0.0, 'best': None}
  if done:
    state, notes = store.restore(done, state, batches)
    say(f'Continuing from step {done}.' if done < config.steps else f'All {done} steps are done.')

  every = {name: config[f'{name}_every'] or max(1, config.steps // times) for name, times in _TIMES.items()}
  progress, pending, measured = Progress(done, config.steps), [], None
  seconds, joules, meter = notes['seconds'], notes['joules'], energy.Meter()
  # What the processor counts says little about a step that ran elsewhere.
  joules = joules if jax.default_backend() == 'cpu' else None
  log = RunLog(workdir, done, config.tensorboard)
  with closing(store), closing(log), closing(batches), _Interrupts() as interrupts:
    for step in range(done + 1, config.steps + 1):
      before = time.perf_counter()
      state, scalars = step_fn(state, frozen, next(batches))
      if step == done + 1:
        progress.compiled(time.perf_counter() - before)
      pending.append((step, scalars))
      joules = _sum(joules, meter.lap())  # at every step: the counters start again after minutes

      stop = interrupts.asked  # Read once: what is asked after the save below waits for the next step.
      last = step == config.steps
      to_measure = setup.valid is not None and (step % every['eval'] == 0 or last)
      to_save = step % every['save'] == 0 or to_measure or last or stop
      if step % every['log'] == 0 or to_save:
        values = _checked(pending, workdir)
        values['lr'] = float(rate((step - 1) // config.optim.accumulate))
        progress.waited = batches.waited
        log.scalars(step, {**values, 'data_wait': progress.waited / max(progress.seconds(), 1e-9)})
        say(progress.line(step, {'loss': values['loss']}))
        pending = []
      before = time.perf_counter()
      notes = {'seconds': seconds + progress.seconds(), 'joules': joules, 'best': notes['best']}
      if to_measure:
        measured = measure(method.merge(frozen, state.ema or state.trainable))
        notes |= _noted(step, measured['mean'], notes['best'], log)
      if to_save:
        store.save(step, state, batches, notes)
        meter.lap()  # measuring and saving are not counted
      progress.pause(time.perf_counter() - before)
      if stop and not last:
        raise Interrupted(f'Stopped after step {step}; the same command continues from there.')
    if config.export == 'best' and notes['best'] and notes['best']['step'] != config.steps:
      state, measured = store.restore(notes['best']['step'], state)[0], None
      say(f'Exporting step {notes["best"]["step"]}, the best of the measured ones.')
  return Trained(
    jax.device_get(state.ema or state.trainable), notes['seconds'], notes['joules'], notes['best'], measured
  )


def _sum(joules: float | None, lap: float | None) -> float | None:
  return None if joules is None or lap is None else joules + lap


def _checked(pending: list[tuple[int, dict[str, jax.Array]]], workdir: Path) -> dict[str, float]:
  """Returns the mean scalars of the steps in `pending`; fails on the first that is not finite."""
  rows = [(step, jax.device_get(scalars)) for step, scalars in pending]
  for step, row in rows:
    bad = [name for name, value in row.items() if not np.isfinite(value)]
    if bad:
      raise UserError(
        f'{" and ".join(bad)} of step {step} is not a finite number; the last good state is in {workdir}/checkpoints. '
        'Lower config.optim.lr or config.optim.clip in a new --workdir, or look for broken training pictures.'
      )
  return {name: float(np.mean([row[name] for _, row in rows])) for name in rows[0][1]}


def _noted(step: int, mean: dict[str, float], best: dict[str, Any] | None, log: RunLog) -> dict[str, Any]:
  """Logs a measurement; returns what the saved state notes of it."""
  log.scalars(step, {f'valid/{name}': value for name, value in mean.items()})
  if best is None or mean['psnr_y'] >= best['psnr_y']:  # of equals the store keeps the last
    best = {'step': step, 'psnr_y': mean['psnr_y']}
  say(f'step {step}  validation PSNR {mean["psnr_y"]:.3f} dB, SSIM {mean["ssim_y"]:.4f} (Y)')
  return {'psnr_y': mean['psnr_y'], 'best': best}


class _Interrupts:
  """Turns Ctrl-C and termination into a wish that the loop grants after the current step; a second Ctrl-C kills."""

  def __enter__(self):
    self.asked = False
    self._old = {}
    for number in (signal.SIGINT, signal.SIGTERM):
      try:
        self._old[number] = signal.signal(number, self._ask)
      except ValueError:  # Not in the main thread: whoever runs us there handles signals.
        continue
    return self

  def _ask(self, number, frame):
    del frame
    self.asked = True
    # Not by print, which may have been interrupted itself.
    os.write(2, b'Stopping after this step; once more stops at once.\n')
    signal.signal(number, self._old[number] or signal.SIG_DFL)

  def __exit__(self, *exception):
    for number, handler in self._old.items():
      signal.signal(number, handler or signal.SIG_DFL)

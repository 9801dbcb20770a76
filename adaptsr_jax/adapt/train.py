"""The training loop: steps, with checks, measurements and saves between them."""

import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from adaptsr_jax import command, processes
from adaptsr_jax.adapt.step import Training
from adaptsr_jax.adapt.store import RunStore
from adaptsr_jax.energy import Clock
from adaptsr_jax.errors import UserError
from adaptsr_jax.log import Progress, RunLog, Work, say
from adaptsr_jax.log import clock as told
from adaptsr_jax.metrics.table import VALUES
from adaptsr_jax.tree import Params

# A run is logged, measured and saved this many times by default.
_TIMES = {'log': 50, 'eval': 10, 'save': 10}


class Trained(NamedTuple):
  """Where training ended."""

  trainable: Params
  steps: int  # that were taken
  seconds: float  # spent on steps in all starts together, without scoring and measuring
  joules: float | None  # the same, as far as the machine tells
  best: dict[str, Any] | None  # {'step', metric: value} of the best measurement
  measured: dict[str, Any] | None  # the last measurement, where this start made it


class Interrupted(Exception):
  """The run was asked to stop, and has saved its state."""


def train(
  config: ConfigDict,
  training: Training,
  batches: Any,
  measure: Callable[[Params], tuple[dict[str, Any], dict[str, np.ndarray]]] | None,
  workdir: Path,
) -> Trained:
  """Takes the steps that are left, with measurements and saves between them.

  Args:
    config: the run's config.
    training: what is trained, and how.
    batches: endless iterator over training batches, with its position and the seconds it was `waited` for.
    measure: (what was trained) -> {'mean': ..., 'images': ...} and the samples by name; None without validation
      pictures.
    workdir: where states and metrics are kept; what is there is continued.

  Raises:
    UserError: a loss that is not a number, or a folder whose state does not fit.
    Interrupted: after Ctrl-C or a termination signal, once the state is saved.
  """
  state, best = training.state, VALUES[config.best]
  store = RunStore(workdir / 'checkpoints', config.best, best.lower)
  done, state, kept = store.resume(state, batches, needs_best=config.export == 'best')
  state = training.place(state)
  notes = {'seconds': 0.0, 'joules': 0.0, 'best': None, **kept}
  if done:
    say(f'Continuing from step {done}.' if done < config.steps else f'All {done} steps are done.')

  every = {name: config[f'{name}_every'] or max(1, config.steps // times) for name, times in _TIMES.items()}
  # What the processor counts says little about a step that ran elsewhere.
  clock = Clock(notes['seconds'], notes['joules'] if jax.default_backend() == 'cpu' else None)
  progress, pending, measured = Progress(done, config.steps, clock), [], None
  several, wished = processes.count() > 1, 0.0
  log = RunLog(workdir, done, config.tensorboard)
  work = Work('Compiling the training step', config.steps, done)
  begun = done

  def in_vain() -> bool:
    """Tells whether nothing became better for as long as patience lasts."""
    return bool(config.patience and notes['best']) and done >= notes['best']['step'] + config.patience * every['eval']

  with closing(store), closing(log), closing(batches), _Interrupts() as interrupts, work:
    while done < config.steps and not in_vain():
      step = done + 1
      batch = next(batches)
      if several:
        batch = {**batch, 'stop': np.full(config.batch_size // processes.count(), interrupts.asked, np.float32)}
      state, scalars = training.step(state, batch)
      if done == begun:
        say(f'Compiled the training step in {told(progress.compiled())}.')
        work.title = 'Training'
        work.restart(config.steps, step)
      else:
        work.advance()
      # Read once: what is asked after the save below waits for the next step. Several processes go by what was sent
      # with the step before, which all of them know by now, and so stop after the same step.
      stop = bool(wished) if several else interrupts.asked
      wished = scalars.pop('stop') if several else 0.0
      pending.append((step, scalars))
      clock.tick()

      last = step == config.steps
      to_measure = measure is not None and (step % every['eval'] == 0 or last)
      to_save = step % every['save'] == 0 or to_measure or last or stop
      if step % every['log'] == 0 or to_save:
        values = {**_checked(pending, training.check, workdir), **training.rates(step - 1)}
        progress.waited = batches.waited
        log.scalars(step, {**values, 'data_wait': progress.waited / max(progress.seconds(), 1e-9)})
        say(progress.line(step, {'loss': values['loss']}))
        pending = []
      with clock.paused():
        notes = {'seconds': clock.seconds(), 'joules': clock.joules, 'best': notes['best']}
        if to_measure:
          # In numpy, as at export: what is measured is what is exported, to the bit.
          measured, sampled = measure(jax.device_get(training.trained(state)))
          log.pictures(step, sampled)
          notes |= _noted(step, measured['mean'], notes['best'], config.best, best.lower, log)
        if to_save:
          store.save(step, state, batches, notes)
      done = step
      if stop and not last:
        raise Interrupted(f'Stopped after step {step}; the same command continues from there.')
    if done < config.steps:
      say(f'Stopped at step {done}: no better than at step {notes["best"]["step"]} for {config.patience} measurements.')
    if config.export == 'best' and notes['best'] and notes['best']['step'] != done:
      state, measured = store.restore(notes['best']['step'], state)[0], None
      say(f'Exporting step {notes["best"]["step"]}, the best of the measured ones.')
  trained = jax.device_get(training.trained(state))
  return Trained(trained, done, notes['seconds'], notes['joules'], notes['best'], measured)


def _checked(
  pending: list[tuple[int, dict[str, jax.Array]]], check: Callable[[int, dict[str, float]], None], workdir: Path
) -> dict[str, float]:
  """Returns the mean scalars of the steps in `pending`; fails on the first that is not finite or fails `check`."""
  rows = [(step, jax.device_get(scalars)) for step, scalars in pending]
  for step, row in rows:
    bad = [name for name, value in row.items() if not np.isfinite(value)]
    if bad:
      raise UserError(
        f'{" and ".join(bad)} of step {step} is not a finite number; the last good state is in {workdir}/checkpoints. '
        'Lower config.optim.lr or config.optim.clip in a new --workdir, or look for broken training pictures.'
      )
    check(step, row)
  return {name: float(np.mean([row[name] for _, row in rows])) for name in rows[0][1]}


def _noted(
  step: int, mean: dict[str, float], best: dict[str, Any] | None, metric: str, lower: bool, log: RunLog
) -> dict[str, Any]:
  """Logs a measurement; returns what the saved state notes of it."""
  log.scalars(step, {f'valid/{name}': value for name, value in mean.items()})
  value = mean[metric]
  # Of equals the store keeps the last.
  if best is None or (value <= best[metric] if lower else value >= best[metric]):
    best = {'step': step, metric: value}
  shown = '' if metric in ('psnr_y', 'ssim_y') else f', {metric} {value:.4f}'
  say(f'step {step}  validation PSNR {mean["psnr_y"]:.3f} dB, SSIM {mean["ssim_y"]:.4f} (Y){shown}')
  return {metric: value, 'best': best}


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
    self.asked = True
    signal.signal(number, self._old[number] or signal.SIG_DFL)
    command.at_once(b'Stopping after this step; once more stops at once.\n')

  def __exit__(self, *exception):
    for number, handler in self._old.items():
      signal.signal(number, handler or signal.SIG_DFL)

"""One run, straight down: a config and a folder in, a merged checkpoint, an adapter, a table and a picture out."""

import os
import platform
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from adaptsr_jax import base as base_lib
from adaptsr_jax import checkpoint, data, figures, image, infer, lora, losses, methods, metrics, optim, prepare, show, tree
from adaptsr_jax import config as config_lib
from adaptsr_jax.adapters import file as adapter_file
from adaptsr_jax.errors import UserError
from adaptsr_jax.log import Progress, RunLog, say
from adaptsr_jax.tree import Params

Pairs = Iterable[tuple[str, np.ndarray, np.ndarray]]
# What may differ between two starts in one folder: how long, how often, and where things lie; not what is computed.
_FREE_FIELDS = ('steps', 'log_every', 'eval_every', 'save_every', 'eval_tile', 'tensorboard', 'data.cache_gb')


class TrainState(NamedTuple):
  """All that a training step changes."""

  step: jax.Array
  trainable: Params
  opt_state: Any
  key: jax.Array
  ema: Params  # running average of `trainable`; empty where none is kept


class Interrupted(Exception):
  """The run was asked to stop, and has saved its state."""


def make_step(
  apply_fn: Callable[..., jax.Array],
  method: methods.Method,
  tx: optax.GradientTransformation,
  loss_fn: Callable[[jax.Array, jax.Array], jax.Array],
  ema: float = 0.0,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
  """Returns the compiled step(state, frozen, batch) -> (state, scalars); `state` is overwritten in place.

  Args:
    apply_fn: as `model.apply`.
    method: what is trained, and how it reaches the network.
    tx: from `optim.make`.
    loss_fn: (prediction, hr) -> scalar.
    ema: decay of the average of what is trained; 0 for none.
  """

  def step(state: TrainState, frozen: Params, batch: Mapping[str, jax.Array]):
    def loss(trainable):
      return loss_fn(method.forward(apply_fn, frozen, trainable, batch['lr']), batch['hr'])

    value, gradient = jax.value_and_grad(loss)(state.trainable)
    updates, opt_state = tx.update(gradient, state.opt_state, state.trainable)
    trainable = optax.apply_updates(state.trainable, updates)
    average = optax.incremental_update(trainable, state.ema, 1 - ema) if ema else state.ema
    scalars = {'loss': value, 'grad_norm': optax.tree.norm(gradient)}
    return TrainState(state.step + 1, trainable, opt_state, state.key, average), scalars

  return jax.jit(step, donate_argnums=0)


def measure(restore: Callable[[np.ndarray, int], np.ndarray], pairs: Pairs, metric_fns: Iterable[Callable]) -> dict:
  """Returns {'mean': {metric: value}, 'images': {name: {metric: value}}}.

  Args:
    restore: (lr float32 (h,w,3) in [0,1], scale) -> (s*h,s*w,3), floats or uint8.
    pairs: (name, lr, hr), uint8 or uint16, hr (s*h,s*w,3).
    metric_fns: (output uint8, hr uint8, border to crop) -> {metric: value}; see `metrics.quality`.
  """
  images = {}
  for name, lr, hr in pairs:
    scale = hr.shape[0] // lr.shape[0]
    output, target = image.to_uint8(restore(image.to_float(lr), scale)), image.to_uint8(hr)
    images[name] = {key: value for fn in metric_fns for key, value in fn(output, target, scale).items()}
  keys = next(iter(images.values()), {})
  return {'mean': {key: float(np.mean([row[key] for row in images.values()])) for key in keys}, 'images': images}


def evaluate(
  apply_fn: Callable[..., jax.Array],
  params: Params,
  pairs: Pairs,
  metric_fns: Iterable[Callable] = (metrics.quality,),
  **tiling: Any,
) -> dict[str, Any]:
  """Measures `params` on whole pictures; see `measure`. `tiling` goes to `infer.upscale`."""
  params = jax.device_put(params)
  return measure(lambda lr, scale: infer.upscale(apply_fn, params, lr, scale, **tiling), pairs, metric_fns)


def run(config: ConfigDict, workdir: str | os.PathLike) -> dict[str, Any]:
  """Adapts a base to pairs of pictures and writes everything to `workdir`; continues where an earlier start stopped.

  Returns:
    The content of results.json.

  Raises:
    UserError: bad input, or a loss that is not a number.
    Interrupted: after Ctrl-C or a termination signal; the state is saved.
  """
  # 1. Config: a second start must compute the same thing.
  config_lib.validate(config)
  workdir = Path(workdir).absolute()
  _claim(workdir, config)

  # 2. Base, and the pictures it is to fit.
  setup = prepare.prepare(config)
  base, sites = setup.base, setup.sites
  say(prepare.describe(setup))

  # 3. and 4. Sites and their ranks.
  allocation = _ranks_of_run(config, setup, workdir)

  # 5. Method: what is frozen, what is trained.
  method = methods.make(config, sites, allocation['ranks'])
  frozen, trainable = method.init(jax.random.key(config.seed), base.params)
  trainable_parameters, total_parameters = tree.count(trainable), tree.count(base.params)
  if config.method == 'lora':
    say(lora.table(sites, allocation['ranks'], config.lora.form, tree.count(trainable['biases'])))
  share = 100 * trainable_parameters / total_parameters
  say(f'Training {trainable_parameters:,} of {total_parameters:,} parameters ({share:.1f} %) by {config.method}.')

  # 6. and 7. Steps and measurements.
  measure_params = partial(_measure_valid, config, setup)
  reference = _measured_once(workdir / 'base.json', lambda: measure_params(base.params))
  trained, notes = _train(config, setup, method, frozen, trainable, measure_params, workdir)
  params = jax.device_get(method.merge(frozen, trained))
  adapted = measure_params(params) if config.steps else reference

  # 8. Export.
  results = {
    'method': method.spec['method'],
    'steps': config.steps,
    'trainable_parameters': trainable_parameters,
    'total_parameters': total_parameters,
    'seconds': notes['seconds'],
    'peak_memory_bytes': peak_memory_bytes(),
    'base': reference,
    'adapted': adapted,
    'protocol': metrics.PROTOCOL,
    'base_file': str(config.base),
    'base_fingerprint': adapter_file.fingerprint(base.params),
    'model': {'name': base.name, 'fields': base.fields, 'assumed': base.assumed},
    'adapter_parameters': lora.count(trained['adapters']) if config.method == 'lora' else 0,
    'versions': versions(),
    'device': jax.devices()[0].device_kind,
    'config': config.to_dict(),
  }
  _export(workdir, base, params, method, trained, results)

  # 9. Show.
  show.draw(workdir, setup, params, results, _tiling(config, setup))
  checkpoint.write_json(workdir / 'results.json', results)
  say(show.summary(results, workdir))
  return results


def _ranks_of_run(config: ConfigDict, setup: prepare.Setup, workdir: Path) -> dict[str, Any]:
  if config.method != 'lora':
    return {'ranks': {}}
  path = workdir / 'ranks.json'
  if path.exists():
    return checkpoint.read_json(path)
  allocation = prepare.allocate(config, setup)
  checkpoint.write_json(path, allocation)
  figures.rank_heatmap(workdir / 'ranks.png', allocation['ranks'], f'Ranks by {config.lora.rule}')
  return allocation


def _train(config, setup, method, frozen, trainable, measure_params, workdir) -> tuple[Params, dict[str, Any]]:
  """Returns what was trained, and the notes of the last save: {'seconds', 'step', 'psnr_y', 'best'}."""
  notes: dict[str, Any] = {'seconds': 0.0, 'best': None}
  if not config.steps:
    return trainable, notes
  tx, rate = optim.make(config, method.labels)
  step_fn = make_step(setup.model.apply, method, tx, losses.l1, config.optim.ema)
  average = jax.tree.map(jnp.array, trainable) if config.optim.ema else {}
  trainable = jax.tree.map(jnp.array, trainable)
  state = TrainState(jnp.zeros((), jnp.int32), trainable, tx.init(trainable), jax.random.key(config.seed), average)
  frozen = jax.device_put(frozen)
  batches = prepare.batches(config, setup, config.seed)
  store = checkpoint.RunStore(workdir / 'checkpoints', metric='psnr_y')
  done = store.latest() or 0
  if done:
    state, notes = store.restore(done, state, batches)
    say(f'Continuing from step {done}.' if done < config.steps else f'All {done} steps are done.')

  every = {name: config[f'{name}_every'] or max(1, config.steps // share) for name, share in _SHARES.items()}
  log = RunLog(workdir, done, config.tensorboard)
  progress, pending = Progress(done, config.steps), []
  seconds = notes['seconds']
  with _Interrupts() as interrupts:
    for step in range(done + 1, config.steps + 1):
      before = time.perf_counter()
      batch = next(batches)
      progress.waited += time.perf_counter() - before
      state, scalars = step_fn(state, frozen, batch)
      pending.append((step, scalars))

      last = step == config.steps or interrupts.asked
      if step % every['log'] == 0 or step % every['save'] == 0 or step % every['eval'] == 0 or last:
        values = _checked(pending, workdir)
        values['lr'] = float(rate((step - 1) // config.optim.accumulate))
        log.scalars(step, {**values, 'data_wait': progress.waited / max(progress.seconds(), 1e-9)})
        say(progress.line(step, {'loss': values['loss']}))
        pending = []
      notes = {'seconds': seconds + progress.seconds(), 'best': notes['best']}
      measured = setup.valid and (step % every['eval'] == 0 or step == config.steps)
      if measured:
        notes |= _measure_step(step, state, method, frozen, measure_params, progress, log, notes['best'])
      if measured or step % every['save'] == 0 or last:
        before = time.perf_counter()
        store.save(step, state, batches, notes)
        progress.pause(time.perf_counter() - before)
      if interrupts.asked and step < config.steps:
        store.close()
        log.close()
        raise Interrupted(f'Stopped after step {step}; the same command continues from there.')
  store.close()
  log.close()
  return jax.device_get(state.ema or state.trainable), notes


# A run is logged, measured and saved this many times by default.
_SHARES = {'log': 50, 'eval': 10, 'save': 10}


def _checked(pending: list[tuple[int, dict[str, jax.Array]]], workdir: Path) -> dict[str, float]:
  """Returns the mean scalars of the steps in `pending`; fails on the first that is not finite."""
  rows = [(step, jax.device_get(scalars)) for step, scalars in pending]
  for step, row in rows:
    bad = [name for name, value in row.items() if not np.isfinite(value)]
    if bad:
      raise UserError(
        f'{" and ".join(bad)} of step {step} is not a finite number; the last good state is in {workdir}/checkpoints. '
        'Lower config.optim.lr, set config.optim.clip, or look for broken pictures in the training folder.'
      )
  return {name: float(np.mean([row[name] for _, row in rows])) for name in rows[0][1]}


def _measure_step(step, state, method, frozen, measure_params, progress, log, best) -> dict[str, Any]:
  before = time.perf_counter()
  mean = measure_params(method.merge(frozen, state.ema or state.trainable))['mean']
  log.scalars(step, {f'valid/{name}': value for name, value in mean.items()})
  if best is None or mean['psnr_y'] > best['psnr_y']:
    best = {'step': step, 'psnr_y': mean['psnr_y']}
  say(f'step {step}  validation PSNR {mean["psnr_y"]:.3f} dB, SSIM {mean["ssim_y"]:.4f} (Y)')
  progress.pause(time.perf_counter() - before)
  return {'psnr_y': mean['psnr_y'], 'best': best}


def _measure_valid(config: ConfigDict, setup: prepare.Setup, params: Params) -> dict[str, Any] | None:
  if setup.valid is None:
    return None
  return evaluate(setup.model.apply, params, data.pairs(setup.valid), **_tiling(config, setup))


def _tiling(config: ConfigDict, setup: prepare.Setup) -> dict[str, int]:
  return {'tile': config.eval_tile, 'multiple': setup.model.multiple, 'minimum': setup.model.minimum}


def _measured_once(path: Path, measure_base: Callable[[], Any]) -> Any:
  if not path.exists():
    result = measure_base()
    if result is not None:
      mean = result['mean']
      say(f'base  validation PSNR {mean["psnr_y"]:.3f} dB, SSIM {mean["ssim_y"]:.4f} (Y)')
    checkpoint.write_json(path, result)
  return checkpoint.read_json(path)


def _export(workdir: Path, base: base_lib.Base, params: Params, method, trained: Params, results: dict) -> None:
  scores = {'base': results['base'], 'adapted': results['adapted']}
  means = {label: result['mean'] for label, result in scores.items() if result}
  checkpoint.save_params(workdir / 'merged', params, {**base.info(), 'metrics': means})
  ending = 'safetensors' if (base.source or {}).get('format') == 'safetensors' else 'pth'
  base_lib.export(workdir / f'merged.{ending}', base, params)
  if method.spec['method'] == 'lora':
    meta = {
      **{key: method.spec[key] for key in ('method', 'form', 'alpha', 'rslora', 'sites')},
      'model': base.name,
      'fields': base.fields,
      'base_fingerprint': results['base_fingerprint'],
      'base_file': Path(results['base_file']).name,
      'metrics': means,
    }
    adapter_file.save(workdir / 'adapter.safetensors', trained['adapters'], meta, trained['biases'])


def _claim(workdir: Path, config: ConfigDict) -> None:
  """Notes the config in a new folder; refuses a folder whose run computes something else."""
  path = workdir / 'config.json'
  ours = config_lib.flat(config)
  if path.exists():
    theirs = config_lib.flat(checkpoint.read_json(path))
    changed = [k for k in sorted(ours | theirs) if ours.get(k) != theirs.get(k) and k not in _FREE_FIELDS]
    if changed:
      name = changed[0]
      raise UserError(
        f'{workdir} holds a run with config.{name}={theirs.get(name)!r}, not {ours.get(name)!r}'
        + (f' (and {len(changed) - 1} more differences)' if len(changed) > 1 else '')
        + '; give that run\'s config to continue it, or another --workdir.'
      )
  checkpoint.write_json(path, config.to_dict())


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
    say('Stopping after this step; once more stops at once.')
    signal.signal(number, self._old[number])

  def __exit__(self, *exception):
    for number, handler in self._old.items():
      signal.signal(number, handler)


def peak_memory_bytes() -> int:
  """Returns the most memory held on the device, or by the whole process where the device (a CPU) keeps no count."""
  stats = jax.local_devices()[0].memory_stats() or {}
  if 'peak_bytes_in_use' in stats:
    return stats['peak_bytes_in_use']
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == 'darwin' else peak * 1024


def versions() -> dict[str, str]:
  """Returns name -> version of Python and of the packages that decide numbers."""
  names = ('adaptsr-jax', 'jax', 'jaxlib', 'flax', 'optax', 'numpy', 'grain', 'orbax-checkpoint', 'pillow')
  return {'python': platform.python_version()} | {name: metadata.version(name) for name in names}

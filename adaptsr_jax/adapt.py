"""One run, straight down: a config and a folder in, a merged checkpoint, an adapter, a table and a picture out."""

import os
import platform
import resource
import sys
from collections.abc import Callable, Iterable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from ml_collections import ConfigDict

from adaptsr_jax import base as base_lib
from adaptsr_jax import (
  bicubic,
  checkpoint,
  data,
  figures,
  image,
  infer,
  lora,
  methods,
  metrics,
  prepare,
  show,
  train,
  tree,
)
from adaptsr_jax import config as config_lib
from adaptsr_jax.adapters import file as adapter_file
from adaptsr_jax.errors import UserError
from adaptsr_jax.log import say
from adaptsr_jax.train import Interrupted, TrainState, make_step
from adaptsr_jax.tree import Params

__all__ = ['Interrupted', 'TrainState', 'evaluate', 'make_step', 'measure', 'run']

Pairs = Iterable[tuple[str, np.ndarray, np.ndarray]]
# What may differ between two starts in one folder: how long, how often, and where things lie; not what is computed.
_FREE_FIELDS = (
  *('steps', 'export', 'log_every', 'eval_every', 'save_every', 'tensorboard', 'data.cache_gb', 'data.workers'),
  # A moved folder is no other folder: `_check_same_material` compares what is in it.
  *('data.train.lr', 'data.train.hr', 'data.valid.lr', 'data.valid.hr'),
)


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
    least = metrics.WINDOW + 2 * scale
    if min(hr.shape[:2]) < least:
      raise UserError(f'{name} is {hr.shape[1]}x{hr.shape[0]}; to be measured it needs at least {least} pixels a side.')
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
  done = checkpoint.latest_step(workdir / 'checkpoints')
  _check_same_run(workdir, config, done)

  # 2. Base, and the pictures it is to fit.
  setup = prepare.prepare(config)
  base, sites = setup.base, setup.sites
  say(prepare.describe(setup))
  material = _material(setup)
  _check_same_material(workdir, material)
  if not done:
    prepare.check_pixels(setup)

  # 3. and 4. Sites and their ranks.
  allocation = _ranks_of_run(config, setup, workdir, done)

  # 5. Method: what is frozen, what is trained.
  method = methods.make(config, sites, allocation['ranks'])
  frozen, trainable = method.init(jax.random.key(config.seed), base.params)
  trainable_parameters, total_parameters = tree.count(trainable), tree.count(base.params)
  if config.steps and not trainable_parameters:
    raise UserError(
      f'Nothing is left to train by {config.method}: no site of the kinds asked for, or no budget for it.'
    )

  # The folder is taken now that nothing that was given can be wrong any more.
  overview = parameter_overview.get_parameter_overview(base.params, include_stats=False)
  (workdir / 'parameters.txt').write_text(overview + '\n')
  checkpoint.write_json(workdir / 'config.json', config.to_dict())
  checkpoint.write_json(workdir / 'material.json', material)
  if config.method == 'lora':
    checkpoint.write_json(workdir / 'ranks.json', allocation)
    figures.rank_heatmap(workdir / 'ranks.png', allocation['ranks'], f'Ranks by {allocation["rule"]}')
    say(lora.table(sites, allocation['ranks'], config.lora.form, tree.count(trainable['biases'])))
  share = 100 * trainable_parameters / total_parameters
  say(f'Training {trainable_parameters:,} of {total_parameters:,} parameters ({share:.1f} %) by {config.method}.')

  # 6. and 7. Steps and measurements.
  measure_params = partial(_measure_valid, config, setup)
  enlarged = _measured_once(workdir, 'bicubic', lambda: _measure_bicubic(setup))
  reference = _measured_once(workdir, 'base', lambda: measure_params(base.params))
  trained = train.train(config, setup, method, frozen, trainable, measure_params, workdir)
  params = jax.device_get(method.merge(frozen, trained.trainable))
  adapted = (trained.measured or measure_params(params)) if config.steps else reference

  # 8. Export.
  results = {
    'method': method.spec['method'],
    'steps': config.steps,
    'trainable_parameters': trainable_parameters,
    'total_parameters': total_parameters,
    'seconds': trained.seconds,
    'peak_memory_bytes': peak_memory_bytes(),
    'bicubic': enlarged,
    'base': reference,
    'adapted': adapted,
    'best': trained.best,
    'protocol': {**metrics.PROTOCOL, 'crop': setup.model.upscale, 'tile': config.eval_tile},
    'base_file': str(config.base),
    'base_fingerprint': material['base'],
    'model': {'name': base.name, 'fields': base.fields, 'assumed': base.assumed},
    'adapter_parameters': lora.count(trained.trainable['adapters']) if config.method == 'lora' else 0,
    'versions': versions(),
    'device': jax.devices()[0].device_kind,
    'config': config.to_dict(),
  }
  _export(workdir, base, params, method, trained.trainable, results)

  # 9. Show.
  show.draw(workdir, setup, params, results, _tiling(config, setup))
  checkpoint.write_json(workdir / 'results.json', results)
  say(show.summary(results, workdir))
  return results


def _ranks_of_run(config: ConfigDict, setup: prepare.Setup, workdir: Path, done: int) -> dict[str, Any]:
  if config.method != 'lora':
    return {'ranks': {}}
  return checkpoint.read_json(workdir / 'ranks.json') if done else prepare.allocate(config, setup)


def _material(setup: prepare.Setup) -> dict[str, str]:
  """Returns what tells the base and the pictures of a run from others, wherever they lie."""
  sources = {'training pictures': setup.train, 'validation pictures': setup.valid}
  return {
    'base': adapter_file.fingerprint(setup.base.params),
    **{name: repr(source) for name, source in sources.items()},
  }


def _check_same_material(workdir: Path, material: dict[str, str]) -> None:
  path = workdir / 'material.json'
  if path.exists():
    changed = [name for name, value in checkpoint.read_json(path).items() if material[name] != value]
    if changed:
      raise UserError(f'The {" and the ".join(changed)} of the run in {workdir} were others; give another --workdir.')


def _measure_valid(config: ConfigDict, setup: prepare.Setup, params: Params) -> dict[str, Any] | None:
  if setup.valid is None:
    return None
  return evaluate(setup.model.apply, params, data.pairs(setup.valid), **_tiling(config, setup))


def _measure_bicubic(setup: prepare.Setup) -> dict[str, Any] | None:
  if setup.valid is None:
    return None
  return measure(bicubic.imresize, data.pairs(setup.valid), [metrics.quality])


def _tiling(config: ConfigDict, setup: prepare.Setup) -> dict[str, int]:
  return infer.tiling_of(setup.model, config.eval_tile)


def _measured_once(workdir: Path, label: str, measure_it: Callable[[], Any]) -> Any:
  path = workdir / f'{label}.json'
  if not path.exists():
    result = measure_it()
    if result is not None:
      mean = result['mean']
      say(f'{label}  validation PSNR {mean["psnr_y"]:.3f} dB, SSIM {mean["ssim_y"]:.4f} (Y)')
    checkpoint.write_json(path, result)
  return checkpoint.read_json(path)


def _export(workdir: Path, base: base_lib.Base, params: Params, method, trained: Params, results: dict) -> None:
  scores = {'base': results['base'], 'adapted': results['adapted']}
  means = {label: result['mean'] for label, result in scores.items() if result}
  checkpoint.save_params(workdir / 'merged', params, {**base.info(), 'metrics': means})
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
  path = workdir / f'merged.{"safetensors" if (base.source or {}).get("format") == "safetensors" else "pth"}'
  try:
    base_lib.export(path, base, params)
  except UserError as error:
    say(f'{error} Writing float32 instead.')
    base_lib.export(path, base, params, 'float32')


def _check_same_run(workdir: Path, config: ConfigDict, done: int) -> None:
  """Refuses a folder that cannot be written, or that holds a run that is longer or computes something else."""
  workdir.mkdir(parents=True, exist_ok=True)
  if not os.access(workdir, os.W_OK):
    raise UserError(f'{workdir} cannot be written; give another --workdir.')
  if done > config.steps:
    raise UserError(
      f'{workdir} holds a run of {done} steps, more than config.steps={config.steps}; give another --workdir.'
    )
  path = workdir / 'config.json'
  if not path.exists():
    return
  ours, theirs = config_lib.flat(config), config_lib.flat(checkpoint.read_json(path))
  changed = [k for k in sorted(ours | theirs) if ours.get(k) != theirs.get(k) and k not in _FREE_FIELDS]
  if changed:
    name, more = changed[0], f' (and {len(changed) - 1} more differences)' if len(changed) > 1 else ''
    raise UserError(
      f'{workdir} holds a run with config.{name}={theirs.get(name)!r}, not {ours.get(name)!r}{more}; '
      "give that run's config to continue it, or another --workdir."
    )


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
  found = {distribution.metadata['Name']: distribution.version for distribution in metadata.distributions()}
  return {'python': platform.python_version()} | {name: found.get(name, 'not installed') for name in names}

"""Measures what lies between a base and its adapter, or between two adapters of it, so that a person can choose."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adaptsr_jax import base as base_lib
from adaptsr_jax import data, figures, files, image, infer, log, tree
from adaptsr_jax.adapters import file, operations
from adaptsr_jax.adapters.file import Adapter
from adaptsr_jax.errors import UserError
from adaptsr_jax.evaluate import asked as measures
from adaptsr_jax.evaluate import measure, tables
from adaptsr_jax.tree import Params

_SHOWN = 3  # pictures in the strip
_CROP = 128  # side of their crops in HR pixels


def run(options: argparse.Namespace) -> None:
  """Measures the points that an earlier start has not, and writes table, curve and strip to `options.out`.

  Raises:
    UserError: adapters that do not go together, pictures that do not fit, or no metric.
  """
  if options.points < 2:
    raise UserError(f'--points is {options.points}; give 2 or more.')
  if len(options.files) > 2:
    raise UserError(f'{len(options.files)} adapters are given; a sweep goes to one, or from one to another.')
  base = base_lib.load(options.base, key=options.key)
  adapters = [file.load(path) for path in options.files]
  for adapter in adapters:
    file.check_base(adapter.meta, base.params)
  asked = measures.load(options.metrics, options.metric_weights)
  if not asked.functions:
    raise UserError(f'No metric is left: {" ".join(asked.missing.values()) or "--metrics is empty."}')
  for sentence in asked.missing.values():
    log.say(sentence)
  model = base.model()
  source = data.open_source(options, model.upscale, cache_gb=2, split='test')
  data.check_task(source)
  log.say(f'Pictures: {source.describe()}')

  out = Path(options.out)
  files.check_folder(out)
  at = [float(round(t, 6)) for t in np.linspace(0, 1, options.points)]
  mixed = {t: _mixed(base.params, adapters, options.files, t) for t in at}
  kept = out / 'sweep.json'
  earlier = files.read_json(kept)['runs'] if kept.exists() else {}
  runs = {}
  for t, params in mixed.items():
    label = _label(t, options.files)
    protocol = {
      **asked.protocol,
      'crop': source.scale,
      'pictures': len(source),
      'picture_set': repr(source),
      'fingerprint': tree.fingerprint(params)[:16],
    }
    if label in earlier and earlier[label]['protocol'] == protocol:
      runs[label] = earlier[label]
    else:
      result = measure.measure(infer.network(model, params, infer.WHOLE), data.pairs(source), asked.functions)
      runs[label] = {**result, 'protocol': protocol}
      # A second start goes on from here.
      files.write_json(kept, {'runs': {**earlier, **runs}})
      log.say(f'{label}  ' + '  '.join(f'{key} {tables.number(key, value)}' for key, value in result['mean'].items()))
  files.write_json(kept, {'runs': runs})
  log.say(tables.text(tables.means(runs)))
  files.write(out / 'sweep.md', tables.markdown(tables.means(runs)) + '\n')
  _draw(out / 'sweep.png', at, list(runs.values()), len(adapters))
  _draw_strip(out / 'strip.png', source, model, mixed, options.files)


def _mixed(params: Params, adapters: Sequence[Adapter], names: Sequence[str], t: float) -> Params:
  """Returns the network at `t` of the way; at both ends the very networks that `merge` makes."""
  if len(adapters) == 1:
    return operations.apply(adapters[0], params, t)
  if t in (0, 1):
    return operations.apply(adapters[int(t)], params)
  return operations.combined(params, adapters, (1 - t, t), names)


def _label(t: float, names: Sequence[str]) -> str:
  return f'{t:.4g}' if len(names) == 1 else f'{1 - t:.4g} : {t:.4g}'


def _draw(path: Path, at: Sequence[float], runs: Sequence[dict[str, Any]], adapters: int) -> None:
  """Draws the curve of PSNR against the first perceptual metric, where both are measured."""
  key = next((key for key in runs[0]['mean'] if tables.lower_is_better(key)), None)  # the first that is measured
  if key is None or 'psnr_y' not in runs[0]['mean']:
    return
  shown = {at[0], at[-1], *(t for t in at if round(10 * t, 3) in (2, 4, 5, 6, 8))}
  points = [
    (f'{t:.4g}' if t in shown else '', run['mean']['psnr_y'], run['mean'][key]) for t, run in zip(at, runs, strict=True)
  ]
  title = 'share of the second adapter' if adapters > 1 else 'strength of the adapter'
  figures.slider(path, points, 'PSNR (Y) in dB, higher is better', f'{key}, lower is better', title)


def _draw_strip(path: Path, source: data.Source, model: Any, mixed: dict[float, Params], names: Sequence[str]) -> None:
  """Draws LR | up to six of the mixtures | HR of a few pictures, where HR has most detail."""
  at = list(mixed)
  shown = [at[i] for i in figures.evenly(len(at), 6)]
  rows, scale = {}, model.upscale
  for name, lr, hr in data.pairs(source, figures.evenly(len(source), _SHOWN)):
    lr, hr = image.to_float(lr), image.to_float(hr)
    window = figures.busiest_box(hr, _CROP, scale).window()
    large = {_label(t, names): infer.network(model, mixed[t], infer.WHOLE)(lr) for t in shown}
    panels = {'LR': lr.repeat(scale, 0).repeat(scale, 1), **large, 'HR': hr}
    rows[name] = [(title, np.clip(np.asarray(picture)[window], 0, 1)) for title, picture in panels.items()]
  figures.compare_strip(path, list(rows.values()), list(rows))

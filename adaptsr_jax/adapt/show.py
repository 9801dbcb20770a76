"""What a run leaves to look at: learning curve, comparison picture, and the last lines on the terminal."""

import base64
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adaptsr_jax import bicubic, data, figures, image, infer
from adaptsr_jax import config as config_lib
from adaptsr_jax.adapt import optim
from adaptsr_jax.evaluate import statistics, tables, verdict
from adaptsr_jax.log import clock, read_metrics
from adaptsr_jax.metrics.table import VALUES

_CROP = 160  # side of the shown crops in HR pixels
_SMALL = 112  # of those in the header of an adapter file

Panels = list[tuple[str, np.ndarray]]  # pictures of one scene with their titles


def draw(workdir: Path, rows: dict[str, Panels], results: dict[str, Any]) -> None:
  """Draws curve.png (PSNR against steps) and compare.png into `workdir`, as far as there is something to show."""
  history = [(row['step'], row['valid/psnr_y']) for row in read_metrics(workdir) if 'valid/psnr_y' in row]
  if history:
    steps, values = zip(*history, strict=True)
    series = {results['method']: (steps, values)}
    base = results['base']['mean']['psnr_y']
    # The curve is that of the pictures that decide.
    known = base is not None and np.isfinite(base) and 'decide' not in results['data']
    baselines = {'base': base} if known else {}
    figures.learning_curves(workdir / 'curve.png', series, 'step', 'PSNR (Y) in dB', baselines=baselines)
  if rows:
    title = _verdict(results) if results['steps'] else ''
    figures.compare_strip(workdir / 'compare.png', list(rows.values()), list(rows), title)


def compared(
  valid: data.Source | None, networks: dict[str, infer.Network], results: dict[str, Any]
) -> dict[str, Panels]:
  """Returns input, bicubic, base, adapted (after steps) and HR of the pictures that gained most, the median, and least.

  Each crop lies where the HR picture has most detail, not where the adaptation did best.
  """
  if valid is None:
    return {}
  before, after = results['base']['images'], results['adapted']['images']
  order = sorted(after, key=lambda name: _gain(before[name], after[name]))
  chosen = dict.fromkeys([order[-1], order[len(order) // 2], order[0]])
  rows = {}
  for name, lr, hr in data.pairs(valid, map(valid.names.index, chosen)):
    lr, hr, scale = image.to_float(lr), image.to_float(hr), valid.scale
    shown = {f'base {_decibels(before[name])}': networks['base']}
    if results['steps']:
      shown[f'adapted {_decibels(after[name])}'] = networks['adapted']
    panels = {
      'input': lr.repeat(scale, 0).repeat(scale, 1),
      f'bicubic {_decibels(results["bicubic"]["images"][name])}': bicubic.imresize(lr, scale),
      **{title: network(lr) for title, network in shown.items()},
      'HR': hr,
    }
    window = figures.busiest_box(hr, _CROP).window()
    rows[name] = [(title, np.clip(picture[window], 0, 1)) for title, picture in panels.items()]
  return rows


def thumbnail(rows: dict[str, Panels]) -> str:
  """Returns base and adapted of the median picture side by side, as a JPEG in a data URI of a few kilobytes.

  Args:
    rows: of `compared`; '' where they show no adapted network.
  """
  panels = list(rows.values())[min(1, len(rows) - 1)] if rows else []
  found = [next((p for title, p in panels if title.startswith(label)), None) for label in ('base ', 'adapted ')]
  if any(picture is None for picture in found):
    return ''
  height, width = (min(_SMALL, n) for n in found[0].shape[:2])
  y, x = ((n - m) // 2 for n, m in zip(found[0].shape, (height, width), strict=False))
  pair = np.concatenate([picture[y : y + height, x : x + width] for picture in found], axis=1)
  return f'data:image/jpeg;base64,{base64.b64encode(image.small_jpeg(pair)).decode()}'


def _gain(before: dict[str, float], after: dict[str, float]) -> float:
  """Returns the gain in dB; 0 where pictures came out without an error, whose PSNR is infinite and stored as null."""
  values = before['psnr_y'], after['psnr_y']
  return values[1] - values[0] if None not in values and np.isfinite(values).all() else 0.0


def _decibels(row: dict[str, float]) -> str:
  return 'no error' if row['psnr_y'] is None or np.isinf(row['psnr_y']) else f'{row["psnr_y"]:.2f} dB'


def summary(results: dict[str, Any], workdir: Path) -> str:
  """Returns the last lines of a run: a small table and where everything lies."""
  lines = []
  if results['base']:
    labels = ('bicubic', 'base', 'adapted') if results['steps'] else ('bicubic', 'base')
    runs = {label: results[label] for label in labels}
    lines = [tables.text(tables.means(runs))]
    if results['steps']:
      lines.append(_verdict(results))
      below = _gain(*(results[label]['mean'] for label in ('adapted', 'bicubic')))
      lines += _weaker(results, workdir)
      if below > 0:
        lines.append(f'It is still {below:.2f} dB below plain bicubic enlargement: look at compare.png.')
  lines.append(f'Trained for {clock(results["seconds"])}. Everything is in {workdir}:')
  lines += [f'  {file.name}' for file in sorted(workdir.iterdir()) if not file.name.startswith('.')]
  return '\n'.join(lines)


def _verdict(results: dict[str, Any]) -> str:
  """Returns whether the adaptation helped, as far as the pictures can tell, and what single ones say."""
  gain, low, high = results['adapted']['difference']['psnr_y']
  count = len(results['base']['images'])
  pictures = f'{count} {"pictures" if count > 1 else "picture"}'
  if np.isnan(gain):
    return 'The pictures come out without an error, so there is nothing to compare.'
  word = 'better' if gain > 0 else 'worse' if gain < 0 else 'the same'
  if count < statistics.FEW:
    sure = 'too few to speak for others'
  else:
    sure = f'95 % interval {low:+.3f} to {high:+.3f}'
    if not statistics.certain(low, high, count):
      word = 'no different beyond chance'
  both = results['adapted'], results['base']
  more = verdict.words(verdict.spread(verdict.gains(*both)), *both, lambda value, digits: f'{value:+.{digits}f}')
  return '\n'.join([f'The adapted network is {word}: {gain:+.3f} dB (Y) over {pictures}, {sure}.', *more])


def _weaker(results: dict[str, Any], workdir: Path) -> list[str]:
  """Returns what a strength below 1 would give, where it would be better."""
  values, metric = results['strengths'], results['config']['best']
  finite = {strength: value for strength, value in values.items() if value is not None and np.isfinite(value)}
  if len(finite) < 2 or '1' not in finite:
    return []
  best = (min if VALUES[metric].lower else max)(finite, key=finite.get)
  if best == '1':
    return []
  told = ', '.join(f'{tables.number(metric, value)} at {strength}' for strength, value in finite.items())
  merge = f'adapters merge {results["base_file"]} {workdir}/adapter.safetensors WEAKER --strength {best}'
  how = f' (python -m adaptsr_jax.{merge})' if (workdir / 'adapter.safetensors').is_file() and best != '0' else ''
  return [f'On the pictures that decide, {metric} by strength: {told}. Strength {best} is better than all of it{how}.']


def _outcome(results: dict[str, Any]) -> str:
  """Returns 'better', 'mixed' (pictures gain, the mean does not for certain), 'still' (nothing is sure) or 'worse'."""
  gain, low, high = (results.get('adapted') or {}).get('difference', {}).get('psnr_y', (np.nan,) * 3)
  if np.isnan(gain):
    return 'better'
  each = verdict.spread(verdict.gains(results['adapted'], results['base']))
  if gain > 0 and (each.pictures < statistics.FEW or statistics.certain(low, high, each.pictures)):
    return 'better'
  if each.rising:
    return 'mixed'
  return 'still' if low <= 0 <= high and each.pictures >= statistics.FEW else 'worse'


def next_commands(argv: list[str], results: dict[str, Any], workdir: str | os.PathLike) -> str:
  """Returns what to try after a run that was started with the flags `argv`: three commands, a purpose above each.

  A network that did harm, or is no different, is not to be used yet: what to try then depends on what came out.
  """
  other = next(name for name in ('full', 'lora') if name != results['method'])
  parts = {'train': '', 'valid': '_VALID'}
  own = {f'config.data.{part}.{side}': side.upper() + end for part, end in parts.items() for side in ('lr', 'hr')}
  workdir = Path(workdir)
  enlarge = f'python -m adaptsr_jax.upscale --params={shlex.quote(f"{workdir}/merged")} IN OUT'
  commands, outcome = {}, _outcome(results)
  if outcome != 'better':
    report = shlex.join(['python', '-m', 'adaptsr_jax.report', str(workdir), f'--out={workdir}_report'])
    commands['See which pictures gained and which lost, and what else to try'] = report
  if outcome == 'still':
    longer = {'config.steps': str(3 * results['steps']), 'workdir': f'{workdir}_longer'}
    commands['Train longer'] = _again(argv, longer)
  elif outcome == 'worse':
    rate = f'{optim.peak_rate(config_lib.restored(results["config"]), results) / 3:.1g}'
    commands['Learn more slowly'] = _again(argv, {'config.optim.lr': rate, 'workdir': f'{workdir}_slower'})
  elif not results.get('unmergeable'):
    commands['Enlarge your own photographs'] = enlarge
  if outcome == 'better':
    commands['Adapt to your own camera'] = _again(argv, own | {'workdir': f'{workdir}_own'}, drop=_NAMES)
  commands |= {
    # An adapter to start from is of one method.
    f'Compare with method {other}': _again(
      argv, {'config.method': other, 'workdir': f'{workdir}_{other}'}, drop=['config.init_from']
    ),
  }
  return '\n'.join(['Next:', *(f'  {purpose}:\n    {command}' for purpose, command in commands.items())])


# What belongs to the pictures of this run; one's own have LR, HR and other names.
_NAMES = [
  f'config.data.{part}.{field}'
  for part in config_lib.PARTS
  for field in ('names', 'skip_names', 'root', 'track', 'tfds', 'packed', 'mix', 'degrade')
]


def _again(argv: list[str], changes: dict[str, str], drop: Sequence[str] = ()) -> str:
  """Returns the command of this run with other values of some flags, and without those in `drop`."""
  kept, flags = [], iter(argv)
  for flag in flags:
    name, joined, _ = flag.lstrip('-').partition('=')
    if name not in changes and name not in drop:
      kept.append(flag)
    elif not joined:
      next(flags, None)  # `--name value`
  flags = [*kept, *(f'--{name}={value}' for name, value in changes.items())]
  return shlex.join(['python', '-m', 'adaptsr_jax.main', *flags])

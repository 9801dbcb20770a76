"""Runs behind 008 to 010: what the promise of AdaptSR comes to, table by table.

  python -m experiments.008_promise.sweep safmn_rates safmn_drealsr --safmn=safmn_ntire2023_x4.pth --data=drealsr_x4 \
    --photos=hr_train --photos_valid=hr_valid --weights=WEIGHTS --runs=runs/008

`--data` holds LR and HR, every seventh pair validates, as in 001. `--photos` and `--photos_valid` are HR photographs
that the camera of the quick start shoots. All runs are done in this process, by the parts of the main command; what is
done already is kept. Writes TABLE.jsonl into `--out`; `report.py` makes tables and figures of it.
"""

import argparse
import functools
import importlib
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from adaptsr_jax import data, image, infer, methods, metrics, tree
from adaptsr_jax.adapt import losses, prepare, step, warm_up
from adaptsr_jax.adapt.folder import Folder
from adaptsr_jax.data import samples
from adaptsr_jax.evaluate import asked as measures
from adaptsr_jax.evaluate import measure
from experiments import sweeping

HERE = Path(__file__).parent
MEASURED = {'metrics': ('lpips_alex',), 'strengths': (0.8,)}
CURVE = {**MEASURED, 'eval_every': 50}
ONE_EXPOSURE = {'data.match_exposure': True}
METRICS = ('psnr_y', 'ssim_y', 'lpips_alex')
CONFIGS = {'SAFMN': 'configs.safmn', 'EDSR': 'configs.edsr', 'quick start': 'configs.quickstart'}
# What two busy cores can do: a step of EDSR on the crops of SAFMN would take three times as long.
CROPS = {'SAFMN': {'batch_size': 8, 'patch': 128}, 'EDSR': {'batch_size': 4, 'patch': 96}}
RANK_AWARE, UNIFORM, FULL = {}, {'lora.rule': 'uniform'}, {'method': 'full'}
METHODS = {'rank-aware': RANK_AWARE, 'uniform': UNIFORM, 'full': FULL}
GRID = {'rank-aware': (2e-3, 1e-3, 4e-3), 'full': (5e-4, 2e-4, 1e-3)}
CAMERAS = ('Canon', 'DSC', 'IMG', 'P1', 'panasonic', 'sony')


class Arm(NamedTuple):
  """One run: what is adapted, to which pictures, how."""

  name: str
  fields: dict[str, Any]
  backbone: str = 'SAFMN'
  data: str = 'DRealSR'
  seed: int = 0
  steps: int = 300


def rates(backbone: str) -> list[Arm]:
  """Every method at three rates, measured on a third of the training pairs, which are not trained on."""
  return [
    Arm(f'{name} {rate:g}', {**METHODS[name], 'optim.lr': rate}, backbone, 'a third kept')
    for place in range(3 if backbone == 'SAFMN' else 2)
    for name, grid in GRID.items()
    for rate in grid[place : place + 1]
  ]


def quick_start() -> list[Arm]:
  """The quick start, with other rates than the defaults of then (1e-3 and 2e-4)."""
  other = {'full': 5e-4, 'rank-aware': 2e-3}
  arms = {name: {**METHODS[name], 'optim.lr': rate} for name, rate in other.items()}
  return [Arm(f'{name} {other[name]:g}', arms[name], 'quick start', 'samples', steps=200) for name in arms]


def protocol(backbone: str, data: str, seeds: int, steps: int = 300) -> list[Arm]:
  """Every method at its best rate; of EDSR on real pairs, the curve of one seed."""
  on_the_way = [1] if (backbone, data) == ('EDSR', 'DRealSR') else []
  return [
    Arm(name, {**fields, **(CURVE if seed in on_the_way else MEASURED), 'optim.lr': BEST[name]}, *what, seed, steps)
    for what in [(backbone, data)]
    for seed in range(seeds)
    for name, fields in METHODS.items()
  ]


def level() -> list[Arm]:
  """The same as `rates` with pairs brought to one exposure while training."""
  return [
    Arm(f'{name} {rate:g}, one exposure', {**METHODS[name], **ONE_EXPOSURE, 'optim.lr': rate}, data='a third kept')
    for name, rate in (('rank-aware', 2e-3), ('full', 5e-4))
  ]


def level_edsr() -> list[Arm]:
  """Pairs brought to one exposure while training; without, see the protocol."""
  arms = at_best('rank-aware', 'full')
  return of_edsr({f'{name}, one exposure': {**fields, **ONE_EXPOSURE} for name, fields in arms.items()}, 2)


def of_edsr(arms: dict[str, dict[str, Any]], seeds: int = 1, where: str = 'DRealSR') -> list[Arm]:
  return [Arm(name, fields, 'EDSR', where, seed, 200) for seed in range(seeds) for name, fields in arms.items()]


def at_best(*names: str) -> dict[str, dict[str, Any]]:
  return {name: {**METHODS[name], 'optim.lr': BEST[name], 'strengths': (0.8,)} for name in names}


def pairs() -> list[Arm]:
  """How many pairs it takes; with all 79, see the protocol."""
  return [arm for number in (10, 3, 30) for arm in of_edsr(at_best('rank-aware', 'full'), where=f'{number} pairs')]


def of_adapters(arms: dict[str, dict[str, Any]], seeds: int = 1) -> list[Arm]:
  rate = {'optim.lr': BEST['rank-aware'], 'strengths': (0.8,)}
  return of_edsr({name: {**rate, **fields} for name, fields in arms.items()}, seeds)


def rules() -> list[Arm]:
  # The short training before it is counted in the steps: 18 and 182.
  post_hoc = {'lora.rule': 'post_hoc', 'steps': 182}
  return of_adapters({'post_hoc': post_hoc, **{rule: {'lora.rule': rule} for rule in ('marginal', 'greedy')}})


BEST = {'rank-aware': 2e-3, 'uniform': 2e-3, 'full': 5e-4}
TABLES = {
  'safmn_rates': lambda: rates('SAFMN'),
  'edsr_rates': lambda: rates('EDSR'),
  'safmn_drealsr': lambda: protocol('SAFMN', 'DRealSR', 3),
  'edsr_drealsr': lambda: protocol('EDSR', 'DRealSR', 2, 200),
  'edsr_soft': lambda: protocol('EDSR', 'soft camera', 1, 200),
  'level': level,
  'level_edsr': level_edsr,
  'pairs': pairs,
  # Not run yet.
  'quick_start': quick_start,
  'rules': rules,
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('tables', nargs='+', choices=TABLES)
  parser.add_argument('--safmn', required=True, help='SAFMN x4 of NTIRE 2023')
  parser.add_argument('--data', required=True, type=Path)
  parser.add_argument('--photos', required=True, type=Path)
  parser.add_argument('--photos_valid', required=True, type=Path)
  parser.add_argument('--weights', default='', help='folder with the weights of LPIPS')
  parser.add_argument('--runs', required=True, type=Path)
  parser.add_argument('--out', type=Path, default=HERE)
  args = parser.parse_args()
  for table in args.tables:
    rows = []
    for arm in TABLES[table]():
      rows.append(done(arm, args))
      (args.out / f'{table}.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))


def done(arm: Arm, args: argparse.Namespace) -> dict[str, Any]:
  """Runs one arm, or finds it done; returns its row."""
  name = sweeping.folder_name(f'{arm.backbone} {arm.data} {arm.name} {arm.steps} {arm.seed}')
  row = once(args.runs / 'rows' / f'{name}.json', lambda: run(arm, args))
  gain = 'failed' if 'failed' in row else f'{mean(row["adapted"]) - mean(row["base"]):+.3f} dB'
  print(arm.backbone, arm.data, arm.name, arm.seed, gain, flush=True)
  return row


def once(path: Path, make: Callable[[], Any]) -> Any:
  """Returns what `path` keeps; makes it where nothing is kept."""
  if not path.exists():
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(make()))
  return json.loads(path.read_text())


def mean(pictures: dict[str, dict[str, float]], metric: str = 'psnr_y') -> float:
  return float(np.mean([values[metric] for values in pictures.values()]))


def run(arm: Arm, args: argparse.Namespace) -> dict[str, Any]:
  """Trains and measures one arm, as `adapt.run` does; returns its row."""
  config = importlib.import_module(CONFIGS[arm.backbone]).get_config()
  bases = {'SAFMN': args.safmn, 'EDSR': 'bundled:edsr_x4', 'quick start': 'bundled:safmn_x4'}
  fields = {**CROPS.get(arm.backbone, {}), **pictures(arm.data, args), 'metric_weights': args.weights}
  fields |= {'base': bases[arm.backbone], 'steps': arm.steps, 'seed': arm.seed, **arm.fields}
  config.update_from_flattened_dict({k: str(v) if isinstance(v, Path) else v for k, v in fields.items()})
  setup = prepare.prepare(config)
  asked = measures.load(('psnr', 'ssim', *config.metrics), args.weights).functions

  def measured(params: tree.Params, functions: Any = asked) -> dict[str, dict[str, float]]:
    result = measure.measure(infer.network(setup.model, params, infer.WHOLE), data.pairs(setup.valid), functions)
    return {name: kept(values, result['levels'][name]) for name, values in result['images'].items()}

  told = {**arm._asdict(), 'fields': {name: str(value) for name, value in arm.fields.items()}}
  criterion = losses.make(config)
  first = functools.partial(warm_up.run, config, setup, criterion=criterion, material={})
  with tempfile.TemporaryDirectory() as folder:
    scores = prepare.Scores(config, setup, functools.partial(first, folder=Folder(Path(folder))))
    plan = methods.plan(config, setup.sites, scores)
  method = methods.from_spec(plan.spec, plan.constants)
  frozen, trainable = methods.restore(method, setup.base.params, plan.start, jax.random.key(arm.seed))
  training = step.plain(config, setup.model.apply, method, frozen, trainable, criterion)
  state, batches, seconds, curve = training.state, prepare.batches(config, setup.train, arm.seed), 0.0, []
  for number in range(1, config.steps + 1):
    start = time.process_time()
    state, scalars = training.step(state, next(batches))
    jax.block_until_ready(scalars)
    seconds += (time.process_time() - start) * (number > 1)  # the first compiles
    if config.eval_every and number % config.eval_every == 0 and number < config.steps:
      params = method.merge(frozen, jax.device_get(training.trained(state)))
      curve.append([number, mean(measured(params, (metrics.quality,)))])
  batches.close()
  if not np.isfinite(scalars['loss']):
    return {**told, 'failed': True}
  trained = jax.device_get(training.trained(state))
  adapted = measured(method.merge(frozen, trained))
  name = sweeping.folder_name(f'base {arm.backbone} {arm.data} {" ".join(config.metrics)}')
  base = once(args.runs / 'rows' / f'{name}.json', lambda: measured(setup.base.params))
  strengths = {}
  for strength in config.strengths:
    weaker = methods.scale(method.spec, tree.flatten(trained), setup.base.params, strength)
    params = method.merge(frozen, tree.filled(trained, weaker))
    strengths[f'{strength:g}'] = mean(measured(params, (metrics.quality,)))
  return {
    **told,
    'trainable_parameters': tree.count(trained),
    'ranks': plan.ranks.get('ranks', {}),
    'cpu_seconds': seconds,
    'base': base,
    'adapted': adapted,
    'strengths': strengths,
    'curve': [*curve, [config.steps, mean(adapted)]],
  }


def kept(values: dict[str, float], level: float) -> dict[str, float]:
  """Returns what is kept of a picture: its metrics, and output minus HR in grey levels."""
  return {metric: round(values[metric], 5) for metric in METRICS if metric in values} | {'level': round(level, 4)}


def pictures(where: str, args: argparse.Namespace) -> dict[str, Any]:
  """Returns the fields of a run on the pictures that `where` names."""
  if where == 'samples':  # as the config has them
    return {}
  if where == 'soft camera':
    parts = {'train': (args.photos, 60), 'valid': (args.photos_valid, 12)}
    folders = {part: shot(*given, args.runs / 'soft_camera' / part) for part, given in parts.items()}
    fields = {f'data.{part}.{kind}': at / kind.upper() for part, at in folders.items() for kind in ('lr', 'hr')}
    return {**fields, 'tensorboard': False}
  fields = sweeping.pairs(args.data, args.runs)
  every = sorted(path.stem for path in (args.data / 'HR').iterdir())
  valid, train = every[::7], [name for i, name in enumerate(every) if i % 7]
  if where == 'DRealSR':
    return fields
  if where == 'a third kept':
    valid = train[::3]
    train = [name for name in train if name not in valid]
  elif where in CAMERAS:
    valid = [name for name in every if name.startswith(where)]
    train = [name for name in every if name not in valid]
  else:  # 'N pairs'
    number = int(where.split()[0])
    train = [train[i * len(train) // number] for i in range(number)]
  chosen = {'train': train, 'valid': valid}
  for part, names in chosen.items():
    file = args.runs / f'{sweeping.folder_name(where)}_{part}.txt'
    file.write_text('\n'.join(names) + '\n')
    fields[f'data.{part}.names'] = file
  del fields['data.train.skip_names']
  return fields


def shot(photos: Path, count: int, out: Path) -> Path:
  """Writes LR and HR of the first `count` pictures of `photos` under the camera of the quick start; returns `out`."""
  for path in image.list_images(photos)[:count]:
    target = out / 'LR' / f'{path.stem}.png'
    if not target.exists():
      for kind in ('LR', 'HR'):
        (out / kind).mkdir(parents=True, exist_ok=True)
      picture = image.read_array(path)
      h, w = (n // samples.SCALE * samples.SCALE for n in picture.shape[:2])
      image.write(out / 'HR' / f'{path.stem}.png', picture[:h, :w])
      image.write(target, samples.shoot(picture[:h, :w], path.stem))
  return out


if __name__ == '__main__':
  main()

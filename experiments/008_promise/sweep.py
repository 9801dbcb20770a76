"""Runs behind 008 and 009: what the promise of AdaptSR comes to, table by table.

  python -m experiments.008_promise.sweep safmn_rates safmn_drealsr --safmn=safmn_ntire2023_x4.pth \
    --edsr=edsr_first.safetensors --data=drealsr_x4 --photos=hr_train --photos_valid=hr_valid --weights=WEIGHTS \
    --runs=runs/008

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
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from adaptsr_jax import data, image, infer, methods, metrics, tree
from adaptsr_jax.adapt import losses, prepare, rate, step, warm_up
from adaptsr_jax.adapt.folder import Folder
from adaptsr_jax.config import probes_rate
from adaptsr_jax.data import samples
from adaptsr_jax.evaluate import asked as measures
from adaptsr_jax.evaluate import measure
from experiments import sweeping

HERE = Path(__file__).parent
MEASURED = {'metrics': ('lpips_alex',), 'strengths': (0.8,)}
ONE_EXPOSURE = {'data.match_exposure': True}
METRICS = ('psnr_y', 'ssim_y', 'lpips_alex')
# SwinIR has the recipe of the others, which leaves out the convolution in front of its pixel shuffle, as
# configs/swinir.py does. What that sets beside is the paper's, for long runs.
CONFIGS = {
  'SAFMN': 'configs.safmn',
  'bundled SAFMN': 'configs.safmn',
  'EDSR': 'configs.edsr',
  'SwinIR': 'configs.edsr',
}
# What two busy cores can do: a step of EDSR on the crops of SAFMN would take three times as long.
SMALL, LARGE = {'batch_size': 4, 'patch': 96}, {'batch_size': 8, 'patch': 128}
CROPS = {'SAFMN': LARGE, 'bundled SAFMN': LARGE, 'EDSR': SMALL, 'SwinIR': SMALL}
STEPS = {'SAFMN': 300, 'bundled SAFMN': 300, 'EDSR': 200, 'SwinIR': 200}
METHODS = {'rank-aware': {}, 'uniform': {'lora.rule': 'uniform'}, 'full': {'method': 'full'}}
# Each goes on until its best rate is not the last.
GRID = {
  'SAFMN': {'rank-aware': (2e-3, 1e-3, 4e-3), 'full': (5e-4, 2e-4, 1e-3)},
  'EDSR': {'rank-aware': (2e-3, 1e-3, 4e-3, 8e-3), 'full': (5e-4, 2e-4, 1e-3)},
  'SwinIR': {'rank-aware': (2e-3, 4e-3, 8e-3, 1.6e-2), 'full': (5e-4, 1e-3, 2e-4, 2e-3)},
}
# Of rank 8 in form '1x1_kxk'; convolutions in front of the pixel shuffle have none.
BUDGETS = {'SAFMN': 61_656, 'EDSR': 115_440, 'SwinIR': 74_424}
PROBES = 130  # steps that look for a rate, about
CAMERAS = ('Canon', 'DSC', 'IMG', 'P1', 'panasonic', 'sony')
# Three phones, the second the camera of the quick start, and the pictures of real ones.
PHONES = {
  'mild camera': samples.Camera(blur=(1.8, 1.4), read_noise=0.5 / 255, shot_noise=5e-5, quality=98),
  'soft camera': samples.CAMERA,
  'harsh camera': samples.Camera(blur=(4.2, 3.2), read_noise=3 / 255, shot_noise=4e-4, quality=80),
}


class Arm(NamedTuple):
  """One run: what is adapted, to which pictures, how."""

  name: str
  fields: dict[str, Any]
  backbone: str = 'SAFMN'
  data: str = 'DRealSR'
  seed: int = 0
  steps: int = 300
  elsewhere: tuple[str, ...] = ()  # other pictures that the result is measured on


def rates(backbone: str, steps: int = 300) -> list[Arm]:
  """Every method at each of its rates, measured on a third of the training pairs, which are not trained on."""
  fields = {'strengths': ()} if backbone == 'SwinIR' else {}  # it takes its time to measure
  return [
    Arm(f'{name} {rate:g}', {**METHODS[name], **fields, 'optim.lr': rate}, backbone, 'a third kept', steps=steps)
    for name, grid in GRID[backbone].items()
    for rate in grid
  ]


def protocol(backbone: str, data: str, seeds: int, own: bool = False) -> list[Arm]:
  """Every method at the one rate for all networks, or at its own; of EDSR on real pairs the curve of one seed."""
  curve = {'eval_every': 50} if (backbone, data, own) == ('EDSR', 'DRealSR', False) else {}
  arms = at_own(backbone, *METHODS) if own else at_best(*METHODS)
  return [
    Arm(name, {**fields, **MEASURED, **(curve if seed == 1 else {})}, backbone, data, seed, STEPS[backbone])
    for seed in range(seeds)
    for name, fields in arms.items()
  ]


def fresh() -> list[Arm]:
  """Five further seeds of rank-aware and uniform ranks, each network at its own rate."""
  return [
    Arm(name, {**own, 'metrics': (), 'strengths': ()}, backbone, data, seed, STEPS[backbone])
    for seed in range(5, 10)
    for backbone, data in (('SAFMN', 'DRealSR'), ('EDSR', 'soft camera'))
    for name, own in at_own(backbone, 'rank-aware', 'uniform').items()
  ]


def auto() -> list[Arm]:
  """Every method at the rate that probes find, and at its default rate for as long as both take."""
  places = (('SAFMN', 'DRealSR'), ('EDSR', 'DRealSR'), ('EDSR', 'soft camera'), ('SwinIR', 'DRealSR'))
  auto, longer = {'optim.preset': 'auto'}, {'optim.preset': 'short'}
  return [
    Arm(f'{name}, {label}', {**METHODS[name], **own, **MEASURED}, backbone, data, seed, STEPS[backbone] + more)
    for backbone, data in places
    for seed in range(2)
    for name in ('rank-aware', 'full')
    for label, own, more in (('rate by probes', auto, 0), ('default rate, longer', longer, PROBES))
  ]


def higher() -> list[Arm]:
  """Full fine-tuning at the highest rate of its grid."""
  return of_edsr({'full 0.001': {'method': 'full', 'optim.lr': 1e-3, 'strengths': (0.8,)}}, 0, 'soft camera')


def phones() -> list[Arm]:
  """Every camera is trained on, and all are measured."""
  places = (*PHONES, 'DRealSR')
  return [
    Arm(f'{name}, carried over', {**own, 'strengths': (0.8, 0.6)}, 'EDSR', place, steps=200, elsewhere=places)
    for place in places
    for name, own in at_own('EDSR', 'rank-aware', 'full').items()
  ]


def photographs() -> list[Arm]:
  """Photographs under the second-order degradation of Real-ESRGAN, anew in every batch."""
  return [
    Arm(name, {**own, **MEASURED}, 'SAFMN', 'realesrgan', seed, elsewhere=('DRealSR',))
    for seed in range(2)
    for name, own in at_own('SAFMN', *METHODS).items()
  ]


def level() -> list[Arm]:
  """The same as `rates` with pairs brought to one exposure while training."""
  return [
    Arm(f'{name} {rate:g}, one exposure', {**METHODS[name], **ONE_EXPOSURE, 'optim.lr': rate}, data='a third kept')
    for name, rate in (('rank-aware', 2e-3), ('full', 5e-4))
  ]


def level_edsr() -> list[Arm]:
  """Pairs brought to one exposure while training; without, see the protocol."""
  fields = {f'{name}, one exposure': {**own, **ONE_EXPOSURE} for name, own in at_best('rank-aware', 'full').items()}
  return [arm for seed in range(2) for arm in of_edsr(fields, seed)]


def level_own(backbone: str) -> list[Arm]:
  """The same on another network, at its own rates."""
  arms = at_own(backbone, 'rank-aware', 'full').items()
  return [
    Arm(f'{name}, one exposure', {**own, **ONE_EXPOSURE, **MEASURED}, backbone, seed=seed, steps=STEPS[backbone])
    for seed in range(2)
    for name, own in arms
  ]


def of_edsr(fields: dict[str, dict[str, Any]], seed: int = 0, where: str = 'DRealSR') -> list[Arm]:
  return [Arm(name, own, 'EDSR', where, seed, 200) for name, own in fields.items()]


def at_best(*names: str) -> dict[str, dict[str, Any]]:
  return {name: {**METHODS[name], 'optim.lr': BEST[name], 'strengths': (0.8,)} for name in names}


def at_own(backbone: str, *names: str) -> dict[str, dict[str, Any]]:
  """Returns the fields of methods by a name that tells the rate where it is not that of `BEST`."""
  rates = {name: rate_of(backbone, name) for name in names}
  return {
    name if rate == BEST[name] else f'{name} {rate:g}': {**METHODS[name], 'optim.lr': rate}
    for name, rate in rates.items()
  }


def rate_of(backbone: str, method: str) -> float:
  """Returns the rate that suits a method on a network."""
  return {**BEST, **OWN.get(backbone, {})}[method]


def long(backbone: str, data: str = 'DRealSR', names: Iterable[str] = METHODS, seeds: int = 1) -> list[Arm]:
  """Until the curves are flat."""
  fields = {'eval_every': 200, 'strengths': (0.8, 0.6)}
  return [
    Arm(name, {**own, **fields}, backbone, data, seed, 2000)
    for seed in range(seeds)
    for name, own in at_own(backbone, *names).items()
  ]


def loralib() -> list[Arm]:
  """The form of a convolution that 009 finds above the usual one on EDSR, on other pictures and for longer."""
  places = [
    ('EDSR', 'soft camera', 200, 5),
    ('SwinIR', 'soft camera', 200, 5),
    ('EDSR', 'DRealSR', 2000, 2),
    ('EDSR', 'soft camera', 2000, 2),
    ('SwinIR', 'DRealSR', 2000, 2),
    ('SwinIR', 'soft camera', 2000, 2),
  ]
  curve = {200: {}, 2000: {'eval_every': 200}}
  arms = [
    Arm(f'{name}, loralib', {**own, **in_loralib(backbone), **curve[steps]}, backbone, data, seed, steps)
    for backbone, data, steps, seeds in places
    for seed in range(seeds)
    for name, own in at_own(backbone, 'rank-aware').items()
  ]
  # What configs/edsr.py has.
  recipe = {'optim.lr': rate_of('EDSR', 'rank-aware'), 'lora.form': 'loralib', 'lora.rank': 4}
  return arms + [
    Arm('loralib of rank 4', recipe, 'EDSR', data, seed, STEPS['EDSR'])
    for data in ('DRealSR', 'soft camera')
    for seed in range(5)
  ]


def in_loralib(backbone: str) -> dict[str, Any]:
  """Returns the fields of the form, at the parameters of the usual one."""
  return {'lora.form': 'loralib', 'lora.budget': BUDGETS[backbone], 'strengths': (0.8, 0.6)}


def long_at_first_rates() -> list[Arm]:
  """The same on SAFMN at the default rates of before."""
  first = {'rank-aware 0.001': 1e-3, 'full 0.0002': 2e-4}
  return [
    arm._replace(name=name, fields={**arm.fields, 'optim.lr': rate})
    for arm, (name, rate) in zip(long('SAFMN', names=('rank-aware', 'full')), first.items(), strict=True)
  ]


def defaults() -> list[Arm]:
  """The default rates, where those of `BEST` were run."""
  fields = {
    'rank-aware 0.001': {'optim.lr': 1e-3, 'strengths': (0.8,)},
    'full 0.0002': {'method': 'full', 'optim.lr': 2e-4, 'strengths': (0.8,)},
  }
  places = [('EDSR', 'soft camera', seed) for seed in range(2)]
  places += [(network, 'DRealSR', seed) for network in ('SwinIR', 'EDSR') for seed in range(2)]
  places += [('SAFMN', f'fold {fold}', 0) for fold in range(3)]
  return [
    Arm(name, own, backbone, data, seed, STEPS[backbone])
    for backbone, data, seed in places
    for name, own in fields.items()
  ]


def folds() -> list[Arm]:
  """All pairs in three parts, each measured by the runs that were trained on the others."""
  return [Arm(name, fields, data=f'fold {fold}') for fold in range(3) for name, fields in at_best(*METHODS).items()]


def rules() -> list[Arm]:
  """Other ways to share out the budget; that of `post_hoc` trains before it is counted, so its 18 steps go off."""
  usual, rules = at_best('rank-aware')['rank-aware'], {'post_hoc': {'steps': 182}, 'marginal': {}, 'greedy': {}}
  return of_edsr({rule: {**usual, 'lora.rule': rule, **own} for rule, own in rules.items()})


def rules_own(backbone: str) -> list[Arm]:
  """The same, and spectral gains over more batches, at the rate that suits a network."""
  usual = {'optim.lr': rate_of(backbone, 'rank-aware')}
  rules = {'post_hoc': {'steps': 182}, 'marginal': {}, 'marginal, 64 batches': {'score.batches': 64}, 'greedy': {}}
  return [
    Arm(f'{rule}, own rate', {**usual, 'lora.rule': rule.partition(',')[0], **own}, backbone, steps=STEPS[backbone])
    for rule, own in rules.items()
  ]


# One rate for all networks, and what is better on single ones.
BEST = {'rank-aware': 2e-3, 'uniform': 2e-3, 'full': 5e-4}
OWN = {
  'EDSR': {'rank-aware': 4e-3, 'uniform': 4e-3},
  'SwinIR': {'rank-aware': 8e-3, 'uniform': 8e-3, 'full': 1e-3},
}
TABLES = {
  'safmn_rates': lambda: rates('SAFMN'),
  'edsr_rates': lambda: rates('EDSR'),
  'swinir_rates': lambda: rates('SwinIR', 200),
  'safmn_drealsr': lambda: protocol('SAFMN', 'DRealSR', 5),
  'edsr_drealsr': lambda: protocol('EDSR', 'DRealSR', 5),
  'edsr_soft': lambda: protocol('EDSR', 'soft camera', 5),
  'edsr_drealsr_own': lambda: protocol('EDSR', 'DRealSR', 5, own=True),
  'edsr_soft_own': lambda: protocol('EDSR', 'soft camera', 5, own=True),
  'swinir_drealsr_own': lambda: protocol('SwinIR', 'DRealSR', 5, own=True),
  'swinir_soft_own': lambda: protocol('SwinIR', 'soft camera', 5, own=True),
  'edsr_mild_own': lambda: protocol('EDSR', 'mild camera', 5, own=True),
  'edsr_harsh_own': lambda: protocol('EDSR', 'harsh camera', 5, own=True),
  'bundled_safmn': lambda: protocol('bundled SAFMN', 'DRealSR', 4),
  'swinir_drealsr': lambda: protocol('SwinIR', 'DRealSR', 2),
  'fresh': fresh,
  'higher': higher,
  'auto': auto,
  'level': level,
  'level_edsr': level_edsr,
  'level_swinir': lambda: level_own('SwinIR'),
  'level_safmn': lambda: level_own('SAFMN'),
  'long': lambda: [*long('SAFMN'), *long_at_first_rates()],
  'edsr_long': lambda: long('EDSR', seeds=3),
  'edsr_soft_long': lambda: long('EDSR', 'soft camera', seeds=3),
  'swinir_long': lambda: long('SwinIR', names=('rank-aware', 'full'), seeds=3),
  'swinir_soft_long': lambda: long('SwinIR', 'soft camera', names=('rank-aware', 'full'), seeds=2),
  'loralib': loralib,
  'photographs': photographs,
  'phones': phones,
  'folds': folds,
  'defaults': defaults,
  'rules': rules,
  'rules_edsr': lambda: rules_own('EDSR'),
  'rules_swinir': lambda: rules_own('SwinIR'),
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('tables', nargs='+', choices=TABLES)
  add_flags(parser, HERE)
  parser.add_argument('--photos', required=True, type=Path)
  parser.add_argument('--photos_valid', required=True, type=Path)
  parser.add_argument('--weights', default='', help='folder with the weights of LPIPS')
  args = parser.parse_args()
  for table in args.tables:
    rows = []
    for arm in TABLES[table]():
      rows.append(done(arm, args))
      (args.out / f'{table}.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))


def add_flags(parser: argparse.ArgumentParser, out: Path) -> None:
  """Adds what every script needs whose runs are those of `run`; rows are written into `out` by default."""
  parser.add_argument('--safmn', required=True, help='SAFMN x4 of NTIRE 2023')
  parser.add_argument('--edsr', required=True, help='the first EDSR x4 of the package, see README.md of 008')
  parser.add_argument('--swinir', default='bundled:swinir_x4', help='a small SwinIR x4')
  parser.add_argument('--data', required=True, type=Path)
  parser.add_argument('--runs', required=True, type=Path)
  parser.add_argument('--out', type=Path, default=out)


def done(arm: Arm, args: argparse.Namespace, how: Callable[..., dict[str, Any]] | None = None) -> dict[str, Any]:
  """Runs one arm, by `run` or as given, or finds it done; returns its row."""
  name = sweeping.folder_name(f'{arm.backbone} {arm.data} {arm.name} {arm.steps} {arm.seed}')
  row = once(args.runs / 'rows' / f'{name}.json', lambda: (how or run)(arm, args))
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
  ready = prepared(arm, args)
  return row_of(arm, args, ready, trained(ready))


class Ready(NamedTuple):
  """A run before its first step."""

  config: ConfigDict
  setup: prepare.Setup
  scores: prepare.Scores
  plan: methods.Plan
  method: methods.Method
  criterion: losses.Criterion
  asked: Any


def prepared(arm: Arm, args: argparse.Namespace) -> Ready:
  """Returns one arm with its ranks, before anything is trained."""
  config = importlib.import_module(CONFIGS[arm.backbone]).get_config()
  bases = {'SAFMN': args.safmn, 'bundled SAFMN': 'bundled:safmn_x4', 'EDSR': args.edsr, 'SwinIR': args.swinir}
  fields = {**CROPS[arm.backbone], **pictures(arm.data, args), 'metric_weights': args.weights}
  fields |= {'base': bases[arm.backbone], 'steps': arm.steps, 'seed': arm.seed}
  # What configs/edsr.py had when these runs began.
  fields |= {'lora.form': '1x1_kxk', 'lora.rank': 8, **arm.fields}
  config.update_from_flattened_dict({k: str(v) if isinstance(v, Path) else v for k, v in fields.items()})
  setup = prepare.prepare(config)
  asked = measures.load(('psnr', 'ssim', *config.metrics), args.weights).functions
  criterion = losses.make(config)
  first = functools.partial(warm_up.run, config, setup, criterion=criterion, material={})
  with tempfile.TemporaryDirectory() as folder:
    scores = prepare.Scores(config, setup, functools.partial(first, folder=Folder(Path(folder))))
    plan = methods.plan(config, setup.sites, scores)
  return Ready(config, setup, scores, plan, methods.from_spec(plan.spec, plan.constants), criterion, asked)


class Trained(NamedTuple):
  """A run behind its last step."""

  frozen: tree.Params
  trainable: tree.Params
  seconds: float  # of CPU
  on_the_way: list[tuple[int, dict[str, float]]]  # number of steps, PSNR by picture
  finite: bool
  probed: dict[str, Any]  # where the rate was looked for


def trained(ready: Ready) -> Trained:
  """Trains what is ready."""
  config, setup, method = ready.config, ready.setup, ready.method
  frozen, trainable = methods.restore(method, setup.base.params, ready.plan.start, jax.random.key(config.seed))
  training = step.plain(config, setup.model.apply, method, frozen, trainable, ready.criterion)
  probed = {}
  if probes_rate(config):
    probed = rate.find(config, setup, training)
    training = step.at_rate(training, config, probed['rate'])
  state, batches, seconds, on_the_way = training.state, prepare.batches(config, setup.train, config.seed), 0.0, []
  for number in range(1, config.steps + 1):
    start = time.process_time()
    state, scalars = training.step(state, next(batches))
    jax.block_until_ready(scalars)
    seconds += (time.process_time() - start) * (number > 1)  # the first compiles
    if config.eval_every and number % config.eval_every == 0 and number < config.steps:
      params = method.merge(frozen, jax.device_get(training.trained(state)))
      images = measured(ready, params, (metrics.quality,))
      on_the_way.append((number, {picture: values['psnr_y'] for picture, values in images.items()}))
  batches.close()
  finite = bool(np.isfinite(scalars['loss']))
  return Trained(frozen, jax.device_get(training.trained(state)), seconds, on_the_way, finite, probed)


def measured(
  ready: Ready, params: tree.Params, functions: Any = None, source: data.Source | None = None
) -> dict[str, dict[str, float]]:
  """Returns what is kept of every picture, by default of the run's validation and by the functions it asks for."""
  network = infer.network(ready.setup.model, params, infer.WHOLE)
  result = measure.measure(network, data.pairs(source or ready.setup.valid), functions or ready.asked)
  return {name: kept(values, result['levels'][name]) for name, values in result['images'].items()}


def row_of(arm: Arm, args: argparse.Namespace, ready: Ready, end: Trained) -> dict[str, Any]:
  """Measures what was trained, at full strength and at the weaker ones asked for; returns the row."""
  config, method, base = ready.config, ready.method, ready.setup.base.params
  told = {**arm._asdict(), 'fields': {name: str(value) for name, value in arm.fields.items()}}

  def base_file(where: str) -> Path:
    name = sweeping.folder_name(f'base {arm.backbone} {where} {" ".join(config.metrics)}')
    return args.runs / 'rows' / f'{name}.json'

  if not end.finite:
    return {**told, 'failed': True}
  merged = {'1': method.merge(end.frozen, end.trainable)}
  adapted = measured(ready, merged['1'])
  unadapted = once(base_file(arm.data), lambda: measured(ready, base))
  weaker, elsewhere = {}, {}
  for strength in config.strengths:
    scaled = methods.scale(method.spec, tree.flatten(end.trainable), base, strength)
    merged[f'{strength:g}'] = method.merge(end.frozen, tree.filled(end.trainable, scaled))
    weaker[f'{strength:g}'] = measured(ready, merged[f'{strength:g}'], (metrics.quality,))
  for place in arm.elsewhere:
    fields = {'data.valid.names': '', **pictures(place, args)}
    config.update_from_flattened_dict({name: str(value) for name, value in fields.items() if '.valid.' in name})
    there = functools.partial(measured, ready, source=prepare.open_pictures(config, 'valid', ready.setup.model.upscale))
    of = {'base': once(base_file(place), functools.partial(there, base))}
    of |= {strength: there(params, (metrics.quality,)) for strength, params in merged.items()}
    elsewhere[place] = {label: {p: values['psnr_y'] for p, values in of[label].items()} for label in of}
  return {
    **told,
    'trainable_parameters': tree.count(end.trainable),
    'ranks': ready.plan.ranks.get('ranks', {}),
    'cpu_seconds': end.seconds,
    'base': unadapted,
    'adapted': adapted,
    'strengths': {strength: mean(images) for strength, images in weaker.items()},
    'weaker': {strength: {p: images[p]['psnr_y'] for p in images} for strength, images in weaker.items()},
    **({'probed': end.probed} if end.probed else {}),
    'curve': [
      *([n, float(np.mean([*images.values()]))] for n, images in end.on_the_way),
      [config.steps, mean(adapted)],
    ],
    **({'on_the_way': end.on_the_way} if end.on_the_way else {}),
    **({'gains_elsewhere': elsewhere} if elsewhere else {}),
  }


def kept(values: dict[str, float], level: float) -> dict[str, float]:
  """Returns what is kept of a picture: its metrics, and output minus HR in grey levels."""
  return {metric: round(values[metric], 5) for metric in METRICS if metric in values} | {'level': round(level, 4)}


def pictures(where: str, args: argparse.Namespace) -> dict[str, Any]:
  """Returns the fields of a run on the pictures that `where` names."""
  if where in PHONES or where == 'realesrgan':
    return photographed(where, args)
  fields = sweeping.pairs(args.data, args.runs)
  where, _, mixed = where.partition(', mixed with ')
  every = sorted(path.stem for path in (args.data / 'HR').iterdir())
  valid, train = every[::7], [name for i, name in enumerate(every) if i % 7]
  if where == 'DRealSR':
    return fields
  if where == 'a third kept':
    valid = train[::3]
    train = [name for name in train if name not in valid]
  elif where.startswith('fold'):
    valid = every[int(where.split()[1]) :: 3]
    train = [name for name in every if name not in valid]
  elif where.startswith(CAMERAS):  # 'CAMERA', 'CAMERA alone' or 'CAMERA among all'
    camera, _, how = where.partition(' ')
    of_camera = [name for name in every if name.startswith(camera)]
    valid = of_camera[::4] if how else of_camera
    train = [name for name in (of_camera if how == 'alone' else every) if name not in valid]
  else:  # 'N pairs'
    number = int(where.split()[0])
    train = [train[i * len(train) // number] for i in range(number)]
  chosen = {'train': train, 'valid': valid}
  for part, names in chosen.items():
    file = args.runs / f'{sweeping.folder_name(where)}_{part}.txt'
    file.write_text('\n'.join(names) + '\n')
    fields[f'data.{part}.names'] = file
  del fields['data.train.skip_names']
  if mixed:  # photographs, under a simulated camera
    given = {name: fields.pop(f'data.train.{name}') for name in ('lr', 'hr', 'names')}
    pairs = ' '.join(f'{name}={value}' for name, value in given.items())
    fields['data.train.mix'] = f'{pairs} weight=1; hr={args.photos} degrade={mixed} weight=1'
  return fields


def photographed(camera: str, args: argparse.Namespace) -> dict[str, Any]:
  """Returns the fields of a run on photographs that a simulated camera shoots."""
  if camera == 'realesrgan':
    degraded = args.runs / 'realesrgan'
    if not degraded.exists():
      asked = [f'--hr={args.photos_valid}', f'--out={degraded}', '--preset=realesrgan', '--scale=4']
      sweeping.command(['adaptsr_jax.degrade', *asked])
    fields = {'data.train.hr': args.photos, 'data.train.degrade': camera}
    return {**fields, 'data.valid.lr': degraded, 'data.valid.hr': args.photos_valid, 'tensorboard': False}
  folder = args.runs / sweeping.folder_name(camera)
  parts = {'train': (args.photos, 60), 'valid': (args.photos_valid, 12)}
  folders = {part: shot(*given, folder / part, PHONES[camera]) for part, given in parts.items()}
  fields = {f'data.{part}.{kind}': at / kind.upper() for part, at in folders.items() for kind in ('lr', 'hr')}
  return {**fields, 'tensorboard': False}


def shot(photos: Path, count: int, out: Path, camera: samples.Camera) -> Path:
  """Writes LR and HR of the first `count` pictures of `photos` under a simulated camera; returns `out`."""
  for path in image.list_images(photos)[:count]:
    target = out / 'LR' / f'{path.stem}.png'
    if not target.exists():
      for kind in ('LR', 'HR'):
        (out / kind).mkdir(parents=True, exist_ok=True)
      picture = image.read_array(path)
      h, w = (n // samples.SCALE * samples.SCALE for n in picture.shape[:2])
      image.write(out / 'HR' / f'{path.stem}.png', picture[:h, :w])
      image.write(target, samples.shoot(picture[:h, :w], path.stem, camera))
  return out


if __name__ == '__main__':
  main()

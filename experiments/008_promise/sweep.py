"""Runs behind 008 to 010: what the promise of AdaptSR comes to, table by table.

  python -m experiments.008_promise.sweep safmn_rates safmn_drealsr --safmn=safmn_ntire2023_x4.pth --data=drealsr_x4 \
    --photos=hr_train --photos_valid=hr_valid --weights=WEIGHTS --runs=runs/008

`--data` holds LR and HR, every seventh pair validates, as in 001. `--photos` and `--photos_valid` are HR photographs
that the camera of the quick start shoots. Each run is the main command in a process of its own; what is done already is
kept, and a run that was stopped goes on. Writes TABLE.jsonl into `--out`; `report.py` makes tables and figures of it.
"""

import argparse
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from adaptsr_jax import image, log
from adaptsr_jax.data import samples
from experiments import sweeping

HERE = Path(__file__).parent
KEPT = ('base', 'adapted')
CURVE = {'eval_every': 60, 'metrics': ('lpips_alex',)}
ONE_EXPOSURE = {'data.match_exposure': True}
METRICS = ('psnr_y', 'ssim_y', 'lpips_alex')
CONFIGS = {'SAFMN': 'configs/safmn.py', 'EDSR': 'configs/edsr.py'}
# What two busy cores can do; a step of EDSR with the crops of SAFMN would take three times as long.
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
    for place in range(3)
    for name, grid in GRID.items()
    for rate in grid[place : place + 1]
  ]


def main_protocol(backbone: str, data: str, seeds: int) -> list[Arm]:
  """Every method at its best rate."""
  return [
    Arm(name, {**fields, **CURVE, 'optim.lr': BEST[backbone][name]}, backbone, data, seed)
    for seed in range(seeds)
    for name, fields in METHODS.items()
  ]


def level() -> list[Arm]:
  """The same as `rates` with pairs brought to one exposure while training."""
  return [
    Arm(f'{name} {rate:g}, one exposure', {**METHODS[name], **ONE_EXPOSURE, 'optim.lr': rate}, data='a third kept')
    for name, rate in (('rank-aware', 2e-3), ('full', 5e-4))
  ]


def pairs() -> list[Arm]:
  """How many pairs it takes."""
  return [
    Arm(name, {**METHODS[name], 'optim.lr': BEST['SAFMN'][name]}, data=f'{number} pairs')
    for number in (10, 3, 20, 5, 40)
    for name in ('rank-aware', 'full')
  ]


def cameras() -> list[Arm]:
  """One camera is left out of the training pairs, and measured."""
  return [
    Arm(name, {**METHODS[name], 'optim.lr': BEST['SAFMN'][name]}, data=camera)
    for camera in CAMERAS
    for name in ('rank-aware', 'full')
  ]


def of_adapters(arms: dict[str, dict[str, Any]], seeds: int = 1) -> list[Arm]:
  rate = {'optim.lr': BEST['SAFMN']['rank-aware']}
  return [Arm(name, {**rate, **fields}, seed=seed) for seed in range(seeds) for name, fields in arms.items()]


def ranks() -> list[Arm]:
  return of_adapters({f'rank {rank}': {'lora.rank': rank} for rank in (1, 2, 4, 16)})


def forms() -> list[Arm]:
  return of_adapters({form: {'lora.form': form} for form in ('kxk_1x1', 'loralib')})


def scores() -> list[Arm]:
  return of_adapters({kind: {'score.kind': kind} for kind in ('random', 'fisher', 'activation')}, 2)


def rules() -> list[Arm]:
  return of_adapters({rule: {'lora.rule': rule} for rule in ('post_hoc', 'marginal', 'proportional', 'greedy')}, 3)


BEST = {
  'SAFMN': {'rank-aware': 2e-3, 'uniform': 2e-3, 'full': 5e-4},
  'EDSR': {'rank-aware': 2e-3, 'uniform': 2e-3, 'full': 5e-4},
}
TABLES = {
  'safmn_rates': lambda: rates('SAFMN'),
  'edsr_rates': lambda: rates('EDSR'),
  'safmn_drealsr': lambda: main_protocol('SAFMN', 'DRealSR', 5),
  'safmn_soft': lambda: main_protocol('SAFMN', 'soft camera', 3),
  'edsr_drealsr': lambda: main_protocol('EDSR', 'DRealSR', 3),
  'edsr_soft': lambda: main_protocol('EDSR', 'soft camera', 3),
  'level': level,
  'pairs': pairs,
  'cameras': cameras,
  'ranks': ranks,
  'forms': forms,
  'scores': scores,
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
      rows.append(row(arm, args))
      (args.out / f'{table}.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))


def row(arm: Arm, args: argparse.Namespace) -> dict[str, Any]:
  """Runs one arm, or finds it done; returns what is kept of its results."""
  workdir = args.runs / sweeping.folder_name(f'{arm.backbone} {arm.data} {arm.name} {arm.steps} {arm.seed}')
  fields = {
    'base': {'SAFMN': args.safmn, 'EDSR': 'bundled:edsr_x4'}[arm.backbone],
    'steps': arm.steps,
    'seed': arm.seed,
    'eval_every': arm.steps,
    'metric_weights': args.weights,
    **CROPS[arm.backbone],
    **pictures(arm.data, args),
    **arm.fields,
  }
  # Base and bicubic enlargement are the same in all runs on the same pictures.
  measured = args.runs / 'measured' / sweeping.folder_name(f'{arm.backbone} {arm.data}')
  if measured.exists() and not workdir.exists():
    shutil.copytree(measured, workdir)
  told = {**arm._asdict(), 'fields': {name: str(value) for name, value in arm.fields.items()}}
  try:
    results = sweeping.adapted(workdir, CONFIGS[arm.backbone], fields)
  except subprocess.CalledProcessError:  # its last line says why: a loss that is not finite
    return {**told, 'failed': True}
  if not measured.exists():
    measured.mkdir(parents=True)
    for label in ('base', 'bicubic'):
      shutil.copy(workdir / f'{label}.json', measured)
  images = {label: {name: kept(label, name, results) for name in results[label]['images']} for label in KEPT}
  told['strengths'] = results.get('strengths', {})
  history = log.read_metrics(workdir)
  curve = [[row['step'], round(row['valid/psnr_y'], 4)] for row in history if 'valid/psnr_y' in row]
  numbers = ('trainable_parameters', 'total_parameters', 'adapter_parameters', 'seconds')
  return {**told, **{key: results[key] for key in numbers}, **images, 'curve': curve}


def kept(label: str, name: str, results: dict[str, Any]) -> dict[str, float]:
  """Returns what is kept of a picture of 'base' or 'adapted': its metrics, and output minus HR in grey levels."""
  values = {metric: value for metric, value in results[label]['images'][name].items() if metric in METRICS}
  if 'levels' in results[label]:  # runs of versions before this one have none
    values['level'] = results[label]['levels'][name]
  return {metric: round(value, 5) for metric, value in values.items()}


def pictures(data: str, args: argparse.Namespace) -> dict[str, Any]:
  """Returns the fields of a run on the pictures that `data` names."""
  if data == 'soft camera':
    parts = {'train': args.photos, 'valid': args.photos_valid}
    folders = {part: shot(folder, args.runs / 'soft_camera' / part) for part, folder in parts.items()}
    fields = {f'data.{part}.{kind}': at / kind.upper() for part, at in folders.items() for kind in ('lr', 'hr')}
    return {**fields, 'tensorboard': False}
  fields = sweeping.pairs(args.data, args.runs)
  every = sorted(path.stem for path in (args.data / 'HR').iterdir())
  valid, train = every[::7], [name for i, name in enumerate(every) if i % 7]
  if data == 'DRealSR':
    return fields
  if data == 'a third kept':
    valid = train[::3]
    train = [name for name in train if name not in valid]
  elif data in CAMERAS:
    valid = [name for name in every if name.startswith(data)]
    train = [name for name in every if name not in valid]
  else:  # 'N pairs'
    number = int(data.split()[0])
    train = [train[i * len(train) // number] for i in range(number)]
  chosen = {'train': train, 'valid': valid}
  for part, names in chosen.items():
    file = args.runs / f'{sweeping.folder_name(data)}_{part}.txt'
    file.write_text('\n'.join(names) + '\n')
    fields[f'data.{part}.names'] = file
  del fields['data.train.skip_names']
  return fields


def shot(photos: Path, out: Path) -> Path:
  """Writes LR and HR of `photos` under the camera of the quick start; returns `out`."""
  for path in sorted(photos.iterdir()):
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

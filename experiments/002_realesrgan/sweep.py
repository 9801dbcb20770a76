"""SAFMN adapted to the simulated camera of Real-ESRGAN, alone and mixed with real camera pairs.

  python -m experiments.002_realesrgan.sweep --base=safmn_ntire2023_x4.pth --photos=hr_train --photos_valid=hr_valid \
    --pairs=drealsr_x4 --runs=runs/002 --metric_weights=weights

`--pairs` holds LR and HR; every seventh name validates. Every arm is measured on those pairs and on `--photos_valid`
degraded once with fixed keys. Each run is a process of its own; what is done already is kept. Writes results.jsonl and
gains.png beside this file and prints the table of README.md.
"""

import argparse
import json
from pathlib import Path

from adaptsr_jax import figures
from adaptsr_jax.evaluate import tables
from experiments import sweeping

HERE = Path(__file__).parent
ARMS = {
  'uniform r = 8': {**sweeping.FIRST['lora'], 'lora.rule': 'uniform'},
  'rank-aware': sweeping.FIRST['lora'],
  'full fine-tuning': sweeping.FIRST['full'],
}
METRICS = {'psnr_y': 3, 'ssim_y': 4, 'lpips_alex': 4}  # and the digits that are shown
REAL, SIMULATED = 'real pairs', 'simulated camera'


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--base', required=True)
  parser.add_argument('--photos', required=True, type=Path)
  parser.add_argument('--photos_valid', required=True, type=Path)
  parser.add_argument('--pairs', required=True, type=Path)
  parser.add_argument('--runs', required=True, type=Path)
  parser.add_argument('--metric_weights', default='')
  parser.add_argument('--steps', type=int, default=300)
  parser.add_argument('--seeds', type=int, default=2)
  parser.add_argument('--table', action='store_true', help='only rewrite the table from results.jsonl')
  args = parser.parse_args()
  rows = read() if args.table else sweep(args)
  print(table(rows))
  draw(rows)


def read() -> list[dict]:
  return [json.loads(line) for line in (HERE / 'results.jsonl').read_text().splitlines()]


def sweep(args: argparse.Namespace) -> list[dict]:
  """Trains all arms, then measures them; returns the rows of results.jsonl, the first of which is the base."""
  held_out = sweeping.every_seventh(args.pairs / 'HR', args.runs / 'validation.txt')
  degraded = args.runs / 'degraded'
  sets = {
    REAL: {'lr': args.pairs / 'LR', 'hr': args.pairs / 'HR', 'names': held_out},
    SIMULATED: {'lr': degraded, 'hr': args.photos_valid},
  }
  photos = f'hr={args.photos} degrade=realesrgan weight=1'
  pairs = f'lr={args.pairs}/LR hr={args.pairs}/HR skip_names={held_out} weight=1'
  data = {
    'photos + realesrgan': {'data.train.hr': args.photos, 'data.train.degrade': 'realesrgan'},
    'photos + realesrgan 1 : real pairs 1': {'data.train.mix': f'{photos}; {pairs}'},
  }
  trained = {}
  for seed in range(args.seeds):
    for trained_on, pictures in data.items():
      for arm, method in ARMS.items():
        workdir = args.runs / sweeping.folder_name(f'{trained_on} {arm} {seed}')
        fields = {
          'base': args.base,
          'steps': args.steps,
          'seed': seed,
          'batch_size': 8,
          'patch': 128,
          'eval_every': max(1, args.steps // 3),
          **{f'data.valid.{key}': value for key, value in sets[REAL].items()},
          'tensorboard': False,
          **pictures,
          **method,
        }
        trained[trained_on, arm, seed] = workdir, sweeping.adapted(workdir, 'configs/safmn.py', fields)

  if not degraded.exists():
    sweeping.command(
      ['adaptsr_jax.degrade', f'--hr={args.photos_valid}', f'--out={degraded}', '--preset=realesrgan', '--scale=4']
    )
  rows = [{'data': '', 'arm': 'base', 'seed': 0, 'measured': measured(args.base, args.runs / 'base', sets, args)}]
  for (trained_on, arm, seed), (workdir, results) in trained.items():
    kept = {key: results[key] for key in ('trainable_parameters', 'seconds', 'peak_memory_bytes')}
    values = measured(f'{workdir}/merged', workdir, sets, args)
    rows.append({'data': trained_on, 'arm': arm, 'seed': seed, **kept, 'measured': values})
  (HERE / 'results.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return rows


def measured(params: str, folder: Path, sets: dict[str, dict], args: argparse.Namespace) -> dict[str, dict]:
  """Returns {set: {metric: mean}} as `evaluate` tells."""
  values = {}
  for name, pictures in sets.items():
    out = folder / f'{sweeping.folder_name(name)}.json'
    if not out.exists():
      folder.mkdir(parents=True, exist_ok=True)
      where = [f'--{key}={value}' for key, value in pictures.items()]
      options = ['--metrics=psnr,ssim,lpips', f'--metric_weights={args.metric_weights}', f'--out={out}']
      sweeping.command(['adaptsr_jax.evaluate', f'--params={params}', *where, *options])
    mean = json.loads(out.read_text())['mean']
    values[name] = {key: mean[key] for key in METRICS if key in mean}
  return values


def table(rows: list[dict]) -> str:
  """Returns the results as markdown: mean and standard deviation over the seeds, per training data and arm."""
  header = ['trained on', 'arm', 'trained', *(f'{metric}, {name}' for name in (REAL, SIMULATED) for metric in METRICS)]
  lines = []
  for key in dict.fromkeys((row['data'], row['arm']) for row in rows):
    same = [row for row in rows if (row['data'], row['arm']) == key]
    cells = [
      sweeping.spread([row['measured'][name][metric] for row in same], digits)
      for name in (REAL, SIMULATED)
      for metric, digits in METRICS.items()
    ]
    lines.append([*key, f'{same[0].get("trainable_parameters", 0):,}', *cells])
  return tables.markdown([header, *lines])


def draw(rows: list[dict]) -> None:
  """Draws trained parameters against the PSNR on the simulated camera, per training data and arm."""
  base, *others = rows
  points = []
  for key in dict.fromkeys((row['data'], row['arm']) for row in others):
    same = [row for row in others if (row['data'], row['arm']) == key]
    values = [row['measured'][SIMULATED]['psnr_y'] for row in same]
    label = f'{key[1]}{", with real pairs" if "real pairs" in key[0] else ""}'
    points.append((label, same[0]['trainable_parameters'], sum(values) / len(values), min(values), max(values)))
  figures.tradeoff(
    HERE / 'gains.png',
    points,
    'PSNR (Y) in dB, simulated camera',
    baselines={'base': base['measured'][SIMULATED]['psnr_y']},
  )


if __name__ == '__main__':
  main()

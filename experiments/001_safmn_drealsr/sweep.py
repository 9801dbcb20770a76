"""SAFMN on real camera pairs: base, uniform ranks, rank-aware, full fine-tuning; several seeds.

  python -m experiments.001_safmn_drealsr.sweep --base=safmn_ntire2023_x4.pth --data=drealsr_x4 --runs=runs/001

`--data` holds LR and HR; in the order of sorted names every seventh pair validates and the others train. Each run is
the main command in a process of its own; what is done already is kept. Writes results.jsonl and curves.png beside this
file and prints the table of README.md.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from adaptsr_jax import log
from adaptsr_jax.evaluate import tables
from experiments import sweeping

HERE = Path(__file__).parent
_PAPER = {'lora.rslora': False, 'optim.bias_lr_scale': 1.0, 'optim.clip': 0.0, 'optim.ema': 0.0}
ARMS = {
  'uniform r = 8': {**sweeping.FIRST['lora'], 'lora.rule': 'uniform'},
  'rank-aware': sweeping.FIRST['lora'],
  'full fine-tuning': sweeping.FIRST['full'],
  "uniform r = 8, paper's scale, no average": {**sweeping.FIRST['lora'], 'lora.rule': 'uniform', **_PAPER},
  "rank-aware, paper's scale, no average": {**sweeping.FIRST['lora'], **_PAPER},
}
# What the question is about comes first, for all seeds.
MAIN = ('uniform r = 8', 'rank-aware', 'full fine-tuning')
METRICS = {'psnr_y': 3, 'ssim_y': 4, 'psnr_rgb': 3, 'ssim_rgb': 4}  # and the digits that are shown


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--base', required=True)
  parser.add_argument('--data', required=True, type=Path)
  parser.add_argument('--runs', required=True, type=Path)
  parser.add_argument('--steps', type=int, default=300)
  parser.add_argument('--seeds', type=int, default=3)
  parser.add_argument('--table', action='store_true', help='only rewrite the table from results.jsonl')
  args = parser.parse_args()
  rows = [] if not args.table else [json.loads(line) for line in (HERE / 'results.jsonl').read_text().splitlines()]
  if not args.table:
    for arms in (MAIN, [arm for arm in ARMS if arm not in MAIN]):
      for seed in range(args.seeds):
        for arm in arms:
          rows.append(run(arm, seed, args))
          (HERE / 'results.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  print(table(rows))
  sweeping.draw_curves(HERE / 'curves.png', rows, ['base'])


def run(arm: str, seed: int, args: argparse.Namespace) -> dict:
  """Runs one arm, or finds it done; returns its row."""
  workdir = args.runs / f'{sweeping.folder_name(arm)}_{seed}'
  fields = {
    'base': args.base,
    'steps': args.steps,
    'seed': seed,
    'batch_size': 8,
    'patch': 128,
    'eval_every': max(1, args.steps // 6),
    **sweeping.pairs(args.data, args.runs),
    **ARMS[arm],
  }
  results = sweeping.adapted(workdir, 'configs/safmn.py', fields)
  curve = [(r['step'], r['valid/psnr_y']) for r in log.read_metrics(workdir) if 'valid/psnr_y' in r]
  kept = ('trainable_parameters', 'total_parameters', 'seconds', 'peak_memory_bytes')
  means = {label: results[label]['mean'] for label in ('base', 'adapted')}
  return {'arm': arm, 'seed': seed, 'curve': curve, **{key: results[key] for key in kept}, **means}


def table(rows: list[dict]) -> str:
  """Returns the results as markdown: mean over the seeds and standard deviation, per arm."""
  header = ['arm', 'trained', 'PSNR Y', 'SSIM Y', 'PSNR RGB', 'SSIM RGB', 'seconds', 'peak memory']
  base = rows[0]['base']
  lines = [['base', '0', *(f'{base[metric]:.{digits}f}' for metric, digits in METRICS.items()), '', '']]
  for arm in dict.fromkeys(row['arm'] for row in rows):
    same = [row for row in rows if row['arm'] == arm]
    lines.append(
      [
        f'{arm} ({len(same)} seeds)',
        f'{same[0]["trainable_parameters"]:,}',
        *(sweeping.spread([row['adapted'][metric] for row in same], digits) for metric, digits in METRICS.items()),
        f'{np.median([row["seconds"] for row in same]):.0f}',
        f'{np.median([row["peak_memory_bytes"] for row in same]) / 2**30:.2f} GiB',
      ]
    )
  return tables.markdown([header, *lines])


if __name__ == '__main__':
  main()

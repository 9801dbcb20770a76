"""Table 3 of the paper at a size that a CPU can run: what each method gains on real camera pairs, at what cost.

  python -m experiments.004_rivals.sweep --base=safmn_ntire2023_x4.pth --data=drealsr_x4 --runs=runs/004 \
    --weights=WEIGHTS

Pictures as in 001: `--data` holds LR and HR, every seventh pair validates. `--weights` holds those of LPIPS (AlexNet);
without it they are downloaded. Each run is the main command in a process of its own; what is done already is kept.
Writes results.jsonl beside this file and the table of README.md; `--table` does only that, from results.jsonl.
"""

import argparse
import json
import re
from pathlib import Path

import numpy as np

from adaptsr_jax.evaluate import statistics, tables
from experiments import sweeping

HERE = Path(__file__).parent
# Published settings are for 180 channels; this network has 36, a fifth. 'of rank 8': as many parameters as uniform
# adapters of rank 8 have, 61,656 and their 84 biases.
ARMS = {
  'full fine-tuning': {'method': 'full'},
  'full fine-tuning, 2.5 times the rate': {'method': 'full', 'optim.lr': 5e-4},
  'AdaptSR, rank-aware, of rank 8': {'method': 'lora'},
  'AdaptSR, of rank 8, twice the rate': {'method': 'lora', 'optim.lr': 2e-3},
  'LoRA, uniform, of rank 8': {'method': 'lora', 'lora.rule': 'uniform'},
  'DoRA, uniform, of rank 8': {'method': 'dora', 'lora.rule': 'uniform'},
  'ARC, r = 10 (50 / 5)': {'method': 'arc', 'arc.rank': 10},
  'ARC, r = 75 (375 / 5)': {'method': 'arc', 'arc.rank': 75},
  'ARC, of rank 8: r = 1401': {'method': 'arc', 'arc.rank': 1401},
  'DiffFit, gains': {'method': 'difffit'},
  'DiffFit, gains, 5 times the rate': {'method': 'difffit', 'optim.lr': 5e-3},
  'DiffFit, recipe': {'method': 'difffit', 'difffit.scope': 'recipe'},
  'RaSA, r = 13 (64 / 5), k = 1': {'method': 'rasa', 'rasa.rank': 13},
  'RaSA, of rank 8, k = 1': {'method': 'rasa', 'rasa.rank': 8},
  **{
    f'SHiRA, 8.1 %, {mask}': {'method': 'shira', 'shira.share': 0.081, 'shira.mask': mask}
    for mask in ('snip', 'gradient', 'magnitude', 'random', 'struct')
  },
  'SHiRA, of rank 8, snip': {'method': 'shira', 'shira.share': 0.26321, 'shira.mask': 'snip', 'shira.across': 'all'},
  'BitFit': {'method': 'bitfit'},
  'BitFit, with shifts of norms': {'method': 'bitfit', 'bitfit.norms': True},
}
METRICS = {'psnr_y': 3, 'ssim_y': 4, 'lpips_alex': 4}  # and the digits that are shown


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--base')
  parser.add_argument('--data', type=Path)
  parser.add_argument('--runs', type=Path)
  parser.add_argument('--weights', default='', help='folder with the weights of LPIPS')
  parser.add_argument('--steps', type=int, default=300)
  parser.add_argument('--seeds', type=int, default=3)
  parser.add_argument('--only', default='', help='regular expression: only arms in whose name it is found')
  parser.add_argument('--table', action='store_true', help='only rewrite the table from results.jsonl')
  parser.add_argument('--results', type=Path, default=HERE / 'results.jsonl')
  args = parser.parse_args()
  if not args.table:
    rows = []
    for seed in range(args.seeds):
      for arm in ARMS:
        if re.search(args.only, arm):
          rows.append(run(arm, seed, args))
          args.results.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  rows = [json.loads(line) for line in args.results.read_text().splitlines()]
  text = table(rows)
  print(text)
  sweeping.fill(HERE / 'README.md', table=text)


def run(arm: str, seed: int, args: argparse.Namespace) -> dict:
  """Runs one arm, or finds it done; returns its row."""
  fields = {
    'base': args.base,
    'steps': args.steps,
    'seed': seed,
    'batch_size': 8,
    'patch': 128,
    'eval_every': args.steps,
    'metrics': ('lpips_alex',),
    'metric_weights': args.weights,
    **sweeping.pairs(args.data, args.runs),
    **ARMS[arm],
  }
  results = sweeping.adapted(args.runs / f'{sweeping.folder_name(arm)}_{seed}', 'configs/safmn.py', fields)
  kept = ('trainable_parameters', 'total_parameters', 'seconds')
  images = {
    label: {metric: [round(row[metric], 5) for row in results[label]['images'].values()] for metric in METRICS}
    for label in ('base', 'adapted')
  }
  return {'arm': arm, 'seed': seed, **{key: results[key] for key in kept}, **images}


def table(rows: list[dict]) -> str:
  """Returns the results as markdown.

  Of every metric the mean over seeds with their standard deviation, and the difference from the base with its 95 %
  interval over the pictures, each the mean of the seeds.
  """
  header = ['method', 'trained', 'at inference']
  for metric in METRICS:
    header += [metric, 'difference']
  base = rows[0]['base']
  lines = [['base', '0', f'{rows[0]["total_parameters"]:,}']]
  for metric, digits in METRICS.items():
    lines[0] += [f'{np.mean(base[metric]):.{digits}f}', '']
  lines[0].append('')
  for arm in dict.fromkeys(row['arm'] for row in rows):
    same = [row for row in rows if row['arm'] == arm]
    # All of these fold into the kernels of the base.
    line = [f'{arm} ({len(same)})', f'{same[0]["trainable_parameters"]:,}', f'{same[0]["total_parameters"]:,}']
    for metric, digits in METRICS.items():
      values = np.array([row['adapted'][metric] for row in same])
      difference, low, high = statistics.paired(values.mean(axis=0), base[metric])
      line.append(sweeping.spread(values.mean(axis=1), digits))
      line.append(f'{difference:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]')
    lines.append([*line, f'{np.median([row["seconds"] for row in same]):.0f}'])
  return tables.markdown([[*header, 'seconds'], *lines])


if __name__ == '__main__':
  main()

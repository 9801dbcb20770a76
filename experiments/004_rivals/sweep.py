"""Table 3 of the paper at a size that a CPU can run: what each method gains on real camera pairs, at what cost.

  python -m experiments.004_rivals.sweep --base=safmn_ntire2023_x4.pth --data=drealsr_x4 --runs=runs/004 \
    --weights=WEIGHTS
  python -m experiments.004_rivals.sweep --network=swinir --base=bundled:swinir_x4 --seeds=1 ...

Pictures as in 001: `--data` holds LR and HR, every seventh pair validates. `--weights` holds those of LPIPS (AlexNet);
without it they are downloaded. Each run is the main command in a process of its own; what is done already is kept.
Writes NETWORK.jsonl beside this file and its table of README.md; `--table` does only that, from NETWORK.jsonl.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adaptsr_jax.evaluate import statistics, tables
from experiments import sweeping

HERE = Path(__file__).parent
LORA = {'method': 'lora', **sweeping.FIRST['lora']}
UNIFORM = {**LORA, 'lora.rule': 'uniform'}
COMMON = {
  'full fine-tuning': sweeping.FIRST['full'],
  'full fine-tuning, 2.5 times the rate': {'method': 'full', 'optim.lr': 5e-4},
  'AdaptSR, rank-aware, of rank 8': LORA,
  'AdaptSR, of rank 8, twice the rate': {**LORA, 'optim.lr': 2e-3},
  'LoRA, uniform, of rank 8': UNIFORM,
  'DoRA, uniform, of rank 8': {**UNIFORM, 'method': 'dora'},
  'DiffFit, gains': {'method': 'difffit'},
  'DiffFit, gains, 5 times the rate': {'method': 'difffit', 'optim.lr': 5e-3},
  'DiffFit, recipe': {'method': 'difffit', 'difffit.scope': 'recipe'},
  'RaSA, of rank 8, k = 1': {'method': 'rasa', 'rasa.rank': 8},
  'BitFit': {'method': 'bitfit'},
  'BitFit, with shifts of norms': {'method': 'bitfit', 'bitfit.norms': True},
}
MASKS = ('snip', 'gradient', 'magnitude', 'random', 'struct')


class Network(NamedTuple):
  """What is adapted, and the settings that depend on its width."""

  config: str
  fields: dict[str, Any]  # of all its runs
  arc: dict[str, int]  # ranks
  rasa: dict[str, int]
  shira: float  # share of the entries


# Published settings are for 180 channels; SAFMN has 36 of them, a fifth, SwinIR 60, a third. 'of rank 8': as many
# parameters as uniform adapters of rank 8 and the biases beside them: 61,740 of SAFMN, 82,128 of SwinIR.
NETWORKS = {
  'safmn': Network(
    'configs/safmn.py',
    {'steps': 300, 'batch_size': 8, 'patch': 128},
    {'r = 10 (50 / 5)': 10, 'r = 75 (375 / 5)': 75, 'of rank 8: r = 1401': 1401},
    {'r = 13 (64 / 5), k = 1': 13},
    0.26321,
  ),
  # Not configs/swinir.py, which has the scale of the paper's long runs.
  'swinir': Network(
    'configs/quick.py',
    {'steps': 200, 'batch_size': 4, 'patch': 96},
    {'r = 17 (50 / 3)': 17, 'of rank 8: r = 163': 163},
    {'r = 21 (64 / 3), k = 1': 21},
    0.19557,
  ),
}


def arms(network: Network) -> dict[str, dict[str, Any]]:
  """Returns the fields of each run by its name."""
  shira = {'method': 'shira', 'shira.mask': 'snip'}
  return {
    **COMMON,
    **{f'ARC, {name}': {'method': 'arc', 'arc.rank': rank} for name, rank in network.arc.items()},
    **{f'RaSA, {name}': {'method': 'rasa', 'rasa.rank': rank} for name, rank in network.rasa.items()},
    **{f'SHiRA, 8.1 %, {mask}': {**shira, 'shira.share': 0.081, 'shira.mask': mask} for mask in MASKS},
    'SHiRA, of rank 8, snip': {**shira, 'shira.share': network.shira, 'shira.across': 'all'},
  }


METRICS = {'psnr_y': 3, 'ssim_y': 4, 'lpips_alex': 4}  # and the digits that are shown


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--network', choices=NETWORKS, default='safmn')
  parser.add_argument('--base')
  parser.add_argument('--data', type=Path)
  parser.add_argument('--runs', type=Path)
  parser.add_argument('--weights', default='', help='folder with the weights of LPIPS')
  parser.add_argument('--seeds', type=int, default=3)
  parser.add_argument('--only', default='', help='regular expression: only arms in whose name it is found')
  parser.add_argument('--table', action='store_true', help='only rewrite the table from the results')
  parser.add_argument('--out', type=Path, default=HERE, help='folder of the results')
  args = parser.parse_args()
  results = args.out / f'{args.network}.jsonl'
  if not args.table:
    rows = []
    for seed in range(args.seeds):
      for arm, fields in arms(NETWORKS[args.network]).items():
        if re.search(args.only, arm):
          rows.append(run(arm, fields, seed, args))
          results.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  text = table([json.loads(line) for line in results.read_text().splitlines()])
  print(text)
  sweeping.fill(HERE / 'README.md', **{args.network: text})


def run(arm: str, own: dict[str, Any], seed: int, args: argparse.Namespace) -> dict:
  """Runs one arm, or finds it done; returns its row."""
  network = NETWORKS[args.network]
  fields = {
    'base': args.base,
    'seed': seed,
    'eval_every': network.fields['steps'],
    'metrics': ('lpips_alex',),
    'metric_weights': args.weights,
    **network.fields,
    **sweeping.pairs(args.data, args.runs),
    **own,
  }
  results = sweeping.adapted(args.runs / args.network / f'{sweeping.folder_name(arm)}_{seed}', network.config, fields)
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

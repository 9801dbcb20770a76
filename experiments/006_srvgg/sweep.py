"""Networks of Real-ESRGAN on real camera pairs: base, uniform ranks, rank-aware, full fine-tuning; several seeds.

  python -m experiments.006_srvgg.sweep --base=realesr_general_x4 --rrdb=realesrgan_x4 --data=drealsr_x4 \
    --runs=runs/006

`--data` holds LR and HR; in the order of sorted names every seventh pair validates and the others train. Each run is
the main command in a process of its own, stopped and continued at will; what is done already is kept. Writes
results.jsonl and curves.png beside this file, and the table into README.md.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from adaptsr_jax import log
from adaptsr_jax.evaluate import tables
from experiments import sweeping

HERE = Path(__file__).parent
ARMS = {
  'uniform r = 8': {**sweeping.FIRST['lora'], 'lora.rule': 'uniform'},
  'rank-aware': sweeping.FIRST['lora'],
  'full fine-tuning': sweeping.FIRST['full'],
}
SIZE = {
  'srvgg': {'steps': 200, 'batch_size': 8, 'patch': 128, 'eval_every': 50},
  'rrdb': {'steps': 40, 'batch_size': 4, 'patch': 64, 'eval_every': 20},
}
METRICS = {'psnr_y': 3, 'ssim_y': 4, 'lpips_alex': 4}  # and the digits that are shown


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--base', help='realesr-general-x4v3')
  parser.add_argument('--rrdb', help='RealESRGAN_x4plus, for one short run; without: left out')
  parser.add_argument('--data', type=Path)
  parser.add_argument('--runs', type=Path)
  parser.add_argument('--metric_weights', default='', help='folder with the weights of LPIPS; default: downloaded')
  parser.add_argument('--seeds', type=int, default=3)
  parser.add_argument('--table', action='store_true', help='only write the table from results.jsonl')
  args = parser.parse_args()
  path = HERE / 'results.jsonl'
  if args.table:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
  else:
    rows = []
    for network, base, arm, seed in plan(args):
      rows.append(run(network, base, arm, seed, args))
      path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  write_table(rows)
  srvgg = [row for row in rows if row['network'] == 'srvgg']
  sweeping.draw_curves(HERE / 'curves.png', srvgg, ['base', 'bicubic'])


def plan(args: argparse.Namespace) -> list[tuple[str, str, str, int]]:
  """Returns (network, base, arm, seed) of every run, the first seed of all before the second."""
  short = [('rrdb', args.rrdb, 'rank-aware', 0)] if args.rrdb else []
  seeds = [[('srvgg', args.base, arm, seed) for arm in ARMS] for seed in range(args.seeds)]
  return [*seeds[0], *short, *(run for runs in seeds[1:] for run in runs)]


def run(network: str, base: str, arm: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
  """Runs one arm, or finds it done; returns its row."""
  workdir = args.runs / f'{network}_{sweeping.folder_name(arm)}_{seed}'
  fields = {
    'base': base,
    'seed': seed,
    'metrics': ('lpips_alex',),
    'metric_weights': args.metric_weights,
    **SIZE[network],
    **sweeping.pairs(args.data, args.runs),
    **ARMS[arm],
  }
  results = sweeping.adapted(workdir, f'configs/{network}.py', fields)
  curve = [(r['step'], r['valid/psnr_y']) for r in log.read_metrics(workdir) if 'valid/psnr_y' in r]
  kept = ('trainable_parameters', 'total_parameters', 'seconds', 'peak_memory_bytes')
  means = {label: results[label]['mean'] for label in ('bicubic', 'base', 'adapted')}
  return {'network': network, 'arm': arm, 'seed': seed, 'curve': curve, **{key: results[key] for key in kept}, **means}


def write_table(rows: list[dict]) -> None:
  """Puts the results into README.md: mean over the seeds and standard deviation, per arm."""
  lines = [['network', 'arm', 'trained', 'PSNR Y', 'SSIM Y', 'LPIPS', 'seconds', 'peak memory']]
  lines.append(['', 'bicubic', '', *_means([rows[0]['bicubic']]), '', ''])
  for network, arm in dict.fromkeys((row['network'], row['arm']) for row in rows):
    same = [row for row in rows if (row['network'], row['arm']) == (network, arm)]
    if all(line[0] != network for line in lines):
      lines.append([network, 'base', '0', *_means([same[0]['base']]), '', ''])
    lines.append(
      [
        network,
        f'{arm} ({len(same)} seed{"s" * (len(same) > 1)})',
        f'{same[0]["trainable_parameters"]:,}',
        *_means([row['adapted'] for row in same]),
        f'{np.median([row["seconds"] for row in same]):.0f}',
        f'{np.median([row["peak_memory_bytes"] for row in same]) / 2**30:.2f} GiB',
      ]
    )
  sweeping.fill(HERE / 'README.md', table=tables.markdown(lines))


def _means(rows: list[dict]) -> list[str]:
  return [sweeping.spread([row[metric] for row in rows], digits) for metric, digits in METRICS.items()]


if __name__ == '__main__':
  main()

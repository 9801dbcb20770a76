"""Writes the tables and figures of 008 from its *.jsonl.

python -m experiments.008_promise.report
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from adaptsr_jax import figures
from adaptsr_jax.evaluate import statistics, tables
from experiments import sweeping

HERE = Path(__file__).parent
DARK = 'P1160566_x1'  # nearly black: one grey level of its 49 dB is worth more than all that methods differ by
DIGITS = {'psnr_y': 3, 'ssim_y': 4, 'lpips_alex': 4}
MAIN = ('safmn_drealsr', 'edsr_drealsr', 'edsr_soft')
RATES = ('safmn_rates', 'edsr_rates', 'level', 'level_edsr')


def main() -> None:
  for name in (*RATES, *MAIN, 'pairs'):
    rows = read(name)
    if not rows:
      continue
    made = protocol(rows) if name in MAIN else pairs(rows) if name == 'pairs' else rates(rows)
    sweeping.fill(HERE / 'README.md', **{name: made})
    if name in MAIN and any(len(row['curve']) > 1 and row['cpu_seconds'] for row in rows):
      curves(rows, HERE / f'{name}.png')


def read(name: str) -> list[dict]:
  """Returns the rows of a table."""
  return sweeping.measured(HERE / f'{name}.jsonl')


def gains(row: Mapping, metric: str = 'psnr_y', without: Sequence[str] = ()) -> np.ndarray:
  """Returns the difference of a run from its base on every picture."""
  return np.array([row['adapted'][p][metric] - row['base'][p][metric] for p in row['base'] if p not in without])


def rates(rows: Sequence[Mapping]) -> str:
  """Returns what each run gained over the base on the pictures that decide, in the mean and on single pictures."""
  header = [
    'arm',
    'mean gain',
    'median',
    'worst picture',
    'without it',
    'level (base)',
    'at strength 0.8',
    '0.6',
  ]
  lines = []
  for row in rows:
    gain = gains(row)
    levels = [np.mean([abs(picture['level']) for picture in row[label].values()]) for label in ('adapted', 'base')]
    base = np.mean([picture['psnr_y'] for picture in row['base'].values()])
    weaker = [f'{row["strengths"][s] - base:+.3f}' if s in row.get('strengths', {}) else '' for s in ('0.8', '0.6')]
    numbers = gain.mean(), np.median(gain), gain.min(), np.sort(gain)[1:].mean()
    lines.append([row['name'], *(f'{x:+.3f}' for x in numbers), f'{levels[0]:.2f} ({levels[1]:.2f})', *weaker])
  return tables.markdown([header, *lines])


def protocol(rows: Sequence[Mapping]) -> str:
  """Returns means over seeds with their deviations, and paired differences with their intervals and tests."""
  arms = by_arm(rows)
  compared = [[*pair, *compare(arms[pair[0]], arms[pair[1]], dark(rows))] for pair in PAIRS if set(pair) <= set(arms)]
  titles = ['this', 'against', 'seeds', 'dB', '95 %', 'without dark', 'seeds above', 'p, t over seeds', 'p, pictures']
  return '\n\n'.join([means(rows), tables.markdown([titles, *compared])])


def means(rows: Sequence[Mapping]) -> str:
  """Returns the mean of every metric over pictures, and over seeds with its deviation, by arm."""
  pictures = list(rows[0]['base'])
  header = ['arm (seeds)', 'trained', *DIGITS, 'psnr_y without the dark picture', 'worst picture']
  base = rows[0]['base']
  lines = [['base', '0', *(f'{np.mean([base[p][m] for p in pictures]):.{d}f}' for m, d in DIGITS.items())]]
  lines[0] += [f'{np.mean([base[p]["psnr_y"] for p in pictures if p not in dark(rows)]):.3f}', '']
  for arm, same in by_arm(rows).items():
    line = [f'{arm} ({len(same)})', f'{same[0]["trainable_parameters"]:,}']
    for metric, digits in DIGITS.items():
      line.append(sweeping.spread([np.mean([row['adapted'][p][metric] for p in pictures]) for row in same], digits))
    rest = [np.mean([row['adapted'][p]['psnr_y'] for p in pictures if p not in dark(rows)]) for row in same]
    worst = np.mean([gains(row) for row in same], axis=0)
    line += [sweeping.spread(rest, 3), f'{worst.min():+.2f} ({pictures[worst.argmin()]})']
    lines.append(line)
  return tables.markdown([header, *lines])


def by_arm(rows: Sequence[Mapping]) -> dict[str, list[Mapping]]:
  return {arm: [row for row in rows if row['name'] == arm] for arm in dict.fromkeys(row['name'] for row in rows)}


def dark(rows: Sequence[Mapping]) -> list[str]:
  return [DARK] if DARK in rows[0]['base'] else []


def pairs(rows: Sequence[Mapping]) -> str:
  """Returns the gain by the number of pairs; that of all 79 is the mean of the seeds of the protocol."""
  arms = list(dict.fromkeys(row['name'] for row in rows))
  rows = [*rows, *({**row, 'data': '79 pairs'} for row in read('edsr_drealsr') if row['name'] in arms)]
  lines = []
  for number in sorted({int(row['data'].split()[0]) for row in rows}):
    line = [f'{number}']
    for arm in arms:
      same = [gains(row) for row in rows if row['name'] == arm and row['data'] == f'{number} pairs']
      gain = np.mean(same, axis=0) if same else None
      line += ['', ''] if gain is None else [f'{gain.mean():+.3f}', f'{gain.min():+.2f}']
    lines.append(line)
  return tables.markdown([['pairs', *(title for arm in arms for title in (arm, 'worst picture'))], *lines])


PAIRS = (('rank-aware', 'uniform'), ('rank-aware', 'full'))


def compare(ours: Sequence[Mapping], theirs: Sequence[Mapping], without: Sequence[str]) -> list[str]:
  """Returns how two arms differ in PSNR (Y), by the seeds that both have.

  The interval is over the pictures, each the mean of the seeds; so is the signed-rank test. The other is the paired t
  test of the means of the seeds.
  """
  both = sorted({row['seed'] for row in ours} & {row['seed'] for row in theirs})
  pick = [{row['seed']: row for row in rows} for rows in (ours, theirs)]
  values = np.array([[gains(rows[seed]) for seed in both] for rows in pick])  # (2, seeds, pictures)
  difference = values[0] - values[1]
  mean, low, high = statistics.paired(values[0].mean(axis=0), values[1].mean(axis=0))
  rest = np.mean([gains(pick[0][s], without=without) - gains(pick[1][s], without=without) for s in both])
  by_seed = difference.mean(axis=1)
  t = stats.ttest_1samp(by_seed, 0).pvalue if len(both) > 1 else np.nan
  w = stats.wilcoxon(difference.mean(axis=0)).pvalue
  above = f'{int((by_seed > 0).sum())} of {len(both)}'
  return [
    str(len(both)),
    f'{mean:+.3f}',
    f'{low:+.3f} to {high:+.3f}',
    f'{rest:+.3f}',
    above,
    '' if np.isnan(t) else f'{t:.2g}',
    f'{w:.2g}',
  ]


def curves(rows: Sequence[Mapping], path: Path) -> None:
  """Draws the curve of every arm against the CPU seconds of its steps, of the seeds that were measured on the way."""
  series = {}
  for row in rows:
    if len(row['curve']) > 1 and row['cpu_seconds']:
      steps, values = zip(*row['curve'], strict=True)
      series[f'{row["name"]}, seed {row["seed"]}'] = np.array(steps) * row['cpu_seconds'] / steps[-1], values
  base = np.mean([picture['psnr_y'] for picture in rows[0]['base'].values()])
  figures.learning_curves(path, series, 'CPU seconds of steps', 'PSNR (Y) in dB', baselines={'base': base})


if __name__ == '__main__':
  main()

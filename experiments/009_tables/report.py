"""Writes the tables and figures of 009 from its *.jsonl and those of 008.

python -m experiments.009_tables.report
"""

import functools
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from adaptsr_jax import figures
from adaptsr_jax.evaluate import statistics, tables
from experiments import sweeping

promise = importlib.import_module('experiments.008_promise.report')

HERE = Path(__file__).parent
# The tables of 008 that hold the usual runs of every network.
RUNS = {'SAFMN': 'safmn_drealsr', 'EDSR': 'edsr_drealsr_own', 'SwinIR': 'swinir_drealsr_own'}


def of_every_network(kind: str) -> tuple[str, ...]:
  """Returns the names of the tables of one kind, of which that of SAFMN has no suffix."""
  return (kind, *(f'{kind}_{backbone.lower()}' for backbone in list(RUNS)[1:]))


# What a table calls usual runs -> their arm in 008. The arms of the table are compared with the first.
BUDGETS = {'rank 8': 'rank-aware', 'uniform 8': 'uniform'}
PARTS = {'all, LoRA': 'rank-aware', 'all, full': 'full'}
USUAL = {
  **dict.fromkeys(of_every_network('scores'), {'gradient': 'rank-aware'}),
  **dict.fromkeys(of_every_network('forms'), {'1x1_kxk': 'rank-aware'}),
  'kinds': PARTS,
  'windows_own': PARTS,
  'options': {'one rate of 2e-3': 'rank-aware'},
}
TITLES = promise.TITLES[2:7]
RANKS = (1, 2, 4, 8, 16, 64)
MINUTES = ('edsr_long', 'edsr_soft_long', 'swinir_long', 'swinir_soft_long')
QUARTERS = (0.25, 0.5, 0.75, 1)
PAIRS = (3, 5, 10, 20, 40, 79)


def main() -> None:
  made = {
    'time': promise.on_the_way,
    'pairs': pairs,
    'pairs_safmn': pairs,
    'cameras': cameras,
    'keeping': keeping,
    'rapid': rapid,
  }
  made |= {name: functools.partial(compared, usual=usual) for name, usual in USUAL.items()}
  made['windows'] = functools.partial(compared, usual=PARTS, table='swinir_drealsr')
  made |= {name: ranks for name in of_every_network('ranks')}
  sweeping.fill(HERE / 'README.md', **{name: make(rows) for name, make in made.items() if (rows := read(name))})
  if all(map(promise.read, MINUTES)):
    sweeping.fill(HERE / 'README.md', sooner=sooner())
  draw()


def read(name: str) -> list[dict]:
  """Returns the rows of a table."""
  return sweeping.measured(HERE / f'{name}.jsonl')


def protocol(arm: str, backbone: str = 'SAFMN', table: str = '') -> list[dict]:
  """Returns the runs of an arm of 008 on the same pictures; where it was run here too, the runs of here."""
  rows = [*promise.read(table or RUNS[backbone]), *(read('time') if backbone == 'SAFMN' else [])]
  return list({row['seed']: row for row in rows if row['name'].split()[0] == arm}.values())


def with_usual(rows: Sequence[Mapping], usual: Mapping[str, str], table: str = '') -> list[Mapping]:
  """Returns runs behind the usual ones with the same seeds, which `usual` names."""
  seeds = {row['seed'] for row in rows}
  runs = {name: protocol(arm, rows[0]['backbone'], table) for name, arm in usual.items()}
  return [*({**row, 'name': name} for name, same in runs.items() for row in same if row['seed'] in seeds), *rows]


def compared(rows: Sequence[Mapping], usual: Mapping[str, str], table: str = '') -> str:
  """Returns the metrics of every arm, and how its PSNR differs from that of the usual run with the same seeds."""
  every = with_usual(rows, usual, table)
  arms, first = promise.by_arm(every), next(iter(usual))
  differences = [
    [arm, *promise.compare(same, arms[first], promise.dark(rows))[:5]] for arm, same in arms.items() if arm != first
  ]
  return f'{promise.means(every)}\n\n{tables.markdown([[f"against {first}", *TITLES], *differences])}'


def ranks(rows: Sequence[Mapping]) -> str:
  """Returns the same, and how ranks by gradient differ from equal ones, for each budget and over all.

  Uniform ranks may take more parameters: kernels' widths limit ranks by gradient, and sites without rank no bias.
  """
  arms = promise.by_arm(with_usual(rows, BUDGETS))
  both = {str(rank): (arms.get(f'rank {rank}', []), arms.get(f'uniform {rank}', [])) for rank in RANKS}
  both = {rank: same for rank, same in both.items() if all(same)}
  lines = []
  for rank, same in both.items():
    trained = [f'{of[0]["trainable_parameters"]:,}' for of in same]
    lines.append([rank, *trained, *promise.compare(*same, promise.dark(rows))[:5]])
  apart = [[{**row, 'seed': (rank, row['seed'])} for rank, same in both.items() for row in same[i]] for i in range(2)]
  dark = promise.dark(rows)
  rest = [
    [{**row, **{of: {p: v for p, v in row[of].items() if p not in dark} for of in ('base', 'adapted')}} for row in same]
    for same in apart
  ]
  *over_all, _, p = promise.compare(*apart, dark)
  lines.append(['all', '', '', *over_all])
  header = ['budget of rank', 'rank-aware', 'uniform', 'runs', *TITLES[1:4], 'runs above']
  told = f'By signed ranks of the pictures, over all: p = {p}, without the dark one {promise.compare(*rest, [])[-1]}.'
  return f'{compared(rows, BUDGETS)}\n\n{tables.markdown([header, *lines])}\n\n{told}'


def by_pairs(rows: Sequence[Mapping]) -> dict[str, dict[int, list[Mapping]]]:
  """Returns arm -> number of pairs -> runs, with all 79 those of 008; all have the batches of their seed."""
  rows = [*rows, *({**row, 'data': '79 pairs'} for row in promise.read(f'{rows[0]["backbone"].lower()}_drealsr'))]
  return {
    arm: {n: same for n in PAIRS if (same := [r for r in rows if r['name'] == arm and r['data'] == f'{n} pairs'])}
    for arm in ('rank-aware', 'full')
  }


def pairs(rows: Sequence[Mapping]) -> str:
  """Returns the gain by the number of pairs."""
  arms, dark = by_pairs(rows), promise.dark(rows)
  header = ['pairs']
  for arm in arms:
    header += [
      f'{arm} (runs)',
      'without dark',
      'middle half of the pictures',
      'lose 0.1 dB',
      'worst',
      'at strength 0.8',
    ]
  lines = []
  for number in PAIRS:
    line = [str(number)]
    for numbers in arms.values():
      same = numbers.get(number, [])
      line += gain_cells(same, dark) if same else [''] * 6
    lines.append(line)
  both = [number for number in PAIRS if all(number in numbers for numbers in arms.values())]
  against = [
    [str(number), *promise.compare(arms['rank-aware'][number], arms['full'][number], dark)[:5]] for number in both
  ]
  titles = ['rank-aware against full, pairs', *TITLES]
  return f'{tables.markdown([header, *lines])}\n\n{tables.markdown([titles, *against])}'


def gain_cells(same: Sequence[Mapping], dark: Sequence[str]) -> list[str]:
  """Returns what runs of one arm gained over the pictures, each the mean of the runs."""
  gain = np.mean([promise.gains(row) for row in same], axis=0)
  rest = np.mean([promise.gains(row, without=dark) for row in same])
  weaker = [row['strengths']['0.8'] - base_of(row) for row in same if row['strengths']]
  return [
    f'{gain.mean():+.3f} ({len(same)})',
    f'{rest:+.3f}',
    '{:+.2f} to {:+.2f}'.format(*np.percentile(gain, [25, 75])),
    f'{(gain < -0.1).sum()} of {len(gain)}',
    f'{gain.min():+.2f}',
    f'{np.mean(weaker):+.3f}' if weaker else '',
  ]


def base_of(row: Mapping) -> float:
  return float(np.mean([picture['psnr_y'] for picture in row['base'].values()]))


def cameras(rows: Sequence[Mapping]) -> str:
  """Returns what the pictures of a camera gain that was not trained on, and how adapters and full differ there."""
  lines = []
  for camera in dict.fromkeys(row['data'] for row in rows):
    arms = promise.by_arm([row for row in rows if row['data'] == camera])
    if set(arms) != {'rank-aware', 'full'}:
      continue
    line = [camera, str(len(arms['full'][0]['base']))]
    for same in arms.values():
      gain = np.mean([promise.gains(row) for row in same], axis=0)
      mean, low, high = statistics.paired(gain, np.zeros_like(gain))
      weaker = np.mean([row['strengths']['0.8'] - base_of(row) for row in same])
      line += [f'{mean:+.3f} [{low:+.3f}, {high:+.3f}]', f'{np.median(gain):+.3f}', f'{weaker:+.3f}']
    difference = promise.compare(arms['rank-aware'], arms['full'], [])
    lines.append([*line, f'{difference[1]} [{difference[2]}]'])
  columns = [name for arm in ('rank-aware', 'full') for name in (arm, 'median picture', 'at strength 0.8')]
  return tables.markdown([['left out', 'pictures', *columns, 'rank-aware against full'], *lines])


def keeping(rows: Sequence[Mapping]) -> str:
  """Returns the gain on the pictures of a camera, on the way and at lower strengths."""
  steps = [step for step, _ in rows[0]['curve']]
  lines = [
    [
      row['data'],
      row['name'].removesuffix(', on the way').removesuffix(', rapid'),
      *(f'{value - base_of(row):+.3f}' for value in [*(v for _, v in row['curve']), *row['strengths'].values()]),
    ]
    for row in rows
  ]
  strengths = [f'at strength {strength}' for strength in rows[0]['strengths']]
  return tables.markdown([['pictures', 'arm', *(f'{step} steps' for step in steps), *strengths], *lines])


def rapid(rows: Sequence[Mapping]) -> str:
  """Returns the gain by pairs of one camera and of all, and how the arms differ over all its pictures."""
  pooled: dict[tuple[str, str], dict] = {}
  for row in rows:
    how, arm = row['data'].partition(' ')[2], row['name'].removesuffix(', rapid').split()[0]
    one = pooled.setdefault((how, arm), {'seed': 0, 'base': {}, 'adapted': {}, 'seconds': []})
    for label in ('base', 'adapted'):
      one[label] |= row[label]
    one['seconds'].append(row['cpu_seconds'])
  pairs = [
    (('alone', 'rank-aware'), ('alone', 'full')),
    (('among all', 'rank-aware'), ('among all', 'full')),
    (('alone', 'rank-aware'), ('among all', 'rank-aware')),
  ]
  lines = []
  for one, other in pairs:
    both = pooled[one], pooled[other]
    means = [f'{promise.gains(each).mean():+.3f} in {np.mean(each["seconds"]):.0f} s' for each in both]
    difference = promise.compare(*([each] for each in both), [])[1:3]
    lines.append([', '.join(one), means[0], ', '.join(other), means[1], *difference])
  header = ['pairs, arm', 'mean gain, CPU time', 'against', 'mean gain, CPU time', 'dB', '95 %']
  return f'{keeping(rows)}\n\n{tables.markdown([header, *lines])}'


def by_minutes(table: str, without: Sequence[str] = ()) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Returns arm -> CPU minutes and mean gain of its long runs in 008; scoring counts as so many steps in full."""
  arms = {arm.split()[0]: same for arm, same in promise.by_arm(promise.read(table)).items()}
  a_step = {arm: np.mean([row['cpu_seconds'] / row['steps'] for row in same]) / 60 for arm, same in arms.items()}
  courses = {}
  for arm, scored in (('rank-aware', promise.SCORED), ('full', 0)):
    steps = np.array([step for step, _ in arms[arm][0]['curve']])
    gain = np.mean([gains_on_the_way(row, without) for row in arms[arm]], axis=0)
    begin = scored * a_step['full']
    courses[arm] = np.concatenate([[0, begin], begin + steps * a_step[arm]]), np.concatenate([[0, 0], gain])
  return courses


def gains_on_the_way(row: Mapping, without: Sequence[str]) -> Sequence[float]:
  """Returns the mean gain at every measurement; without single pictures where a row has them all."""
  if not without:
    return [value - base_of(row) for _, value in row['curve']]
  _, psnr = promise.course(row)
  kept = [picture not in without for picture in row['base']]
  return (psnr[1:] - psnr[0])[:, kept].mean(axis=1)


def place(table: str) -> str:
  row = promise.read(table)[0]
  return f'{row["backbone"]}, {row["data"]}'


def sooner() -> str:
  """Returns when both arms first have most of what full fine-tuning ends with, and by how much adapters lead."""
  lines = []
  rest = {
    f'{place(table)}, without the dark picture': (table, [promise.DARK]) for table in MINUTES if 'soft' not in table
  }
  for label, of in {**{place(table): (table, []) for table in MINUTES}, **rest}.items():
    courses = by_minutes(*of)
    minutes, gain = courses['full']
    first = [[first_at(course, part * gain[-1]) * 60 for course in courses.values()] for part in (0.5, 0.9)]
    times = [f'{ours:.0f}, {full:.0f} s ({ours / full:.2f})' for ours, full in first]
    ahead = [np.subtract(*(np.interp(part * minutes[-1], *of) for of in courses.values())) for part in QUARTERS]
    lines.append([label, f'{minutes[-1] * 60:.0f} s', *times, *(f'{x:+.3f}' for x in ahead)])
  reached = [f'{part} of its gain: adapters, full' for part in ('half', 'nine tenths')]
  header = ['network, pictures', 'in full', *reached, *(f'after {x:.0%} of that time, dB' for x in QUARTERS)]
  return tables.markdown([header, *lines])


def first_at(course: tuple[np.ndarray, np.ndarray], level: float) -> float:
  """Returns when a course first reaches a level, between its points in a straight line."""
  x, y = course
  i = int(np.argmax(y >= level))
  return float(np.interp(level, y[i - 1 : i + 1], x[i - 1 : i + 1]))


def trade(rows: Sequence[Mapping], name: str) -> None:
  """Draws Figure 1: PSNR and LPIPS against trained parameters, means and ranges over the seeds."""

  def means(of: Mapping[str, Mapping], metric: str) -> float:
    return float(np.mean([picture[metric] for picture in of.values()]))

  for metric, label, better in (('psnr_y', 'PSNR (Y) in dB', 'higher'), ('lpips_alex', 'LPIPS', 'lower')):
    points = []
    for arm, same in promise.by_arm(rows).items():
      values = [means(row['adapted'], metric) for row in same]
      points.append((arm, same[0]['trainable_parameters'], np.mean(values), min(values), max(values)))
    path = HERE / f'parameters_{metric.split("_")[0]}_{name}.png'
    figures.tradeoff(path, points, label, better, {'base': means(rows[0]['base'], metric)})


def draw() -> None:
  """Draws Figures 1, 5 and 6 of the paper, and the gain against pairs and against minutes."""
  for backbone in RUNS:
    first = protocol('rank-aware', backbone)[0]
    figures.rank_heatmap(
      HERE / f'ranks_{backbone.lower()}.png', first['ranks'], f'Ranks of {backbone} for DRealSR, budget of rank 8'
    )
  for backbone, table in zip(RUNS, of_every_network('ranks'), strict=True):
    if read(table):
      trade(with_usual(read(table), {**BUDGETS, 'full': 'full'}), backbone.lower())
  if all(map(promise.read, MINUTES)):
    series = {f'{place(t)}: {arm}': (x[2:], y[2:]) for t in MINUTES for arm, (x, y) in by_minutes(t).items()}
    axis = 'CPU minutes of training'
    figures.learning_curves(HERE / 'minutes.png', series, axis, 'gain in PSNR (Y) in dB', baselines={'base': 0})
  timed = [row for row in read('time') if row['seed'] == 0]
  for axis in ('steps', 'seconds'):
    promise.curves(timed, HERE / f'quality_{axis}.png', axis)
  if read('pairs'):
    series, dark = {}, [promise.DARK]
    for arm, numbers in by_pairs(read('pairs')).items():
      for label, without in ((arm, []), (f'{arm}, without dark', dark)):
        means = [np.mean([promise.gains(row, without=without) for row in same]) for same in numbers.values()]
        series[label] = list(numbers), means
    figures.learning_curves(
      HERE / 'pairs.png', series, 'training pairs', 'gain in PSNR (Y) in dB', baselines={'base': 0}
    )


if __name__ == '__main__':
  main()

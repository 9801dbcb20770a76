"""Writes the tables and figures of 008 from its *.jsonl.

python -m experiments.008_promise.report
"""

import functools
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
OWN = (
  'edsr_drealsr_own',
  'edsr_soft_own',
  'edsr_mild_own',
  'edsr_harsh_own',
  'swinir_drealsr_own',
  'swinir_soft_own',
)
MAIN = ('safmn_drealsr', 'bundled_safmn', 'photographs', 'edsr_drealsr', 'edsr_soft', 'swinir_drealsr', *OWN)
LEVEL = ('level_edsr', 'level_swinir', 'level_safmn')
RATES = ('safmn_rates', 'edsr_rates', 'swinir_rates', 'level', *LEVEL)
LONG = ('long', 'edsr_long', 'edsr_soft_long', 'swinir_long', 'swinir_soft_long')
# Other rules, and the table with the usual runs that they are compared with.
RULES = {'rules': 'edsr_drealsr', 'rules_edsr': 'edsr_drealsr_own', 'rules_swinir': 'swinir_drealsr_own'}
TITLES = ['this', 'against', 'seeds', 'dB', '95 %', 'without dark', 'seeds above', 'p, t over seeds', 'p, pictures']
NETWORKS = ('SAFMN', 'SwinIR', 'EDSR')
TRIALS = ('starts', 'alphas', 'flat', 'maps', 'sites', 'forgotten')
SCORED = 16  # batches, of which each costs what a step in full does
FOLDS = 3
LOWEST = -0.3  # no picture is to lose more than that, in dB


def main() -> None:
  of_folds = joined(read('folds'))
  tables_of = {name: protocol for name in MAIN} | {name: rates for name in RATES} | {name: long for name in LONG}
  tables_of |= {name: functools.partial(against_usual, table=table) for name, table in RULES.items()}
  tables_of |= {'higher': higher, 'phones': phones, 'defaults': defaults}
  tables_of |= {'auto': auto, 'loralib': loralib, 'fresh': fresh}
  made = {name: (make, read(name)) for name, make in tables_of.items()} | {'folds': (protocol, of_folds)}
  made |= {table: (functools.partial(trials, table=table), read('trials')) for table in TRIALS}
  kept = {name: read(name) for name in (*MAIN, *LEVEL, *LONG)} | {'folds': of_folds}
  filled = {name: make(rows) for name, (make, rows) in made.items() if rows}
  sweeping.fill(HERE / 'README.md', **filled, losses=losses(kept))
  for name in ('edsr_drealsr', *LONG):
    if read(name):
      curves(read(name), HERE / f'{name}_seconds.png')


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
  ours = [arm for arm in arms if arm.startswith('rank-aware')]
  theirs = [arm for arm in arms if arm.startswith(('uniform', 'full'))]
  compared = [[a, b, *compare(arms[a], arms[b], dark(rows))] for a in ours for b in theirs]
  return '\n\n'.join([means(rows), tables.markdown([TITLES, *compared])])


def long(rows: Sequence[Mapping]) -> str:
  """Returns PSNR against steps, and how the arms differ on the way, after equal seconds, and at the end."""
  return '\n\n'.join(filter(None, [on_the_way(rows), on_the_clock(rows), protocol(rows)]))


def against_usual(rows: Sequence[Mapping], table: str) -> str:
  """Returns what other rules gained, and how they differ from the rank-aware arm of `table`, on the same pictures."""
  seeds = {row['seed'] for row in rows}
  usual = [row for row in read(table) if row['name'].startswith('rank-aware') and row['seed'] in seeds]
  name = usual[0]['name']
  compared = [[arm, name, *compare(same, usual, dark(rows))] for arm, same in by_arm(rows).items()]
  return f'{means([*rows, *usual])}\n\n{tables.markdown([TITLES, *compared])}'


def defaults(rows: Sequence[Mapping]) -> str:
  """Returns how the rates of the protocol differ from the default ones, on the same pictures with the same seeds."""
  lines = []
  for table in ('folds', 'edsr_soft', 'edsr_drealsr', 'swinir_drealsr'):
    better = read(table)
    places = {(row['backbone'], row['data']) for row in better}
    others = [row for row in rows if (row['backbone'], row['data']) in places]
    if table == 'folds':
      better, others = joined(better), joined(others)
    for name, same in by_arm(others).items():
      arm = name.split()[0]
      place = [same[0]['backbone'], 'all pairs in three parts' if table == 'folds' else same[0]['data']]
      lines.append([*place, arm, name, *compare(by_arm(better)[arm], same, dark(same))])
  return tables.markdown([['network', 'pictures', *TITLES], *lines])


def fresh(rows: Sequence[Mapping]) -> str:
  """Returns how rank-aware and uniform ranks differ by seeds that were run to confirm it, and by all."""
  lines = []
  for table in ('safmn_drealsr', 'edsr_soft_own'):
    earlier = read(table)
    place = {key: earlier[0][key] for key in ('backbone', 'data')}
    own = [row for row in rows if place.items() <= row.items()]
    for label, each in (('5 to 9', own), ('0 to 9', [*earlier, *own])):
      ours, theirs = ([r for r in each if r['name'].startswith(arm)] for arm in ('rank-aware', 'uniform'))
      lines.append([*place.values(), label, *compare(ours, theirs, dark(earlier))])
  return tables.markdown([['network', 'pictures', 'which', *TITLES[2:]], *lines])


def auto(rows: Sequence[Mapping]) -> str:
  """Returns the rates that probes found, and what they are worth against the default rates."""
  lines = []
  for table in ('safmn_drealsr', 'edsr_drealsr', 'edsr_soft', 'swinir_drealsr'):
    usual = by_arm(read(table))
    place = [usual['full'][0][key] for key in ('backbone', 'data')]
    arms = by_arm([row for row in rows if [row['backbone'], row['data']] == place])
    for method in ('rank-aware', 'full'):
      probed, longer = (arms.get(f'{method}, {how}') for how in ('rate by probes', 'default rate, longer'))
      if probed and longer:
        found = [row['probed'] for row in probed]
        line = [*place, method, ', '.join(f'{f["rate"]:.1e}'.replace('e-0', 'e-') for f in found)]
        line += [', '.join(f'{f["steps"]}' for f in found), *compare(probed, usual[method], dark(probed))[:4]]
        lines.append([*line, *compare(probed, longer, dark(probed))[1:4]])
  same = ['against the default rate, dB', '95 %', 'without dark']
  longer = ['against it for as long, dB', '95 %', 'without dark']
  header = ['network', 'pictures', 'arm', 'rates found', 'steps of probes', 'seeds', *same, *longer]
  return tables.markdown([header, *lines])


def loralib(rows: Sequence[Mapping]) -> str:
  """Returns how adapters in the form of loralib differ from the usual ones and from full fine-tuning."""
  forms = [sweeping.measured(HERE.parent / '009_tables' / f'forms{at}.jsonl') for at in ('', '_edsr', '_swinir')]
  every = [*rows, *(row for of in forms for row in of if row['name'] == 'loralib')]

  def place(row: Mapping) -> list[str]:
    return [row['backbone'], row['data'], str(row['steps'])]

  lines = []
  for usual in filter(None, map(read, ('safmn_drealsr', *OWN, *LONG[1:]))):
    ours = by_arm([row for row in every if place(row) == place(usual[0])])
    for name, of in ours.items():
      budget = 'rank 4' if 'rank 4' in name else 'as the usual form'
      for arm, same in by_arm(usual).items():
        if not arm.startswith('uniform'):
          lines.append([*place(usual[0]), budget, arm, *compare(of, same, dark(of))])
  return tables.markdown([['network', 'pictures', 'steps', 'budget', *TITLES[1:]], *lines])


def on_the_clock(rows: Sequence[Mapping]) -> str:
  """Returns how adapters differ from full fine-tuning after equal CPU seconds, on the way through `long`.

  Of what both arms measured every so many steps, adapters are read between two measurements, in a straight line; their
  scoring counts as `SCORED` steps in full.
  """
  measured = [row for row in rows if 'on_the_way' in row]
  arms = by_arm(measured)
  ours, full = (next((a for a in arms if a.startswith(start)), None) for start in ('rank-aware', 'full'))
  if not ours or not full:
    return ''
  pick = [{row['seed']: row for row in arms[arm]} for arm in (ours, full)]
  seeds = sorted(pick[0].keys() & pick[1].keys())
  step = [np.mean([of[seed]['cpu_seconds'] / of[seed]['steps'] for seed in seeds]) for of in pick]
  scored = SCORED * step[1]
  lines = []
  for number in [n for n, _ in pick[1][seeds[0]]['curve']]:
    now = number * step[1]
    difference = np.array(
      [psnr_after(pick[0][s], (now - scored) / step[0]) - psnr_after(pick[1][s], number) for s in seeds]
    )
    mean, low, high = statistics.paired(difference.mean(axis=0), np.zeros(difference.shape[1]))
    rest = difference[:, [p not in dark(rows) for p in pick[0][seeds[0]]['base']]].mean()
    above = f'{int((difference.mean(axis=1) > 0).sum())} of {len(seeds)}'
    line = [f'{now:.0f}', str(number), f'{min((now - scored) / step[0], pick[0][seeds[0]]["steps"]):.0f}']
    lines.append([*line, f'{mean:+.3f}', f'{low:+.3f} to {high:+.3f}', f'{rest:+.3f}', above])
  header = ['CPU s', 'steps in full', 'steps of adapters', f'{ours} against {full}, dB', *TITLES[4:7]]
  return tables.markdown([header, *lines])


def psnr_after(row: Mapping, steps: float) -> np.ndarray:
  """Returns PSNR by picture after a number of steps, between two measurements in a straight line."""
  numbers, values = course(row)
  return np.array([np.interp(steps, numbers, of) for of in values.T])


def course(row: Mapping) -> tuple[list[int], np.ndarray]:
  """Returns the numbers of steps at which a run was measured, from 0 on, and PSNR there (measurements, pictures)."""
  numbers = [0, *(number for number, _ in row['on_the_way']), row['steps']]
  ends = [[picture['psnr_y'] for picture in row[label].values()] for label in ('base', 'adapted')]
  return numbers, np.array([ends[0], *([*images.values()] for _, images in row['on_the_way']), ends[1]])


def phones(rows: Sequence[Mapping]) -> str:
  """Returns what adaptation to one camera gains on every camera, in whole and at lower strengths."""
  places = list(rows[0]['gains_elsewhere'])
  lines = []
  for camera in dict.fromkeys(row['data'] for row in rows):
    for arm, same in by_arm([row for row in rows if row['data'] == camera]).items():
      line = [camera, f'{arm.partition(",")[0]} ({len(same)})']
      for place in places:
        gain = [mean_gains(row['gains_elsewhere'][place]) for row in same]
        line.append(' / '.join(f'{np.mean([g[strength] for g in gain]):+.2f}' for strength in ('1', '0.8', '0.6')))
      lines.append(line)
  return tables.markdown([['trained on', 'arm (seeds)', *places], *lines])


def mean_gains(pictures: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
  """Returns the mean gain over the base by strength."""
  base = pictures['base']
  return {label: float(np.mean([of[p] - base[p] for p in base])) for label, of in pictures.items()}


def higher(rows: Sequence[Mapping]) -> str:
  """Returns how runs at other rates differ from those at the usual ones on the same pictures, by the seeds of both."""
  lines = []
  for table in ('edsr_soft', 'edsr_drealsr', 'swinir_drealsr'):
    usual = by_arm(read(table))
    place = [usual['full'][0][key] for key in ('backbone', 'data')]
    others = [row for row in (*read(f'{table}_own'), *rows) if [row['backbone'], row['data']] == place]
    for name, same in by_arm([row for row in others if row['name'] not in usual]).items():
      arm = name.split()[0]
      lines.append([*place, name, arm, *compare(same, usual[arm], dark(same))])
  return tables.markdown([['network', 'pictures', *TITLES], *lines])


def means(rows: Sequence[Mapping]) -> str:
  """Returns the mean of every metric over pictures, and over seeds with its deviation, by arm."""
  pictures = list(rows[0]['base'])
  base = rows[0]['base']
  metrics = {metric: digits for metric, digits in DIGITS.items() if metric in base[pictures[0]]}
  header = ['arm (seeds)', 'trained', *metrics, 'psnr_y without the dark picture', 'worst picture']
  lines = [['base', '0', *(f'{np.mean([base[p][m] for p in pictures]):.{d}f}' for m, d in metrics.items())]]
  lines[0] += [f'{np.mean([base[p]["psnr_y"] for p in pictures if p not in dark(rows)]):.3f}', '']
  for arm, same in by_arm(rows).items():
    line = [f'{arm} ({len(same)})', f'{same[0]["trainable_parameters"]:,}']
    for metric, digits in metrics.items():
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


def joined(rows: Sequence[Mapping]) -> list[dict]:
  """Returns the runs of the parts of all pairs as one of each arm, where all parts are measured."""
  return [
    {**same[0], **{label: {p: v for row in same for p, v in row[label].items()} for label in ('base', 'adapted')}}
    | {'weaker': {'0.8': {p: v for row in same for p, v in row['weaker']['0.8'].items()}}}
    for same in by_arm(rows).values()
    if len(same) == FOLDS
  ]


def on_the_way(rows: Sequence[Mapping]) -> str:
  """Returns PSNR against steps."""
  steps = [step for step, _ in rows[0]['curve']]
  lines = [
    [
      f'{row["name"]}, seed {row["seed"]}',
      f'{row["cpu_seconds"] / row["steps"]:.3f}',
      *(f'{value:.3f}' for _, value in row['curve']),
    ]
    for row in rows
  ]
  return tables.markdown([['arm', 'CPU s a step', *(f'{step} steps' for step in steps)], *lines])


def losses(kept: Mapping[str, Sequence[Mapping]]) -> str:
  """Returns how many pictures lost more than is promised, of all pictures of all seeds, and the largest loss."""
  lines = []
  for table, arms in ((table, by_arm(rows)) for table, rows in kept.items()):
    for arm, same in arms.items():
      line = [table, arm]
      weaker = [
        [row['weaker']['0.8'][p] - row['base'][p]['psnr_y'] for p in row['base']] for row in same if 'weaker' in row
      ]
      for gain in ([gains(row) for row in same], weaker):
        gain = np.ravel(gain)
        line += [f'{(gain < LOWEST).sum()} of {gain.size}', f'{gain.min():+.2f}'] if gain.size else ['', '']
      lines.append(line)
  return tables.markdown([['pictures', 'arm', f'lose {-LOWEST} dB', 'worst', 'at strength 0.8', 'worst'], *lines])


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


def trials(rows: Sequence[Mapping], table: str) -> str:
  """Returns what the trials of one kind gained, by network, beside the arm that each is compared with."""
  levelled = [
    {**row, 'name': f'{row["name"]}, {way}', 'adapted': adapted, 'against': row['name']}
    for row in rows
    for way, adapted in row.get('corrected', {}).items()
  ]
  arms: dict[tuple[str, str], list[Mapping]] = {}
  for row in [*rows, *levelled]:
    arms.setdefault((row['backbone'], row['name']), []).append(row)
  ours = {(at, name): (at, same[0]['against']) for (at, name), same in arms.items() if same[0]['table'] == table}
  shown = [arm for pair in ours.items() for arm in reversed(pair) if arm in arms]
  lines = []
  for at, name in sorted(dict.fromkeys(shown), key=lambda arm: NETWORKS.index(arm[0])):
    same, other = arms[at, name], arms.get(ours.get((at, name), ''))
    gain = np.mean([gains(row) for row in same], axis=0)
    rest = np.mean([gains(row, without=dark(same)) for row in same])
    levels = [np.mean([abs(x['level']) for row in same for x in row[label].values()]) for label in ('adapted', 'base')]
    numbers = gain.mean(), rest, gain[list(same[0]['base']).index(DARK)]
    line = [at, f'{name} ({len(same)})', *(f'{x:+.3f}' for x in numbers), f'{levels[0]:.2f} ({levels[1]:.2f})']
    lines.append([*line, *(compare(same, other, dark(same))[1:4] if other else ['', '', ''])])
  header = ['network', 'arm (seeds)', 'mean gain', 'without dark', 'dark picture', 'level (base)']
  return tables.markdown([[*header, 'against usual', '95 %', 'without dark'], *lines])


def curves(rows: Sequence[Mapping], path: Path, axis: str = 'seconds') -> None:
  """Draws the curve of every arm against steps or their CPU seconds, of the seeds that were measured on the way."""
  series = {}
  for row in rows:
    if len(row['curve']) > 1 and row['cpu_seconds']:
      steps, values = zip(*row['curve'], strict=True)
      a_step = row['cpu_seconds'] / row['steps'] if axis == 'seconds' else 1
      series[f'{row["name"]}, seed {row["seed"]}'] = np.array(steps) * a_step, values
  base = np.mean([picture['psnr_y'] for picture in rows[0]['base'].values()])
  label = 'CPU seconds of steps' if axis == 'seconds' else axis
  figures.learning_curves(path, series, label, 'PSNR (Y) in dB', baselines={'base': base})


if __name__ == '__main__':
  main()

"""What a report says, in order, as blocks that `report.html` and `markdown` put into their form.

Text may hold `code` between backticks and nothing else; names of pictures and folders are text like any other.
"""

import datetime
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.ticker import EngFormatter, MaxNLocator

from adaptsr_jax import config as config_lib
from adaptsr_jax import figures, files, page
from adaptsr_jax.evaluate import statistics
from adaptsr_jax.evaluate.asked import Measures
from adaptsr_jax.evaluate.tables import number
from adaptsr_jax.log import clock
from adaptsr_jax.report import gather, verdict
from adaptsr_jax.report.gather import Interval, Run, System
from adaptsr_jax.report.pictures import Crop, Dial, Look, Shown
from adaptsr_jax.report.verdict import NAMES, Verdict, signed


class Heading(NamedTuple):
  """The title of a section."""

  text: str


class Text(NamedTuple):
  """A paragraph."""

  text: str


class Bullets(NamedTuple):
  """Short paragraphs that stand beside each other."""

  items: list[str]


class Table(NamedTuple):
  """Rows of cells, the first being the heading; the first column names the row."""

  title: str
  rows: list[list[str]]
  note: str = ''


class Figure(NamedTuple):
  """A drawing: a file in the folder of the report; `inline` where it takes the colours of the page around it."""

  file: Path
  alt: str
  caption: str
  inline: bool = False


class Viewer(NamedTuple):
  """One picture by several systems; `left` and `right` are shown first."""

  name: str
  gain: str  # as text
  files: dict[str, Path]  # label -> file
  size: tuple[int, int]  # height and width of HR
  values: list[list[str]]  # a table, as in `Table.rows`
  left: str
  right: str


class Viewers(NamedTuple):
  """Pictures beside each other."""

  viewers: list[Viewer]


class Strength(NamedTuple):
  """Crops of a few pictures between base and adapted network."""

  label: str  # of what is dialled
  steps: list[str]
  crops: list[Crop]
  note: str


class Code(NamedTuple):
  """Lines as they are typed."""

  text: str


class Folded(NamedTuple):
  """Blocks that are shown on request."""

  title: str
  blocks: list


class Report(NamedTuple):
  """The whole."""

  title: str
  verdicts: list[tuple[str, Verdict]]  # by label of the adapted network
  others: list[str]  # sentences that compare further runs with the first
  lead: Viewer | None  # the picture beside the verdict
  blocks: list
  footer: str


def compose(
  runs: Sequence[Run], systems: Sequence[System], look: Look | None, why_not: str, asked: Measures, out: Path
) -> Report:
  """Puts together what there is to say, and draws the figures into `out`.

  Args:
    runs: from `gather.read`.
    systems: from `gather.systems`.
    look: what the pictures tell; None where they are not there.
    why_not: the reason for that.
    asked: the metrics that were asked for.
    out: folder of the report.
  """
  systems = [_with_more(system, look) for system in systems]
  adapted = gather.adapted(systems)
  verdicts = [(system.label, verdict.judge(system, look)) for system in adapted]
  lead, why = _lead(look, verdicts[0][1])
  blocks = [
    *_remarks_and_advice(verdicts),
    *_strengths(adapted, look),
    *_numbers(systems, asked),
    *_each_picture(systems, out),
    *_pictures(systems, look, why_not, lead),
    *(_colours(look) if look else []),
    *_cost(systems, look),
    *_drawn(runs, systems, out),
    *_what_was_run(runs, look, asked),
  ]
  names = ', '.join(run.folder.name for run in runs)
  return Report(
    f'Adaptation report: {names}',
    verdicts,
    [verdict.compare(system, adapted[0]) for system in adapted[1:]],
    lead and _viewer(lead, systems, (look.order, verdict.METRIC), f'{why}: '),
    blocks,
    f'Made {datetime.datetime.now():%Y-%m-%d %H:%M} by adaptsr_jax.report.',
  )


def _with_more(system: System, look: Look | None) -> System:
  """Adds the metrics that only the report has measured."""
  more = look.scores.get(system.label, {}) if look else {}
  scores = {name: row | more.get(name, {}) for name, row in system.scores.items()}
  return system._replace(scores=scores, base=system.base and _with_more(system.base, look))


def _remarks_and_advice(verdicts: Sequence[tuple[str, Verdict]]) -> list:
  blocks = []
  for label, judged in verdicts:
    of = f': {label}' if len(verdicts) > 1 else ''
    if judged.remarks:
      blocks += [Heading(f'Bear in mind{of}'), Bullets(judged.remarks)]
    if judged.advice:
      blocks += [Heading(f'What to try{of}'), Bullets(judged.advice)]
  return blocks


# ------------------------------------------------------------------------------------------------------------- quality


def _numbers(systems: Sequence[System], asked: Measures) -> list:
  keys = _keys(systems)
  heads = [_metric(key) for key in keys]
  means = [['', *heads]]
  for s in systems:
    own = gather.metrics_of(s)
    means.append([s.label, *(_cell(key, gather.mean(s, key), '') if key in own else '-' for key in keys)])
  first, *others = gather.adapted(systems)
  pairs = [(first, first.base)] + [(system, reference) for system in others for reference in (system.base, first)]
  differences = [['', *heads]]
  for system, reference in pairs:
    label = f'{system.label} against {reference.label}'
    differences.append([label, *(_gain_cell(system, reference, key) for key in keys)])
  return [
    Heading('Numbers'),
    Table('Means over the pictures', means, 'In brackets the 95 % interval of the mean, mostly the spread of scenes.'),
    Table(
      'Differences, picture by picture',
      differences,
      f'An interval without 0 is marked *: more than the choice of pictures explains. {statistics.PROTOCOL}.',
    ),
    *([Bullets(list(asked.missing.values()))] if asked.missing else []),
  ]


def _keys(systems: Sequence[System]) -> list[str]:
  return list(dict.fromkeys(key for system in systems for key in gather.metrics_of(system)))


def _metric(key: str) -> str:
  return NAMES.get(key, key.upper().replace('_', ' '))


def _gain_cell(system: System, reference: System, key: str) -> str:
  if not all(key in gather.metrics_of(s) for s in (system, reference)):
    return '-'
  gain = gather.gain(system, reference, key)
  return _cell(key, gain, '+') + ' *' * gain.certain


def _cell(key: str, interval: Interval, sign: str) -> str:
  mean, low, high = (_minus(number(key, value, sign)) for value in interval[:3])
  return f'{mean} [{low}, {high}]' if math.isfinite(interval.low) else mean


def _minus(text: str) -> str:
  """Gives a negative number the minus sign; a lone '-' stays."""
  return text.replace('-', '\N{MINUS SIGN}') if len(text) > 1 else text


def _each_picture(systems: Sequence[System], out: Path) -> list:
  adapted = gather.adapted(systems)
  blocks = [Heading('Gain of each picture')]
  for place, system in enumerate(adapted, 1):
    gains = gather.gains(system, system.base, verdict.METRIC)
    if gains:
      file = out / f'gains{place}.svg'
      files.write(file, gains_svg(gains, gather.gain(system, system.base, verdict.METRIC), 'dB PSNR (Y)'))
      caption = f'{system.label} against {system.base.label}, dB PSNR (Y). Dashed: the mean; shaded: its 95 % interval.'
      blocks.append(Figure(file, f'Bars: gain of each picture, {caption}', caption, inline=True))
  rows = [['', *(system.label for system in systems), *(f'gain of {system.label}' for system in adapted)]]
  for name in adapted[0].scores:
    values = [number(verdict.METRIC, system.scores[name][verdict.METRIC]) for system in systems]
    differences = [s.scores[name][verdict.METRIC] - s.base.scores[name][verdict.METRIC] for s in adapted]
    rows.append([name, *values, *(_minus(number(verdict.METRIC, value, '+')) for value in differences)])
  return [*blocks, Folded('PSNR (Y) of every picture, in dB', [Table('', rows)])]


def gains_svg(gains: Mapping[str, float], interval: Interval, what: str) -> str:
  """Returns an SVG with one bar per picture in the given order, and the mean with its interval behind them.

  Args:
    gains: picture -> gain; at least one.
    interval: mean gain.
    what: the unit of the gains, for the title of each bar and the axis.
  """
  finite = [0.0, *(value for value in (*gains.values(), interval.low, interval.high) if math.isfinite(value))]
  low, high = min(finite), max(finite)
  margin = 0.06 * (high - low) or 1.0
  low, high = low - margin * (low < 0), high + margin * (high > 0 or low == 0)
  ticks = [tick for tick in MaxNLocator(5).tick_values(low, high) if low <= tick <= high]
  values = list(gains.values())
  ends = ' to '.join(_minus(f'{value:+.3g}') for value in (values[0], values[-1]))
  better = sum(value > 0 for value in values)
  text = f'Gain of each picture in {what}, from {ends}; {better} of {len(values)} gained.'
  drawn = {'low': low, 'high': high, 'ticks': ticks, 'text': text, 'minus': '\N{MINUS SIGN}'}
  return page.render('report/gains.svg', gains=gains, interval=interval, what=what, **drawn)


# ------------------------------------------------------------------------------------------------------------ pictures


def _lead(look: Look | None, judged: Verdict) -> tuple[Shown | None, str]:
  """Returns the picture that shows best what the verdict says, and why it does."""
  best, worst = (look.best, look.worst) if look else ([], [])
  for picture in (*best, *worst):
    if picture.name == judged.spread.decides:
      return picture, 'decides the mean'
  if judged.kind == 'hurt' and worst:
    return worst[0], 'smallest gain, or loss'
  return (best[0], 'largest gain') if best else (None, '')


def _pictures(systems: Sequence[System], look: Look | None, why_not: str, lead: Shown | None) -> list:
  if not look:
    return [
      Heading('Pictures'),
      Text(f'No pictures are shown, and nothing is said on colours, cost and further metrics: {why_not}'),
    ]
  blocks = []
  for title, pictures in (('Largest gains', look.best), ('Smallest gains, or losses', look.worst)):
    shown = [picture for picture in pictures if picture is not lead]
    if shown:
      blocks += [
        Heading(f'{title} in {_metric(look.order)}'),
        Viewers([_viewer(picture, systems, (look.order, verdict.METRIC)) for picture in shown]),
      ]
  missing = [f'Without pictures of {label}: {reason}' for label, reason in look.missing.items()]
  stored = (
    'stored without loss' if look.lossless else 'stored as JPEG of quality 95 in full colour, to keep the page small'
  )
  return [*blocks, *([Bullets(missing)] if missing else []), Text(f'Whole pictures at full resolution, {stored}.')]


def _strengths(adapted: Sequence[System], look: Look | None) -> list:
  dials = [(s, look.dials[s.label]) for s in adapted if s.label in look.dials] if look else []
  if not dials:
    return []
  several = len(adapted) > 1
  blocks: list = [Heading('Between base and adapted network')]
  first = next((system.label for system, dial in dials if dial.crops), '')
  for place, (system, dial) in enumerate(dials):
    label = f'Strength of {system.label}' if several else 'Strength of the adapter'
    inner = _strength(system, dial, label, with_note=system.label == first)
    blocks += [Folded(label, inner)] if place else inner
  return blocks


def _strength(adapted: System, dial: Dial, label: str, with_note: bool) -> list:
  if not dial.crops:
    return [Text(f'{label}: no slider. {dial.why_not}')]
  note = 'Whole pictures were enlarged; what is shown of each lies where HR has most detail.' if with_note else ''
  if with_note and dial.crops[0].files[0].suffix == '.jpg':
    note += ' It is stored as JPEG of quality 95 in full colour, to keep the page small.'
  blocks: list = [Strength(label, dial.strengths, dial.crops, note)]
  base, adapter = adapted.run.config.base, adapted.run.folder / 'adapter.safetensors'
  if adapter.is_file() and base != 'random':
    words = ['python', '-m', 'adaptsr_jax.adapters', 'merge', base, str(adapter), 'OUT', '--strength=0.5']
    blocks += [Text('A network of half the strength is written by:'), Code(shlex.join(words))]
  return blocks


def _viewer(picture: Shown, systems: Sequence[System], shown_first: Sequence[str], why: str = '') -> Viewer:
  keys = _keys(systems)
  values = [['', *map(_metric, keys)]]
  values += [[s.label, *(number(key, s.scores[picture.name].get(key)) for key in keys)] for s in systems]
  first = gather.adapted(systems)[0]
  pairs = ((first.base, 'LR'), (first, 'HR'))
  left, right = (system.label if system.label in picture.files else other for system, other in pairs)
  after, before = (system.scores[picture.name] for system in (first, first.base))
  gains = [f'{_metric(key)} {_minus(number(key, after[key] - before[key], "+"))}' for key in dict.fromkeys(shown_first)]
  return Viewer(picture.name, why + ', '.join(gains), picture.files, picture.size, values, left, right)


def _colours(look: Look) -> list:
  rows = [['', 'R', 'G', 'B', 'L*', 'a*', 'b*', 'distance']]
  rows += [
    [f'{a} against {b}', *map(signed, (*colour.rgb, *colour.lab)), f'{colour.delta_e:.2f}']
    for (a, b), colour in look.colours.items()
  ]
  agreement = [['', 'PSNR (RGB)']] + [[label, number('psnr', value)] for label, value in look.consistency.items()]
  return [
    Heading('Colour and input'),
    Table(
      'Mean colour',
      rows,
      'Mean over pictures of the difference of the mean colour: R, G, B in levels of 255, then CIE L*a*b* (D65) of the '
      'pixels; distance: of the mean colours of a picture in L*a*b*, whatever its direction; about 2 is just visible.',
    ),
    Table(
      'Agreement with the input',
      agreement,
      'PSNR in dB between the output, shrunk by the bicubic kernel of MATLAB, and the LR picture. The value of HR '
      'itself tells how far this goes: an output above it repeats the input more closely than the truth does.',
    ),
  ]


# ---------------------------------------------------------------------------------------------------------------- cost


def _cost(systems: Sequence[System], look: Look | None) -> list:
  programs = look.programs if look else {}
  head = ['', 'method', 'trained parameters', 'share', 'steps', 'training time', 'peak memory', 'energy']
  rows = [head]
  for system in gather.adapted(systems):
    r = system.run.results
    trained, total = r['trainable_parameters'], r['total_parameters']
    share = f'{100 * trained / total:.1f} %'
    memory = f'{r["peak_memory_bytes"] / 2**30:.2f} GiB' if r.get('peak_memory_bytes') else '-'
    energy = f'{r["energy_joules"] / 1000:.1f} kJ' if r.get('energy_joules') else '-'
    cells = [f'{trained:,}', share, f'{r["steps"]:,}', clock(r['seconds']), memory, energy]
    rows.append([system.label, r['method'], *cells])
  note = (
    'Training time is that of the steps, without scoring and measuring. Peak memory is that of the device, or of the '
    'whole process on a CPU. Energy is that of processor and memory of the machine during the steps, where it tells.'
  )
  blocks = [Heading('Cost'), Table('Adapting', rows, note)]
  if programs:
    (h, w) = next(iter(programs.values())).size
    rows = [['', 'parameters', f'FLOPs for LR {w}x{h}']]
    for s in systems:
      if s.label in programs:
        flops = programs[s.label].flops
        told = EngFormatter(places=2)(flops) if math.isfinite(flops) else '-'
        rows.append([s.label, f'{s.run.results["total_parameters"]:,}', told])
    blocks.append(Table('Enlarging', rows, _same_program(systems, look)))
  return blocks


def _same_program(systems: Sequence[System], look: Look) -> str:
  sentences = []
  for system in gather.adapted(systems):
    own, of_base = (look.programs.get(each.label) for each in (system, system.base))
    if own and of_base:
      what = 'the same program as' if own.text == of_base.text else 'NOT the same program as'
      sentences.append(f'{system.label} is {what} {system.base.label}')
  counted = 'Counted by XLA before it optimises'
  return f'{counted}. {"; ".join(sentences)}: the operations are compared one by one.' if sentences else f'{counted}.'


# ------------------------------------------------------------------------------------------------------------- the run


def _drawn(runs: Sequence[Run], systems: Sequence[System], out: Path) -> list:
  baselines = {s.label: gather.mean(s, verdict.METRIC).mean for s in systems if s.kind != 'adapted'}
  baselines = {label: value for label, value in baselines.items() if math.isfinite(value)}
  blocks, series = [], {}
  for run in runs:
    measured = [(row['step'], row['valid/psnr_y']) for row in run.history if 'valid/psnr_y' in row]
    if measured:  # every method begins as its base
      series[run.label] = tuple(zip((0, run.results['base']['mean']['psnr_y']), *measured, strict=True))
  if series:
    figures.learning_curves(out / 'curve.svg', series, 'step', 'PSNR (Y) in dB', baselines)
    best = max((row['valid/psnr_y'], row['step']) for row in runs[0].history if 'valid/psnr_y' in row)
    alt = f'Validation PSNR (Y) over the steps; {runs[0].label} is best at step {best[1]} with {best[0]:.2f} dB.'
    blocks += [Heading('Learning curve'), Figure(out / 'curve.svg', alt, alt)]
  for place, run in enumerate(runs, 1):
    file = out / f'ranks{place}.svg'
    if ranks := run.ranks.get('ranks'):
      figures.rank_heatmap(file, ranks, f'Ranks by {run.ranks["rule"]}')
      largest = max(ranks, key=ranks.get)
      text = f'Ranks of the {len(ranks)} adapted sites of {run.label}: the largest is {ranks[largest]}, of {largest}.'
      blocks += [Heading('Rank map'), Figure(file, text, text)]
  return blocks


def _what_was_run(runs: Sequence[Run], look: Look | None, asked: Measures) -> list:
  defaults = config_lib.flat(config_lib.default())
  configs = [config_lib.flat(run.config) for run in runs]
  fields = [key for key in configs[0] if any(c.get(key) != defaults.get(key) for c in configs)]
  labels = [run.label for run in runs]
  changed = [['field', *labels, 'default']]
  changed += [[key, *(_value(c.get(key)) for c in configs), _value(defaults.get(key))] for key in fields]
  whole = [['field', *labels], *([key, *(_value(c.get(key)) for c in configs)] for key in configs[0])]
  protocol = '; '.join(
    f'{key} {value}' for key, value in (runs[0].results['protocol'] | (asked.protocol if look else {})).items()
  )
  blocks = [
    Heading('What was run'),
    Table('Fields that differ from their default', changed),
    Folded('All fields', [Table('', whole)]),
    Table('Facts', _facts(runs, look)),
    Text(f'Protocol of the measurements: {protocol}.'),
  ]
  for run in runs:
    blocks += _command(run)
  return blocks


def _facts(runs: Sequence[Run], look: Look | None) -> list[list[str]]:
  facts = {
    'folder': [str(run.folder) for run in runs],
    'finished': [f'{run.date:%Y-%m-%d %H:%M}' for run in runs],
    'device': [run.results.get('device', '-') for run in runs],
    'network': [_network(run) for run in runs],
    'SHA-256 of the base': [run.results['base_fingerprint'] for run in runs],
    'training pictures': [run.material.get('training pictures', '-') for run in runs],
    'validation pictures': [run.material.get('validation pictures', '-') for run in runs],
  }
  if look:
    facts['validation pictures in words'] = [look.described] * len(runs)
  names = dict.fromkeys(name for run in runs for name in run.results.get('versions', {}))
  facts |= {name: [run.results.get('versions', {}).get(name, '-') for run in runs] for name in names}
  return [['', *(run.label for run in runs)], *([name, *values] for name, values in facts.items())]


def _network(run: Run) -> str:
  model = run.results['model']
  return f'{model["name"]} ({", ".join(f"{key}={value}" for key, value in model["fields"].items())})'


def _command(run: Run) -> list:
  """Returns the recorded command, or the flags that make the config of this run from the defaults."""
  if run.results.get('command'):
    return [Text(f'Command of {run.label}:'), Code(run.results['command'])]
  defaults = config_lib.flat(config_lib.default())
  flags = [f'--workdir={run.folder}']
  for key, value in config_lib.flat(run.config).items():
    if value != defaults.get(key):
      flags += [f'--config.{key}={part}' for part in (value if isinstance(value, list) else [value])]
  command = ' \\\n  '.join(['python -m adaptsr_jax.main --config=CONFIG', *map(shlex.quote, flags)])
  said = 'was not recorded; with a CONFIG file that changes no default, this one makes the same run'
  return [Text(f'The command of {run.label} {said}:'), Code(command)]


def _value(value: object) -> str:
  return "''" if value == '' else str(value)

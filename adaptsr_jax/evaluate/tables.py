"""Measurements as tables: rows of cells, and rows as aligned text, Markdown or CSV.

A run is what `measure.score` returns, {'mean', 'interval', 'images'}, several are {label: run}. Runs that were compared
with another also hold 'difference': {metric: (mean, low, high)}. Rows are lists of text; the first row is the heading.
"""

import csv
import io
import itertools
import math
import re
from collections.abc import Mapping
from typing import Any

from adaptsr_jax.errors import escaped
from adaptsr_jax.evaluate import statistics
from adaptsr_jax.metrics.table import VALUES

Rows = list[list[str]]

_NUMBER = re.compile(r'([-+]?(\d[\d.]*|inf)|-)?')


def differences(run: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, tuple[float, float, float]]:
  """Returns {metric: (mean, low, high)} of `run` minus `reference`, which hold the same pictures."""
  common = [key for key in run['mean'] if key in reference['mean']]
  return {
    key: statistics.paired(
      *([images[name][key] for name in run['images']] for images in (run['images'], reference['images']))
    )
    for key in common
  }


def means(runs: Mapping[str, Mapping[str, Any]]) -> Rows:
  """Returns a row for each run and a column for each metric."""
  keys = metrics_of(runs)
  rows = [[label, *(number(key, run['mean'].get(key)) for key in keys)] for label, run in runs.items()]
  return [['run', *keys], *rows]


def comparison(runs: Mapping[str, Mapping[str, Any]]) -> Rows:
  """Returns a row for each metric and run: mean, its 95 % interval, and the same of the difference, where there is one.

  An interval of differences that does not hold 0 is followed by *, given `statistics.FEW` pictures: the gain or loss is
  hardly an accident of the pictures.
  """
  compared = any('difference' in run for run in runs.values())
  rows = [['metric', 'run', 'mean', '95 % interval', *(['difference', '95 % interval'] if compared else [])]]
  for key in metrics_of(runs):
    for place, (label, run) in enumerate(runs.items()):
      row = ['' if place else key, label, number(key, run['mean'].get(key)), _interval(key, run['interval'].get(key))]
      if compared:
        row += _difference(key, run.get('difference', {}).get(key), len(run['images']))
      rows.append(row)
  return rows


def pictures(runs: Mapping[str, Mapping[str, Any]]) -> Rows:
  """Returns a row for each picture and run, with all digits; what is absent is empty."""
  keys = metrics_of(runs)
  rows = [
    [label, name, *(repr(row[key]) if row.get(key) is not None else '' for key in keys)]
    for label, run in runs.items()
    for name, row in run['images'].items()
  ]
  return [['run', 'picture', *keys], *rows]


def metrics_of(runs: Mapping[str, Mapping[str, Any]]) -> list[str]:
  """Returns the metrics that any of the runs has, in their order."""
  return list(dict.fromkeys(key for run in runs.values() for key in run['mean']))


def lower_is_better(key: str) -> bool:
  """Tells whether a smaller value of the metric is the better one."""
  return key in VALUES and VALUES[key].lower


def number(key: str, value: float | None, sign: str = '') -> str:
  """Returns a value with the decimals of its metric; '-' for one that is absent or no number."""
  if value is None or math.isnan(value):
    return '-'
  return f'{value:{sign}.{VALUES[key].digits if key in VALUES else 4}f}'


def legend(runs: Mapping[str, Mapping[str, Any]]) -> str:
  """Returns what belongs beside the table, as lines: what the numbers are, and the protocol of the runs.

  Args:
    runs: which also hold 'protocol', {word: value}; what all runs have in common is told once.
  """
  number, first = len(next(iter(runs.values()))['images']), next(iter(runs))
  sentences = [f'Mean of {number} {"pictures" if number > 1 else "picture"}.']
  lower = [key for key in metrics_of(runs) if lower_is_better(key)]
  if lower:
    sentences.append(f'Lower is better: {", ".join(lower)}.')
  if any('difference' in run for run in runs.values()):
    starred = '* where their interval does not hold 0' if number >= statistics.FEW else 'too few pictures for a verdict'
    sentences.append(f'Differences are to {first}, picture by picture; {starred}.')
  protocols = [run['protocol'] for run in runs.values()]
  common = {word: value for word, value in protocols[0].items() if all(p.get(word) == value for p in protocols)}
  lines = [' '.join(sentences), f'Protocol: {_listed(common)}.']
  for label, run in runs.items():
    own = {word: value for word, value in run['protocol'].items() if word not in common}
    lines += [f'{label}: {_listed(own)}.'] if own else []
  return '\n'.join(lines)


def document(runs: Mapping[str, Mapping[str, Any]]) -> str:
  """Returns a Markdown page: means of the runs, the comparison, the legend."""
  notes = '\n'.join(f'- {line}' for line in legend(runs).splitlines())
  return '\n\n'.join([markdown(means(runs)), markdown(comparison(runs)), notes]) + '\n'


def text(rows: Rows) -> str:
  """Returns the rows in aligned columns, for a terminal; numbers to the right."""
  rows = [list(map(escaped, row)) for row in rows]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  right = _numeric_columns(rows)
  lines = (
    '  '.join(cell.rjust(n) if r else cell.ljust(n) for cell, n, r in zip(row, widths, right, strict=True))
    for row in rows
  )
  return '\n'.join(line.rstrip() for line in lines)


def markdown(rows: Rows) -> str:
  """Returns the rows as a table of GitHub's Markdown."""
  rule = ['---:' if right else '---' for right in _numeric_columns(rows)]
  head, *body = [[escaped(cell).replace('|', '\\|') for cell in row] for row in rows]
  return '\n'.join(f'| {" | ".join(row)} |' for row in [head, rule, *body])


def csv_text(rows: Rows) -> str:
  """Returns the rows as CSV (RFC 4180, but lines end as in other text files)."""
  buffer = io.StringIO()
  csv.writer(buffer, lineterminator='\n').writerows(rows)
  return buffer.getvalue()


def _listed(protocol: Mapping[str, Any]) -> str:
  return '; '.join(f'{word} {value}' for word, value in protocol.items())


def _interval(key: str, interval: tuple[float | None, float | None] | None, sign: str = '') -> str:
  if interval is None or None in interval or any(map(math.isnan, interval)):
    return '-'
  return f'[{", ".join(number(key, value, sign) for value in interval)}]'


def _difference(key: str, difference: tuple[float | None, ...] | None, pictures: int) -> list[str]:
  if difference is None:
    return ['', '']
  mean, low, high = difference
  interval = _interval(key, (low, high), '+')
  return [number(key, mean, '+'), interval + ' *' * statistics.certain(low, high, pictures)]


def _numeric_columns(rows: Rows) -> list[bool]:
  """Tells of each column whether it holds numbers below its heading; the first never does."""
  columns = itertools.islice(zip(*rows[1:], strict=True), 1, None)
  return [False, *(all(map(_NUMBER.fullmatch, column)) for column in columns)]

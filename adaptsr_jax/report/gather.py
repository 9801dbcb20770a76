"""What runs left in their folders, read back and checked to be comparable."""

import datetime
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from adaptsr_jax import config as config_lib
from adaptsr_jax.adapt.folder import Folder
from adaptsr_jax.errors import UserError
from adaptsr_jax.evaluate import statistics
from adaptsr_jax.log import read_metrics

Scores = dict[str, dict[str, float]]  # picture -> metric -> value

_NEEDED = ('method', 'steps', 'bicubic', 'base', 'adapted', 'config', 'protocol', 'model', 'base_fingerprint')


class Run(NamedTuple):
  """A finished run."""

  folder: Path
  label: str  # unlike that of any other run of the report
  results: dict[str, Any]  # results.json
  config: ConfigDict  # with the default of every field that its time did not know
  material: dict[str, str]  # material.json
  ranks: dict[str, Any]  # ranks.json; empty for methods without
  history: list[dict[str, float]]  # metrics.jsonl
  date: datetime.datetime  # of results.json

  @property
  def scale(self) -> int:
    """HR pixels per LR pixel and axis."""
    return self.results['protocol']['crop']


class System(NamedTuple):
  """What enlarges pictures: the bicubic kernel, a base, or an adapted network."""

  label: str
  kind: str  # 'bicubic', 'base' or 'adapted'
  run: Run  # the (first) run that measured it
  scores: Scores
  base: 'System | None' = None  # that of an adapted network


class Interval(NamedTuple):
  """A mean over pictures with its 95 % interval, which is nan where there are too few."""

  mean: float
  low: float
  high: float
  pictures: int = 0  # of a difference, over how many

  @property
  def certain(self) -> bool:
    """Whether a difference holds over the pictures."""
    return statistics.certain(self.low, self.high, self.pictures)


def read(folders: Sequence[str | os.PathLike]) -> list[Run]:
  """Reads the runs, the first being the reference.

  Raises:
    UserError: a folder that is no run, a run that is not finished or measured nothing, or runs that were measured on
      different pictures, at different scales or by different protocols.
  """
  runs = [_read(Path(folder)) for folder in folders]
  for run in runs[1:]:
    _check_comparable(runs[0], run)
  return [run._replace(label=label) for run, label in zip(runs, _labels(runs), strict=True)]


def systems(runs: Sequence[Run]) -> list[System]:
  """Returns bicubic, then every base with the networks adapted from it."""
  found = [System('bicubic', 'bicubic', runs[0], scores_of(runs[0].results['bicubic']))]
  # A base that is read in another precision or with other fields measures differently: another one.
  several = len({(run.results['base_fingerprint'], str(run.results['base']['mean'])) for run in runs}) > 1
  bases: dict[tuple[str, str], System] = {}
  for run in runs:
    key = run.results['base_fingerprint'], str(run.results['base']['mean'])
    if key not in bases:
      label = f'base of {run.label}' if several else 'base'
      bases[key] = System(label, 'base', run, scores_of(run.results['base']))
      found.append(bases[key])
    found.append(System(run.label, 'adapted', run, scores_of(run.results['adapted']), bases[key]))
  return found


def adapted(systems: Sequence[System]) -> list[System]:
  """Returns the adapted networks, the first being what others are compared with."""
  return [system for system in systems if system.kind == 'adapted']


def scores_of(measured: Mapping[str, Any]) -> Scores:
  """Returns the values of each picture; JSON's null, for a number that was not finite, becomes nan."""
  return {
    name: {metric: math.nan if value is None else value for metric, value in row.items()}
    for name, row in measured['images'].items()
  }


def metrics_of(system: System) -> list[str]:
  """Returns the names of what `system` was measured by."""
  return list(next(iter(system.scores.values())))


def mean(system: System, metric: str) -> Interval:
  """Returns the mean over all pictures."""
  values = [row[metric] for row in system.scores.values()]
  return Interval(statistics.mean(values), *statistics.bootstrap(values))


def gain(system: System, reference: System, metric: str) -> Interval:
  """Returns the mean over pictures of the difference to `reference`."""
  names = list(reference.scores)
  values = [[s.scores[name][metric] for name in names] for s in (system, reference)]
  return Interval(*statistics.paired(*values), len(gains(system, reference, metric)))


def gains(system: System, reference: System, metric: str) -> dict[str, float]:
  """Returns the difference to `reference` on each picture where it is a finite number, the largest first."""
  differences = {name: row[metric] - reference.scores[name][metric] for name, row in system.scores.items()}
  finite = {name: value for name, value in differences.items() if math.isfinite(value)}
  return dict(sorted(finite.items(), key=lambda item: -item[1]))


def _read(folder: Path) -> Run:
  folder = folder.absolute()
  run = Folder(folder)
  kept, results = run.read('config'), run.read('results') or {}
  if kept is None:
    what = 'has no config.json' if folder.is_dir() else 'is not there'
    raise UserError(f'{folder} {what}, so it is no run; give the --workdir of adaptsr_jax.main.')
  if not results or run.done > results.get('steps', run.done):
    raise UserError(
      f'The run in {folder} is not finished ({run.done} of {kept["steps"]} steps are saved); '
      'start it again by the same command, which continues from there.'
    )
  lacking = [name for name in _NEEDED if name not in results]
  if lacking:
    raise UserError(f'{folder / "results.json"} has no {lacking[0]!r}: it was not written by a run of this package.')
  if not results['base']:
    raise UserError(
      f'The run in {folder} measured nothing, because it had no validation pictures; '
      'give some by --config.data.valid.hr in a new run.'
    )
  return Run(
    folder=folder,
    label='adapted',
    results=results,
    config=config_lib.restored(results['config']),
    material=run.read('material') or {},
    ranks=run.read('ranks') or {},
    history=read_metrics(folder),
    date=datetime.datetime.fromtimestamp((folder / 'results.json').stat().st_mtime),
  )


def _labels(runs: Sequence[Run]) -> list[str]:
  """Returns as much of the ends of the paths as tells the runs apart."""
  if len(runs) == 1:
    return ['adapted']
  for depth in range(1, max(len(run.folder.parts) for run in runs) + 1):
    labels = ['/'.join(run.folder.parts[-depth:]) for run in runs]
    if len(set(labels)) == len(runs):
      return [f'{label} ({run.results["method"]})' for label, run in zip(labels, runs, strict=True)]
  raise UserError('The same run is given twice.')


def _check_comparable(first: Run, other: Run) -> None:
  """Raises UserError where the numbers of two runs do not belong in one table."""
  both = f'{first.folder} and {other.folder} cannot stand in one report: '
  if first.scale != other.scale:
    raise UserError(f'{both}they enlarge by {first.scale} and by {other.scale}.')
  names = [set(run.results['base']['images']) for run in (first, other)]
  pictures = [run.material.get('validation pictures') for run in (first, other)]
  if names[0] != names[1] or pictures[0] != pictures[1]:
    counts = [f'{len(n)} picture{"s" * (len(n) != 1)}' for n in names]
    how = f'{counts[0]} and {counts[1]}' if names[0] != names[1] else 'of the same names, with other content'
    raise UserError(f'{both}they were measured on different pictures ({how}); make a report of each.')
  protocols = [run.results['protocol'] for run in (first, other)]
  for key in sorted(protocols[0].keys() & protocols[1].keys()):  # one may have more metrics
    values = [protocol.get(key) for protocol in protocols]
    if values[0] != values[1]:
      raise UserError(f'{both}they were measured by different protocols ({key} {values[0]} and {values[1]}).')

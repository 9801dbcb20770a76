"""A grid of runs in one process: all combinations of some values of fields, each a run in a folder of its own.

Runs that differ in what a compiled program is told, not in what it is (seed, learning rate), share it: by the programs
that are kept (`command.keep_programs`). Base and bicubic kernel are measured once. What is finished is not done again.
"""

import ast
import itertools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from adaptsr_jax import config as config_lib
from adaptsr_jax import files
from adaptsr_jax.adapt import whole
from adaptsr_jax.adapt.folder import Folder
from adaptsr_jax.errors import UserError, shown
from adaptsr_jax.evaluate import statistics, tables
from adaptsr_jax.log import say

# Fields on which the measurements before training depend.
_BEFORE = ('base', 'key', 'fields', 'model', 'data', 'dtype', 'eval_tile', 'metrics', 'metric_weights', 'devices')


class Arm(NamedTuple):
  """One run of a sweep.

  Attributes:
    name: of its folder: 'lora.rank=4_optim.lr=1e-3'.
    values: field -> its value as it was written.
    config: of the run.
  """

  name: str
  values: dict[str, str]
  config: ConfigDict


def arms(text: str, config: ConfigDict) -> list[Arm]:
  """Returns all combinations of 'FIELD=VALUE,VALUE FIELD=VALUE,VALUE', the last field changing fastest.

  Values of fields that are tuples have their parts joined by +, as in 'sites.kinds=conv,conv+mlp'.

  Raises:
    UserError: no such field, a value that it cannot have, or a run without validation pictures.
  """
  grid: dict[str, list[str]] = {}
  for word in text.split():
    field, joined, values = word.partition('=')
    field = field.removeprefix('--').removeprefix('config.')
    if not joined or not all(values.split(',')) or field in grid:
      raise UserError(f"--sweep has {word!r}; write each field once, as in --sweep='lora.rank=4,8 optim.lr=1e-3,2e-3'.")
    grid[field] = list(dict.fromkeys(values.split(',')))
  if not grid:
    raise UserError(
      "--sweep is empty; write fields with their values, as in --sweep='lora.rank=4,8 optim.lr=1e-3,2e-3'."
    )
  found = [_arm(dict(zip(grid, values, strict=True)), config) for values in itertools.product(*grid.values())]
  for arm in found:
    config_lib.validate(arm.config)
    if not config_lib.sources(arm.config, 'valid'):
      raise UserError('A sweep compares what its runs measure: give validation pictures, config.data.valid.hr.')
  return found


def _arm(values: dict[str, str], config: ConfigDict) -> Arm:
  changed, known = config.copy_and_resolve_references(), config_lib.flat(config)
  for field, value in values.items():
    if field not in known:
      raise UserError(f'--sweep has {shown(field)}, which is no field of a run.')
    try:
      changed.update_from_flattened_dict({field: _value(value, known[field])})
    except (TypeError, ValueError, SyntaxError) as error:
      raise UserError(f'--sweep has {shown(field)}={shown(value)}, which is not of the type of the field.') from error
  name = '_'.join(f'{field}={value}' for field, value in values.items())
  return Arm(''.join(c if c.isalnum() or c in '._=+-' else '-' for c in name), values, changed)


def _value(text: str, default: Any) -> Any:
  if isinstance(default, str):
    return text
  if isinstance(default, tuple | list):
    return tuple(text.split('+'))
  value = ast.literal_eval(text)
  if isinstance(default, bool) != isinstance(value, bool):
    raise ValueError(text)
  return value


def run(found: Sequence[Arm], workdir: Path, call: str = '') -> tuple[list[Path], dict[str, str]]:
  """Does the runs that are not done, and writes sweep.json and sweep.md to `workdir`.

  Args:
    found: from `arms`.
    workdir: folder for the folders of the runs.
    call: what started it, for the record.

  Returns:
    The folders of the finished runs, the best one first, and why others failed, by name.

  Raises:
    UserError: all of them failed.
    Interrupted: as of `whole.run`; the same call goes on.
  """
  results, failures = {}, {}
  for number, arm in enumerate(found, 1):
    folder = Folder(workdir / arm.name)
    say(f'[{number}/{len(found)}] {arm.name}')
    if done := _finished(folder, arm.config):
      results[arm.name] = done
      continue
    same_base = arm.config.base != 'random' and not any(field.split('.')[0] in _BEFORE for field in arm.values)
    if results and same_base:
      done = workdir / next(iter(results))
      folder.path.mkdir(parents=True, exist_ok=True)
      for name in ('base.json', 'bicubic.json'):
        if (done / name).is_file() and not (folder.path / name).is_file():
          shutil.copy(done / name, folder.path / name)
    try:
      results[arm.name] = whole.run(arm.config, folder.path, call)
    except UserError as error:
      say(f'Error: {error}')
      failures[arm.name] = str(error)
  if not results:
    raise UserError(next(iter(failures.values())))
  order = _write(workdir, {arm.name: arm for arm in found}, results, failures)
  return [workdir / name for name in order], failures


def _finished(folder: Folder, config: ConfigDict) -> dict[str, Any] | None:
  """Returns the results of a run that is done, None where it is not, or was another one."""
  results = folder.read_or_tell('results')
  if not results or folder.changed_fields(config) or results['config']['steps'] != config.steps:
    return None
  return results


def _write(
  workdir: Path, found: Mapping[str, Arm], results: Mapping[str, Any], failures: Mapping[str, str]
) -> list[str]:
  """Writes and prints the tables; returns the names of the runs, the best first."""
  first = next(iter(results.values()))
  metric = first['config']['best']
  runs = {'base': {**first['base'], 'protocol': first['protocol']}}
  runs |= {name: {**each['adapted'], 'protocol': each['protocol']} for name, each in results.items()}
  sign = 1 if tables.lower_is_better(metric) else -1
  order = sorted(results, key=lambda name: sign * results[name]['adapted']['mean'][metric])
  rows = [['run', 'trained', 'seconds', metric]]
  for name in order:
    each = results[name]
    value = tables.number(metric, each['adapted']['mean'][metric])
    rows.append([name, f'{each["trainable_parameters"]:,}', f'{each["seconds"]:.0f}', value])
  lines = [_verdict(results, order, metric)] + [f'{name} failed: {why}' for name, why in failures.items()]
  page = [tables.markdown(rows), *lines, tables.document(runs)]
  files.write(workdir / 'sweep.md', '\n\n'.join(page))
  kept = ('trainable_parameters', 'seconds', 'adapted')
  told = {name: {'fields': found[name].values, **{key: results[name][key] for key in kept}} for name in order}
  files.write_json(
    workdir / 'sweep.json', files.finite({'base': first['base'], 'runs': told, 'failures': dict(failures)})
  )
  say('\n'.join([tables.text(rows), tables.text(tables.comparison(runs)), *lines]))
  return order


def _verdict(results: Mapping[str, Any], order: Sequence[str], metric: str) -> str:
  """Returns which run is best, and whether the pictures can tell it from the second."""
  if len(order) < 2:
    return f'{order[0]} is the only run that came to its end.'
  one, two = ([row[metric] for row in results[name]['adapted']['images'].values()] for name in order[:2])
  if len(one) != len(two) or None in (*one, *two):
    return f'Best by {metric}: {order[0]}.'
  difference, low, high = statistics.paired(one, two)
  how = f'by {tables.number(metric, difference, "+")}, 95 % interval {tables.number(metric, low, "+")} to '
  how += f'{tables.number(metric, high, "+")} over {len(one)} pictures'
  if len(one) < statistics.FEW:
    chance = ', too few to tell the two apart'
  else:
    chance = '' if statistics.certain(low, high, len(one)) else ', which do not tell the two apart'
  return f'Best by {metric}: {order[0]}, ahead of {order[1]} {how}{chance}.'

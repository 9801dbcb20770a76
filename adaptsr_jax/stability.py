"""Tells how far the order of the sites depends on the batch that they are scored on.

  python -m adaptsr_jax.stability --config=configs/safmn.py --config.base=safmn.pth \
    --config.data.train.lr=LR --config.data.train.hr=HR --batches=50 --out=stability

The sites are scored on every batch anew (config.score.kind and config.score.normalise); stability.json holds Spearman's
rank correlations and all scores, stability.png shows how the positions scatter.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from etils import epy

from adaptsr_jax import command, files, log
from adaptsr_jax.errors import UserError

with epy.lazy_imports():
  import numpy as np
  from absl import flags
  from ml_collections import config_flags

  from adaptsr_jax import config as config_lib
  from adaptsr_jax import figures, ranks
  from adaptsr_jax.adapt import effects, prepare


def measure(
  loss_fn: Any,
  params: dict[str, Any],
  batches: Iterable[dict[str, Any]],
  sites: Sequence[Any],
  kind: str,
  normalise: str = 'none',
  form: str = '1x1_kxk',
) -> dict[str, Any]:
  """Returns the fields of `ranks.stability`, 'within' the kinds of sites too, and 'scores': site name -> one per batch.

  Args:
    loss_fn: (params, batch) -> scalar.
    params: the base.
    batches: at least two, equally large.
    sites: at least two, from `lora.find_sites`.
    kind: 'gradient', 'fisher' or 'activation', see `ranks.scores`.
    normalise: see `ranks.scores`; it changes the order, hence the result.
    form: the adapter form that normalise 'per_cost' asks for its costs.
  """
  with log.Work('Scoring'):
    table = ranks.score_table(kind, loss_fn, params, batches, sites, normalise, form)
  agreement = ranks.stability(table, [site.kind for site in sites])
  columns = {site.name: column.tolist() for site, column in zip(sites, table.T, strict=True)}
  return {'kind': kind, 'normalise': normalise, 'batches': len(table), **agreement, 'scores': columns}


def main() -> int:
  """Runs what sys.argv says; returns the exit code."""
  args, overrides = _parser().parse_known_args(command.arguments())
  return command.ended(
    lambda: _run(_read_config(args.config, overrides), args.batches, Path(args.out)), 'Stopped; nothing is written.'
  )


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m adaptsr_jax.stability',
    description=__doc__.split('\n')[0],
    epilog='Fields of the config are set as --config.name=value.',
    allow_abbrev=False,
  )
  parser.add_argument('--config', required=True, metavar='FILE', help='file with get_config(), or a name as safmn')
  parser.add_argument('--batches', type=int, default=50, metavar='N', help='training batches to score (default 50)')
  parser.add_argument('--out', required=True, metavar='DIR', help='folder for stability.json and stability.png')
  return parser


def _read_config(path: str, overrides: Sequence[str]) -> Any:
  """Returns the config of the file with `overrides`, which have to stand in sys.argv, where config_flags looks."""
  file = config_lib.find(path)
  values = flags.FlagValues()  # apart from absl's global flags, where other commands define theirs
  config_flags.DEFINE_config_file('config', flag_values=values)
  try:
    rest = values([sys.argv[0], f'--config={file}', *overrides])[1:]
    config_lib.check_made(values.config)
  except Exception as error:  # a config is a program, and can raise anything
    why = config_lib.reason(error, file, overrides)
    given = ' '.join(overrides) or 'The config'
    raise UserError(why if why.startswith(file) else f'{given} does not fit {path}: {why}') from error
  if rest:
    raise UserError(f'Unexpected argument {rest[0]!r}: fields are set as --config.name=value.')
  return values.config


def _run(config: Any, number: int, out: Path) -> None:
  files.check_folder(out)
  config_lib.validate(config)
  config = config_lib.with_homes(config)
  if number < 2:
    raise UserError(f'--batches is {number}, but a comparison needs at least 2.')
  if config.score.kind == 'random':
    raise UserError("config.score.kind is 'random', but random scores do not depend on the batch: choose another kind.")
  told = effects.idle(config, scoring=True)
  for part in set(config_lib.PARTS) - {'train'}:
    config.data[part] = config_lib.default().data[part]  # nothing is measured, so nobody need have them
  setup = prepare.prepare(config)
  if setup.train is None:
    raise UserError('config.data.train.hr is empty: give the folder of HR pictures that batches are drawn from.')
  print(prepare.describe(config, setup, told), flush=True)
  result = measure(
    prepare.loss_of(setup.model),
    setup.base.params,
    prepare.score_batches(config, setup, number),
    setup.sites,
    config.score.kind,
    config.score.normalise,
    config.lora.form,
  )
  out.mkdir(parents=True, exist_ok=True)
  files.write_json(out / 'stability.json', result)
  draw(out / 'stability.png', result, {site.name: site.kind for site in setup.sites})
  print(summary(result))
  print(f'Written to {out}: stability.json, stability.png')


def draw(path: Path, result: dict[str, Any], kinds: dict[str, str]) -> None:
  """Draws how the position of each site scatters over the batches."""
  table = np.array(list(result['scores'].values()))  # (sites, batches)
  positions = np.stack([ranks.average_ranks(scores) for scores in table.T], axis=1)
  samples = dict(zip(result['scores'], positions, strict=True))
  title = f'Spearman {result["mean_pairwise"]:.3f} over pairs of {result["batches"]} batches, {result["kind"]} scores'
  figures.spreads(path, samples, f'position ({len(table)}: highest score)', title, kinds)


def summary(result: dict[str, Any]) -> str:
  """Returns the result as lines of text, the headline first."""
  number = result['batches']
  lines = [
    f'Spearman correlation of {result["kind"]} scores (normalise {result["normalise"]}) over {number} batches:',
    f'  pairs of batches     {result["mean_pairwise"]:.4f} +- {result["std_pairwise"]:.4f}'
    f'  (mean of {number * (number - 1) // 2:,} pairs)',
    f'  batch against mean   {result["mean_against_average"]:.4f}, lowest {result["min_against_average"]:.4f}'
    '  (higher by construction: the batch is part of the mean)',
  ]
  for kind, within in result['within'].items():
    lines.append(f'  pairs, within {kind:6} {within["mean_pairwise"]:.4f} +- {within["std_pairwise"]:.4f}')
  return '\n'.join(lines)


if __name__ == '__main__':
  command.start(main)

"""What the sweeps of several experiments share: one arm is one run of the real command, done once."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adaptsr_jax import figures

# The default rates until 008 found better ones; what was run with them goes on with them.
FIRST = {'lora': {'optim.lr': 1e-3}, 'full': {'method': 'full', 'optim.lr': 2e-4}}


def adapted(workdir: Path, config: str, fields: Mapping[str, Any]) -> dict[str, Any]:
  """Returns results.json of the run in `workdir`; starts or continues the run where it is not done."""
  if not (workdir / 'results.json').exists():
    flags = [f'--config.{name}={value}' for name, value in fields.items()]
    command(['adaptsr_jax.main', f'--config={config}', f'--workdir={workdir}', *flags])
  return json.loads((workdir / 'results.json').read_text())


def command(arguments: Sequence[str]) -> None:
  """Runs `python -m` with `arguments` in a process of its own."""
  subprocess.run([sys.executable, '-m', *arguments], check=True)


def every_seventh(folder: Path, out: Path) -> Path:
  """Writes the names of the pictures of `folder` that validate, indices 0, 7, 14, ..., to the file `out`."""
  out.parent.mkdir(parents=True, exist_ok=True)
  out.write_text('\n'.join(sorted(path.stem for path in folder.iterdir())[::7]) + '\n')
  return out


def pairs(data: Path, runs: Path) -> dict[str, Any]:
  """Returns the fields of a run on the folders LR and HR of `data`, of which every seventh picture validates."""
  held_out = every_seventh(data / 'HR', runs / 'validation.txt')
  folders = {'lr': data / 'LR', 'hr': data / 'HR'}
  return {
    **{f'data.train.{name}': folder for name, folder in folders.items()},
    **{f'data.valid.{name}': folder for name, folder in folders.items()},
    'data.train.skip_names': held_out,
    'data.valid.names': held_out,
    'tensorboard': False,
  }


def measured(path: Path) -> list[dict]:
  """Returns the rows of a table, one JSON object a line, without those of failed runs; none where it was not run."""
  rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
  return [row for row in rows if 'failed' not in row]


def fill(readme: Path, **tables: str) -> None:
  """Puts each table into a page, between '<!-- NAME -->' and '<!-- end of NAME -->'."""
  text = readme.read_text()
  for name, table in tables.items():
    marks = rf'(?<=<!-- {name} -->\n).*(?=<!-- end of {name} -->)'
    text, filled = re.subn(marks, lambda _, table=table: f'\n{table}\n\n', text, flags=re.DOTALL)
    if table and not filled:
      raise ValueError(f'{readme} has no place for {name}')
  readme.write_text(text)


def draw_curves(path: Path, rows: Sequence[Mapping[str, Any]], baselines: Sequence[str]) -> None:
  """Draws the mean validation PSNR of every arm against steps; `baselines` are labels of means in the rows."""
  series = {}
  for arm in dict.fromkeys(row['arm'] for row in rows):
    curves = [np.array(row['curve']) for row in rows if row['arm'] == arm]
    series[arm] = (curves[0][:, 0], np.mean([curve[:, 1] for curve in curves], axis=0))
  levels = {label: rows[0][label]['psnr_y'] for label in baselines}
  figures.learning_curves(path, series, 'step', 'validation PSNR (Y) in dB', baselines=levels)


def folder_name(text: str) -> str:
  return ''.join(character if character.isalnum() else '_' for character in text)


def spread(values: Sequence[float], digits: int) -> str:
  """Returns mean ± standard deviation over seeds; a single value alone."""
  text = f'{np.mean(values):.{digits}f}'
  return f'{text} ± {np.std(values, ddof=1):.{digits}f}' if len(values) > 1 else text

"""What the sweeps of several experiments share: one arm is one run of the real command, done once."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


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


def folder_name(text: str) -> str:
  return ''.join(character if character.isalnum() else '_' for character in text)


def spread(values: Sequence[float], digits: int) -> str:
  """Returns mean ± standard deviation over seeds; a single value alone."""
  text = f'{np.mean(values):.{digits}f}'
  return f'{text} ± {np.std(values, ddof=1):.{digits}f}' if len(values) > 1 else text

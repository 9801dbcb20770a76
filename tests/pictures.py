"""Pictures that tests make, smooth shapes with edges, so that there is something to learn; small networks and runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from adaptsr_jax import base, bicubic, image, params_folder
from configs import tiny


def scene(seed: int, height: int = 48, width: int = 48) -> np.ndarray:
  """Returns a picture (height, width, 3), float32 in [0, 1]: waves and random rectangles."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[:height, :width] / 16
  waves = [np.sin(a * x + b * y + c) for a, b, c in rng.uniform(0.5, 3, (3, 3))]
  picture = 0.5 + 0.2 * np.stack(waves, -1)
  for _ in range(6):
    top, left = rng.integers(height), rng.integers(width)
    picture[top : top + rng.integers(4, 20), left : left + rng.integers(4, 20)] = rng.random(3)
  return np.clip(picture, 0, 1).astype(np.float32)


def write_pairs(folder: Path, number: int, scale: int = 2, size: int = 48) -> tuple[Path, Path]:
  """Writes `number` pairs to `folder`/LR and `folder`/HR; the LR pictures are darker, as a camera to adapt to."""
  lr, hr = folder / 'LR', folder / 'HR'
  lr.mkdir(parents=True)
  hr.mkdir()
  for i in range(number):
    picture = scene(i, size, size)
    image.write(hr / f'p{i:02d}.png', picture)
    image.write(lr / f'p{i:02d}.png', 0.8 * np.clip(bicubic.imresize(picture, 1 / scale), 0, 1))
  return lr, hr


def write_params(path: Path) -> Path:
  """Writes the params folder of a small random SAFMN x2 to `path`; returns it."""
  network = base.random('safmn_x2', 0, {'dim': 8, 'n_blocks': 1})
  params_folder.save_params(path, network.params, network.info())
  return path


def settings(folders: Sequence[Path | str], **fields: Any) -> ConfigDict:
  """Returns the config of a tiny run that trains and is measured on the pairs of the LR and HR `folders`."""
  c = tiny.get_config()
  for part in (c.data.train, c.data.valid):
    part.lr, part.hr = map(str, folders)
  c.update_from_flattened_dict(fields)
  return c

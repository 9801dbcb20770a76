"""Params folders with damaged files, read by `convert` and `upscale`."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from adaptsr_jax import base, convert, params_folder, upscale
from adaptsr_jax.convert import __main__ as command
from tests.fuzz import rule
from tests.fuzz.damage import Random, damage, misplaced, pick
from tests.pictures import write_pairs


def make(folder: Path) -> Callable[[Random, Path], str]:
  """Returns a trial: (random, empty folder) -> outcome; see `tests.fuzz.__main__`."""
  network, good = base.random('safmn_x2', 0, {'dim': 8, 'n_blocks': 1}), folder / 'good'
  params_folder.save_params(good, network.params, network.info())
  picture = write_pairs(folder / 'pictures', 1, size=32)[0] / 'p00.png'
  assert rule.run(command.main, [good, folder / 'whole.pth']).code == 0
  assert rule.run(upscale.main, [f'--params={good}', picture, folder / 'whole.png']).code == 0

  def trial(random: Random, place: Path) -> str:
    given = place / 'given'
    shutil.copytree(good, given)
    kinds = [_spoil(random, given) for _ in range(random.integers(1, 3))]
    before = rule.content(given) if not {'pipe', 'device'} & set(kinds) else {}
    if random.random() < 0.8:
      said = rule.run(command.main, [given, place / 'out.pth'])
      # Damage to model.json may make another network of it; what is in it is another matter.
      if said.code == 0:
        weights, whole = convert.read(place / 'out.pth'), convert.read(folder / 'whole.pth')
        assert weights.keys() == whole.keys(), said
        assert all(np.array_equal(weights[key], whole[key]) for key in whole), kinds
    else:
      said = rule.run(upscale.main, [f'--params={given}', picture, place / 'out.png'])
      assert said.code or (place / 'out.png').read_bytes() == (folder / 'whole.png').read_bytes(), kinds
    assert not said.code or len(list(place.iterdir())) == 1, said
    rule.check_whole(place)
    assert not before or rule.content(given) == before
    return f'{kinds[0]}, {("read", "", "refused")[said.code]}'

  return trial


def _spoil(random: Random, folder: Path) -> str:
  paths = [path for path in folder.rglob('*') if path.is_file() and not path.is_symlink()]
  files = sorted(paths, key=lambda path: (path.parent, path.stat().st_size))  # orbax's names are others each time
  if random.random() < 0.1 or not files:
    return misplaced(random, pick(random, [path for path in folder.rglob('*') if not path.is_symlink()] or [folder]))
  # Half of them in the one file that people write themselves.
  return damage(random, folder / 'model.json' if random.random() < 0.5 and folder / 'model.json' in files
                else pick(random, files))  # fmt: skip

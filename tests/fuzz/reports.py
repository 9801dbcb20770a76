"""Finished runs with damaged folders, through `report`."""

import shutil
from collections.abc import Callable
from pathlib import Path

from adaptsr_jax import adapt
from adaptsr_jax.report import __main__ as command
from configs import tiny
from tests.fuzz import rule
from tests.fuzz.damage import Random
from tests.fuzz.runs import spoil
from tests.pictures import write_pairs


def make(folder: Path) -> Callable[[Random, Path], str]:
  """Returns a trial: (random, empty folder) -> outcome; see `tests.fuzz.__main__`."""
  c, pictures = tiny.get_config(), write_pairs(folder / 'pictures', 3, size=32)
  c.steps, c.patch = 2, 16
  for part in (c.data.train, c.data.valid):
    part.lr, part.hr = map(str, pictures)
  assert rule.run(lambda: adapt.run(c, folder / 'run') and 0).code == 0

  def trial(random: Random, place: Path) -> str:
    workdir, out = place / 'run', place / 'out'
    shutil.copytree(folder / 'run', workdir)
    kinds = [spoil(random, workdir) for _ in range(random.integers(1, 3))]
    before = rule.content(workdir) if not {'pipe', 'device'} & set(kinds) else {}
    said = rule.run(command.main, [workdir, f'--out={out}', f'--pictures={random.integers(0, 2)}'])
    assert not before or rule.content(workdir) == before
    assert said.code or (out / 'report.html').read_text().rstrip().endswith('</html>')
    rule.check_whole(out)
    return f'{kinds[0]}, {("done", "", "refused")[said.code]}'

  return trial

"""Folders of runs that are damaged between two starts: the second ends with the bits of an undamaged run."""

import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from adaptsr_jax import adapt
from configs import tiny
from tests.fuzz import rule
from tests.fuzz.damage import Random, damage, misplaced, pick
from tests.pictures import write_pairs

_CONTENT = ('bicubic', 'base', 'adapted', 'best', 'trainable_parameters', 'total_parameters', 'adapter_parameters')
_JUNK = (
  *('checkpoints/5', 'checkpoints/\N{ARABIC-INDIC DIGIT FIVE}', 'checkpoints/03', 'checkpoints/x', 'checkpoints/-1'),
  *('checkpoints/4.orbax-checkpoint-tmp', 'checkpoints/4.orbax-checkpoint-tmp-1', 'checkpoints/99999999999999999999'),
  *('checkpoints/3/state/x', 'checkpoints/3/x', 'damaged', 'damaged/3', '.adaptsr-0.part', 'x.json', 'merged/x'),
)


def make(folder: Path) -> Callable[[Random, Path], str]:
  """Returns a trial: (random, empty folder) -> outcome; see `tests.fuzz.__main__`."""
  pictures = write_pairs(folder / 'pictures', 3, size=32)

  @functools.cache
  def made(name: str, steps: int) -> Path:
    workdir = folder / f'{name}_{steps}'
    said = rule.run(lambda: _run(pictures, name, workdir, steps))
    assert said.code == 0, said
    return workdir

  def trial(random: Random, place: Path) -> str:
    name, workdir = pick(random, _KINDS), place / 'run'
    finished = random.random() < 0.2
    shutil.copytree(made(name, 4 if finished else 3), workdir)
    kinds = [spoil(random, workdir) for _ in range(random.integers(1, 3))]
    before = os.listdir(workdir)
    said = rule.run(lambda: _run(pictures, name, workdir))
    if said.code:
      assert str(workdir) in said.err, (said.err, kinds)
      gone = [name for name in before if not os.path.lexists(workdir / name) and not name.startswith('.')]
      assert not gone, (said.err, kinds, gone)
    else:
      rule.check_whole(workdir)
      _check_same(workdir, made(name, 4), said, finished)
    return f'{name}, {kinds[0]}, {("done", "", "refused")[said.code]}'

  return trial


_KINDS = {
  'lora': {'tensorboard': True},
  'best': {'method': 'shira', 'export': 'best', 'eval_every': 1, 'save_every': 1},
  'plain': {'method': 'bitfit', 'optim.accumulate': 2, 'data.valid.lr': '', 'data.valid.hr': ''},
}


def _run(pictures: tuple[Path, Path], name: str, workdir: Path, steps: int = 4) -> None:
  c = tiny.get_config()
  c.steps, c.save_every, c.eval_every, c.log_every, c.patch = steps, 2, 4, 1, 16
  c.optim.schedule, c.lora.rule = 'constant', 'uniform'
  for part in (c.data.train, c.data.valid):
    part.lr, part.hr = map(str, pictures)
  c.update_from_flattened_dict(_KINDS[name])
  adapt.run(c, workdir)


def spoil(random: Random, workdir: Path) -> str:
  """Damages something in the folder of a run; returns what was done."""
  paths = [path for path in sorted(workdir.rglob('*')) if not path.is_symlink()]
  files = [path for path in paths if path.is_file()]
  how = random.random()
  if how < 0.5:
    top = [path for path in files if path.parent == workdir and path.suffix in ('.json', '.jsonl', '.safetensors')]
    return damage(random, pick(random, top or files))
  if how < 0.75:
    inner = [path for path in files if 'checkpoints' in path.parts]
    return damage(random, pick(random, inner or files))
  if how < 0.85:
    return misplaced(random, pick(random, paths))
  states = [path for path in (workdir / 'checkpoints').glob('*') if path.is_dir()]
  if how < 0.92 and states:
    state = pick(random, states)
    new = state.with_name(pick(random, ('1', '2', '4', '5', '30', 'x', '3.orbax-checkpoint-tmp')))
    if not os.path.lexists(new):
      state.rename(new)
    return 'renamed'
  junk = workdir / pick(random, _JUNK)
  if os.path.lexists(junk) or not junk.parent.is_dir():
    return 'nothing'
  junk.mkdir() if random.random() < 0.6 else junk.write_bytes(random.bytes(20))
  return 'junk'


def _check_same(workdir: Path, whole: Path, said: rule.Said, finished: bool) -> None:
  for name in ('merged.pth', 'adapter.safetensors', 'constants.safetensors'):
    if (whole / name).exists():
      assert (workdir / name).read_bytes() == (whole / name).read_bytes(), (name, said.out[:1000])
  ours, theirs = (json.loads((path / 'results.json').read_text()) for path in (workdir, whole))
  assert {key: ours[key] for key in _CONTENT} == {key: theirs[key] for key in _CONTENT}, said.out[:1000]
  # Rows of steps that were not done again may be damaged, and gone.
  if not finished:
    assert _losses(workdir)[4] == _losses(whole)[4], said.out[:1000]


def _losses(workdir: Path) -> dict[int, float]:
  rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  return {row['step']: row['loss'] for row in rows if 'loss' in row}

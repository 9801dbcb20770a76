"""Runs go on in damaged folders with the bits of an undamaged one, or end in one sentence; nothing is deleted."""

import json
import os
import shutil

import numpy as np
import pytest

from adaptsr_jax import adapt, base, command
from adaptsr_jax.adapt import store
from adaptsr_jax.errors import UserError
from tests.test_stopping import folders, short_run, whole  # noqa: F401


@pytest.fixture(scope='module')
def half(folders, tmp_path_factory):  # noqa: F811
  """A run of which 3 of 4 steps are done, with states of steps 2 and 3."""
  workdir = tmp_path_factory.mktemp('half') / 'run'
  c = short_run(folders)
  c.steps = 3
  adapt.run(c, workdir)
  return workdir


def text(content):
  return lambda path: path.write_text(content)


def change(function):
  def damage(path):
    content = json.loads(path.read_text())
    function(content)
    path.write_text(json.dumps(content))

  return damage


def append(data):
  return lambda path: path.write_bytes(path.read_bytes() + data)


def flip(path):
  """Changes a bit of the largest file below."""
  file = max((inner for inner in path.rglob('*') if inner.is_file()), key=lambda inner: inner.stat().st_size)
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)


def empty(path):
  for inner in path.rglob('*'):
    if inner.is_file():
      inner.write_bytes(b'')


FOREIGN = {'list': '[]', 'null': 'null', 'number': '3', 'empty': '', 'deep': '[' * 100_000, 'text': '"a"', 'NaN': 'NaN'}
NAMES = ('config', 'material', 'method', 'ranks', 'base', 'bicubic', 'results', 'config')  # 8, so that kinds change
DAMAGE = {
  **{f'{NAMES[place % len(NAMES)]} {word}': (f'{NAMES[place % len(NAMES)]}.json', text(content))
     for place, (word, content) in enumerate([*FOREIGN.items()] * 3)},
  'rank as text': ('ranks.json', change(lambda content: content['ranks'].update(dict.fromkeys(content['ranks'], '2')))),
  'rank of the plan as text': ('method.json', change(lambda content: content['sites'][0].update(rank='2'))),
  'scale of the plan': ('method.json', change(lambda content: content.update(alpha=2 * content['alpha']))),
  'mean of the base': ('base.json', change(lambda content: content['mean'].update(psnr_y=99.0))),
  'value of the notes': ('checkpoints/3/notes/metadata', change(lambda content: content.update(seconds=1e9))),
  'place in the data': ('checkpoints/3/data', lambda path: empty(path)),
  'a pipe': ('checkpoints/3/notes/metadata', lambda path: (path.unlink(), os.mkfifo(path))),
  'a pipe as config': ('config.json', lambda path: (path.unlink(), os.mkfifo(path))),
  'half a state as a file': ('checkpoints', lambda path: (path / '4.orbax-checkpoint-tmp-1').write_text('4')),
  'no sites': ('method.json', change(lambda content: content.pop('sites'))),
  'mean as text': ('base.json', change(lambda content: content['mean'].update(psnr_y='30'))),
  'level as text': ('base.json', change(lambda content: content.update(levels={'p00': 'bright'}))),
  'no protocol': ('bicubic.json', change(lambda content: content.pop('protocol'))),
  'metrics not UTF-8': ('metrics.jsonl', append(b'\xff\xfe')),
  'metrics number': ('metrics.jsonl', append(b'3\n[]\n{"loss": 1}\n{"step": "a"}\n{"step": 1, "loss": {}}\n')),
  'state emptied': ('checkpoints/3', empty),
  'state changed': ('checkpoints/3', flip),
  'state gone': ('checkpoints/3/state', shutil.rmtree),
  'notes list': ('checkpoints/3/notes/metadata', text('[]')),
  'notes text': ('checkpoints/3/notes/metadata', change(lambda content: content.update(seconds='a'))),
  'older state emptied': ('checkpoints/2', empty),
  'state of another step': ('checkpoints/3', lambda path: path.rename(path.with_name('4'))),
  'both states emptied': ('checkpoints', empty),
  'odd digit': ('checkpoints/3', lambda path: shutil.copytree(path, path.with_name('\N{SUPERSCRIPT TWO}'))),
  'foreign digit': ('checkpoints/3', lambda path: shutil.copytree(path, path.with_name('\N{ARABIC-INDIC DIGIT FIVE}'))),
  'a file as state': ('checkpoints', lambda path: (path / '7').write_text('7')),
}  # fmt: skip


@pytest.mark.parametrize('name', DAMAGE)
def test_damaged_folders_go_on_with_the_same_bits_or_are_refused_in_a_sentence(
  folders, whole, half, tmp_path, capsys, name  # noqa: F811
):  # fmt: skip
  workdir = tmp_path / 'run'
  shutil.copytree(half, workdir)
  path, damage = DAMAGE[name]
  damage(workdir / path)
  before = {inner.relative_to(workdir): inner.stat().st_size for inner in workdir.rglob('*') if inner.is_file()}
  code = command.ended(lambda: adapt.run(short_run(folders), workdir) and 0)
  said = capsys.readouterr()
  if code:
    assert code == 2
    assert said.err.startswith('Error: ')
    assert said.err.count('\n') == 1
    assert str(workdir) in said.err
    # What cannot be made again is refused for these alone.
    assert path in ('config.json', 'material.json')
    assert all((workdir / inner).exists() for inner in before)
  else:
    assert (workdir / 'merged.pth').read_bytes() == (whole / 'merged.pth').read_bytes()
    rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    losses = {row['step']: row['loss'] for row in rows if 'loss' in row}
    assert sorted(losses) == [1, 2, 3, 4]


def test_what_is_set_aside_is_told_and_kept(folders, half, tmp_path, capsys):  # noqa: F811
  workdir = tmp_path / 'run'
  shutil.copytree(half, workdir)
  empty(workdir / 'checkpoints/3')
  adapt.run(short_run(folders), workdir)
  said = capsys.readouterr().out
  assert 'The state of step 3 is damaged' in said
  assert 'the run goes on from step 2' in said
  assert 'Continuing from step 2.' in said
  assert (workdir / 'damaged' / '3').is_dir()


@pytest.mark.parametrize('damage', [None, 'best', 'latest'])
def test_the_best_state_outlives_starts_and_damage(folders, tmp_path, damage):  # noqa: F811
  def settings(steps):
    c = short_run(folders)
    c.steps, c.export = steps, 'best'
    c.optim.lr, c.optim.ema, c.optim.clip = 3.0, 0.0, 0.0  # far too fast: the first step is the best
    c.save_every = c.eval_every = 1
    return c

  whole, workdir = tmp_path / 'whole', tmp_path / 'run'  # noqa: F811
  best = adapt.run(settings(4), whole)['best']
  assert best['step'] < 3
  adapt.run(settings(3), workdir)
  if damage:
    flip(workdir / 'checkpoints' / str(best['step'] if damage == 'best' else 3))
  assert adapt.run(settings(4), workdir)['best'] == best
  assert (workdir / 'merged.pth').read_bytes() == (whole / 'merged.pth').read_bytes()


def test_a_flipped_number_of_a_params_folder_is_noticed(half, tmp_path):
  folder = tmp_path / 'merged'
  shutil.copytree(half / 'merged', folder)
  (folder / 'params' / 'pipe').symlink_to('/dev/zero')  # libraries would read it for ever
  with pytest.raises(UserError, match='neither a file nor a folder'):
    base.load(folder)
  (folder / 'params' / 'pipe').unlink()
  flip(folder / 'params')
  with pytest.raises(UserError, match='cannot be read as parameters'):
    base.load(folder)


MODELS = [
  *FOREIGN.values(),
  '{"model": 1, "fields": {}}',
  '{"model": "safmn", "fields": []}',
  '{"model": "safmn", "fields": {"dim": "8"}}',
  '{"model": "safmn", "fields": {"dim": [8]}}',
  '{"model": "safmn", "fields": {"dim": -8, "n_blocks": 1}}',
  '{"model": "safmn", "fields": {"dim": 8, "n_blocks": 1000000000000}}',
  '{"model": ["safmn"], "fields": {}, "source": 3}',
  '{"model": "safmn", "fields": {"dim": 8, "n_blocks": 1, "upscale": 2}, "assumed": 3, "source": "x"}',
]


@pytest.mark.parametrize('content', MODELS, ids=lambda content: content[:60])
def test_model_json_of_other_forms_is_one_sentence(half, tmp_path, content):
  folder = tmp_path / 'merged'
  shutil.copytree(half / 'merged', folder)
  (folder / 'model.json').write_text(content)
  with pytest.raises(UserError, match=r'merged'):
    base.load(folder).model()


def test_states_have_names_of_ascii_digits(tmp_path):
  for name in ('3', '\N{SUPERSCRIPT TWO}', '\N{ARABIC-INDIC DIGIT FIVE}', '07', '9.tmp'):
    (tmp_path / name).mkdir()
  (tmp_path / '8').write_text('a file')
  assert store.latest_step(tmp_path) == 3
  assert np.isscalar(store.latest_step(tmp_path / 'absent'))


def test_a_run_whose_base_and_pictures_moved_goes_on(folders, whole, half, tmp_path):  # noqa: F811
  first, moved = short_run(folders), tmp_path / 'moved'
  first.base = str(half / 'merged')
  first.steps = 3
  adapt.run(first, tmp_path / 'run')
  shutil.copytree(half / 'merged', moved / 'merged')
  for side, path in zip(('lr', 'hr'), folders, strict=True):
    shutil.copytree(path, moved / side)
  second = short_run((moved / 'lr', moved / 'hr'))
  second.base = str(moved / 'merged')
  assert adapt.run(second, tmp_path / 'run')['steps'] == 4
  other = short_run(folders)
  other.base = str(whole / 'merged')
  with pytest.raises(UserError, match='base'):
    adapt.run(other, tmp_path / 'run')

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from adaptsr_jax import lora, ranks, stability

CONFIG = str(Path(__file__).parents[1] / 'configs' / 'tiny.py')
SITES = (
  lora.Site('fc1', ('fc1',), 'mlp', (4, 5), None),
  lora.Site('fc2', ('fc2',), 'mlp', (5, 3), None),
  lora.Site('attn', ('attn',), 'attn', (3, 3), None),
)


def loss_fn(params, batch):
  x = batch['x']
  for name in ('fc1', 'fc2', 'attn'):
    x = jnp.tanh(x @ params[name]['kernel'])
  return jnp.mean(jnp.abs(x))


@pytest.fixture(scope='module')
def problem():
  rng = np.random.default_rng(0)
  params = {site.name: {'kernel': rng.normal(size=site.shape).astype(np.float32)} for site in SITES}
  return params, [{'x': rng.normal(size=(6, 4)).astype(np.float32)} for _ in range(5)]


@pytest.mark.parametrize('kind', ['gradient', 'fisher'])
def test_measure_scores_every_batch_on_its_own(problem, kind):
  params, batches = problem
  found = stability.measure(loss_fn, params, iter(batches), SITES, kind)
  table = np.array([found['scores'][site.name] for site in SITES]).T
  for row, batch in zip(table, batches, strict=True):
    alone = ranks.scores(kind, loss_fn, params, [batch], SITES, jax.random.key(0))
    np.testing.assert_allclose(row, list(alone.values()), rtol=1e-5)
  assert found['batches'] == 5
  assert found['mean_pairwise'] == ranks.stability(table)['mean_pairwise']
  assert set(found['within']) == {'mlp'}  # one attention site alone has no order
  json.dumps(found)


def test_measure_orders_by_normalised_scores(problem):
  params, batches = problem
  plain = stability.measure(loss_fn, params, batches, SITES, 'gradient')
  rms = stability.measure(loss_fn, params, batches, SITES, 'gradient', 'sqrt_size')
  for site in SITES:
    expected = np.array(plain['scores'][site.name]) / np.sqrt(np.prod(site.shape))
    np.testing.assert_allclose(rms['scores'][site.name], expected)


@pytest.fixture
def pictures(tmp_path):
  folder = tmp_path / 'hr'
  folder.mkdir()
  rng = np.random.default_rng(0)
  for i in range(3):
    Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(folder / f'{i}.png')
  return folder


@pytest.fixture
def command(monkeypatch):
  def run(*arguments):
    monkeypatch.setattr(sys, 'argv', ['stability', *map(str, arguments)])
    return stability.main()

  return run


def test_command_writes_json_and_figure_and_prints_the_headline(tmp_path, pictures, command, capsys):
  out = tmp_path / 'new' / 'stability'
  model = ['--config.model=edsr_baseline_x2', '--config.fields=num_feat=4,num_block=1']
  code = command(f'--config={CONFIG}', *model, f'--config.data.train.hr={pictures}', '--batches=3', f'--out={out}')
  printed = capsys.readouterr().out
  assert code == 0
  result = json.loads((out / 'stability.json').read_text())
  assert -1 <= result['mean_pairwise'] <= result['mean_against_average'] <= 1
  assert {len(scores) for scores in result['scores'].values()} == {3}
  assert 'body_0/conv2' in result['scores']
  assert f'{result["mean_pairwise"]:.4f}' in printed
  assert '(mean of 3 pairs)' in printed
  assert sorted(file.name for file in out.iterdir()) == ['stability.json', 'stability.png']
  with Image.open(out / 'stability.png') as figure:
    assert min(figure.size) > 300


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--batches=1'], '--batches is 1'),
    (['--config.data.train.hr='], 'config.data.train.hr is empty'),
    (['--config.score.kind=random'], "config.score.kind is 'random'"),
    (['--config.score.colour=red'], 'config.score.colour=red does not fit'),
    (['--config.steps=many'], 'config.steps=many does not fit'),
    (['--config.data.train.hr.lr=LR'], 'no field data.train.hr.lr: data.train.hr is no section of the config'),
    (['--config.steps.most=2'], 'no field steps.most: steps is no section of the config'),
    (['--config.lorra.rank=2'], 'no field lorra.rank; did you mean lora?'),
    (['--config.data.train.hrr', 'HR'], 'no field data.train.hrr; did you mean data.train.hr?'),
    (['--noconfig.xyz'], 'no field xyz\n'),
    (['surplus'], "Unexpected argument 'surplus'"),
  ],
)
def test_command_names_what_is_wrong(tmp_path, pictures, command, capsys, flags, message):
  given = [f'--config={CONFIG}', f'--config.data.train.hr={pictures}', f'--out={tmp_path / "out"}', '--batches=2']
  assert command(*given, *flags) == 2
  error = capsys.readouterr().err
  assert message in error
  assert error.startswith('Error: ')
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
  ('line', 'given', 'message'),
  [
    ('1 / 0', '', 'line 2: ZeroDivisionError'),
    ('return int("x")', '', 'line 2: ValueError: invalid literal'),
    ('return None', '', 'gives no ConfigDict'),
    ('return None', '--config.steps=2', 'gives no ConfigDict'),
    ('return None', ':small', 'takes 0 positional arguments but 1 was given'),
  ],
)
def test_a_config_that_fails_is_named(tmp_path, command, capsys, line, given, message):
  file = tmp_path / 'failing.py'
  file.write_text(f'def get_config():\n  {line}\n')
  flags = [f'--config={file}{given}'] if given.startswith(':') else [f'--config={file}', *given.split()]
  assert command(*flags, f'--out={tmp_path}') == 2
  error = capsys.readouterr().err
  assert message in error
  assert str(file) in error


def test_fields_of_training_are_told_and_other_pictures_are_not_asked_for(tmp_path, pictures, command, capsys):
  flags = ['--config.optim.lr=1.0', '--config.lora.form=loralib', f'--config.data.valid.hr={tmp_path / "absent"}']
  flags += ['--config.score.batches=4', '--config.sites.kinds=("conv",)', '--config.score.kind=fisher']
  given = [f'--config={CONFIG}', f'--config.data.train.hr={pictures}', f'--out={tmp_path / "out"}', '--batches=2']
  assert command(*given, *flags) == 0
  told = next(line for line in capsys.readouterr().out.splitlines() if line.startswith('Without effect'))
  for field in ('optim.lr', 'steps', 'score.batches', 'data.valid.hr', 'lora.rank', 'lora.form'):
    assert f'config.{field}' in told
  for field in ('patch', 'sites', 'score.kind', 'data.train', 'base', 'model'):
    assert f'config.{field}' not in told


def test_missing_config_file_is_named(tmp_path, command, capsys):
  assert command(f'--config={tmp_path / "absent.py"}', f'--out={tmp_path}') == 2
  assert 'absent.py' in capsys.readouterr().err

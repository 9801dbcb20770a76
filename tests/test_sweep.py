"""Sweeps: a grid of runs in one process, told in one table and one page, gone on with where it stopped."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaptsr_jax import base as base_lib
from adaptsr_jax import config as config_lib
from adaptsr_jax import lora, methods
from adaptsr_jax.adapt import losses, optim, step, sweep, whole
from adaptsr_jax.errors import UserError
from adaptsr_jax.report.__main__ import main as report
from tests import pictures
from tests.pictures import write_pairs
from tests.shared import GOLDEN

WEIGHTS = GOLDEN / 'safmn_x2' / 'weights.safetensors'


def settings(folders=('LR', 'HR'), **fields):
  small = {'base': str(WEIGHTS), 'fields': '', 'steps': 2, 'lora.rule': 'uniform', 'tensorboard': False}
  return pictures.settings(folders, **{**small, **fields})


def test_the_grid_is_all_combinations_in_the_types_of_the_fields():
  found = sweep.arms('lora.rank=4,8  --config.optim.lr=1e-3,1', settings())
  assert [arm.name for arm in found] == [f'lora.rank={r}_optim.lr={rate}' for r in (4, 8) for rate in ('1e-3', '1')]
  assert [(arm.config.lora.rank, arm.config.optim.lr) for arm in found] == [(4, 1e-3), (4, 1.0), (8, 1e-3), (8, 1.0)]
  kinds = sweep.arms('sites.kinds=conv,conv+mlp lora.rslora=False method=lora,full', settings())
  assert [(arm.config.sites.kinds, arm.config.method) for arm in kinds[1:3]] == [
    (('conv',), 'full'),
    (('conv', 'mlp'), 'lora'),
  ]
  assert kinds[0].config.lora.rslora is False
  (odd,) = sweep.arms('data.valid.names=../x/y.txt', settings())
  assert odd.name == 'data.valid.names=..-x-y.txt'


@pytest.mark.parametrize(
  ('text', 'sentence'),
  [
    ('', 'is empty'),
    ('lora.rank', 'write each field once'),
    ('lora.rank=4,', 'write each field once'),
    ('lora.rank=4 lora.rank=8', 'write each field once'),
    ('lora.ranks=4', 'no field of a run'),
    ('lora.rank=many', 'not of the type'),
    ('lora.rank=1.5', 'not of the type'),
    ('tensorboard=3', 'not of the type'),
    ('lora.rank=-4', 'config.lora.rank is -4'),
    ('method=nothing', 'config.method'),
  ],
)
def test_grids_that_cannot_be_are_refused_before_the_first_run(text, sentence):
  with pytest.raises(UserError, match=sentence):
    sweep.arms(text, settings())


def test_a_sweep_needs_something_to_compare_by():
  with pytest.raises(UserError, match=r'config\.data\.valid\.hr'):
    sweep.arms('lora.rank=4', settings(**{'data.valid.lr': '', 'data.valid.hr': ''}))


@pytest.fixture(scope='module')
def done(tmp_path_factory):
  """Returns (arms, workdir, folders, failures) of a sweep, one run of which cannot come to its end."""
  folder = tmp_path_factory.mktemp('sweep')
  found = sweep.arms('optim.lr=1e-3,1e-2,1e38', settings(write_pairs(folder, 5)))
  return found, folder / 'runs', *sweep.run(found, folder / 'runs', 'the call')


def test_a_sweep_tells_which_is_best_and_what_failed(done, capsys):
  found, workdir, folders, failures = done
  told = json.loads((workdir / 'sweep.json').read_text())
  assert list(failures) == ['optim.lr=1e38'] == list(told['failures'])
  assert [folder.name for folder in folders] == list(told['runs'])
  means = [told['runs'][folder.name]['adapted']['mean']['psnr_y'] for folder in folders]
  assert means == sorted(means, reverse=True)
  for folder in folders:
    results = json.loads((folder / 'results.json').read_text())
    assert results['adapted'] == told['runs'][folder.name]['adapted']
    assert (folder / 'adapter.safetensors').is_file()
  page = (workdir / 'sweep.md').read_text()
  assert f'Best by psnr_y: {folders[0].name}, ahead of {folders[1].name} by +' in page
  assert 'optim.lr=1e38 failed: ' in page
  assert '95 % interval' in page


def test_the_base_is_measured_once(done):
  _, _, folders, _ = done
  assert len({(folder / 'base.json').read_bytes() for folder in folders}) == 1


def test_what_is_done_is_not_done_again_and_what_is_not_is(done, tmp_path, monkeypatch):
  found, workdir, folders, _ = done
  again = shutil.copytree(workdir, tmp_path / 'runs')
  (again / 'optim.lr=1e-2' / 'results.json').unlink()
  started = []
  monkeypatch.setattr(whole, 'run', lambda config, folder, call: started.append(folder) or json.loads(
    (workdir / folder.name / 'results.json').read_text()
  ))  # fmt: skip
  order, _ = sweep.run(found[:2], again)
  assert started == [again / 'optim.lr=1e-2']
  assert [folder.name for folder in order] == [folder.name for folder in folders]
  other = sweep.arms('optim.lr=1e-3', settings(**{'steps': 3}))
  assert sweep._finished(sweep.Folder(again / other[0].name), other[0].config) is None


def test_one_page_shows_all_of_them(done, tmp_path):
  *_, folders, _ = done
  assert report([*map(str, folders), f'--out={tmp_path / "report"}', '--pictures=0']) == 0
  page = (tmp_path / 'report' / 'report.html').read_text()
  assert all(name in page for name in ('1e-3', '0.01')) or all(folder.name in page for folder in folders)


def test_all_failing_is_an_error(tmp_path):
  with pytest.raises(UserError, match='nothing'):
    sweep.run(sweep.arms('lora.rank=4,8', settings(('nothing/LR', 'nothing/HR'))), tmp_path / 'runs')


def program(**fields):
  """Returns the text of the training step's program."""
  c = config_lib.default()
  c.update_from_flattened_dict({'steps': 100, **fields})
  base = base_lib.load(WEIGHTS)
  model = base.model()
  sites = lora.find_sites(model)[:4]
  method = methods.make(c, sites, {site.name: 2 for site in sites})
  frozen, trainable = methods.restore(method, base.params, {}, jax.random.key(c.seed))
  state = step.plain(c, model.apply, method, frozen, trainable, losses.make(c)).state
  batch = {'lr': jnp.full((1, 8, 8, 3), 0.5), 'hr': jnp.full((1, 16, 16, 3), 0.6)}
  tx, _ = optim.make(c, method.labels)
  arrays = {'weights': losses.make(c).weights}
  made = step.make_step(model.apply, method, tx, losses.make(c), c.optim.ema, arrays, jnp.float32(optim.set_rate(c)))
  return made.func.lower(state, frozen, batch, **made.keywords).as_text()


def test_other_rates_and_seeds_are_the_same_program():
  text = program()
  assert program(**{'optim.lr': 0.01, 'seed': 3}) == text
  assert program(**{'optim.b1': 0.5}) != text


def test_the_rate_as_an_argument_is_the_rate():
  c = config_lib.default()
  c.update_from_flattened_dict({'steps': 10, 'optim.lr': 0.03, 'optim.warmup': 2})
  tx, rate = optim.make(c, lambda tree: jax.tree.map(lambda _: 'train', tree))
  leaves, gradient = {'a': jnp.ones(3)}, {'a': jnp.array([1.0, -2.0, 3.0])}
  states, given = [tx.init(leaves)] * 2, ({}, {'peak': jnp.float32(0.03)})
  for number in range(8):
    outcomes = [tx.update(gradient, state, leaves, **rates) for state, rates in zip(states, given, strict=True)]
    (one, other), states = zip(*outcomes, strict=True)
    np.testing.assert_allclose(one['a'], other['a'], rtol=1e-6)
    np.testing.assert_allclose(np.abs(one['a']), rate(number), rtol=1e-4)

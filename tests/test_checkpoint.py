import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adaptsr_jax import files, params_folder
from adaptsr_jax.adapt.store import RunStore, latest_step
from adaptsr_jax.errors import UserError

PARAMS = {'conv': {'kernel': np.arange(12, dtype=np.float32).reshape(3, 4), 'bias': np.zeros(4, np.float16)}}
INFO = {'model': 'edsr', 'fields': {'upscale': 2}}


def test_params_folder_round_trip(tmp_path):
  params_folder.save_params(tmp_path / 'merged', PARAMS, INFO)
  params, info = params_folder.load_params(tmp_path / 'merged')
  jax.tree.map(np.testing.assert_array_equal, params, PARAMS)
  assert params['conv']['bias'].dtype == np.float16
  assert info == INFO
  assert params_folder.is_params_folder(tmp_path / 'merged')
  assert [p.name for p in tmp_path.iterdir()] == ['merged']


def test_saving_again_replaces_and_leaves_nothing_behind(tmp_path):
  params_folder.save_params(tmp_path / 'merged', PARAMS, INFO)
  params_folder.save_params(tmp_path / 'merged', jax.tree.map(lambda x: x + 1, PARAMS), INFO)
  params, _ = params_folder.load_params(tmp_path / 'merged')
  np.testing.assert_array_equal(params['conv']['bias'], 1)
  assert [p.name for p in tmp_path.iterdir()] == ['merged']


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
  (tmp_path / 'photos').mkdir()
  (tmp_path / 'photos' / 'a.txt').write_text('mine')
  with pytest.raises(UserError, match='no params folder'):
    params_folder.save_params(tmp_path / 'photos', PARAMS, INFO)
  assert (tmp_path / 'photos' / 'a.txt').read_text() == 'mine'


def test_what_is_no_params_folder_is_named(tmp_path):
  with pytest.raises(UserError, match=r'is not a params folder'):
    params_folder.load_params(tmp_path)


@pytest.mark.parametrize('content', ['{', '[]', '{"fields": {}}'])
def test_damaged_description_is_named(tmp_path, content):
  params_folder.save_params(tmp_path / 'merged', PARAMS, INFO)
  (tmp_path / 'merged' / 'model.json').write_text(content)
  with pytest.raises(UserError, match=r'model\.json'):
    params_folder.load_params(tmp_path / 'merged')


def test_damaged_arrays_are_named(tmp_path):
  params_folder.save_params(tmp_path / 'merged', PARAMS, INFO)
  for file in (tmp_path / 'merged' / 'params').rglob('*'):
    if file.is_file():
      file.write_bytes(b'')
  with pytest.raises(UserError, match='cannot be read as parameters'):
    params_folder.load_params(tmp_path / 'merged')


def test_write_json_leaves_the_old_file_on_failure(tmp_path):
  files.write_json(tmp_path / 'a.json', {'a': 1})
  with pytest.raises(TypeError):
    files.write_json(tmp_path / 'a.json', {'a': object()})
  assert json.loads((tmp_path / 'a.json').read_text()) == {'a': 1}
  assert [p.name for p in tmp_path.iterdir()] == ['a.json']


def state(value):
  trainable = {'a': jnp.full(3, float(value))}
  return {'trainable': trainable, 'opt_state': optax.adam(1e-3).init(trainable), 'key': jax.random.key(value)}


def test_store_keeps_the_latest_and_the_best(tmp_path):
  store = RunStore(tmp_path / 'checkpoints', 'psnr_y')
  for step, psnr in ((1, 30.0), (2, 33.0), (3, 32.0), (4, 31.0)):
    store.save(step, state(step), None, {'psnr_y': psnr})
  # A save without a measurement is the latest, and does not push out the best.
  store.save(5, state(5), None, {'seconds': 1.5})
  store.close()
  store = RunStore(tmp_path / 'checkpoints', 'psnr_y')
  assert latest_step(tmp_path / 'checkpoints') == 5
  assert sorted(int(p.name) for p in (tmp_path / 'checkpoints').iterdir() if p.name.isdigit()) == [2, 4, 5]
  restored, notes = store.restore(5, state(0))
  assert notes == {'seconds': 1.5}
  np.testing.assert_array_equal(restored['trainable']['a'], 5)
  assert restored['key'] == jax.random.key(5)
  assert type(restored['opt_state']) is type(state(0)['opt_state'])
  best, _ = store.restore(2, state(0))
  np.testing.assert_array_equal(best['trainable']['a'], 2)


def test_the_best_is_kept_by_the_next_process_too(tmp_path):
  for step, psnr in ((1, 33.0), (2, 32.0), (3, 31.0), (4, 30.0)):
    store = RunStore(tmp_path / 'checkpoints', 'psnr_y')
    store.save(step, state(step), None, {'psnr_y': psnr})
    store.close()
  assert sorted(path.name for path in (tmp_path / 'checkpoints').iterdir()) == ['1', '3', '4']


def test_a_best_state_that_is_gone_is_no_best(tmp_path):
  store = RunStore(tmp_path / 'checkpoints', 'psnr_y')
  for step, psnr in ((1, 33.0), (2, 32.0), (3, 31.0)):
    store.save(step, state(step), None, {'psnr_y': psnr, 'best': {'step': 1, 'psnr_y': 33.0}})
  store.close()
  (tmp_path / 'checkpoints' / '1' / '_CHECKPOINT_METADATA').write_bytes(b'')
  store = RunStore(tmp_path / 'checkpoints', 'psnr_y')
  _, notes = store.restore(3, state(0))
  assert notes['best'] is None


def test_a_state_of_another_shape_is_refused(tmp_path):
  store = RunStore(tmp_path / 'checkpoints', 'psnr_y')
  store.save(1, state(1), None, {})
  other = {**state(0), 'trainable': {'a': jnp.zeros(4), 'b': jnp.zeros(1)}}
  with pytest.raises(UserError, match='does not fit this run'):
    store.restore(1, other)

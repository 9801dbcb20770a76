import jax
import numpy as np
import pytest

from adaptsr_jax import base, convert, params_folder
from adaptsr_jax.errors import UserError
from tests.shared import shared

FIELDS = {'num_feat': 8, 'num_block': 2}


@pytest.fixture
def edsr():
  return base.random('edsr_baseline_x2', 0, FIELDS)


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_random_follows_the_seed(edsr):
  same(edsr.params, base.random('edsr_baseline_x2', 0, FIELDS).params)
  other = base.random('edsr_baseline_x2', 1, FIELDS).params
  assert not np.array_equal(other['conv_first']['kernel'], edsr.params['conv_first']['kernel'])


@pytest.mark.parametrize('name', ['merged', 'a.pth', 'a.safetensors'])
def test_every_kind_of_file_comes_back(edsr, tmp_path, name):
  if base.is_file(name):
    base.export(tmp_path / name, edsr, edsr.params)
  else:
    params_folder.save_params(tmp_path / name, edsr.params, edsr.info())
  loaded = base.load(tmp_path / name)
  same(loaded.params, edsr.params)
  assert {leaf.dtype for leaf in jax.tree.leaves(loaded.params)} == {np.dtype(np.float32)}
  assert loaded.model() == base.load(tmp_path / name).model()


def test_given_fields_win_and_are_no_assumption(edsr, tmp_path):
  base.export(tmp_path / 'a.pth', edsr, edsr.params)
  assumed = base.load(tmp_path / 'a.pth')
  given = base.load(tmp_path / 'a.pth', {'res_scale': 0.1})
  assert 'res_scale' in assumed.assumed
  assert given.fields['res_scale'] == 0.1
  assert 'res_scale' not in given.assumed
  assert given.model().res_scale == 0.1


def test_fields_that_do_not_fit_are_one_sentence(edsr, tmp_path):
  base.export(tmp_path / 'a.pth', edsr, edsr.params)
  with pytest.raises(UserError, match=r'a\.pth does not fit edsr') as error:
    base.load(tmp_path / 'a.pth', {'num_feat': 16})
  assert '\n' not in str(error.value)
  with pytest.raises(UserError, match='no_such_field'):
    base.load(tmp_path / 'a.pth', {'no_such_field': 16})


def test_foreign_weights_name_the_file(tmp_path):
  convert.write(tmp_path / 'other.safetensors', {'fc.weight': np.zeros((3, 3), np.float32)})
  with pytest.raises(UserError, match=r'other\.safetensors'):
    base.load(tmp_path / 'other.safetensors')


def test_half_precision_is_read_as_float32_and_written_as_it_was(edsr, tmp_path):
  base.export(tmp_path / 'half.pth', edsr, edsr.params, 'float16')
  loaded = base.load(tmp_path / 'half.pth')
  assert loaded.params['conv_first']['kernel'].dtype == np.float32
  base.export(tmp_path / 'again.pth', loaded, loaded.params)
  first, second = convert.read(tmp_path / 'half.pth'), convert.read(tmp_path / 'again.pth')
  assert all(second[key].dtype == np.float16 for key in first)
  same(first, second)


def test_weights_that_half_precision_cannot_hold_are_not_written(edsr, tmp_path):
  large = jax.tree.map(lambda leaf: leaf + 1e5, edsr.params)
  with pytest.raises(UserError, match='float16 cannot hold'):
    base.export(tmp_path / 'half.pth', edsr, large, 'float16')
  assert not (tmp_path / 'half.pth').exists()


@pytest.mark.parametrize(
  ('file', 'name', 'parameters'),
  [('safmn_x2_official.pth', 'safmn', 227_820), ('safmn_ntire2023_x4.pth', 'safmn_ntire2023', 237_000)],
)
def test_published_files(file, name, parameters, tmp_path):
  loaded = base.load(shared('weights', file))
  assert loaded.name == name
  assert sum(leaf.size for leaf in jax.tree.leaves(loaded.params)) == parameters
  base.export(tmp_path / 'back.pth', loaded, loaded.params)
  original, back = convert.read(shared('weights', file)), convert.read(tmp_path / 'back.pth')
  # Files come out in the order of the authors' code; that of SAFMN x2 has been through another format.
  assert list(original) == list(back) if name == 'safmn_ntire2023' else sorted(original) == sorted(back)
  same(original, back)

"""The forecast by the number of pairs: where it is told, and where a run is of another kind than those measured."""

import pytest

from adaptsr_jax.adapt import prepare
from adaptsr_jax.adapt.forecast import sentence
from configs import tiny
from tests.pictures import write_pairs


def told(folder, pairs, scale=4, backbone='edsr', **fields):
  lr, hr = write_pairs(folder, pairs, scale=scale)
  c = tiny.get_config()
  c.base, c.steps, c.data.train.lr, c.data.train.hr = 'bundled:edsr_x4', 200, str(lr), str(hr)
  c.update_from_flattened_dict(fields)
  return sentence(c, prepare.open_pictures(c, 'train', scale), backbone)


def test_the_nearest_number_of_pairs_is_told_as_a_forecast(tmp_path):
  text = told(tmp_path, 8)
  assert text.startswith('Forecast, from other cameras: with 10 pairs')
  assert 'gained -0.2 to +0.4 dB, and 4 of 14 lost more than 0.1 (200 steps of adapters' in text


def test_full_fine_tuning_has_its_own(tmp_path):
  text = told(tmp_path, 3, method='full')
  assert 'with 3 pairs' in text
  assert '+0.1 to +0.6 dB, and 3 of 14' in text


def test_safmn_has_its_own(tmp_path):
  assert '(300 steps of adapters of SAFMN of NTIRE' in told(tmp_path, 40, backbone='safmn')


@pytest.mark.parametrize(
  'fields',
  [
    {'method': 'bitfit'},
    {'steps': 0},
    {'steps': 5000},
    {'base': 'random'},
    {'data.train.lr': ''},
    {'loss.adversarial': 0.1},
  ],
  ids=str,
)
def test_runs_of_another_kind_have_none(tmp_path, fields):
  assert told(tmp_path, 4, **fields) == ''


def test_other_factors_and_too_few_pairs_have_none(tmp_path):
  assert told(tmp_path / 'x2', 4, scale=2) == ''
  assert told(tmp_path / 'two', 2) == ''

"""Runs whose pictures come from a simulated camera and a mixture, by the real entry point."""

import jax
import numpy as np
import pytest

from adaptsr_jax import adapt, metrics, params_folder
from adaptsr_jax.errors import UserError
from adaptsr_jax.evaluate import asked
from configs import tiny
from tests.pictures import write_pairs


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  return write_pairs(tmp_path_factory.mktemp('pictures'), 4)


def settings(folders, **fields):
  lr, hr = map(str, folders)
  c = tiny.get_config()
  c.optim.schedule = 'constant'  # more steps change nothing that was before
  c.data.train.mix = f'hr="{hr}" degrade=stablesr weight=1; lr="{lr}" hr="{hr}" weight=1'
  c.data.valid.lr, c.data.valid.hr = lr, hr
  c.update_from_flattened_dict(fields)
  return c


def test_a_mixture_with_a_camera_trains_and_continues_to_the_bit(folders, tmp_path, capsys):
  whole = adapt.run(settings(folders, steps=4), tmp_path / 'whole')
  said = capsys.readouterr().out
  assert 'stablesr 1 : ' in said
  adapt.run(settings(folders, steps=2), tmp_path / 'halves')
  halves = adapt.run(settings(folders, steps=4), tmp_path / 'halves')
  params = [params_folder.load_params(tmp_path / name / 'merged')[0] for name in ('whole', 'halves')]
  jax.tree.map(np.testing.assert_array_equal, *params)
  assert whole['adapted']['images'] == halves['adapted']['images']
  with pytest.raises(UserError, match='holds a run with'):
    adapt.run(settings(folders, **{'steps': 5, 'data.degrade.gray1_prob': 0.9}), tmp_path / 'halves')


@pytest.mark.parametrize(
  ('fields', 'said'),
  [
    ({'data.train.mix': '', 'data.train.hr': 'HR', 'data.usm': True}, r'config\.data\.usm is set, but no'),
    (
      {'data.train.mix': '', 'data.train.hr': 'HR', 'data.degrade.gray1_prob': 0.1},
      r'config\.data\.degrade\.gray1_prob is set, but no',
    ),
    ({'data.degrade.gray1_prob': 2.0}, r'config\.data\.degrade\.gray1_prob is 2\.0; a probability'),
    ({'data.train.hr': 'HR'}, r'config\.data\.train\.hr and config\.data\.train\.mix are both given'),
  ],
)
def test_settings_that_cannot_work_are_named(folders, tmp_path, fields, said):
  fields = {name: str(folders[1]) if value == 'HR' else value for name, value in fields.items()}
  with pytest.raises(UserError, match=said):
    adapt.run(settings(folders, **fields), tmp_path / 'run')
  assert not (tmp_path / 'run' / 'config.json').exists()


def test_base_is_measured_again_once_a_metric_has_its_weights(folders, tmp_path, monkeypatch):
  """The weights of a metric may be found between two starts; a table with gaps would compare nothing."""
  c = settings(folders, steps=0, metrics=('niqe',), metric_weights=str(tmp_path))
  assert 'niqe' not in adapt.run(c, tmp_path / 'run')['base']['mean']
  found = asked.Measures(
    (metrics.quality, lambda output, hr, crop: {'niqe': 2.0}), {}, {**metrics.PROTOCOL, 'niqe': 'x'}
  )
  monkeypatch.setattr(asked, 'load', lambda names, folder: found)
  again = adapt.run(c, tmp_path / 'run')
  assert again['base']['mean']['niqe'] == again['bicubic']['mean']['niqe'] == 2

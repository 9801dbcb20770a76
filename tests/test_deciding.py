"""Pictures that decide: the best state, the end of a run, and the strength that is recommended."""

import pytest

from adaptsr_jax import adapt, api, image, log
from adaptsr_jax import base as base_lib
from adaptsr_jax.adapters import __main__ as adapters_command
from adaptsr_jax.errors import UserError
from adaptsr_jax.evaluate import __main__ as evaluate_command
from configs import tiny
from tests.pictures import write_pairs


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  return write_pairs(tmp_path_factory.mktemp('pictures'), 4)


@pytest.fixture(scope='module')
def elsewhere(tmp_path_factory):
  """Pairs of a camera that needs the opposite change: its LR pictures are brighter."""
  folder = tmp_path_factory.mktemp('elsewhere')
  lr, hr = write_pairs(folder, 2)
  for path in hr.iterdir():
    image.write(path, image.to_float(image.read_array(path)) * 0.7)
  return lr, hr


def settings(folders, decide=None, **fields):
  c = tiny.get_config()
  for part, given in (('train', folders), ('valid', folders), ('decide', decide)):
    if given:
      c.data[part].lr, c.data[part].hr = map(str, given)
  c.update_from_flattened_dict(fields)
  return c


def curve(workdir):
  return {row['step']: row['valid/psnr_y'] for row in log.read_metrics(workdir) if 'valid/psnr_y' in row}


def test_pictures_of_their_own_decide_what_is_best(folders, elsewhere, tmp_path, capsys):
  results = adapt.run(settings(folders, elsewhere, export='best', eval_every=5), tmp_path / 'run')
  measured = curve(tmp_path / 'run')
  assert list(measured) == [5, 10, 15, 20]
  best = max(measured, key=measured.get)
  assert results['best'] == {'step': best, 'psnr_y': measured[best]}
  assert best < 20  # what suits one camera does not suit the other
  # What is reported is measured on `valid`, and of the network that is exported.
  assert set(results['adapted']['images']) == {'p00', 'p01', 'p02', 'p03'}
  out = tmp_path / 'measured.json'
  where = [f'--{side}={folder}' for side, folder in zip(('lr', 'hr'), folders, strict=True)]
  assert evaluate_command.main([f'--params={tmp_path}/run/merged', *where, f'--out={out}']) == 0
  assert f'{results["adapted"]["mean"]["psnr_y"]:.3f}' in capsys.readouterr().out
  assert results['strengths']['1'] == measured[best]


def test_a_run_stops_when_nothing_becomes_better_and_stays_so(folders, elsewhere, tmp_path, capsys):
  fields = {'patience': 2, 'eval_every': 2, 'steps': 40, 'optim.schedule': 'constant'}
  results = adapt.run(settings(folders, elsewhere, **fields), tmp_path / 'run')
  measured = curve(tmp_path / 'run')
  best = max(measured, key=measured.get)
  assert results['steps'] == max(measured) == best + 4 < 40
  assert f'Stopped at step {best + 4}: no better than at step {best} for 2 measurements.' in capsys.readouterr().out
  again = adapt.run(settings(folders, elsewhere, **fields), tmp_path / 'run')
  assert again['steps'] == results['steps']
  assert again['adapted'] == results['adapted']
  # More patience makes it longer.
  longer = adapt.run(settings(folders, elsewhere, **{**fields, 'patience': 4}), tmp_path / 'run')
  assert longer['steps'] > results['steps']


def test_strengths_are_those_of_merged_networks(folders, elsewhere, tmp_path, capsys):
  results = adapt.run(settings(folders, elsewhere, strengths=(0.5,)), tmp_path / 'run')
  assert list(results['strengths']) == ['0', '0.5', '1']
  best = max(results['strengths'], key=results['strengths'].get)
  assert best != '1'
  assert f'Strength {best} is better than all of it' in capsys.readouterr().out
  base, weaker = (str(tmp_path / f'{name}.safetensors') for name in ('base', 'weaker'))
  random = base_lib.random('safmn_x2', 0, {'dim': 8, 'n_blocks': 1})
  base_lib.save(base, random, random.params)
  call = ['merge', base, f'{tmp_path}/run/adapter.safetensors', weaker, '--strength', '0.5']
  assert adapters_command.main(call) == 0
  networks = api.load(base), api.load(weaker), api.load(f'{tmp_path}/run/merged')
  measured = api.evaluate(dict(zip(('0', '0.5', '1'), networks, strict=True)), api.find_pairs(*elsewhere))
  for strength, value in results['strengths'].items():
    assert measured[strength]['mean']['psnr_y'] == pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize(
  ('fields', 'said'),
  [
    ({'patience': 2, 'data.valid.lr': '', 'data.valid.hr': ''}, 'config.patience is 2, which needs validation'),
    ({'patience': -1}, 'config.patience is -1; it must be at least 0'),
    ({'strengths': (0.5, 1.5)}, 'config.strengths has 1.5'),
    ({'data.decide.hr': 'x', 'data.valid.lr': '', 'data.valid.hr': ''}, 'config.data.decide is given, but nothing'),
    ({'data.decide.hr': 'nowhere'}, 'config.data.decide: hr: nowhere'),
  ],
  ids=str,
)
def test_what_cannot_decide_is_refused(folders, tmp_path, fields, said):
  with pytest.raises(UserError, match=said):
    adapt.run(settings(folders, **fields), tmp_path / 'run')

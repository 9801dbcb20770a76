"""The command that measures, on generated and on published material."""

import json

import numpy as np
import pytest

from adaptsr_jax import base, bicubic, checkpoint, evaluate, image
from tests.pictures import write_pairs
from tests.shared import shared


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  return write_pairs(tmp_path_factory.mktemp('pictures'), 3)


@pytest.fixture(scope='module')
def params(tmp_path_factory):
  network = base.random('safmn_x2', 0, {'dim': 8, 'n_blocks': 1})
  path = tmp_path_factory.mktemp('params') / 'merged'
  checkpoint.save_params(path, network.params, network.info())
  return path


def run(*args):
  return evaluate.main([str(arg) for arg in args])


def test_params_folder(folders, params, tmp_path, capsys):
  lr, hr = folders
  out = tmp_path / 'results.json'
  assert run(f'--params={params}', f'--lr={lr}', f'--hr={hr}', f'--out={out}') == 0
  results = json.loads(out.read_text())
  assert set(results) == {'mean', 'images', 'protocol'}
  assert set(results['images']) == {'p00', 'p01', 'p02'}
  for key, mean in results['mean'].items():
    assert mean == pytest.approx(np.mean([row[key] for row in results['images'].values()]))
  assert results['protocol']['crop'] == 2
  assert 'Mean of 3 pictures' in capsys.readouterr().out


def test_several_runs_side_by_side(folders, params, tmp_path):
  lr, hr = folders
  out = tmp_path / 'results.json'
  assert run(f'--params={params}', '--params=bicubic', f'--lr={lr}', f'--hr={hr}', f'--out={out}') == 0
  runs = json.loads(out.read_text())['runs']
  assert list(runs) == [str(params), 'bicubic']
  assert runs['bicubic']['mean']['psnr_y'] > runs[str(params)]['mean']['psnr_y']


def test_finished_outputs_score_as_the_method_that_made_them(folders, tmp_path):
  lr, hr = folders
  outputs = tmp_path / 'outputs'
  outputs.mkdir()
  for file in lr.iterdir():
    image.write(outputs / file.name, bicubic.imresize(image.read(file).rgb, 2))
  run('--params=bicubic', f'--lr={lr}', f'--hr={hr}', f'--out={tmp_path}/a.json')
  assert run(f'--outputs={outputs}', f'--lr={lr}', f'--hr={hr}', f'--out={tmp_path}/b.json') == 0
  assert run(f'--outputs={outputs}', f'--hr={hr}', '--scale=2', f'--out={tmp_path}/c.json') == 0
  a, b, c = (json.loads((tmp_path / f'{name}.json').read_text()) for name in 'abc')
  assert a['images'] == b['images'] == c['images']


def test_without_lr_it_is_made_from_hr(folders, params, tmp_path):
  assert run(f'--params={params}', f'--hr={folders[1]}', f'--out={tmp_path}/a.json') == 0
  assert json.loads((tmp_path / 'a.json').read_text())['protocol']['lr'] == 'MATLAB bicubic of HR'


@pytest.mark.parametrize(
  ('args', 'said'),
  [
    ([], '--params'),
    (['--params=bicubic', '--outputs=x'], '--params'),
    (['--params=nowhere.pth'], 'nowhere.pth'),
    (['--params=bicubic', '--lr=nowhere'], 'nowhere'),
    (['--outputs=nowhere', '--scale=2'], 'nowhere'),
    (['--params=bicubic'], '--scale'),
  ],
  ids=str,
)
def test_bad_input_is_one_sentence_exit_2_and_no_file(folders, tmp_path, capsys, args, said):
  assert run(f'--hr={folders[1]}', f'--out={tmp_path}/a.json', *args) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert said in error
  assert not list(tmp_path.iterdir())


def measured(tmp_path, *args):
  assert run(*args, f'--out={tmp_path}/a.json') == 0
  return json.loads((tmp_path / 'a.json').read_text())['mean']['psnr_y']


def test_published_safmn_x2_on_set5(tmp_path):
  set5 = shared('data', 'set5')
  psnr = measured(
    tmp_path, f'--params={shared("weights", "safmn_x2_official.pth")}', f'--lr={set5}/LR_bicubic_X2', f'--hr={set5}/HR'
  )
  assert psnr == pytest.approx(38.00, abs=0.005)


@pytest.mark.parametrize(('params', 'expected'), [('weights/safmn_ntire2023_x4.pth', 30.631), ('bicubic', 30.567)])
def test_real_pairs(tmp_path, params, expected):
  pairs = shared('data', 'drealsr_x4')
  spec = params if params == 'bicubic' else shared(*params.split('/'))
  assert measured(tmp_path, f'--params={spec}', f'--lr={pairs}/LR', f'--hr={pairs}/HR') == pytest.approx(
    expected, abs=0.005
  )

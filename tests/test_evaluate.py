"""The command that measures, on generated and on published material."""

import csv
import json
import shutil

import numpy as np
import pytest

from adaptsr_jax import bicubic, image
from adaptsr_jax.evaluate import __main__ as evaluate
from tests.pictures import write_pairs, write_params
from tests.shared import shared


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  return write_pairs(tmp_path_factory.mktemp('pictures'), 3)


@pytest.fixture(scope='module')
def params(tmp_path_factory):
  return write_params(tmp_path_factory.mktemp('params') / 'merged')


def run(*args):
  return evaluate.main([str(arg) for arg in args])


def test_params_folder(folders, params, tmp_path, capsys):
  lr, hr = folders
  out = tmp_path / 'results.json'
  assert run(f'--params={params}', f'--lr={lr}', f'--hr={hr}', f'--out={out}') == 0
  results = json.loads(out.read_text())
  assert set(results) == {'mean', 'interval', 'images', 'levels', 'protocol'}
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
  mean, low, high = runs['bicubic']['difference']['psnr_y']
  assert mean == pytest.approx(runs['bicubic']['mean']['psnr_y'] - runs[str(params)]['mean']['psnr_y'])
  assert 0 < low < mean < high
  assert 'difference' not in runs[str(params)]


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
  assert a['protocol']['picture_set'] == b['protocol']['picture_set']


def test_what_is_saved_scores_the_same_beside_what_made_it(folders, params, tmp_path, capsys):
  lr, hr = folders
  pictures = [f'--lr={lr}', f'--hr={hr}']
  assert run('--params=cubic=bicubic', f'--params=net={params}', *pictures, f'--save={tmp_path}/saved') == 0
  assert sorted(path.name for path in (tmp_path / 'saved').iterdir()) == ['cubic', 'net']
  for file in (tmp_path / 'saved' / 'net').iterdir():
    file.rename(file.with_name(f'{file.stem}_SwinIR.png'))
  outs = [f'--out={tmp_path}/a.{ending}' for ending in ('json', 'csv', 'md')]
  capsys.readouterr()
  others = ['--params=bicubic', f'--outputs=kept={tmp_path}/saved/net']
  assert run(f'--params=net={params}', *others, *pictures, *outs) == 0

  runs = json.loads((tmp_path / 'a.json').read_text())['runs']
  assert list(runs) == ['net', 'bicubic', 'kept']
  assert runs['kept']['images'] == runs['net']['images']
  assert runs['kept']['difference']['psnr_y'] == [0, 0, 0]

  rows = list(csv.DictReader((tmp_path / 'a.csv').open()))
  assert len(rows) == 9
  assert float(rows[4]['ssim_y']) == runs['bicubic']['images'][rows[4]['picture']]['ssim_y']

  page = (tmp_path / 'a.md').read_text()
  assert page.startswith('| run | psnr_y | ssim_y | psnr_rgb | ssim_rgb |\n')
  assert f'| bicubic | {runs["bicubic"]["mean"]["psnr_y"]:.3f} |' in page
  said = capsys.readouterr().out
  low, high = runs['bicubic']['difference']['psnr_y'][1:]
  assert f'[{low:+.3f}, {high:+.3f}]' in said
  assert f'[{low:+.3f}, {high:+.3f}]' in page


def test_16_bit_is_saved_in_16_bit_and_scores_the_same(tmp_path):
  lr, hr = write_pairs(tmp_path, 1)
  for folder in (lr, hr):
    path = folder / 'p00.png'
    image.write(path, np.clip(image.to_levels(image.read_array(path), np.dtype(np.uint16)), 9, 60000) + 7)
  pairs = [f'--lr={lr}', f'--hr={hr}']
  saved, results = tmp_path / 'saved', (tmp_path / 'a.json', tmp_path / 'b.json')
  assert evaluate.main(['--params=bicubic', *pairs, f'--save={saved}', f'--out={results[0]}']) == 0
  assert image.read_array(saved / 'p00.png').dtype == np.uint16
  assert evaluate.main([f'--outputs={saved}', *pairs, f'--out={results[1]}']) == 0
  first, second = (json.loads(path.read_text())['images'] for path in results)
  assert first == second


def test_protocol_is_spelled_out(folders, params, tmp_path):
  lr, hr = folders
  run(f'--params={params}', f'--lr={lr}', f'--hr={hr}', '--tile=48', '--ensemble', f'--out={tmp_path}/a.json')
  protocol = json.loads((tmp_path / 'a.json').read_text())['protocol']
  assert protocol['crop'] == 2
  assert protocol['lr'] == 'as given'
  assert protocol['pictures'] == 3
  assert protocol['picture_set'].startswith('Source(3 pairs, x2, ')
  assert protocol['model'].startswith('safmn')
  assert (protocol['tile'], protocol['ensemble']) == ('48, overlap 16', True)
  assert 'BT.601' in protocol['y']
  assert '10,000 resamples' in protocol['interval']


def test_identical_pictures_are_null_in_json_and_told(folders, tmp_path, capsys):
  _, hr = folders
  outputs = tmp_path / 'outputs'
  outputs.mkdir()
  for i in range(3):
    picture = image.read_array(hr / f'p0{i}.png')
    image.write(outputs / f'p0{i}.png', picture if i == 0 else picture // 2)
  assert run(f'--outputs={outputs}', f'--hr={hr}', '--scale=2', f'--out={tmp_path}/a.json') == 0
  result = json.loads((tmp_path / 'a.json').read_text(), parse_constant=pytest.fail)
  assert result['images']['p00']['psnr_y'] is None
  assert result['mean']['psnr_y'] == pytest.approx(np.mean([result['images'][f'p0{i}']['psnr_y'] for i in (1, 2)]))
  assert 'psnr_y of 1 picture, psnr_rgb of 1 picture: infinite' in result['protocol']['left_out']
  assert 'left_out' in capsys.readouterr().out


def test_a_metric_without_weights_is_left_out(folders, tmp_path, capsys):
  lr, hr = folders
  (tmp_path / 'weights').mkdir()
  command = [f'--lr={lr}', f'--hr={hr}', f'--metric_weights={tmp_path}/weights', f'--out={tmp_path}/a.json']
  assert run('--params=bicubic', '--metrics=psnr,dists', *command) == 0
  assert set(json.loads((tmp_path / 'a.json').read_text())['mean']) == {'psnr_y', 'psnr_rgb'}
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert 'dists' in error


def test_an_output_cut_short_is_named(folders, tmp_path, capsys):
  lr, hr = folders
  outputs = tmp_path / 'outputs'
  shutil.copytree(hr, outputs)
  file = outputs / 'p01.png'
  file.write_bytes(file.read_bytes()[:-200])
  assert run(f'--outputs={outputs}', f'--lr={lr}', f'--hr={hr}', f'--out={tmp_path}/a.json') == 2
  assert f'{file} cannot be read' in capsys.readouterr().err
  assert not (tmp_path / 'a.json').exists()


def test_a_tile_that_cannot_be_is_told_before_any_measuring(folders, params, capsys):
  assert run('--params=bicubic', f'--params={params}', f'--hr={folders[1]}', '--tile=16') == 2
  said = capsys.readouterr()
  assert '--tile=48' in said.err
  assert not said.out


def test_runs_of_two_scales_are_refused(folders, params, tmp_path, capsys):
  assert run(f'--params={params}', f'--hr={folders[1]}', '--scale=4') == 2
  assert f'{params} x2, --scale x4' in capsys.readouterr().err


def test_given_pictures_are_not_overwritten(folders, tmp_path, capsys):
  lr, hr = folders
  before = (hr / 'p00.png').read_bytes()
  assert run('--params=bicubic', f'--lr={lr}', f'--hr={hr}', f'--save={hr}') == 2
  assert str(hr) in capsys.readouterr().err
  assert (hr / 'p00.png').read_bytes() == before


def test_without_lr_it_is_made_from_hr(folders, params, tmp_path):
  assert run(f'--params={params}', f'--hr={folders[1]}', f'--out={tmp_path}/a.json') == 0
  assert json.loads((tmp_path / 'a.json').read_text())['protocol']['lr'] == 'MATLAB bicubic of HR'


@pytest.mark.parametrize(
  ('args', 'said'),
  [
    ([], '--params'),
    (['--params=bicubic', '--outputs=x', '--scale=2'], 'x cannot be listed'),
    (['--params=a=bicubic', '--params=a=base.pth', '--scale=2'], 'called a'),
    (['--params=bicubic', '--scale=2', '--out=a.xlsx'], 'a.xlsx'),
    (['--params=bicubic', '--scale=2', '--metrics=psnr,beauty'], 'beauty'),
    (['--params=nowhere.pth'], 'nowhere.pth'),
    (['--params=bicubic', '--lr=nowhere'], 'nowhere'),
    (['--outputs=nowhere', '--scale=2'], 'nowhere'),
    (['--params=bicubic'], '--scale'),
    (['--params=bicubic', '--scale=-2'], '--scale is -2'),
    (['--params=bicubic', '--scale=0'], '--scale is 0'),
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


@pytest.mark.parametrize(
  ('params', 'psnr', 'lpips'), [('weights/safmn_ntire2023_x4.pth', 30.631, 0.4324), ('bicubic_pil', 30.567, 0.4608)]
)
def test_real_pairs(tmp_path, params, psnr, lpips):
  pairs, weights = shared('data', 'drealsr_x4'), shared('weights')
  spec = params if params == 'bicubic_pil' else shared(*params.split('/'))
  out = tmp_path / 'results.json'
  options = ['--metrics=psnr,lpips_alex', f'--metric_weights={weights}', f'--out={out}']
  assert run(f'--params={spec}', f'--lr={pairs}/LR', f'--hr={pairs}/HR', *options) == 0
  mean = json.loads(out.read_text())['mean']
  assert mean['psnr_y'] == pytest.approx(psnr, abs=0.005)
  assert mean['lpips_alex'] == pytest.approx(lpips, abs=0.001)

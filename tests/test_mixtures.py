"""Mixtures of adapters without a file of their own: enlarging, evaluating, and the sweep from one to the other."""

import json

import numpy as np
import pytest

from adaptsr_jax import files, image, params_folder, upscale
from adaptsr_jax.adapters.__main__ import main as adapters
from adaptsr_jax.evaluate import __main__ as evaluate
from tests.shared import shared
from tests.test_adapter_file import FIELDS, make, random_params, save


@pytest.fixture
def folder(tmp_path):
  """A base, two adapters of it, their mixture 0.75 : 0.25 as a file and folded in, and two pictures."""
  import jax

  params = jax.tree.map(lambda leaf: 0.1 * leaf, random_params())
  params_folder.save_params(tmp_path / 'base', params, {'model': 'edsr', 'fields': FIELDS})
  for seed, name in enumerate('ab'):
    adapter = make(params, seed=seed)
    small = {key: 0.1 * leaf for key, leaf in adapter.tensors.items()}
    save(tmp_path / f'{name}.safetensors', adapter._replace(tensors=small))
  files = [str(tmp_path / f'{name}.safetensors') for name in 'ab']
  mixed = str(tmp_path / 'mixed.safetensors')
  assert adapters(['mix', *files, mixed, '--weights', '0.75,0.25', '--base', str(tmp_path / 'base')]) == 0
  assert adapters(['merge', str(tmp_path / 'base'), mixed, str(tmp_path / 'folded')]) == 0
  rng = np.random.default_rng(0)
  (tmp_path / 'hr').mkdir()
  for name in ('one', 'two'):
    image.write(tmp_path / 'hr' / f'{name}.png', rng.integers(0, 256, (36, 40, 3), dtype=np.uint8))
  return tmp_path


def two(folder):
  return [f'--adapter={folder}/a.safetensors:0.75', f'--adapter={folder}/b.safetensors:0.25']


def test_enlarging_with_two_adapters_is_enlarging_with_their_mixture(folder):
  picture = str(folder / 'hr' / 'one.png')
  assert upscale.main([f'--params={folder}/base', *two(folder), picture, str(folder / 'x.png')]) == 0
  assert upscale.main([f'--params={folder}/folded', picture, str(folder / 'y.png')]) == 0
  assert upscale.main([f'--params={folder}/base', picture, str(folder / 'z.png')]) == 0
  x, y, z = (image.read_array(folder / f'{name}.png') for name in 'xyz')
  np.testing.assert_array_equal(x, y)
  assert (x != z).any()


def test_evaluating_with_adapters(folder, capsys):
  out = folder / 'out.json'
  runs = [f'--params={folder}/base', f'--params=mixed={folder}/base', *two(folder), f'--params={folder}/folded']
  assert evaluate.main([*runs, f'--hr={folder}/hr', f'--out={out}']) == 0
  found = json.loads(out.read_text())['runs']
  assert list(found) == [f'{folder}/base', 'mixed', f'{folder}/folded']
  assert found['mixed']['images'] == found[f'{folder}/folded']['images']
  assert found['mixed']['images'] != found[f'{folder}/base']['images']
  assert 'a.safetensors:0.75' in found['mixed']['protocol']['adapters']
  capsys.readouterr()
  assert evaluate.main([f'--params={folder}/base', *two(folder), f'--hr={folder}/hr']) == 0
  assert 'base + a.safetensors:0.75 + b.safetensors:0.25' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('before', 'adapter', 'message'),
  [
    ('bicubic', 'a.safetensors', 'does not follow the --params of a network'),
    ('base', 'a.safetensors:inf', 'has the weight inf'),
    ('base', 'c.safetensors:0.5', 'c.safetensors is not a file'),
  ],
)
def test_adapters_that_cannot_be_used(folder, capsys, before, adapter, message):
  params = folder / before if before == 'base' else before
  assert evaluate.main([f'--params={params}', f'--adapter={folder}/{adapter}', '--scale=2', f'--hr={folder}/hr']) == 2
  assert message in capsys.readouterr().err


def test_a_sweep_goes_from_one_adapter_to_the_other_and_goes_on_where_it_stopped(folder, capsys):
  given = [f'{folder}/base', f'{folder}/a.safetensors', f'{folder}/b.safetensors']
  command = ['sweep', *given, '--hr', f'{folder}/hr', '--metrics', 'psnr', '--points', '5', '--out', f'{folder}/sweep']
  assert adapters(command) == 0
  swept = json.loads((folder / 'sweep' / 'sweep.json').read_text())['runs']
  assert list(swept) == ['1 : 0', '0.75 : 0.25', '0.5 : 0.5', '0.25 : 0.75', '0 : 1']
  assert (
    evaluate.main([f'--params={folder}/folded', f'--hr={folder}/hr', f'--out={folder}/one.json', '--metrics=psnr']) == 0
  )
  assert swept['0.75 : 0.25']['images'] == json.loads((folder / 'one.json').read_text())['images']
  assert {path.name for path in (folder / 'sweep').iterdir()} == {'sweep.json', 'sweep.md', 'strip.png'}
  # What is measured is not measured again: a mark put into the record stays.
  swept['0.5 : 0.5']['mean']['psnr_y'] = 99.0
  swept['0 : 1']['protocol']['fingerprint'] = 'of another network'
  files.write_json(folder / 'sweep' / 'sweep.json', {'runs': swept})
  capsys.readouterr()
  assert adapters(command) == 0
  said = capsys.readouterr().out
  assert said.count('psnr_y ') == 2  # the point that was another network's, and the head of the table
  again = json.loads((folder / 'sweep' / 'sweep.json').read_text())['runs']
  assert again['0.5 : 0.5']['mean']['psnr_y'] == 99.0
  assert again['0 : 1']['protocol']['fingerprint'] != 'of another network'


def test_a_sweep_of_strengths_draws_psnr_against_lpips(folder):
  command = ['sweep', f'{folder}/base', f'{folder}/a.safetensors', '--hr', f'{folder}/hr', '--points', '3']
  command += ['--metrics', 'psnr,lpips_alex', '--metric_weights', str(shared('weights'))]
  assert adapters([*command, '--out', f'{folder}/sweep']) == 0
  swept = json.loads((folder / 'sweep' / 'sweep.json').read_text())['runs']
  assert list(swept) == ['0', '0.5', '1']
  assert len({run['mean']['lpips_alex'] for run in swept.values()}) == 3
  assert (folder / 'sweep' / 'sweep.png').exists()

"""The library: what docs/python.md and the notebook promise, and that it does what the commands do."""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import adaptsr_jax as sr
from adaptsr_jax import image, upscale
from adaptsr_jax.adapters.__main__ import main as adapters
from tests.pictures import scene, write_pairs

BASE = 'bundled:safmn_x4'
# A run of seconds, whatever the page says.
SHORT = "steps=2, batch_size=2, patch=32, score={'batches': 1}"
DOCS = Path(__file__).parents[1] / 'docs'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Returns a folder with photo.png, and four pairs in camera/."""
  folder = tmp_path_factory.mktemp('api')
  write_pairs(folder / 'camera', 4, scale=4, size=64)
  image.write(folder / 'photo.png', scene(9, 24, 32))
  return folder


@pytest.fixture(scope='module')
def net():
  return sr.load(BASE)


@pytest.fixture(scope='module')
def page(folder):
  """Returns what the blocks of the page leave behind, run one after the other."""
  (folder / 'adapter_of_another_base.safetensors').write_bytes(b'none')
  blocks = re.findall(r'```python\n(.*?)```', (DOCS / 'python.md').read_text(), re.DOTALL)
  assert len(blocks) > 8
  names = {}
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    for block in blocks:
      exec(compile(block.replace('steps=300', SHORT), 'docs/python.md', 'exec'), names)
  return names


def test_the_page_runs_from_top_to_bottom(page, folder):
  assert page['large'].dtype == np.uint8
  assert page['gain'] == page['adapted'].results['adapted']['difference']['psnr_y'][0]
  assert list(page['runs']) == ['bicubic', 'base', 'adapted']
  assert {path.name for path in folder.iterdir()} >= {'large.png', 'camera.safetensors', 'merged.pth', 'runs'}


def test_the_notebook_runs_from_top_to_bottom(folder, tmp_path, monkeypatch):
  """With small pictures and one step in place of those that its first cell names."""
  cells = json.loads((DOCS / 'adapt.ipynb').read_text())['cells']
  first, *rest = (''.join(cell['source']) for cell in cells if cell['cell_type'] == 'code')
  assert first.splitlines()[0] == 'import adaptsr_jax as sr'
  places = {kind: str(folder / 'camera' / kind.upper()) for kind in ('lr', 'hr')}
  names = {}
  exec(first, names)
  # As the page trains, so that what was compiled there serves.
  names |= {
    'STEPS': 2,
    'PATCH': 32,
    'TRAIN': places | {'skip_names': 'p00,p01'},
    'HELD_OUT': places | {'names': 'p00,p01'},
  }
  monkeypatch.chdir(tmp_path)
  for cell in rest:
    exec(cell, names)
  assert list(names['runs']) == ['bicubic', 'base', '0.5', '1']
  assert names['runs']['1']['images'] == names['adapted'].results['adapted']['images']
  merged = sr.load('merged.pth')
  np.testing.assert_array_equal(merged.enlarge(names['small']), names['large'])


def test_what_it_measures_is_what_the_run_measured(page):
  results = page['adapted'].results
  for label in ('bicubic', 'base', 'adapted'):
    assert page['runs'][label]['images'] == results[label]['images']
  assert page['runs']['adapted']['difference'].keys() == {'psnr_y', 'ssim_y', 'psnr_rgb', 'ssim_rgb'}


def test_a_folded_adapter_is_what_the_command_merges(page, folder):
  out = folder / 'by_command.pth'
  words = ['merge', BASE, str(folder / 'camera.safetensors'), str(out), '--strength', '0.7']
  assert adapters(words) == 0
  assert out.read_bytes() == (folder / 'merged.pth').read_bytes()
  assert repr(page['soft']) == '<safmn x4 from bundled:safmn_x4 + camera.safetensors at 0.7>'


def test_a_picture_is_enlarged_as_by_the_command(folder, net, tmp_path):
  assert upscale.main([f'--params={BASE}', str(folder / 'photo.png'), str(tmp_path / 'out.png')]) == 0
  np.testing.assert_array_equal(net.enlarge(folder / 'photo.png'), image.read_array(tmp_path / 'out.png'))


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float16, np.float32, np.float64])
def test_arrays_come_back_in_their_type(net, dtype):
  picture = scene(3, 12, 16)
  top = np.iinfo(dtype).max if np.dtype(dtype).kind == 'u' else 1
  large = net.enlarge((picture * top).astype(dtype))
  assert (large.shape, large.dtype) == ((48, 64, 3), dtype)
  expected = net.enlarge(picture)
  assert expected.min() < 0 or expected.max() > 1  # floats are not clipped
  np.testing.assert_allclose(large / top, np.clip(expected, 0, 1) if top > 1 else expected, atol=0.02)


def test_a_notebook_shows_the_picture(page):
  assert page['adapted']._repr_png_().startswith(b'\x89PNG')
  assert 'adapted' in repr(page['adapted'])


def test_full_fine_tuning_has_a_network_and_no_adapter(folder, net):
  pairs = sr.find_pairs(folder / 'camera' / 'LR', folder / 'camera' / 'HR')
  adapted = sr.adapt(net, pairs, method='full', steps=1, batch_size=2, patch=32)
  assert adapted.picture is None
  assert np.abs(adapted.net.enlarge(scene(1, 12, 16)) - net.enlarge(scene(1, 12, 16))).max() > 0
  with pytest.raises(sr.UserError, match='save `net` instead'):
    adapted.save(folder / 'none.safetensors')
  with pytest.raises(sr.UserError, match='there is no adapter'):
    net.with_adapter(adapted)


@pytest.mark.parametrize('mode', ['L', 'LA', 'RGBA'])
def test_gray_and_alpha_come_out_as_of_the_command(folder, net, mode):
  pixels = image.to_uint8(scene(7, 16, 20))
  hidden = np.where(np.arange(20) < 6, 0, 255).astype(np.uint8)[None].repeat(16, 0)
  picture = Image.fromarray(pixels).convert(mode)
  if 'A' in mode:
    picture.putalpha(Image.fromarray(hidden))
  picture.save(folder / f'{mode}.png')
  out = folder / f'{mode}_large.png'
  assert upscale.main([f'--params={BASE}', str(folder / f'{mode}.png'), str(out)]) == 0
  expected = np.asarray(Image.open(out)).astype(int)
  found = net.enlarge(np.asarray(picture))
  assert (found.dtype, found.shape) == (np.uint8, expected.shape)
  assert np.abs(found - expected).max() <= 1
  assert found.std() > 5
  floats = net.enlarge(image.to_float(np.asarray(picture)).astype(np.float64))
  assert (floats.dtype, floats.shape) == (np.float64, expected.shape)
  np.testing.assert_allclose(np.clip(floats, 0, 1) * 255, found, atol=0.6)


def test_gray_with_an_axis_of_its_own_keeps_it(net):
  gray = scene(1, 12, 16)[..., :1]
  large = net.enlarge(gray)
  assert large.shape == (48, 64, 1)
  np.testing.assert_array_equal(large[..., 0], net.enlarge(gray[..., 0]))


def test_mistakes_are_one_sentence(folder, net, page):
  pairs = sr.find_pairs(folder / 'camera' / 'LR', folder / 'camera' / 'HR')
  soft, there = page['soft'], folder / 'camera.safetensors'
  wrong = {
    lambda: sr.load('nothing.pth'): 'nothing.pth',
    lambda: sr.load(BASE, fields='depth=3'): "no field 'depth'",
    lambda: net.enlarge(np.zeros((4, 4, 5))): r'up to 4 channels, and this one \(4, 4, 5\)',
    lambda: net.enlarge(np.zeros((1, 4, 4, 3))): r'shape \(h, w\), or \(h, w, c\)',
    lambda: net.enlarge(np.zeros((4, 4, 3), np.int32)): 'not int32',
    lambda: net.enlarge(np.full((4, 4, 3), 255.0)): r'in \[0, 1\]',
    lambda: net.enlarge('nothing.png'): 'nothing.png',
    lambda: net.with_adapter('nothing.safetensors'): 'nothing.safetensors',
    lambda: net.with_adapter(there, strength=float('nan')): 'finite',
    lambda: sr.find_pairs(hr=folder / 'camera' / 'HR'): 'scale',
    lambda: sr.find_pairs(folder / 'camera' / 'LR', folder / 'nothing'): 'nothing',
    lambda: sr.adapt(net, pairs, stepps=3): 'stepps',
    lambda: sr.adapt(net, pairs, lora={'rank': 'high'}): 'rank',
    lambda: sr.adapt(net, pairs, steps=-1): 'config.steps',
    lambda: sr.adapt(soft, pairs): 'is in no file',
    lambda: page['adapted'].net.with_adapter(there): 'another base',
    lambda: sr.evaluate(net, pairs, metrics=['sharpness']): 'sharpness',
    lambda: sr.evaluate('bilinear', pairs): 'bilinear',
  }
  for call, said in wrong.items():
    with pytest.raises(sr.UserError, match=said) as error:
      call()
    assert '\n' not in str(error.value)


def test_the_base_is_not_overwritten(net, tmp_path):
  net.save(tmp_path / 'base.safetensors')
  again = sr.load(tmp_path / 'base.safetensors')
  with pytest.raises(sr.UserError, match='is the base'):
    again.save(tmp_path / 'base.safetensors')


IMPORTS = """
import sys, time
start = time.process_time()
import adaptsr_jax as sr
dir(sr)
assert time.process_time() - start < 0.5
assert not {'jax', 'numpy', 'PIL'} & set(sys.modules)
"""


@pytest.mark.parametrize('first', ['', 'import adaptsr_jax.adapt, adaptsr_jax.evaluate', 'sr.Net, sr.adapt.run'])
def test_nothing_is_imported_early_and_names_stay_functions_whoever_imports_first(first):
  last = 'import inspect\nassert callable(sr.adapt)\nprint(*inspect.signature(sr.evaluate).parameters)'
  done = subprocess.run([sys.executable, '-c', f'{IMPORTS}{first}\n{last}'], capture_output=True, text=True)
  assert done.stdout.split() == ['networks', 'pairs', 'metrics', 'metric_weights', 'tile', 'ensemble'], done.stderr


def test_every_public_name_is_there():
  for name in sr.__all__:
    assert inspect.getdoc(getattr(sr, name))
  with pytest.raises(AttributeError, match='no attribute'):
    _ = sr.nothing

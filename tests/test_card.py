"""What adapter files and merged networks tell of themselves, in every format, and what other readers make of it."""

import base64
import hashlib
import json

import numpy as np
import pytest
import safetensors

from adaptsr_jax import base as base_lib
from adaptsr_jax import convert, image, lora, zoo
from adaptsr_jax.adapt import show
from adaptsr_jax.adapters import card, file
from adaptsr_jax.adapters.__main__ import main
from adaptsr_jax.convert.__main__ import main as convert_main
from tests.shared import GOLDEN
from tests.test_adapter_file import make, save

WEIGHTS = GOLDEN / 'edsr_basicsr_x2' / 'weights.safetensors'
RESULTS = {
  'base': {'mean': {'psnr_y': 27.03, 'ssim_y': 0.72}},
  'adapted': {
    'mean': {'psnr_y': 28.03, 'ssim_y': float('inf')},
    'difference': {'psnr_y': (1.0, 0.5, 1.5), 'ssim_y': (float('nan'),) * 3},
    'images': dict.fromkeys('abc'),
  },
  'steps': 200,
  'versions': {'adaptsr-jax': '0.1.0', 'jax': '0.10.2', 'python': '3.11'},
}


@pytest.fixture
def adapter(tmp_path):
  """Returns the file of an adapter of WEIGHTS, as a run leaves it."""
  base = base_lib.load(WEIGHTS)
  sites = lora.find_sites(base.model())
  measured = card.measured(RESULTS, {'train': '6 pairs, x2, LR 128x128', 'valid': '3 pairs, x2, LR 64x64'})
  told = {'base_file': 'EDSR.pth', 'base_licence': 'MIT', **measured}
  return save(tmp_path / 'camera.safetensors', make(base.params, sites, {s.name: 1 for s in sites}, **told))


def test_inspect_prints_a_card(adapter, capsys):
  assert main(['inspect', str(adapter)]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == f'{adapter}: {adapter.stat().st_size:,} bytes'
  told = {line[2:11].strip(): line[13:] for line in lines[1:10] if line.startswith('  ')}
  assert told['base'].startswith('EDSR.pth, fingerprint ')
  assert told['base'].endswith(', licence MIT')
  assert told['trained'].endswith(' parameters by lora, 200 steps')
  assert told['made'] == f'{card.today()} (adaptsr-jax 0.1.0, jax 0.10.2, python 3.11)'
  assert (told['data'], told['tested on']) == ('6 pairs, x2, LR 128x128', '3 pairs, x2, LR 64x64')
  assert told['gain'] == 'psnr_y     27.0300 -> 28.0300   +1.0000, 95 % interval +0.5000 to +1.5000, 3 pictures'
  assert any(line.startswith('site ') for line in lines)


def test_the_header_has_a_small_picture_and_the_licence_of_the_data(adapter, tmp_path, capsys):
  rng = np.random.default_rng(0)
  shown = {title: rng.random((160, 130, 3)) for title in ('input', 'base 27.03 dB', 'adapted 28.03 dB', 'HR')}
  rows = {'best': [], 'median': list(shown.items()), 'worst': []}
  told = {'thumbnail': show.thumbnail(rows), 'data_licence': 'CC BY 4.0'}
  loaded = file.load(adapter)
  path = save(tmp_path / 'told.safetensors', loaded._replace(meta={**loaded.meta, **told}))
  assert main(['inspect', str(path)]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert f'  picture    before and after, {len(told["thumbnail"]):,} bytes; --json has it' in lines
  assert '  data       6 pairs, x2, LR 128x128, licence CC BY 4.0' in lines
  assert main(['inspect', str(path), '--json']) == 0
  kind, _, content = json.loads(capsys.readouterr().out)['thumbnail'].partition(';base64,')
  (tmp_path / 'x.jpg').write_bytes(base64.b64decode(content))
  picture = image.read_array(tmp_path / 'x.jpg')
  assert (kind, picture.shape) == ('data:image/jpeg', (112, 224, 3))
  assert len(content) < 40_000  # noise, the worst there is
  expected = [shown[title][24:136, 9:121].mean() for title in ('base 27.03 dB', 'adapted 28.03 dB')]
  np.testing.assert_allclose([part.mean() / 255 for part in np.split(picture, 2, axis=1)], expected, atol=0.01)
  assert main(['merge', str(WEIGHTS), str(path), str(tmp_path / 'merged.pth')]) == 0
  assert base_lib.load(tmp_path / 'merged.pth').origin['adapters'][0]['data_licence'] == 'CC BY 4.0'
  assert main(['resize', str(path), str(tmp_path / 'small.safetensors'), '--budget=2000']) == 0
  small = file.load(tmp_path / 'small.safetensors').meta
  assert ('thumbnail' in small, small['data_licence']) == (False, 'CC BY 4.0')


def test_networks_that_were_not_adapted_have_no_picture():
  assert show.thumbnail({}) == ''
  assert show.thumbnail({'one': [('base 27.03 dB', np.zeros((8, 8, 3)))]}) == ''


def test_the_header_is_json_for_everybody(adapter, capsys):
  assert main(['inspect', str(adapter), '--json']) == 0
  told = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(f'{word} is no JSON'))
  with safetensors.safe_open(adapter, 'numpy') as opened:
    header = json.loads(opened.metadata()['adaptsr_jax'])
  for name in ('gains', 'metrics', 'data', 'date', 'versions', 'steps', 'pictures', 'base_licence'):
    assert told[name] == header[name]
  assert (told['gains']['psnr_y'], told['gains']['ssim_y'][0]) == ([1.0, 0.5, 1.5], None)


def test_mixtures_do_not_claim_what_one_of_them_measured(adapter, tmp_path):
  assert main(['mix', str(adapter), str(adapter), str(tmp_path / 'mixed.safetensors'), '--weights=0.5,0.5']) == 0
  meta = file.load(tmp_path / 'mixed.safetensors').meta
  assert not {'gains', 'pictures', 'data', 'steps', 'versions'} & meta.keys()


def test_entries_of_other_forms_are_not_shown(adapter, tmp_path, capsys):
  loaded = file.load(adapter)
  odd = {'data': 'some', 'steps': 'many', 'gains': [1], 'versions': 3, 'mixed_from': {}, 'pictures': None}
  file.save(tmp_path / 'odd.safetensors', loaded._replace(meta={**loaded.meta, **odd}))
  assert main(['inspect', str(tmp_path / 'odd.safetensors')]) == 0
  assert card.sentence({'base': 'mine'}) == 'told in a form that is not known here'


def test_what_earlier_versions_and_mixtures_tell(tmp_path, capsys):
  for name in ('one', 'mixed'):
    assert main(['inspect', str(GOLDEN / 'adapter_v1' / f'{name}.safetensors')]) == 0
  assert 'mixed of' in capsys.readouterr().out


@pytest.mark.parametrize('out', ['merged.pth', 'merged.safetensors', 'merged'])
def test_merged_networks_tell_their_origin_and_keep_it_when_converted(adapter, tmp_path, capsys, out):
  assert main(['merge', str(WEIGHTS), str(adapter), str(tmp_path / out), '--strength=0.5']) == 0
  merged = base_lib.load(tmp_path / out)
  assert merged.origin['base']['file'] == 'EDSR.pth'
  assert merged.origin['base']['licence'] == 'MIT'
  (told,) = merged.origin['adapters']
  assert (told['file'], told['strength'], told['steps']) == ('camera.safetensors', 0.5, 200)
  assert told['gains'] == file.load(adapter).meta['gains']
  for further in ('again.pth', 'again.safetensors', 'again'):
    assert convert_main([str(tmp_path / out), str(tmp_path / further)]) == 0
    again = base_lib.load(tmp_path / further)
    assert again.origin == merged.origin
    np.testing.assert_array_equal(again.params['conv_first']['kernel'], merged.params['conv_first']['kernel'])
  capsys.readouterr()
  assert convert_main([str(tmp_path / out), '--detect']) == 0
  line = f'Origin: EDSR.pth (licence MIT) with camera.safetensors at strength 0.5, {card.today()}'
  assert line in capsys.readouterr().out.splitlines()


def test_pytorch_reads_what_tells_its_origin(adapter, tmp_path, torch):
  path = tmp_path / 'merged.pth'
  assert main(['merge', str(WEIGHTS), str(adapter), str(path)]) == 0
  read = torch.load(path, weights_only=True)['params']
  for name, leaf in convert.read(path).items():
    np.testing.assert_array_equal(read[name].numpy(), leaf)
  reader = torch._C.PyTorchFileReader(str(path))
  assert json.loads(reader.get_record('extra/adaptsr_jax.json'))['adapters'][0]['strength'] == 1.0


def test_files_without_an_origin_have_none(tmp_path):
  for out in ('plain.pth', 'plain'):
    assert convert_main([str(WEIGHTS), str(tmp_path / out)]) == 0
    assert base_lib.load(tmp_path / out).origin == {}


def test_the_licence_of_published_weights_is_found_by_what_they_are(monkeypatch, tmp_path):
  digest = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
  monkeypatch.setitem(zoo.ZOO, 'ours', zoo.Entry('a.pth', '', 'CC BY 4.0', '', sha256=digest[:12]))
  assert base_lib.load(WEIGHTS).licence == 'CC BY 4.0'
  assert convert_main([str(WEIGHTS), str(tmp_path / 'folder')]) == 0
  assert base_lib.load(tmp_path / 'folder').licence == 'CC BY 4.0'
  assert zoo.licence('0' * 64) == zoo.licence('') == ''

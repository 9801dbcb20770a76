"""Metrics by name: where their weights come from, and what is said where there are none."""

import hashlib
import http.server
import io
import re
import socket
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from adaptsr_jax import metrics
from adaptsr_jax.convert import torchfile
from adaptsr_jax.errors import UserError
from adaptsr_jax.evaluate import asked as measures
from adaptsr_jax.metrics import features, weights
from adaptsr_jax.zoo import metric_weights
from adaptsr_jax.zoo.metric_weights import METRIC_FILES
from tests.pictures import scene
from tests.shared import shared
from tests.test_niqe import invented, textured
from tests.test_perceptual import seeded_heads, seeded_trunk

FIDELITY = ['psnr_y', 'ssim_y', 'psnr_rgb', 'ssim_rgb']
ALEX, VGG = features.ALEXNET, features.VGG16


def channels() -> dict[str, np.ndarray]:
  alpha, beta = np.random.default_rng(0).random((2, 1, 1475, 1, 1), np.float32)
  return {'alpha': alpha, 'beta': beta}


def parameters() -> dict[str, np.ndarray]:
  pristine = invented()
  return {
    'mu_pris_param': pristine.mean[None],
    'cov_pris_param': pristine.covariance,
    'gaussian_window': pristine.window,
  }


@pytest.fixture(scope='module')
def small(tmp_path_factory):
  """A folder with all that is small: LPIPS with AlexNet, and NIQE."""
  folder = tmp_path_factory.mktemp('small')
  np.savez(folder / 'alexnet_torchvision_features.npz', **seeded_trunk(1, ALEX))
  np.savez(folder / 'lpips_alex_lin_v0.1.npz', **seeded_heads(ALEX))
  np.savez(folder / 'niqe_pris_params.npz', **parameters())
  return folder


@pytest.fixture(scope='module')
def whole(tmp_path_factory, small):
  """A folder with everything."""
  folder = tmp_path_factory.mktemp('whole')
  for path in small.iterdir():
    (folder / path.name).symlink_to(path)
  np.savez(folder / 'vgg16_torchvision_features.npz', **seeded_trunk(2, VGG))
  np.savez(folder / 'lpips_vgg_lin_v0.1.npz', **seeded_heads(VGG))
  with open(folder / 'dists_alpha_beta.pt', 'wb') as file:
    torchfile.save(file, channels())
  return folder


@pytest.fixture
def folder(tmp_path, small):
  """A copy of `small` to damage."""
  for path in small.iterdir():
    (tmp_path / path.name).write_bytes(path.read_bytes())
  return tmp_path


def values(loaded: measures.Measures, height: int = 48, width: int = 40, crop: int = 2) -> dict[str, float]:
  a, b = ((255 * scene(seed, height, width)).astype(np.uint8) for seed in (0, 1))
  return {key: value for fn in loaded.functions for key, value in fn(a, b, crop).items()}


# Names and values.


def test_everything_in_its_order(whole):
  loaded = measures.load(('niqe', 'dists', 'lpips', 'ssim', 'psnr'), whole)
  assert loaded.missing == {}
  *paired, niqe = loaded.functions
  a, b, large = textured(0, 40, 48), textured(1, 40, 48), textured(2, 104, 200)
  found = {key: value for fn in paired for key, value in fn(a, b, 4).items()} | niqe(large, large, 4)
  assert list(found) == [*FIDELITY, 'lpips_alex', 'lpips_vgg', 'dists', 'niqe']
  assert all(type(value) is float for value in found.values())
  trunk = weights.trunk(seeded_trunk(2, VGG), VGG)
  lpips = {'trunk': trunk, 'heads': weights.heads(seeded_heads(VGG), VGG)}
  expected = {
    **metrics.quality(a, b, 4),
    'lpips_vgg': metrics.lpips(lpips, a[None], b[None])[0],
    'dists': metrics.dists({'trunk': trunk, **weights.dists_channels(channels())}, a[None], b[None])[0],
    'niqe': metrics.niqe(invented(), large[None], 4)[0],
  }
  assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
  ('names', 'keys'),
  [
    ((), []),
    (('psnr',), ['psnr_y', 'psnr_rgb']),
    (('ssim',), ['ssim_y', 'ssim_rgb']),
    (('ssim', 'psnr'), FIDELITY),
    (('lpips_alex', 'psnr', 'psnr'), ['psnr_y', 'psnr_rgb', 'lpips_alex']),
  ],
)
def test_only_what_was_asked_for(small, names, keys):
  loaded = measures.load(names, small)
  assert list(values(loaded)) == keys
  assert loaded.missing == {}


def test_one_of_the_two_alone_has_the_value_of_both():
  both = values(measures.load(('psnr', 'ssim')))
  assert values(measures.load(('psnr',))) | values(measures.load(('ssim',))) == both


def test_unknown_names_are_refused():
  with pytest.raises(UserError, match=r"'fid' is not a metric; there are: psnr, ssim, .*niqe, lpips\.$"):
    measures.load(('psnr', 'fid'))


def test_the_protocol_speaks_of_what_is_measured(whole, small):
  assert set(measures.load(('psnr',)).protocol) == {'levels', 'y'}
  assert measures.load(('psnr', 'ssim')).protocol == metrics.PROTOCOL
  assert measures.load(('lpips',), small).protocol == {
    'levels': '8 bit',
    'lpips': 'v0.1, AlexNet, whole picture with borders, no resizing',
  }
  both = measures.load(('lpips', 'dists', 'niqe'), whole).protocol
  assert both['lpips'] == 'v0.1, AlexNet and VGG16, whole picture with borders, no resizing'
  assert list(both) == ['levels', 'y', 'lpips', 'dists', 'niqe']


def test_the_development_weights_load():
  folder = shared('weights')
  loaded = measures.load(('lpips', 'dists'), folder)
  assert list(values(loaded)) == ['lpips_alex']
  assert set(loaded.missing) == {'lpips_vgg', 'dists'}
  assert metric_weights.load('dists', folder)['alpha'].sum() == pytest.approx(0.87605, abs=1e-4)


# A folder of weights.


def test_what_a_folder_lacks_is_left_out(small):
  loaded = measures.load(('psnr', 'lpips', 'dists'), small)
  assert list(values(loaded)) == ['psnr_y', 'psnr_rgb', 'lpips_alex']
  assert list(loaded.missing) == ['lpips_vgg', 'dists']
  for sentence, words in zip(
    loaded.missing.values(),
    [
      ('lpips_vgg is left out', 'vgg.pth and vgg16-397923af.pth', f'{small} has no lpips_vgg_lin_v0.1.npz or vgg.pth'),
      ('dists is left out', 'weights.pt and vgg16-397923af.pth', METRIC_FILES['dists'].entry.url),
    ],
    strict=True,
  ):
    assert '\n' not in sentence
    assert all(word in sentence for word in words)


def test_a_folder_that_does_not_exist(tmp_path):
  with pytest.raises(UserError, match='folder of metric weights .*absent does not exist'):
    measures.load(('niqe',), tmp_path / 'absent')


@pytest.mark.parametrize('new_format', [True, False])
def test_the_published_files_are_read(torch, tmp_path, new_format):
  """Networks with their classifier, as torchvision publishes them, and heads under the name of their publisher."""
  classifier = {'classifier.1.weight': np.zeros((4096, 2), np.float32)}
  state = {key: torch.from_numpy(array) for key, array in {**seeded_trunk(1, ALEX), **classifier}.items()}
  heads = {key: torch.from_numpy(array) for key, array in seeded_heads(ALEX).items()}
  trunk = tmp_path / 'trunk'
  torch.save(state, trunk, _use_new_zipfile_serialization=new_format)
  trunk.rename(tmp_path / f'alexnet-owt-{hashlib.sha256(trunk.read_bytes()).hexdigest()[:8]}.pth')
  torch.save(heads, tmp_path / 'alex.pth', _use_new_zipfile_serialization=new_format)
  loaded = measures.load(('lpips_alex',), tmp_path)
  assert loaded.missing == {}
  direct = {
    'trunk': weights.trunk(seeded_trunk(1, ALEX), ALEX),
    'heads': weights.heads(seeded_heads(ALEX), ALEX),
  }
  a, b = textured(0, 40, 40), textured(1, 40, 40)
  assert loaded.functions[0](a, b, 0)['lpips_alex'] == metrics.lpips(direct, a[None], b[None])[0]


def cut(path):
  path.write_bytes(path.read_bytes()[:-2000])


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def web_page(path):
  path.write_text('<!DOCTYPE html><html><body>Please log in</body></html>')


def heads_of_vgg(path):
  np.savez(path, **seeded_heads(VGG))


def nothing(path):
  path.write_bytes(b'')


def objects(path):
  np.savez(path, **{'lin0.model.1.weight': np.array([{}], object)})


@pytest.mark.parametrize(
  ('name', 'damage', 'message'),
  [
    ('alexnet_torchvision_features.npz', cut, 'alexnet_torchvision_features.npz is'),
    ('alexnet_torchvision_features.npz', flip, 'damaged'),
    ('lpips_alex_lin_v0.1.npz', web_page, 'a web page'),
    ('lpips_alex_lin_v0.1.npz', nothing, 'an empty file'),
    ('lpips_alex_lin_v0.1.npz', objects, 'damaged'),
    ('lpips_alex_lin_v0.1.npz', heads_of_vgg, r'not a file of lpips_alex weights: its lin1.* shape \(1, 128, 1, 1\)'),
    ('niqe_pris_params.npz', heads_of_vgg, 'not a file of niqe weights: it has no mu_pris_param'),
  ],
)
def test_a_damaged_or_wrong_file_is_an_error(folder, name, damage, message):
  damage(folder / name)
  with pytest.raises(UserError, match=message) as caught:
    measures.load(('psnr', 'lpips_alex', 'niqe'), folder)
  assert str(folder / name) in str(caught.value)
  assert '\n' not in str(caught.value)


def test_a_network_that_is_not_the_one_of_its_name(folder):
  (folder / 'alexnet_torchvision_features.npz').unlink()
  with open(folder / 'alexnet-owt-7be5be79.pth', 'wb') as file:
    torchfile.save(file, seeded_trunk(1, ALEX))
  with pytest.raises(UserError, match=r'alexnet-owt-7be5be79.pth has SHA-256 .*, not 7be5be79\.\.\. as its name says'):
    measures.load(('lpips_alex',), folder)


# Weights by name.


def test_the_table_is_sound():
  assert len({file.entry.file for file in METRIC_FILES.values()}) == len(METRIC_FILES)
  for file in METRIC_FILES.values():
    assert file.entry.url.startswith('https://')
    # Of VGG19 only the first digits are known, which stand in its name.
    assert re.fullmatch('[0-9a-f]{8}' if 'vgg19' in file.entry.file else '[0-9a-f]{64}', file.entry.sha256)
    assert file.entry.licence in ('BSD-3-Clause', 'BSD-2-Clause', 'MIT', 'Apache-2.0')
    digits = re.search(r'-([0-9a-f]{8})\.pth$', file.published)
    assert not digits or file.entry.sha256.startswith(digits[1])


def test_the_recorded_hash_is_that_of_the_published_file():
  content = shared('weights', 'dists_alpha_beta.pt').read_bytes()
  assert hashlib.sha256(content).hexdigest() == METRIC_FILES['dists'].entry.sha256


@pytest.fixture
def cache(tmp_path, monkeypatch):
  """An empty cache, and no proxies."""
  for name in ('http_proxy', 'https_proxy', 'all_proxy', 'no_proxy'):
    monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(name.upper(), raising=False)
  monkeypatch.setenv('ADAPTSR_JAX_CACHE', str(tmp_path / 'cache'))
  return tmp_path / 'cache'


class Handler(http.server.BaseHTTPRequestHandler):
  def do_GET(self):
    name = self.path.removeprefix('/')
    self.server.seen.append(name)
    if name not in self.server.files:
      self.send_error(404)
      return
    self.send_response(200)
    self.send_header('Content-Length', str(len(self.server.files[name])))
    self.end_headers()
    self.wfile.write(self.server.files[name])

  def log_message(self, *_):
    pass


@pytest.fixture
def publisher(cache, monkeypatch):
  """A server that publishes what is put in its `files` by name, in the place of all the others."""
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
    server.seen, server.files = [], {}
    threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01}, daemon=True).start()

    def publish(name, content=None):
      file = METRIC_FILES[name]
      url = f'http://127.0.0.1:{server.server_port}/{file.published}'
      sha256 = hashlib.sha256(content).hexdigest() if content else file.entry.sha256
      monkeypatch.setitem(METRIC_FILES, name, file._replace(entry=file.entry._replace(url=url, sha256=sha256)))
      if content:
        server.files[file.published] = content

    for name in METRIC_FILES:
      publish(name)
    yield SimpleNamespace(server=server, publish=publish, seen=server.seen, files=server.files)
    server.shutdown()


def pth(arrays) -> bytes:
  file = io.BytesIO()
  torchfile.save(file, arrays)
  return file.getvalue()


def npz(arrays) -> bytes:
  file = io.BytesIO()
  np.savez(file, **arrays)
  return file.getvalue()


def test_weights_are_downloaded_once(publisher, cache, small):
  publisher.publish('alexnet', pth(seeded_trunk(1, ALEX)))
  publisher.publish('lpips_alex', pth(seeded_heads(ALEX)))
  publisher.publish('niqe', npz(parameters()))
  names = ('lpips_alex', 'niqe')
  found = values(measures.load(names), 104, 200)
  assert found == values(measures.load(names, small), 104, 200)
  assert publisher.seen == ['alex.pth', 'alexnet-owt-7be5be79.pth', 'niqe_pris_params.npz']
  files = ['alexnet-owt-7be5be79.pth', 'lpips_alex_lin_v0.1.pth', 'niqe_pris_params.npz']
  assert sorted(path.name for path in cache.iterdir()) == sorted([*files, *(f'{file}.json' for file in files)])
  publisher.server.shutdown()
  assert values(measures.load(names), 104, 200) == found
  # The cache, copied to a machine without a network, is a folder of weights.
  assert values(measures.load(('niqe',), cache), 104, 200)['niqe'] == found['niqe']


def test_a_file_that_is_not_published_any_more_is_asked_for_once(publisher):
  publisher.publish('lpips_vgg', pth(seeded_heads(VGG)))
  publisher.publish('dists', pth(channels()))
  loaded = measures.load(('psnr', 'lpips_vgg', 'dists'))
  assert list(values(loaded)) == ['psnr_y', 'psnr_rgb']
  assert publisher.seen == ['vgg.pth', 'vgg16-397923af.pth', 'weights.pt']
  for name, sentence in loaded.missing.items():
    assert sentence.startswith(f'{name} is left out, for it needs ')
    assert METRIC_FILES['vgg16'].entry.url in sentence
    assert 'the server answered 404' in sentence
    assert '--metric_weights=DIR' in sentence
    assert '\n' not in sentence


def test_a_large_file_is_not_fetched_for_nothing(publisher):
  publisher.publish('alexnet', pth(seeded_trunk(1, ALEX)))
  assert set(measures.load(('lpips_alex',)).missing) == {'lpips_alex'}
  assert publisher.seen == ['alex.pth']


def test_without_a_network_all_is_left_out(cache, monkeypatch):
  asked = []

  def unresolved(host, *_args, **_kwargs):
    asked.append(host)
    raise socket.gaierror(-3, 'Temporary failure in name resolution')

  monkeypatch.setattr(socket, 'getaddrinfo', unresolved)
  loaded = measures.load(('psnr', 'lpips', 'dists', 'niqe'))
  assert list(loaded.missing) == ['lpips_alex', 'lpips_vgg', 'dists', 'niqe']
  assert all('there is no connection to the server' in sentence for sentence in loaded.missing.values())
  assert list(values(loaded)) == ['psnr_y', 'psnr_rgb']
  assert asked == ['raw.githubusercontent.com'] * 4
  assert not list(cache.glob('*'))


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (pth({'lin0.model.1.weight': np.zeros((1, 64, 1, 1), np.float32)}), 'has no lin1.model.1.weight'),
    (b'<!DOCTYPE html><html>Please log in</html>', 'a web page'),
  ],
)
def test_a_file_that_cannot_be_read_is_not_kept(publisher, cache, content, message):
  publisher.publish('lpips_alex', content)
  with pytest.raises(UserError, match=message) as caught:
    measures.load(('lpips_alex',))
  assert METRIC_FILES['lpips_alex'].entry.url in str(caught.value)
  assert not list(cache.glob('*'))


def test_a_wrong_hash_is_an_error(publisher, cache):
  publisher.files['niqe_pris_params.npz'] = npz(parameters())
  with pytest.raises(UserError, match=r'has SHA-256 \w+\.\.\., not 2a7c182a\w+\.\.\. as published; it was not kept'):
    measures.load(('psnr', 'niqe'))
  assert not list(cache.glob('*'))


def test_a_file_that_changed_in_the_cache_is_an_error(publisher, cache):
  publisher.publish('niqe', npz(parameters()))
  measures.load(('niqe',))
  flip(cache / 'niqe_pris_params.npz')
  with pytest.raises(UserError, match=r'niqe_pris_params\.npz has SHA-256 .* damaged or another file; delete it'):
    measures.load(('niqe',))


def test_without_a_place_to_keep_them_they_are_left_out(publisher, cache):
  publisher.publish('niqe', npz(parameters()))
  cache.write_text('a file where the folder should be')
  assert 'cannot be used as the cache' in measures.load(('niqe',)).missing['niqe']

"""Published weights by name, from a server on this machine: what goes well, and everything that can go wrong."""

import contextlib
import hashlib
import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

from adaptsr_jax import base, convert, zoo
from adaptsr_jax.convert import __main__ as convert_command
from adaptsr_jax.convert import torchfile
from adaptsr_jax.errors import UserError
from adaptsr_jax.evaluate import __main__ as evaluate
from adaptsr_jax.zoo import __main__ as command
from adaptsr_jax.zoo import transfer
from tests.pictures import write_pairs
from tests.shared import GOLDEN

TINY = GOLDEN / 'safmn_x2' / 'weights.safetensors'
WEIGHTS = TINY.read_bytes()
OTHER = (GOLDEN / 'safmn_x4' / 'weights.safetensors').read_bytes()
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
  """Sends `server.body`, the first `server.cuts` times only half of what it announces."""

  def do_GET(self):
    server = self.server
    server.seen.append((self.path, self.headers.get('Range')))
    if server.status != 200:
      self.send_error(server.status)
      return
    body, start = server.body, 0
    if server.tag and self.headers.get('If-Range') == server.tag:
      start = int(re.fullmatch(r'bytes=(\d+)-', self.headers['Range'])[1])
    self.send_response(206 if start else 200)
    if start:
      self.send_header('Content-Range', f'bytes {start}-{len(body) - 1}/{len(body)}')
    if server.tag:
      self.send_header('ETag', server.tag)
    if server.tell_length:
      self.send_header('Content-Length', str(len(body) - start))
    self.end_headers()
    rest = body[start:]
    if server.cuts:
      server.cuts -= 1
      rest = rest[: len(rest) // 2]
      server.body, server.tag = server.then
    self.wfile.write(rest)

  def log_message(self, *_):
    pass


@pytest.fixture
def server():
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  server.seen, server.body, server.status, server.cuts, server.tell_length = [], WEIGHTS, 200, 0, True
  server.tag = ''
  server.then = WEIGHTS, ''
  server.url = f'http://127.0.0.1:{server.server_port}/tiny.safetensors'
  threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01}, daemon=True).start()
  yield server
  stop(server)


def stop(server):
  server.shutdown()
  server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  """An empty cache, no proxies, no pauses."""
  for name in ('http_proxy', 'https_proxy', 'all_proxy', 'no_proxy'):
    monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(name.upper(), raising=False)
  monkeypatch.setenv('ADAPTSR_JAX_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setattr(transfer, 'PAUSE', 0)
  monkeypatch.setattr(transfer, 'CHUNK', 512)
  return tmp_path / 'cache'


@pytest.fixture
def publish(monkeypatch, server):
  """Returns a function that puts the file of the server into the table as 'tiny_x2'."""

  def put(url=None, **fields):
    entry = zoo.Entry('tiny.safetensors', server.url if url is None else url, 'CC0', 'noise', **fields)
    monkeypatch.setitem(zoo.ZOO, 'tiny_x2', entry)

  put()
  return put


def files(folder: Path) -> list[str]:
  return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def fails(*words: str) -> str:
  """Fetches and expects one sentence with the words in it; returns it."""
  with pytest.raises(UserError) as caught:
    zoo.fetch('tiny_x2')
  text = str(caught.value)
  for word in words:
    assert word in text
  assert '\n' not in text
  return text


# The table.


def test_table_is_sound():
  assert len({entry.file for entry in zoo.ZOO.values()}) == len(zoo.ZOO)
  for name, entry in zoo.ZOO.items():
    assert re.fullmatch(r'[a-z0-9_]+_x[2348]|swinir_(gray_)?(denoise|jpeg)[1-5][05]', name)
    assert (entry.url or entry.page).startswith('https://'), name
    assert entry.url == '' or entry.url.endswith('/' + entry.file)
    assert entry.file.endswith(('.pth', '.pt'))
    assert re.fullmatch(r'([0-9a-f]{8}|[0-9a-f]{64})?', entry.sha256), name
    assert entry.licence in zoo.LICENCES
    assert entry.key in ('', 'params', 'params_ema')
    assert entry.psnr is None or 31 < entry.psnr < 39


@pytest.mark.parametrize(
  ('name', 'psnr'),
  [('swinir_classical_x4', 32.92), ('swinir_light_x4', 32.44), ('safmn_x4', 32.18), ('safmn_l_x4', 32.65)]
  + [('edsr_baseline_x4', 32.09), ('edsr_x4', 32.46), ('drct_x4', 33.11), ('drct_l_x4', 33.37)],
)
def test_published_psnr(name, psnr):
  assert zoo.ZOO[name].psnr == psnr


def test_the_command_lists_at_once():
  """No library that is slow to import is needed for the list."""
  code = (
    'import sys; from adaptsr_jax.zoo import __main__ as m; m.main([]);'
    'print({"jax", "numpy", "requests"} & set(sys.modules))'
  )
  printed = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
  assert printed.rstrip().endswith('set()')
  assert re.search(r'^edsr_x4 +32\.46 +MIT +bicubic, DIV2K +to download$', printed, re.M)
  assert re.search(r'^drct_x4 .*by hand: https://drive\.google\.com/file/d/\w+', printed, re.M)


def test_files_of_the_networks_against_real_degradations():
  assert {'realesrgan_x4', 'realesrnet_x4', 'realesrgan_x2', 'realesrgan_anime_x4', 'realesr_general_x4'} <= set(
    zoo.ZOO
  )
  assert {'realesr_general_wdn_x4', 'realesr_animevideo_x4', 'bsrgan_x4', 'bsrgan_x2', 'dasr_x4', 'ldl_rrdb_x4'} <= set(
    zoo.ZOO
  )
  assert zoo.ZOO['realesrgan_x4'].url.endswith('/v0.1.0/RealESRGAN_x4plus.pth')
  assert zoo.ZOO['realesrgan_x4'].sha256.startswith('4fa0d389')
  assert zoo.ZOO['realesrgan_x4'].key == 'params_ema'
  assert zoo.ZOO['safmn_l_real_lsdir_v2_x4'].key == 'params'
  assert zoo.ZOO['safmn_l_real_lsdir_v2_x4'].sha256 == zoo.ZOO['safmn_l_real_lsdir_x4'].sha256


def test_the_list_tells_licences_and_what_they_allow(capsys):
  command.main([])
  out = capsys.readouterr().out
  assert re.search(r'^realesrgan_x4 .* BSD-3-Clause .*to download$', out, re.M)
  assert re.search(r'^ldl_rrdb_x4 .* Apache-2\.0 .*by hand: https://drive\.google\.com/drive/folders/\w+', out, re.M)
  for licence in {entry.licence for entry in zoo.ZOO.values()}:
    assert re.search(rf'^{re.escape(licence)}: use, change and pass on', out, re.M)


def test_the_key_of_a_name_chooses_among_the_weights_of_its_file(publish, server, tmp_path):
  tensors = convert.read(TINY)
  path = tmp_path / 'two.pth'
  with open(path, 'wb') as file:
    plain = {key: value + 1 for key, value in tensors.items()}
    torchfile.save(file, {'params': plain, 'params_ema': tensors})
  server.body = path.read_bytes()
  publish(sha256='', key='params_ema')
  np.testing.assert_array_equal(base.load('tiny_x2').params['to_feat']['bias'], tensors['to_feat.bias'])
  np.testing.assert_array_equal(base.load('tiny_x2', key='params').params['to_feat']['bias'], plain['to_feat.bias'])


def test_the_command_downloads(publish, cache, capsys):
  assert command.main(['tiny_x2']) == 0
  assert capsys.readouterr().out == f'tiny_x2: {cache / "tiny.safetensors"}\n'
  assert command.main([]) == 0
  assert re.search(r'^tiny_x2 .*cached, 0\.0 MB$', capsys.readouterr().out, re.M)
  assert command.main(['tiny_x3']) == 2
  assert 'did you mean tiny_x2' in capsys.readouterr().err


# What goes well.


def test_download_and_record(publish, server, cache):
  path = zoo.fetch('tiny_x2')
  assert path == cache / 'tiny.safetensors'
  assert path.read_bytes() == WEIGHTS
  assert files(cache) == ['tiny.safetensors', 'tiny.safetensors.json']
  record = json.loads((cache / 'tiny.safetensors.json').read_text())
  assert (record['sha256'], record['url'], record['bytes']) == (SHA256, server.url, len(WEIGHTS))


def test_others_can_read_a_shared_cache(publish):
  mask = os.umask(0o022)
  try:
    assert zoo.fetch('tiny_x2').stat().st_mode & 0o777 == 0o644
  finally:
    os.umask(mask)


def test_the_second_time_needs_no_network(publish, server):
  path = zoo.fetch('tiny_x2')
  stop(server)
  assert zoo.fetch('tiny_x2') == path
  assert len(server.seen) == 1


@pytest.mark.parametrize('digits', [8, 64])
def test_the_right_hash(publish, digits):
  publish(sha256=SHA256[:digits])
  assert zoo.fetch('tiny_x2').read_bytes() == WEIGHTS


def test_a_proxy_of_the_environment_is_used(publish, server, monkeypatch):
  publish(url='http://weights.invalid/tiny.safetensors')
  monkeypatch.setenv('HTTP_PROXY', server.url.rpartition('/')[0])
  assert zoo.fetch('tiny_x2').read_bytes() == WEIGHTS
  assert server.seen == [('http://weights.invalid/tiny.safetensors', None)]


@pytest.mark.parametrize('terminal', [False, True])
def test_progress_on_a_terminal_only(publish, monkeypatch, capsys, terminal):
  monkeypatch.setattr(sys.stderr, 'isatty', lambda: terminal)
  zoo.fetch('tiny_x2')
  printed = capsys.readouterr().err
  assert printed.startswith('Downloading http://127.0.0.1')
  assert ('100%' in printed) is terminal


# Transfers that break off.


def test_a_cut_transfer_goes_on_where_it_broke(publish, server):
  server.tag, server.cuts, server.then = '"one"', 2, (WEIGHTS, '"one"')
  assert zoo.fetch('tiny_x2').read_bytes() == WEIGHTS
  starts = [int(wanted.removeprefix('bytes=').removesuffix('-')) for _, wanted in server.seen[1:]]
  assert len(starts) == 2
  assert 0 < starts[0] < starts[1] < len(WEIGHTS)


@pytest.mark.parametrize('tag', ['', 'W/"weak"'])
def test_without_a_tag_it_starts_again(publish, server, tag):
  server.tag, server.cuts, server.then = tag, 1, (WEIGHTS, tag)
  assert zoo.fetch('tiny_x2').read_bytes() == WEIGHTS
  assert [wanted for _, wanted in server.seen] == [None, None]


def test_a_file_that_changes_meanwhile_is_not_pieced_together(publish, server):
  server.tag, server.cuts, server.then = '"one"', 1, (OTHER, '"two"')
  assert zoo.fetch('tiny_x2').read_bytes() == OTHER


def test_a_transfer_that_is_always_cut_leaves_nothing(publish, server, cache):
  server.cuts = 1000
  fails(server.url, 'broke off 5 times', f'of {len(WEIGHTS):,} bytes', 'give the path of the file', str(cache))
  assert files(cache) == []
  server.cuts = 0
  assert zoo.fetch('tiny_x2').read_bytes() == WEIGHTS


def test_a_cut_that_nothing_announces_is_seen(publish, server, cache):
  server.cuts, server.tell_length = 1, False
  fails(server.url, 'not a file of weights', 'cut short', 'tiny.safetensors')
  assert files(cache) == []


# Files that are not what they should be.


@pytest.mark.parametrize('digits', [8, 64])
def test_a_wrong_hash(publish, server, cache, digits):
  publish(sha256=hashlib.sha256(OTHER).hexdigest()[:digits])
  fails(server.url, f'has SHA-256 {SHA256[:16]}', 'as published', 'not kept')
  assert files(cache) == []


def test_a_web_page_instead_of_the_file(publish, server, cache):
  server.body = b'<!DOCTYPE html><html><body>Please log in</body></html>'
  text = fails(server.url, 'web page')
  assert 'tmp' not in text.replace(str(cache), '').lower()
  assert files(cache) == []


def test_another_file_than_the_recorded_one(publish, server, cache):
  path = zoo.fetch('tiny_x2')
  path.unlink()
  server.body = OTHER
  fails(server.url, 'recorded', str(cache / 'tiny.safetensors.json'))
  assert files(cache) == ['tiny.safetensors.json']
  (cache / 'tiny.safetensors.json').unlink()
  assert zoo.fetch('tiny_x2').read_bytes() == OTHER


def test_a_file_that_changed_in_the_cache(publish, cache):
  zoo.fetch('tiny_x2').write_bytes(OTHER)
  fails(str(cache / 'tiny.safetensors'), f'not {SHA256[:16]}... as recorded', 'delete it', 'tiny.safetensors.json')


def test_a_damaged_record(publish, cache):
  zoo.fetch('tiny_x2')
  (cache / 'tiny.safetensors.json').write_text('{"sha')
  fails('tiny.safetensors.json is damaged', 'delete it')


# No network.


@pytest.mark.parametrize('status', [403, 404, 503])
def test_the_server_has_no_such_file(publish, server, cache, status):
  server.status = status
  fails(server.url, f'answered {status}', 'give the path of the file')
  assert files(cache) == []


def test_the_server_is_down(publish, server):
  publish(page='https://example.org/elsewhere')
  stop(server)
  fails(server.url, 'no connection', 'give the path of the file', '(or from https://example.org/elsewhere)')


def test_the_proxy_is_down(publish, monkeypatch):
  with contextlib.closing(socket.create_server(('127.0.0.1', 0))) as unused:
    port = unused.getsockname()[1]
  monkeypatch.setenv('HTTP_PROXY', f'http://127.0.0.1:{port}')
  fails('the proxy does not answer')


def test_offline(publish, monkeypatch):
  def unresolved(*_args, **_kwargs):
    raise socket.gaierror(-3, 'Temporary failure in name resolution')

  publish(url='https://weights.invalid/tiny.safetensors')
  monkeypatch.setattr(socket, 'getaddrinfo', unresolved)
  fails('https://weights.invalid/tiny.safetensors', 'no connection', 'give the path of the file')


def test_a_server_that_says_nothing(publish, monkeypatch):
  monkeypatch.setattr(transfer, 'TIMEOUT', (1, 0.05))
  with socket.create_server(('127.0.0.1', 0)) as silent:
    publish(url=f'http://127.0.0.1:{silent.getsockname()[1]}/tiny.safetensors')
    fails('the server does not answer')


def test_files_that_only_a_person_can_get(publish, cache):
  publish(url='', page='https://drive.google.com/file/d/xyz/view')
  fails('no direct download', 'https://drive.google.com/file/d/xyz/view', str(cache / 'tiny.safetensors'))
  cache.mkdir()
  (cache / 'tiny.safetensors').write_text('<html>saved the page instead</html>')
  fails('web page')
  (cache / 'tiny.safetensors').write_bytes(WEIGHTS)
  assert zoo.fetch('tiny_x2').read_bytes() == WEIGHTS
  assert json.loads((cache / 'tiny.safetensors.json').read_text())['sha256'] == SHA256


def test_a_cache_that_cannot_be_written(publish, cache):
  cache.write_text('a file where the folder should be')
  fails(str(cache), 'ADAPTSR_JAX_CACHE')


# Names.


def test_unknown_names_get_suggestions():
  with pytest.raises(UserError, match='did you mean swinir_classical_x4') as caught:
    base.load('SwinIR_clasical_x4')
  assert '\n' not in str(caught.value)
  with pytest.raises(UserError, match=r'neither a file, a folder nor .*adaptsr_jax\.zoo'):
    base.load('qqq')
  with pytest.raises(UserError, match=r'nothing\.pth is neither a file nor a folder'):
    base.load('nothing.pth')


def test_a_file_goes_before_the_name(publish, server, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'tiny_x2').write_bytes(OTHER)
  assert base.load('tiny_x2').fields['upscale'] == 4
  assert server.seen == []


# The real entry points.


def assert_same(params, expected):
  jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_load(publish):
  loaded = base.load('tiny_x2')
  assert (loaded.name, loaded.fields['upscale']) == ('safmn', 2)
  assert_same(loaded.params, base.load(TINY).params)


@pytest.mark.parametrize('out', ['tiny.pth', 'tiny.safetensors', 'folder'])
def test_convert(publish, tmp_path, out):
  assert convert_command.main(['tiny_x2', str(tmp_path / out)]) == 0
  assert_same(base.load(tmp_path / out).params, base.load(TINY).params)


def test_convert_says_what_is_wrong(publish, server, tmp_path, capsys):
  server.status = 404
  assert convert_command.main(['tiny_x2', str(tmp_path / 'out.pth')]) == 2
  assert 'answered 404' in capsys.readouterr().err
  assert not (tmp_path / 'out.pth').exists()


def test_evaluate(publish, tmp_path):
  lr, hr = write_pairs(tmp_path / 'pictures', 1)
  measured = []
  for spec in ('tiny_x2', str(TINY)):
    out = tmp_path / 'results.json'
    assert evaluate.main([f'--params={spec}', f'--lr={lr}', f'--hr={hr}', f'--out={out}']) == 0
    measured.append(json.loads(out.read_text())['mean'])
  assert measured[0] == measured[1]


# What comes with the package.


@pytest.fixture
def assets(tmp_path, monkeypatch):
  """A folder with one bundled network, written as the documentation says."""
  folder = tmp_path / 'assets'
  folder.mkdir()
  monkeypatch.setattr(zoo, '_assets', lambda: folder)
  monkeypatch.setattr(zoo, 'ASSETS', {'small_x2': zoo.Entry('small_x2.safetensors', '', 'MIT', 'nothing')})
  assert convert_command.main([str(TINY), str(folder / 'small_x2.safetensors'), '--dtype', 'float16']) == 0
  return folder


def test_bundled_weights_are_float32_once_loaded(assets, tmp_path):
  stored = convert.read(assets / 'small_x2.safetensors')
  assert {array.dtype.name for array in stored.values()} == {'float16'}
  loaded = base.load('bundled:small_x2')
  assert {leaf.dtype.name for leaf in jax.tree.leaves(loaded.params)} == {'float32'}
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), loaded.params, base.load(TINY).params)
  finer = jax.tree.map(lambda leaf: leaf + np.float32(1e-6), loaded.params)
  base.export(tmp_path / 'adapted.safetensors', loaded, finer)
  assert_same(base.load(tmp_path / 'adapted.safetensors').params, finer)


def test_bundled_names_are_listed(assets, capsys):
  assert command.main([]) == 0
  assert 'bundled:small_x2' in capsys.readouterr().out
  with pytest.raises(UserError, match=r"No weights 'bundled:large_x2' .* there are: bundled:small_x2\."):
    base.load('bundled:large_x2')
  with pytest.raises(UserError, match='did you mean .*bundled:small_x2'):
    base.load('small_x2')


def test_bundled_files_of_the_package_can_be_loaded(capsys):
  assert zoo.bundled_names() == sorted(zoo.ASSETS)
  assert command.main([]) == 0
  listed = capsys.readouterr().out
  cards = (zoo.bundled('edsr_x4').parent / 'README.md').read_text()
  for name, entry in zoo.ASSETS.items():
    assert zoo.bundled(name).stat().st_size <= 2 << 20
    loaded = base.load(f'bundled:{name}')
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(loaded.params))
    # What is told of them, by the list, the card and all files that are made of them.
    assert hashlib.sha256(zoo.bundled(name).read_bytes()).hexdigest() == entry.sha256
    assert re.search(rf'^bundled:{name} +{entry.psnr:.2f} +Apache-2\.0 +{re.escape(entry.trained)} ', listed, re.M)
    assert loaded.licence == f'Apache-2.0; trained on: {entry.trained}'
    assert f'Set5 x4: {entry.psnr:.2f} dB' in cards
    assert 'CID22 (CC BY-SA 4.0)' in cards
    assert 'CLIC 2025 (Unsplash licence)' in cards

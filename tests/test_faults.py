"""What each command does with each kind of odd or broken picture file: it works, or says one sentence naming the file.

Decoding itself is tested in test_image.py and the words of folders in test_sources.py; here the commands are run whole.
"""

import json
import os
import struct
import unicodedata
import zlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from absl import flags
from PIL import Image

from adaptsr_jax import adapt, data, image, main, upscale
from adaptsr_jax.doctor import __main__ as doctor
from adaptsr_jax.errors import UserError
from adaptsr_jax.evaluate import __main__ as evaluate
from configs import tiny
from tests.pictures import scene, write_pairs, write_params

NAME = 'p01'  # the pair that something is done to


class Case(NamedTuple):
  """What is done to a pair, and how the commands answer."""

  spoil: object  # (LR file, HR file) -> None
  said: str = ''  # part of the sentence; empty: it works
  named: str = f'{NAME}.png'  # the file in the sentence


def _cut(lr, hr):
  whole = hr.read_bytes()
  hr.write_bytes(whole[: len(whole) // 2])


def _huge(lr, hr):
  """A header that claims 100,000 x 100,000 pixels over a few bytes."""
  body = struct.pack('>LLBBBBB', 100_000, 100_000, 8, 2, 0, 0, 0)
  chunks = [(b'IHDR', body), (b'IDAT', zlib.compress(bytes(1000))), (b'IEND', b'')]
  lr.write_bytes(
    b'\x89PNG\r\n\x1a\n'
    + b''.join(struct.pack('>L', len(c)) + k + c + struct.pack('>L', zlib.crc32(k + c)) for k, c in chunks)
  )


def _converted(mode, suffix='.png'):
  """Stores both pictures in another mode."""

  def spoil(*paths):
    for path in paths:
      with Image.open(path) as file:
        picture = file.convert('RGB')
      path.unlink()
      if mode == 'P':
        picture = picture.quantize(64)
      elif mode == 'RGBA':
        picture.putalpha(128)
      else:
        picture = picture.convert(mode)
      picture.save(path.with_suffix(suffix), quality=95)

  return spoil


def _deep(*paths):
  for path in paths:
    image.write(path, image.read_array(path).astype(np.uint16) * 257)


def _twice_as_large(lr, hr):
  image.write(lr, scene(1, *image.size(hr)))


def _accents(lr, hr):
  """One side composed, as Linux and Windows name files, the other decomposed, as macOS does."""
  lr.rename(lr.with_name(unicodedata.normalize('NFD', 'Café ñ.png')))
  hr.rename(hr.with_name(unicodedata.normalize('NFC', 'Café ñ.png')))


def _linked(*paths):
  for path in paths:
    aside = path.parents[1] / f'{path.parent.name}_elsewhere.png'
    path.rename(aside)
    path.symlink_to(aside)


def _dangling(lr, hr):
  lr.unlink()
  lr.symlink_to(lr.with_name('gone.png'))


def _folder(lr, hr):
  lr.unlink()
  lr.mkdir()


def _locked(lr, hr):
  hr.chmod(0)


def _pages(lr, hr):
  with Image.open(lr) as file:
    picture = file.convert('RGB')
  lr.unlink()
  picture.save(lr.with_suffix('.tif'), save_all=True, append_images=[picture])


CASES = {
  'not a picture': Case(lambda lr, hr: lr.write_text('<html>'), 'is not a picture'),
  'truncated': Case(_cut, 'cannot be read: '),
  'zero bytes': Case(lambda lr, hr: lr.write_bytes(b''), 'is empty (0 bytes)'),
  'huge': Case(_huge, 'has 100000 x 100000 pixels, above the limit'),
  'several pages': Case(_pages, 'holds 2 pages', f'{NAME}.tif'),
  'gray': Case(_converted('L')),
  'black and white': Case(_converted('1')),
  'gray and alpha': Case(_converted('LA')),
  'CMYK': Case(_converted('CMYK', '.jpg')),
  'palette': Case(_converted('P')),
  'alpha': Case(_converted('RGBA')),
  '16 bit': Case(_deep),
  'wrong scale': Case(_twice_as_large, 'LR has the size of HR'),
  'mismatched names': Case(lambda lr, hr: lr.rename(lr.with_name('q01.png')), 'no LR picture of this name'),
  'accents': Case(_accents),
  'links': Case(_linked),
  'dangling link': Case(_dangling, 'cannot be read: no such file'),
  'folder named like a picture': Case(_folder, 'no LR picture of this name'),
  'locked': Case(_locked, 'cannot be read: permission denied'),
}
BROKEN = [kind for kind, case in CASES.items() if case.said]
ODD = [kind for kind, case in CASES.items() if not case.said]


@pytest.fixture(scope='module')
def params(tmp_path_factory):
  return write_params(tmp_path_factory.mktemp('params') / 'merged')


@pytest.fixture
def folders(tmp_path):
  return write_pairs(tmp_path / 'pictures', 3)


@pytest.fixture(params=BROKEN)
def broken(request, folders):
  """Three pairs, one of them broken: (LR folder, HR folder, case)."""
  return (*folders, _spoil(request.param, folders))


@pytest.fixture
def odd(tmp_path):
  """A pair of each kind that is read: (LR folder, HR folder)."""
  lr, hr = write_pairs(tmp_path / 'pictures', len(ODD))
  for i, kind in enumerate(ODD):
    CASES[kind].spoil(lr / f'p{i:02d}.png', hr / f'p{i:02d}.png')
  return lr, hr


def _spoil(kind, folders):
  if kind == 'locked' and os.geteuid() == 0:
    pytest.skip('root may read every file')
  case = CASES[kind]
  case.spoil(*(folder / f'{NAME}.png' for folder in folders))
  return case


def settings(lr, hr, **fields):
  c = tiny.get_config()
  for part in (c.data.train, c.data.valid):
    part.lr, part.hr = str(lr), str(hr)
  c.steps = 0
  c.update_from_flattened_dict(fields)
  return c


def start(monkeypatch, config, workdir):
  """Runs `main.main` as the command line does, with this config."""

  class Flag:
    def __init__(self, value):
      self.value = value

  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # the others have their defaults
  monkeypatch.setattr(main, '_CONFIG', Flag(config))
  monkeypatch.setattr(main, '_WORKDIR', Flag(str(workdir)))
  return main.main(['main'])


def refused(code, captured, said, named=f'{NAME}.png'):
  """Tells whether a command gave up with one sentence that names the file."""
  lines = captured.err.splitlines()
  assert code == 2, captured.err
  assert sum(line.startswith('Error: ') for line in lines) == 1
  assert said in captured.err
  assert named in captured.err
  assert 'Traceback' not in captured.err
  return True


# --- files that are read


def test_odd_kinds_of_files_train(odd, tmp_path, monkeypatch, capsys):
  assert start(monkeypatch, settings(*odd, steps=1, **{'lora.rule': 'uniform'}), tmp_path / 'run') == 0, (
    capsys.readouterr().err
  )
  results = json.loads((tmp_path / 'run' / 'results.json').read_text())
  assert len(results['adapted']['images']) == len(ODD)


def test_odd_kinds_of_files_are_measured(odd, params, tmp_path):
  lr, hr = odd
  out = tmp_path / 'results.json'
  assert evaluate.main([f'--params={params}', f'--lr={lr}', f'--hr={hr}', f'--out={out}']) == 0
  rows = json.loads(out.read_text())['images']
  assert len(rows) == len(ODD)
  assert all(np.isfinite(value) for row in rows.values() for value in row.values())


def test_odd_kinds_of_files_are_enlarged(odd, params, tmp_path):
  lr, _ = odd
  assert upscale.main([f'--params={params}', str(lr), str(tmp_path / 'out')]) == 0
  sizes = {path.name: image.size(path) for path in image.list_images(tmp_path / 'out')}
  assert sizes == {path.name: tuple(2 * n for n in image.size(path)) for path in image.list_images(lr)}


def test_odd_kinds_of_files_are_examined(odd, tmp_path):
  lr, hr = odd
  assert doctor.main([f'--lr={lr}', f'--hr={hr}', f'--out={tmp_path}/doctor']) in (0, 1)
  content = json.loads((tmp_path / 'doctor' / 'doctor.json').read_text())
  assert all(pair['measures'] for pair in content['pairs'].values())
  assert len(content['pairs']) == len(ODD)
  assert not content['files']


# --- files that are refused


def test_main_refuses(broken, tmp_path, monkeypatch, capsys):
  lr, hr, case = broken
  code = start(monkeypatch, settings(lr, hr), tmp_path / 'run')
  assert refused(code, capsys.readouterr(), case.said, case.named)
  assert not (tmp_path / 'run' / 'config.json').exists()  # the folder is free for the corrected command


def test_evaluate_refuses(broken, params, tmp_path, capsys):
  lr, hr, case = broken
  out = tmp_path / 'results.json'
  code = evaluate.main([f'--params={params}', f'--lr={lr}', f'--hr={hr}', f'--out={out}'])
  assert refused(code, capsys.readouterr(), case.said, case.named)
  assert not out.exists()


# A picture alone has no partner to miss.
@pytest.mark.parametrize('kind', ['not a picture', 'truncated', 'zero bytes', 'huge', 'several pages', 'locked'])
def test_upscale_goes_on_without_the_file(kind, folders, params, tmp_path, capsys):
  case = _spoil(kind, folders)
  folder = folders[1] if kind in ('truncated', 'locked') else folders[0]
  assert upscale.main([f'--params={params}', str(folder), str(tmp_path / 'out')]) == 1
  error = capsys.readouterr().err
  assert error.startswith('Failed: ')
  assert error.count('\n') == 1
  assert case.said in error
  assert case.named in error
  assert len(list((tmp_path / 'out').iterdir())) == 2


def test_upscale_names_a_dangling_link(folders, params, tmp_path, capsys):
  _spoil('dangling link', folders)
  assert upscale.main([f'--params={params}', str(folders[0]), str(tmp_path / 'out')]) == 1
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert f'{NAME}.png' in error
  assert 'no such file' in error.lower()


def test_doctor_lists_the_file_and_goes_on(broken, tmp_path, capsys):
  lr, hr, case = broken
  assert doctor.main([f'--lr={lr}', f'--hr={hr}', f'--out={tmp_path}/doctor']) == 1
  output = capsys.readouterr().out
  assert f'fault    {NAME}' in output
  assert case.said in output
  content = json.loads((tmp_path / 'doctor' / 'doctor.json').read_text())
  assert sum(bool(pair['measures']) for pair in content['pairs'].values()) == 2


def test_doctor_mends_by_leaving_out(tmp_path, capsys):
  lr, hr = write_pairs(tmp_path / 'pictures', 5)
  for i, kind in enumerate(('zero bytes', 'truncated', 'wrong scale')):
    CASES[kind].spoil(lr / f'p{i:02d}.png', hr / f'p{i:02d}.png')
  mended = tmp_path / 'mended'
  assert doctor.main([f'--lr={lr}', f'--hr={hr}', f'--out={tmp_path}/doctor', f'--fix={mended}']) == 1
  left_out = capsys.readouterr().out.split('left out:')[1]
  assert all(f'p{i:02d}' in left_out for i in range(3))
  assert evaluate.main(['--params=bicubic', f'--lr={mended}/LR', f'--hr={mended}/HR', '--scale=2']) == 0
  assert 'Mean of 2 pictures' in capsys.readouterr().out


def test_every_broken_file_is_named_at_once(tmp_path, capsys):
  kinds = [kind for kind in BROKEN if kind not in ('locked', 'truncated')]
  lr, hr = write_pairs(tmp_path / 'pictures', len(kinds) + 1)
  for i, kind in enumerate(kinds):
    CASES[kind].spoil(lr / f'p{i:02d}.png', hr / f'p{i:02d}.png')
  assert evaluate.main(['--params=bicubic', f'--lr={lr}', f'--hr={hr}', '--scale=2']) == 2
  error = capsys.readouterr().err
  assert 'Traceback' not in error
  for i in range(len(kinds)):
    assert f'p{i:02d}.' in error


# --- files that go away while a command runs


def after(monkeypatch, module, name, action):
  """Does something once, after a function of a module has returned for the first time."""
  function, done = getattr(module, name), []

  def wrapped(*args, **kwargs):
    result = function(*args, **kwargs)
    if not done:
      done.append(action())
    return result

  monkeypatch.setattr(module, name, wrapped)


def test_evaluate_when_a_file_disappears(folders, params, tmp_path, monkeypatch, capsys):
  lr, hr = folders
  after(monkeypatch, data, 'open_source', (lr / f'{NAME}.png').unlink)
  code = evaluate.main([f'--params={params}', f'--lr={lr}', f'--hr={hr}', f'--out={tmp_path}/a.json'])
  assert refused(code, capsys.readouterr(), 'cannot be read: no such file')
  assert not (tmp_path / 'a.json').exists()


@pytest.mark.parametrize('side', [0, 1])
def test_main_when_a_file_disappears_while_it_trains(folders, tmp_path, monkeypatch, capsys, side):
  from adaptsr_jax.adapt import prepare

  after(monkeypatch, prepare, 'check_pixels', (folders[side] / f'{NAME}.png').unlink)
  config = settings(*folders, steps=4, **{'data.cache_gb': 0.0})
  assert refused(start(monkeypatch, config, tmp_path / 'run'), capsys.readouterr(), 'no such file')


def test_main_does_not_miss_a_file_that_it_keeps(folders, tmp_path, monkeypatch):
  from adaptsr_jax.adapt import prepare

  after(monkeypatch, prepare, 'check_pixels', (folders[0] / f'{NAME}.png').unlink)
  config = settings(*folders, steps=1, **{'lora.rule': 'uniform'})
  assert start(monkeypatch, config, tmp_path / 'run') == 0


def test_upscale_when_a_file_disappears(folders, params, tmp_path, monkeypatch, capsys):
  lr, _ = folders
  after(monkeypatch, upscale, '_jobs', (lr / f'{NAME}.png').unlink)
  assert upscale.main([f'--params={params}', str(lr), str(tmp_path / 'out')]) == 1
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert f'{NAME}.png cannot be read: no such file' in error


def test_doctor_when_a_file_disappears(folders, tmp_path, monkeypatch, capsys):
  from adaptsr_jax.doctor import folders as doctor_folders

  lr, hr = folders
  after(monkeypatch, doctor_folders, 'find', (hr / f'{NAME}.png').unlink)
  assert doctor.main([f'--lr={lr}', f'--hr={hr}', f'--out={tmp_path}/doctor']) == 1
  assert f'{NAME}.png cannot be read: no such file' in capsys.readouterr().out


def test_a_folder_that_may_not_be_listed(folders, tmp_path, monkeypatch, capsys):
  if os.geteuid() == 0:
    pytest.skip('root may list every folder')
  lr, hr = folders
  lr.chmod(0)
  try:
    assert evaluate.main(['--params=bicubic', f'--lr={lr}', f'--hr={hr}', '--scale=2']) == 2
    assert 'permission denied' in capsys.readouterr().err.lower()
  finally:
    lr.chmod(0o755)


# --- values: odd kinds of files give the same numbers as plain ones


def test_kinds_that_lose_nothing_give_the_same_numbers(tmp_path):
  def measured(spoil):
    lr, hr = write_pairs(tmp_path / spoil.__name__, 2)
    for folder in (lr, hr):
      for path in folder.iterdir():
        spoil(path)
    out = tmp_path / f'{spoil.__name__}.json'
    assert evaluate.main(['--params=bicubic', f'--lr={lr}', f'--hr={hr}', '--scale=2', f'--out={out}']) == 0
    return json.loads(out.read_text())['images']

  def plain(path: Path):
    pass

  def bmp(path: Path):
    Image.fromarray(image.read_array(path)).save(path.with_suffix('.bmp'))
    path.unlink()

  def opaque(path: Path):
    rgb = image.read_array(path)
    Image.fromarray(np.dstack([rgb, np.full(rgb.shape[:2], 9, np.uint8)])).save(path)

  def deep(path: Path):
    assert cv2.imwrite(str(path), image.read_array(path)[..., ::-1].astype(np.uint16) * 257)

  expected = measured(plain)
  for spoil in (bmp, opaque, deep):
    found = measured(spoil)
    for name, row in expected.items():
      # 16 bit enlarges unrounded levels: the last digit of 8 bit may fall otherwise.
      assert found[name] == pytest.approx(row, abs=1e-9 if spoil is not deep else 1e-2)


def test_the_same_sentence_from_the_functions(folders, tmp_path):
  lr, hr = folders
  _spoil('zero bytes', folders)
  with pytest.raises(UserError, match=r'p01\.png is empty'):
    adapt.run(settings(lr, hr), tmp_path / 'run')

"""Packed crops: the command, what it writes and refuses, and the pictures that come back."""

import json
import os
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from adaptsr_jax import data, pack
from adaptsr_jax.data import open_source, packed
from adaptsr_jax.data.sources import shrink
from adaptsr_jax.errors import UserError

SCALE = 2


def put(path, array):
  path.parent.mkdir(exist_ok=True)
  if array.dtype == np.uint16:
    import cv2

    assert cv2.imwrite(str(path), array[..., ::-1])
  else:
    Image.fromarray(array).save(path)


@pytest.fixture
def folder(tmp_path):
  """Two pairs, and in `deep` one of 16 bit; every LR pixel is the top left one of its HR square."""
  rng = np.random.default_rng(0)
  for name, shape, dtype in (('a', (20, 30, 3), np.uint8), ('b', (7, 12, 3), np.uint8)):
    hr = rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)
    put(tmp_path / 'HR' / f'{name}.png', hr)
    put(tmp_path / 'LR' / f'{name}.png', hr[: len(hr) // 2 * 2 : 2, ::2])
  deep = rng.integers(0, 2**16, (8, 8, 3), dtype=np.uint16)
  put(tmp_path / 'HR' / 'deep.png', deep)
  put(tmp_path / 'LR' / 'deep.png', (deep[::2, ::2] >> 8).astype(np.uint8))
  return tmp_path


def run(folder, *args, lr=True):
  source = [f'--hr={folder / "HR"}'] + ([f'--lr={folder / "LR"}'] if lr else [])
  return pack.main([*source, '--scale=2', '--crop=8', '--stride=6', f'--out={folder / "packed"}', *args])


def open_packed(folder, scale=SCALE, **fields):
  return open_source(SimpleNamespace(packed=str(folder / 'packed'), **fields), scale)


def test_crops_are_those_of_the_pictures(folder, capsys):
  assert run(folder) == 0
  out = capsys.readouterr().out
  assert '3 pairs, x2' in out
  assert f'18 crops in {folder}/packed' in out
  source = open_packed(folder)
  whole = {name: (lr, hr) for name, lr, hr in data.pairs(open_source(SimpleNamespace(**folders_of(folder)), SCALE))}
  # HR of 20 x 30: rows 0, 6 and 12, columns 0, 6, 12, 18 and 22.
  places = [('a', top, left) for top in (0, 6, 12) for left in (0, 6, 12, 18, 22)]
  # HR of 6 x 12 (a row is cut): lower than a crop, columns 0 and 4.
  places += [('b', 0, 0), ('b', 0, 4), ('deep', 0, 0)]
  assert len(source) == len(places)
  for (name, top, left), (crop, lr, hr) in zip(places, data.pairs(source), strict=True):
    assert crop.startswith(f'{name}_s')
    np.testing.assert_array_equal(hr, whole[name][1][top : top + 8, left : left + 8])
    np.testing.assert_array_equal(lr, whole[name][0][top // 2 : top // 2 + 4, left // 2 : left // 2 + 4])
    assert (lr.dtype, hr.dtype) == (whole[name][0].dtype, whole[name][1].dtype)
    assert not hr.flags.writeable
  assert source.names[:2] == ['a_s000', 'a_s001']
  assert source.lr_size(15) == (3, 4)
  assert source.describe() == 'packed (crops of 3 pictures), x2: 18 pairs, LR 4x3 to 4x4'


def folders_of(folder):
  return {'hr': str(folder / 'HR'), 'lr': str(folder / 'LR')}


def test_lr_made_from_hr_is_that_of_the_whole_picture(folder):
  assert run(folder, '--names=a', lr=False) == 0
  source = open_packed(folder)
  hr = np.asarray(Image.open(folder / 'HR' / 'a.png'))
  np.testing.assert_array_equal(source[7]['lr'], shrink(hr, 2)[3:7, 6:10])
  assert source.describe().endswith('made from HR by bicubic shrinking')
  # Such crops may go through a simulated camera; real pairs may not.
  camera = open_packed(folder, degrade='realesrgan')
  assert camera.preset(0) == 'realesrgan'
  np.testing.assert_array_equal(camera.hr(7), hr[6:14, 12:20])
  assert run(folder, '--force') == 0
  with pytest.raises(UserError, match='degrade is realesrgan, but packed has LR pictures of its own'):
    open_packed(folder, degrade='realesrgan')


def test_batches_and_pickling(folder):
  assert run(folder, '--skip_names=b') == 0
  source = open_packed(folder)
  expected = None
  for workers in (0, 1):
    iterator = data.train_batches(source, 4, 6, SCALE, seed=0, workers=workers)
    batch = next(iterator)
    iterator.close()
    if expected is not None:
      np.testing.assert_array_equal(batch['hr'], expected)
    expected = batch['hr']
  again = pickle.loads(pickle.dumps(source))
  np.testing.assert_array_equal(again[3]['lr'], source[3]['lr'])
  assert repr(again) == repr(source)


def test_names_choose_pictures_or_crops(folder):
  assert run(folder) == 0
  assert open_packed(folder, names='b').names == ['b_s000', 'b_s001']
  assert open_packed(folder, names='b_s001,deep').names == ['b_s001', 'deep_s000']
  assert len(open_packed(folder, skip_names='a')) == 3
  with pytest.raises(UserError, match="lists 'c'"):
    open_packed(folder, names='c')


def test_repr_follows_the_pictures(folder):
  assert run(folder) == 0
  first = repr(open_packed(folder))
  assert run(folder, '--force') == 0
  assert repr(open_packed(folder)) == first
  assert run(folder, '--force', '--stride=8') == 0
  assert repr(open_packed(folder)) != first
  assert repr(open_packed(folder, names='a')) != repr(open_packed(folder, names='b'))


def test_a_data_set_by_its_root(folder):
  assert (
    pack.main([f'--root={folder}', '--scale=2', '--crop=8', '--stride=8', f'--out={folder / "new" / "packed"}']) == 0
  )
  assert packed.read_index(folder / 'new' / 'packed')['crop'] == 8


@pytest.mark.parametrize(
  ('args', 'words'),
  [
    (['--crop=7'], 'crop is 7; it must be a positive multiple of the scale, 2'),
    (['--stride=0'], 'stride is 0; it must be a positive multiple of the scale, 2 and at most the crop of 8'),
    (['--stride=10'], 'at most the crop of 8'),
    (['--scale=0'], '--scale is 0'),
    (['--scale=4'], 'x2 pairs given to a x4 model'),
    (['--names=c'], "lists 'c'"),
    (['--root=x'], 'hr and root are both given'),
  ],
)
def test_calls_that_are_refused(folder, capsys, args, words):
  assert run(folder, *args) == 2
  err = capsys.readouterr().err
  assert err.startswith('Error: ')
  assert words in err
  assert not (folder / 'packed').exists()


def test_what_is_there_is_kept(folder, capsys):
  assert run(folder) == 0
  before = (folder / 'packed' / packed.INDEX).read_bytes()
  assert run(folder, '--stride=8') == 2
  assert 'is there; replace it with --force' in capsys.readouterr().err
  assert (folder / 'packed' / packed.INDEX).read_bytes() == before
  other = folder / 'HR'
  assert run(folder, '--force', f'--out={other}') == 2
  assert 'is there and is not a packed folder' in capsys.readouterr().err
  assert len(list(other.iterdir())) == 3


def test_a_fault_on_the_way_leaves_nothing(folder, capsys):
  assert run(folder) == 0
  before = sorted(os.listdir(folder))
  path = folder / 'LR' / 'b.png'
  path.write_bytes(path.read_bytes()[:-40])
  assert run(folder, '--force', '--stride=8') == 2
  assert 'b.png' in capsys.readouterr().err
  assert sorted(os.listdir(folder)) == before
  assert len(open_packed(folder)) == 18


def test_an_interrupt_leaves_nothing(folder, capsys, monkeypatch):
  before = sorted(os.listdir(folder))

  def interrupted(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(packed, '_record', interrupted)
  assert run(folder) == 130
  assert 'nothing was written' in capsys.readouterr().err
  assert sorted(os.listdir(folder)) == before


def test_damaged_and_foreign_folders(folder):
  with pytest.raises(UserError, match='is no folder that adaptsr_jax.pack wrote'):
    open_packed(folder)
  assert run(folder) == 0
  with pytest.raises(UserError, match='has pairs of x2, and the model is x4; pack with --scale=4'):
    open_packed(folder, 4)
  records = next((folder / 'packed').glob('*.array_record'))
  whole = records.read_bytes()
  records.write_bytes(whole[:-100])
  with pytest.raises(UserError, match='its index does not fit'):
    open_packed(folder)
  # The right size, but zeros in the middle: seen at the latest when it is read.
  records.write_bytes(whole[:200] + bytes(len(whole) - 300) + whole[-100:])
  with pytest.raises(UserError, match=r'crops\.array_record'):
    data.check_pixels(open_packed(folder))
  records.write_bytes(whole)
  index = folder / 'packed' / packed.INDEX
  content = json.loads(index.read_text())
  index.write_text('{')
  with pytest.raises(UserError, match=r'index\.json is damaged'):
    open_packed(folder)
  index.write_text(json.dumps({**content, 'format': 99}))
  with pytest.raises(UserError, match='of another version'):
    open_packed(folder)


def test_help_is_quick():
  import subprocess
  import sys

  code = (
    'import sys, contextlib, adaptsr_jax.pack as p\n'
    "with contextlib.suppress(SystemExit): p.main(['--help'])\n"
    "sys.exit(bool({'numpy', 'jax', 'array_record'} & set(sys.modules)))"
  )
  result = subprocess.run([sys.executable, '-c', code], check=False, capture_output=True, text=True)
  assert result.returncode == 0
  assert '--stride' in result.stdout

"""Folders of pairs: what is matched, what is refused and in which words, and what is decoded."""

import pickle
import unicodedata
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from adaptsr_jax import image
from adaptsr_jax.data import PairError, open_source, pairs
from adaptsr_jax.data.folders import scale_of
from adaptsr_jax.data.sources import shrink, shrink_window
from adaptsr_jax.errors import UserError
from tests.shared import shared


def picture(h, w, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def put(folder, name, array):
  folder.mkdir(exist_ok=True)
  Image.fromarray(array).save(folder / name)


def put_pair(
  root, hr_name='a.png', lr_name='a.png', scale=2, lr_size=(6, 8), more=(0, 0), folders=('HR', 'LR'), seed=0
):
  h, w = lr_size
  put(root / folders[0], hr_name, picture(h * scale + more[0], w * scale + more[1], seed))
  put(root / folders[1], lr_name, picture(h, w, seed + 100))


def config(root, hr='HR', lr='LR', **fields):
  return SimpleNamespace(hr=str(root / hr) if hr else '', lr=str(root / lr) if lr else '', **fields)


@pytest.mark.parametrize(
  ('hr_names', 'lr_names'),
  [
    (['a.png', 'b.png'], ['a.png', 'b.png']),
    (['Canon_001_HR.png', 'Nikon_001_HR.png'], ['Canon_001_LR2.png', 'Nikon_001_LR2.png']),
    (['baby.png', 'bird.png'], ['babyx2.png', 'birdx2.png']),
    (['0001.png', '0002.png'], ['0001_x2.png', '0002_x2.png']),
    (['P1_x1.png', 'P2_x1.png'], ['P1_x2.png', 'P2_x2.png']),
    (['a.png', 'b.png'], ['a.bmp', 'b.tif']),
    (['a_hr.png', 'b_HR.png'], ['a_lr.png', 'b_LR.png']),
    # Equal stems go first, whatever they end in.
    (['a.png', 'a_x2.png'], ['a.png', 'a_x2.png']),
    (
      ['π 日本.png', unicodedata.normalize('NFD', 'é') + '.png'],
      ['π 日本x2.png', unicodedata.normalize('NFC', 'é') + '.png'],
    ),
  ],
)
def test_partners_are_found_by_name(tmp_path, hr_names, lr_names):
  for seed, names in enumerate(zip(hr_names, lr_names, strict=True)):
    put_pair(tmp_path, *names, seed=seed)
  source = open_source(config(tmp_path), 2)
  found = {item.hr.name: item.lr.name for item in source.items}
  assert {unicodedata.normalize('NFC', k): unicodedata.normalize('NFC', v) for k, v in found.items()} == {
    unicodedata.normalize('NFC', k): unicodedata.normalize('NFC', v) for k, v in zip(hr_names, lr_names, strict=True)
  }


def test_both_kinds_in_one_folder(tmp_path):
  put_pair(tmp_path, 'Canon_001_HR.png', 'Canon_001_LR2.png', folders=('all', 'all'))
  put_pair(tmp_path, 'Canon_002_HR.png', 'Canon_002_LR2.png', folders=('all', 'all'))
  assert open_source(config(tmp_path, 'all', 'all'), 2).names == ['Canon_001_HR', 'Canon_002_HR']


def test_one_folder_without_suffixes_is_explained(tmp_path):
  put(tmp_path / 'all', 'a.png', picture(4, 4))
  with pytest.raises(UserError, match='do not tell LR from HR'):
    open_source(config(tmp_path, 'all', 'all'), 2)


def test_the_scale_in_the_name_chooses_among_several(tmp_path):
  put_pair(tmp_path, 'baby.png', 'babyx2.png')
  put(tmp_path / 'LR', 'babyx4.png', picture(3, 4))
  assert open_source(config(tmp_path), 2).items[0].lr.name == 'babyx2.png'
  assert open_source(config(tmp_path), 4).items[0].lr.name == 'babyx4.png'


def test_symbolic_links_are_pictures(tmp_path):
  put_pair(tmp_path / '.', 'a.png', 'a.png')
  for name in ('HR', 'LR'):
    (tmp_path / f'{name}_links').mkdir()
    (tmp_path / f'{name}_links' / 'linked.png').symlink_to(tmp_path / name / 'a.png')
  assert open_source(config(tmp_path, 'HR_links', 'LR_links'), 2).names == ['linked']


def test_pixels_are_those_of_the_files(tmp_path):
  put_pair(tmp_path, more=(1, 3))
  source = open_source(config(tmp_path), 2)
  for cache_gb in (0, 2):
    source = open_source(config(tmp_path), 2, cache_gb=cache_gb)
    for _ in range(2):
      pair = source[0]
      np.testing.assert_array_equal(pair['lr'], picture(6, 8, 100))
      np.testing.assert_array_equal(pair['hr'], picture(13, 19)[:12, :16])
      assert not pair['lr'].flags.writeable
  [(name, lr, hr)] = pairs(source)
  assert (name, lr.shape, hr.shape) == ('a', (6, 8, 3), (12, 16, 3))
  with pytest.raises(IndexError):
    source[1]


def test_gray_and_16_bit(tmp_path):
  put(tmp_path / 'HR', 'gray.png', picture(8, 8)[..., 0])
  put(tmp_path / 'LR', 'gray.png', picture(4, 4)[..., 0])
  deep = np.random.default_rng(0).integers(0, 2**16, (8, 8, 3), dtype=np.uint16)
  assert cv2.imwrite(str(tmp_path / 'HR' / 'deep.png'), deep[..., ::-1])
  put(tmp_path / 'LR', 'deep.png', picture(4, 4))
  source = open_source(config(tmp_path), 2)
  np.testing.assert_array_equal(source[0]['hr'], deep)
  assert source[0]['lr'].dtype == np.uint8
  np.testing.assert_array_equal(source[1]['hr'], np.repeat(picture(8, 8)[..., :1], 3, axis=2))

  from_hr = open_source(config(tmp_path, lr=''), 2)
  assert from_hr[0]['lr'].dtype == np.uint16
  # 16 bit keeps what 8 bit rounds away, and nothing else: within one 8-bit level plus the rounding between the passes.
  coarse = shrink((deep >> 8).astype(np.uint8), 2).astype(int)
  assert np.abs(from_hr[0]['lr'] / 256 - coarse).max() < 2.5


@pytest.mark.parametrize(
  ('lr_size', 'hr_size', 'words'),
  [
    ((8, 8), (16, 16), 'x2 pairs given to a x4 model (LR 8x8, HR 16x16)'),
    ((8, 8), (25, 24), 'x3 pairs given to a x4 model'),
    ((8, 8), (8, 8), 'LR has the size of HR, as in RealSR'),
    ((32, 32), (8, 8), 'perhaps the folders are swapped'),
    ((8, 8), (40, 32), 'HR is not 4 times LR'),
    ((9, 9), (33, 36), 'HR is smaller than 4 times LR'),
  ],
)
def test_wrong_sizes_are_told_apart(tmp_path, lr_size, hr_size, words):
  for name in ('a.png', 'b.png'):
    put(tmp_path / 'HR', name, picture(*hr_size))
    put(tmp_path / 'LR', name, picture(*lr_size))
  with pytest.raises(PairError) as caught:
    open_source(config(tmp_path), 4)
  assert words in str(caught.value)
  assert 'a.png' in str(caught.value)
  assert 'b.png' in str(caught.value)


@pytest.mark.parametrize('more', [(0, 0), (1, 0), (3, 7)])
def test_hr_may_be_a_little_larger(tmp_path, more):
  put_pair(tmp_path, scale=4, lr_size=(8, 8), more=more)
  source = open_source(config(tmp_path), 4)
  assert source[0]['hr'].shape == (32, 32, 3)
  assert ('HR cut' in source.describe()) == any(more)


def test_every_fault_is_listed_at_once(tmp_path):
  for index, name in enumerate(('fine', 'lonely', 'cut', 'empty', 'x3')):
    put_pair(tmp_path, f'{name}.png', f'{name}.png', seed=index)
  (tmp_path / 'LR' / 'lonely.png').rename(tmp_path / 'LR' / 'lonley.png')
  (tmp_path / 'LR' / 'empty.png').write_bytes(b'')
  header = (tmp_path / 'HR' / 'cut.png').read_bytes()[:12]
  (tmp_path / 'HR' / 'cut.png').write_bytes(header)
  put(tmp_path / 'HR', 'x3.png', picture(18, 24))
  with pytest.raises(PairError) as caught:
    open_source(config(tmp_path), 2)
  lines = str(caught.value).splitlines()
  assert lines[0].startswith('5 pictures cannot be used (5 HR in ')
  # In turn from both folders.
  assert [line.split(':')[0].strip() for line in lines[1:]] == [
    'cut.png',
    'lonley.png',
    'empty.png',
    'lonely.png',
    'x3.png',
  ]
  assert 'no HR picture' in lines[2]
  assert 'LR/empty.png' in lines[3]
  assert 'no LR picture' in lines[4]
  assert 'x3 pairs given to a x2 model' in lines[5]


def test_many_faults_are_counted(tmp_path):
  for index in range(23):
    put(tmp_path / 'HR', f'{index:02}.png', picture(2, 2))
  put(tmp_path / 'LR', 'other.png', picture(1, 1))
  with pytest.raises(PairError) as caught:
    open_source(config(tmp_path), 2)
  lines = str(caught.value).splitlines()
  assert len(lines) == 22
  assert lines[-1] == '  and 4 more'


def test_ambiguous_names(tmp_path):
  put_pair(tmp_path, 'a.png', 'a.png')
  put(tmp_path / 'HR', 'a.bmp', picture(12, 16))
  with pytest.raises(PairError, match='2 HR pictures have this name'):
    open_source(config(tmp_path), 2)
  (tmp_path / 'HR' / 'a.bmp').unlink()
  put(tmp_path / 'LR', 'a.bmp', picture(6, 8))
  with pytest.raises(PairError, match='several LR pictures fit: a.bmp, a.png'):
    open_source(config(tmp_path), 2)


@pytest.mark.parametrize('scale', [1, 2, 3, 4])
def test_scale_told_from_the_pictures(tmp_path, scale):
  put_pair(tmp_path, 'a.png', 'ax4.png', scale=scale, more=(1, 1))
  assert scale_of(str(tmp_path / 'LR'), str(tmp_path / 'HR')) == scale
  (tmp_path / 'LR' / 'ax4.png').rename(tmp_path / 'LR' / 'b.png')
  with pytest.raises(UserError, match='has the name of'):
    scale_of(str(tmp_path / 'LR'), str(tmp_path / 'HR'))


def test_folders_without_pictures(tmp_path):
  put_pair(tmp_path)
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'file').write_text('')
  for fields, words in [
    ({'hr': ''}, 'hr is empty'),
    ({'hr': 'absent'}, 'absent is not there'),
    ({'lr': 'file'}, 'is a file, not a folder'),
    ({'lr': 'empty'}, 'contains no pictures'),
    ({'hr': '.'}, r'its folders are not searched \(HR, LR, empty\)'),
  ]:
    with pytest.raises(UserError, match=words):
      open_source(config(tmp_path, **fields), 2)


def test_truncated_pixels_name_the_file(tmp_path):
  put_pair(tmp_path, lr_size=(40, 40))
  path = tmp_path / 'HR' / 'a.png'
  path.write_bytes(path.read_bytes()[:-6000])
  source = open_source(config(tmp_path), 2)
  with pytest.raises(image.ImageError, match=r'a\.png'):
    source[0]


def test_a_picture_replaced_during_the_run(tmp_path):
  put_pair(tmp_path)
  source = open_source(config(tmp_path), 2)
  put(tmp_path / 'LR', 'a.png', picture(5, 8))
  with pytest.raises(UserError, match=r'a\.png is 8x5 now, but was 8x6'):
    source[0]


def test_names_restrict_the_folder(tmp_path):
  for name in 'abcd':
    put_pair(tmp_path, f'{name}.png', f'{name}x2.png')
  put(tmp_path / 'HR', 'lonely.png', picture(8, 8))
  (tmp_path / 'valid.txt').write_text('a\nc.png\n\n')
  listed = str(tmp_path / 'valid.txt')
  assert open_source(config(tmp_path, names=listed), 2).names == ['a', 'c']
  assert open_source(config(tmp_path, names='b, d'), 2).names == ['b', 'd']
  assert open_source(config(tmp_path, names='', skip_names='lonely,a'), 2).names == ['b', 'c', 'd']
  assert open_source(config(tmp_path, names=listed, skip_names='a'), 2).names == ['c']
  with pytest.raises(UserError, match="names=a,nope lists 'nope'"):
    open_source(config(tmp_path, names='a,nope'), 2)
  with pytest.raises(UserError, match='leave no picture'):
    open_source(config(tmp_path, names='a', skip_names='a'), 2)


def test_repr_tells_pictures_not_places(tmp_path):
  for root in (tmp_path / '1', tmp_path / '2'):
    root.mkdir()
    put_pair(root)
  first, second = (open_source(config(tmp_path / name), 2) for name in '12')
  assert repr(first) == repr(second)
  put_pair(tmp_path / '2', 'b.png', 'b.png')
  assert repr(first) != repr(open_source(config(tmp_path / '2'), 2))
  assert repr(first) == repr(open_source(config(tmp_path / '2', names='a'), 2))
  put(tmp_path / '2' / 'HR', 'a.png', np.zeros((12, 16, 3), np.uint8))
  assert repr(first) != repr(open_source(config(tmp_path / '2', names='a'), 2))
  assert repr(first) != repr(open_source(config(tmp_path / '1', lr=''), 2))


def test_pickles_without_the_cache(tmp_path):
  put_pair(tmp_path, lr_size=(40, 40))
  source = open_source(config(tmp_path), 2)
  source[0]
  text = pickle.dumps(source)
  assert len(text) < 2000
  np.testing.assert_array_equal(pickle.loads(text)[0]['hr'], source[0]['hr'])


def test_cache_only_where_all_fits(tmp_path, monkeypatch):
  for name in 'ab':
    put_pair(tmp_path, f'{name}.png', f'{name}.png')
  decoded = []
  read = image.read_array
  monkeypatch.setattr(image, 'read_array', lambda path: decoded.append(path) or read(path))
  need = 2 * 3 * (6 * 8 + 12 * 16)
  for limit, expected in ((need - 1, 8), (need, 4)):
    decoded.clear()
    source = open_source(config(tmp_path), 2, cache_gb=limit / 2**30)
    for _ in range(2):
      for index in range(2):
        source[index]
    assert len(decoded) == expected


def test_descriptions(tmp_path):
  put_pair(tmp_path, 'a.png', 'a.png')
  assert open_source(config(tmp_path), 2).describe() == '1 pair, x2, LR 8x6'
  put_pair(tmp_path, 'b.png', 'b.png', lr_size=(20, 30))
  assert open_source(config(tmp_path), 2).describe() == '2 pairs, x2, LR 8x6 to 30x20'
  assert (
    open_source(config(tmp_path, lr=''), 4).describe()
    == '2 pairs, x4, LR 4x3 to 15x10, made from HR by bicubic shrinking'
  )


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_lr_from_a_window_is_lr_from_the_whole(tmp_path, scale):
  # Few levels make exact halves frequent, where the order of summation could decide.
  hr = picture(47, 61) // 128 * 128
  put(tmp_path / 'HR', 'a.png', hr)
  whole = shrink(hr, scale)
  h, w = whole.shape[:2]
  assert (h, w) == (47 // scale, 61 // scale)
  kept, fresh = (open_source(config(tmp_path, lr=''), scale, cache_gb) for cache_gb in (2, 0))
  size = 5
  for top in range(h - size + 1):
    for left in range(w - size + 1):
      np.testing.assert_array_equal(
        shrink_window(hr, scale, top, left, size), whole[top : top + size, left : left + size]
      )
  for top, left in ((0, 0), (h - size, w - size), (2, 3)):
    one, other = (source.crop(0, top, left, size) for source in (kept, fresh))
    np.testing.assert_array_equal(one['lr'], other['lr'])
    np.testing.assert_array_equal(one['hr'], other['hr'])
    np.testing.assert_array_equal(one['lr'], whole[top : top + size, left : left + size])


@pytest.mark.parametrize('scale', [2, 4])
def test_shrinking_is_matlab(scale):
  made = open_source(SimpleNamespace(hr=str(shared('data', 'set5', 'HR')), lr=''), scale)
  published = open_source(
    SimpleNamespace(hr=str(shared('data', 'set5', 'HR')), lr=str(shared('data', 'set5', f'LR_bicubic_X{scale}'))), scale
  )
  for (name, lr, _), (_, expected, _) in zip(pairs(made), pairs(published), strict=True):
    np.testing.assert_array_equal(lr, expected, err_msg=name)

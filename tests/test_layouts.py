"""Data sets as they are distributed: told from any of their folders, and explained where they do not suit."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from adaptsr_jax.data import PairError, open_source, pairs, scale_of
from adaptsr_jax.data.layouts import recognise
from adaptsr_jax.errors import UserError
from tests.shared import shared


def put(path, h, w, seed=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)).save(path)


def put_pair(hr, lr, scale, seed=0, size=(6, 8)):
  """Writes a pair whose LR is the mean of HR, so that the two look alike."""
  h, w = size
  small = np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)
  for path, picture in ((hr, small.repeat(scale, 0).repeat(scale, 1)), (lr, small)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def open_root(root, scale, split='train', track='', **fields):
  return open_source(SimpleNamespace(root=str(root), track=track, **fields), scale, split=split)


@pytest.fixture
def realsr(tmp_path):
  """Two training scenes per camera and one for testing, x2 and x4."""
  root = tmp_path / 'RealSR(V3)'
  for camera in ('Canon', 'Nikon'):
    for part, count in (('Train', 2), ('Test', 1)):
      for scale in (2, 4):
        for number in range(count):
          folder, name = root / camera / part / str(scale), f'{camera}_{number + 1:03}'
          put_pair(folder / f'{name}_HR.png', folder / f'{name}_LR{scale}.png', scale, number)
  return root


@pytest.mark.parametrize(
  ('level', 'split', 'scale', 'start', 'names'),
  [
    (
      '..',
      'train',
      4,
      'RealSR V3, Canon and Nikon, train, x4: 4 pairs',
      ['Canon_001', 'Canon_002', 'Nikon_001', 'Nikon_002'],
    ),
    ('.', 'test', 2, 'RealSR V3, Canon and Nikon, test, x2: 2 pairs', ['Canon_001', 'Nikon_001']),
    ('Canon', 'train', 4, 'RealSR V3, Canon, train, x4: 2 pairs', ['Canon_001', 'Canon_002']),
    # A folder inside a part decides the part.
    ('Canon/Test', 'train', 4, 'RealSR V3, Canon, test, x4: 1 pair', ['Canon_001']),
    ('Nikon/Train/2', 'test', 2, 'RealSR V3, Nikon, train, x2: 2 pairs', ['Nikon_001', 'Nikon_002']),
  ],
)
def test_realsr_from_any_level(realsr, level, split, scale, start, names):
  source = open_root(realsr / level, scale, split)
  assert source.describe().startswith(start)
  assert source.names == [f'{name}_HR' for name in names]
  for _, lr, hr in pairs(source):
    np.testing.assert_array_equal(hr[::scale, ::scale], lr)


def test_realsr_without_what_is_asked_for(realsr):
  with pytest.raises(UserError, match='no pairs of x3; there are x2, x4'):
    open_root(realsr, 3)
  (realsr / 'Nikon' / 'Test').rename(realsr / 'Nikon' / 'Spare')
  with pytest.raises(UserError, match='Nikon has no Test folder'):
    open_root(realsr, 4, 'test')
  with pytest.raises(UserError, match='track is unknown, but RealSR V3 in .* has no tracks'):
    open_root(realsr, 4, track='unknown')


def test_realsr_v2_is_explained(tmp_path):
  folder = tmp_path / 'RealSR(V2)' / 'Canon' / 'Train' / '4'
  for kind in ('HR', 'LR4'):
    put(folder / f'Canon_001_{kind}.png', 16, 16)
  with pytest.raises(UserError, match='V1 or V2, whose LR pictures were enlarged .* x4 model .* take RealSR V3'):
    open_root(tmp_path / 'RealSR(V2)', 4)
  assert open_root(folder, 1).describe().startswith('RealSR V2, Canon, train, x1: 1 pair')


def test_realsr_with_folders_of_lr_and_hr(tmp_path):
  for kind, side in (('HR', 16), ('LR', 4)):
    put(tmp_path / 'Nikon' / 'train' / 'x4' / kind / 'Nikon_001.png', side, side)
  assert open_root(tmp_path, 4).describe().startswith('RealSR V3, Nikon, train, x4: 1 pair')


def test_cameras_with_the_same_names_get_them_prefixed(tmp_path):
  from adaptsr_jax.data.folders import Folders, find_pairs

  for camera in ('Canon', 'Nikon'):
    put_pair(tmp_path / camera / '1_HR.png', tmp_path / camera / '1_LR2.png', 2)
  places = [Folders(str(tmp_path / camera), str(tmp_path / camera), camera) for camera in ('Canon', 'Nikon')]
  assert [item.name for item in find_pairs(places, 2)] == ['Canon_1_HR', 'Nikon_1_HR']
  assert [item.name for item in find_pairs(places, 2, names='Nikon_1_HR')] == ['Nikon_1_HR']
  unlabelled = [place._replace(camera='') for place in places]
  with pytest.raises(PairError, match='2 HR pictures have this name'):
    find_pairs(unlabelled, 2)


# The scale stands on either side of the published archives, and inside the names of patches.
@pytest.mark.parametrize('hr_mark, lr_mark', [('_x4', '_x1'), ('_x1', '_x4'), ('', '')])  # noqa: PT006
@pytest.mark.parametrize('tail', ['', '_0012'])
def test_drealsr(tmp_path, hr_mark, lr_mark, tail):
  for part, word in (('Train_x4', 'train'), ('Test_x4', 'test')):
    for number, name in enumerate(('Canon_10', 'DSC_0988', 'P1140090')):
      folder = tmp_path / 'x4' / part
      put_pair(
        folder / f'{word}_HR' / f'{name}{hr_mark}{tail}.png',
        folder / f'{word}_LR' / f'{name}{lr_mark}{tail}.png',
        4,
        number,
      )
  for level in ('.', 'x4', 'x4/Train_x4'):
    source = open_root(tmp_path / level, 4)
    assert source.describe() == 'DRealSR, train, x4: 3 pairs, LR 8x6'
    for _, lr, hr in pairs(source):
      np.testing.assert_array_equal(hr[::4, ::4], lr)
  assert open_root(tmp_path, 4, 'test').describe() == 'DRealSR, test, x4: 3 pairs, LR 8x6'
  with pytest.raises(UserError, match='is DRealSR without Train_x2; there are Train_x4, Test_x4'):
    open_root(tmp_path, 2)
  # A missing file is named; order would silently pair strangers.
  (tmp_path / 'x4' / 'Train_x4' / 'train_LR' / f'DSC_0988{lr_mark}{tail}.png').unlink()
  with pytest.raises(PairError, match='DSC_0988'):
    open_root(tmp_path, 4)


def test_names_that_share_nothing_go_by_order_if_pictures_look_alike(tmp_path):
  folder = tmp_path / 'Train_x4'
  for number in range(3):
    put_pair(folder / 'train_HR' / f'h{number}.png', folder / 'train_LR' / f'l{number}.png', 4, number)
  for _, lr, hr in pairs(open_root(tmp_path, 4)):
    np.testing.assert_array_equal(hr[::4, ::4], lr)
  for number in range(3):
    put(folder / 'train_LR' / f'l{number}.png', 6, 8, seed=50 + number)
  with pytest.raises(PairError, match='no LR picture of this name'):
    open_root(tmp_path, 4)


@pytest.fixture
def div2k(tmp_path):
  """One picture to train with, one to test, in HR, two tracks of x4 and one of x2."""
  root = tmp_path / 'DIV2K'
  for part, name in (('train', '0001'), ('valid', '0801')):
    put(root / f'DIV2K_{part}_HR' / f'{name}.png', 24, 24)
    for track, scale in (('bicubic', 2), ('bicubic', 4), ('unknown', 4)):
      put(root / f'DIV2K_{part}_LR_{track}' / f'X{scale}' / f'{name}x{scale}.png', 24 // scale, 24 // scale)
  return root


def test_div2k(div2k):
  source = open_root(div2k, 4, track='unknown')
  assert (source.label, source.names) == ('DIV2K unknown', ['0001'])
  assert source.describe() == 'DIV2K, unknown track, train, x4: 1 pair, LR 6x6'
  assert 'LR_unknown/X4' in str(source.items[0].lr)
  assert open_root(div2k, 4, 'test', 'bicubic').names == ['0801']
  # x2 has one track only.
  assert open_root(div2k, 2).describe() == 'DIV2K, bicubic track, train, x2: 1 pair, LR 12x12'
  with pytest.raises(UserError, match='has several tracks; choose one by track: bicubic, unknown'):
    open_root(div2k, 4)
  with pytest.raises(UserError, match='track is wilder, which .* does not contain; it has bicubic, unknown'):
    open_root(div2k, 4, track='wilder')
  with pytest.raises(UserError, match=r'no LR pictures of x3 for them \(there are x2, x4\); give hr=.*DIV2K_train_HR'):
    open_root(div2k, 3)


def test_div2k_from_its_folders(div2k):
  for level in ('DIV2K_train_LR_unknown', 'DIV2K_train_LR_unknown/X4'):
    assert open_root(div2k / level, 4, 'test').describe().startswith('DIV2K, unknown track, train, x4')
  assert open_root(div2k / 'DIV2K_valid_HR', 4, track='bicubic').describe().startswith('DIV2K, bicubic track, valid')


@pytest.mark.parametrize(
  ('hr', 'lr', 'scale', 'track'),
  [
    ('DIV2K_train_HR', 'DIV2K_train_LR_bicubic/0001x4.png', 4, 'bicubic'),
    ('DIV2K_train_HR', 'DIV2K_train_LR_bicubic/0001x2.png', 2, 'bicubic'),
    ('DIV2K_train_HR', 'DIV2K_train_LR_bicubic_X4/0001x4.png', 4, 'bicubic'),
    ('DIV2K_train_HR', 'DIV2K_train_LR_unknown_X3/0001.png', 3, 'unknown'),
    ('DIV2K_train_HR', 'DIV2K_train_LR_bicubic_X4/X4/0001x4.png', 4, 'bicubic'),
    ('DIV2K_train_HR', 'DIV2K_train_LR_bicubic/x4/0001.png', 4, 'bicubic'),
    ('DIV2K_train_HR/DIV2K_train_HR', 'DIV2K_train_LR_bicubic_X2/DIV2K_train_LR_bicubic/X2/0001x2.png', 2, 'bicubic'),
    ('DIV2K_train_HR/DIV2K_train_HR', 'DIV2K_train_LR_unknown_X4/DIV2K_train_LR_unknown/0001x4.png', 4, 'unknown'),
    ('DIV2K_train_HR', 'DIV2K_train_LR_x8/0001x8.png', 8, 'bicubic'),
    ('DIV2K_train_HR/DIV2K_train_HR', 'DIV2K_train_LR_x8/DIV2K_train_LR_x8/0001x8.png', 8, 'bicubic'),
    ('DIV2K_train_HR', 'DIV2K_train_LR_difficult/DIV2K_train_LR_difficult/0001x4d.png', 4, 'difficult'),
    ('DIV2K_train_HR', 'DIV2K_train_LR_wild/0001x4w1.png', 4, 'wild'),
  ],
)
def test_div2k_as_it_is_unpacked(tmp_path, hr, lr, scale, track):
  root = tmp_path / 'DIV2K'
  put_pair(root / hr / '0001.png', root / lr, scale)
  levels = [tmp_path, root, root / 'DIV2K_train_HR', (root / lr).parent]
  for level in levels:
    source = open_root(level, scale)
    assert source.describe().startswith(f'DIV2K, {track} track, train, x{scale}'), level
    assert source.names == ['0001']
  with pytest.raises(UserError, match=rf'no LR pictures of x7 for them \(there are x{scale}\)'):
    open_root(root, 7)


def test_div2k_with_all_scales_in_one_folder(tmp_path):
  for scale in (2, 3, 4):
    lr = tmp_path / 'DIV2K_train_LR_bicubic' / f'0001x{scale}.png'
    put_pair(tmp_path / 'DIV2K_train_HR' / '0001.png', lr, scale, size=(24 // scale, 24 // scale))
  for scale in (2, 3, 4):
    assert open_root(tmp_path, scale).describe() == (
      f'DIV2K, bicubic track, train, x{scale}: 1 pair, LR {24 // scale}x{24 // scale}'
    )


def test_div2k_wild_takes_the_first_of_several(tmp_path):
  for number in range(1, 5):
    lr = tmp_path / 'DIV2K_train_LR_wild' / f'0001x4w{number}.png'
    put_pair(tmp_path / 'DIV2K_train_HR' / '0001.png', lr, 4)
  source = open_root(tmp_path, 4)
  assert 'the first of several LR pictures each' in source.describe()
  assert source.items[0].lr.name == '0001x4w1.png'
  with pytest.raises(UserError, match='several LR pictures fit: 0001x4w1.png, 0001x4w2.png'):
    open_source(SimpleNamespace(hr=str(tmp_path / 'DIV2K_train_HR'), lr=str(tmp_path / 'DIV2K_train_LR_wild')), 4)
  with pytest.raises(UserError, match='keep one for each'):
    scale_of(str(tmp_path / 'DIV2K_train_LR_wild'), str(tmp_path / 'DIV2K_train_HR'))


def test_marks_of_mild_and_difficult_pair_by_name(tmp_path):
  for mark in ('m', 'd', 'w', 'w1'):
    put_pair(tmp_path / 'HR' / '0001.png', tmp_path / mark / f'0001x4{mark}.png', 4)
    assert open_source(SimpleNamespace(hr=str(tmp_path / 'HR'), lr=str(tmp_path / mark)), 4).names == ['0001']


def test_div2k_mild(tmp_path):
  put_pair(tmp_path / 'DIV2K_train_HR' / '0001.png', tmp_path / 'DIV2K_train_LR_mild' / '0001x4m.png', 4)
  assert open_root(tmp_path, 4).describe().startswith('DIV2K, mild track, train, x4: 1 pair')


def test_dped_is_for_x1(tmp_path):
  for kind in ('iphone', 'canon'):
    for number in range(2):
      put(tmp_path / 'dped' / 'iphone' / 'training_data' / kind / f'{number}.jpg', 10, 10)
  put(tmp_path / 'dped' / 'iphone' / 'test_data' / 'full_size_test_images' / '1.jpg', 20, 20)
  for level in ('.', 'dped', 'dped/iphone', 'dped/iphone/training_data'):
    assert open_root(tmp_path / level, 1).describe() == 'DPED, iphone and canon, train, x1: 2 pairs, LR 10x10'
    with pytest.raises(UserError, match='pairs have one size, for x1 models; its photos of the phone have no HR of x4'):
      open_root(tmp_path / level, 4)
  with pytest.raises(
    UserError, match='no pairs in iphone/test_data/patches; the full-size photos of DPED are unpaired'
  ):
    open_root(tmp_path / 'dped', 1, 'test')


def test_stablesr_test_sets(tmp_path):
  root = tmp_path / 'StableSR_testsets'
  for name, lr, hr in (('DIV2K_V2_val', 'lq', 'gt'), ('RealSRVal_crop128', 'test_LR', 'test_HR')):
    put_pair(root / name / hr / 'a.png', root / name / lr / 'a.png', 4)
  put_pair(root / 'DrealSRVal_crop128' / 'gt' / 'b_HR.png', root / 'DrealSRVal_crop128' / 'lq' / 'b_LR4.png', 4)
  for name in ('DIV2K_V2_val', 'RealSRVal_crop128', 'DrealSRVal_crop128'):
    assert open_root(root / name, 4, 'test').describe() == f'{name} of StableSR, x4: 1 pair, LR 8x6'
    assert open_root(root, 4, 'test', track=name.lower()).label == name
  with pytest.raises(UserError, match='choose one by track: DIV2K_V2_val, RealSRVal_crop128, DrealSRVal_crop128'):
    open_root(root, 4)


@pytest.mark.parametrize(
  ('lr', 'hr'),
  [
    ('LR', 'HR'),
    ('lr', 'hr'),
    ('LQ', 'GT'),
    ('lq', 'gt'),
    ('input', 'target'),
    ('test_LR', 'test_HR'),
    ('LR_bicubic/X4', 'HR'),
    ('LR/x4', 'HR'),
    ('train/LR', 'train/HR'),
    ('train_x4/LR', 'train_x4/HR'),
  ],
)
def test_folders_inside(tmp_path, lr, hr):
  root = tmp_path / 'mine'
  put_pair(root / hr / 'a.png', root / lr / 'a.png', 4)
  source = open_root(root, 4)
  assert source.names == ['a']
  assert source.describe().startswith(('mine (', 'mine, train', 'mine, test'))


def test_parts_are_kept_apart(tmp_path):
  for part, name in (('train', 'a'), ('val', 'b')):
    put_pair(tmp_path / part / 'HR' / f'{name}.png', tmp_path / part / 'LR' / f'{name}.png', 4)
  assert open_root(tmp_path, 4).names == ['a']
  assert open_root(tmp_path, 4, 'test').names == ['b']


def test_one_folder_with_both_kinds(tmp_path):
  put_pair(tmp_path / 'mine' / 'a_HR.png', tmp_path / 'mine' / 'a_LR4.png', 4)
  assert open_root(tmp_path / 'mine', 4).describe() == 'mine, x4: 1 pair, LR 8x6'


def test_published_crops():
  layout = recognise(str(shared('data', 'drealsr_x4')), 4)
  assert layout.description == 'drealsr_x4 (LR and HR), x4'
  assert open_root(shared('data', 'drealsr_x4'), 4).describe() == 'drealsr_x4 (LR and HR), x4: 93 pairs, LR 128x128'
  assert open_root(shared('data', 'set5'), 2).describe().startswith('set5 (LR_bicubic_X2 and HR), x2: 5 pairs')


def test_what_is_not_recognised(tmp_path):
  put(tmp_path / 'photos' / 'a.png', 4, 4)
  put(tmp_path / 'more' / 'b.png', 4, 4)
  with pytest.raises(UserError) as caught:
    open_root(tmp_path, 4)
  text = str(caught.value)
  assert 'it contains folders more, photos, 0 pictures' in text
  assert 'known are RealSR, DRealSR, DIV2K, DPED' in text
  with pytest.raises(UserError, match='root: .*absent is not there'):
    open_root(tmp_path / 'absent', 4)
  with pytest.raises(UserError, match='is a file, not a folder'):
    open_root(tmp_path / 'photos' / 'a.png', 4)


def test_checks_of_sizes_apply(realsr):
  put(realsr / 'Canon' / 'Train' / '4' / 'Canon_002_HR.png', 12, 16)
  with pytest.raises(PairError, match=r'Canon_002_HR\.png: x2 pairs given to a x4 model'):
    open_root(realsr, 4)


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({'hr': 'a', 'root': 'b'}, 'hr and root are both given'),
    ({'root': 'b', 'lr': 'c'}, 'lr is given with root, but it belongs to hr'),
    ({'hr': 'b', 'track': 'c'}, 'track is given with hr, but it belongs to root'),
  ],
)
def test_fields_that_contradict_each_other(fields, words):
  with pytest.raises(UserError, match=words):
    open_source(SimpleNamespace(**fields), 4)


def test_a_simulated_camera_needs_pictures_without_lr(realsr):
  with pytest.raises(UserError, match='degrade is realesrgan, but RealSR V3 has LR pictures of its own'):
    open_root(realsr, 4, degrade='realesrgan')

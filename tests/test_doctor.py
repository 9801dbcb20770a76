"""The doctor: planted faults are found and named, sound pairs are left in peace, and mended copies are aligned."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from adaptsr_jax import bicubic, image
from adaptsr_jax.data.sources import shrink
from adaptsr_jax.doctor import __main__ as doctor
from adaptsr_jax.doctor import duplicates, examine, findings, folders, mend
from adaptsr_jax.errors import UserError
from tests.shared import shared

NAMES = ('Canon_10_x1', 'DSC_1474_x1', 'P1140279_x1', 'panasonic_145_x1', 'sony_169_x1')


def texture(seed, height=256, width=256):
  """Returns uint8 (height, width, 3) with structure of all sizes, as photos have: noise whose amplitude is 1 / f."""
  rng = np.random.default_rng(seed)
  frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
  frequency[0, 0] = 1
  spectrum = np.fft.fft2(rng.normal(size=(3, height, width))) / frequency
  luma, *colours = np.fft.ifft2(spectrum).real
  y = np.stack([luma + 0.15 * colours[0], luma, luma + 0.15 * colours[1]], -1)
  return np.clip(np.rint(128 + 32 * y / y.std()), 0, 255).astype(np.uint8)


def moved(x, down, right):
  """Moves the content of a picture by fractions of a pixel, exactly but for its borders, in the frequency domain."""
  fy, fx = np.fft.fftfreq(x.shape[0])[:, None, None], np.fft.fftfreq(x.shape[1])[None, :, None]
  y = np.fft.ifft2(np.fft.fft2(x, axes=(0, 1)) * np.exp(-2j * np.pi * (down * fy + right * fx)), axes=(0, 1)).real
  return np.clip(np.rint(y), 0, 255).astype(np.uint8)


def write_pairs(folder, hr, scale=4, lr=None):
  """Writes HR pictures (name -> array) and the LR pictures made from them, or given."""
  for side in ('LR', 'HR'):
    (folder / side).mkdir(parents=True, exist_ok=True)
  for name, x in hr.items():
    image.write(folder / 'HR' / f'{name}.png', x)
    image.write(folder / 'LR' / f'{name}.png', (lr or {}).get(name, shrink(x, scale)))
  return folder


def run(folder, *args):
  """Runs the command; returns (exit code, doctor.json)."""
  out = folder.parent / f'{folder.name}_out'
  code = doctor.main([f'--lr={folder}/LR', f'--hr={folder}/HR', f'--out={out}', *map(str, args)])
  return code, json.loads((out / 'doctor.json').read_text()) if code < 2 else None


def said(content, name, severities=('warning', 'fault')):
  """Returns the kinds of what was found in a pair or file."""
  found = content['pairs'][name]['findings'] if name in content['pairs'] else content['files'].get(name, [])
  return {finding['kind'] for finding in found if finding['severity'] in severities}


@pytest.fixture
def real(tmp_path):
  """Copies of five camera pairs."""
  source = shared('data', 'drealsr_x4')
  folder = tmp_path / 'real'
  for side in ('LR', 'HR'):
    (folder / side).mkdir(parents=True)
    for name in NAMES:
      shutil.copyfile(source / side / f'{name}.png', folder / side / f'{name}.png')
  return folder


def change(folder, side, name, function):
  path = folder / side / f'{name}.png'
  image.write(path, function(image.read_array(path)))


def scaled(*gains):
  return lambda x: np.clip(np.rint(x * np.array(gains)), 0, 255).astype(np.uint8)


# --- sound pairs


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_sound_pairs_are_fine(tmp_path, scale, capsys):
  folder = write_pairs(tmp_path / 'p', {f'a{i}': texture(i) for i in range(3)}, scale)
  code, content = run(folder)
  assert code == 0
  assert content['scale'] == scale
  assert not any(pair['findings'] for pair in content['pairs'].values())
  measures = content['pairs']['a0']['measures']
  assert measures['psnr'] > 50
  assert abs(measures['shift']['down']) < 0.01
  assert measures['shift']['agreement'] > 0.99
  assert '3 pairs examined' in capsys.readouterr().out
  assert not (tmp_path / 'p_out' / 'worst.png').exists()


def test_most_real_pairs_are_left_in_peace(tmp_path):
  source = shared('data', 'drealsr_x4')
  pairs = folders.find(f'{source}/LR', f'{source}/HR').pairs[::4]
  measures = [examine.examine(pair, 4) for pair in pairs]
  assert np.mean([m.psnr for m in measures]) == pytest.approx(29.7, abs=1)
  worst = [{f.severity for f in findings.judge(pair, m, 4)} for pair, m in zip(pairs, measures, strict=True)]
  assert not any('fault' in severities for severities in worst)
  assert np.mean(['warning' in severities for severities in worst]) < 0.1
  assert np.mean([not severities for severities in worst]) > 0.5
  assert not duplicates.find(pairs, measures)


# --- registration


@pytest.mark.parametrize(('down', 'right'), [(0.5, 0), (-0.25, 0.75), (2, -1.5), (0, 11.5)])
@pytest.mark.parametrize('scale', [2, 4])
def test_shifts_are_measured_to_a_few_hundredths(tmp_path, down, right, scale):
  hr = texture(0, 384, 320)
  lr = shrink(moved(hr, scale * down, scale * right), scale)
  folder = write_pairs(tmp_path / 'p', {'a': hr}, scale, {'a': lr})
  listing = folders.find(f'{folder}/LR', f'{folder}/HR')
  shift = examine.examine(listing.pairs[0], scale).shift
  assert (shift.down, shift.right) == pytest.approx((down, right), abs=0.04)
  assert shift.error < 0.05
  code, content = run(folder)
  assert code == 1
  assert 'shift' in said(content, 'a')


@pytest.mark.parametrize('amount', [0.5, 1, 2])
def test_shifts_of_real_pairs(real, amount):
  for name in NAMES:
    # HR moves down, so LR lies above it.
    change(real, 'HR', name, lambda x: moved(x, 4 * amount, 0))
  _, content = run(real)
  for name in NAMES:
    assert 'shift' in said(content, name)
    assert content['pairs'][name]['measures']['shift']['down'] == pytest.approx(-amount, abs=0.2)
  assert content['median_shift']['down'] == pytest.approx(-amount, abs=0.1)


def test_a_common_shift_is_said_once_for_all(tmp_path, capsys):
  hr = {f'a{i}': texture(i) for i in range(3)}
  run(write_pairs(tmp_path / 'p', hr, 4, {name: x[::4, ::4] for name, x in hr.items()}))  # corners, not centres
  output = capsys.readouterr().out
  assert 'Median pair: LR lies +0.3' in output
  assert 'shifted alike' in output


def test_rotation_and_parallax_are_told_from_a_shift(tmp_path):
  hr = texture(1, 512, 512)
  turn = cv2.getRotationMatrix2D((255.5, 255.5), 1.0, 1)
  turned = cv2.warpAffine(hr, turn, (512, 512), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
  near = hr.copy()
  near[:, :256] = moved(hr, 0, 8)[:, :256]  # the left half stands nearer: 2 LR pixels
  lr = {'turned': shrink(turned, 4), 'near': shrink(near, 4)}
  _, content = run(
    write_pairs(tmp_path / 'p', {'turned': hr, 'near': hr[:, ::-1]}, 4, {**lr, 'near': lr['near'][:, ::-1]})
  )
  assert 'rotation or zoom' in said(content, 'turned')
  corner = content['pairs']['turned']['measures']['shift']['corner']
  assert corner == pytest.approx(np.radians(1) * np.hypot(64, 64), rel=0.15)
  assert said(content, 'near') & {'local shift', 'rotation or zoom'}


def test_a_flat_picture_is_no_fault(tmp_path):
  code, content = run(write_pairs(tmp_path / 'p', {'sky': np.full((128, 128, 3), 140, np.uint8)}))
  assert code == 0
  assert said(content, 'sky', ('note',)) == {'flat'}
  assert content['pairs']['sky']['measures']['shift']['error'] is None


# --- light


@pytest.mark.parametrize('gain', [1.2, 1 / 1.2])
def test_exposure_of_real_pairs(real, gain):
  before = run(real)[1]
  for name in NAMES:
    change(real, 'LR', name, scaled(gain, gain, gain))
  code, content = run(real)
  assert code == 1
  for name in NAMES:
    assert said(content, name) & {'exposure'}, name
    stops = [np.mean(c['pairs'][name]['measures']['tone']['stops']) for c in (before, content)]
    # About 2.2 times the logarithm: levels are not light.
    assert stops[1] - stops[0] == pytest.approx(2.2 * np.log2(gain), abs=0.2)


def test_white_balance_of_real_pairs(real):
  for name in NAMES:
    change(real, 'LR', name, scaled(1.12, 1, 0.88))
  _, content = run(real)
  for name in NAMES:
    assert 'white balance' in said(content, name), name


def test_gain_and_offset_are_those_that_were_planted(tmp_path):
  hr = texture(2)
  lr = np.clip(np.rint(0.8 * shrink(hr, 4) + [10, 20, 30]), 0, 255).astype(np.uint8)
  _, content = run(write_pairs(tmp_path / 'p', {'a': hr}, 4, {'a': lr}))
  tone = content['pairs']['a']['measures']['tone']
  np.testing.assert_allclose(tone['gain'], 0.8, atol=0.01)
  np.testing.assert_allclose(tone['offset'], [10, 20, 30], atol=1.0)
  assert content['pairs']['a']['measures']['psnr_mended'] > content['pairs']['a']['measures']['psnr'] + 10


# --- content


@pytest.mark.parametrize('how', ['blurred', 'enlarged', 'enlarged and saved as JPEG', 'blurred and noisy'])
def test_hr_without_detail_is_found(real, how):
  def spoil(x):
    if 'blurred' in how:
      x = cv2.GaussianBlur(x, (0, 0), 2.2)
    else:
      x = image.to_uint8(bicubic.imresize(bicubic.imresize(image.to_float(x), 1 / 4), 4))
    if 'JPEG' in how:
      ok, data = cv2.imencode('.jpg', x, [cv2.IMWRITE_JPEG_QUALITY, 92])
      assert ok
      x = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if 'noisy' in how:
      x = np.clip(x + np.random.default_rng(0).normal(0, 2, x.shape), 0, 255).astype(np.uint8)
    return x

  for name in NAMES:
    change(real, 'HR', name, spoil)
  _, content = run(real)
  for name in NAMES:
    assert said(content, name) == {'detail'}, name


def test_clipped_highlights_are_a_note(tmp_path):
  hr = texture(3)
  hr[:120] = 255
  code, content = run(write_pairs(tmp_path / 'p', {'a': hr}))
  assert code == 0
  assert said(content, 'a', ('note',)) == {'clipped'}
  assert content['pairs']['a']['measures']['clipped']['hr'] == pytest.approx(120 / 256, abs=0.01)


def test_swapped_pairs_name_whose_they_are(real, capsys):
  a, b = (real / 'LR' / f'{name}.png' for name in NAMES[:2])
  a.rename(real / 'aside')
  b.rename(a)
  (real / 'aside').rename(b)
  code, content = run(real)
  assert code == 1
  for name, other in (NAMES[:2], NAMES[1::-1]):
    assert said(content, name) == {'unrelated', 'swapped'}
    assert f'{other}.png' in str(content['pairs'][name]['findings'])
  assert not said(content, NAMES[2])
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].startswith('fault')
  assert (real.parent / 'real_out' / 'worst.png').exists()


def test_duplicates_under_other_names(real):
  for side in ('LR', 'HR'):
    shutil.copyfile(real / side / f'{NAMES[0]}.png', real / side / 'zz_same.png')
    shutil.copyfile(real / side / f'{NAMES[1]}.png', real / side / 'zz_saved_again.png')
    change(real, side, 'zz_saved_again', scaled(1.02, 1.02, 1.02))
  shutil.copyfile(real / 'LR' / f'{NAMES[2]}.png', real / 'LR' / 'zz_lr.png')
  shutil.copyfile(real / 'HR' / f'{NAMES[3]}.png', real / 'HR' / 'zz_lr.png')
  _, content = run(real)
  texts = {name: str(content['pairs'][name]['findings']) for name in ('zz_same', 'zz_saved_again', 'zz_lr')}
  assert f'the same file as {NAMES[0]}.png, and so is LR' in texts['zz_same']
  assert f'the same picture as, or nearly, {NAMES[1]}.png, and so is LR' in texts['zz_saved_again']
  assert f'the same file as {NAMES[3]}.png, with another LR' in texts['zz_lr']
  assert 'unrelated' in said(content, 'zz_lr')
  assert not any(said(content, name) for name in NAMES)


def test_an_lr_picture_used_twice(tmp_path):
  hr = {'a': texture(4), 'b': np.where(np.arange(256)[:, None, None] < 160, texture(4), texture(5))}
  _, content = run(write_pairs(tmp_path / 'p', hr, 4, {'b': shrink(hr['a'], 4)}))
  assert 'duplicate' in said(content, 'b')


# --- files


def test_files_that_are_no_pairs(tmp_path):
  folder = write_pairs(tmp_path / 'p', {f'a{i}': texture(i) for i in range(6)})
  whole = (folder / 'HR' / 'a1.png').read_bytes()
  (folder / 'HR' / 'a1.png').write_bytes(whole[: len(whole) // 2])
  (folder / 'LR' / 'a2.png').write_bytes(b'')
  image.write(folder / 'LR' / 'a3.png', shrink(texture(3), 2))
  (folder / 'LR' / 'a4.png').rename(folder / 'LR' / 'b4.png')
  code, content = run(folder)
  assert code == 1
  assert content['scale'] == 4
  assert said(content, 'a1') == {'unreadable'}
  for name in ('a2.png', 'a3.png', 'a4.png', 'b4.png'):
    assert said(content, name) == {'file'}
  assert 'LR 128x128, HR 256x256' in content['files']['a3.png'][0]['text']
  assert [name for name, pair in content['pairs'].items() if not pair['findings']] == ['a0', 'a5']


def test_most_pairs_tell_the_scale_not_the_first(tmp_path):
  folder = write_pairs(tmp_path / 'p', {f'a{i}': texture(i) for i in range(4)}, 2)
  image.write(folder / 'LR' / 'a0.png', shrink(texture(0), 4))
  _, content = run(folder)
  assert content['scale'] == 2
  assert said(content, 'a0.png') == {'file'}
  assert run(folder, '--scale=4')[1]['pairs'].keys() == {'a0'}


def test_16_bit_and_gray(tmp_path):
  folder = write_pairs(tmp_path / 'p', {'a': texture(0)})
  image.write(folder / 'HR' / 'a.png', texture(0).astype(np.uint16) * 257)
  Image.fromarray(texture(1)).convert('L').save(folder / 'HR' / 'b.png')
  Image.fromarray(shrink(image.read_array(folder / 'HR' / 'b.png'), 4)).convert('L').save(folder / 'LR' / 'b.png')
  code, content = run(folder)
  assert code == 0, content


def test_large_pictures_are_shrunk_in_strips(monkeypatch):
  monkeypatch.setattr(examine, '_STRIP', 32)
  x = texture(0, 404, 300)
  whole = 255 * np.clip(bicubic.imresize(image.to_float(x[:400]), 1 / 4), 0, 1)
  np.testing.assert_allclose(examine.shrunk(x, 4, (100, 75)), whole, atol=1e-3)


@pytest.mark.parametrize(
  ('args', 'words'),
  [
    (['--lr=absent'], 'absent is not there'),
    (['--scale=-1'], '--scale is -1'),
    (['--fix_exposure'], 'give --fix=DIR too'),
    (['--out={}/p/LR'], 'lies in the input'),
    (['--fix={}/p/HR/new'], 'lies in the input'),
    (['--fix={}/p'], 'contains an input'),
    (['--fix={}/full'], 'is not empty'),
    (['--fix={}/file'], 'is a file'),
  ],
  ids=str,
)
def test_what_cannot_be_run_is_one_sentence(tmp_path, capsys, args, words):
  folder = write_pairs(tmp_path / 'p', {'a': texture(0)})
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full' / 'kept').write_text('')
  (tmp_path / 'file').write_text('')
  assert run(folder, *(arg.format(tmp_path) for arg in args))[0] == 2
  error = capsys.readouterr().err
  assert error.startswith('Error: ')
  assert words in error
  assert error.count('\n') == 1
  assert sorted(path.name for path in tmp_path.iterdir()) == ['file', 'full', 'p']


# --- mended copies


def files(folder):
  return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob('*') if path.is_file()}


@pytest.mark.parametrize('way', [(3, -6), (-5, 0), (9, 4)])
def test_mended_pairs_are_aligned(tmp_path, way):
  down, right = way  # of LR, in HR pixels
  large = texture(6, 320, 320)
  hr = large[24:280, 24:280]
  lr = shrink(large[24 - down : 280 - down, 24 - right : 280 - right], 4)
  folder = write_pairs(tmp_path / 'p', {'a': hr, 'fine': texture(7)}, 4, {'a': lr})
  before = files(folder)
  code, _ = run(folder, f'--fix={tmp_path}/mended')
  assert code == 1
  assert files(folder) == before
  mended = json.loads((tmp_path / 'mended' / 'mended.json').read_text())
  assert mended['pairs']['a']['hr_moved_by'] == {'down': down, 'right': right}
  assert mended['pairs']['fine'] == {'copied': True}
  assert files(tmp_path / 'mended')['HR/fine.png'] == before['HR/fine.png']
  code, content = run(tmp_path / 'mended')
  assert code == 0
  assert content['pairs']['a']['measures']['psnr'] > 40
  # Not resampled: the pixels of the input, elsewhere.
  top, left, height, width = mended['pairs']['a']['hr_box']
  np.testing.assert_array_equal(
    image.read_array(tmp_path / 'mended' / 'HR' / 'a.png'), hr[top : top + height, left : left + width]
  )


def test_what_cannot_be_mended_is_left_out(real):
  shutil.copyfile(real / 'HR' / f'{NAMES[0]}.png', real / 'HR' / 'zz.png')
  shutil.copyfile(real / 'LR' / f'{NAMES[0]}.png', real / 'LR' / 'zz.png')
  shutil.copyfile(real / 'LR' / f'{NAMES[4]}.png', real / 'LR' / f'{NAMES[1]}.png')
  (real / 'LR' / f'{NAMES[2]}.png').write_bytes(b'')
  out = real.parent / 'mended'
  run(real, f'--fix={out}')
  mended = json.loads((out / 'mended.json').read_text())
  assert set(mended['left_out']) == {'zz', NAMES[1], f'{NAMES[2]}.png'}
  assert set(mended['pairs']) == {NAMES[0], NAMES[3], NAMES[4]}
  assert {path.stem for path in (out / 'LR').iterdir()} == {path.stem for path in (out / 'HR').iterdir()}


def test_light_is_changed_only_when_asked(tmp_path):
  hr = texture(8)
  folder = write_pairs(tmp_path / 'p', {'a': hr}, 4, {'a': scaled(0.8, 0.8, 0.8)(shrink(hr, 4))})
  run(folder, f'--fix={tmp_path}/plain')
  assert files(tmp_path / 'plain')['HR/a.png'] == files(folder)['HR/a.png']
  run(folder, f'--fix={tmp_path}/lit', '--fix_exposure')
  code, content = run(tmp_path / 'lit')
  assert code == 0
  assert content['pairs']['a']['measures']['psnr'] > 45


def test_copies_appear_whole_or_not_at_all(tmp_path, monkeypatch, capsys):
  hr = texture(9)
  folder = write_pairs(tmp_path / 'p', {'a': hr}, 4, {'a': shrink(moved(hr, 0, 4), 4)})

  def full_disk(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(mend.image, 'write', full_disk)
  assert run(folder, f'--fix={tmp_path}/mended')[0] == 2
  assert 'No space left' in capsys.readouterr().err
  assert sorted(path.name for path in tmp_path.iterdir()) == ['p', 'p_out']


@pytest.mark.parametrize('moved_by', [(0, 0), (1, -1), (4, -8), (-3, 17)])
def test_common_area_stays_inside_both(moved_by):
  lr_size, hr_size = (30, 40), (121, 163)
  lr_box, hr_box = mend.common_area(lr_size, hr_size, moved_by, 4)
  for box, size in ((lr_box, lr_size), (hr_box, hr_size)):
    for start, length, whole in zip(box[:2], box[2:], size, strict=True):
      assert start >= 0
      assert length > 0
      assert start + length <= whole
  assert tuple(4 * n for n in lr_box[2:]) == hr_box[2:]
  assert tuple(4 * start - by for start, by in zip(lr_box[:2], moved_by, strict=True)) == hr_box[:2]
  with pytest.raises(UserError, match='nothing in common'):
    mend.common_area(lr_size, hr_size, (500, 0), 4)

"""The sample pictures of the first run: licences, the camera, and how they come to lie in folders."""

import hashlib
import importlib.util
import inspect
from pathlib import Path

import numpy as np
import pytest

from adaptsr_jax import bicubic, config, data, image, metrics
from adaptsr_jax.adapt import prepare
from adaptsr_jax.data import samples
from adaptsr_jax.errors import UserError

PARTS = samples.PHOTOGRAPHS
# SHA-256 of `scene()` as the camera takes it, and its means over 4 x 4 pixels.
PINNED = 'b82e9099987ce00c'
MEANS = (
  (57.4, 122.2, 103.0, 145.6, 125.2, 150.8),
  (111.7, 98.5, 135.8, 121.4, 156.7, 115.6),
  (80.8, 125.3, 110.0, 146.8, 131.6, 148.6),
  (119.2, 96.3, 139.9, 118.5, 160.0, 112.4),
)


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  pytest.importorskip('skimage')
  folder = tmp_path_factory.mktemp('cache')
  samples.folders('samples:train', folder)
  return folder


def scene() -> np.ndarray:
  """Returns a picture (64, 96, 3) uint8 that looks the same everywhere, made of integers alone."""
  y, x = np.mgrid[:64, :96]
  return np.stack([(y * x) % 251, 40 + 2 * x % 180, np.where((x // 16 + y // 16) % 2, 220, 30)], -1).astype(np.uint8)


def test_no_scene_is_on_both_sides():
  files = [photograph.file for part in PARTS.values() for photograph in part]
  assert len(files) == len(set(files)) == 9


@pytest.mark.parametrize('photograph', [p for part in PARTS.values() for p in part], ids=lambda p: p.file)
def test_licences_are_those_of_the_docstrings(photograph):
  skimage_data = pytest.importorskip('skimage.data')
  text = inspect.getdoc(getattr(skimage_data, Path(photograph.file).stem))
  assert {'CC0': 'CC0', 'public domain': 'public domain'}[photograph.licence] in text.replace('\n', ' ')


def test_pairs_are_ordinary_folders(cache):
  for part, photographs in PARTS.items():
    lr, hr = samples.folders(f'samples:{part}', cache)
    stems = sorted(Path(photograph.file).stem for photograph in photographs)
    assert [path.stem for path in image.list_images(lr)] == stems
    folders = config.default().data.train
    folders.lr, folders.hr = str(lr), str(hr)
    source = data.open_source(folders, 4)
    assert source.names == stems
    assert 'cut' not in source.describe()  # HR is exactly four times LR


def test_files_hold_what_the_camera_makes(cache):
  lr, hr = samples.folders('samples:valid', cache)
  np.testing.assert_array_equal(
    image.read_array(lr / 'chelsea.png'), samples.shoot(image.read_array(hr / 'chelsea.png'), 'chelsea')
  )


def test_the_same_picture_in_every_process_and_place():
  shot = samples.shoot(scene(), 'scene')
  assert shot.shape == (16, 24, 3)
  assert shot.dtype == np.uint8
  np.testing.assert_array_equal(shot, samples.shoot(scene(), 'scene'))
  assert (shot != samples.shoot(scene(), 'other')).any()
  # Whoever has to change the pinned value raises samples._REVISION too.
  if hashlib.sha256(shot.tobytes()).hexdigest()[:16] != PINNED:
    # Another JPEG library may round differently.
    np.testing.assert_allclose(shot.reshape(4, 4, 6, 4, 3).mean((1, 3, 4)), MEANS, atol=0.5)


def test_the_camera_does_not_shift():
  y, x = np.mgrid[:128, :128] - 63.5
  hr = np.repeat(np.rint(255 * np.exp(-(x**2 + y**2) / 800))[..., None], 3, -1).astype(np.uint8)
  lr = samples.shoot(hr, 'blob', samples.CAMERA._replace(read_noise=0, shot_noise=0, quality=100)).astype(float)
  lr_y, lr_x = np.mgrid[:32, :32] - 15.5
  for offset in (lr_y, lr_x):
    assert abs((lr.mean(-1) * offset).sum() / lr.sum() * 3) < 0.02  # LR pixels


def test_noise_grows_with_light_and_is_that_of_the_description():
  # Stronger than the camera's own, which rounding to 8 bit would widen.
  camera = samples.CAMERA._replace(read_noise=5 / 255, shot_noise=1e-3, quality=100)
  for level in (64, 192):
    flat = np.full((512, 512, 3), level, np.uint8)
    deviation = (camera.read_noise**2 + camera.shot_noise * level / 255) ** 0.5
    # JPEG at quality 100 halves the resolution of the chroma, so luma tells.
    luma = samples.shoot(flat, 'flat', camera) @ [0.299, 0.587, 0.114]
    assert luma.std() / 255 == pytest.approx(deviation * np.linalg.norm([0.299, 0.587, 0.114]), rel=0.05)


def test_blur_is_longer_along_its_axis():
  hr = np.zeros((64, 64, 3), np.uint8)
  hr[30:34, 30:34] = 255
  camera = samples.Camera(blur=(6.0, 1.5), angle=0.0, read_noise=0, shot_noise=0, quality=100)
  light = samples.shoot(hr, 'spot', camera).astype(float).sum(-1)
  assert (light.max(0) > 10).sum() > 2 * (light.max(1) > 10).sum()


def test_the_camera_costs_fidelity(cache):
  _, folder = samples.folders('samples:valid', cache)
  hr = image.read_array(folder / 'chelsea.png')
  lr = image.read_array(folder.parent / 'LR' / 'chelsea.png')
  by_camera, by_bicubic = (
    metrics.quality(image.to_uint8(bicubic.imresize(x, 4)), hr, 4)['psnr_y']
    for x in (image.to_float(lr), bicubic.imresize(image.to_float(hr), 1 / 4))
  )
  assert 1 < by_bicubic - by_camera < 4


def test_written_once_and_whole(cache, monkeypatch):
  folder = samples.folders('samples:valid', cache)[0].parents[1]
  assert [path.name for path in cache.iterdir()] == [folder.name]
  monkeypatch.setattr(samples, 'read', None)  # would be called to write them again
  samples.folders('samples:valid', cache)


def test_nothing_is_left_of_a_failed_writing(tmp_path, monkeypatch):
  def full(*_):
    raise OSError(28, 'No space left on device')

  pytest.importorskip('skimage')
  monkeypatch.setattr(image, 'write', full)
  with pytest.raises(UserError, match=r'No space left on .*ADAPTSR_JAX_CACHE'):
    samples.folders('samples:train', tmp_path / 'cache')
  assert not list((tmp_path / 'cache').iterdir())


def test_another_camera_is_another_folder(cache, monkeypatch):
  before = samples.folders('samples:train', cache)
  monkeypatch.setattr(samples, 'CAMERA', samples.CAMERA._replace(quality=50))
  monkeypatch.setattr(samples, '_write', lambda folder: None)
  assert samples.folders('samples:train', cache) != before


def test_without_scikit_image_the_extra_is_named(tmp_path, monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(UserError, match=r"pip install 'adaptsr-jax\[quickstart\]'"):
    samples.folders('samples:train', tmp_path)


def test_unknown_part_names_those_that_exist(tmp_path):
  with pytest.raises(UserError, match="'samples:train' and 'samples:valid'"):
    samples.folders('samples:test', tmp_path)


def test_lr_beside_samples_is_refused(cache, monkeypatch):
  monkeypatch.setenv('ADAPTSR_JAX_CACHE', str(cache))
  c = config.default()
  c.base, c.model, c.fields = 'random', 'safmn_x4', 'dim=8,n_blocks=1'
  c.data.train.hr, c.data.train.lr = 'samples:train', 'LR'
  with pytest.raises(UserError, match='leave lr empty'):
    prepare.prepare(c)

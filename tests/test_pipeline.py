"""Batches: aligned, the same for the same seed, and resumed exactly."""

import sys
from types import SimpleNamespace

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from adaptsr_jax import data, image
from adaptsr_jax.data import pipeline
from adaptsr_jax.errors import UserError

SCALE = 2


@pytest.fixture
def folder(tmp_path):
  """Five pictures of unequal sizes, each LR pixel the top left one of its HR square."""
  for name in ('HR', 'LR'):
    (tmp_path / name).mkdir()
  for index in range(5):
    add(tmp_path, index)
  return tmp_path


def add(root, index):
  hr = np.random.default_rng(index).integers(0, 256, (24 + 2 * index, 32, 3), dtype=np.uint8)
  hr = hr[::SCALE, ::SCALE].repeat(SCALE, 0).repeat(SCALE, 1)
  Image.fromarray(hr).save(root / 'HR' / f'{index}.png')
  Image.fromarray(hr[::SCALE, ::SCALE]).save(root / 'LR' / f'{index}.png')


def source_of(root, **fields):
  return data.open_source(SimpleNamespace(hr=str(root / 'HR'), lr=str(root / 'LR'), **fields), SCALE)


def batches(root, batch_size=3, patch=8, seed=0, workers=0, **fields):
  return data.train_batches(source_of(root, **fields), batch_size, patch, SCALE, seed, workers)


def take(iterator, count):
  return [next(iterator) for _ in range(count)]


def assert_same(one, other):
  assert len(one) == len(other)
  for a, b in zip(one, other, strict=True):
    assert a.keys() == b.keys() == {'lr', 'hr'}
    for key in a:
      np.testing.assert_array_equal(a[key], b[key])


def test_lr_and_hr_are_cut_and_turned_alike(folder):
  for batch in take(batches(folder), 40):
    assert batch['lr'].shape == (3, 4, 4, 3)
    assert batch['hr'].shape == (3, 8, 8, 3)
    assert batch['lr'].dtype == batch['hr'].dtype == np.float32
    np.testing.assert_array_equal(batch['hr'], batch['lr'].repeat(SCALE, 1).repeat(SCALE, 2))


def test_all_orientations_and_places_occur(tmp_path):
  for name in ('HR', 'LR'):
    (tmp_path / name).mkdir()
  add(tmp_path, 0)
  lr = image.read_array(tmp_path / 'LR' / '0.png') / np.float32(255)
  squares = {}
  for top in range(lr.shape[0] - 10):
    for left in range(lr.shape[1] - 10):
      square = lr[top : top + 11, left : left + 11]
      for turns in range(4):
        for flipped in (False, True):
          turned = np.rot90(square[::-1] if flipped else square, turns)
          squares[turned.tobytes()] = (top, left, turns, flipped)
  seen = {squares[np.ascontiguousarray(x).tobytes()] for b in take(batches(tmp_path, 8, 22), 200) for x in b['lr']}
  assert len(seen) == len(squares) == 2 * 6 * 8


def test_each_epoch_shows_each_picture_once_in_another_order(folder, monkeypatch):
  monkeypatch.setattr(pipeline.RandomCrop, '__call__', lambda self, index, rng: {'lr': np.array([index], np.uint8)})
  read = take(batches(folder, batch_size=2), 25)
  order = np.rint(255 * np.concatenate([batch['lr'] for batch in read])).reshape(10, 5)
  np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(5), (10, 1)))
  assert len({tuple(epoch) for epoch in order}) > 5


def test_values_are_scaled_by_the_depth_of_the_file(tmp_path):
  import cv2

  for name, side in (('HR', 8), ('LR', 4)):
    (tmp_path / name).mkdir()
    deep = np.full((side, side, 3), 65535, np.uint16)
    deep[0] = 1000
    assert cv2.imwrite(str(tmp_path / name / 'a.png'), deep)
  batch = next(batches(tmp_path, 1))
  assert batch['lr'].max() == 1
  assert batch['lr'].min() == np.float32(1000) / np.float32(65535)


def test_the_seed_decides(folder):
  first = take(batches(folder), 6)
  assert_same(first, take(batches(folder), 6))
  assert_same(first, take(batches(folder, cache_gb=0), 6))
  assert any((a['lr'] != b['lr']).any() for a, b in zip(first, take(batches(folder, seed=1), 6), strict=True))


def test_fewer_pictures_than_the_batch(folder):
  batch = next(batches(folder, batch_size=17))
  assert batch['lr'].shape == (17, 4, 4, 3)


def test_lr_made_from_hr_with_and_without_cache(folder):
  kept, fresh = (
    take(
      data.train_batches(data.open_source(SimpleNamespace(hr=str(folder / 'HR'), lr=''), SCALE, gb), 3, 8, SCALE, 0), 5
    )
    for gb in (2, 0)
  )
  assert_same(kept, fresh)


def test_state_resumes_exactly(folder):
  iterator = batches(folder)
  take(iterator, 5)
  state = iterator.get_state()
  expected = take(iterator, 6)
  iterator.set_state(state)
  assert_same(expected, take(iterator, 6))
  fresh = batches(folder)
  take(fresh, 2)
  fresh.set_state(state)
  assert_same(expected, take(fresh, 6))


def test_resume_through_a_checkpoint(folder, tmp_path):
  iterator = batches(folder)
  take(iterator, 4)
  with ocp.CheckpointManager(tmp_path / 'checkpoints') as manager:
    manager.save(4, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(iterator)))
    manager.wait_until_finished()
    expected = take(iterator, 4)
    fresh = batches(folder)
    manager.restore(4, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(fresh)))
    assert_same(expected, take(fresh, 4))

    add(folder, 5)
    with pytest.raises(UserError, match='pictures was Source.5 pairs'):
      manager.restore(4, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(batches(folder))))


@pytest.mark.parametrize('change', [{'batch_size': 4}, {'patch': 6}, {'seed': 3}])
def test_other_settings_are_refused(folder, change):
  state = batches(folder).get_state()
  with pytest.raises(UserError, match=f'its {next(iter(change))} was'):
    batches(folder, **change).set_state(state)


def test_a_moved_folder_resumes(folder, tmp_path):
  iterator = batches(folder)
  take(iterator, 2)
  state = iterator.get_state()
  expected = take(iterator, 1)
  moved = tmp_path / 'moved'
  moved.mkdir()
  for name in ('HR', 'LR'):
    (folder / name).rename(moved / name)
  again = batches(moved)
  again.set_state(state)
  assert_same(expected, take(again, 1))


def test_workers_give_the_same_batches(folder):
  expected = take(batches(folder), 8)
  iterator = batches(folder, workers=2)
  iterator.set_state({**iterator.get_state(), 'next_batch': 3})
  assert_same(expected[3:], take(iterator, 5))
  # Back to this process: the number of workers is no part of the state.
  again = batches(folder)
  again.set_state({**iterator.get_state(), 'next_batch': 7})
  iterator.close()
  assert_same(expected[7:], take(again, 1))


def test_patches_that_do_not_fit(folder):
  with pytest.raises(UserError, match='multiple of the scale, 2'):
    batches(folder, patch=7)
  with pytest.raises(
    UserError,
    match=r'0\.png \(32x24\) and 1 more are smaller than the patch of 28 HR pixels; use a patch of at most 24',
  ):
    batches(folder, patch=28)
  with pytest.raises(ValueError, match='x2, not x4'):
    data.train_batches(source_of(folder), 3, 8, 4, 0)


def test_a_truncated_picture_stops_with_its_name(folder):
  path = folder / 'HR' / '2.png'
  path.write_bytes(path.read_bytes()[:-40])
  with pytest.raises(image.ImageError, match=r'2\.png'):
    take(batches(folder), 3)


def test_a_closed_iterator_says_so(folder):
  iterator = batches(folder)
  next(iterator)
  iterator.close()
  with pytest.raises(ValueError, match='closed'):
    next(iterator)


def test_sources_need_no_jax():
  import subprocess

  code = 'import sys, adaptsr_jax.data.sources as s; sys.exit("jax" in sys.modules or "grain" in sys.modules)'
  assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0


def test_hr_crops_are_given_the_exposure_of_lr(folder):
  rng = np.random.default_rng(0)
  lr = rng.uniform(0.2, 0.8, (3, 4, 4, 3)).astype(np.float32).repeat(8, 1).repeat(8, 2)
  gain, offset = (rng.uniform(low, high, (3, 1, 1, 1)) for low, high in ((0.8, 1.2), (-0.1, 0.1)))
  noise = 0.02 * rng.standard_normal((3, 64, 64, 3))
  hr = lr.repeat(SCALE, 1).repeat(SCALE, 2)
  matched = pipeline.exposure_matched({'lr': lr, 'hr': (gain * (hr + noise) + offset).astype(np.float32)})['hr']
  assert matched.dtype == np.float32
  np.testing.assert_allclose(matched - noise, hr, atol=0.5 / 255)


def test_batches_are_matched_on_request(folder):
  arguments = source_of(folder), 3, 16, SCALE, 0
  as_given, matched = (take(data.train_batches(*arguments, match_exposure=match), 5) for match in (False, True))
  assert any((a['hr'] != b['hr']).any() for a, b in zip(as_given, matched, strict=True))
  assert_same([pipeline.exposure_matched(batch) for batch in as_given], matched)


def test_flat_crops_are_matched_by_an_offset_alone():
  lr, hr = np.full((1, 8, 8, 3), 0.1, np.float32), np.full((1, 16, 16, 3), 0.12, np.float32)
  hr[0, ::2] += 1e-4
  matched = pipeline.exposure_matched({'lr': lr, 'hr': hr})['hr']
  np.testing.assert_allclose(matched - hr, np.float32(0.1) - hr.mean(), atol=1e-6)


def test_a_run_does_not_go_on_with_another_exposure(folder):
  arguments = source_of(folder), 3, 8, SCALE, 0
  state = data.train_batches(*arguments).get_state()
  with pytest.raises(UserError, match='match_exposure'):
    data.train_batches(*arguments, match_exposure=True).set_state(state)

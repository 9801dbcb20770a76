"""Mixtures: read from text, exact in their proportions, resumed exactly, and with simulated cameras."""

import functools
import itertools
import pickle
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from PIL import Image

from adaptsr_jax import data
from adaptsr_jax.data import mixture, pipeline
from adaptsr_jax.errors import UserError

SCALE = 2


def put(folder, name, level, h=24, w=32, deep=False):
  """Writes a picture of one gray level, by which batches tell where their samples come from."""
  folder.mkdir(parents=True, exist_ok=True)
  if deep:
    import cv2

    assert cv2.imwrite(str(folder / f'{name}.png'), np.full((h, w, 3), 257 * level, np.uint16))
  else:
    Image.fromarray(np.full((h, w, 3), level, np.uint8)).save(folder / f'{name}.png')


@pytest.fixture
def folders(tmp_path):
  """Paired pictures of levels 0 to 4 in `a`, 50 to 52 in `b b`, and HR alone of 100 to 106 in `photos`."""
  for name, first, count in (('a', 0, 5), ('b b', 50, 3)):
    for level in range(first, first + count):
      put(tmp_path / name / 'HR', f'{level}', level)
      put(tmp_path / name / 'LR', f'{level}', level, 12, 16)
  for level in range(100, 107):
    put(tmp_path / 'photos', f'{level}', level, 40, 20 + 2 * (level - 100))
  return tmp_path


def open_mix(root, text, scale=SCALE, **fields):
  return data.open_source(SimpleNamespace(mix=text.replace('@', str(root)), **fields), scale)


def levels(batch, key='hr'):
  """Returns the gray level of each sample."""
  return [round(255 * float(x.mean())) for x in np.asarray(batch[key])]


def take(iterator, count):
  return [next(iterator) for _ in range(count)]


@functools.partial(jax.jit, static_argnames='patch')
def shot(key, hr, patch):
  """A simulated camera: one random gain a batch, the middle of the canvas, LR as mean of HR pixels."""
  n, side = hr.shape[:2]
  start = (side - patch) // 2
  hr = hr[:, start : start + patch, start : start + patch]
  lr = hr.reshape(n, patch // SCALE, SCALE, patch // SCALE, SCALE, 3).mean((2, 4))
  return {'lr': lr * jax.random.uniform(key, minval=0.5), 'hr': hr}


class Cameras(NamedTuple):
  presets: Any
  canvas: int = 24
  digest: str = 'gains from 0.5'


CAMERAS = Cameras({name: functools.partial(shot, patch=8) for name in ('realesrgan', 'stablesr')})


def batches(root, text, batch_size=4, seed=0, workers=0, degrade=None, **fields):
  source = open_mix(root, text, **fields)
  return data.train_batches(source, batch_size, 8, SCALE, seed, workers, degrade)


def test_the_text_form():
  parts = mixture.parse(
    'root=/data/DIV2K track=unknown weight=1; root="/data/RealSR (V3)"; hr=C:\\p degrade=x weight=20'
  )
  assert [part.weight for part in parts] == [1, 1, 20]
  assert [part.config.root for part in parts] == ['/data/DIV2K', '/data/RealSR (V3)', '']
  assert (parts[0].config.track, parts[2].config.hr, parts[2].config.degrade) == ('unknown', 'C:\\p', 'x')
  assert mixture.parse('hr="a;b" names=x,y ;')[0].config.hr == 'a;b'
  assert mixture.parse("hr='a b'; hr=#1")[1].config.hr == '#1'


@pytest.mark.parametrize(
  ('text', 'words'),
  [
    ('', 'mix is empty'),
    (' ; ', 'mix is empty'),
    ('hr=a; folder=b', "part 2 has the field 'folder'; known are lr, hr, root"),
    ('hr=a b', "part 1 has 'b'; write field=value"),
    ('hr=a hr=b', 'part 1 has hr twice'),
    ('hr=a weight=0', 'weight=0; weights are whole numbers'),
    ('hr=a weight=1.5', 'weight=1.5; weights are whole numbers'),
    ('hr="a', 'a quote that is not closed'),
  ],
)
def test_text_that_cannot_be_read(text, words):
  with pytest.raises(UserError, match=words):
    mixture.parse(text)


@pytest.mark.parametrize(
  ('text', 'fields', 'words'),
  [
    ('hr=@/photos; hr=@/absent', {}, 'mix, part 2: hr: .*absent is not there'),
    ('hr=@/photos; weight=2', {}, 'mix, part 2: hr is empty'),
    ('lr=@/a/LR hr=@/a/HR degrade=realesrgan', {}, 'part 1: degrade is realesrgan, but a has LR pictures of its own'),
    ('hr=@/photos', {'degrade': 'realesrgan'}, 'degrade is given beside mix'),
    ('hr=@/photos', {'names': 'a'}, 'names is given beside mix'),
    ('hr=@/photos', {'hr': 'x'}, 'hr and mix are both given'),
  ],
)
def test_mixtures_that_cannot_be_opened(folders, text, fields, words):
  with pytest.raises(UserError, match=words):
    open_mix(folders, text, **fields)


def test_a_mixture_is_a_source(folders):
  source = open_mix(folders, 'root=@/a weight=2; root="@/b b" weight=4; hr=@/photos degrade=realesrgan weight=2')
  assert len(source) == len(source.names) == 15
  assert source.weights == (1, 2, 1)
  assert source.lengths == (5, 3, 7)
  assert [source.preset(i) for i in (0, 4, 5, 7, 8, 14)] == ['', '', '', '', 'realesrgan', 'realesrgan']
  assert [source[i]['hr'][0, 0, 0] for i in (0, 4, 5, 7, 8, 14)] == [0, 4, 50, 52, 100, 106]
  assert source.lr_size(8) == (20, 10)
  assert source.describe(canvas=24).splitlines() == [
    'a 1 : b b 2 : photos + realesrgan 1, x2',
    '  a (LR and HR), x2: 5 pairs, LR 16x12',
    '  b b (LR and HR), x2: 3 pairs, LR 16x12',
    '  photos: 7 pictures, x2, HR 20x40 to 32x40, LR made by realesrgan, '
    '2 mirrored at the bottom or right up to 24 pixels',
  ]
  again = pickle.loads(pickle.dumps(source))
  assert repr(again) == repr(source)
  np.testing.assert_array_equal(again[6]['hr'], source[6]['hr'])
  data.check_pixels(source)


def test_repr_covers_parts_weights_and_cameras(folders):
  texts = [
    'root=@/a; hr=@/photos',
    'root=@/a; hr=@/photos weight=2',
    'root=@/a; hr=@/photos degrade=realesrgan',
    'root=@/a; hr=@/photos degrade=stablesr',
    'root=@/a; hr=@/photos names=100',
    'hr=@/photos; root=@/a',
    'root=@/a',
  ]
  assert len({repr(open_mix(folders, text)) for text in texts}) == len(texts)
  assert repr(open_mix(folders, 'root=@/a; hr=@/photos weight=1 degrade=none')) == repr(open_mix(folders, texts[0]))


def test_the_cache_is_shared(folders):
  text = 'root=@/a; root="@/b b"; hr=@/photos'
  sizes = [part.cache_bytes for part in open_mix(folders, text).parts]
  assert all(sizes)
  limited = open_mix(folders, text, cache_gb=sum(sizes[:2]) / 2**30)
  assert [part.cache_bytes for part in limited.parts] == [*sizes[:2], 0]


@pytest.mark.parametrize(
  'weights', [(1,), (1, 1), (1, 2), (3, 5), (1, 1, 2), (1, 2, 4), (2, 3, 7, 11), (1, 1, 1, 1, 9)]
)
def test_every_beginning_has_the_proportions(weights):
  turns = [part for part, _ in pipeline._turns(weights)]
  total, had = sum(weights), [0] * len(weights)
  assert len(turns) == total
  for number, part in enumerate(turns, 1):
    had[part] += 1
    assert all(abs(count - number * weight / total) < 1 for count, weight in zip(had, weights, strict=True))
  assert had == list(weights)


def test_batches_have_the_proportions_and_parts_their_own_epochs(folders):
  read = [levels(batch) for batch in take(batches(folders, 'root=@/a weight=3; root="@/b b"'), 15)]
  assert all(sum(level >= 50 for level in batch) == 1 for batch in read)
  seen = list(itertools.chain(*read))
  for first, count in ((0, 5), (50, 3)):
    own = [level for level in seen if first <= level < first + count]
    epochs = [own[start : start + count] for start in range(0, len(own), count)]
    assert all(sorted(epoch) == list(range(first, first + count)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 1


def test_two_equal_parts_are_shuffled_apart(folders):
  read = np.array([levels(batch) for batch in take(batches(folders, 'root=@/a; root=@/a', batch_size=2), 20)])
  assert (read[:, 0] != read[:, 1]).any()


def test_one_part_gives_the_batches_of_its_source(folders):
  alone = data.train_batches(data.open_source(SimpleNamespace(root=str(folders / 'a')), SCALE), 4, 8, SCALE, 0)
  for one, other in zip(take(alone, 5), take(batches(folders, 'root=@/a weight=7'), 5), strict=True):
    np.testing.assert_array_equal(one['hr'], other['hr'])


MIX = 'root=@/a; hr=@/photos degrade=realesrgan; hr=@/photos degrade=stablesr weight=2; root="@/b b"'


def test_simulated_cameras_make_pairs(folders):
  for batch in take(batches(folders, MIX, batch_size=5, degrade=CAMERAS), 6):
    assert batch.keys() == {'lr', 'hr'}
    assert batch['lr'].shape == (5, 4, 4, 3)
    assert batch['hr'].shape == (5, 8, 8, 3)
    assert batch['hr'].dtype == np.float32
    hr, lr = levels(batch), np.asarray(batch['lr']).mean((1, 2, 3)) * 255
    assert sum(level < 100 for level in hr) == 2
    given, made = [i for i in range(5) if hr[i] < 100], [i for i in range(5) if hr[i] >= 100]
    np.testing.assert_allclose(lr[given], [hr[i] for i in given], atol=1e-3)
    gains = lr[made] / [hr[i] for i in made]
    # One draw for each camera and batch.
    assert len(set(np.round(gains, 4))) == 2
    assert all((gains > 0.49) & (gains < 1))


def test_only_simulated_cameras(folders):
  source = data.open_source(SimpleNamespace(hr=str(folders / 'photos'), degrade='realesrgan'), SCALE)
  first, second = take(data.train_batches(source, 3, 8, SCALE, 0, 0, CAMERAS), 2)
  assert isinstance(first['lr'], jax.Array)
  gains = [np.asarray(b['lr']).mean() / np.asarray(b['hr']).mean() for b in (first, second)]
  assert abs(gains[0] - gains[1]) > 1e-3


def test_batches_with_cameras_resume_and_do_not_depend_on_workers(folders):
  iterator = batches(folders, MIX, degrade=CAMERAS)
  take(iterator, 3)
  state = iterator.get_state()
  expected = take(iterator, 3)
  for workers in (0, 1):
    again = batches(folders, MIX, workers=workers, degrade=CAMERAS)
    again.set_state(state)
    for one, other in zip(expected, take(again, 3), strict=True):
      for key in ('lr', 'hr'):
        np.testing.assert_array_equal(np.asarray(one[key]), np.asarray(other[key]))
    again.close()
  with pytest.raises(UserError, match='its degrade was gains from 0.5 and is gains from 0.9 now'):
    batches(folders, MIX, degrade=CAMERAS._replace(digest='gains from 0.9')).set_state(state)
  with pytest.raises(UserError, match='its pictures was Mixture'):
    batches(folders, MIX.replace('weight=2', 'weight=3'), degrade=CAMERAS).set_state(state)


def test_small_pictures_are_mirrored_without_the_edge(tmp_path):
  hr = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
  (tmp_path / 'HR').mkdir()
  Image.fromarray(hr).save(tmp_path / 'HR' / 'a.png')
  source = data.open_source(SimpleNamespace(hr=str(tmp_path / 'HR'), degrade='realesrgan'), 1)
  padded = np.pad(hr, ((0, 3), (0, 4), (0, 0)), 'reflect')
  np.testing.assert_array_equal(padded[5:], hr[3:0:-1, [0, 1, 2, 3, 2, 1, 0, 1]])
  turns = {np.rot90(flipped, k).tobytes() for flipped in (padded, padded[::-1]) for k in range(4)}
  crop = pipeline.RandomCrop(source, 8, 8)
  seen = {np.ascontiguousarray(crop(0, np.random.default_rng(seed))['raw'][1]).tobytes() for seed in range(100)}
  assert seen == turns


def test_16_bit_pictures_beside_8_bit_ones(tmp_path):
  put(tmp_path / 'HR', 'a', 100)
  put(tmp_path / 'HR', 'b', 200, deep=True)
  source = data.open_source(SimpleNamespace(hr=str(tmp_path / 'HR'), degrade='stablesr'), SCALE)
  batch = next(data.train_batches(source, 2, 8, SCALE, 0, 0, CAMERAS))
  np.testing.assert_allclose(np.sort(np.asarray(batch['hr']).mean((1, 2, 3))), [100 / 255, 200 / 255], rtol=1e-5)


def test_cameras_that_are_not_there(folders):
  with pytest.raises(UserError, match='degrade is blur; it can be one of: bicubic, realesrgan, stablesr'):
    batches(folders, 'hr=@/photos degrade=blur', degrade=CAMERAS)
  with pytest.raises(ValueError, match='canvas of at least the patch'):
    batches(folders, MIX)


def test_pairs_smaller_than_the_patch_are_named(folders):
  put(folders / 'b b' / 'HR', 'tiny', 9, 6, 6)
  put(folders / 'b b' / 'LR', 'tiny', 9, 3, 3)
  with pytest.raises(UserError, match=r'HR/tiny\.png \(6x6\) is smaller than the patch of 8'):
    batches(folders, MIX, degrade=CAMERAS)

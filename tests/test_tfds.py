"""TFDS builders in array_record, written and read without TensorFlow."""

import io
import pickle
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from adaptsr_jax import data
from adaptsr_jax.data import PairError, open_source
from adaptsr_jax.errors import UserError

COUNTS = {'train': 5, 'validation': 2}


class Div2k(tfds.core.GeneratorBasedBuilder):
  """Named as the published builder, with its features and random pictures."""

  code_path = None  # beside it TFDS looks for checksums, with importlib_resources, which it does not install
  VERSION = tfds.core.Version('2.0.0')
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=f'bicubic_x{n}', version='2.0.0') for n in (2, 4)]

  def _info(self):
    image = tfds.features.Image()
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({'lr': image, 'hr': image}))

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split) for split in COUNTS}

  def _generate_examples(self, split):
    for number in range(COUNTS[split]):
      hr = picture(split, number)
      yield f'{number:04}', {'hr': png(hr), 'lr': png(lr_of(hr))}


def picture(split, number):
  rng = np.random.default_rng((len(split), number))
  return rng.integers(0, 256, (17 + 4 * number, 24, 3), dtype=np.uint8)


def lr_of(hr):
  """Every fourth pixel of whole LR pixels; HR has a row more."""
  return hr[: len(hr) // 4 * 4 : 4, ::4]


def png(array):
  file = io.BytesIO()
  Image.fromarray(array).save(file, 'PNG')
  return file.getvalue()


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  folder = tmp_path_factory.mktemp('tfds')
  Div2k(config='bicubic_x4', data_dir=str(folder), file_format='array_record').download_and_prepare()
  return folder


@pytest.fixture(autouse=True)
def _data_dir(prepared, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(prepared))


def open_tfds(name='div2k/bicubic_x4', scale=4, split='train', **fields):
  return open_source(SimpleNamespace(tfds=name, **fields), scale, split=split)


def same_hr(one, other):
  return one.shape == other.shape and (one == other).all()


@pytest.mark.parametrize('cache_gb', [0, 2])
@pytest.mark.parametrize(('split', 'stored'), [('train', 'train'), ('test', 'validation')])
def test_pairs_are_those_written(split, stored, cache_gb):
  source = open_tfds(split=split, cache_gb=cache_gb)
  assert len(source) == COUNTS[stored]
  written = [picture(stored, number) for number in range(len(source))]
  # TFDS shuffles records.
  for index, (name, lr, hr) in enumerate(data.pairs(source)):
    assert name == str(index)
    [match] = [x for x in written if same_hr(x[:-1], hr)]
    np.testing.assert_array_equal(lr, lr_of(match))
    assert source.lr_size(index) == lr.shape[:2]
    crop = source.crop(index, 1, 2, 3)
    np.testing.assert_array_equal(crop['hr'], hr[4:16, 8:20])
    np.testing.assert_array_equal(crop['lr'], lr[1:4, 2:5])
    np.testing.assert_array_equal(source.hr(index), hr)
  data.check_pixels(source)


def test_description_and_identity():
  source = open_tfds()
  assert source.describe() == ('div2k/bicubic_x4 train, x4: 5 pairs, LR 6x4 to 6x8, HR cut at the bottom or right in 5')
  assert repr(source) == repr(open_tfds('div2k/bicubic_x4:2.0.0')) != repr(open_tfds(split='test'))
  again = pickle.loads(pickle.dumps(source))
  np.testing.assert_array_equal(again[2]['hr'], source[2]['hr'])


def test_names_restrict():
  assert open_tfds(names='1,3').names == ['1', '3']
  assert open_tfds(skip_names='1,3').names == ['0', '2', '4']
  with pytest.raises(UserError, match="lists '9', which div2k/bicubic_x4 train does not contain"):
    open_tfds(names='1,9')


def test_batches_in_this_process_and_in_a_worker():
  read = []
  for workers in (0, 1):
    iterator = data.train_batches(open_tfds(), 3, 8, 4, seed=1, workers=workers)
    read.append(next(iterator))
    iterator.close()
  assert read[0]['hr'].shape == (3, 8, 8, 3)
  np.testing.assert_array_equal(read[0]['hr'], read[1]['hr'])


def test_a_part_of_a_mixture():
  source = open_source(SimpleNamespace(mix='tfds=div2k/bicubic_x4 weight=2; tfds=div2k/bicubic_x4 names=0'), 4)
  assert source.describe().startswith('div2k/bicubic_x4 train 2 : div2k/bicubic_x4 train 1, x4\n')


def test_another_scale_names_the_records():
  with pytest.raises(
    PairError, match='5 records of div2k/bicubic_x4 train cannot be used:\n  0: x4 pairs given to a x2'
  ):
    open_tfds(scale=2)


def test_what_is_not_prepared(prepared):
  for name in ('div2k/bicubic_x2', 'nothing', 'div2k/unknown_x4'):
    with pytest.raises(UserError) as caught:
      open_tfds(name)
    text = str(caught.value)
    assert text.startswith(f'tfds: {name} is not prepared in {prepared}')
    assert f"tfds.builder('{name}', file_format='array_record').download_and_prepare()" in text
    assert 'root=FOLDER' in text
    assert '\n' not in text


def test_another_file_format_is_explained(prepared, tmp_path, monkeypatch):
  # What a builder prepared by TensorFlow says of itself.
  import shutil

  shutil.copytree(prepared, tmp_path / 'tfds')
  info = tmp_path / 'tfds' / 'div2k' / 'bicubic_x4' / '2.0.0' / 'dataset_info.json'
  info.write_text(info.read_text().replace('array_record', 'tfrecord'))
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'tfds'))
  with pytest.raises(UserError, match=r'is prepared in .*2\.0\.0 as tfrecord, not array_record; either prepare it'):
    open_tfds()


def test_other_features_are_named(tmp_path, monkeypatch):
  class Photos(tfds.core.GeneratorBasedBuilder):
    code_path = None
    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
      return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({'image': tfds.features.Image()}))

    def _split_generators(self, dl_manager):
      return {'test': self._generate_examples()}

    def _generate_examples(self):
      yield 0, {'image': png(picture('train', 0))}

  Photos(data_dir=str(tmp_path), file_format='array_record').download_and_prepare()
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  with pytest.raises(UserError, match='photos has no split train; it has test'):
    open_tfds('photos')
  with pytest.raises(UserError, match='photos has the features image; pairs need features lr and hr'):
    open_tfds('photos', split='test')


def test_cameras_need_pictures_without_lr():
  with pytest.raises(UserError, match='degrade is realesrgan, but div2k/bicubic_x4 train has LR pictures of its own'):
    open_tfds(degrade='realesrgan')


def test_tensorflow_is_not_imported():
  code = (
    'import sys; from types import SimpleNamespace as N; from adaptsr_jax.data import open_source; '
    "open_source(N(tfds='div2k/bicubic_x4'), 4)[0]; sys.exit('tensorflow' in sys.modules or 'jax' in sys.modules)"
  )
  assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0

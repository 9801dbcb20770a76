"""Pictures and configs as they are found: endings of browsers, previews in TIFF, what is not read, misspelt fields."""

import shutil

import numpy as np
import pytest
from PIL import Image

from adaptsr_jax import config, image
from adaptsr_jax.errors import UserError
from configs import tiny
from tests.shared import GOLDEN

CASES = GOLDEN / 'cases'


def test_pictures_as_browsers_name_them(tmp_path):
  for name in ('a.jfif', 'b.JPE', 'c.jpg'):
    shutil.copy(CASES / 'photo.jfif', tmp_path / name)
  assert [path.name for path in image.list_images(tmp_path)] == ['a.jfif', 'b.JPE', 'c.jpg']
  pictures = [image.read_array(path) for path in image.list_images(tmp_path)]
  assert all(np.array_equal(picture, pictures[0]) for picture in pictures)
  image.write(tmp_path / 'd.jfif', pictures[0])
  assert Image.open(tmp_path / 'd.jfif').format == 'JPEG'


def test_previews_and_masks_of_tiff_are_no_pages(tmp_path):
  assert image.size(CASES / 'tif_thumb.tif') == (32, 40)
  assert image.read_array(CASES / 'tif_thumb.tif').shape == (32, 40, 3)
  first, second = (Image.new('RGB', (6, 4), colour) for colour in ('red', 'blue'))
  first.save(tmp_path / 'pages.tif', save_all=True, append_images=[second])
  with pytest.raises(UserError, match='2 pages'):
    image.read_array(tmp_path / 'pages.tif')


def test_what_is_not_read_is_counted_once(tmp_path, capsys):
  for name in ('a.png', 'b.jfif', '.hidden.png'):
    (tmp_path / name).touch()
  image.tell_unread(tmp_path)
  assert capsys.readouterr().out == ''
  for name in ('c.heic', 'd.txt', 'e\x1b.gif'):
    (tmp_path / name).touch()
  (tmp_path / 'inner').mkdir()
  for _ in range(2):
    image.tell_unread(tmp_path)
  assert capsys.readouterr().out == f'Not read in {tmp_path}: 3 other files and 1 folder.\n'


@pytest.mark.parametrize(
  ('name', 'near'),
  [
    ('optim.learning_rate', 'optim'),
    ('lora.ranks', 'lora.rank'),
    ('batchsize', 'batch_size'),
    ('data.train.hrs', 'hr'),
  ],
)
def test_misspelt_fields_of_a_file_are_refused_with_the_nearest(name, near):
  c = tiny.get_config()
  c.data.train.hr = 'HR'
  part, _, field = name.rpartition('.')
  (config.get(c, part) if part else c)[field] = 1
  with pytest.raises(UserError, match=f'{name}.*config.*{near}'):
    config.validate(c)


@pytest.mark.parametrize(
  ('name', 'value'),
  [('eval_tile', 99999999999999999999), ('steps', 2**31), ('optim.lr', float('inf')), ('seed', -(2**40))],
)
def test_numbers_beyond_what_fits_are_refused(name, value):
  c = tiny.get_config()
  c.data.train.hr = 'HR'
  c.update_from_flattened_dict({name: value})
  with pytest.raises(UserError, match=f'config.{name}'):
    config.validate(c)


def test_a_path_is_no_label():
  assert config.labelled('runs/lr=1e-4/merged') == ('runs/lr=1e-4/merged',) * 2
  assert config.labelled('ours=runs/lr=1e-4/merged') == ('ours', 'runs/lr=1e-4/merged')


def test_home_is_written_out_in_config_files(monkeypatch):
  monkeypatch.setenv('HOME', '/home/me')
  c = tiny.get_config()
  c.base, c.data.train.hr, c.data.train.names = '~/a.pth', '~/HR', 'a~b'
  written = config.with_homes(c)
  assert (written.base, written.data.train.hr, written.data.train.names) == ('/home/me/a.pth', '/home/me/HR', 'a~b')
  assert c.base == '~/a.pth'

"""Which photographs an adapter is for: read from EXIF, written by hand or by a run, and chosen by."""

import numpy as np
import pytest
from PIL import Image

from adaptsr_jax import adapt, image, upscale
from adaptsr_jax.adapt import prepare, whole
from adaptsr_jax.adapters import cameras, file
from adaptsr_jax.adapters.__main__ import main
from adaptsr_jax.errors import UserError
from adaptsr_jax.image import Shot
from configs import tiny
from tests.pictures import scene, write_pairs
from tests.test_adapter_file import WEIGHTS, make, random_params, save
from tests.test_swapping import adapters  # noqa: F401 (a fixture)

CANON = Shot('Canon', 'Canon EOS 5D', 'EF50mm f/1.4', 200)


def exif_of(shot):
  block = Image.Exif()
  block[0x010F], block[0x0110] = shot.make, shot.model
  block.get_ifd(0x8769).update({0xA434: shot.lens, 0x8827: shot.iso})
  return block


def photograph(path, shot=None, seed=0, size=12):
  pixels = image.to_uint8(scene(seed, size, size))
  Image.fromarray(pixels).save(path, **({'exif': exif_of(shot)} if shot else {}))
  return path


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'webp', 'tif'])
def test_the_camera_is_read_of_every_format(tmp_path, suffix):
  path = tmp_path / f'x.{suffix}'
  image.write(path, scene(0, 12, 12), image.Picture(None, exif=exif_of(CANON).tobytes().removeprefix(b'Exif\0\0')))
  assert image.shot_of(path) == CANON
  assert image.shot(image.read(path).exif) == CANON
  assert image.shot_of(photograph(tmp_path / f'plain.{suffix}')) == Shot()


def test_odd_exif_tells_what_it_can(tmp_path):
  odd = exif_of(Shot('Canon\0\0 ', ' EOS  5D', '', 0))
  odd.get_ifd(0x8769).update({0xA434: '', 0x8827: 65535, 0x8832: 102400})
  assert image.shot(odd.tobytes()) == Shot('Canon', 'EOS 5D', '', 102400)
  block = bytearray(exif_of(CANON).tobytes())
  for at in range(8, len(block)):
    damaged = block[:at] + b'\xff' + block[at + 1 :]
    assert isinstance(image.shot(bytes(damaged)), Shot)
    assert isinstance(image.shot(bytes(block[:at])), Shot)
  (tmp_path / 'x.jpg').write_text('no picture')
  assert image.shot_of(tmp_path / 'x.jpg') == Shot()


def test_recorded_are_cameras_with_their_iso_and_a_stop_beyond():
  shots = [CANON, CANON._replace(iso=800), Shot('NIKON', 'D5', '', 100), Shot('NIKON', 'D5'), Shot(iso=3)]
  assert cameras.recorded(shots) == [
    {'make': 'Canon', 'model': 'Canon EOS 5D', 'lens': 'EF50mm f/1.4', 'iso': [100, 1600]},
    {'make': 'NIKON', 'model': 'D5'},
  ]


@pytest.mark.parametrize(
  ('shot', 'name', 'why'),
  [
    (CANON, 'day', 'by day, for Canon EOS 5D, ISO 50 to 400'),
    (CANON._replace(iso=400), 'day', 'by day, for Canon EOS 5D, ISO 50 to 400'),
    (CANON._replace(make='CANON', iso=3200), 'night', 'by night, for Canon EOS 5D, ISO 1600 to 12800'),
    (CANON._replace(lens='EF85mm f/1.8'), 'portrait', 'by portrait, for Canon EOS 5D, EF85mm f/1.8'),
    (Shot('NIKON', 'D850'), 'nikon', 'by nikon, for NIKON D*'),
    (
      CANON._replace(iso=800),
      None,
      'by the base: no adapter is for Canon EOS 5D, EF50mm f/1.4, ISO 800 (day is for Canon EOS 5D, ISO 50 to 400)',
    ),
    (Shot('NIKON', 'Z9'), None, 'by the base: no adapter is for NIKON Z9 (nikon is for NIKON D*)'),
    (Shot(), None, 'by the base: no EXIF tells of a camera'),
  ],
)
def test_the_choice_is_the_one_that_says_most(shot, name, why):
  known = {
    'day': [{'make': 'canon', 'model': 'Canon EOS 5D', 'iso': [50, 400]}],
    'night': [{'make': 'Canon', 'model': 'Canon EOS 5D', 'iso': [1600, 12800]}],
    'portrait': [{'make': 'Canon', 'model': 'Canon EOS 5D', 'lens': 'EF85mm f/1.8'}],
    'nikon': [{'model': 'Coolpix'}, {'make': 'NIKON', 'model': 'D*'}],
  }
  found = cameras.choose(shot, known)
  assert (found.name, found.why.replace('canon ', 'Canon ')) == (name, why)


def test_tag_writes_the_header_and_nothing_else(tmp_path, capsys):
  path = save(tmp_path / 'a.safetensors', make(random_params()))
  before = file.load(path)
  assert main(['tag', str(path), '--make=Canon', '--model=EOS 5D', '--iso=100-400']) == 0
  assert capsys.readouterr().out == f'{path} is for Canon EOS 5D, ISO 100 to 400\n'
  assert main(['tag', str(path), '--add', '--lens= EF 50mm ', '--iso=50']) == 0
  after = file.load(path)
  told = [{'make': 'Canon', 'model': 'EOS 5D', 'iso': [100, 400]}, {'lens': 'EF 50mm', 'iso': [50, 50]}]
  assert after.meta == {**before.meta, 'cameras': told}
  for name, leaf in before.tensors.items():
    np.testing.assert_array_equal(after.tensors[name], leaf)
  assert main(['inspect', str(path)]) == 0
  assert '  for        Canon EOS 5D, ISO 100 to 400; EF 50mm, ISO 50' in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize('words', [[], ['--iso=many'], ['--iso=400-100'], ['--iso=0'], ['--iso=-5'], ['--make= ']])
def test_tag_refuses_what_says_nothing(tmp_path, capsys, words):
  path = save(tmp_path / 'a.safetensors', make(random_params()))
  content = path.read_bytes()
  assert main(['tag', str(path), *words]) == 2
  assert '--iso' in capsys.readouterr().err
  assert path.read_bytes() == content


@pytest.mark.parametrize('odd', [7, 'Canon', [None, 'x'], [{'iso': 'x', 'make': 3}], {'make': 'Canon'}, [{}]])
def test_cameras_of_other_forms_are_none(odd):
  assert cameras.of({'cameras': odd}) == []
  assert cameras.of({'cameras': [{'make': 'Canon', 'flash': True}, *([odd] if isinstance(odd, dict) else [])]})


def test_upscale_chooses_and_says_so(adapters, tmp_path, capsys):  # noqa: F811
  """Adapters of other bases, without cameras, and what is none are left out with a sentence."""
  folder = tmp_path / 'cameras'
  folder.mkdir()
  loaded = [file.load(path) for path in adapters[:2]]
  for name, adapter, shot in zip(('day', 'night'), loaded, ({'iso': [50, 400]}, {'iso': [800, 6400]}), strict=True):
    known = [{'make': 'Canon', **shot}]
    save(folder / f'{name}.safetensors', adapter._replace(meta={**adapter.meta, 'cameras': known}))
  save(folder / 'other.safetensors', make(random_params()))
  save(folder / 'untagged.safetensors', loaded[0])
  (folder / 'none.safetensors').write_text('no adapter')
  photographs = tmp_path / 'in'
  photographs.mkdir()
  for name, iso in (('a', 100), ('b', 1600), ('c', 25600)):
    photograph(photographs / f'{name}.png', Shot('Canon', iso=iso))
  photograph(photographs / 'd.png')
  run = ['--params', str(WEIGHTS), str(photographs)]
  assert upscale.main([*run, str(tmp_path / 'out'), f'--adapters={folder}']) == 0
  said = capsys.readouterr().out
  for name, why in {
    'a': 'by day.safetensors, for Canon, ISO 50 to 400',
    'b': 'by night.safetensors, for Canon, ISO 800 to 6400',
    'c': 'by the base: no adapter is for Canon, ISO 25600 (day.safetensors is for Canon, ISO 50 to 400)',
    'd': 'by the base: no EXIF tells of a camera',
  }.items():
    assert f'{name}.png, {why}\n' in said  # of long paths the middle is left out
  assert said.count('Left out: ') == 3
  for name, words in {'a': [f'--adapter={folder}/day.safetensors'], 'd': []}.items():
    assert upscale.main([*run, str(tmp_path / 'by_hand'), *words]) == 0
    np.testing.assert_array_equal(*(image.read_array(tmp_path / each / f'{name}.png') for each in ('out', 'by_hand')))


@pytest.mark.parametrize('content', ['missing', 'empty', 'untagged'])
def test_upscale_refuses_a_folder_of_no_use(adapters, tmp_path, capsys, content):  # noqa: F811
  folder = tmp_path / 'cameras'
  if content != 'missing':
    folder.mkdir()
  if content == 'untagged':
    save(folder / 'a.safetensors', file.load(adapters[0]))
  run = ['--params', str(WEIGHTS), str(photograph(tmp_path / 'x.png')), str(tmp_path / 'y.png')]
  assert upscale.main([*run, f'--adapters={folder}']) == 2
  assert str(folder) in capsys.readouterr().err
  assert not (tmp_path / 'y.png').exists()


def test_a_run_records_the_cameras_of_its_lr_pictures(tmp_path):
  lr, hr = write_pairs(tmp_path, 2)
  for i, path in enumerate(sorted(lr.iterdir())):
    pixels = image.read_array(path)
    path.unlink()
    Image.fromarray(pixels).save(path.with_suffix('.jpg'), quality=95, exif=exif_of(CANON._replace(iso=100 << i)))
  c = tiny.get_config()
  c.update_from_flattened_dict({'data.train.lr': str(lr), 'data.train.hr': str(hr), 'data.valid.hr': ''})
  c.steps, c.tensorboard = 1, False
  adapt.run(c, tmp_path / 'run')
  camera = {'make': CANON.make, 'model': CANON.model, 'lens': CANON.lens, 'iso': [50, 400]}
  assert file.load(tmp_path / 'run' / 'adapter.safetensors').meta['cameras'] == [camera]
  c.record_cameras = False
  assert whole._told_of(c, prepare.prepare(c), {}) == {}


def test_a_tag_of_nothing_is_an_error():
  with pytest.raises(UserError, match='--make'):
    cameras.tagged()

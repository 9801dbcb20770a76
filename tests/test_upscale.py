"""The command on generated pictures, with a small random network."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageCms

from adaptsr_jax import bicubic, convert, image, infer, models, params_folder, upscale

FIELDS = {'upscale': 2, 'num_feat': 4, 'num_block': 1}
RNG = np.random.default_rng(0)
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()


def smooth(h, w, dtype=np.uint8, channels=3):
  x = bicubic.imresize(RNG.random((h // 4 + 1, w // 4 + 1, channels)), 4)[:h, :w]
  return np.rint(np.clip(x, 0, 1) * np.iinfo(dtype).max).astype(dtype)


@pytest.fixture(scope='module')
def params():
  """Random parameters close to a plain enlargement: small weights around EDSR's mean colour."""
  shapes = jax.eval_shape(models.build('edsr', **FIELDS).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))['params']
  draw = np.random.default_rng(1)
  return jax.tree.map(lambda x: draw.normal(0, 0.5 * np.prod(x.shape[:-1]) ** -0.5, x.shape).astype(np.float32), shapes)


@pytest.fixture(scope='module')
def weights(params, tmp_path_factory):
  path = tmp_path_factory.mktemp('network') / 'edsr.safetensors'
  convert.write(path, convert.to_torch('edsr', FIELDS, params))
  return str(path)


def expected(params, x, **tiling):
  return infer.upscale(models.build('edsr', **FIELDS).apply, params, image.to_float(x), 2, **tiling)


def run(weights, *args):
  return upscale.main([f'--params={weights}', *map(str, args)])


def test_one_picture_to_one_file(tmp_path, weights, params):
  x = smooth(20, 28)
  image.write(tmp_path / 'x.png', x)
  assert run(weights, tmp_path / 'x.png', tmp_path / 'new' / 'y.png') == 0
  np.testing.assert_array_equal(image.read_array(tmp_path / 'new' / 'y.png'), image.to_uint8(expected(params, x)))


def test_params_folder_tiles_and_ensemble(tmp_path, params):
  folder = tmp_path / 'params'
  params_folder.save_params(folder, params, {'model': 'edsr', 'fields': FIELDS, 'assumed': {}, 'source': None})
  x = smooth(40, 36)
  image.write(tmp_path / 'x.png', x)
  assert run(folder, tmp_path / 'x.png', tmp_path / 'y.png', '--tile=24', '--overlap=4', '--ensemble') == 0
  y = image.to_uint8(expected(params, x, tile=24, overlap=4, ensemble=True))
  np.testing.assert_array_equal(image.read_array(tmp_path / 'y.png'), y)


def test_a_folder_goes_on_after_bad_files_and_lists_them(tmp_path, weights, capsys):
  (tmp_path / 'in').mkdir()
  image.write(tmp_path / 'in' / 'a.png', smooth(20, 28))
  (tmp_path / 'in' / 'b.jpg').write_bytes(b'')
  (tmp_path / 'in' / 'c.png').write_text('no picture')
  image.write(tmp_path / 'in' / 'd.jpg', smooth(20, 28))
  Image.fromarray(smooth(20, 28)).save(tmp_path / 'in' / 'e.bmp')
  assert run(weights, tmp_path / 'in', tmp_path / 'out', '--suffix=_x2') == 1
  assert sorted(os.listdir(tmp_path / 'out')) == ['a_x2.png', 'd_x2.jpg', 'e_x2.png']
  said = capsys.readouterr()
  assert '3 of 5 pictures enlarged' in said.out
  assert 'left' in said.out
  first, second = said.err.strip().splitlines()
  assert first.endswith('b.jpg is empty (0 bytes).')
  assert 'c.png is not a picture' in second


def test_skip_existing(tmp_path, weights, capsys):
  (tmp_path / 'in').mkdir()
  (tmp_path / 'out').mkdir()
  for name in 'ab':
    image.write(tmp_path / 'in' / f'{name}.png', smooth(20, 28))
  (tmp_path / 'out' / 'a.png').write_text('kept')
  assert run(weights, tmp_path / 'in', tmp_path / 'out', '--skip_existing') == 0
  assert (tmp_path / 'out' / 'a.png').read_text() == 'kept'
  assert image.size(tmp_path / 'out' / 'b.png') == (40, 56)
  assert '1 pictures left out' in capsys.readouterr().out


def test_gray_stays_gray(tmp_path, weights):
  Image.fromarray(smooth(20, 28)[..., 0]).save(tmp_path / 'x.png')
  assert run(weights, tmp_path / 'x.png', tmp_path / 'y.png') == 0
  with Image.open(tmp_path / 'y.png') as y:
    assert y.mode == 'L'


def test_16_bit_stays_16_bit_or_is_refused(tmp_path, weights, params, capsys):
  x = smooth(20, 28, np.uint16)
  image.write(tmp_path / 'x.png', x)
  assert run(weights, tmp_path / 'x.png', tmp_path / 'y.tif') == 0
  y = image.read(tmp_path / 'y.tif')
  assert y.bits == 16
  np.testing.assert_allclose(y.rgb, np.clip(expected(params, x), 0, 1), rtol=0, atol=1e-5)
  assert run(weights, tmp_path / 'x.png', tmp_path / 'y.jpg') == 2
  assert 'holds no 16-bit picture; choose .png' in capsys.readouterr().err
  assert not (tmp_path / 'y.jpg').exists()


def test_alpha_is_enlarged_apart_and_hidden_colour_does_not_shine_through(tmp_path, weights, params):
  rgb = np.full((20, 28, 3), 200, np.uint8)
  alpha = np.zeros((20, 28), np.uint8)
  alpha[:, 14:] = 255
  hidden = np.where(alpha[..., None], rgb, 0).astype(np.uint8)
  Image.fromarray(np.dstack([hidden, alpha])).save(tmp_path / 'x.png')
  assert run(weights, tmp_path / 'x.png', tmp_path / 'y.png') == 0
  y = image.read(tmp_path / 'y.png')
  np.testing.assert_array_equal(image.to_uint8(y.rgb), image.to_uint8(expected(params, rgb)))
  np.testing.assert_allclose(y.alpha, np.clip(bicubic.imresize(alpha / 255, 2), 0, 1), atol=1 / 255)


def test_palette_orientation_and_profile(tmp_path, weights, params):
  x = smooth(20, 28)
  indices = Image.fromarray(x).quantize(8)
  exif = Image.Exif()
  exif[0x0112] = 6  # a quarter turn to the right
  indices.save(tmp_path / 'x.png', icc_profile=ICC, exif=exif)
  assert run(weights, tmp_path / 'x.png', tmp_path / 'y.png') == 0
  y = image.read(tmp_path / 'y.png')
  upright = np.rot90(np.asarray(indices.convert('RGB')), -1)
  np.testing.assert_array_equal(image.to_uint8(y.rgb), image.to_uint8(expected(params, upright)))
  assert y.icc == ICC
  assert image.size(tmp_path / 'y.png') == (56, 40)


def test_inputs_are_never_overwritten(tmp_path, weights, capsys):
  image.write(tmp_path / 'x.png', smooth(20, 28))
  before = (tmp_path / 'x.png').read_bytes()
  (tmp_path / 'link').symlink_to(tmp_path, target_is_directory=True)
  for arguments in (
    (tmp_path / 'x.png', tmp_path / 'x.png'),
    (tmp_path, tmp_path),
    (tmp_path / 'link', tmp_path),
    (tmp_path / 'x.png', tmp_path / 'link' / 'x.png'),
  ):
    assert run(weights, *arguments) == 2
    assert 'would overwrite an input' in capsys.readouterr().err
  assert (tmp_path / 'x.png').read_bytes() == before
  assert run(weights, tmp_path, tmp_path, '--suffix=_x2') == 0
  assert image.size(tmp_path / 'x_x2.png') == (40, 56)


def test_bad_usage_is_one_sentence_and_code_2(tmp_path, weights, capsys):
  image.write(tmp_path / 'x.png', smooth(20, 28))
  image.write(tmp_path / 'x.tif', smooth(20, 28))
  (tmp_path / 'empty').mkdir()
  x, out = tmp_path / 'x.png', tmp_path / 'out'
  cases = [
    ((tmp_path / 'absent.png', out), 'absent.png does not exist'),
    ((tmp_path / 'empty', out), 'contains no pictures'),
    ((x, x, tmp_path / 'y.png'), 'is one picture, but several'),
    ((tmp_path, tmp_path / 'y.png'), 'is one picture, but several'),
    ((x, tmp_path / 'y.bmp'), 'pictures are written as'),
    ((x, tmp_path / 'y.png', '--format=jpg'), 'does not agree with --format'),
    ((x, tmp_path / 'x.tif', out, '--format=png'), 'would both become'),
    ((x, out, '--tile=24'), 'leave nothing'),
    ((x, out, '--tile=-3'), 'The tile is -3'),
    ((x, out, f'--params={tmp_path / "no.pth"}'), 'no.pth is neither a file nor a folder'),
  ]
  for arguments, message in cases:
    assert run(weights, *arguments) == 2, message
    error = capsys.readouterr().err
    assert error.startswith('Error: ')
    assert message in error
    assert error.count('\n') == 1
  for arguments in ([], ['x.png'], ['--params=x', 'x.png'], ['--params=x', 'x.png', 'out', '--format=gif']):
    with pytest.raises(SystemExit) as stopped:
      upscale.main(arguments)
    assert stopped.value.code == 2
  assert not out.exists()


def test_networks_of_the_whole_picture_get_it(tmp_path, capsys, monkeypatch):
  fields = {'upscale': 2, 'dim': 4, 'n_blocks': 1}
  model = models.build('safmn_ntire2023', **fields)
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))['params']
  params = jax.tree.map(lambda x: RNG.normal(0, 0.2, x.shape).astype(np.float32), shapes)
  info = {'model': 'safmn_ntire2023', 'fields': fields, 'assumed': {}, 'source': None}
  params_folder.save_params(tmp_path / 'params', params, info)
  monkeypatch.setattr(infer, 'AUTO_WHOLE', 100)
  x = smooth(20, 28)
  image.write(tmp_path / 'x.png', x)
  assert run(tmp_path / 'params', tmp_path / 'x.png', tmp_path / 'y.png') == 0
  assert 'statistics of the whole picture' in capsys.readouterr().out
  y = infer.upscale(model.apply, params, image.to_float(x), 2, tile=infer.WHOLE, minimum=16)
  np.testing.assert_array_equal(image.read_array(tmp_path / 'y.png'), image.to_uint8(y))


def test_lack_of_memory_is_told_and_does_not_stop_the_rest(tmp_path, weights, capsys, monkeypatch):
  (tmp_path / 'in').mkdir()
  for name in 'ab':
    image.write(tmp_path / 'in' / f'{name}.png', smooth(20, 28))
  calls = []

  def once(*args):
    calls.append(args)
    if len(calls) == 1:
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory')
    return enlarged(*args)

  enlarged = infer._enlarged
  monkeypatch.setattr(infer, '_enlarged', once)
  assert run(weights, tmp_path / 'in', tmp_path / 'out') == 1
  error = capsys.readouterr().err
  assert 'a.png: The device has not enough memory' in error
  assert '--tile=' in error
  assert os.listdir(tmp_path / 'out') == ['b.png']

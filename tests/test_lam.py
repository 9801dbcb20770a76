"""Local attribution maps: the measure against reference values, and the command on generated pictures."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaptsr_jax import base, image, models, params_folder
from adaptsr_jax import lam as command
from adaptsr_jax.metrics import lam as measure
from tests.pictures import scene
from tests.shared import shared


@pytest.fixture(scope='module')
def golden():
  return np.load(shared('golden', 'metrics') / 'lam.npz')


def reference_network(golden):
  """Two convolutions and a pixel shuffle, x2."""
  params = {name: jnp.asarray(golden[name]) for name in ('w1', 'b1', 'w2', 'b2')}

  def apply_fn(variables, x):
    p = variables['params']
    for i in '12':
      layout = jax.lax.conv_dimension_numbers(x.shape, p[f'w{i}'].shape, ('NHWC', 'OIHW', 'NHWC'))
      x = jax.lax.conv_general_dilated(x, p[f'w{i}'], (1, 1), 'SAME', dimension_numbers=layout) + p[f'b{i}']
      x = jnp.where(x > 0, x, 0.2 * x) if i == '1' else x
    b, h, w, _ = x.shape
    return x.reshape(b, h, w, 3, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(b, 2 * h, 2 * w, 3)

  return apply_fn, params


@pytest.mark.parametrize('i', range(4))
def test_gini_and_diffusion_index(golden, i):
  assert measure.gini(golden[f'map{i}']) == pytest.approx(float(golden[f'gini{i}']), abs=1e-9)
  assert measure.diffusion_index(golden[f'map{i}']) == pytest.approx(float(golden[f'di{i}']), abs=1e-7)


def test_blurring_path(golden):
  sigma, fold, kernel = golden['params'][:3]
  images, slopes = measure.blurring_path(golden['img_hwc'], sigma, int(fold), int(kernel))
  np.testing.assert_allclose(images.transpose(0, 3, 1, 2), golden['path_images'], atol=1e-6)
  np.testing.assert_allclose(slopes.transpose(0, 3, 1, 2), golden['path_derivative'], atol=2e-5)
  np.testing.assert_allclose(images[-1], golden['img_hwc'], atol=1e-7)


@pytest.mark.parametrize('batch', [1, 4, 50])
def test_saliency(golden, batch):
  apply_fn, params = reference_network(golden)
  lr = golden['img_hwc'][None]
  np.testing.assert_allclose(apply_fn({'params': params}, lr)[0].transpose(2, 0, 1), golden['sr_out'], atol=1e-5)
  sigma, fold, kernel, y, x, side = golden['params']
  saliency = measure.attribute(
    apply_fn, params, lr, (int(x), int(y), int(side)), sigma=sigma, fold=int(fold), kernel=int(kernel), batch=batch
  )
  np.testing.assert_allclose(saliency, golden['saliency'], atol=1e-5)
  assert measure.diffusion_index(saliency) == pytest.approx(float(golden['di_full']), abs=1e-2)


@pytest.fixture(scope='module')
def network():
  """A convolution that mixes a pixel with its eight neighbours, x2."""
  kernel = jax.random.normal(jax.random.key(0), (3, 3, 3, 12))

  def apply_fn(variables, x):
    y = jax.lax.conv_general_dilated(
      x, variables['params']['kernel'], (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    b, h, w, _ = y.shape
    return y.reshape(b, h, w, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, 3)

  return apply_fn, {'kernel': kernel}


def test_only_what_the_patch_can_see_is_marked(network):
  apply_fn, params = network
  saliency = measure.attribute(apply_fn, params, scene(0, 16, 20)[None], (12, 8, 4), fold=8)
  # SR columns 12..16 and rows 8..12 come from LR columns 6..8 and rows 4..6, and these from their neighbours.
  assert saliency.shape == (16, 20)
  assert saliency.max() == 1
  assert set(np.flatnonzero(saliency.any(0))) == set(range(5, 10))
  assert set(np.flatnonzero(saliency.any(1))) == set(range(3, 8))


def test_flat_places_do_not_erase_the_map(network):
  """The square root has no slope at 0; its NaN would spread over all that the network sees."""
  apply_fn, params = network
  lr = scene(0, 16, 16)
  lr[:9] = 0
  saliency = measure.attribute(apply_fn, params, lr[None], (10, 12, 8), fold=8)
  assert np.isfinite(saliency).all()
  assert saliency.max() == 1


def test_a_flat_picture_has_an_empty_map(network):
  assert not measure.attribute(*network, np.full((1, 12, 12, 3), 0.5), (8, 8, 4), fold=4).any()


@pytest.mark.parametrize('box', [(-1, 0, 4), (0, 0, 0), (0, 28, 4), (28, 0, 4)])
def test_a_box_outside_the_output_is_refused(network, box):
  with pytest.raises(ValueError, match='32 x 32'):
    measure.attribute(*network, np.zeros((1, 16, 16, 3)), box)


def test_one_picture_is_asked_for(network):
  with pytest.raises(ValueError, match=r'\(1, h, w, 3\)'):
    measure.attribute(*network, np.zeros((16, 16, 3)), (0, 0, 4))


# ---------------------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """Two networks x2, one x4 and a photo."""
  folder = tmp_path_factory.mktemp('lam')
  for seed, (name, scale) in enumerate({'base': 2, 'adapted': 2, 'other': 4}.items()):
    fields = {'upscale': scale, 'dim': 8, 'n_blocks': 1}
    shapes = jax.eval_shape(models.build('safmn', **fields).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))['params']
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda leaf, rng=rng: rng.normal(0, 0.2, leaf.shape).astype(np.float32), shapes)
    params_folder.save_params(folder / name, params, {'model': 'safmn', 'fields': fields})
  image.write(folder / 'photo.png', scene(3, 40, 56))
  image.write(folder / 'tiny.png', scene(3, 6, 6))
  image.write(folder / 'flat.png', np.full((32, 32, 3), 0.5, np.float32))
  return folder


def run(*args):
  return command.main([str(arg) for arg in args])


@pytest.mark.parametrize('suffix', ['png', 'svg'])
def test_maps_of_several_networks(folders, tmp_path, capsys, suffix):
  out = tmp_path / f'lam.{suffix}'
  params = (f'--params=old={folders}/base', f'--params={folders}/adapted')
  assert run(*params, f'--picture={folders}/photo.png', '--box=30,40,8', '--context=16', f'--out={out}') == 0
  assert sorted(file.name for file in tmp_path.iterdir()) == sorted(['lam.json', out.name])
  result = json.loads((tmp_path / 'lam.json').read_text())
  assert (result['box'], result['region'], result['scale']) == ([30, 40, 8], [9, 14, 16, 16], 2)
  assert list(result['runs']) == ['old', f'{folders}/adapted']
  assert all(0 < row['diffusion_index'] < 100 for row in result['runs'].values())
  printed = capsys.readouterr().out
  for label, row in result['runs'].items():
    assert f'{row["diffusion_index"]:.2f}' in next(
      line for line in printed.splitlines() if line.startswith(f'{label}  ')
    )
  if suffix == 'svg':
    drawn = out.read_text()
    assert '>old<' in drawn
    assert f'DI {result["runs"]["old"]["diffusion_index"]:.2f}' in drawn


def test_the_map_is_that_of_the_region(folders, tmp_path):
  assert (
    run(f'--params={folders}/base', f'--picture={folders}/photo.png', '--box=30,40', f'--out={tmp_path}/a.png') == 0
  )
  loaded = base.load(folders / 'base')
  saliency = measure.attribute(
    loaded.model().apply, loaded.params, image.read(folders / 'photo.png').rgb[None], (30, 40, 16)
  )
  result = json.loads((tmp_path / 'a.json').read_text())
  assert result['region'] == [0, 0, 56, 40]
  expected = pytest.approx(measure.diffusion_index(saliency), rel=1e-4)
  assert result['runs'][f'{folders}/base']['diffusion_index'] == expected


def test_without_a_box_the_busiest_place_of_hr_is_taken(folders, tmp_path, capsys):
  photo = np.full((66, 81, 3), 0.5, np.float32)
  photo[20:32, 40:52] = np.random.default_rng(0).random((12, 12, 3))
  image.write(tmp_path / 'photo.png', photo)
  out = tmp_path / 'a.png'
  assert run(f'--params={folders}/base', f'--picture={tmp_path}/photo.png', '--hr', f'--out={out}') == 0
  x, y, size = json.loads(out.with_suffix('.json').read_text())['box']
  assert 36 <= x <= 40
  assert 16 <= y <= 20
  assert size == 16
  assert f'Patch {x},{y},16 of 80 x 66 pixels' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('args', 'said'),
  [
    (['--box=97,0'], 'X can be 0 to 95, Y 0 to 63'),
    (['--box=1'], 'X,Y'),
    (['--box=-1,3'], 'X,Y'),
    (['--box=1,2,0'], '1 or more'),
    (['--context=9'], '11 or more'),
    (['--picture={0}/tiny.png'], 'too small for a patch of 16'),
    (['--picture={0}/tiny.png', '--box=0,0,4'], 'needs 8 LR pixels'),
    (['--picture={0}/flat.png'], 'flat'),
    (['--picture={0}/nothing.png'], 'nothing.png'),
    (['--params={0}/other'], 'different factors'),
    (['--params={0}/base'], 'given twice'),
    (['--params={0}/nowhere.pth'], 'nowhere.pth'),
    (['--out={0}/lam.jpg'], 'lam.jpg'),
    (['--out={0}/nowhere/lam.png'], 'does not exist'),
  ],
  ids=str,
)
def test_mistakes_get_one_sentence(folders, tmp_path, capsys, args, said):
  given = [f'--params={folders}/base', f'--picture={folders}/photo.png', f'--out={tmp_path}/a.png']
  assert run(*given, *(arg.format(folders) for arg in args)) == 2
  error = capsys.readouterr().err
  assert error.startswith('Error: ')
  assert error.count('\n') == 1
  assert said in error
  assert not list(tmp_path.iterdir())


def test_weights_that_are_no_numbers_are_named(folders, tmp_path, capsys):
  loaded = base.load(folders / 'base')
  params_folder.save_params(
    tmp_path / 'bad', jax.tree.map(lambda x: x * np.float32(1e30), loaded.params), loaded.info()
  )
  assert run(f'--params={tmp_path}/bad', f'--picture={folders}/photo.png', f'--out={tmp_path}/a.png') == 2
  assert 'not finite' in capsys.readouterr().err

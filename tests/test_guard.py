"""What adapters break is told by the name of the picture: planted faults, and networks that have none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaptsr_jax import bicubic, convert, image, models, tree, upscale
from adaptsr_jax.adapters.__main__ import main as adapters
from adaptsr_jax.evaluate import guard
from tests.pictures import scene

FIELDS = {'upscale': 2, 'num_feat': 4, 'num_block': 1}


def enlarged(seed=0):
  return np.clip(bicubic.imresize(scene(seed, 64, 64), 4), 0, 1).astype(np.float32)


def test_the_picture_itself_and_a_better_one_are_not_warned_of():
  base = enlarged()
  assert guard.warning(base, base, 4) == ''
  sharper = base + 0.5 * (base - bicubic.imresize(bicubic.imresize(base, 1 / 2), 2))
  assert guard.warning(sharper, base, 4) == ''


def test_a_level_that_moved():
  base = 0.2 + 0.6 * enlarged()
  assert guard.warning(base + 10 / 255, base, 4) == 'its mean level moved by +10.0 grey levels'
  assert guard.warning(base - 4 / 255, base, 4).startswith('its mean level moved by -4.0')
  assert guard.warning(base + 2 / 255, base, 4) == ''


def test_highlights_that_are_cut():
  base = 0.1 + 0.8 * enlarged()
  hard = 0.5 + 2.5 * (base - base.mean())
  said = guard.warning(hard, base, 4)
  share = 100 * np.mean((np.rint(255 * np.clip(hard, 0, 1)) % 255) == 0)
  assert f'{share:.1f} % of its values are at an end' in said


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_a_grid_is_found_and_other_patterns_are_not(scale):
  base = 0.2 + 0.6 * np.clip(bicubic.imresize(scene(1, 64, 80), scale), 0, 1).astype(np.float32)
  cell = np.zeros((scale, scale), np.float32)
  cell[0, 0] = 1
  cell -= cell.mean()
  cell *= 2 / np.sqrt((cell**2).mean())  # a root mean square of two grey levels
  grid = np.tile(cell, (64, 80))[..., None] / 255
  assert guard.warning(base + grid, base, scale) == f'a grid of {scale} pixels shows, 2.0 grey levels more than before'
  noise = np.random.default_rng(0).normal(0, 2 / 255, base.shape).astype(np.float32)
  assert guard.warning(base + noise, base, scale) == ''


def test_small_pictures_are_compared_whole():
  base = enlarged()[:36, :44]
  assert guard.warning(base, base, 4) == ''


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """A base, and the base with brighter results: the bias of its last layer is another."""
  folder = tmp_path_factory.mktemp('networks')
  shapes = jax.eval_shape(models.build('edsr', **FIELDS).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))['params']
  draw = np.random.default_rng(1)
  params = jax.tree.map(lambda x: draw.normal(0, 0.3 * np.prod(x.shape[:-1]) ** -0.5, x.shape).astype('f4'), shapes)
  flat = dict(tree.flatten(params))
  (bias,) = (name for name in flat if name.startswith('conv_last') and name.endswith('bias'))
  kernel = bias.replace('bias', 'kernel')
  # EDSR computes in grey levels.
  broken = {**flat, bias: flat[bias] + np.float32(0.08 * 255), kernel: flat[kernel] * np.float32(1.01)}
  for name, leaves in (('base', flat), ('broken', broken)):
    convert.write(folder / f'{name}.safetensors', convert.to_torch('edsr', FIELDS, tree.unflatten(leaves)))
  return folder


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
  folder = tmp_path_factory.mktemp('photos')
  for i in range(2):
    image.write(folder / f'p{i}.png', scene(i, 40, 40))
  return folder


def warned(capsys):
  return [line for line in capsys.readouterr().err.splitlines() if line.startswith('Warning: ')]


def assert_both(lines, photos):
  for path, line in zip(sorted(photos.iterdir()), lines, strict=True):
    assert line.startswith(f'Warning: {path}: its mean level moved by +')


def test_upscale_warns_by_name(files, photos, tmp_path, capsys):
  call = [f'--guard={files / "base.safetensors"}', str(photos), str(tmp_path / 'out')]
  assert upscale.main([f'--params={files / "broken.safetensors"}', *call]) == 0
  assert_both(warned(capsys), photos)
  assert upscale.main([f'--params={files / "base.safetensors"}', *call]) == 0
  assert not warned(capsys)


def test_a_guard_of_another_scale_is_refused(files, photos, tmp_path, capsys):
  call = [f'--params={files / "base.safetensors"}', '--guard=bundled:safmn_x4', str(photos), str(tmp_path / 'out')]
  assert upscale.main(call) == 2
  assert 'bundled:safmn_x4 enlarges by 4, and' in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()


def test_merge_warns_by_name(files, photos, tmp_path, capsys):
  base, broken = (str(files / f'{name}.safetensors') for name in ('base', 'broken'))
  adapter = str(tmp_path / 'adapter.safetensors')
  assert adapters(['extract', base, broken, adapter, '--rank=4']) == 0
  merge = ['merge', base, adapter, str(tmp_path / 'out.safetensors'), f'--guard={photos}']
  assert adapters(merge) == 0
  assert_both(warned(capsys), photos)
  assert adapters([*merge, '--strength=0.05']) == 0
  said = capsys.readouterr()
  assert 'Warning' not in said.err
  assert '0 of 2 pictures depart from the base.' in said.out

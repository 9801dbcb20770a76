"""Tiles against whole pictures, padding, self-ensemble, compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from adaptsr_jax import infer, models
from adaptsr_jax.errors import UserError

RNG = np.random.default_rng(0)


class Plain(nn.Module):
  """Three 3x3 convolutions and a pixel shuffle by two: radius 3."""

  @nn.compact
  def __call__(self, x):
    for _ in range(2):
      x = nn.tanh(nn.Conv(6, (3, 3))(x))
    b, h, w, _ = x.shape
    x = nn.Conv(12, (3, 3))(x).reshape(b, h, w, 2, 2, 3)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, 3)


def picture(h, w):
  return RNG.random((h, w, 3), dtype=np.float32)


def params_of(model):
  """Random parameters of a sensible size; not by `init`, which would compile."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))['params']
  return jax.tree.map(lambda x: RNG.normal(0, np.prod(x.shape[:-1]) ** -0.5, x.shape).astype(np.float32), shapes)


@pytest.fixture(scope='module')
def plain():
  model = Plain()
  return model.apply, params_of(model)


def nearest(variables, x):
  """Stands in for a model: doubles every pixel."""
  del variables
  return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


@pytest.mark.parametrize(('h', 'w', 'tile'), [(40, 56, 24), (33, 71, 24), (64, 24, 24), (24, 24, 24), (40, 56, 32)])
def test_tiles_give_what_the_whole_picture_gives(plain, h, w, tile):
  x = picture(h, w)
  whole = infer.upscale(*plain, x, 2, tile=infer.WHOLE)
  tiled = infer.upscale(*plain, x, 2, tile=tile, overlap=3)
  assert tiled.shape == (2 * h, 2 * w, 3)
  assert tiled.dtype == np.float32
  np.testing.assert_allclose(tiled, whole, rtol=0, atol=2e-6)


def test_a_picture_smaller_than_a_tile_differs_at_the_padded_sides_only(plain):
  x = picture(20, 70)
  whole = infer.upscale(*plain, x, 2, tile=infer.WHOLE)
  tiled = infer.upscale(*plain, x, 2, tile=32, overlap=3)
  np.testing.assert_allclose(tiled[: 2 * 17], whole[: 2 * 17], rtol=0, atol=2e-6)


def test_an_overlap_below_the_radius_is_felt(plain):
  # So that the test above could fail.
  x = picture(40, 56)
  whole = infer.upscale(*plain, x, 2, tile=infer.WHOLE)
  assert np.abs(infer.upscale(*plain, x, 2, tile=24, overlap=0) - whole).max() > 1e-4


def test_tiles_fade_into_each_other_without_a_seam():
  # A network that answers every tile with another constant: the worst case. Steps must not exceed the ramp's slope.
  answers = iter(range(100))

  def constant(variables, x):
    del variables
    value = jax.pure_callback(lambda: np.float32(next(answers)), jax.ShapeDtypeStruct((), np.float32))
    return jnp.zeros_like(nearest({}, x)) + value

  y = infer.upscale(constant, {}, picture(24, 80), 2, tile=24, overlap=2)
  assert len(np.unique(y[0])) > 20  # several tiles, not one
  assert np.abs(np.diff(y, axis=1)).max() <= 1 / 16 + 1e-6  # 8 LR pixels are 16 steps
  assert np.abs(np.diff(y, axis=0)).max() < 1e-6


@pytest.mark.parametrize('overlap', [0, 1, 5, 8])
def test_weights_add_up_to_one_everywhere(overlap):
  for h, w in ((32, 33), (100, 41), (47, 130)):
    x = picture(h, w)
    y = infer.upscale(nearest, {}, x, 2, tile=32, overlap=overlap)
    np.testing.assert_allclose(y, np.repeat(np.repeat(x, 2, 0), 2, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize('name', ['edsr', 'safmn'])
def test_published_networks_in_tiles(name):
  fields = {'edsr': {'num_feat': 8, 'num_block': 2}, 'safmn': {'dim': 8, 'n_blocks': 1}}[name]
  model = models.build(name, upscale=2, **fields)
  params = params_of(model)
  x = picture(72, 104)  # multiples of 8: the pooling bins of SAFMN lie alike in tiles and in the whole picture
  whole = infer.upscale(model.apply, params, x, 2, tile=infer.WHOLE)
  tiled = infer.upscale(model.apply, params, x, 2, tile=64, overlap=min(model.receptive, 20))
  np.testing.assert_allclose(tiled, whole, rtol=0, atol=3e-6)


def test_tiles_start_on_the_grid_but_for_the_last():
  starts = [span.start for span in infer._spans(301, *infer.tiling(64, overlap=5), scale=1)]
  assert starts == [0, 40, 80, 120, 160, 200, 237]


def test_small_pictures_are_padded_by_reflection_and_cropped():
  seen = []

  def spy(variables, x):
    jax.debug.callback(lambda a: seen.append(np.asarray(a)), x)
    return nearest(variables, x)

  x = picture(5, 7)
  y = infer.upscale(spy, {}, x, 2, multiple=4, minimum=8)
  jax.effects_barrier()
  np.testing.assert_array_equal(y, np.repeat(np.repeat(x, 2, 0), 2, 1))
  assert seen[0].shape == (1, 8, 8, 3)
  np.testing.assert_array_equal(seen[0][0, 5:, :7], x[[3, 2, 1]])
  np.testing.assert_array_equal(seen[0][0, :5, 7:], x[:, [5]])


@pytest.mark.parametrize(('h', 'w'), [(1, 1), (1, 9), (2, 3)])
def test_pictures_too_small_to_reflect(h, w):
  x = picture(h, w)
  for tile in (0, 16):
    y = infer.upscale(nearest, {}, x, 2, tile=tile, overlap=0, minimum=16)
    np.testing.assert_array_equal(y, np.repeat(np.repeat(x, 2, 0), 2, 1))


def test_ensemble_is_the_mean_over_flips_and_turns(plain):
  apply_fn, params = plain
  x = picture(18, 26)
  expected = 0
  for turns in range(4):
    for flip in (False, True):
      turned = np.rot90(x, turns)
      y = apply_fn({'params': params}, (turned[:, ::-1] if flip else turned)[None])[0]
      expected += np.rot90(y[:, ::-1] if flip else y, -turns) / 8
  np.testing.assert_allclose(infer.upscale(*plain, x, 2, ensemble=True), expected, rtol=0, atol=1e-6)


def test_ensemble_of_tiles_equals_that_of_the_whole_picture(plain):
  x = picture(40, 33)
  whole = infer.upscale(*plain, x, 2, ensemble=True)
  np.testing.assert_allclose(infer.upscale(*plain, x, 2, tile=24, overlap=3, ensemble=True), whole, rtol=0, atol=2e-6)


def test_one_compilation_serves_all_tiles_and_pictures(plain):
  _, params = plain
  traces = []

  def counted(variables, x):
    traces.append(x.shape)
    return Plain().apply(variables, x)

  for h, w in ((40, 56), (30, 90), (20, 20)):
    infer.upscale(counted, params, picture(h, w), 2, tile=32, overlap=4)
  other = jax.tree.map(lambda leaf: 2 * leaf, params)  # parameters are an argument, not a constant
  infer.upscale(counted, other, picture(40, 56), 2, tile=32, overlap=4)
  assert traces == [(1, 32, 32, 3)]


def test_the_size_decides_when_no_tile_is_given(monkeypatch):
  shapes = []

  def spy(variables, x):
    shapes.append(x.shape[1:3])
    return nearest(variables, x)

  monkeypatch.setattr(infer, 'AUTO_WHOLE', 40 * 40)
  monkeypatch.setattr(infer, 'SIDES', (44,))
  infer.upscale(spy, {}, picture(20, 80), 2)
  infer.upscale(spy, {}, picture(41, 40), 2, overlap=4)
  infer.upscale(spy, {}, picture(41, 40), 2, tile=infer.WHOLE)
  assert shapes == [(20, 80), (48, 48), (41, 40)]


def test_networks_with_attention_get_a_wider_overlap():
  fields = {'embed_dim': 8, 'depths': (2,), 'num_heads': (2,), 'window_size': 4, 'img_size': 8}
  swinir, drct = models.build('swinir', **fields), models.build('drct', num_heads=(6,))

  def options(model, *tiling):
    return infer.network(model, {}, *tiling).options

  assert options(models.build('safmn'), 64) == {
    'tile': 64,
    'overlap': 16,
    'multiple': 1,
    'minimum': 8,
    'ensemble': False,
  }
  assert options(swinir).items() >= {'tile': 0, 'overlap': 32, 'multiple': 4, 'minimum': 3}.items()
  # The automatic tiles have room for it, and a tile that has none is refused.
  assert options(drct)['overlap'] == 32
  assert options(swinir, 0, 0)['overlap'] == 0  # asked for
  with pytest.raises(UserError, match='Tiles of 64 pixels with an overlap of 32 leave nothing: give --tile=80'):
    options(swinir, 64)


@pytest.mark.parametrize('size', [(152, 80), (150, 83)], ids=['of whole windows', 'of any size'])
def test_tiles_of_a_network_with_attention(size):
  model = models.build('swinir', embed_dim=8, depths=(4,), num_heads=(2,), upscale=2, upsampler='pixelshuffledirect')
  params = jax.tree.map(lambda leaf: 3 * leaf if leaf.ndim == 2 else leaf, params_of(model))  # it makes choices
  x = picture(*size)
  whole = infer.upscale(model.apply, params, x, 2, tile=infer.WHOLE)
  furthest = {overlap: np.abs(infer.network(model, params, 80, overlap)(x) - whole).max() for overlap in (0, None)}
  assert furthest[None] <= 1e-5 * np.abs(whole).max()
  assert furthest[0] > 1e-3 * np.abs(whole).max()


def test_progress_is_told():
  calls = []
  infer.upscale(nearest, {}, picture(40, 40), 2, tile=32, overlap=4, on_tile=lambda *n: calls.append(n))
  assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_impossible_tiles_are_refused():
  x = picture(40, 40)
  with pytest.raises(UserError, match='Tiles of 32 pixels with an overlap of 16 leave nothing: give --tile=48'):
    infer.upscale(nearest, {}, x, 2, tile=30, overlap=16)
  infer.upscale(nearest, {}, x, 2, tile=48, overlap=16)
  with pytest.raises(UserError, match='The tile is -2'):
    infer.upscale(nearest, {}, x, 2, tile=-2)
  with pytest.raises(UserError, match='The overlap is -1'):
    infer.upscale(nearest, {}, x, 2, overlap=-1)
  with pytest.raises(ValueError, match=r'is \(h, w, 3\)'):
    infer.upscale(nearest, {}, x[..., 0], 2)


def test_lack_of_memory_is_one_clear_sentence():
  def hungry(variables, x):
    del variables, x
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory while trying to allocate 99 bytes.')

  with pytest.raises(UserError, match=r'not enough memory for 32 x 32 pixels at a time: .*--tile=16'):
    infer.upscale(hungry, {}, picture(40, 40), 2, tile=32, overlap=2)


def test_tiles_are_as_large_as_free_memory_allows(plain, monkeypatch, capsys):
  model, params = plain
  x = picture(304, 344)

  def sides(free):
    traces = []

    def counted(variables, x):
      traces.append(x.shape[1])
      return Plain().apply(variables, x)

    monkeypatch.setattr(infer.memory, 'available', lambda: free)
    large = infer.upscale(counted, params, x, 2, overlap=3)
    np.testing.assert_allclose(large, whole, rtol=0, atol=2e-6)
    return traces[-1]

  whole = infer.upscale(model, params, x, 2, tile=infer.WHOLE)
  canvas = 15 * 4 * 304 * 344
  assert sides(10**9) == 304  # the whole picture is the least work
  assert 64 < sides(canvas + 4 * 10**6) < 304
  assert 'pixels take 0.00 GB' in capsys.readouterr().out
  assert sides(0) == 64


def test_after_lack_of_memory_smaller_tiles_are_tried_once(plain, capsys):
  _, params = plain

  def hungry(variables, x):
    if x.shape[1] > 32:
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory while trying to allocate 99 bytes.')
    return Plain().apply(variables, x)

  x = picture(60, 50)
  np.testing.assert_allclose(
    infer.upscale(hungry, params, x, 2, tile=64, overlap=3), infer.upscale(Plain().apply, params, x, 2), atol=2e-6
  )
  assert 'tiles of 32 are tried' in capsys.readouterr().out
  with pytest.raises(UserError, match='not enough memory for 48 x 48 pixels'):
    infer.upscale(hungry, params, x, 2, tile=104, overlap=3)


def test_tiles_go_through_several_at_a_time(plain, monkeypatch):
  x = picture(40, 90)
  one = infer.upscale(*plain, x, 2, tile=32, overlap=3)
  monkeypatch.setattr(infer, '_at_a_time', lambda *_: 3)
  three = infer.upscale(*plain, x, 2, tile=32, overlap=3)
  np.testing.assert_allclose(three, one, rtol=0, atol=1e-6)

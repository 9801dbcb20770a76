"""What the simulated camera decides: every range and probability, over many draws; determinism; shapes; options."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaptsr_jax.data import degrade
from adaptsr_jax.errors import UserError
from tests.pictures import scene

DRAWS, BATCH = 2000, 2
PRESETS = ('realesrgan', 'stablesr')
THIRDS = (1 / 3, 1 / 3, 1 / 3)


@functools.cache
def drawn(preset: str) -> degrade.Draws:
  """Returns 2,000 draws for a batch of 2, as numpy arrays with a leading axis of draws; kernels left out."""

  def decisions(key):
    draws = degrade.draw(key, degrade.PRESETS[preset], BATCH)
    return draws._replace(**{name: getattr(draws, name)._replace(kernel=None) for name in ('blur1', 'blur2', 'sinc')})

  return jax.tree.map(np.asarray, jax.jit(jax.vmap(decisions))(jax.random.split(jax.random.key(7), DRAWS)))


def assert_probabilities(outcomes: np.ndarray, probabilities: tuple[float, ...]) -> None:
  """Within 4.5 standard errors: one of the 100 or so numbers is beyond by chance once in 1,500 runs of other seeds."""
  found = np.array([np.mean(outcomes == k) for k in range(len(probabilities))])
  expected = np.array(probabilities)
  error = np.sqrt(expected * (1 - expected) / outcomes.size)
  assert np.isclose(found.sum(), 1)
  assert (np.abs(found - expected) <= 4.5 * error).all(), (found, expected)


def assert_uniform(values: np.ndarray, low: float, high: float) -> None:
  assert values.min() >= low - 1e-6
  assert values.max() <= high + 1e-6
  quarters = np.clip(np.floor(4 * (values - low) / (high - low)), 0, 3)
  assert_probabilities(quarters, (0.25, 0.25, 0.25, 0.25))


# The published numbers, written out again: (field of Draws, realesrgan, stablesr).
PROBABILITIES = {
  'blur1.sinc': (0.1, 0.1),
  'blur2.sinc': (0.1, 0.1),
  'noise1.is_gaussian': (0.5, 0.5),
  'noise2.is_gaussian': (0.5, 0.5),
  'noise1.gray': (0.4, 0.4),
  'noise2.gray': (0.4, 0.4),
  'has_blur2': (0.8, 0.5),
  'resize_first': (0.5, 0.5),
  'sinc.sinc': (0.8, 0.8),
}
RANGES = {
  'blur1.sigma_x': ((0.2, 3), (0.2, 1.5)),
  'blur1.sigma_y': ((0.2, 3), (0.2, 1.5)),
  'blur1.theta': ((-np.pi, np.pi),) * 2,
  'blur2.sigma_x': ((0.2, 1.5), (0.2, 1.0)),
  'blur2.sigma_y': ((0.2, 1.5), (0.2, 1.0)),
  'blur2.theta': ((-np.pi, np.pi),) * 2,
  'noise1.sigma': ((1, 30), (1, 15)),
  'noise1.scale': ((0.05, 3), (0.05, 2)),
  'noise2.sigma': ((1, 25), (1, 12)),
  'noise2.scale': ((0.05, 2.5), (0.05, 1)),
  'jpeg1': ((30, 95), (60, 95)),
  'jpeg2': ((30, 95), (60, 100)),
  'sinc.cutoff': ((np.pi / 3, np.pi),) * 2,
}
FACTORS = {
  'resize1': (((0.2, 0.7, 0.1), (0.15, 1.5)), ((0.2, 0.7, 0.1), (0.3, 1.5))),
  'resize2': (((0.3, 0.4, 0.3), (0.3, 1.2)), ((0.3, 0.4, 0.3), (0.6, 1.2))),
}
BETAS = {
  'blur1': (((0.5, 4), (1, 2)), ((0.5, 2), (1, 1.5))),
  'blur2': (((0.5, 4), (1, 2)), ((0.5, 2), (1, 1.5))),
}


def field(preset: str, path: str) -> np.ndarray:
  return functools.reduce(getattr, path.split('.'), drawn(preset))


@pytest.mark.parametrize('number', [0, 1], ids=PRESETS)
class TestDraws:
  @pytest.mark.parametrize('path', PROBABILITIES)
  def test_probability(self, number, path):
    p = PROBABILITIES[path][number]
    assert_probabilities(field(PRESETS[number], path).astype(int), (1 - p, p))

  @pytest.mark.parametrize('path', RANGES)
  def test_range(self, number, path):
    assert_uniform(field(PRESETS[number], path), *RANGES[path][number])

  @pytest.mark.parametrize('path', FACTORS)
  def test_resize(self, number, path):
    probabilities, (low, high) = FACTORS[path][number]
    factor = field(PRESETS[number], f'{path}.factor')
    assert factor.shape == (DRAWS,)
    assert_probabilities(np.select([factor > 1, factor < 1], [0, 1], 2), probabilities)
    assert_uniform(factor[factor > 1], 1, high)
    assert_uniform(factor[factor < 1], low, 1)
    assert_probabilities(field(PRESETS[number], f'{path}.mode'), THIRDS)
    assert_probabilities(field(PRESETS[number], 'final_mode'), THIRDS)

  @pytest.mark.parametrize('path', ['blur1', 'blur2'])
  def test_kernels(self, number, path):
    blur = field(PRESETS[number], path)
    assert_probabilities(blur.family, (0.45, 0.25, 0.12, 0.03, 0.12, 0.03))
    assert_probabilities((blur.size - 7) / 2, (1 / 8,) * 8)
    small = blur.size < 13
    assert_uniform(blur.cutoff[small], np.pi / 3, np.pi)
    assert_uniform(blur.cutoff[~small], np.pi / 5, np.pi)
    for families, (low, high) in zip(((2, 3), (4, 5)), BETAS[path][number], strict=True):
      beta = blur.beta[np.isin(blur.family, families)]
      assert_uniform(beta[beta > 1], 1, high)
      lower = beta[beta <= 1]
      assert_probabilities((beta <= 1).astype(int), (0.5, 0.5))
      if low < 1:
        assert_uniform(lower, low, 1)
      else:
        assert (lower == 1).all()

  def test_final_sinc_sizes(self, number):
    assert_probabilities((field(PRESETS[number], 'sinc.size') - 7) / 2, (1 / 8,) * 8)

  def test_decisions_are_independent(self, number):
    draws = drawn(PRESETS[number])
    columns = [x.reshape(DRAWS, -1)[:, -1].astype(float) for x in jax.tree.leaves(draws)]
    # Beta follows the family, and the cut-off the size; the others have nothing to do with each other.
    pairs = np.abs(np.corrcoef([x for x in columns if x.std() > 0]))
    assert np.median(pairs) < 0.025
    assert (np.sort(pairs[np.triu_indices_from(pairs, 1)])[:-6] < 0.1).all()


def test_pictures_of_a_batch_are_drawn_apart_and_kernels_fit_their_parameters():
  draws = jax.jit(lambda key: degrade.draw(key, degrade.PRESETS['realesrgan'], 64))(jax.random.key(1))
  for blur in (draws.blur1, draws.blur2, draws.sinc):
    assert blur.kernel.shape == (64, 21, 21)
    np.testing.assert_allclose(blur.kernel.sum((1, 2)), 1, atol=1e-5)
    assert len(np.unique(np.asarray(blur.size))) == 8
  blur = draws.blur1
  plain = degrade.blur_kernels(blur.family, blur.size, blur.sigma_x, blur.sigma_y, blur.theta, blur.beta)
  expected = np.where(blur.sinc[:, None, None], degrade.sinc_kernels(blur.size, blur.cutoff), plain)
  np.testing.assert_allclose(blur.kernel, expected, atol=1e-6)
  reach = np.maximum(*np.abs(np.mgrid[-10:11, -10:11]))
  assert not np.any(np.where(2 * reach < np.asarray(blur.size)[:, None, None], 0, blur.kernel))
  delta = np.asarray(draws.sinc.kernel[~draws.sinc.sinc])
  assert len(delta) > 0
  assert (delta[:, 10, 10] == 1).all()
  assert (delta.sum((1, 2)) == 1).all()


# ------------------------------------------------------------------------------------------------------ whole pictures

# Small changes of the options that leave one canvas: quick to compile.
PLAIN = {'resize1_prob': (0, 1, 0), 'resize1_range': (0.5, 1), 'resize2_prob': (0, 1, 0)}


def crops(batch: int, height: int, width: int) -> np.ndarray:
  return np.stack([scene(i, height, width) for i in range(batch)]).astype(np.float32)


def on_canvas(key: int, hr: np.ndarray, outside: float = 0.0) -> np.ndarray:
  """Returns LR of pictures (2, h, w, 3) that lie on a canvas: one compilation for all the tests."""
  h, w = hr.shape[1:3]
  canvas = np.pad(hr, ((0, 0), (0, 64 - h), (0, 72 - w), (0, 0)), constant_values=outside)
  lr = degrade.realesrgan(jax.random.key(key), canvas, 4, degrade.options('realesrgan', PLAIN), (h, w))
  assert lr.shape == (2, 16, 18, 3)
  assert lr.dtype == jnp.float32
  return np.asarray(lr[:, : h // 4, : w // 4])


def test_the_same_key_gives_the_same_lr_and_another_key_another():
  hr = crops(2, 40, 48)
  lr = on_canvas(3, hr)
  np.testing.assert_array_equal(lr, on_canvas(3, hr))
  assert np.abs(lr - on_canvas(4, hr)).max() > 0.02
  np.testing.assert_allclose(255 * lr, np.rint(255 * lr), atol=1e-4)
  assert lr.min() >= 0
  assert lr.max() <= 1


def test_what_lies_outside_of_a_picture_does_not_matter():
  hr = crops(2, 48, 56)
  np.testing.assert_allclose(on_canvas(5, hr, outside=0.7), on_canvas(5, hr), atol=1e-6)


@pytest.mark.parametrize('size', [(4, 4), (4, 72), (64, 8)], ids=str)
def test_small_pictures(size):
  for key in range(8):
    assert np.isfinite(on_canvas(key, crops(2, *size))).all()


def test_a_camera_that_does_nothing_but_shrink():
  """No sharpening, blur, noise or compression worth the name: LR is HR resized."""
  nothing = {
    'source_usm': False,
    'blur1_mix': (1, 0, 0, 0, 0, 0),
    'blur1_sinc_prob': 0,
    'blur1_sigma': (0.05, 0.05),
    'resize1_prob': (0, 0, 1),
    'resize2_prob': (0, 0, 1),
    'noise1_gaussian_prob': 1,
    'noise2_gaussian_prob': 1,
    'noise1_sigma': (0, 0),
    'noise2_sigma': (0, 0),
    'jpeg1_quality': (99.9, 99.9),
    'jpeg2_quality': (99.9, 99.9),
    'blur2_prob': 0,
    'final_sinc_prob': 0,
  }
  options = degrade.options('realesrgan', nothing)
  gray = np.repeat(crops(2, 32, 48)[..., :1], 3, -1)  # JPEG halves the resolution of colours
  key = jax.random.key(0)
  draws = jax.jit(lambda key: degrade.decisions(key, options, 2)[0])(key)
  mode = degrade.MODES[int(draws.resize2.mode)]
  lr = degrade.realesrgan(key, gray, 2, options)
  np.testing.assert_allclose(lr, np.clip(degrade.resize(gray, mode, (16, 24)), 0, 1), atol=1.5 / 255)


@pytest.mark.parametrize('usm', [False, True])
def test_make_cuts_pairs_at_one_place(usm):
  options = degrade.PRESETS['bicubic']
  hr = crops(2, 56, 48)
  pairs = degrade.make(options, 4, 32, usm)(jax.random.key(2), hr)
  assert pairs['lr'].shape == (2, 8, 8, 3)
  assert pairs['hr'].shape == (2, 32, 32, 3)
  whole = np.asarray(degrade.usm(hr) if usm else hr)
  places = [
    (top, left)
    for top in range(0, 25, 4)
    for left in range(0, 17, 4)
    if np.allclose(whole[:, top : top + 32, left : left + 32], pairs['hr'], atol=1e-6)
  ]
  assert len(places) == 1
  top, left = places[0]
  lr = degrade.bicubic(whole, 4)[:, top // 4 : top // 4 + 8, left // 4 : left // 4 + 8]
  np.testing.assert_allclose(pairs['lr'], lr, atol=1 / 254)


def test_make_reaches_every_place():
  make = degrade.make(degrade.PRESETS['bicubic'], 2, 8)
  hr = np.broadcast_to(np.arange(12, dtype=np.float32)[:, None, None] / 255, (1, 12, 12, 3))
  tops = {round(255 * float(make(jax.random.key(i), hr)['hr'][0, 0, 0, 0])) for i in range(40)}
  assert tops == {0, 2, 4}


def test_canvas():
  assert degrade.canvas(256, 4) == 400
  assert degrade.canvas(128, 4) == 200
  assert all(degrade.canvas(patch, s) % s == 0 for s in (2, 3, 4) for patch in (s, 4 * s, 31 * s))


def test_make_refuses_a_patch_that_is_no_multiple_of_the_scale():
  with pytest.raises(ValueError, match='no multiple'):
    degrade.make(degrade.PRESETS['realesrgan'], 4, 30)


# ------------------------------------------------------------------------------------------------------------- options


def test_options_change_what_is_named_only():
  options = degrade.options('stablesr', {'blur1_sigma': [0.3, 2], 'source_usm': False, 'gray1_prob': 1})
  assert options == degrade.PRESETS['stablesr']._replace(blur1_sigma=(0.3, 2.0), source_usm=False, gray1_prob=1.0)
  assert hash(options)
  assert degrade.options('bicubic', {}) == degrade.PRESETS['bicubic']


@pytest.mark.parametrize(
  ('name', 'value', 'words'),
  [
    ('blur1_sigmas', (1, 2), 'did you mean blur1_sigma'),
    ('zoom', 2, 'there are kind'),
    ('kind', 'third_order', "'second_order' or 'bicubic'"),
    ('source_usm', 'maybe', 'looks like True'),
    ('kernel_sizes', (7, 8), 'odd numbers'),
    ('kernel_sizes', (23,), 'odd numbers'),
    ('kernel_sizes', (7.5,), 'looks like'),
    ('blur1_mix', (0.5, 0.5), 'looks like'),
    ('blur1_mix', (0.5,) * 6, 'add up to 1'),
    ('resize1_prob', (1.5, -0.5, 0), 'add up to 1'),
    ('blur2_prob', 1.1, 'from 0 to 1'),
    ('blur2_prob', 'often', 'looks like'),
    ('blur1_sigma', (3, 0.2), 'low <= high'),
    ('blur1_sigma', (0, 1), 'above 0'),
    ('noise1_sigma', (-1, 1), 'above 0'),
    ('noise1_sigma', (float('nan'), 1), 'low <= high'),
    ('blur1_betag', (1.5, 4), 'include 1'),
    ('resize1_range', (0.2, 0.9), 'include 1'),
    ('resize2_range', (0.5, 9), 'at most 4'),
    ('jpeg1_quality', (30, 101), 'at most 100'),
  ],
)
def test_impossible_options_are_refused(name, value, words):
  with pytest.raises(UserError, match=rf'config\.data\.degrade\.{name} .*{words}'):
    degrade.options('realesrgan', {name: value})


def test_unknown_presets_are_refused():
  with pytest.raises(UserError, match='realesrgan, stablesr, bicubic'):
    degrade.options('camera', {})

"""NIQE against reference values, and its parts against what is known of them."""

import numpy as np
import pytest

from adaptsr_jax import image, metrics
from adaptsr_jax.errors import UserError
from adaptsr_jax.metrics import weights
from adaptsr_jax.metrics.niqe import FEATURES, Pristine, _features, _fit, _of_plane
from tests.pictures import scene
from tests.shared import shared


def invented() -> Pristine:
  """Returns parameters for tests of what does not depend on them."""
  gauss = np.exp(-0.5 * (np.arange(-3, 4) / (7 / 6)) ** 2)
  window = np.outer(gauss, gauss)
  return Pristine(np.linspace(0, 1, FEATURES), np.eye(FEATURES), window / window.sum())


def textured(seed: int, height: int = 208, width: int = 200) -> np.ndarray:
  noise = np.random.default_rng(seed).normal(0, 0.02, (height, width, 3))
  return image.to_uint8(np.clip(scene(seed, height, width) + noise, 0, 1))


def test_values_agree_with_the_reference():
  golden = np.load(shared('golden', 'metrics', 'niqe.npz'))
  parameters = weights.pristine(golden)
  assert _of_plane(parameters, golden['gray']) == pytest.approx(golden['values'][0], abs=5e-4)
  np.testing.assert_allclose(metrics.niqe(parameters, golden['rgb'][None], 0), golden['values'][1:2], atol=5e-4)


def test_the_border_is_left_out():
  x = textured(0)
  cropped = metrics.niqe(invented(), x[None, 4:-4, 4:-4], 0)
  assert np.isfinite(cropped).all()
  np.testing.assert_array_equal(metrics.niqe(invented(), x[None], 4), cropped)


def test_only_whole_blocks_count():
  x = textured(0)
  np.testing.assert_array_equal(metrics.niqe(invented(), x[None], 0), metrics.niqe(invented(), x[None, :192, :192], 0))


def test_batches_and_floats_give_the_value_of_each_picture():
  x = np.stack([textured(0), textured(1)])
  values = metrics.niqe(invented(), x, 0)
  assert values[0] != values[1]
  np.testing.assert_array_equal(metrics.niqe(invented(), x[1:], 0), values[1:])
  np.testing.assert_array_equal(metrics.niqe(invented(), image.to_float(x), 0), values)


def test_flat_pictures_have_no_value():
  assert np.isnan(metrics.niqe(invented(), np.full((1, 192, 192, 3), 90, np.uint8), 0)).all()


def test_flat_blocks_do_not_count():
  x = textured(0, 192, 288)
  x[:96, :96] = 90
  assert np.isfinite(metrics.niqe(invented(), x[None], 0)).all()


@pytest.mark.parametrize(('height', 'width', 'crop'), [(95, 400, 0), (96, 96, 0), (199, 103, 4), (8, 8, 4)])
def test_pictures_that_are_too_small_are_refused(height, width, crop):
  with pytest.raises(UserError, match=f'two blocks of 96 x 96 pixels inside a border of {crop}, not {width}x{height}'):
    metrics.niqe(invented(), np.zeros((1, height, width, 3), np.uint8), crop)


def test_a_single_picture_without_its_batch_is_refused():
  with pytest.raises(ValueError, match='must be'):
    metrics.niqe(invented(), textured(0), 0)


def test_the_fit_finds_the_distribution_that_samples_are_of():
  rng = np.random.default_rng(0)
  gauss, laplace = rng.normal(0, 3, (400, 400)), rng.laplace(0, 2, (400, 400))
  # Twice as wide on the right, and so twice as much there.
  lopsided = np.where(rng.random(gauss.shape) < 1 / 3, -1, 2) * np.abs(gauss)
  shape, left, right = _fit(np.stack([gauss, laplace, lopsided]))
  # exp(-(|x| / scale) ** shape): the scale of a Gaussian is its deviation times the root of 2.
  np.testing.assert_allclose(shape, [2, 1, 2], rtol=0.02)
  np.testing.assert_allclose(left, [3 * 2**0.5, 2, 3 * 2**0.5], rtol=0.02)
  np.testing.assert_allclose(right, [3 * 2**0.5, 2, 6 * 2**0.5], rtol=0.02)


def test_products_are_taken_with_neighbours_around_the_border():
  """A turned block has the features of the block with rows and columns, and the diagonals, exchanged."""
  block = np.random.default_rng(0).normal(size=(1, 48, 48))
  features, turned = _features(block)[0], _features(block[:, ::-1].swapaxes(1, 2))[0]
  np.testing.assert_allclose(turned[:2], features[:2], rtol=1e-9)
  np.testing.assert_allclose(turned[2:].reshape(4, 4), features[2:].reshape(4, 4)[[1, 0, 3, 2]], rtol=1e-6)


@pytest.mark.parametrize('key', ['mu_pris_param', 'cov_pris_param', 'gaussian_window'])
def test_wrong_parameters_are_named(key):
  arrays = {
    'mu_pris_param': np.zeros((1, 36)),
    'cov_pris_param': np.zeros((36, 36)),
    'gaussian_window': np.zeros((7, 7)),
  }
  assert weights.pristine(arrays).mean.shape == (36,)
  with pytest.raises(ValueError, match=f'its {key} has the shape'):
    weights.pristine({**arrays, key: np.zeros((2, 2))})

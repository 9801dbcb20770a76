"""MATLAB's imresize against reference values."""

import numpy as np
import pytest

from adaptsr_jax.bicubic import imresize
from tests.shared import shared

PICTURES = [
  *[(i, f'd{s}', 1 / s, slice(None), slice(None)) for i in range(3) for s in (2, 3, 4)],
  *[(0, f'u{s}', s, slice(24), slice(20)) for s in (2, 3, 4)],
]


@pytest.fixture(scope='module')
def golden():
  return np.load(shared('golden', 'metrics', 'imresize.npz'))


@pytest.mark.parametrize(('i', 'name', 'scale', 'rows', 'columns'), PICTURES)
def test_pictures_agree_with_the_reference(golden, i, name, scale, rows, columns):
  x = golden[f'in{i}_u8'][rows, columns].astype(np.float32) / 255
  y = imresize(x, scale)
  assert y.dtype == np.float32
  np.testing.assert_allclose(y, golden[f'out{i}_{name}'], rtol=0, atol=5e-6)
  levels = np.clip(np.round(y * 255), 0, 255).astype(np.uint8)
  np.testing.assert_array_equal(levels, golden[f'out{i}_{name}_u8'])


@pytest.mark.parametrize(
  ('name', 'scale', 'antialias'),
  [('d2_noaa', 0.5, False), ('d4', 0.25, True), ('u4', 4, True), ('d0p37', 0.37, True)],
)
def test_planes_and_fractions_agree_with_the_reference(golden, name, scale, antialias):
  y = imresize(golden['rand_in'], scale, antialias)
  np.testing.assert_allclose(y, golden[f'rand_{name}'], rtol=0, atol=5e-6)


def test_float64_stays_and_integers_become_float64():
  x = np.random.default_rng(0).random((9, 7, 2))
  assert imresize(x, 2).dtype == np.float64
  assert imresize((x * 255).astype(np.uint8), 0.5).dtype == np.float64
  np.testing.assert_allclose(imresize(x.astype(np.float32), 2), imresize(x, 2), atol=1e-6)


def test_constant_is_kept_and_scale_one_is_identity():
  np.testing.assert_allclose(imresize(np.full((5, 6, 3), 0.3), 1 / 3), 0.3, atol=1e-12)
  x = np.random.default_rng(1).random((5, 6))
  np.testing.assert_allclose(imresize(x, 1), x, atol=1e-15)


def test_pictures_smaller_than_the_kernel_are_mirrored_repeatedly():
  np.testing.assert_allclose(imresize(np.array([[0.25]]), 1 / 4), [[0.25]])
  y = imresize(np.array([[0.0, 1.0]]), 1 / 8)
  assert y.shape == (1, 1)
  np.testing.assert_allclose(y, 0.5, atol=0.05)


def test_exact_multiples_give_no_extra_row():
  for scale in range(2, 13):
    for n in range(1, 200):
      assert imresize(np.zeros((n * scale, 1)), 1 / scale).shape[0] == n


@pytest.mark.parametrize(('x', 'scale'), [(np.zeros(3), 2), (np.zeros((0, 3, 3)), 2), (np.zeros((3, 3)), 0)])
def test_impossible_input_is_refused(x, scale):
  with pytest.raises(ValueError, match='imresize takes'):
    imresize(x, scale)

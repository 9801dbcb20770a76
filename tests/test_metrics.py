"""PSNR and SSIM against reference values."""

import numpy as np
import pytest

from adaptsr_jax import metrics
from adaptsr_jax.metrics import fidelity
from tests.shared import shared


@pytest.fixture(scope='module')
def golden():
  return np.load(shared('golden', 'metrics', 'psnr_ssim.npz'))


@pytest.mark.parametrize('i', range(11))
def test_values_agree_with_the_reference(golden, i):
  a, b, values = golden[f'a{i}'], golden[f'b{i}'], golden['values'][i]
  for crop, at in ((0, 0), (4, 4)):
    found = metrics.quality(a, b, crop)
    assert list(found) == ['psnr_y', 'ssim_y', 'psnr_rgb', 'ssim_rgb']
    expected = dict(zip(found, values[at : at + 4], strict=True))
    for name, value in found.items():
      assert value == pytest.approx(expected[name], abs=1e-4 if 'psnr' in name else 1e-7), (name, crop)


def test_luma_agrees_with_the_reference(golden):
  y = fidelity.to_luma(golden['a0'])[..., 0]
  np.testing.assert_allclose(y, golden['y_plane_a0'], rtol=0, atol=3e-5)
  assert y.dtype == np.float64


def test_batches_give_the_value_of_each_picture(golden):
  a, b = (np.stack([golden[f'{name}{i}'] for i in range(4)]) for name in 'ab')
  np.testing.assert_allclose(metrics.psnr(a, b, 4, luma=True), golden['values'][:4, 4], atol=1e-4)
  np.testing.assert_allclose(metrics.ssim(a, b, 4, luma=False), golden['values'][:4, 7], atol=1e-7)


def test_identical_pictures():
  a = np.random.default_rng(0).integers(0, 256, (1, 16, 17, 3), dtype=np.uint8)
  assert metrics.psnr(a, a, 2, luma=True) == np.inf
  assert metrics.ssim(a, a, 2, luma=True) == pytest.approx(1, abs=1e-12)


def test_floats_and_16_bit_are_rounded_to_8_bit_first():
  a, b = np.random.default_rng(1).integers(0, 256, (2, 1, 16, 16, 3), dtype=np.uint8)
  expected = metrics.psnr(a, b, 0, luma=True)
  noise = np.random.default_rng(2).uniform(-0.4, 0.4, a.shape) / 255
  np.testing.assert_array_equal(metrics.psnr((a / 255 + noise).astype(np.float32), b, 0, luma=True), expected)
  np.testing.assert_array_equal(metrics.psnr(a.astype(np.uint16) * 257, b, 0, luma=True), expected)


def test_order_does_not_matter_and_inputs_are_not_changed():
  a, b = np.random.default_rng(1).integers(0, 256, (2, 1, 16, 16, 3), dtype=np.uint8)
  kept = a.copy()
  np.testing.assert_allclose(metrics.ssim(a, b, 0, luma=True), metrics.ssim(b, a, 0, luma=True), rtol=1e-12)
  np.testing.assert_array_equal(a, kept)


@pytest.mark.parametrize(
  ('shape_a', 'shape_b', 'crop', 'message'),
  [
    ((1, 16, 16, 3), (1, 16, 15, 3), 0, 'must both be'),
    ((16, 16, 3), (16, 16, 3), 0, 'must both be'),
    ((1, 8, 16, 3), (1, 8, 16, 3), 4, 'cannot be removed'),
    ((1, 16, 18, 3), (1, 16, 18, 3), 4, 'SSIM needs'),
  ],
)
def test_pictures_that_cannot_be_compared_are_refused(shape_a, shape_b, crop, message):
  with pytest.raises(ValueError, match=message):
    metrics.ssim(np.zeros(shape_a, np.uint8), np.zeros(shape_b, np.uint8), crop, luma=True)

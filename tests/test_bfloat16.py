"""bfloat16 against float32 on real pictures with published weights."""

import jax.numpy as jnp
import numpy as np
import pytest

from adaptsr_jax import base, image, infer, metrics
from tests.shared import shared

# Weights, LR, HR, and the most that PSNR may change, in dB. On pairs of a camera, where 25 to 36 dB are usual, it
# is as good as float32. But rounding is a noise of a fraction of an 8-bit level, which is felt where little else is
# wrong: the worst of Set5 x2 is bird (43 dB), and of 14 DRealSR pairs one at 49 dB that loses 0.12 dB.
PICTURES = [
  ('safmn_ntire2023_x4.pth', 'drealsr_x4/LR/Canon_10_x1.png', 'drealsr_x4/HR/Canon_10_x1.png', 0.02),
  ('safmn_ntire2023_x4.pth', 'drealsr_x4/LR/DSC_1057_x1.png', 'drealsr_x4/HR/DSC_1057_x1.png', 0.02),
  ('safmn_ntire2023_x4.pth', 'drealsr_x4/LR/DSC_1326_x1.png', 'drealsr_x4/HR/DSC_1326_x1.png', 0.02),
  ('safmn_x2_official.pth', 'set5/LR_bicubic_X2/birdx2.png', 'set5/HR/bird.png', 0.08),
]


@pytest.mark.parametrize(('weights', 'lr', 'hr', 'most'), PICTURES, ids=lambda value: str(value).rpartition('/')[2])
def test_psnr_is_close_to_that_of_float32(weights, lr, hr, most):
  loaded = base.load(shared('weights', weights))
  lr, hr = (image.read_array(shared('data', name)) for name in (lr, hr))

  def enlarged(dtype):
    model = loaded.model(dtype=jnp.dtype(dtype))
    return infer.upscale(model.apply, loaded.params, image.to_float(lr), model.upscale, minimum=model.minimum)

  def psnr(y):
    return metrics.psnr(image.to_uint8(y)[None], hr[None], loaded.fields['upscale'], luma=True)[0]

  y, z = enlarged('float32'), enlarged('bfloat16')
  assert np.abs(y - z).max() > 1e-4  # it was computed in low precision at all
  assert psnr(y) > 25
  assert abs(psnr(y) - psnr(z)) < most, f'{psnr(y):.4f} {psnr(z):.4f}'

"""PSNR and SSIM by the protocol of published super-resolution tables.

Pictures are 8-bit. The order is: remove the border, convert to luma (BT.601, not rounded) where asked for, compute in
float64. This is the protocol of BasicSR's validation; values from other protocols (borders kept, full-range luma,
pictures not rounded to 8 bit) differ by up to several tenths of a dB and do not belong in the same table.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from adaptsr_jax import image

# What a table must say beside its numbers, without the width of the border.
PROTOCOL = {'levels': '8 bit', 'y': 'BT.601 16-235, not rounded', 'ssim': '11 x 11 Gaussian, sigma 1.5, valid'}

_LUMA = np.array([65.481, 128.553, 24.966])  # of RGB in [0, 1], onto 16..235
_PEAK = 255.0
WINDOW = 11  # side of the window of SSIM, in pixels
_RADIUS = WINDOW // 2
_GAUSS = np.exp(-0.5 * (np.arange(-_RADIUS, _RADIUS + 1) / 1.5) ** 2)
_GAUSS /= _GAUSS.sum()
_STRIP = 2**22  # pixels that are computed at a time; SSIM takes about 250 bytes for each


def psnr(a: np.ndarray, b: np.ndarray, crop: int, luma: bool) -> np.ndarray:
  """Peak signal-to-noise ratio in dB; infinite for identical pictures.

  Args:
    a: RGB pictures (B, H, W, 3), uint8; uint16 and floats in [0, 1] are rounded to 8 bit first.
    b: as `a`.
    crop: pixels to leave out at each border; tables use the scale factor.
    luma: compare the Y channel instead of R, G and B together.

  Returns:
    Float64 array (B,).
  """
  with np.errstate(divide='ignore'):
    squares = _mean(lambda a, b: np.mean((a - b) ** 2, axis=(1, 2, 3)), *_cropped(a, b, crop), luma)
    return 10 * np.log10(_PEAK**2 / squares)


def ssim(a: np.ndarray, b: np.ndarray, crop: int, luma: bool) -> np.ndarray:
  """Structural similarity, the mean over pixels and channels; 1 for identical pictures. Arguments as of `psnr`.

  Wang et al. 2004: 11 x 11 Gaussian window of sigma 1.5 at the positions where it fits entirely, population
  variances, K1 = 0.01, K2 = 0.03. The pictures need at least 11 pixels a side after cropping.
  """
  a, b = _cropped(a, b, crop)
  if min(a.shape[1:3]) < WINDOW:
    raise ValueError(f'SSIM needs pictures of {WINDOW} x {WINDOW} after cropping, not {a.shape[1]} x {a.shape[2]}')
  return _mean(_similar, a, b, luma, WINDOW - 1)


def quality(output: np.ndarray, hr: np.ndarray, crop: int) -> dict[str, float]:
  """Returns 'psnr_y', 'ssim_y', 'psnr_rgb' and 'ssim_rgb' of one picture (H, W, 3); see `psnr` and `ssim`."""
  pair = output[None], hr[None], crop
  return {
    f'{name}_{kind}': float(metric(*pair, luma=kind == 'y')[0])
    for kind in ('y', 'rgb')
    for name, metric in (('psnr', psnr), ('ssim', ssim))
  }


def level(output: np.ndarray, hr: np.ndarray, crop: int) -> float:
  """Returns by how many grey levels (Y) one picture (H, W, 3) is brighter than another in the mean; see `psnr`."""
  pair = _cropped(output[None], hr[None], crop)
  return float(_mean(lambda a, b: a.mean(axis=(1, 2, 3)) - b.mean(axis=(1, 2, 3)), *pair, luma=True)[0])


def to_luma(rgb: np.ndarray) -> np.ndarray:
  """Returns the BT.601 luma (..., 1) in [16, 235], float64 and not rounded, of 8-bit RGB (..., 3)."""
  return (rgb @ _LUMA / _PEAK + 16)[..., None]


def check_shapes(a: np.ndarray, b: np.ndarray) -> None:
  if a.shape != b.shape or a.ndim != 4 or a.shape[-1] != 3:
    raise ValueError(f'pictures to compare must both be (B, H, W, 3), not {a.shape} and {b.shape}')


def _cropped(a: np.ndarray, b: np.ndarray, crop: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns both batches without their border."""
  check_shapes(a, b)
  height, width = a.shape[1:3]
  if crop < 0 or min(height, width) <= 2 * crop:
    raise ValueError(f'a border of {crop} pixels cannot be removed from pictures of {height} x {width}')
  window = np.s_[:, crop : height - crop, crop : width - crop]
  return a[window], b[window]


def _mean(fn: Callable[..., np.ndarray], a: np.ndarray, b: np.ndarray, luma: bool, overlap: int = 0) -> np.ndarray:
  """Returns the mean (B,) of what `fn` gives for float64 levels (B, h, w, 1 or 3), h being `overlap` rows more.

  Large pictures are computed in strips of rows: memory does not grow with them.
  """
  rows, means, counts = a.shape[1] - overlap, [], []
  step = max(1, _STRIP // (a.shape[0] * a.shape[2]))
  for top in range(0, rows, step):
    count = min(step, rows - top)
    strip = (image.to_uint8(x[:, top : top + count + overlap]) for x in (a, b))
    means.append(fn(*(to_luma(x) if luma else x.astype(np.float64) for x in strip)))
    counts.append(count)
  return np.average(means, axis=0, weights=counts) if len(means) > 1 else means[0]


def _similar(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  c1, c2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2
  mean_a, mean_b = _blur(a), _blur(b)
  variances = _blur(a * a + b * b) - mean_a**2 - mean_b**2  # of a and b, summed
  covariance = _blur(a * b) - mean_a * mean_b
  luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
  return np.mean(luminance * (2 * covariance + c2) / (variances + c2), axis=(1, 2, 3))


def _blur(x: np.ndarray) -> np.ndarray:
  """Gaussian mean around each position of (B, H, W, C) where the window fits: (B, H - 10, W - 10, C)."""
  for axis in (1, 2):
    x = ndimage.correlate1d(x, _GAUSS, axis=axis).take(range(_RADIUS, x.shape[axis] - _RADIUS), axis=axis)
  return x

"""Measures one pair: how LR lies on the shrunk HR picture, in which light, and whether HR holds more than LR.

Both pictures are compared at the size of LR, where HR is shrunk by MATLAB's bicubic kernel. Levels are those of 8 bit,
0 to 255. Shifts are in LR pixels, (down, right), and tell where the content of LR lies relative to that of HR.
"""

import hashlib
import itertools
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from adaptsr_jax import bicubic, image
from adaptsr_jax.data.folders import Pair
from adaptsr_jax.errors import UserError

_STRIP = 256  # LR rows that are shrunk at a time, which bounds the memory
_REACH = 2  # LR pixels to each side that a bicubic LR pixel is made of
_WINDOW = 1024  # LR pixels a side: what of a large picture the shift is told from
_TILES = 4  # local shifts are measured on 4 x 4 tiles,
_TILE = 32, 128  # of this least and largest side in LR pixels
_BLUR = 5  # pixels a side of the Gaussian before registration: LR and HR differ in sharpness, not in what remains
# Neighbouring pixels are not independent after that blur (sigma 1.1): errors are larger by sqrt(4 pi sigma^2).
_CORRELATED = 4.0
_CLEARLY = 0.02  # difference of correlation coefficients
_SURE = 0.15  # LR pixels: standard error up to which the shift of a tile counts
_CRITERIA = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 50, 1e-4)
_DETAIL_WINDOW = 256  # HR pixels a side
_SECTORS = 12
_LEAST_STRUCTURE = 0.2  # levels; what only noise makes lies below
_DETAIL_WINDOWS = 4  # a side of the grid
_CLIPPED = 2, 253  # levels at which a channel counts as clipped
_THUMBNAIL = 32
_FLAT = 1.5  # levels: RMS of structure below which there is nothing to compare


class Shift(NamedTuple):
  """How LR lies on HR, in LR pixels."""

  down: float
  right: float
  error: float  # standard error; infinite where nothing tells
  agreement: float  # correlation of the aligned fine structure, 1: the same scene; nan: both are flat
  corner: float  # how far rotation and zoom move the corners; nan without enough tiles
  local: float  # what remains in the worst tenth of the tiles: parallax, movement; nan as above


class Tone(NamedTuple):
  """How the levels of LR follow from those of HR: LR = gain * HR + offset, per channel."""

  gain: tuple[float, float, float]
  offset: tuple[float, float, float]  # 8-bit levels
  levels: tuple[float, float, float]  # LR - HR at the middle of the picture's levels
  stops: tuple[float, float, float]  # the same in stops of light (sRGB); positive: LR is brighter


class Measures(NamedTuple):
  """What was measured of one pair."""

  psnr: float  # dB of LR against the shrunk HR, RGB
  psnr_mended: float  # the same after shift and tone are taken out
  shift: Shift
  tone: Tone
  detail: float  # energy of HR in the octave above the Nyquist frequency of LR / that of LR enlarged; nan: unknown
  clipped: tuple[float, float]  # share of pixels of (LR, HR) with a channel at either end
  lr_pixels: str  # digests of the decoded pictures
  hr_pixels: str
  lr_thumbnail: np.ndarray  # (32, 32) structure of unit length, zeros if flat
  hr_thumbnail: np.ndarray


def examine(pair: Pair, scale: int) -> Measures:
  """Decodes and measures a pair.

  Raises:
    UserError: a file cannot be decoded, or was replaced since its header was read; names it.
  """
  lr, hr = _decoded(pair.lr, pair.lr_size), _decoded(pair.hr, pair.hr_size)
  small, large = to_levels(lr), shrunk(hr, scale, lr.shape[:2])
  shift, aligned = _register(small, large)
  tone = _tone(small, aligned)
  corrected = np.float32(tone.gain) * aligned + np.float32(tone.offset)
  inner = _inner(small.shape, shift[:2])
  return Measures(
    psnr=_psnr(small, large),
    psnr_mended=_psnr(small[inner], corrected[inner]),
    shift=shift,
    tone=tone,
    detail=_detail(hr[: scale * lr.shape[0], : scale * lr.shape[1]], scale),
    clipped=(_clipped(lr), _clipped(hr)),
    lr_pixels=_digest(lr),
    hr_pixels=_digest(hr),
    lr_thumbnail=thumbnail(small),
    hr_thumbnail=thumbnail(large),
  )


def _decoded(path: Path, size: tuple[int, int]) -> np.ndarray:
  x = image.read_array(path)
  if x.shape[:2] != size:
    raise UserError(f'{path} was replaced by a picture of another size while it was examined.')
  return x


def to_levels(x: np.ndarray) -> np.ndarray:
  """Returns integers of the full range of their type as float32 in 0..255."""
  return x.astype(np.float32) * np.float32(255 / np.iinfo(x.dtype).max)


def shrunk(hr: np.ndarray, scale: int, size: tuple[int, int]) -> np.ndarray:
  """Returns HR (H, W, 3), cut at the bottom and right, at the LR size (h, w) as float32 levels, in strips of rows."""
  h, w = size
  strips = []
  for top in range(0, h, _STRIP):
    bottom = min(h, top + _STRIP)
    first, last = max(0, top - _REACH), min(h, bottom + _REACH)
    rows = to_levels(hr[scale * first : scale * last, : scale * w])
    strips.append(bicubic.imresize(rows, 1 / scale)[top - first : bottom - first])
  return np.clip(np.concatenate(strips), 0, 255)


def thumbnail(x: np.ndarray) -> np.ndarray:
  """Returns what a picture (H, W, 3) shows, whatever its size, light and contrast: (32, 32) of unit length."""
  y = cv2.resize(_luma(x), (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
  # Without the coarse shading, in which skies and lit walls are alike.
  y -= cv2.GaussianBlur(y, (0, 0), 4)
  return y / np.linalg.norm(y) if y.std() > _FLAT else np.zeros_like(y)


def _luma(x: np.ndarray) -> np.ndarray:
  return np.ascontiguousarray(x @ image.LUMA)


def _digest(x: np.ndarray) -> str:
  return hashlib.sha256(repr((x.shape, x.dtype.str)).encode() + x.tobytes()).hexdigest()[:32]


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
  error = np.mean((a - np.clip(np.rint(b), 0, 255)) ** 2, dtype=np.float64)
  return float(10 * np.log10(255**2 / error)) if error else float('inf')


def _clipped(x: np.ndarray) -> float:
  low, high = (level * (np.iinfo(x.dtype).max // 255) for level in _CLIPPED)
  return float(((x <= low) | (x >= high)).any(-1).mean())


# --- registration


def _register(lr: np.ndarray, hr: np.ndarray) -> tuple[Shift, np.ndarray]:
  """Returns how LR lies on the shrunk HR, and that HR moved onto LR."""
  a, b = _structure(lr), _structure(hr)
  middle = tuple(slice(max(0, (n - _WINDOW) // 2), max(0, (n - _WINDOW) // 2) + _WINDOW) for n in a.shape)
  shift, error = _global_shift(a[middle], b[middle])
  if not error < _SURE:
    shift = np.zeros(2)  # nothing is moved by a guess
  aligned = _moved(hr, shift)
  agreement = _agreement(a, _moved(b, shift), shift)
  return Shift(*map(float, shift), error, agreement, *_warp(a, b, shift)), aligned


def _global_shift(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, float]:
  """Phase correlation finds the peak over all shifts, the correlation coefficient then refines it.

  The centroid that OpenCV takes around the peak is drawn to whole pixels, by up to a tenth; ECC (Evangelidis and
  Psarakis 2008) is not, and does not mind another exposure. The peak misleads in pictures of repeated patterns or
  hardly any structure, so a start at no shift is tried too, and preferred unless it agrees clearly worse.

  Returns:
    The shift (down, right) and its standard error.
  """
  window = cv2.createHanningWindow(a.shape[::-1], cv2.CV_32F)
  (right, down), _ = cv2.phaseCorrelate(b.copy(), a.copy(), window)  # it windows its arguments in place
  here, there = (_refined(a, b, start) for start in ((0.0, 0.0), (down, right)))
  shift, correlation = there if there[1] > here[1] + _CLEARLY else here
  return shift, _shift_error(a, b, shift) if correlation > 0 else float('inf')


def _refined(a: np.ndarray, b: np.ndarray, start: tuple[float, float]) -> tuple[np.ndarray, float]:
  """Returns (shift, correlation) of `a` on `b` from a start nearby; zeros and -1 where it is lost."""
  matrix = np.float32([[1, 0, start[1]], [0, 1, start[0]]])
  try:
    correlation, matrix = cv2.findTransformECC(
      np.ascontiguousarray(b), np.ascontiguousarray(a), matrix, cv2.MOTION_TRANSLATION, _CRITERIA, None, _BLUR
    )
  except cv2.error:  # flat, or it does not converge
    return np.zeros(2), -1.0
  shift = matrix[::-1, 2].astype(np.float64)
  if not np.isfinite(shift).all() or (np.abs(shift) > np.array(a.shape) / 2).any():
    return np.zeros(2), -1.0
  return shift, float(correlation)


def _moved(x: np.ndarray, shift: np.ndarray) -> np.ndarray:
  matrix = np.float32([[1, 0, shift[1]], [0, 1, shift[0]]])
  return cv2.warpAffine(x, matrix, x.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def _inner(shape: tuple[int, ...], shift: np.ndarray) -> tuple[slice, slice]:
  """Returns the part of LR that HR covers after the shift."""
  lost = [min(n // 4, int(np.ceil(abs(s)))) for n, s in zip(shape, shift, strict=False)]
  return tuple(slice(k, n - k) for n, k in zip(shape, lost, strict=False))


def _structure(x: np.ndarray) -> np.ndarray:
  """Returns luma without its coarse shading, which vignetting and flare change and which would pass for a shift."""
  y = _luma(x)
  return y - cv2.GaussianBlur(y, (0, 0), 6)


def _agreement(a: np.ndarray, b: np.ndarray, shift: np.ndarray) -> float:
  # LR and HR differ in sharpness and noise: what both resolve is compared.
  inner = _inner(a.shape, shift)
  a, b = (cv2.GaussianBlur(y, (_BLUR, _BLUR), 0)[inner] for y in (a, b))
  if max(a.std(), b.std()) < _FLAT:
    return float('nan')
  return float(np.mean(a * b) / max(np.sqrt(np.mean(a * a) * np.mean(b * b)), 1e-6))


def _warp(a: np.ndarray, b: np.ndarray, shift: np.ndarray) -> tuple[float, float]:
  """Measures shifts tile by tile; returns what rotation and zoom do at the corners, and what they leave."""
  side = int(np.clip(min(a.shape) // _TILES, *_TILE))
  if min(a.shape) < 2 * side:
    return float('nan'), float('nan')
  places, shifts = [], []
  for top, left in itertools.product(*(np.linspace(0, n - side, _TILES).astype(int) for n in a.shape)):
    tile = np.s_[top : top + side, left : left + side]
    local, correlation = _refined(a[tile], b[tile], tuple(shift))
    if correlation > 0 and _shift_error(a[tile], b[tile], local) < _SURE:
      places.append((top + side / 2, left + side / 2))
      shifts.append(local - shift)
  if len(places) < 6:
    return float('nan'), float('nan')
  centred = (np.array(places) - np.array(a.shape) / 2) / (np.array(a.shape) / 2)  # the corners are at (+-1, +-1)
  terms, motion = np.column_stack([np.ones(len(places)), centred]), np.array(shifts)
  weights = np.ones(len(places))
  for _ in range(10):  # robust: a moving car is no rotation
    root = np.sqrt(weights)[:, None]
    linear = np.linalg.lstsq(root * terms, root * motion, rcond=None)[0]
    rest = np.linalg.norm(motion - terms @ linear, axis=1)
    weights = 1 / np.maximum(rest / 0.1, 1)
  corner = max(np.hypot(*(y * linear[1] + x * linear[2])) for y, x in ((1, 1), (1, -1)))
  return float(corner), float(np.percentile(rest, 90))


def _shift_error(a: np.ndarray, b: np.ndarray, shift: np.ndarray) -> float:
  """Returns the standard error of a shift in the direction that is known worst, from what it leaves unexplained."""
  inner = _inner(a.shape, shift)
  a, b = (cv2.GaussianBlur(y, (_BLUR, _BLUR), 0)[inner] for y in (a, _moved(b, shift)))
  a, b = a - a.mean(), b - b.mean()
  gain = np.sum(a * b) / max(np.sum(b * b), 1e-6)
  gradients = np.stack([g.ravel() for g in np.gradient(gain * b)])
  least = np.linalg.eigvalsh(gradients @ gradients.T)[0]  # structure tensor: along an edge nothing is known
  return float(_CORRELATED * np.std(a - gain * b) / np.sqrt(max(least, 1e-9)))


# --- light


def _tone(lr: np.ndarray, hr: np.ndarray) -> Tone:
  """Fits a line to the levels of each channel, from aligned pictures and without what is clipped."""
  low, high = _CLIPPED
  fine = ((lr > low) & (lr < high) & (hr > low) & (hr < high)).all(-1)
  keep = cv2.erode(fine.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
  if keep.sum() < 64:
    keep = np.ones_like(keep)
  # Sharpness and noise apart, as errors in HR would flatten the line.
  lr, hr = (cv2.GaussianBlur(x, (0, 0), 2)[keep] for x in (lr, hr))
  step = max(1, len(lr) // 2**17)
  lines = [_line(x, y) for x, y in zip(hr[::step].T, lr[::step].T, strict=True)]
  middle = np.median(hr, axis=0)
  levels = [gain * m + offset - m for (gain, offset), m in zip(lines, middle, strict=True)]
  stops = [_stops(m, m + difference) for m, difference in zip(middle, levels, strict=True)]
  gains, offsets = zip(*lines, strict=True)
  return Tone(*(tuple(map(float, values)) for values in (gains, offsets, levels, stops)))


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
  """Returns (gain, offset) of y = gain x + offset by iterated least squares with Tukey's weights."""
  if x.std() < 8:  # levels: too little to tell a gain from
    return 1.0, float(np.median(y - x))
  weights, gain, offset = np.ones_like(x), 1.0, float(np.median(y - x))
  for _ in range(10):
    rest = y - gain * x - offset
    spread = max(1.4826 * float(np.median(np.abs(rest))), 0.5)
    weights = np.clip(1 - (rest / (4.685 * spread)) ** 2, 0, None) ** 2
    mean_x, mean_y = np.average(x, weights=weights), np.average(y, weights=weights)
    gain = np.sum(weights * (x - mean_x) * (y - mean_y)) / np.sum(weights * (x - mean_x) ** 2)
    offset = mean_y - gain * mean_x
  return float(gain), float(offset)


def _stops(before: float, after: float) -> float:
  """Returns by how many stops of light two sRGB levels differ; below level 16, where stops run away, as there."""
  lift = max(0.0, 16 - before)
  light = image.linear(np.maximum([before + lift, after + lift], 1.0) / 255)
  return float(np.log2(light[1] / light[0]))


# --- detail


def _detail(hr: np.ndarray, scale: int) -> float:
  """Compares HR with its own shrunk and enlarged copy in the octave above the Nyquist frequency of LR.

  There an enlargement holds only what its kernel lets through, and so does a picture that was blurred or enlarged
  before it was called HR. White noise, measured where both axes are near their highest frequency, is taken off.
  """
  side = min(_DETAIL_WINDOW, *hr.shape[:2]) // scale * scale
  if scale == 1 or side < 16 * scale:
    return float('nan')
  window = np.outer(np.hanning(side), np.hanning(side)).astype(np.float32)
  fy, fx = np.abs(np.fft.fftfreq(side))[:, None], np.fft.rfftfreq(side)[None]
  highest = np.maximum(fy, fx)
  octave = (highest > 0.5 / scale) & (highest <= 1 / scale)
  below = (highest > 0.25 / scale) & (highest <= 0.5 / scale)  # the octave that LR still holds
  # By direction, for a median: a fence whose bars are as fine as LR pixels would outweigh all the rest of its picture.
  sector = np.floor(np.arctan2(np.fft.fftfreq(side)[:, None], fx) / np.pi * _SECTORS).astype(int)[octave] % _SECTORS
  noise = (np.minimum(fy, fx) > 0.4) & (scale > 2)  # at x2 the octave reaches up to there itself
  held, given, coarse = np.zeros(_SECTORS), np.zeros(_SECTORS), 0.0
  counts = [min(_DETAIL_WINDOWS, max(1, n // side)) for n in hr.shape[:2]]
  starts = [np.unique(np.linspace(0, n - side, count).astype(int)) for n, count in zip(hr.shape, counts, strict=False)]
  places = list(itertools.product(*starts))
  for top, left in places:
    y = _luma(to_levels(hr[top : top + side, left : left + side]))
    enlarged = np.clip(np.rint(bicubic.imresize(bicubic.imresize(y, 1 / scale), scale)), 0, 255)
    own, other = (np.abs(np.fft.rfft2((x - x.mean()) * window)) ** 2 for x in (y, enlarged))
    floor = own[noise].mean() if noise.any() else 0.0
    held += np.bincount(sector, own[octave] - floor, _SECTORS)
    given += np.bincount(sector, other[octave], _SECTORS)
    coarse += own[below].sum()
  # Parseval, for a mean square: without structure just below that frequency none is to be expected above it.
  structure = np.sqrt(coarse / (side**4 * len(places)))
  return float(np.median(held / given)) if structure > _LEAST_STRUCTURE else float('nan')

"""A picture in memory, what the formats of files can hold of it, and its levels."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from adaptsr_jax.errors import UserError

SUFFIXES = ('.png', '.jpg', '.jpeg', '.jfif', '.jpe', '.webp', '.tif', '.tiff', '.bmp')
WRITABLE = ('.png', '.jpg', '.jpeg', '.jfif', '.jpe', '.webp', '.tif', '.tiff')
DEEP = ('.png', '.tif', '.tiff')  # formats that hold 16 bit
_AT_ONCE = 2**22  # values
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue in gray
OPAQUE = ('.jpg', '.jpeg', '.jfif', '.jpe')  # formats that hold no transparency


class ImageError(UserError):
  """A picture file that cannot be read or written as asked; one sentence naming the file and the reason."""


class Picture(NamedTuple):
  """A decoded picture file, upright, with what a file made from it has to carry over."""

  rgb: np.ndarray  # float32 (H, W, 3) in [0, 1]; gray is repeated
  alpha: np.ndarray | None = None  # float32 (H, W) in [0, 1]; 0 is transparent
  bits: int = 8  # per channel: 8 or 16
  gray: bool = False
  icc: bytes | None = None  # colour profile that `rgb` is meant in, as in the file
  exif: bytes | None = None  # TIFF-structured block, as in the file, whose orientation is already applied to `rgb`


def check_format(path: str | os.PathLike, like: Picture) -> None:
  """Raises ImageError if the format of `path` cannot hold pictures such as `like`."""
  suffix = Path(path).suffix.lower()
  if suffix not in WRITABLE:
    raise ImageError(f'{path} cannot be written: pictures are written as {", ".join(WRITABLE)}.')
  if like.bits == 16 and suffix not in DEEP:
    raise ImageError(f'{path} cannot be written: {suffix} holds no 16-bit picture; choose {" or ".join(DEEP)}.')
  if like.alpha is not None and like.alpha.min() < 1 and suffix in OPAQUE:
    raise ImageError(f'{path} cannot be written: {suffix} holds no transparency; choose .png, .webp or .tif.')


def to_uint8(x: np.ndarray) -> np.ndarray:
  """Rounds a picture to 8 bit: floats in [0, 1] are clipped and rounded half to even, uint16 is scaled by 1 / 257."""
  return to_levels(x, np.dtype(np.uint8))


def to_float(x: np.ndarray) -> np.ndarray:
  """Returns a picture of unsigned integers as float32 in [0, 1]."""
  return x / np.float32(np.iinfo(x.dtype).max)


def to_levels(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
  """Rounds floats in [0, 1] or unsigned integers of their full range to the full range of `dtype`."""
  x = np.asarray(x)
  if x.dtype == dtype:
    return x
  if x.dtype.kind not in 'uf':
    raise ValueError(f'a picture is uint8, uint16 or floating point, not {x.dtype}')
  levels = np.empty(x.shape, dtype)
  rows = max(1, _AT_ONCE // max(1, x[:1].size))
  for start in range(0, len(x), rows):  # what is between takes several times the memory
    part = to_float(x[start : start + rows]) if x.dtype.kind == 'u' else x[start : start + rows]
    y = np.clip(part, 0, 1, dtype=np.result_type(part, np.float32))
    y *= np.iinfo(dtype).max
    levels[start : start + rows] = np.rint(y, out=y)
  return levels


def linear(x: np.ndarray) -> np.ndarray:
  """Decodes sRGB values in [0, 1] to light (IEC 61966-2-1)."""
  return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def reason(error: BaseException) -> str:
  """Returns the reason of a failure in a few words, without the name of the file."""
  if isinstance(error, MemoryError):
    return 'the memory of this machine does not suffice'
  text = getattr(error, 'strerror', None) or str(error) or type(error).__name__
  if text.startswith('decoder error'):  # Pillow gives the number of the decoder
    return 'the compressed pixels are damaged'
  return text[0].lower() + text[1:].rstrip('.')

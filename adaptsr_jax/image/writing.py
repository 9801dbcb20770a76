"""Picture files out."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np

from adaptsr_jax import files
from adaptsr_jax.errors import UserError
from adaptsr_jax.image import metadata
from adaptsr_jax.image.picture import LUMA, OPAQUE, ImageError, Picture, check_format, reason, to_levels


def write(path: str | os.PathLike, rgb: np.ndarray, like: Picture | None = None) -> None:
  """Writes a picture file whose format follows from the suffix; the file appears whole or not at all.

  JPEG is written at quality 95 with full colour resolution, WebP and TIFF without loss.

  Args:
    path: ends in .png, .jpg, .jpeg, .webp, .tif or .tiff.
    rgb: (H, W, 3), uint8, uint16, or floats, which are clipped to [0, 1] and rounded half to even.
    like: what the file keeps of the picture it was made from: bit depth (of floats), gray, the colour profile and the
      EXIF block byte by byte with the orientation set to upright, and `alpha`, which must have the size of `rgb`.

  Raises:
    ImageError: the format cannot hold the picture (16 bit or transparency in JPEG, ...) or the file cannot be written.
  """
  path, like = Path(path), like or Picture(rgb)
  suffix = path.suffix.lower()
  pixels = _assembled(path, rgb, like)
  check_format(path, like._replace(bits=8 * pixels.itemsize))
  if pixels.shape[-1] in (2, 4) and suffix in OPAQUE:
    pixels = pixels[..., :-1]
  gray_possible = pixels.shape[-1] == 1 or suffix == '.png'  # few programs read TIFF of gray with alpha
  if like.gray and (suffix == '.webp' or not gray_possible):
    pixels = np.take(pixels, [0, 0, 0, *range(1, pixels.shape[-1])], axis=-1)
  try:
    data = _encoded(pixels, suffix, _fitting_profile(like.icc, pixels), metadata.upright(like.exif))
    files.write(path, data)
  except UserError:  # no room
    raise
  except (OSError, ValueError, MemoryError, struct.error) as error:
    raise ImageError(f'{path} cannot be written: {reason(error)}.') from error


def small_jpeg(rgb: np.ndarray) -> bytes:
  """Returns (H, W, 3), floats in [0, 1], as a JPEG file that is to be small."""
  from PIL import Image

  file = io.BytesIO()
  Image.fromarray(to_levels(rgb, np.dtype(np.uint8))).save(file, 'JPEG', quality=80, optimize=True)
  return file.getvalue()


def _assembled(path: Path, rgb: np.ndarray, like: Picture) -> np.ndarray:
  """Puts what is to be stored into one array (H, W, C), uint8 or uint16."""
  rgb = np.asarray(rgb)
  if rgb.ndim != 3 or rgb.shape[-1] != 3 or not rgb.size:
    raise ValueError(f'a picture to be written is (H, W, 3), not {rgb.shape}')
  if rgb.dtype.kind == 'f' and not np.isfinite(rgb).all():
    raise ImageError(f'{path} cannot be written: the picture holds values that are no finite numbers.')
  deep = rgb.dtype == np.uint16 or (rgb.dtype.kind == 'f' and like.bits == 16)
  dtype = np.dtype(np.uint16 if deep else np.uint8)
  colour = to_levels(rgb, dtype)
  if like.gray:
    colour = np.rint(colour @ LUMA).astype(dtype)[..., None]
  if like.alpha is None:
    return colour
  if like.alpha.shape != rgb.shape[:2]:
    raise ValueError(f'alpha {like.alpha.shape} does not have the size of the picture {rgb.shape[:2]}')
  return np.concatenate([colour, to_levels(like.alpha, dtype)[..., None]], axis=-1)


def _fitting_profile(icc: bytes | None, pixels: np.ndarray) -> bytes | None:
  """Drops a profile of another kind of pixels than is written, such as gray on colour: no reader could apply it."""
  return icc if icc and icc[16:20] == (b'RGB ' if pixels.shape[-1] >= 3 else b'GRAY') else None


def _encoded(pixels: np.ndarray, suffix: str, icc: bytes | None, exif: bytes | None) -> bytes:
  """Encodes pixels (H, W, C) in the format of `suffix`."""
  from PIL import Image

  if suffix in ('.tif', '.tiff'):
    return _tiff(pixels, icc, exif)
  if pixels.dtype == np.uint16:
    return _deep_png(pixels, icc, exif)
  buffer = io.BytesIO()
  options = {'icc_profile': icc} if icc else {}
  options |= {'exif': metadata.EXIF_PREFIX + exif} if exif else {}
  if suffix in OPAQUE:
    options |= {'quality': 95, 'subsampling': 0}
  if suffix == '.webp':
    options |= {'lossless': True, 'exact': True}  # exact: keeps the colour of transparent pixels
  name = {'.png': 'PNG', '.webp': 'WEBP'}.get(suffix, 'JPEG')
  image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
  image.save(buffer, format=name, **options)
  return buffer.getvalue()


def _deep_png(pixels: np.ndarray, icc: bytes | None, exif: bytes | None) -> bytes:
  """Encodes 16-bit pixels as PNG (ISO/IEC 15948), all rows filtered by the difference to the row above."""
  height, width, channels = pixels.shape
  rows = pixels.astype('>u2').view(np.uint8).reshape(height, -1)
  filtered = np.full((height, rows.shape[1] + 1), 2, np.uint8)  # the first byte names the filter: 2 is 'up'
  filtered[0, 1:] = rows[0]
  np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])  # modulo 256
  colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
  chunks = [(b'IHDR', struct.pack('>LLBBBBB', width, height, 16, colour_type, 0, 0, 0))]
  chunks += [(b'iCCP', b'ICC Profile\0\0' + zlib.compress(icc))] if icc else []
  chunks += [(b'eXIf', exif)] if exif else []
  chunks += [(b'IDAT', zlib.compress(filtered)), (b'IEND', b'')]
  return b'\x89PNG\r\n\x1a\n' + b''.join(
    struct.pack('>L', len(data)) + kind + data + struct.pack('>L', zlib.crc32(data, zlib.crc32(kind)))
    for kind, data in chunks
  )


def _tiff(pixels: np.ndarray, icc: bytes | None, exif: bytes | None) -> bytes:
  """Encodes pixels as TIFF 6.0: one deflated strip with horizontal differences, metadata in the same directory."""
  from PIL.TiffImagePlugin import ImageFileDirectory_v2

  height, width, channels = pixels.shape
  differences = pixels.astype(pixels.dtype.newbyteorder('<'))
  differences[:, 1:] -= pixels[:, :-1]  # modulo the range
  data = zlib.compress(differences)
  tags = ImageFileDirectory_v2()
  tags[256], tags[257] = width, height
  tags[258] = (8 * pixels.itemsize,) * channels  # BitsPerSample
  tags[259] = 8  # Compression: deflate
  tags[262] = 2 if channels >= 3 else 1  # PhotometricInterpretation: RGB, gray with 0 black
  tags[273], tags[278], tags[279] = 0, height, len(data)  # StripOffsets (moved behind the tags by save), rows, bytes
  tags[277] = channels  # SamplesPerPixel
  tags[317] = 2  # Predictor
  if channels == 4:
    tags[338] = 2  # ExtraSamples: straight alpha
  if icc:
    tags[34675] = icc
  tags.update(metadata.tiff_tags(exif))
  buffer = io.BytesIO()
  tags.save(buffer)
  buffer.write(data)
  return buffer.getvalue()

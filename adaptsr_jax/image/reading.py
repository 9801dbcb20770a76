"""Picture files in: list, size, decode."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from adaptsr_jax.errors import shown
from adaptsr_jax.image import metadata
from adaptsr_jax.image.picture import SUFFIXES, ImageError, Picture, reason, to_float

MAX_PIXELS = 2**29  # 1.5 GiB of 8-bit RGB: larger than any camera's picture, small enough to be opened
_FORMATS = ('PNG', 'JPEG', 'WEBP', 'TIFF', 'BMP')


def list_images(folder: str | os.PathLike) -> list[Path]:
  """Returns the picture files directly in `folder`, told by suffix, sorted by name, without hidden ones.

  Links to files that are gone are listed, so that reading names them instead of nobody missing them.
  """
  try:
    entries = sorted(Path(folder).iterdir())
  except OSError as error:
    raise ImageError(f'{folder} cannot be listed: {reason(error)}.') from None
  named = [p for p in entries if p.suffix.lower() in SUFFIXES and not p.name.startswith('.')]
  return [p for p in named if p.is_file() or (p.is_symlink() and not p.exists())]


def tell_unread(folder: str | os.PathLike) -> None:
  """Says once how much of `folder` is no picture of ours and how many folders lie in it, if any; hidden ones aside."""
  pictures = len(list_images(folder))
  entries = [path for path in Path(folder).iterdir() if not path.name.startswith('.')]
  folders = sum(path.is_dir() for path in entries)
  others = len(entries) - folders - pictures
  counts = [f'{n} {word}{"" if n == 1 else "s"}' for n, word in ((others, 'other file'), (folders, 'folder')) if n]
  line = f'Not read in {shown(folder)}: {" and ".join(counts)}.'
  if counts and line not in _told:
    _told.add(line)
    print(line, flush=True)


_told: set[str] = set()


def size(path: str | os.PathLike) -> tuple[int, int]:
  """Returns (height, width) of the upright picture from its header, without decoding it."""
  with _opened(path) as image:
    height, width = metadata.stored_size(image)
    return (width, height) if metadata.orientation(image, path) >= 5 else (height, width)


def shot_of(path: str | os.PathLike) -> metadata.Shot:
  """Returns what the header of a picture file tells of the camera; nothing where it is no picture."""
  try:
    with _opened(path) as image:
      return metadata.shot(metadata.exif(image))
  except ImageError:
    return metadata.Shot()


def read_array(path: str | os.PathLike) -> np.ndarray:
  """Returns the upright picture as RGB (H, W, 3), uint8 or uint16 as in the file.

  Gray, palette and CMYK pictures are expanded to RGB; transparency is dropped.

  Raises:
    ImageError: the file is absent, empty, truncated, too large, or not a picture of a known kind.
  """
  with _opened(path) as image:
    return _rgb(_pixels(image, path))


def read(path: str | os.PathLike) -> Picture:
  """Returns a picture file with its transparency and metadata; errors as of `read_array`."""
  with _opened(path) as image:
    # Before the pixels: Pillow turns TIFF files while it decodes them, and forgets their orientation.
    exif = metadata.exif(image)
    pixels = _pixels(image, path)
    exif = exif or metadata.exif(image)  # PNG may hold it behind the pixels
    channels = pixels.shape[-1]
    return Picture(
      rgb=to_float(_rgb(pixels)),
      alpha=to_float(pixels[..., -1]) if channels in (2, 4) else None,
      bits=8 * pixels.itemsize,
      gray=channels <= 2,
      palette=image.mode in ('P', 'PA'),
      icc=None if image.mode == 'CMYK' else image.info.get('icc_profile') or None,
      exif=exif,
    )


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[Any]:
  """Opens a picture file with Pillow; every failure inside becomes an ImageError."""
  from PIL import Image, UnidentifiedImageError

  Image.MAX_IMAGE_PIXELS = None  # our own limit, with an answer to it, takes the place of Pillow's lower one
  try:
    if not os.path.getsize(path):
      raise ImageError(f'{path} is empty (0 bytes).')
    with Image.open(path, formats=_FORMATS) as image:
      if np.prod(image.size, dtype=np.int64) > MAX_PIXELS:
        width, height = image.size
        raise ImageError(f'{path} has {width} x {height} pixels, above the limit of {MAX_PIXELS:,}: cut it into parts.')
      if image.format != 'MPO' and (pages := _pages(image)) > 1:
        raise ImageError(f'{path} holds {pages} pages or frames: split it into single pictures.')
      yield image
  except ImageError:
    raise
  except UnidentifiedImageError:
    raise ImageError(f'{path} is not a picture that can be read (PNG, JPEG, WebP, TIFF or BMP).') from None
  except Exception as error:  # on damaged files decoders raise anything, from SyntaxError to struct.error
    raise ImageError(f'{path} cannot be read: {reason(error)}.') from error


def _pages(image: Any) -> int:
  """Returns the number of pictures in a file; a TIFF may hold previews and masks of its first one beside them."""
  frames = getattr(image, 'n_frames', 1)
  if image.format != 'TIFF' or frames == 1:
    return frames
  pages = 0
  for frame in range(frames):
    image.seek(frame)
    pages += frame == 0 or not image.tag_v2.get(254, 0) & 5  # NewSubfileType: 1 is a smaller copy, 4 a mask
  image.seek(0)
  return pages


def _pixels(image: Any, path: str | os.PathLike) -> np.ndarray:
  """Decodes an opened picture into (H, W, C): gray, gray and alpha, RGB or RGBA, uint8 or uint16, upright."""
  if _is_deep(image, path):
    return _turned(_decode_deep(image, path), metadata.orientation(image, path))
  pixels = _decode(image)
  return (
    pixels if image.format == 'TIFF' else _turned(pixels, metadata.orientation(image, path))
  )  # Pillow turns TIFF itself


def _is_deep(image: Any, path: str | os.PathLike) -> bool:
  """Tells whether the file itself stores 16 bits per sample, which Pillow's modes do not show."""
  if image.format == 'PNG':
    return metadata.png_header(path)[0] == 16
  if image.format != 'TIFF':
    return False
  bits = max(image.tag_v2.get(258, (1,)))  # BitsPerSample
  if bits <= 8:
    return False
  unsigned = set(image.tag_v2.get(339, (1,))) == {1}  # SampleFormat
  colours = image.tag_v2.get(262) in (0, 1, 2)  # PhotometricInterpretation: gray or RGB
  straight = 1 not in image.tag_v2.get(338, ())  # ExtraSamples: colours are not multiplied by alpha
  interleaved = image.tag_v2.get(284, 1) == 1  # PlanarConfiguration
  if not (bits == 16 and unsigned and colours and straight and interleaved):
    raise ImageError(
      f'{path} is a TIFF of {bits} bits per sample in a layout that is not supported: '
      'save it as gray or RGB of 8 or 16 bits, unsigned, interleaved, with straight alpha.'
    )
  return True


def _decode(image: Any) -> np.ndarray:
  """Decodes an 8-bit picture into (H, W, C), as stored."""
  if image.mode == 'CMYK':
    image = _srgb_of_cmyk(image)
  gray = image.mode in ('1', 'L', 'LA', 'La')
  mode = ('L' if gray else 'RGB') + ('A' if image.has_transparency_data else '')
  pixels = np.asarray(image if image.mode == mode else image.convert(mode))
  return pixels[..., None] if pixels.ndim == 2 else pixels


def _srgb_of_cmyk(image: Any) -> Any:
  """Converts ink amounts by the profile of the file; without a usable one, by the plain formula."""
  from PIL import ImageCms

  try:
    profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info['icc_profile']))
    return ImageCms.profileToProfile(image, profile, ImageCms.createProfile('sRGB'), outputMode='RGB')
  except (KeyError, OSError, ImageCms.PyCMSError):
    return image.convert('RGB')


def _decode_deep(image: Any, path: str | os.PathLike) -> np.ndarray:
  """Decodes a 16-bit picture into (H, W, C), as stored."""
  import cv2

  data = np.fromfile(path, np.uint8)
  if image.format == 'PNG':
    _check_png(path)
    gray, inverted = metadata.png_header(path)[1] in (0, 4), False  # colour type
  else:
    metadata.set_upright(data)  # OpenCV would turn TIFF, and nothing else
    gray, inverted = image.tag_v2[262] in (0, 1), image.tag_v2[262] == 0
  pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
  if pixels is None or pixels.dtype != np.uint16:
    raise ImageError(f'{path} cannot be read: its 16-bit samples are damaged or packed in an unknown way.')
  if pixels.ndim == 2:
    pixels = pixels[..., None]
  elif gray:
    pixels = pixels[..., [0, 3]]
  else:
    pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[-1]]]  # from BGR
  return np.iinfo(np.uint16).max - pixels if inverted else pixels


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
  """Applies an EXIF orientation (1 to 8)."""
  if orientation >= 5:
    pixels = pixels.swapaxes(0, 1)
  if orientation in (3, 4, 7, 8):
    pixels = pixels[::-1]
  if orientation in (2, 3, 6, 7):
    pixels = pixels[:, ::-1]
  return np.ascontiguousarray(pixels)


def _rgb(pixels: np.ndarray) -> np.ndarray:
  """Returns (H, W, 3) of decoded pixels, without their alpha."""
  if pixels.shape[-1] <= 2:
    return np.repeat(pixels[..., :1], 3, axis=-1)
  return np.ascontiguousarray(pixels[..., :3])


def _check_png(path: str | os.PathLike) -> None:
  """Reads all chunks with their checksums; OpenCV shows a damaged picture without complaint."""
  from PIL import Image

  with Image.open(path, formats=('PNG',)) as image:
    image.verify()

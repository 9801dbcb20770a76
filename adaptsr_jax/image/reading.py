"""Picture files in: list, size, decode."""

import contextlib
import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from adaptsr_jax import memory
from adaptsr_jax.errors import shown
from adaptsr_jax.image import metadata
from adaptsr_jax.image.picture import SUFFIXES, ImageError, Picture, reason, to_float

MAX_PIXELS = 2**29  # 1.5 GiB of 8-bit RGB: larger than any camera's picture, small enough to be opened
_FORMATS = ('PNG', 'JPEG', 'WEBP', 'TIFF', 'BMP')
_LAYOUT = (
  'in a layout that is not supported: save it as gray or RGB of 8 or 16 bits, unsigned, interleaved, straight alpha'
)


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


def unread(folder: str | os.PathLike) -> str:
  """Returns how much of `folder` is no picture of ours and how many folders lie in it; hidden ones aside."""
  pictures = len(list_images(folder))
  entries = [path for path in Path(folder).iterdir() if not path.name.startswith('.')]
  folders = sum(path.is_dir() for path in entries)
  others = len(entries) - folders - pictures
  counts = ((others, 'other file'), (folders, 'folder'))
  return ' and '.join(f'{n} {word}{"" if n == 1 else "s"}' for n, word in counts if n)


def no_pictures(folder: str | os.PathLike) -> str:
  """Returns the sentence, without its end, on a folder without pictures that can be read."""
  counts = unread(folder)
  return f'{folder} contains no pictures ({", ".join(SUFFIXES)})' + (f', but {counts}' if counts else '')


def tell_unread(folder: str | os.PathLike) -> None:
  """Says once what `unread` counts, if anything."""
  counts = unread(folder)
  line = f'Not read in {shown(folder)}: {counts}.'
  if counts and line not in _told:
    _told.add(line)
    print(line, flush=True)


_told: set[str] = set()


def size(path: str | os.PathLike) -> tuple[int, int]:
  """Returns (height, width) of the upright picture from its header, without decoding it."""
  with _opened(path) as image:
    # Pillow gives TIFF files their turned size.
    height, width = (image.tag_v2[257], image.tag_v2[256]) if image.format == 'TIFF' else (image.height, image.width)
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
      if image.format != 'MPO' and (pages := _pages(image, path)) > 1:
        raise ImageError(f'{path} holds {pages} pages or frames: split it into single pictures.')
      yield image
  except ImageError:
    raise
  except UnidentifiedImageError:
    raise ImageError(f'{path} {_unidentified(path)}.') from None
  except Exception as error:  # on damaged files decoders raise anything, from SyntaxError to struct.error
    raise ImageError(f'{path} cannot be read: {reason(error)}.') from error


def _unidentified(path: str | os.PathLike) -> str:
  """Returns what a file is that Pillow does not take."""
  with open(path, 'rb') as file:
    start = file.read(4)
  if start in metadata.BYTE_ORDERS:
    return f'is a TIFF that is cut off, or {_LAYOUT}'
  return 'is not a picture that can be read (PNG, JPEG, WebP, TIFF or BMP)'


@contextlib.contextmanager
def _silent() -> Iterator[None]:
  """Keeps what libtiff and libpng write of damaged files by themselves from the terminal: the error tells of it.

  Several threads may be inside, and the last one opens stderr again. (What commands say goes another way.)
  """
  global _inside, _stderr
  with _muting:
    if not _inside:
      with contextlib.suppress(OSError):
        _stderr = os.dup(2)
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 2)
        os.close(nothing)
    _inside += 1
  try:
    yield
  finally:
    with _muting:
      _inside -= 1
      if not _inside and _stderr is not None:
        os.dup2(_stderr, 2)
        os.close(_stderr)
        _stderr = None


_muting, _inside, _stderr = threading.Lock(), 0, None


def _pages(image: Any, path: str | os.PathLike) -> int:
  """Returns the number of pictures in a file, and goes to the first; a TIFF may hold previews and masks beside it."""
  if image.format != 'TIFF':
    return getattr(image, 'n_frames', 1)
  pages = metadata.tiff_pages(path) or [0]
  image.seek(pages[0])
  return len(pages)


def _pixels(image: Any, path: str | os.PathLike) -> np.ndarray:
  """Decodes an opened picture into (H, W, C): gray, gray and alpha, RGB or RGBA, uint8 or uint16, upright."""
  deep = _is_deep(image, path)
  width, height = image.size
  memory.check(width * height * (24 if deep else 12), f'a picture of {width} x {height} pixels')
  if deep:
    with _silent():
      pixels = _decode_deep(image, path)
  elif image.format == 'TIFF':
    with _silent():
      return _decode(image)  # Pillow turns it itself
  else:
    pixels = _decode(image)
  return _turned(pixels, metadata.orientation(image, path))


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
    raise ImageError(f'{path} is a TIFF of {bits} bits per sample {_LAYOUT}.')
  return True


def _decode(image: Any) -> np.ndarray:
  """Decodes an 8-bit picture into (H, W, C), as stored."""
  if image.mode == 'CMYK':
    image = _srgb_of_cmyk(image)
  gray = image.mode in ('1', 'L', 'LA', 'La')
  mode = ('L' if gray else 'RGB') + ('A' if image.has_transparency_data and _says_alpha(image) else '')
  pixels = np.asarray(image if image.mode == mode else image.convert(mode))
  return pixels[..., None] if pixels.ndim == 2 else pixels


def _says_alpha(image: Any) -> bool:
  """Tells whether the file says that a channel beyond the colours is alpha; a TIFF may leave it open."""
  return image.format != 'TIFF' or bool({1, 2} & set(image.tag_v2.get(338, ())))  # ExtraSamples


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
  from PIL import Image

  data = np.fromfile(path, np.uint8)
  if image.format == 'PNG':
    with Image.open(path, formats=('PNG',)) as chunks:
      chunks.verify()  # all checksums; OpenCV shows a damaged picture without complaint
    gray, inverted = metadata.png_header(path)[1] in (0, 4), False  # colour type
  else:
    metadata.set_first(data, image.tell())  # the only page that OpenCV reads
    metadata.set_upright(data)  # OpenCV would turn TIFF, and nothing else
    gray, inverted = image.tag_v2[262] in (0, 1), image.tag_v2[262] == 0
  pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
  if pixels is None or pixels.dtype != np.uint16:
    raise ImageError(f'{path} cannot be read: its 16-bit samples are damaged or packed in an unknown way.')
  most = np.iinfo(np.uint16).max
  if pixels.ndim == 2:
    pixels = pixels[..., None]
    if 'transparency' in image.info:  # a gray level that is transparent, which OpenCV leaves out
      pixels = np.concatenate([pixels, np.where(pixels == image.info['transparency'], 0, most).astype(np.uint16)], -1)
  elif gray:
    pixels = pixels[..., [0, 3]]
  else:
    channels = pixels.shape[-1] if _says_alpha(image) else 3
    pixels = pixels[..., [2, 1, 0, 3][:channels]]  # from BGR
  return most - pixels if inverted else pixels


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

"""Headers and metadata: sizes, orientation, EXIF blocks."""

import itertools
import mmap
import os
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

EXIF_PREFIX = b'Exif\0\0'  # before the block itself in JPEG, and in Pillow's answers
# The first bytes of TIFF and EXIF: (byte order, whether offsets have 64 bits).
BYTE_ORDERS = {b'II*\0': ('<', False), b'MM\0*': ('>', False), b'II+\0': ('<', True), b'MM\0+': ('>', True)}
_ORIENTATION = 0x0112
_EXIF_IFDS = (0x8769, 0x8825)  # camera settings, position
_INTEROP_IFD = 0xA005
# The tags of a TIFF file that describe the picture: description, camera, software, date, artist, copyright.
_TIFF_TEXTS = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)

_MAKE, _MODEL, _LENS = 0x010F, 0x0110, 0xA434
_ISO = (0x8827, 0x8832, 0x8831)  # sensitivity; where it is above 65,535, the index recommended, or of the standard


class Shot(NamedTuple):
  """What EXIF tells of how a photograph was taken; '' and 0 where it tells nothing."""

  make: str = ''
  model: str = ''
  lens: str = ''
  iso: int = 0


def shot(exif: bytes | None) -> Shot:
  """Returns what an EXIF block tells of the camera; nothing where it is damaged."""
  from PIL import Image

  if not exif:
    return Shot()
  try:
    block = Image.Exif()
    block.load(exif)
    settings = block.get_ifd(_EXIF_IFDS[0])
    texts = (_text(block.get(_MAKE)), _text(block.get(_MODEL)), _text(settings.get(_LENS)))
    return Shot(*texts, next((iso for iso in map(_number, map(settings.get, _ISO)) if 0 < iso != 65535), 0))
  except Exception:  # as in orientation
    return Shot()


def _text(value: Any) -> str:
  return ' '.join(value.replace('\0', ' ').split()) if isinstance(value, str) else ''


def _number(value: Any) -> int:
  value = value[0] if isinstance(value, tuple) and value else value
  return value if isinstance(value, int) else 0


def orientation(image: Any, path: str | os.PathLike) -> int:
  """Returns the EXIF orientation, 1 where there is none or none that can be read."""
  if image.format == 'PNG' and 'exif' not in image.info and not _png_may_be_turned(path):
    return 1  # Pillow would decode the whole picture to find this out
  try:
    value = image.getexif().get(_ORIENTATION, 1)
  except Exception:  # a damaged block of metadata is no reason to refuse a picture
    return 1
  return value if value in range(1, 9) else 1


def exif(image: Any) -> bytes | None:
  """Returns the EXIF block of an opened picture."""
  if image.format == 'TIFF':
    return _exif_of_tiff(image)
  return (image.info.get('exif') or b'').removeprefix(EXIF_PREFIX) or None


def _exif_of_tiff(image: Any) -> bytes | None:
  """Builds the block from the tags of a TIFF file, where metadata and the layout of the pixels share one directory."""
  from PIL import Image

  try:
    tags, block = image.getexif(), Image.Exif()
    block.update({tag: tags[tag] for tag in _TIFF_TEXTS if tag in tags})
    for tag in _EXIF_IFDS:
      if tags.get_ifd(tag):
        block.get_ifd(tag).update(tags.get_ifd(tag))
    return block.tobytes().removeprefix(EXIF_PREFIX) if dict(block) or any(map(block.get_ifd, _EXIF_IFDS)) else None
  except Exception:  # as in orientation
    return None


def tiff_pages(path: str | os.PathLike) -> list[int]:
  """Returns which directories of a TIFF file are pages: neither smaller copies nor masks of others."""
  with open(path, 'rb') as file:
    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
  with data:
    kinds = [{tag: number for tag, (number, _) in tags.items()} for _, tags in _directories(data)]
  # NewSubfileType: 1 is a smaller copy, 4 a mask; SubfileType: 2 is a smaller copy.
  return [n for n, tags in enumerate(kinds) if not tags.get(254, 0) & 5 and tags.get(255, 1) != 2]


def set_first(block: Any, page: int) -> None:
  """Makes directory `page` the first one of a TIFF file (mutable bytes), in place."""
  order, big = BYTE_ORDERS[bytes(block[:4])]
  offset = next(itertools.islice(_directories(block), page, None))[0]
  struct.pack_into(order + ('Q' if big else 'L'), block, 8 if big else 4, offset)


def _directories(block: Any) -> Iterator[tuple[int, dict[int, tuple[int, int]]]]:
  """Yields (offset, {tag: (number that stands in its entry, and where)}) of the directories of a TIFF file."""
  order, big = BYTE_ORDERS[bytes(block[:4])]
  word, head, form = (order + x for x in (('Q', 'Q', 'HHQ') if big else ('L', 'H', 'HHL')))
  length, seen = (20, set()) if big else (12, set())
  offset = struct.unpack_from(word, block, 8 if big else 4)[0]
  while offset and offset not in seen:
    seen.add(offset)
    count, start = struct.unpack_from(head, block, offset)[0], offset + struct.calcsize(head)
    tags = {}
    for entry in range(start, start + length * count, length):
      tag, kind, _ = struct.unpack_from(form, block, entry)
      place = entry + length - struct.calcsize(word)
      tags[tag] = struct.unpack_from(order + ('H' if kind == 3 else 'L'), block, place)[0], place
    yield offset, tags
    offset = struct.unpack_from(word, block, start + length * count)[0]


def set_upright(block: Any) -> None:
  """Sets the orientation in a TIFF-structured block (mutable bytes) to upright, in place; no other byte changes."""
  order, _ = BYTE_ORDERS[bytes(block[:4])]
  _, tags = next(_directories(block), (0, {}))
  if _ORIENTATION in tags:
    struct.pack_into(order + 'H', block, tags[_ORIENTATION][1], 1)


def upright(exif: bytes | None) -> bytes | None:
  """Returns the EXIF block with its orientation set to upright; a block that cannot be parsed is dropped."""
  if not exif:
    return None
  block = bytearray(exif)
  try:
    set_upright(block)
  except (KeyError, struct.error):
    return None
  return bytes(block)


def png_header(path: str | os.PathLike) -> tuple[int, int]:
  """Returns (bit depth, colour type) of a PNG file."""
  with open(path, 'rb') as file:
    return struct.unpack_from('BB', file.read(26), 24)


def _png_may_be_turned(path: str | os.PathLike) -> bool:
  """Tells whether any chunk of a PNG file, also behind the pixels, may hold an orientation."""
  with open(path, 'rb') as file:
    file.seek(8)
    while len(head := file.read(8)) == 8:
      length, kind = struct.unpack('>L4s', head)
      text = file.read(min(length, 32)) if kind in (b'tEXt', b'zTXt', b'iTXt') else b''
      if kind == b'eXIf' or text.startswith((b'XML:com.adobe.xmp', b'Raw profile type exif')):
        return True
      file.seek(length + 4 - len(text), os.SEEK_CUR)
  return False


def tiff_tags(exif: bytes | None) -> dict[int, Any]:
  """Returns the tags of an EXIF block that a TIFF directory may hold beside those of its pixels."""
  from PIL import Image
  from PIL.TiffImagePlugin import ImageFileDirectory_v2

  if not exif:
    return {}
  tags = ImageFileDirectory_v2()
  try:
    block = Image.Exif()
    block.load(exif)
    tags.update({tag: block[tag] for tag in _TIFF_TEXTS if tag in block})
    for tag in _EXIF_IFDS:
      # The interoperability directory is an offset into the old block.
      entries = {key: value for key, value in block.get_ifd(tag).items() if key != _INTEROP_IFD}
      if entries:
        tags[tag] = entries
    tags.tobytes()
  except Exception:  # as in orientation: what is damaged is not carried over
    return {}
  return dict(tags)

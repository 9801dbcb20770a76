"""Every kind of picture file in, and what may be written out; faults are planted on purpose."""

import io
import os
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from adaptsr_jax import image
from adaptsr_jax.errors import UserError
from adaptsr_jax.image import ImageError, Picture, writing

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (12, 17, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (12, 17), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (12, 17, 4), dtype=np.uint16)
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
OF_GRAY = ICC[:16] + b'GRAY' + ICC[20:]


def exif_block(orientation=1):
  exif = Image.Exif()
  exif[0x010F], exif[0x0112] = 'Maker', orientation
  exif.get_ifd(0x8769)[0x9003] = '2024:05:06 07:08:09'
  return exif.tobytes().removeprefix(b'Exif\0\0')


def turned(pixels, orientation):
  """The stored form of upright `pixels`, as a camera with this orientation saves it (by Pillow's own inverse)."""
  method = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}.get(orientation)
  stored = Image.fromarray(pixels)
  return np.asarray(stored if method is None else stored.transpose(Image.Transpose(method)))


def levels(picture):
  return np.rint(picture.rgb * (2**picture.bits - 1)).astype(np.uint16)


# --- reading


@pytest.mark.parametrize('suffix', ['png', 'bmp', 'tif', 'webp'])
def test_8_bit_rgb_is_read_exactly(tmp_path, suffix):
  path = tmp_path / f'x.{suffix}'
  Image.fromarray(RGB).save(path, lossless=True)
  x = image.read_array(path)
  assert x.dtype == np.uint8
  np.testing.assert_array_equal(x, RGB)
  picture = image.read(path)
  assert picture.rgb.dtype == np.float32
  np.testing.assert_array_equal(levels(picture), RGB)
  assert picture[1:] == (None, 8, False, None, None)
  assert image.size(path) == (12, 17)


@pytest.mark.parametrize('mode', ['L', '1', 'LA'])
def test_gray_is_expanded_and_remembered(tmp_path, mode):
  source = Image.fromarray(RGB).convert(mode)
  source.save(tmp_path / 'x.png')
  picture = image.read(tmp_path / 'x.png')
  assert picture.gray
  assert (picture.alpha is not None) == (mode == 'LA')
  for channel in range(3):
    np.testing.assert_array_equal(levels(picture)[..., channel], np.asarray(source.convert('L')))


def test_alpha_is_apart_and_dropped_by_read_array(tmp_path):
  Image.fromarray(np.dstack([RGB, ALPHA])).save(tmp_path / 'x.png')
  picture = image.read(tmp_path / 'x.png')
  np.testing.assert_array_equal(np.rint(picture.alpha * 255), ALPHA)
  np.testing.assert_array_equal(levels(picture), RGB)
  np.testing.assert_array_equal(image.read_array(tmp_path / 'x.png'), RGB)


def test_palette_with_and_without_transparency(tmp_path):
  indices = Image.fromarray(RGB).quantize(16)
  indices.save(tmp_path / 'plain.png')
  indices.save(tmp_path / 'clear.png', transparency=3)
  plain, clear = image.read(tmp_path / 'plain.png'), image.read(tmp_path / 'clear.png')
  np.testing.assert_array_equal(levels(plain), np.asarray(indices.convert('RGB')))
  assert plain.alpha is None
  np.testing.assert_array_equal(clear.alpha, (np.asarray(indices) != 3).astype(np.float32))


def test_a_transparent_colour_becomes_alpha(tmp_path):
  pixel = tuple(int(v) for v in RGB[0, 0])
  Image.fromarray(RGB).save(tmp_path / 'x.png', transparency=pixel)
  alpha = image.read(tmp_path / 'x.png').alpha
  assert alpha[0, 0] == 0
  assert alpha.max() == 1


def test_cmyk_becomes_rgb_and_its_profile_is_not_carried_over(tmp_path):
  ink = Image.fromarray(RGB).convert('CMYK')
  ink.save(tmp_path / 'x.jpg', quality=100, subsampling=0, icc_profile=b'not a profile' * 20)
  picture = image.read(tmp_path / 'x.jpg')
  assert picture.icc is None
  assert np.abs(levels(picture).astype(int) - np.asarray(ink.convert('RGB'))).max() < 24


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('suffix', ['png', 'webp', 'tif'])
def test_orientation_is_applied_once(tmp_path, suffix, orientation):
  path = tmp_path / f'x.{suffix}'
  exif = b'Exif\0\0' + exif_block(orientation)
  Image.fromarray(turned(RGB, orientation)).save(path, exif=exif, lossless=True)
  np.testing.assert_array_equal(image.read_array(path), RGB)
  assert image.size(path) == (12, 17)
  picture = image.read(path)
  again = tmp_path / f'y.{suffix}'
  image.write(again, picture.rgb, picture)
  np.testing.assert_array_equal(image.read_array(again), RGB)
  assert Image.open(again).getexif().get(0x0112, 1) == 1
  assert Image.open(again).getexif()[0x010F] == 'Maker'


def test_orientation_of_jpeg(tmp_path):
  smooth = np.asarray(Image.fromarray(RGB[:3, :4]).resize((24, 18), Image.Resampling.BICUBIC))
  for orientation in range(1, 9):
    Image.fromarray(turned(smooth, orientation)).save(
      tmp_path / 'x.jpg', quality=100, subsampling=0, exif=b'Exif\0\0' + exif_block(orientation)
    )
    assert np.abs(image.read_array(tmp_path / 'x.jpg').astype(int) - smooth).max() < 12
    assert image.size(tmp_path / 'x.jpg') == (18, 24)


@pytest.mark.parametrize('orientation', [1, 3, 5, 6, 8])
def test_orientation_of_16_bit(tmp_path, orientation):
  upright = DEEP[..., :3]
  stored = np.stack([turned(upright[..., c], orientation) for c in range(3)], axis=-1)
  tifffile.imwrite(tmp_path / 'x.tif', stored, photometric='rgb', extratags=[(0x0112, 3, 1, orientation, True)])
  tifffile.imwrite(
    tmp_path / 'big.tif', stored, photometric='rgb', bigtiff=True, extratags=[(0x0112, 3, 1, orientation, True)]
  )
  image.write(tmp_path / 'flat.png', stored)
  data = (tmp_path / 'flat.png').read_bytes()
  (tmp_path / 'x.png').write_bytes(with_chunk(data, b'eXIf', exif_block(orientation), before=b'IEND'))
  for name in ('x.tif', 'big.tif', 'x.png'):
    np.testing.assert_array_equal(image.read_array(tmp_path / name), upright, err_msg=name)
    assert image.size(tmp_path / name) == (12, 17)


def with_chunk(data, kind, content, before):
  chunk = struct.pack('>L', len(content)) + kind + content + struct.pack('>L', zlib.crc32(kind + content))
  at = data.index(before) - 4
  return data[:at] + chunk + data[at:]


def test_size_does_not_decode(tmp_path, monkeypatch):
  Image.fromarray(RGB).save(tmp_path / 'x.png')
  monkeypatch.setattr('PIL.PngImagePlugin.PngImageFile.load', lambda self: pytest.fail('decoded'))
  assert image.size(tmp_path / 'x.png') == (12, 17)


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_a_damaged_exif_block_does_not_stop_reading(tmp_path):
  Image.fromarray(RGB).save(tmp_path / 'x.png', exif=b'Exif\0\0' + b'II*\0garbage that is no directory')
  picture = image.read(tmp_path / 'x.png')
  np.testing.assert_array_equal(levels(picture), RGB)
  image.write(tmp_path / 'y.png', picture.rgb, picture)
  np.testing.assert_array_equal(image.read_array(tmp_path / 'y.png'), RGB)


@pytest.mark.filterwarnings('ignore::UserWarning')
@pytest.mark.parametrize('suffix', ['png', 'tif'])
def test_no_damage_of_exif_stops_writing(tmp_path, suffix):
  draw = np.random.default_rng(0)
  for _ in range(60):
    block = bytearray(exif_block())
    for at in draw.integers(8, len(block), 4):
      block[at] = draw.integers(256)
    image.write(tmp_path / f'x.{suffix}', RGB, Picture(RGB, exif=bytes(block)))
    np.testing.assert_array_equal(image.read(tmp_path / f'x.{suffix}').rgb, image.to_float(RGB))


def test_16_bit_files_of_other_programs_keep_all_bits(tmp_path):
  bgr = np.ascontiguousarray(DEEP[..., 2::-1])
  cv2.imwrite(str(tmp_path / 'rgb.png'), bgr)
  cv2.imwrite(str(tmp_path / 'rgba.png'), np.dstack([bgr, DEEP[..., 3]]))
  cv2.imwrite(str(tmp_path / 'gray.png'), DEEP[..., 0])
  cv2.imwrite(str(tmp_path / 'lzw.tif'), bgr)
  tifffile.imwrite(tmp_path / 'gray.tif', DEEP[..., 0], photometric='minisblack')
  tifffile.imwrite(tmp_path / 'white.tif', 65535 - DEEP[..., 0], photometric='miniswhite')
  tifffile.imwrite(tmp_path / 'motorola.tif', DEEP[..., :3], photometric='rgb', byteorder='>')
  for path in image.list_images(tmp_path):
    expected = np.repeat(DEEP[..., :1], 3, axis=-1) if path.stem in ('gray', 'white') else DEEP[..., :3]
    found = image.read_array(path)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, expected, err_msg=path.name)
    picture = image.read(path)
    assert picture.bits == 16
    np.testing.assert_array_equal(levels(picture), expected)
    assert picture.gray == (path.stem in ('gray', 'white'))
    assert (picture.alpha is not None) == (path.stem == 'rgba')


def test_folders_are_listed_by_name_without_what_is_no_picture(tmp_path):
  for name in ('b.PNG', 'a.jpg', 'notes.txt', '._a.jpg', 'c.tiff'):
    (tmp_path / name).write_bytes(b'x')
  (tmp_path / 'folder.png').mkdir()
  assert [p.name for p in image.list_images(tmp_path)] == ['a.jpg', 'b.PNG', 'c.tiff']
  with pytest.raises(ImageError, match='absent cannot be listed: no such file'):
    image.list_images(tmp_path / 'absent')


# --- faults


def planted(tmp_path, name):
  """Writes a faulty file and returns (path, what the message must say)."""
  path = tmp_path / name
  png, jpeg, deep, tiff = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
  noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
  Image.fromarray(noise).save(png, 'PNG')
  Image.fromarray(noise).save(jpeg, 'JPEG')
  deep = writing._deep_png(noise.astype(np.uint16) * 200, None, None)
  tiff = writing._tiff(noise.astype(np.uint16) * 200, None, None)
  png, jpeg = png.getvalue(), jpeg.getvalue()
  huge = with_chunk(png[:8] + png[-12:], b'IHDR', struct.pack('>LLBBBBB', 60000, 60000, 8, 2, 0, 0, 0), before=b'IEND')
  flipped = bytearray(deep)
  flipped[len(deep) // 2] ^= 255
  content, message = {
    'empty.png': (b'', r'is empty \(0 bytes\)'),
    'text.jpg': (b'<html>not found</html>', 'is not a picture that can be read'),
    'cut.png': (png[: len(png) // 2], 'cannot be read: '),
    'cut.jpg': (jpeg[: len(jpeg) // 2], 'cannot be read: '),
    'head.jpg': (jpeg[:6], 'is not a picture|cannot be read'),
    'cut16.png': (deep[: len(deep) // 2], 'cannot be read: '),
    'flipped16.png': (bytes(flipped), 'cannot be read: '),
    'cut16.tif': (tiff[: len(tiff) // 2], 'cannot be read: '),
    'huge.png': (huge, 'has 60000 x 60000 pixels, above the limit'),
  }[name]
  path.write_bytes(content)
  return path, message


@pytest.mark.parametrize(
  'name',
  ['empty.png', 'text.jpg', 'cut.png', 'cut.jpg', 'head.jpg', 'cut16.png', 'flipped16.png', 'cut16.tif', 'huge.png'],
)
@pytest.mark.parametrize('reader', [image.read, image.read_array])
def test_damaged_files_are_named_with_the_reason(tmp_path, name, reader):
  path, message = planted(tmp_path, name)
  with pytest.raises(ImageError, match=message) as caught:
    reader(path)
  text = str(caught.value)
  assert text.startswith(str(path))
  assert text.endswith('.')
  assert '\n' not in text


def test_absent_files_and_folders_are_named(tmp_path):
  with pytest.raises(ImageError, match=r'absent.png cannot be read: no such file or directory\.$'):
    image.read(tmp_path / 'absent.png')
  with pytest.raises(ImageError, match='cannot be read: is a directory'):
    image.read(tmp_path)


def test_layouts_that_would_be_read_wrongly_are_refused(tmp_path):
  tifffile.imwrite(tmp_path / 'float.tif', DEEP[..., 0].astype(np.float32))
  tifffile.imwrite(tmp_path / 'int32.tif', DEEP[..., 0].astype(np.int32))
  tifffile.imwrite(
    tmp_path / 'planes.tif', DEEP[..., :3].transpose(2, 0, 1), photometric='rgb', planarconfig='separate'
  )
  tifffile.imwrite(tmp_path / 'multiplied.tif', DEEP, photometric='rgb', extrasamples=['assocalpha'])
  for path in image.list_images(tmp_path):
    with pytest.raises(ImageError, match='in a layout that is not supported'):
      image.read(path)


@pytest.mark.parametrize(
  ('extra', 'is_alpha'), [(['unspecified'], False), (['unassalpha'], True), (['unspecified', 'unspecified'], False)]
)
@pytest.mark.parametrize('kind', [np.uint8, np.uint16])
def test_alpha_of_tiff_is_what_the_file_says_is_alpha(tmp_path, extra, is_alpha, kind):
  if kind == np.uint16 and len(extra) == 2:
    pytest.skip('refused: OpenCV reads four channels')
  pixels = np.concatenate([DEEP, DEEP[..., :1]], -1)[..., : 3 + len(extra)].astype(kind)
  tifffile.imwrite(tmp_path / 'x.tif', pixels, photometric='rgb', extrasamples=extra)
  picture = image.read(tmp_path / 'x.tif')
  np.testing.assert_array_equal(levels(picture), pixels[..., :3])
  assert (picture.alpha is not None) == is_alpha


def test_a_fourth_channel_of_which_a_tiff_says_nothing_is_no_alpha(tmp_path):
  tifffile.imwrite(tmp_path / 'x.tif', DEEP.astype(np.uint8), photometric='rgb', extrasamples=['unassalpha'])
  with tifffile.TiffFile(tmp_path / 'x.tif', mode='r+') as file:
    tag = file.pages[0].tags[338]
    place = tag.offset
  data = bytearray((tmp_path / 'x.tif').read_bytes())
  struct.pack_into('<H', data, place, 65000)  # the tag becomes a private one
  (tmp_path / 'x.tif').write_bytes(data)
  picture = image.read(tmp_path / 'x.tif')
  assert picture.alpha is None
  np.testing.assert_array_equal(levels(picture), DEEP[..., :3].astype(np.uint8))


def test_a_transparent_gray_level_of_16_bit_is_alpha(tmp_path):
  image.write(tmp_path / 'x.png', DEEP[..., :3], Picture(DEEP, gray=True, bits=16))
  level = int(np.rint(image.read(tmp_path / 'x.png').rgb[2, 3, 0] * 65535))
  data = (tmp_path / 'x.png').read_bytes()
  chunk = b'tRNS' + struct.pack('>H', level)
  place = data.index(b'IDAT') - 4
  (tmp_path / 'x.png').write_bytes(
    data[:place] + struct.pack('>L', 2) + chunk + struct.pack('>L', zlib.crc32(chunk)) + data[place:]
  )
  alpha = image.read(tmp_path / 'x.png').alpha
  assert alpha[2, 3] == 0
  assert alpha.max() == 1


@pytest.mark.parametrize('kind', [np.uint8, np.uint16])
@pytest.mark.parametrize('order', ['<', '>'])
def test_a_preview_before_the_photograph_is_no_page(tmp_path, kind, order):
  large = DEEP[..., :3].astype(kind)
  with tifffile.TiffWriter(tmp_path / 'x.tif', byteorder=order) as file:
    file.write(large[::4, ::4], photometric='rgb', subfiletype=1)
    file.write(large, photometric='rgb', subfiletype=0)
    file.write(large[..., 0] > 9, photometric='mask', subfiletype=4)
  assert image.size(tmp_path / 'x.tif') == large.shape[:2]
  np.testing.assert_array_equal(image.read_array(tmp_path / 'x.tif'), large)


def test_decoders_write_nothing_to_the_terminal(tmp_path, capfd):
  for name, options in (('x', {'compression': 'tiff_lzw'}), ('y', {'compression': 'tiff_adobe_deflate'})):
    Image.fromarray(np.tile(RGB, (8, 8, 1))).save(tmp_path / f'{name}.tif', **options)
  cv2.imwrite(str(tmp_path / 'z.tif'), np.tile(DEEP[..., :3], (8, 8, 1)))
  for path in image.list_images(tmp_path):
    data = bytearray(path.read_bytes())
    for place in range(400, len(data) - 400, 7):
      data[place] ^= 0x5A
    path.write_bytes(data)
    with pytest.raises(ImageError):
      image.read_array(path)
  assert capfd.readouterr() == ('', '')
  os.write(2, b'still there')
  assert capfd.readouterr().err == 'still there'


def test_several_pages_are_refused(tmp_path):
  pages = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
  pages[0].save(tmp_path / 'x.tif', save_all=True, append_images=pages[1:])
  pages[0].save(tmp_path / 'x.webp', save_all=True, append_images=pages[1:])
  for path in image.list_images(tmp_path):
    with pytest.raises(ImageError, match='holds 2 pages or frames'):
      image.read_array(path)


def test_large_photos_pass_where_pillow_would_stop(tmp_path):
  Image.new('1', (14000, 13000)).save(tmp_path / 'x.png')  # 182 megapixels
  assert image.size(tmp_path / 'x.png') == (13000, 14000)


# --- writing


@pytest.mark.parametrize('suffix', ['png', 'tif', 'tiff', 'webp'])
@pytest.mark.parametrize('kind', ['rgb', 'rgba', 'gray', 'gray and alpha'])
def test_8_bit_round_trip(tmp_path, suffix, kind):
  path = tmp_path / f'x.{suffix}'
  rgb = np.repeat(RGB[..., :1], 3, axis=-1) if 'gray' in kind else RGB
  alpha = ALPHA / np.float32(255) if kind in ('rgba', 'gray and alpha') else None
  gray_possible = suffix == 'png' or (suffix != 'webp' and alpha is None)
  icc = OF_GRAY if 'gray' in kind and gray_possible else ICC
  image.write(path, rgb, Picture(rgb, alpha=alpha, gray='gray' in kind, icc=icc, exif=exif_block()))
  picture = image.read(path)
  np.testing.assert_array_equal(levels(picture), rgb)
  assert picture.icc == icc
  assert (picture.alpha is None) == (alpha is None)
  if alpha is not None:
    np.testing.assert_array_equal(np.rint(picture.alpha * 255), ALPHA)
  assert picture.gray == ('gray' in kind and gray_possible)
  if suffix in ('png', 'webp'):
    assert picture.exif == exif_block()
  assert Image.open(path).getexif().get_ifd(0x8769)[0x9003] == '2024:05:06 07:08:09'


@pytest.mark.parametrize('suffix', ['png', 'tif'])
@pytest.mark.parametrize('kind', ['rgb', 'rgba', 'gray', 'gray and alpha'])
def test_16_bit_round_trip(tmp_path, suffix, kind):
  path = tmp_path / f'x.{suffix}'
  deep = np.repeat(DEEP[..., :1], 3, axis=-1) if 'gray' in kind else DEEP[..., :3]
  alpha = DEEP[..., 3] / np.float32(65535) if kind in ('rgba', 'gray and alpha') else None
  icc = OF_GRAY if kind == 'gray' or (kind == 'gray and alpha' and suffix == 'png') else ICC
  like = Picture(deep, alpha=alpha, bits=16, gray='gray' in kind, icc=icc, exif=exif_block())
  image.write(path, deep / np.float32(65535), like)
  picture = image.read(path)
  assert picture.bits == 16
  np.testing.assert_array_equal(levels(picture), deep)
  assert picture.icc == icc
  if alpha is not None:
    np.testing.assert_array_equal(np.rint(picture.alpha * 65535), DEEP[..., 3])
  assert Image.open(path).getexif().get_ifd(0x8769)[0x9003] == '2024:05:06 07:08:09'
  seen = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)  # another program sees the same
  np.testing.assert_array_equal(seen if seen.ndim == 2 else seen[..., 2::-1], deep[..., 0] if seen.ndim == 2 else deep)
  if suffix == 'tif':
    np.testing.assert_array_equal(tifffile.imread(path)[..., 0] if seen.ndim == 3 else seen, deep[..., 0])


def test_jpeg_keeps_colour_resolution_profile_and_exif(tmp_path):
  smooth = np.asarray(Image.fromarray(RGB[:3, :4]).resize((40, 32), Image.Resampling.BICUBIC))
  image.write(tmp_path / 'x.jpg', smooth, Picture(smooth, icc=ICC, exif=exif_block(6)))
  with Image.open(tmp_path / 'x.jpg') as file:
    assert file.layer[0][1:3] == file.layer[1][1:3] == (1, 1)
    assert file.info['icc_profile'] == ICC
    kept = file.info['exif'].removeprefix(b'Exif\0\0')
  before, after = exif_block(6), exif_block(1)
  assert kept == after
  assert sum(a != b for a, b in zip(before, after, strict=True)) == 1  # nothing but the orientation
  assert np.abs(image.read_array(tmp_path / 'x.jpg').astype(int) - smooth).max() < 16


def test_16_bit_is_refused_where_it_would_be_cut(tmp_path):
  for suffix in ('jpg', 'webp'):
    with pytest.raises(ImageError, match='holds no 16-bit picture'):
      image.write(tmp_path / f'x.{suffix}', RGB / 255.0, Picture(RGB, bits=16))
    with pytest.raises(ImageError, match='holds no 16-bit picture'):
      image.write(tmp_path / f'x.{suffix}', DEEP[..., :3])
  assert not list(tmp_path.iterdir())


def test_transparency_is_refused_by_jpeg_unless_there_is_none(tmp_path):
  with pytest.raises(ImageError, match='.jpg holds no transparency'):
    image.write(tmp_path / 'x.jpg', RGB, Picture(RGB, alpha=ALPHA / np.float32(255)))
  image.write(tmp_path / 'x.jpg', RGB, Picture(RGB, alpha=np.ones(RGB.shape[:2], np.float32)))
  assert image.read(tmp_path / 'x.jpg').alpha is None


@pytest.mark.parametrize('space', [b'GRAY', b'RGB ', b'CMYK', b'Lab '])
@pytest.mark.parametrize(('suffix', 'gray'), [('png', False), ('png', True), ('tif', True), ('webp', True)])
def test_a_profile_goes_with_its_own_kind_of_pixels(tmp_path, space, suffix, gray):
  icc = ICC[:16] + space + ICC[20:]
  path = tmp_path / f'x.{suffix}'
  image.write(path, RGB, Picture(RGB, gray=gray, icc=icc))
  written_gray = gray and suffix != 'webp'
  assert image.read(path).icc == (icc if space == (b'GRAY' if written_gray else b'RGB ') else None)


def test_files_appear_whole_or_not_at_all(tmp_path, monkeypatch):
  image.write(tmp_path / 'x.png', RGB)
  before = (tmp_path / 'x.png').read_bytes()

  def full_disk(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'replace', full_disk)
  with pytest.raises(UserError, match=r'No space left on \S+: needs about 0.1 MB'):
    image.write(tmp_path / 'x.png', 255 - RGB)
  assert [p.name for p in tmp_path.iterdir()] == ['x.png']
  assert (tmp_path / 'x.png').read_bytes() == before


def test_what_cannot_be_written_is_named(tmp_path):
  with pytest.raises(ImageError, match=r'x.bmp cannot be written: pictures are written as .png'):
    image.write(tmp_path / 'x.bmp', RGB)
  with pytest.raises(ImageError, match='no finite numbers'):
    image.write(tmp_path / 'x.png', np.full((4, 4, 3), np.nan, np.float32))
  with pytest.raises(ImageError, match='cannot be written: no such file or directory'):
    image.write(tmp_path / 'absent' / 'x.png', RGB)
  with pytest.raises(ImageError, match='cannot be written: .*16383'):
    image.write(tmp_path / 'x.webp', np.zeros((1, 16384, 3), np.uint8))
  with pytest.raises(ValueError, match=r'is \(H, W, 3\)'):
    image.write(tmp_path / 'x.png', RGB[..., 0])
  with pytest.raises(ValueError, match='does not have the size'):
    image.write(tmp_path / 'x.png', RGB, Picture(RGB, alpha=np.ones((3, 3), np.float32)))


def test_rounding_to_8_bit():
  x = np.array([-0.2, 0.5 / 255, 1.5 / 255, 2.5 / 255, 0.999, 1.7])
  np.testing.assert_array_equal(image.to_uint8(x), [0, 0, 2, 2, 255, 255])  # half to even
  assert image.to_uint8(RGB) is RGB
  np.testing.assert_array_equal(image.to_uint8(np.array([0, 128, 129, 65535], np.uint16)), [0, 0, 1, 255])
  with pytest.raises(ValueError, match='not int64'):
    image.to_uint8(np.array([1, 2]))


def test_scaling_to_float():
  for x in (RGB, DEEP):
    y = image.to_float(x)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(np.rint(y.astype(np.float64) * np.iinfo(x.dtype).max), x)


def test_importing_loads_neither_pillow_nor_opencv():
  code = (
    'import sys; from adaptsr_jax import image; print("PIL" in sys.modules, "cv2" in sys.modules, "jax" in sys.modules)'
  )
  result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert result.stdout.split() == ['False'] * 3

"""Damaged picture files under odd names, through every command that reads pictures."""

import io
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from adaptsr_jax import base, data, degrade, image, pack, params_folder, upscale
from adaptsr_jax.doctor import __main__ as doctor
from adaptsr_jax.evaluate import __main__ as evaluate
from tests.fuzz import rule
from tests.fuzz.damage import Random, damaged, misplaced, pick
from tests.pictures import write_pairs

_NAMES = (
  *(b'p\xff', b'p\x1b[2J', b'p\nforged', b'p\nError: forged', b'p\r', b'p\t', 'p\u202e'.encode(), b'\xed\xa0\x80'),
  *(b'p=q', b'-p', b'p::q', b'p' * 250, ('é' * 124).encode(), b' ', b'p.png', b'~', b'p%s{0}$HOME', b'=', b'*'),
)


def make(folder: Path) -> Callable[[Random, Path], str]:
  """Returns a trial: (random, empty folder) -> outcome; see `tests.fuzz.__main__`."""
  network, params = base.random('safmn_x2', 0, {'dim': 8, 'n_blocks': 1}), folder / 'params'
  params_folder.save_params(params, network.params, network.info())
  sides = dict(zip(('LR', 'HR'), write_pairs(folder / 'pictures', 3, size=32), strict=True))
  files = {side: _files(path / 'p01.png') for side, path in sides.items()}
  rule.run(upscale.main, [f'--params={params}', sides['LR'], folder / 'whole'])

  def trial(random: Random, place: Path) -> str:
    side = pick(random, sides)
    suffix = pick(random, files[side])
    for name, path in sides.items():
      shutil.copytree(path, place / name)
    bad = place / side / f'p01{pick(random, (suffix.partition("-")[0], ".png"))}'
    (place / side / 'p01.png').unlink()
    kind = _spoil(random, files[side][suffix], bad)
    if random.random() < 0.3 and os.path.lexists(bad):
      word = os.fsdecode(pick(random, _NAMES))
      for name in sides:
        old = bad if name == side else place / name / 'p01.png'
        old.rename(old.with_name(word + old.suffix))
      bad = bad.with_name(word + bad.suffix)
    lr, hr, out = place / 'LR', place / 'HR', place / 'out'
    lists = pick(random, ([], [], [f'--out={place / "out.csv"}', f'--out={place / "out.md"}', f'--save={out}']))
    calls = {
      'upscale': (upscale.main, [f'--params={params}', bad, place / 'out.png']),
      'upscale folder': (upscale.main, [f'--params={params}', lr, out], (0, 1)),
      'evaluate': (
        evaluate.main,
        ['--params=bicubic', f'--lr={lr}', f'--hr={hr}', '--scale=2', f'--out={place / "out.json"}', *lists],
      ),
      'outputs': (evaluate.main, [f'--outputs=x={hr}', f'--lr={lr}', f'--hr={sides["HR"]}', f'--out={place / "x.md"}']),
      'doctor': (doctor.main, [f'--lr={lr}', f'--hr={hr}', f'--out={out}'], (0, 1, 2)),
      'doctor --fix': (
        doctor.main,
        [f'--lr={lr}', f'--hr={hr}', '--notes', f'--out={out}', f'--fix={place / "mended"}', '--fix_exposure'],
        (0, 1, 2),
      ),
      'pack': (pack.main, [f'--lr={lr}', f'--hr={hr}', '--scale=2', '--crop=16', '--stride=8', f'--out={out}']),
      'degrade': (degrade.main, [f'--hr={hr}', f'--out={out}', '--preset=bicubic', '--scale=2']),
      'read': (lambda: _read(lr, hr),),
    }
    name = pick(random, calls)
    before = {inner: rule.content(place / inner) for inner in sides} if kind not in ('pipe', 'device') else {}
    said = rule.run(*calls[name])
    rule.check_whole(place)
    for inner, files_before in before.items():
      assert rule.content(place / inner) == files_before
    # Those that were done before stay.
    if said.code == 2 and not lists and name not in ('upscale folder', 'doctor --fix', 'degrade'):
      assert {path.name for path in place.iterdir()} == {'LR', 'HR'}, said
    if name == 'upscale folder':
      for whole in ('p00.png', 'p02.png'):
        assert (out / whole).read_bytes() == (folder / 'whole' / whole).read_bytes(), said
    for path in out.rglob('*') if out.is_dir() else [place / 'out.png']:
      if path.suffix in image.SUFFIXES and path.is_file():
        with Image.open(path) as picture:
          picture.load()
    return f'{name}, {("done", "some", "refused")[said.code]}'

  return trial


def _read(lr: Path, hr: Path) -> None:
  """Opens pairs and decodes all as `main` does before its first step."""
  source = data.open_source(SimpleNamespace(lr=str(lr), hr=str(hr)), 2, 0, 'train')
  data.check_task(source)
  data.check_pixels(source)


def _files(path: Path) -> dict[str, bytes]:
  """Returns a picture as files of all kinds that are read: {'.png-kind': bytes}."""
  picture = Image.open(path).convert('RGB')
  exif = Image.Exif()
  exif[0x0112], exif[0x010F], exif[0x0131] = 6, 'camera', 'software'
  exif.get_ifd(0x8769)[0x9003] = '2026:11:26 00:00:00'
  alpha = picture.copy()
  alpha.putalpha(Image.linear_gradient('L').resize(picture.size))
  kinds = {
    '.png': (picture, 'PNG', {'exif': exif, 'icc_profile': b'0' * 200}),
    '.png-gray': (picture.convert('L'), 'PNG', {}),
    '.png-palette': (picture.quantize(16), 'PNG', {'transparency': 3}),
    '.png-alpha': (alpha, 'PNG', {}),
    '.png-bit': (picture.convert('1'), 'PNG', {}),
    '.png-16': (Image.fromarray(np.asarray(picture.convert('L')).astype(np.uint16) * 257), 'PNG', {}),
    '.jpg': (picture, 'JPEG', {'exif': exif, 'quality': 90}),
    '.jpg-progressive': (picture, 'JPEG', {'progressive': True, 'icc_profile': b'0' * 200}),
    '.jpg-cmyk': (picture.convert('CMYK'), 'JPEG', {}),
    '.jpg-gray': (picture.convert('L'), 'JPEG', {}),
    '.webp': (alpha, 'WEBP', {'lossless': True, 'exif': exif}),
    '.webp-lossy': (picture, 'WEBP', {'quality': 80}),
    '.tif': (picture, 'TIFF', {'compression': 'tiff_lzw', 'exif': exif}),
    '.tif-deflate': (alpha, 'TIFF', {'compression': 'tiff_adobe_deflate'}),
    '.tif-plain': (picture, 'TIFF', {}),
    '.tif-16': (Image.fromarray(np.asarray(picture.convert('L')).astype(np.uint16) * 257), 'TIFF', {}),
    '.bmp': (picture, 'BMP', {}),
  }
  files = {}
  for kind, (converted, name, options) in kinds.items():
    buffer = io.BytesIO()
    converted.save(buffer, name, **options)
    files[kind] = buffer.getvalue()
  for suffix in ('.png-deep', '.tif-deep'):
    target = path.with_name(f'deep{suffix[:4]}')
    image.write(target, np.asarray(picture).astype(np.uint16) * 257)
    files[suffix] = target.read_bytes()
    target.unlink()
  return files


def _spoil(random: Random, content: bytes, path: Path) -> str:
  kind = pick(random, ('bytes', 'bytes', 'head', 'head', 'parts', 'parts', 'whole', 'moved'))
  if kind == 'head':
    size = min(len(content), int(random.integers(8, 200)))
    content = damaged(random, content[:size]) + content[size:]
  elif kind == 'bytes':
    content = damaged(random, content)
  elif kind == 'parts':
    content = _parts_changed(random, content)
  path.write_bytes(content)
  return misplaced(random, path) if kind == 'moved' else kind


def _parts_changed(random: Random, content: bytes) -> bytes:
  """Returns a picture whose chunks, segments or tags are others; checksums are right."""
  if content.startswith(b'\x89PNG'):
    return _png(random, content)
  changed = bytearray(content)
  if content[:2] in (b'II', b'MM'):
    start = struct.unpack_from('<L', content, 4)[0]
    count = struct.unpack_from('<H', content, start)[0]
    for _ in range(random.integers(1, 4)):
      entry = start + 2 + 12 * int(random.integers(count))
      field = int(random.integers(3))
      struct.pack_into(('<H', '<L', '<L')[field], changed, entry + (2, 4, 8)[field], _number(random, field))
    return bytes(changed)
  markers = [i for i in range(len(content) - 4) if content[i] == 0xFF and content[i + 1] not in (0, 0xFF)]
  if content[:2] == b'\xff\xd8' and markers:
    place = pick(random, markers)
    struct.pack_into('>H', changed, place + 2, _number(random, 0))
    return bytes(changed)
  place = int(random.integers(0, min(64, len(changed) - 4)))
  struct.pack_into('<L', changed, place, _number(random, 1))
  return bytes(changed)


def _number(random: Random, field: int) -> int:
  number = pick(random, (0, 1, 2, 3, 8, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1))
  return number if field else number % 2**16


def _png(random: Random, content: bytes) -> bytes:
  chunks, place = [], 8
  while place + 8 <= len(content):
    length, kind = struct.unpack_from('>L4s', content, place)
    chunks.append((kind, content[place + 8 : place + 8 + length]))
    place += 12 + length
  how, number = random.integers(6), int(random.integers(len(chunks)))
  if how == 0:
    head = list(struct.unpack('>LLBBBBB', chunks[0][1]))
    field = int(random.integers(7))
    head[field] = _number(random, 1) if field < 2 else int(random.integers(17))
    chunks[0] = (b'IHDR', struct.pack('>LLBBBBB', *head))
  elif how == 1:
    del chunks[number]
  elif how == 2:
    chunks.insert(number, pick(random, chunks))
  elif how == 3:
    chunks[number] = chunks[number][0], damaged(random, chunks[number][1])
  elif how == 4:
    bomb = zlib.compress(bytes(2 * 10**7))
    kind = pick(random, ((b'zTXt', b'a\0\0'), (b'iCCP', b'a\0\0'), (b'iTXt', b'a\0\1\0\0\0')))
    chunks.insert(1, (kind[0], kind[1] + bomb))
  else:
    texts = (b'Raw profile type exif\0\x1b[2J\nforged', b'XML:com.adobe.xmp\0<' + b'x' * 9000, b'\0' * 9)
    chunks.insert(
      int(random.integers(1, len(chunks))), (pick(random, (b'tEXt', b'eXIf', b'tRNS')), pick(random, texts))
    )
  return content[:8] + b''.join(
    struct.pack('>L', len(body)) + kind + body + struct.pack('>L', zlib.crc32(kind + body)) for kind, body in chunks
  )

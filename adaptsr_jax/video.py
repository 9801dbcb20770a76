"""Videos in and out through ffmpeg, frame by frame: only the frames in hand are in memory, and the sound is copied."""

import contextlib
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adaptsr_jax import files
from adaptsr_jax.errors import UserError, shown

SUFFIXES = {'.mp4': 'mp4', '.m4v': 'mp4', '.mov': 'mov', '.mkv': 'matroska', '.webm': 'webm', '.avi': 'avi'}
# Of nearly no loss: what is lost here was made at the cost of minutes.
_CODECS = {'webm': ('-c:v', 'libvpx-vp9', '-crf', '20', '-b:v', '0')}
_CODEC = ('-c:v', 'libx264', '-crf', '16', '-preset', 'medium')
_SCALER = 'flags=accurate_rnd+full_chroma_int+bicubic'
_RATES = ('avg_frame_rate', 'r_frame_rate')
_HD = 720  # lines from which on players take untagged colours for BT.709


class Clip(NamedTuple):
  """The first video stream of a file."""

  path: Path
  size: tuple[int, int]  # height and width of the upright picture
  rate: Fraction  # frames per second
  steady: bool  # whether all frames last as long
  frames: int  # about how many; 0 where that is not known
  matrix: str  # of the colours, as ffmpeg calls it
  deep: bool  # more than 8 bit

  @property
  def dtype(self) -> np.dtype:
    """Of the frames."""
    return np.dtype('<u2' if self.deep else 'u1')


def is_video(path: Path) -> bool:
  """Tells by the suffix whether a file is a video."""
  return path.suffix.lower() in SUFFIXES


def probe(path: Path) -> Clip:
  """Reads what a file says of its video.

  Raises:
    UserError: ffmpeg is not installed, or finds no video in the file.
  """
  entries = 'stream=width,height,avg_frame_rate,r_frame_rate,nb_frames,pix_fmt,color_space,duration:format=duration'
  asked = ('-v', 'error', '-select_streams', 'v:0', '-show_entries', f'{entries}:stream_side_data=rotation')
  done = subprocess.run([_program('ffprobe'), *asked, '-of', 'json', _place(path)], capture_output=True, text=True)
  found = json.loads(done.stdout or '{}') if not done.returncode else {}
  if not found.get('streams'):
    raise UserError(f'{path} holds no video that ffmpeg can read{_why(done.stderr)}.')
  stream = found['streams'][0]
  size = stream['height'], stream['width']
  turned = any(abs(int(data.get('rotation', 0))) % 180 == 90 for data in stream.get('side_data_list', ()))
  mean, least = (Fraction(r) if not r.endswith('/0') else Fraction(0) for r in map(stream.get, _RATES))
  steady = abs(mean - least) <= mean / 100
  rate = (least if steady else mean) or Fraction(25)
  seconds = float(stream.get('duration') or found.get('format', {}).get('duration') or 0)
  matrix = {'bt709': 'bt709', 'bt2020nc': 'bt2020', 'smpte170m': 'bt601', 'bt470bg': 'bt601'}.get(
    stream.get('color_space', ''), 'bt709' if size[0] >= _HD else 'bt601'
  )
  deep = any(bits in stream.get('pix_fmt', '') for bits in ('10', '12'))
  return Clip(path, size[::-1] if turned else size, rate, steady, round(seconds * rate), matrix, deep)


def frames(clip: Clip) -> Iterator[np.ndarray]:
  """Yields the frames, upright, (h, w, 3), uint8 or uint16; of an unsteady video so that all last as long.

  Raises:
    UserError: the file is damaged where ffmpeg cannot go on.
  """
  height, width = clip.size
  pixels = 'rgb48le' if clip.deep else 'rgb24'
  # Containers round times; where each frame is to come once, they are counted anew.
  timed = f'setpts=N/({clip.rate})/TB' if clip.steady else f'fps={clip.rate}'
  made = ('-map', '0:v:0', '-vf', f'{timed},scale=in_color_matrix={clip.matrix}:{_SCALER}')
  made += ('-r', str(clip.rate), '-f', 'rawvideo', '-pix_fmt', pixels, '-')
  with _running(['-i', _place(clip.path), *made], clip.path, stdout=subprocess.PIPE) as process:
    count = height * width * 3 * clip.dtype.itemsize
    while len(data := process.stdout.read(count)) == count:
      yield np.frombuffer(data, clip.dtype).reshape(height, width, 3)


@contextlib.contextmanager
def writer(path: Path, clip: Clip, size: tuple[int, int]) -> Iterator[Callable[[np.ndarray], Any]]:
  """Yields a function that takes the frames of `clip` at `size`; the file is there when the block has ended well.

  Sound and chapters are copied from `clip` as they are.

  Raises:
    UserError: ffmpeg cannot write the file, such as for a container that does not hold the sound.
  """
  kind = SUFFIXES[path.suffix.lower()]
  height, width = size
  pixels = ('rgb48le', 'yuv420p10le') if clip.deep else ('rgb24', 'yuv420p')
  video = ('-f', 'rawvideo', '-pix_fmt', pixels[0], '-s', f'{width}x{height}', '-r', str(clip.rate), '-i', '-')
  # Chroma has half the sides, which therefore are even.
  even = 'pad=ceil(iw/2)*2:ceil(ih/2)*2,' if height % 2 or width % 2 else ''
  made = ('-vf', f'{even}scale=out_color_matrix={clip.matrix}:out_range=tv:{_SCALER}')
  tag = {'bt601': 'smpte170m', 'bt2020': 'bt2020nc'}.get(clip.matrix, clip.matrix)
  made += (*_CODECS.get(kind, _CODEC), '-pix_fmt', pixels[1], '-colorspace', tag, '-color_range', 'tv')
  sound = ('-i', _place(clip.path), '-map', '0:v', '-map', '1:a?', '-c:a', 'copy', '-map_metadata', '1')
  with files.aside(path) as aside:
    command = [*video, *sound, *made, '-f', kind, '-y', _place(aside)]
    with _running(command, path, stdin=subprocess.PIPE) as process:
      yield lambda frame: process.stdin.write(np.ascontiguousarray(frame, clip.dtype).data)
      process.stdin.close()


@contextlib.contextmanager
def _running(words: list[str], path: Path, **pipes: Any) -> Iterator[subprocess.Popen]:
  """Runs ffmpeg; a UserError that names `path` where it fails, and no process is left however the block ends."""
  with tempfile.TemporaryFile() as said:
    process = subprocess.Popen([_program('ffmpeg'), '-v', 'error', '-nostdin', *words], stderr=said, **pipes)
    try:
      with contextlib.suppress(BrokenPipeError):
        yield process
      if process.stdin and not process.stdin.closed:
        process.stdin.close()
      if process.wait():
        said.seek(0)
        raise UserError(f'{path}: ffmpeg failed{_why(said.read().decode(errors="replace"))}.')
    finally:
      process.kill()
      process.wait()


def _program(name: str) -> str:
  found = shutil.which(name)
  if not found:
    raise UserError(
      f'A video needs {name}, which is not installed here: install ffmpeg (on Debian: apt install ffmpeg), or give its '
      'frames as pictures.'
    )
  return found


def _place(path: Path) -> str:
  return f'file:{path}'  # whatever it is called, it is no flag and no protocol


def _why(said: str) -> str:
  # The first line is the cause; in front of it may stand which part of ffmpeg says so, with an address.
  lines = [re.sub(r'^\[.* @ \w+\] ', '', line.strip()) for line in said.splitlines() if line.strip()]
  return f' ({shown(lines[0])})' if lines else ''

"""Videos through ffmpeg, contact sheets and folders that are watched."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from adaptsr_jax import base, image, infer, tree, upscale, video
from tests.pictures import scene

NETWORK, SCALE = 'bundled:safmn_x4', 4
FRAMES, SIZE = 7, (32, 46)


def ffmpeg(*words):
  if not shutil.which('ffmpeg') or not shutil.which('ffprobe'):
    pytest.skip('ffmpeg is not installed')
  return subprocess.run(['ffmpeg', '-v', 'error', '-y', *map(str, words)], check=True, stdout=subprocess.PIPE).stdout


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
  """A scene that moves, with a tone."""
  folder = tmp_path_factory.mktemp('clip')
  whole = scene(3, SIZE[0], SIZE[1] + 2 * FRAMES)
  for i in range(FRAMES):
    image.write(folder / f'{i}.png', whole[:, 2 * i : 2 * i + SIZE[1]])
  tone = ('-f', 'lavfi', '-i', f'sine=frequency=440:duration={FRAMES / 25}', '-c:a', 'aac')
  ffmpeg('-framerate', 25, '-i', folder / '%d.png', *tone, '-crf', 5, '-pix_fmt', 'yuv420p', folder / 'clip.mp4')
  return folder / 'clip.mp4'


def sound(path):
  return ffmpeg('-i', path, '-map', '0:a', '-c', 'copy', '-f', 'md5', '-')


def assert_like(frame, other):
  """The same but for what compression takes, and for colour at half resolution."""
  difference = (np.float64(frame) - other) / (257 if frame.dtype == np.uint16 else 1)
  np.testing.assert_allclose(difference.mean((0, 1)), 0, atol=1)
  assert np.abs(difference @ (0.299, 0.587, 0.114)).mean() < 2


def run(*words):
  return upscale.main([f'--params={NETWORK}', *map(str, words)])


def test_frames_are_enlarged_and_the_sound_is_copied(clip, tmp_path, capsys):
  out = tmp_path / 'new' / 'large.mp4'
  assert run(clip, out, f'--sheet={tmp_path / "sheet.png"}', f'--guard={NETWORK}') == 0
  said = capsys.readouterr()
  assert '1 of 1 videos enlarged' in said.out
  assert 'Warning' not in said.err
  assert sound(out) == sound(clip)
  before, after = video.probe(clip), video.probe(out)
  assert after.size == (SCALE * SIZE[0], SCALE * SIZE[1])
  assert (after.rate, after.frames, after.matrix) == (before.rate, FRAMES, before.matrix)
  loaded = base.load(NETWORK)
  enlarge = infer.network(loaded.model(), loaded.params)
  frames = list(video.frames(after))
  assert len(frames) == FRAMES
  for lr, large in zip(video.frames(before), frames, strict=True):
    assert_like(image.to_uint8(enlarge(image.to_float(lr))), large)
  assert image.size(tmp_path / 'sheet.png')[0] > 2 * 32 * SCALE
  assert os.listdir(out.parent) == ['large.mp4']


def test_frames_that_depart_from_the_base_are_warned_of_together(clip, tmp_path, capsys):
  loaded = base.load(NETWORK)
  flat = dict(tree.flatten(loaded.params))
  brighter = tree.unflatten({**flat, 'to_img_0/bias': flat['to_img_0/bias'] + np.float32(0.1)})
  base.save(tmp_path / 'brighter', loaded, brighter)
  call = [f'--params={tmp_path / "brighter"}', f'--guard={NETWORK}', str(clip), str(tmp_path / 'out.mp4')]
  assert upscale.main(call) == 0
  (said,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith('Warning'))
  assert said.startswith(f'Warning: {clip}, frame 1: its mean level moved by +2')
  assert said.endswith(f'So do {FRAMES - 1} more of the frames that were compared.')


@pytest.mark.parametrize('name', ['clip.mkv', 'clip.mov', 'clip.avi'])
def test_other_containers(clip, tmp_path, name):
  found = video.probe(clip)
  with video.writer(tmp_path / name, found, found.size) as write:
    for frame in video.frames(found):
      write(frame)
  again = video.probe(tmp_path / name)
  assert (again.size, again.matrix) == (found.size, found.matrix)
  for frame, other in zip(video.frames(found), video.frames(again), strict=True):
    assert_like(frame, other)


def test_ten_bit_stay_and_odd_sides_are_made_even(clip, tmp_path):
  deep = tmp_path / 'deep.mkv'
  ffmpeg('-i', clip, '-vf', 'crop=45:31:0:0:exact=1', '-pix_fmt', 'yuv444p10le', deep)
  found = video.probe(deep)
  assert (found.deep, found.size) == (True, (31, 45))
  frames = list(video.frames(found))
  assert frames[0].dtype == np.uint16
  with video.writer(tmp_path / 'out.mp4', found, found.size) as write:
    for frame in frames:
      write(frame)
  again = video.probe(tmp_path / 'out.mp4')
  assert (again.deep, again.size) == (True, (32, 46))
  assert_like(frames[0], next(video.frames(again))[:31, :45])


def test_where_a_frame_is_missing_the_one_before_lasts_longer(clip, tmp_path):
  ffmpeg('-i', clip, '-vf', "select='not(eq(n,3))'", '-vsync', 'vfr', '-c:a', 'copy', tmp_path / 'gap.mp4')
  found = video.probe(tmp_path / 'gap.mp4')
  assert not found.steady
  seconds = len(list(video.frames(found))) / found.rate
  assert float(seconds) == pytest.approx(FRAMES / 25, abs=0.05)


def test_what_is_no_video_is_one_sentence_and_leaves_nothing(clip, tmp_path, monkeypatch, capsys):
  (tmp_path / 'text.mp4').write_text('no video')
  image.write(tmp_path / 'a.png', scene(0))
  out = tmp_path / 'out.mp4'
  for words, message in (
    ((tmp_path / 'text.mp4', out), 'holds no video that ffmpeg can read'),
    ((tmp_path / 'a.png', out), 'can be made of one video only'),
    ((clip, tmp_path / 'out.png'), 'is a picture, and'),
  ):
    assert run(*words) == 2
    assert message in capsys.readouterr().err
  assert run(clip, tmp_path / 'out.webm') == 2  # which holds no such sound
  assert 'out.webm: ffmpeg failed (' in capsys.readouterr().err
  monkeypatch.setenv('PATH', str(tmp_path))
  assert run(clip, out) == 2
  assert 'A video needs ffprobe, which is not installed here: install ffmpeg' in capsys.readouterr().err
  assert sorted(os.listdir(tmp_path)) == ['a.png', 'text.mp4']


def test_a_contact_sheet_shows_each_picture_before_and_after(tmp_path, capsys):
  (tmp_path / 'in').mkdir()
  for i in range(4):
    image.write(tmp_path / 'in' / f'p{i}.png', scene(i, 60, 60))
  assert run(tmp_path / 'in', tmp_path / 'out', f'--sheet={tmp_path / "sheet.png"}') == 0
  height, width = image.size(tmp_path / 'sheet.png')
  assert width > 6 * 96
  assert height > 2 * 96
  assert run(tmp_path / 'in', tmp_path / 'out', '--sheet=sheet.gif') == 2
  assert 'A figure cannot be written to sheet.gif' in capsys.readouterr().err


def test_a_watched_folder(tmp_path):
  inbox, out = tmp_path / 'in', tmp_path / 'out'
  inbox.mkdir()
  image.write(inbox / 'first.png', scene(0))
  call = [sys.executable, '-m', 'adaptsr_jax.upscale', f'--params={NETWORK}', '--watch', str(inbox), str(out)]
  process = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
  try:
    for line in process.stdout:
      if line.startswith('Watching'):
        break
    (inbox / 'half.png').write_bytes((inbox / 'first.png').read_bytes()[:200])  # a copy that stopped on its way
    image.write(inbox / 'second.png', scene(1))
    until = time.time() + 60
    while not (out / 'second.png').exists() and time.time() < until:
      time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[0]
  finally:
    process.kill()
  assert process.returncode == 0, said
  assert sorted(os.listdir(out)) == ['first.png', 'second.png']
  assert said.endswith('No longer watching.\n')
  assert 'half.png' in said


def test_videos_of_folders(clip, tmp_path, monkeypatch, capsys):
  """Where a folder is watched they are enlarged as its pictures are; else they have to be named, which is said."""
  inbox = tmp_path / 'in'
  inbox.mkdir()
  shutil.copy(clip, inbox / 'clip.mp4')
  (inbox / 'text.mp4').write_text('no video')
  image.write(inbox / 'a.png', scene(0))
  assert run(inbox, tmp_path / 'pictures') == 0
  assert f'Videos of a folder are enlarged where they are named: {inbox / "clip.mp4"}' in capsys.readouterr().out
  assert os.listdir(tmp_path / 'pictures') == ['a.png']

  def stopped(seconds):
    raise KeyboardInterrupt

  monkeypatch.setattr(upscale.time, 'sleep', stopped)
  assert run('--watch', inbox, tmp_path / 'all') == 0
  assert f'Failed: {inbox / "text.mp4"} holds no video that ffmpeg can read' in capsys.readouterr().err
  assert sorted(os.listdir(tmp_path / 'all')) == ['a.png', 'clip.mp4']
  assert video.probe(tmp_path / 'all' / 'clip.mp4').frames == video.probe(clip).frames


def test_what_cannot_be_watched(tmp_path, capsys):
  image.write(tmp_path / 'a.png', scene(0))
  for words, message in (
    ((tmp_path / 'a.png', tmp_path / 'out'), 'is no folder, and --watch looks at folders'),
    ((tmp_path, tmp_path), 'would be enlarged again'),
    ((tmp_path, tmp_path / 'b.png'), 'is one picture, but several'),
    ((tmp_path, tmp_path / 'b.mp4'), 'is one video, and can be made of one video only'),
    ((tmp_path, tmp_path / 'out', '--sheet=s.png'), '--sheet is drawn at the end'),
  ):
    assert run('--watch', *words) == 2
    assert message in capsys.readouterr().err

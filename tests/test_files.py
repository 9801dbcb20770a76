"""Files that appear whole or not at all, on full disks, beside links and after kills."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from adaptsr_jax import files
from adaptsr_jax.errors import UserError


def leftovers(folder):
  return sorted(path.name for path in folder.iterdir() if path.name.startswith('.'))


def kill_while_writing(path, function):
  """Runs a process that writes aside for ever, and kills it once there is something aside."""
  code = f"""
import sys, time
from adaptsr_jax import files
with files.{function}(sys.argv[1]) as temporary:
  print(temporary, flush=True)
  time.sleep(60)
"""
  process = subprocess.Popen([sys.executable, '-c', code, str(path)], stdout=subprocess.PIPE, text=True)
  temporary = process.stdout.readline().strip()
  assert os.path.exists(temporary)
  return process, temporary


@pytest.mark.parametrize('function', ['aside', 'aside_folder'])
def test_what_a_killed_writer_left_is_swept_up_and_what_a_living_one_writes_is_not(tmp_path, function):
  dead, left = kill_while_writing(tmp_path / 'dead', function)
  dead.send_signal(signal.SIGKILL)
  dead.wait()
  living, kept = kill_while_writing(tmp_path / 'living', function)
  files.sweep(tmp_path)
  assert not os.path.exists(left)
  assert os.path.exists(kept)
  living.kill()
  living.wait()
  files.sweep(tmp_path)
  assert leftovers(tmp_path) == []
  (tmp_path / '.adaptsr.md').write_text('of somebody else')
  files.sweep(tmp_path)
  assert leftovers(tmp_path) == ['.adaptsr.md']


def test_a_file_is_as_it_was_until_the_new_one_is_whole(tmp_path):
  path = tmp_path / 'a.txt'
  files.write(path, 'old')

  def fails():
    with files.aside(path) as temporary:
      temporary.write_text('half')
      assert path.read_text() == 'old'
      raise ZeroDivisionError

  pytest.raises(ZeroDivisionError, fails)
  assert path.read_text() == 'old'
  assert leftovers(tmp_path) == []
  files.write(path, 'é')
  assert path.read_bytes() == 'é'.encode()


def test_a_folder_is_replaced_whole(tmp_path):
  path = tmp_path / 'folder'
  for text in ('old', 'new'):
    with files.aside_folder(path) as temporary:
      (temporary / text).write_text(text)
  assert [inner.name for inner in path.iterdir()] == ['new']
  assert leftovers(tmp_path) == []


@pytest.mark.parametrize('name', ['a' * 255, 'é' * 127 + 'a'])
def test_any_name_that_the_file_system_takes_can_be_written(tmp_path, name):
  files.write(tmp_path / name, b'x')
  assert (tmp_path / name).read_bytes() == b'x'
  with files.aside_folder(tmp_path / ('b' + name[1:])) as temporary:
    (temporary / 'x').write_text('x')
  assert len(list(tmp_path.iterdir())) == 2


def test_links_are_replaced_and_not_followed(tmp_path, monkeypatch):
  (tmp_path / 'precious').write_text('precious')
  (tmp_path / 'x.json').symlink_to('precious')
  files.write(tmp_path / 'x.json', '{}')
  assert (tmp_path / 'precious').read_text() == 'precious'
  # Whoever guesses the name aside gains nothing.
  monkeypatch.setattr(files.secrets, 'token_hex', lambda _: 'guessed')
  (tmp_path / '.adaptsr-guessed.part').symlink_to('precious')
  with pytest.raises(FileExistsError):
    files.write(tmp_path / 'y.json', '{}')
  assert (tmp_path / 'precious').read_text() == 'precious'


def test_devices_and_pipes_stay_what_they_are(tmp_path):
  os.mkfifo(tmp_path / 'pipe')
  with pytest.raises(UserError, match='a device or a pipe'):
    files.write(tmp_path / 'pipe', '{}')
  assert (tmp_path / 'pipe').is_fifo()


def test_too_little_room_is_told_before(tmp_path):
  with pytest.raises(UserError, match=r'No space left on \S+: needs about 1000000000000\.0 MB, and \S+ MB are free'):
    files.check_room(tmp_path / 'not' / 'there', 10**18)
  with pytest.raises(UserError, match='No space left'), files.aside(tmp_path / 'x', 10**18):
    raise AssertionError('not reached')
  assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
  'error',
  [
    OSError(errno.ENOSPC, 'No space left on device'),
    OSError(errno.EDQUOT, 'Disk quota exceeded'),
    ValueError('UNKNOWN: write to /x failed: No space left on device [os_error_code=28]'),
    RuntimeError('while saving'),
  ],
)
def test_a_disk_that_fills_up_is_one_sentence(tmp_path, error):
  path = tmp_path / 'x'
  path.write_text('old')

  def fails():
    with files.aside(path):
      try:
        raise OSError(errno.EFBIG, 'File too large')
      except OSError as cause:
        raise error from cause

  with pytest.raises(UserError, match='No space left on '):
    fails()
  assert path.read_text() == 'old'
  assert leftovers(tmp_path) == []


def test_other_errors_stay_what_they_are(tmp_path):
  with pytest.raises(FileNotFoundError):
    files.write(tmp_path / 'absent' / 'x', b'x')
  assert not files.is_full(OSError(errno.EACCES, 'Permission denied'))


def test_the_largest_allowed_file_is_a_limit(tmp_path):
  code = """
import resource, sys
from adaptsr_jax import errors, files
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
files.write(sys.argv[1], b'x' * 1000)
for needs in (0, 1001):
  try:
    with files.aside(sys.argv[1], needs) as temporary:
      temporary.write_bytes(b'y' * 1001)
  except errors.UserError as error:
    print(error)
"""
  done = subprocess.run([sys.executable, '-c', code, str(tmp_path / 'x')], capture_output=True, text=True, check=True)
  assert done.stdout.count('No space left on ') == 2
  assert (tmp_path / 'x').read_bytes() == b'x' * 1000
  assert leftovers(tmp_path) == []

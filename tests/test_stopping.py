"""Runs that are stopped, killed or out of room, with reading processes: what is left of them, and that they go on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adaptsr_jax import adapt, command, log
from adaptsr_jax.errors import UserError
from configs import tiny
from tests.pictures import write_pairs

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  return write_pairs(tmp_path_factory.mktemp('pictures'), 4)


def begin(folders, workdir, *flags):
  """Starts a run of its own session in processes of its own."""
  sides = dict(zip(('lr', 'hr'), folders, strict=True))
  data = [f'--config.data.{part}.{side}={folder}' for part in ('train', 'valid') for side, folder in sides.items()]
  call = [sys.executable, '-m', 'adaptsr_jax.main', '--config=configs/tiny.py', f'--workdir={workdir}', *data, *flags]
  options = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True, 'start_new_session': True}
  return subprocess.Popen(call, cwd=ROOT, env={**os.environ, 'JAX_PLATFORMS': 'cpu'}, **options)


def until(process, word):
  for line in process.stdout:
    if word in line:
      return
  raise AssertionError(process.stderr.read())


def living(session: int) -> list[str]:
  """Returns the processes of a session, from Linux's /proc."""
  found = []
  for path in Path('/proc').glob('[0-9]*/stat'):
    try:
      state, _, _, its_session = path.read_text().rpartition(')')[2].split()[:4]
      if int(its_session) == session and state != 'Z':
        found.append((path.parent / 'cmdline').read_text())
    except OSError:
      continue
  return found


def left_of(session: int) -> list[str]:
  """Returns the processes of a session that is over which are still there after five seconds."""
  deadline = time.monotonic() + 5
  while (left := living(session)) and time.monotonic() < deadline:
    time.sleep(0.1)
  return left


FOREVER = ('--config.steps=100000', '--config.log_every=5', '--config.data.workers=2')


@pytest.mark.skipif(not os.path.exists('/proc/self/stat'), reason='processes are listed by /proc')
def test_readers_end_with_the_run_that_is_killed(folders, tmp_path):
  process = begin(folders, tmp_path / 'run', *FOREVER)
  until(process, 'step 5/')
  assert len(living(process.pid)) >= 3
  process.kill()
  process.wait()
  assert left_of(process.pid) == []


@pytest.mark.skipif(not os.path.exists('/proc/self/stat'), reason='processes are listed by /proc')
def test_interrupts_of_the_terminal_reach_all_processes_and_are_told_once(folders, tmp_path):
  # A terminal sends them to the whole group.
  process = begin(folders, tmp_path / 'run', *FOREVER)
  until(process, 'step 5/')
  os.killpg(process.pid, signal.SIGINT)
  said = next(line for line in process.stderr if not line.endswith((' so far\n', ' left\n')))  # on a slow machine
  assert said == 'Stopping after this step; once more stops at once.\n'
  os.killpg(process.pid, signal.SIGINT)
  _, error = process.communicate(timeout=30)
  # The step may have been over by then.
  assert (process.returncode, error) in [(130, 'Stopped at once; what was saved is whole.\n'), (130, '')]
  assert left_of(process.pid) == []


def test_a_line_of_metrics_is_whole_or_absent(tmp_path, monkeypatch):
  run = log.RunLog(tmp_path, 0, False)
  run.scalars(1, {'loss': 0.5})
  whole = (tmp_path / 'metrics.jsonl').read_bytes()

  class Short:
    def __init__(self, file):
      self.file = file

    def write(self, line):
      return self.file.write(line[:7])

    def truncate(self, size):
      return self.file.truncate(size)

  monkeypatch.setattr(run, '_file', Short(run._file))
  with pytest.raises(UserError, match='No space left on '):
    run.scalars(2, {'loss': 0.5})
  assert (tmp_path / 'metrics.jsonl').read_bytes() == whole
  assert [json.loads(line) for line in whole.splitlines()] == [{'step': 1, 'loss': 0.5}]


@pytest.fixture
def disk(tmp_path):
  """Returns (kilobytes) -> a folder that holds no more, or more than before."""
  folder, mounted = tmp_path / 'disk', []
  folder.mkdir()

  def resize(kilobytes):
    size = f'{"remount," if mounted else ""}size={kilobytes}k'
    call = ['mount', '-t', 'tmpfs', '-o', size, 'tmpfs', str(folder)]
    if subprocess.run(call, capture_output=True).returncode:
      pytest.skip('only root can make small disks')
    mounted.append(size)
    return folder

  yield resize
  if mounted:
    subprocess.run(['umount', '-l', str(folder)], check=True)


def short_run(folders):
  c = tiny.get_config()
  c.steps, c.save_every, c.eval_every, c.log_every, c.tensorboard = 4, 2, 4, 1, True
  c.optim.schedule = 'constant'  # the same steps however many there are
  for part in (c.data.train, c.data.valid):
    part.lr, part.hr = map(str, folders)
  return c


@pytest.fixture(scope='module')
def whole(folders, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('whole') / 'run'
  adapt.run(short_run(folders), workdir)
  return workdir


@pytest.mark.parametrize('kilobytes', [12, 40, 120, 200, 280, 360, 420, 440])
def test_a_full_disk_is_one_sentence_and_with_room_the_run_goes_on(folders, whole, disk, capsys, kilobytes):
  workdir = disk(kilobytes) / 'run'

  def run():
    adapt.run(short_run(folders), workdir)

  if command.ended(run):
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith('Error: No space left on ')
    names = [path.name for path in workdir.parent.rglob('*')]
    assert not [name for name in names if name.endswith('.part') or 'checkpoint-tmp' in name]
    for path in workdir.rglob('*.json'):
      json.loads(path.read_text())
    disk(64 * 1024)
    assert command.ended(run) == 0
  assert (workdir / 'merged.pth').read_bytes() == (whole / 'merged.pth').read_bytes()

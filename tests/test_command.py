"""How commands end: Ctrl-C, closed and narrow terminals, names that forge, and one sentence for what can be mended."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adaptsr_jax import command
from adaptsr_jax.__main__ import COMMANDS as BY_NAME
from adaptsr_jax.errors import UserError

COMMANDS = [module for module, _ in BY_NAME.values()]


def program(tmp_path, work: str) -> list[str]:
  """Returns the call of a command that does `work`."""
  path = tmp_path / 'program.py'
  lines = ['import os, sys, time', 'from adaptsr_jax import command', 'from adaptsr_jax.errors import UserError', '']
  lines += ['def main():', *(f'  {line}' for line in work.strip().splitlines()), '']
  path.write_text('\n'.join([*lines, "if __name__ == '__main__':", '  command.start(main)', '']))
  return [sys.executable, str(path)]


def run(tmp_path, work, **options):
  options = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, **options}
  return subprocess.run(program(tmp_path, work), text=True, errors='surrogateescape', timeout=60, **options)


@pytest.mark.parametrize(
  'work',
  [
    # In what follows the first, in a step that Python cannot leave, and where the first is swallowed.
    'try:\n  print("ready", flush=True)\n  time.sleep(60)\nfinally:\n  time.sleep(60)',
    # By the time that the thread speaks, the main one is in that step, or where it swallows everything.
    'import hashlib, threading\nthreading.Timer(1, print, ["ready"], {"flush": True}).start()\n'
    'hashlib.pbkdf2_hmac("sha512", b"a", b"b", 200_000_000)',
    'import threading\nthreading.Timer(1, print, ["ready"], {"flush": True}).start()\n'
    'for _ in range(60):\n  try:\n    time.sleep(60)\n  except BaseException:\n    pass',
  ],
  ids=['cleaning up', 'compiled', 'deaf'],
)
def test_second_interrupt_ends_at_once_in_one_line(tmp_path, work):
  process = subprocess.Popen(program(tmp_path, work), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  assert process.stdout.readline() == 'ready\n'
  process.send_signal(signal.SIGINT)
  time.sleep(0.3)
  assert process.poll() is None
  process.send_signal(signal.SIGINT)
  _, error = process.communicate(timeout=5)
  assert process.returncode == 130
  # The main thread may come to say it first.
  assert error in ('Stopped at once; what was saved is whole.\n', 'Stopped; what was saved is whole.\n')


def test_one_interrupt_ends_in_one_line_whatever_threads_do(tmp_path):
  work = (
    'import threading\nthreading.Thread(target=time.sleep, args=[60]).start()\nprint(1, flush=True)\ntime.sleep(60)'
  )
  process = subprocess.Popen(program(tmp_path, work), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  process.stdout.readline()
  process.send_signal(signal.SIGINT)
  _, error = process.communicate(timeout=5)
  assert (process.returncode, error) == (130, 'Stopped; what was saved is whole.\n')


LINES = 'for line in range(100_000):\n  print(line)\nwith open(sys.argv[1], "w") as file:\n  file.write("done")'


def test_work_goes_on_when_nobody_reads_stdout(tmp_path):
  call = [*program(tmp_path, LINES), str(tmp_path / 'out')]
  process = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  process.stdout.readline()
  process.stdout.close()
  assert process.stderr.read() == b''
  assert process.wait() == 0
  assert (tmp_path / 'out').read_text() == 'done'


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='there is no device that is always full')
def test_work_goes_on_when_stdout_cannot_be_written(tmp_path):
  with open('/dev/full', 'w') as full:
    done = subprocess.run([*program(tmp_path, LINES), str(tmp_path / 'out')], stdout=full, stderr=subprocess.PIPE)
  assert done.returncode == 0
  assert done.stderr.count(b'\n') == 1
  assert b'What goes to stdout is lost' in done.stderr
  assert (tmp_path / 'out').read_text() == 'done'


@pytest.mark.parametrize('closed', ['>&-', '2>&-', '>&- 2>&-', '<&- >&- 2>&-'])
def test_work_goes_on_without_stdout_and_no_file_takes_its_place(tmp_path, closed):
  call = ' '.join([*program(tmp_path, 'sys.stderr.write("x")\n' + LINES), str(tmp_path / 'out'), closed])
  assert subprocess.run(['sh', '-c', call]).returncode == 0
  assert (tmp_path / 'out').read_text() == 'done'


def test_what_a_terminal_cannot_show_is_escaped(tmp_path):
  work = 'print("größe −1", os.fsdecode(b"a\\xff"))\nprint("a\\x1b[2Jb\\rc\\u202e", file=sys.stderr)'
  work += '\nraise UserError("\\x07")'
  done = run(tmp_path, work, env={**os.environ, 'PYTHONIOENCODING': 'ascii'})
  assert done.returncode == 2
  assert done.stdout == 'gr\\xf6\\xdfe \\u22121 a\\udcff\n'
  assert done.stderr == 'a\\x1b[2Jb\\rc\\u202e\nError: \\x07\n'


@pytest.mark.parametrize(
  ('error', 'said'),
  [
    (UserError('It is so.\nError: forged'), 'It is so.\\nError: forged'),
    (FileNotFoundError(2, 'No such file or directory', 'a\nb'), 'a\\nb cannot be used: no such file or directory.'),
    (OSError(28, 'No space left on device', '/x'), 'No space left to write /x; make room, or write elsewhere.'),
    (OSError('odd'), 'odd'),
    (MemoryError(), 'The memory of this machine does not suffice.'),
  ],
)
def test_errors_are_one_sentence(capsys, error, said):
  def fails():
    raise error

  assert command.ended(fails) == 2
  assert capsys.readouterr().err == f'Error: {said}\n'


def test_what_is_no_fault_of_the_user_keeps_its_traceback():
  pytest.raises(ZeroDivisionError, command.ended, lambda: 1 / 0)


def test_home_is_written_out_wherever_a_path_begins(monkeypatch):
  monkeypatch.setenv('HOME', '/home/me')
  given = ['~/a', '--lr=~/b', '--params=ours=~/c', '--fields', '~', 'a~/b', '--x=a~', '--y=~nobody-here/x']
  written = ['/home/me/a', '--lr=/home/me/b', '--params=ours=/home/me/c', '--fields', '/home/me', *given[5:]]
  assert command.arguments(given) == written


@pytest.mark.parametrize('name', COMMANDS)
def test_help_of_every_command_into_a_closed_pipe(name):
  """It also shows that the command begins through `command.start`: nothing else stays silent here."""
  reader, writer = os.pipe()
  os.close(reader)
  call = [sys.executable, '-m', f'adaptsr_jax.{name}', '--help']
  done = subprocess.run(call, stdout=writer, stderr=subprocess.PIPE, timeout=60)
  os.close(writer)
  assert done.stderr == b''
  assert done.returncode == (1 if name == 'main' else 0)  # absl's help ends so


@pytest.mark.parametrize('name', COMMANDS)
def test_help_of_every_command_comes_without_jax(name):
  call = [sys.executable, '-X', 'importtime', '-m', f'adaptsr_jax.{name}', '--help']
  done = subprocess.run(call, capture_output=True, text=True, timeout=60)
  imported = {line.rpartition('|')[2].strip() for line in done.stderr.splitlines()}
  assert 'adaptsr_jax.command' in imported
  assert 'jax' not in imported


@pytest.mark.parametrize('name', COMMANDS)
def test_every_command_begins_the_same_way(name):
  folder = Path(command.__file__).parent
  path = folder / f'{name}.py' if (folder / f'{name}.py').exists() else folder / name / '__main__.py'
  text = path.read_text()
  assert '  command.start(' in text
  assert 'except KeyboardInterrupt' not in text


def test_compiled_programs_are_kept_where_variables_say(tmp_path):
  code = (
    'import os; from adaptsr_jax import command; command.keep_programs()\n'
    'import jax; jax.jit(lambda x: x + 1).lower(1.0).compile(); print(jax.config.jax_compilation_cache_dir)'
  )

  def kept(**variables):
    variables = {'ADAPTSR_JAX_CACHE': str(tmp_path), 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0', **variables}
    environment = {name: value for name, value in os.environ.items() if name != 'JAX_COMPILATION_CACHE_DIR'}
    call = [sys.executable, '-c', code]
    return subprocess.run(call, env=environment | variables, capture_output=True, text=True, check=True).stdout.strip()

  folder = kept()
  assert folder.startswith(str(tmp_path / 'programs'))
  assert os.listdir(folder)
  assert kept(JAX_COMPILATION_CACHE_DIR=str(tmp_path / 'mine')) == str(tmp_path / 'mine')
  folder = kept(ADAPTSR_JAX_COMPILED=str(tmp_path / 'other'))
  assert folder.startswith(str(tmp_path / 'other'))
  assert os.listdir(folder)
  assert kept(ADAPTSR_JAX_COMPILED='off') == 'None'


def test_programs_that_were_not_used_for_longest_make_room(tmp_path):
  (tmp_path / 'processor').mkdir()
  for age, name in enumerate(('new', 'read', 'old')):
    path = tmp_path / 'processor' / name
    path.write_bytes(bytes(10))
    os.utime(path, (1000 - age, 10 if name == 'read' else 1000 - age))
  command._prune(tmp_path, 30)
  assert len(os.listdir(tmp_path / 'processor')) == 3
  command._prune(tmp_path, 29)
  assert sorted(os.listdir(tmp_path / 'processor')) == ['new', 'read']
  command._prune(tmp_path / 'none', 0)

"""Runs in two processes on one machine: stopped together, one of them killed, and gone on with by one alone."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from adaptsr_jax import adapt, log, upscale
from configs import tiny
from tests.pictures import write_pairs

ROOT = Path(__file__).parents[1]
FIELDS = {'optim.schedule': 'constant', 'lora.rule': 'uniform', 'log_every': 1, 'eval_every': 10**6, 'save_every': 5}


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  return write_pairs(tmp_path_factory.mktemp('pictures'), 3)


def free_port() -> int:
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    return probe.getsockname()[1]


def begin(module, *flags):
  """Starts a command in two processes."""
  port = free_port()
  together = [f'--coordinator=localhost:{port}', '--processes=2']
  env = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
  pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True, 'env': env, 'cwd': ROOT}
  call = [sys.executable, '-m', f'adaptsr_jax.{module}', *map(str, flags), *together]
  return [subprocess.Popen([*call, f'--process={which}'], **pipes) for which in range(2)]


def train(folders, workdir):
  lr, hr = folders
  pictures = [
    f'--config.data.{part}.{side}={folder}' for part in ('train', 'valid') for side, folder in (('lr', lr), ('hr', hr))
  ]
  fields = [f'--config.{name}={value}' for name, value in FIELDS.items()]
  return begin('main', '--config=configs/tiny.py', f'--workdir={workdir}', *pictures, *fields, '--config.steps=10000')


def until(process, word):
  for line in process.stdout:
    if word in line:
      return
  raise AssertionError(process.stderr.read())


def ends(pair):
  """Returns [(exit code, stderr)] of both."""
  outputs = [process.communicate(timeout=200) for process in pair]
  return [(process.returncode, error) for process, (_, error) in zip(pair, outputs, strict=True)]


def rows(workdir):
  return {row['step']: row['loss'] for row in log.read_metrics(workdir) if 'loss' in row}


def test_a_run_in_two_processes_stops_as_one_and_outlives_the_death_of_one(folders, tmp_path, capsys):
  workdir = tmp_path / 'pair'
  pair = train(folders, workdir)
  until(pair[0], 'step 3/')
  pair[1].send_signal(signal.SIGTERM)  # one is asked, and both stop after the same step
  assert [code for code, _ in ends(pair)] == [130, 130]
  stopped = max(rows(workdir))
  assert (workdir / 'checkpoints' / str(stopped)).is_dir()

  pair = train(folders, workdir)
  until(pair[0], f'Continuing from step {stopped}.')
  until(pair[0], f'step {stopped + 6}/')
  pair[1].kill()
  (code, error), _ = ends(pair)
  assert code == 2
  assert 'Process 1 of 2 is gone without a word.' in error

  # One process goes on with what two have saved, and comes where one alone comes.
  config = tiny.get_config()
  config.update_from_flattened_dict(FIELDS)
  for part in (config.data.train, config.data.valid):
    part.lr, part.hr = map(str, folders)
  config.steps = max(map(int, os.listdir(workdir / 'checkpoints'))) + 2
  results = adapt.run(config, workdir)
  assert f'Continuing from step {config.steps - 2}.' in capsys.readouterr().out
  alone = adapt.run(config, tmp_path / 'alone')
  np.testing.assert_allclose(list(rows(workdir).values()), list(rows(tmp_path / 'alone').values()), rtol=1e-4)
  assert results['base'] == alone['base']  # each had measured its share of the pictures
  for name, row in alone['adapted']['images'].items():
    assert abs(results['adapted']['images'][name]['psnr_y'] - row['psnr_y']) < 0.01


def test_processes_share_the_pictures_to_enlarge(folders, tmp_path):
  (tmp_path / 'broken.png').write_bytes(b'no picture')
  given = ['--params=bundled:edsr_x4', folders[0], tmp_path / 'broken.png']
  outcomes = ends(begin('upscale', *given, tmp_path / 'pair'))
  assert [code for code, _ in outcomes] == [1, 1]
  assert sorted(error.count('Failed: ') for _, error in outcomes) == [0, 1]
  assert upscale.main([*map(str, given[:2]), str(tmp_path / 'alone')]) == 0
  for path in (tmp_path / 'alone').iterdir():
    assert (tmp_path / 'pair' / path.name).read_bytes() == path.read_bytes()


def test_what_says_of_no_processes_is_one_sentence():
  call = ['--params=bundled:edsr_x4', 'a.png', 'b.png']
  script = f'from adaptsr_jax import upscale; upscale.main({[*call, "--coordinator=localhost:1", "--process=0"]!r})'
  done = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 2
  assert done.stderr == 'Error: --processes must be given too, or none of the three where a cluster tells them.\n'

"""The first run, with its own config and command line, on a small random network."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from adaptsr_jax import config
from adaptsr_jax.adapt import show
from configs import quickstart

ROOT = Path(__file__).parents[1]
TINY = (
  *('--config.base=random', '--config.model=safmn_x4', '--config.fields=dim=8,n_blocks=1'),
  *('--config.steps=2', '--config.patch=64', '--config.batch_size=2', '--config.score.batches=1'),
)


@pytest.fixture(scope='module')
def start(tmp_path_factory):
  """Returns start(workdir, *flags) -> output of the command."""
  pytest.importorskip('skimage')
  cache = tmp_path_factory.mktemp('cache')

  def run(workdir, *flags):
    command = [sys.executable, '-m', 'adaptsr_jax.main', '--config=configs/quickstart.py', f'--workdir={workdir}']
    env = {
      **os.environ,
      'JAX_PLATFORMS': 'cpu',
      'ADAPTSR_JAX_CACHE': str(cache),
      # What one start compiled serves the next.
      'JAX_COMPILATION_CACHE_DIR': str(cache / 'compiled'),
      'JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS': '0',
    }
    done = subprocess.run([*command, *TINY, *flags], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

  return run


@pytest.fixture(scope='module')
def first(start, tmp_path_factory):
  """Folder and output of a first start."""
  workdir = tmp_path_factory.mktemp('runs') / 'quickstart'
  return workdir, start(workdir)


def test_config_is_valid_and_needs_nothing_of_ones_own():
  c = quickstart.get_config()
  config.validate(c)
  assert c.base.startswith('bundled:')
  assert (c.data.train.hr, c.data.valid.hr) == ('samples:train', 'samples:valid')


def test_it_ends_with_a_table_pictures_and_what_to_try_next(first):
  workdir, output = first
  rows = re.findall(r'^(bicubic|base|adapted) +(\d+\.\d+)', output, re.MULTILINE)
  assert [label for label, _ in rows] == ['bicubic', 'base', 'adapted']
  assert {'ranks.png', 'compare.png', 'curve.png', 'merged', 'merged.pth'} <= {path.name for path in workdir.iterdir()}
  results = json.loads((workdir / 'results.json').read_text())
  assert float(rows[0][1]) == pytest.approx(results['bicubic']['mean']['psnr_y'], abs=6e-4)
  assert set(results['bicubic']['images']) == {'camera', 'chelsea', 'coffee'}
  assert results['bicubic'].keys() == results['base'].keys()
  assert output.index('adapted ') < output.index('Next:')
  assert f'adaptsr_jax.upscale --params={workdir}/merged' in output


def test_readme_names_every_file_of_a_run(first):
  workdir, _ = first
  named = set(re.findall(r'`([a-z.]+)/?`', (ROOT / 'README.md').read_text()))
  there = {path.name for path in workdir.iterdir()}
  assert {'results.json', 'material.json'} <= there <= named


def test_a_second_start_is_done(first, start):
  workdir, _ = first
  results = json.loads((workdir / 'results.json').read_text())
  assert 'All 2 steps are done.' in start(workdir)
  assert json.loads((workdir / 'results.json').read_text())['adapted'] == results['adapted']


def test_full_fine_tuning_is_the_same_command(start, tmp_path):
  output = start(tmp_path / 'full', '--config.method=full')
  assert 'by full.' in output
  assert '--config.method=lora' in output.partition('Next:')[2]


def test_next_commands_repeat_the_flags_of_the_run():
  argv = ['--config=configs/quickstart.py', '--workdir', 'my runs/a', '--config.steps=9', '--config.method=lora']
  upscale, own, full = show.next_commands(argv, {'method': 'lora'}, Path('my runs/a')).splitlines()[2::2]
  kept = ['python', '-m', 'adaptsr_jax.main', '--config=configs/quickstart.py', '--config.steps=9']
  assert shlex.split(upscale)[3:] == ['--params=my runs/a/merged', 'IN', 'OUT']
  assert shlex.split(full) == [*kept, '--config.method=full', '--workdir=my runs/a_full']
  assert shlex.split(own)[:5] == kept
  assert '--config.data.valid.lr=LR_VALID' in own
  assert "'--workdir=my runs/a_own'" in own

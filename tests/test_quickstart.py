"""The first run, with its own config and command line, on a small random network."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from scipy import stats

from adaptsr_jax import config
from adaptsr_jax.adapt import show
from adaptsr_jax.evaluate import tables
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


def of_gains(*gains, level=0.0):
  """Returns what a run leaves whose pictures gained so much, the level of the last one having shifted."""
  images = [{f'p{i}': {'psnr_y': 30 + gain} for i, gain in enumerate(g)} for g in (gains, [0] * len(gains))]
  levels = [{name: level * (i == len(gains) - 1) for i, name in enumerate(images[0])}, dict.fromkeys(images[0], 0.5)]
  adapted, base = ({'images': i, 'levels': n, 'mean': {'psnr_y': 30}} for i, n in zip(images, levels, strict=True))
  adapted['difference'] = tables.differences(adapted, base)
  common = {
    'method': 'lora',
    'steps': 9,
    'seconds': 1,
    'strengths': {},
    'bicubic': base,
    'config': config.default().to_dict(),
  }
  return common | {'base': base, 'adapted': adapted}


def test_the_last_lines_tell_the_picture_that_decides(tmp_path):
  gains = [0.1, 0.14, 0.18, 0.12, 0.16, 0.14, 0.2, 0.09, 0.15, 0.13, 0.14, 0.17, 0.11, -2.6]
  said = show.summary(of_gains(*gains, level=9.8), tmp_path)
  assert 'no different beyond chance: -0.055 dB' in said
  p = stats.wilcoxon(gains).pvalue
  assert f'Better on 13 of 14 pictures (signed-rank p = {p:.2g}), median +0.14 dB.' in said
  decides = 'p13 decides the mean: -2.60 dB, its level shifted by +9.3 grey levels (+9.8 from HR)'
  assert f'{decides}; without it the mean is +0.14 dB.' in said
  for even in ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], [1, -1] * 4, [0.1, -2], [0.0] * 8):
    assert 'decides' not in show.summary(of_gains(*even), tmp_path)
  assert 'signed-rank' not in show.summary(of_gains(0.1, 0.2, 0.3), tmp_path)


@pytest.mark.parametrize(
  ('gains', 'first', 'second'),
  [
    ([0.1, 0.2, 0.3], 'upscale', '_own'),
    ([0.1] * 5 + [0.2, -3], 'report', 'upscale'),
    ([-0.1] * 8, 'report', 'config.optim.lr='),
    ([0.1, -0.1] * 4, 'report', 'config.steps=27'),
    ([-0.1, -0.2], 'report', 'config.optim.lr='),
  ],
)
def test_what_to_try_next_depends_on_what_came_out(gains, first, second):
  commands = show.next_commands(['--config=safmn', '--workdir=a'], of_gains(*gains), 'a').splitlines()[2::2]
  assert first in commands[0]
  assert second in commands[1]
  assert '--config.method=full' in commands[-1]


def test_next_commands_repeat_the_flags_of_the_run():
  argv = ['--config=configs/quickstart.py', '--workdir', 'my runs/a', '--config.steps=9', '--config.method=lora']
  upscale, own, full = show.next_commands(argv, {'method': 'lora'}, Path('my runs/a')).splitlines()[2::2]
  kept = ['python', '-m', 'adaptsr_jax.main', '--config=configs/quickstart.py', '--config.steps=9']
  assert shlex.split(upscale)[3:] == ['--params=my runs/a/merged', 'IN', 'OUT']
  assert shlex.split(full) == [*kept, '--config.method=full', '--workdir=my runs/a_full']
  assert shlex.split(own)[:5] == kept
  assert '--config.data.valid.lr=LR_VALID' in own
  assert "'--workdir=my runs/a_own'" in own

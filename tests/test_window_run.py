"""The real entry point on a small SwinIR: stopped by a termination signal and continued, it ends at the same bits."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from adaptsr_jax import adapt, base, config, convert, files, log
from adaptsr_jax.adapt import step, store
from adaptsr_jax.errors import UserError
from adaptsr_jax.evaluate import __main__ as evaluate
from configs import swinir
from tests.pictures import write_pairs

ROOT = Path(__file__).parents[1]
STEPS = 9


@pytest.fixture(scope='module')
def flags(tmp_path_factory):
  """Returns the fields of a run on SwinIR-S x4, cut down to two blocks of 12 channels."""
  folder = tmp_path_factory.mktemp('pictures')
  lr, hr = write_pairs(folder, 3, scale=4)
  # As a checkpoint, because fields of the command line hold no tuples such as depths.
  random = base.random('swinir_light_x4', 0, {'embed_dim': 12, 'depths': (2,), 'num_heads': (2,)})
  base.export(folder / 'swinir.pth', random, random.params)
  return {
    'base': str(folder / 'swinir.pth'),
    'steps': STEPS,
    'batch_size': 2,
    'patch': 32,
    'log_every': 1,
    'save_every': 4,
    'lora.budget': 0,
    'lora.rank': 2,
    'data.train.lr': str(lr),
    'data.train.hr': str(hr),
    'tensorboard': False,
  }


@pytest.fixture(scope='module')
def command(flags):
  """Returns (workdir) -> the command line of that run."""
  start = [sys.executable, '-m', 'adaptsr_jax.main', '--config=configs/swinir.py']
  return lambda workdir: [*start, f'--workdir={workdir}', *(f'--config.{key}={value}' for key, value in flags.items())]


def start(args):
  env = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONUNBUFFERED': '1'}
  return subprocess.Popen(args, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(args):
  process = start(args)
  output = process.communicate()[0]
  assert process.returncode == 0, output
  return output


def test_terminated_and_continued_equals_never_stopped(command, tmp_path):
  whole, stopped = tmp_path / 'whole', tmp_path / 'stopped'
  output = finish(command(whole))
  assert re.search(r'Base: swinir \(.*depths=\(2,\).*upsampler=pixelshuffledirect', output)

  process = start(command(stopped))
  for line in process.stdout:
    if line.startswith(f'step 3/{STEPS}'):
      process.send_signal(signal.SIGTERM)
      break
  output = process.communicate()[0]
  assert process.returncode == 130, output
  assert 'the same command continues' in output
  done = store.latest_step(stopped / 'checkpoints')
  assert 3 <= done < STEPS
  assert not (stopped / 'results.json').exists()
  assert f'Continuing from step {done}.' in finish(command(stopped))

  for name, read in (('merged.pth', convert.read), ('adapter.safetensors', load_file)):
    ours, theirs = (read(folder / name) for folder in (stopped, whole))
    assert ours.keys() == theirs.keys()
    for key in ours:
      np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)
  # Of the adapter: attention was adapted too, not only convolutions.
  assert np.abs(theirs['adapters/layers_0/blocks_1/attn/qkv/b']).max() > 0
  losses, expected = (
    [(row['step'], row['loss']) for row in log.read_metrics(folder) if 'loss' in row] for folder in (stopped, whole)
  )
  assert losses == expected
  assert [step for step, _ in losses] == list(range(1, STEPS + 1))


def settings(flags, **fields):
  c = swinir.get_config()
  c.update_from_flattened_dict({**flags, 'steps': 2, **fields})
  return c


def test_blocks_computed_again_train_the_same(flags, tmp_path):
  assert not config.default().remat
  kept, again = (adapt.run(settings(flags, remat=remat), tmp_path / str(remat)) for remat in (False, True))
  assert again['config']['remat']
  ours, theirs = (load_file(tmp_path / folder / 'adapter.safetensors') for folder in ('True', 'False'))
  for key in ours:
    np.testing.assert_allclose(ours[key], theirs[key], rtol=0, atol=1e-4, err_msg=key)
  assert again['model'] == kept['model']


def test_too_little_memory_is_told_and_the_folder_can_be_used_again(flags, tmp_path, monkeypatch):
  def make_step(*_):
    def step(*_):
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.')

    return step

  with monkeypatch.context() as patched:
    patched.setattr(step, 'make_step', make_step)
    with pytest.raises(UserError, match=r'not enough memory for 2 crops of 32 pixels: .*config\.remat.*bfloat16\.$'):
      adapt.run(settings(flags), tmp_path)
    with pytest.raises(UserError, match=r'batch_size .* smaller\.$'):
      adapt.run(settings(flags, remat=True, dtype='bfloat16'), tmp_path)
  assert adapt.run(settings(flags, batch_size=1), tmp_path)['config']['batch_size'] == 1
  with pytest.raises(UserError, match=r'config\.batch_size=1, not 2'):
    adapt.run(settings(flags), tmp_path)


def test_networks_without_remat_say_so(flags, tmp_path):
  with pytest.raises(UserError, match=r'config\.remat is set, but safmn '):
    adapt.run(settings(flags, base='random', model='safmn_x4', remat=True), tmp_path)


def test_one_run_at_a_time(flags, tmp_path):
  fcntl = pytest.importorskip('fcntl', reason='there are no such locks on this system')
  folder = os.open(tmp_path, os.O_RDONLY)
  fcntl.flock(folder, fcntl.LOCK_EX)
  with pytest.raises(UserError, match='A run is going on in'):
    adapt.run(settings(flags), tmp_path)
  os.close(folder)
  assert adapt.run(settings(flags), tmp_path)['steps'] == 2


def test_a_start_that_cannot_work_deletes_nothing(flags, tmp_path):
  foreign = tmp_path / 'foreign'
  foreign.mkdir()
  (foreign / 'config.json').write_text('{"architectures": ["other"]}')
  with pytest.raises(UserError, match='is not of a run of this program'):
    adapt.run(settings(flags), foreign)
  assert os.listdir(foreign) == ['config.json']

  left = tmp_path / 'left'
  left.mkdir()
  contents = {'config.json': {'seed': 5}, 'material.json': {'base': 'other'}, 'base.json': {}}
  contents['metrics.jsonl'] = {'step': 7}
  for name, content in contents.items():
    files.write_json(left / name, content)
  with pytest.raises(UserError, match='missing.pth'):
    adapt.run(settings(flags, base='missing.pth'), left)
  assert sorted(os.listdir(left)) == sorted(contents)
  adapt.run(settings(flags, method='full', steps=1), left)
  assert not (left / 'base.json').exists()
  assert [row['step'] for row in log.read_metrics(left)] == [1]


def test_a_gray_network_at_the_same_size(flags, tmp_path, capsys):
  fields = {'embed_dim': 12, 'depths': (2,), 'num_heads': (2,), 'rgb_mean': (0.0,), 'img_size': 16}
  random = base.random('swinir_denoise', 0, fields)
  base.export(tmp_path / 'gray.pth', random, random.params)
  lr, hr = write_pairs(tmp_path, 2, scale=1)
  chosen = {'base': str(tmp_path / 'gray.pth'), 'data.train.hr': str(hr), 'data.valid.hr': str(hr)}
  with pytest.raises(UserError, match=r'config\.data\.train: At x1 LR .* give lr'):
    adapt.run(settings(flags, **{**chosen, 'data.train.lr': ''}), tmp_path / 'run')
  chosen |= {f'data.{part}.lr': str(lr) for part in ('train', 'valid')}
  results = adapt.run(settings(flags, **chosen), tmp_path / 'run')
  assert results['model']['fields']['rgb_mean'] == (0.0,)
  assert convert.read(tmp_path / 'run' / 'merged.pth')['conv_first.weight'].shape == (12, 1, 3, 3)
  # Random weights: LR as it is comes nearer.
  assert 'below plain bicubic enlargement' in capsys.readouterr().out

  assert evaluate.main([f'--params={tmp_path / "gray.pth"}', f'--hr={hr}']) == 2
  assert 'At x1 LR' in capsys.readouterr().err
  assert evaluate.main([f'--params={tmp_path / "gray.pth"}', f'--hr={hr}', f'--lr={lr}']) == 0

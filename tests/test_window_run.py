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

from adaptsr_jax import adapt, base, checkpoint, config, convert, log, train
from adaptsr_jax.errors import UserError
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
  done = checkpoint.latest_step(stopped / 'checkpoints')
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
    patched.setattr(train, 'make_step', make_step)
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

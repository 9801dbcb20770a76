"""A run of every method: killed and continued to the same bits, exported, inspected, trained on, folded in, dialled."""

import os
import signal

import numpy as np
import pytest
from safetensors.numpy import load_file

from adaptsr_jax import adapt, base, log, methods, tree
from adaptsr_jax.adapters.__main__ import main
from adaptsr_jax.errors import UserError
from configs import tiny
from tests.pictures import write_pairs

STEPS = 4
NOT_DIALLED = ('dora',)


@pytest.fixture(scope='module')
def material(tmp_path_factory):
  """Returns (checkpoint of a small SAFMN, folders of pictures)."""
  folder = tmp_path_factory.mktemp('material')
  random = base.random('safmn_x2', 0, {'dim': 8, 'n_blocks': 1})
  base.export(folder / 'base.pth', random, random.params)
  return folder / 'base.pth', write_pairs(folder, 2)


def settings(material, method, **fields):
  c = tiny.get_config()
  c.method, c.base, c.model, c.fields, c.steps = method, str(material[0]), '', '', STEPS
  c.eval_every, c.log_every, c.score.batches, c.rasa.rank = STEPS, 1, 1, 2
  for part in (c.data.train, c.data.valid):
    part.lr, part.hr = map(str, material[1])
  c.update_from_flattened_dict(fields)
  return c


@pytest.mark.parametrize('method', methods.METHODS)
def test_killed_and_continued_it_ends_at_the_same_bits(method, material, tmp_path, monkeypatch, capsys):
  whole, stopped = tmp_path / 'whole', tmp_path / 'stopped'
  results = adapt.run(settings(material, method), whole)
  scalars = log.RunLog.scalars

  def killed_in_step_2(self, step, values):
    scalars(self, step, values)
    if step == 2 and 'loss' in values:  # a second signal would end the process
      os.kill(os.getpid(), signal.SIGTERM)

  with monkeypatch.context() as patch:
    patch.setattr(log.RunLog, 'scalars', killed_in_step_2)
    with pytest.raises(adapt.Interrupted, match='Stopped after step'):
      adapt.run(settings(material, method), stopped)
  again = adapt.run(settings(material, method), stopped)
  assert again['adapted'] == results['adapted']
  assert 0 < results['trainable_parameters'] <= results['total_parameters']
  ours, theirs = (base.load(folder / 'merged.pth').params for folder in (stopped, whole))
  for name, leaf in tree.flatten(theirs).items():
    np.testing.assert_array_equal(tree.flatten(ours)[name], leaf, err_msg=name)
  if method == 'full':
    assert not (whole / 'adapter.safetensors').exists()  # it would be a second checkpoint
    return
  ours, theirs = (load_file(folder / 'adapter.safetensors') for folder in (stopped, whole))
  assert ours.keys() == theirs.keys()
  for name, leaf in theirs.items():
    np.testing.assert_array_equal(ours[name], leaf, err_msg=name)

  capsys.readouterr()
  adapter = str(whole / 'adapter.safetensors')
  assert main(['inspect', adapter]) == 0
  assert f'{results["trainable_parameters"]:,} parameters by {method}' in capsys.readouterr().out
  # A rate of nearly nothing shows where training that goes on from the adapter starts.
  more = adapt.run(settings(material, method, init_from=adapter, steps=1, **{'optim.lr': 1e-6}), tmp_path / 'more')
  assert more['adapted']['mean']['psnr_y'] == pytest.approx(results['adapted']['mean']['psnr_y'], abs=1e-3)
  assert main(['merge', str(material[0]), adapter, str(tmp_path / 'merged.pth')]) == 0
  for name, leaf in tree.flatten(base.load(whole / 'merged.pth').params).items():
    folded = tree.flatten(base.load(tmp_path / 'merged.pth').params)[name]
    np.testing.assert_array_equal(folded, leaf, err_msg=name)
  half = main(['merge', str(material[0]), adapter, str(tmp_path / 'half.pth'), '--strength=0.5'])
  mixed = main(['mix', adapter, adapter, str(tmp_path / 'mixed.safetensors'), '--weights=0.5,0.5'])
  assert (half, mixed) == ((2, 2) if method in NOT_DIALLED else (0, 0))
  assert (tmp_path / 'half.pth').exists() == (tmp_path / 'mixed.safetensors').exists() == (half == 0)
  if half:
    assert 'exactly: ' in capsys.readouterr().err


@pytest.mark.parametrize('method', methods.METHODS)
def test_a_run_of_no_steps_tells_the_number_of_parameters(method, material, tmp_path, capsys):
  results = adapt.run(settings(material, method, steps=0), tmp_path)
  count = results['trainable_parameters']
  assert f'Would train {count:,} of {results["total_parameters"]:,} parameters' in capsys.readouterr().out
  assert count


def test_arc_of_form_swin_leaves_an_adapter_and_no_merged_network(tmp_path, capsys):
  random = base.random('swinir_light_x4', 0, {'embed_dim': 12, 'depths': (2,), 'num_heads': (2,)})
  base.export(tmp_path / 'swinir.pth', random, random.params)
  fields = {'arc.form': 'swin', 'arc.rank': 3, 'steps': 2, 'batch_size': 1}
  material = tmp_path / 'swinir.pth', write_pairs(tmp_path, 2, scale=4)
  results = adapt.run(settings(material, 'arc', **fields), tmp_path / 'run')
  assert results['adapted']['mean'] != results['base']['mean']
  output = capsys.readouterr().out
  assert "There is no merged network: ARC of form 'swin' cannot be merged: its MLP adapters act on" in output
  left = {path.name for path in (tmp_path / 'run').iterdir()}
  assert {'adapter.safetensors', 'compare.png', 'results.json'} <= left
  assert not {'merged', 'merged.pth'} & left
  adapter = str(tmp_path / 'run' / 'adapter.safetensors')
  assert main(['inspect', adapter]) == 0
  assert 'layers_0/blocks_*/mlp/fc1  12 x 3, 2 branches' in capsys.readouterr().out
  assert main(['merge', str(material[0]), adapter, str(tmp_path / 'merged.pth')]) == 2
  assert 'which no kernel holds' in capsys.readouterr().err
  assert not (tmp_path / 'merged.pth').exists()


def test_arc_of_form_swin_needs_blocks_of_attention(material, tmp_path):
  with pytest.raises(UserError, match="config.arc.form is 'swin', and there is no MLP in a block of attention here"):
    adapt.run(settings(material, 'arc', **{'arc.form': 'swin'}), tmp_path)
  assert not (tmp_path / 'config.json').exists()

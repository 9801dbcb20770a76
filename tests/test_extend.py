"""The examples of docs/extend.md, as they stand there, through the real entry points."""

import re
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from adaptsr_jax import adapt, base, convert, methods, metrics, models
from adaptsr_jax.adapters import file, operations
from adaptsr_jax.convert import architectures
from adaptsr_jax.evaluate import __main__ as evaluate
from adaptsr_jax.metrics import table
from tests import pictures
from tests.pictures import write_pairs

PAGE = (Path(__file__).parents[1] / 'docs' / 'extend.md').read_text()
BLOCKS = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  return write_pairs(tmp_path_factory.mktemp('pictures'), 2)


def module(begins: str) -> types.ModuleType:
  """Returns the example whose docstring begins with this, as a module."""
  (block,) = (block for block in BLOCKS if block.startswith(f'"""{begins}'))
  made = types.ModuleType('example')
  exec(compile(block, 'docs/extend.md', 'exec'), made.__dict__)
  return made


def settings(folders, **fields):
  return pictures.settings(folders, **{'steps': 4, **fields})


def test_examples_are_short():
  assert len(BLOCKS) == 4
  assert all(block.count('\n') <= 40 for block in BLOCKS)


def test_a_method(folders, tmp_path, monkeypatch):
  monkeypatch.setitem(methods.METHODS, 'gains', module('Gains'))
  results = adapt.run(settings(folders, method='gains', **{'gains.limit': 0.2}), tmp_path / 'run')
  assert results['adapted']['mean'] != results['base']['mean']
  start = base.random('safmn_x2', 0, {'dim': 8, 'n_blocks': 1}).params
  adapter = file.load(tmp_path / 'run' / 'adapter.safetensors')
  assert adapter.meta['limit'] == 0.2
  merged = operations.apply(adapter, start)
  jax.tree.map(np.testing.assert_array_equal, merged, base.load(tmp_path / 'run' / 'merged').params)
  c = settings(folders, method='gains', **{'gains.limit': -1.0})
  with pytest.raises(ValueError, match=r'config\.gains\.limit is -1\.0; it must be at least 0'):
    adapt.run(c, tmp_path / 'refused')


def test_a_backbone(folders, tmp_path, monkeypatch):
  (architecture,) = module('ESPCN.').ARCHITECTURES
  monkeypatch.setitem(models.MODELS, 'espcn', module('ESPCN (').ESPCN)
  monkeypatch.setitem(architectures.ARCHITECTURES, 'espcn', architecture)
  monkeypatch.setitem(models.PRESETS, 'espcn_x2', ('espcn', {'upscale': 2}))
  start = base.random('espcn_x2', 0, {'num_feat': 8})
  convert.write(tmp_path / 'espcn.pth', convert.to_torch('espcn', start.fields, start.params), {'format': 'pth'})
  fields = {'base': str(tmp_path / 'espcn.pth'), 'model': '', 'fields': ''}
  results = adapt.run(settings(folders, **fields), tmp_path / 'run')
  assert results['model']['name'] == 'espcn'
  assert results['model']['fields'].items() >= {'upscale': 2, 'num_feat': 8}.items()
  assert convert.read(tmp_path / 'run' / 'merged.pth')['conv1.weight'].shape == (8, 3, 5, 5)


def test_a_metric(folders, tmp_path, monkeypatch, capsys):
  for name, row in module('Mean absolute').METRICS.items():
    monkeypatch.setitem(metrics.METRICS, name, row)
    monkeypatch.setitem(table.VALUES, name, row)
  lr, hr = folders
  assert evaluate.main(['--params=bicubic', f'--lr={lr}', f'--hr={hr}', '--metrics=psnr,mae']) == 0
  said = capsys.readouterr().out
  assert re.search(r'mae +bicubic +\d+\.\d{3}\b', said)
  assert 'Lower is better: mae.' in said
  results = adapt.run(settings(folders, metrics=('mae',), best='mae', export='best'), tmp_path / 'run')
  assert results['best'].keys() == {'step', 'mae'}

"""Weight files as they are met in the wild: what other programs wrote around a network, and what is none.

Those in tests/cases were written by PyTorch, and have one small SAFMN in them. The others are written here.
"""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest

from adaptsr_jax import base, convert
from adaptsr_jax.convert import __main__ as convert_command
from adaptsr_jax.convert import torchfile
from adaptsr_jax.errors import UserError
from tests.test_torchfile import saved

CASES = Path(__file__).parent / 'cases'
ORACLE = np.load(CASES / 'oracle_safmn.npz')
TOLERANCE = 3e-5
# What each file is read as, and what is said of it.
READABLE = {
  'neosr_params-ema.pth': ('y_ema', 'Taken from params-ema; the file also has params'),
  'ema_state_dict.pt': ('y_ema', 'Taken from ema_state_dict; the file also has state_dict'),
  'g_ema.pth': ('y_ema', 'Taken from g_ema; the file also has g, d'),
  'nested.pth': ('y', ''),
  'averaged_model.pth': ('y', ''),
  'lightning_gan.ckpt': ('y', 'Left aside in lightning_gan.ckpt: net_d, perceptual (3 tensors)'),
  'lightning_metrics.ckpt': ('y', 'Left aside in lightning_metrics.ckpt: criterion, val_psnr (2 tensors)'),
  'prefix_sr_model-.pth': ('y', ''),
  'cfg_easydict.pth': ('y', ''),
}


def weights() -> dict[str, np.ndarray]:
  return convert.read(CASES / 'nested.pth')


def prefixed(prefix: str, state: dict) -> dict:
  return {prefix + key: value for key, value in state.items()}


def enlarged(spec, **options) -> np.ndarray:
  loaded = base.load(spec, **options)
  y = loaded.model().apply({'params': loaded.params}, ORACLE['x'].transpose(0, 2, 3, 1))
  return np.asarray(y).transpose(0, 3, 1, 2)


def run(*arguments):
  """Returns exit code, standard output and standard error of the convert command."""
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    code = convert_command.main(list(map(str, arguments)))
  return code, out.getvalue(), err.getvalue()


# What is in the file is found.


@pytest.mark.parametrize('file', READABLE)
def test_the_network_that_is_meant_is_found_and_told(file):
  wanted, told = READABLE[file]
  np.testing.assert_allclose(enlarged(CASES / file), ORACLE[wanted], atol=TOLERANCE)
  notes = base.load(CASES / file).notes
  assert any(told in note for note in notes) if told else not notes


@pytest.mark.parametrize('file', READABLE)
def test_exports_have_plain_keys_in_the_order_of_the_authors_class(tmp_path, file):
  assert run(CASES / file, tmp_path / 'out.pth')[0] == 0
  written = torchfile.load(tmp_path / 'out.pth')
  state = written if file in ('averaged_model.pth', 'prefix_sr_model-.pth') else written['params']
  block = [key.split('.')[2] for key in state if key.startswith('feats.0.')]
  assert list(dict.fromkeys(block)) == ['norm1', 'norm2', 'safm', 'ccm']
  assert len(state) == 22
  np.testing.assert_allclose(enlarged(tmp_path / 'out.pth'), ORACLE[READABLE[file][0]], atol=TOLERANCE)


@pytest.mark.parametrize('file', READABLE)
def test_like_source_keeps_wrapper_and_prefix(tmp_path, file):
  assert run(CASES / file, tmp_path / 'out.pth', '--like_source')[0] == 0
  first, second = (convert.read_source(path).layout for path in (CASES / file, tmp_path / 'out.pth'))
  assert second['key'] == first['key']
  assert second['places'] == first['places']


AVERAGES = [
  'params_ema',
  'params-ema',
  'paramsEMA',
  'ema_params',
  'ema',
  'model_ema',
  'state_dict_ema',
  'EMA',
  'netGema',
]


@pytest.mark.parametrize('name', AVERAGES)
@pytest.mark.parametrize('beside', ['params', 'model', 'state_dict', 'net_g', 'another'])
def test_an_average_is_taken_under_any_spelling(tmp_path, name, beside):
  plain, average = weights(), {key: 2 * value for key, value in weights().items()}
  for content in ({beside: plain, name: average}, {name: average, beside: plain}):
    source = convert.read_source(saved(tmp_path / 'x.pth', content))
    assert source.layout['key'] == name
    assert f'the file also has {beside}' in source.notes[0]
  one_dict = prefixed(f'{beside}.', plain) | prefixed(f'{name}.', average)
  assert convert.read_source(saved(tmp_path / 'x.pth', {'state_dict': one_dict})).layout['key'] == f'state_dict.{name}'


def test_a_word_that_only_contains_ema_is_no_average(tmp_path):
  path = saved(tmp_path / 'x.pth', {'params': weights(), 'semantic': weights()})
  assert convert.read_source(path).layout['key'] == 'params'


def test_two_averages_must_be_chosen_from(tmp_path):
  path = saved(tmp_path / 'x.pth', {'model': weights(), 'ema_0.999': weights(), 'ema_0.9999': weights()})
  with pytest.raises(UserError, match=r'several networks \(model, ema_0.999, ema_0.9999\): choose one as .*::ema_0'):
    convert.read(path)
  assert list(convert.read(path, 'ema_0.9999')) == list(weights())


PREFIXES = ['module.', '_orig_mod.', 'model.', 'net_g.', 'sr_model.', 'module._orig_mod.', 'a.b.c.d.', 'netG_', 'x/']


@pytest.mark.parametrize('prefix', PREFIXES)
def test_any_prefix_and_what_stands_beside_it(tmp_path, prefix):
  others = {
    'n_averaged': np.array(7),
    'netD.conv0.weight': np.ones((4, 3, 3, 3), np.float32),
    'netD.conv0.bias': np.ones(4, np.float32),
    'criterion.vgg.features.0.weight': np.ones((4, 3, 3, 3), np.float32),
    'metric.psnr.total': np.zeros(3, np.float32),
    'epoch': np.array(3),
  }
  state = others | prefixed(prefix, weights()) | {'ema_decay': np.array(0.999)}
  for content in (state, {'state_dict': state}, {'a': {'b': state}}):
    source = convert.read_source(saved(tmp_path / 'x.pth', content))
    assert source.weights.keys() == weights().keys()
    assert source.notes == ('Left aside in x.pth: netD, criterion, metric (4 tensors)',)


def test_what_stands_beside_bare_keys_is_left_aside_but_other_layers_are_not(tmp_path):
  counters = {'n_averaged': np.array(7), 'step': np.array([3])}
  other = {'netD.conv.weight': np.ones((4, 3, 3, 3), np.float32), 'loss.w': np.ones(3, np.float32)}
  source = convert.read_source(saved(tmp_path / 'x.pth', counters | weights() | other))
  assert source.weights.keys() == weights().keys()
  assert source.notes == ('Left aside in x.pth: loss, netD (2 tensors)',)
  for key in ('feats.0.extra.weight', 'skip.weight', 'alpha'):
    path = saved(tmp_path / 'x.pth', weights() | {key: np.ones((1, 1), np.float32)})
    with pytest.raises(UserError, match=f"'{key}' is unknown"):
      base.load(path)


def test_networks_in_lists_and_in_foreign_dicts_are_found(tmp_path):
  path = saved(tmp_path / 'x.pth', {'nets': {'0': weights()}})
  assert convert.read_source(path).layout['key'] == 'nets.0'
  content = torchfile._pickled({'state': weights()}, {})
  foreign = content.replace(b'}(', b'cattrdict\nAttrDict\n)\x81(', 1)
  assert foreign != content
  state = torchfile.load(_with_pickle(tmp_path / 'y.pth', path, b'\x80\x02' + foreign + b'.'))
  assert list(state.items['state']) == list(weights())
  assert convert.read_source(tmp_path / 'y.pth').layout['key'] == 'state'


def _with_pickle(path, source, content):
  """Writes the zip file `source` with another data.pkl."""
  import zipfile

  with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, 'w') as new:
    for name in old.namelist():
      new.writestr(name, content if name.endswith('data.pkl') else old.read(name))
  return path

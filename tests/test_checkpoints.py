"""Weight files as they are met in the wild: what other programs wrote around a network, and what is none.

Those in tests/cases were written by PyTorch, and have one small SAFMN in them. The others are written here.
"""

import argparse
import collections
import contextlib
import datetime
import decimal
import enum
import fractions
import io
import ipaddress
import itertools
import json
import pickle
import re
import shutil
import sys
import time
import types
import typing
import uuid
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pytest

from adaptsr_jax import base, config, convert, image, lam, params_folder, upscale
from adaptsr_jax.adapt import prepare
from adaptsr_jax.adapters import file as adapter_file
from adaptsr_jax.convert import __main__ as convert_command
from adaptsr_jax.convert import safefile, torchfile
from adaptsr_jax.doctor import __main__ as doctor
from adaptsr_jax.errors import UserError
from adaptsr_jax.evaluate import __main__ as evaluate
from tests.fuzz import weights as fuzz_weights
from tests.test_torchfile import as_file, saved

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


def test_an_average_whose_keys_lack_the_dots_is_taken(tmp_path):
  """As LitEma of latent diffusion writes it."""
  average = {'model_ema.' + key.replace('.', ''): 2 * value for key, value in weights().items()}
  state = (
    average | prefixed('model.', weights()) | {'model_ema.decay': np.array(0.999), 'model_ema.num_updates': np.array(5)}
  )
  source = convert.read_source(saved(tmp_path / 'x.ckpt', {'state_dict': state}))
  assert source.layout['networks'] == ['state_dict.model', 'state_dict.model_ema']
  assert all((source.weights[key] == 2 * value).all() for key, value in weights().items())


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


def test_counts_of_a_profiler_in_the_modules_of_a_network_are_left_aside(tmp_path):
  count = np.zeros(1)
  state = {**weights(), 'total_ops': count, 'to_feat.total_ops': count, 'to_feat.total_params': count}
  assert convert.read(saved(tmp_path / 'x.pth', state)).keys() == weights().keys()


def test_a_network_under_two_names_need_not_be_chosen(tmp_path):
  state = weights()
  path = saved(tmp_path / 'x.pth', {'best': state, 'last': state})
  assert convert.read(path).keys() == state.keys()
  saved(path, {'best': state, 'last': {key: 2 * array for key, array in state.items()}})
  with pytest.raises(UserError, match=r'several networks \(best, last\)'):
    convert.read(path)


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


# What else a file may hold.


class Colour(enum.Enum):
  RED = 1


Point = collections.namedtuple('Point', 'x y')

HARMLESS = {
  'timedelta': datetime.timedelta(days=3, seconds=1),
  'datetime': datetime.datetime(2026, 1, 2, 3, tzinfo=datetime.timezone(datetime.timedelta(hours=1))),
  'complex': 1 + 2j,
  'numpy scalars': [np.float64(0.5), np.int32(3), np.bool_(True), np.complex64(1j)],
  'numpy array': np.arange(6.0).reshape(2, 3),
  'numpy random state': np.random.default_rng(0).bit_generator.state,
  'random generator': np.random.default_rng(0),
  'namespace': argparse.Namespace(scale=2, path=Path('runs')),
  'simple namespace': types.SimpleNamespace(lr=1e-3),
  'enum': Colour.RED,
  'namedtuple': Point(1, 2),
  'containers': [
    collections.deque([1, 2], 5),
    collections.Counter('aab'),
    {1, 2},
    frozenset({3}),
    range(3),
    slice(1, 2),
  ],
  'decimal': [decimal.Decimal('1.5'), fractions.Fraction(1, 3), uuid.UUID(int=5)],
  'path': [PurePosixPath('a'), PureWindowsPath('b')],
  'bytes': [b'x', bytearray(b'y')],
  'other of Python': [..., NotImplemented, time.gmtime(0), collections.ChainMap({}), ipaddress.ip_address('::1')],
  'keys': {(1, 'a'): 2, 1.5: 3, None: 4, Colour.RED: 5},
  'class': collections.OrderedDict,
  'typing': typing.Any,
}


def beside(path, value: bytes, state=None):
  """Writes {'params': network, 'x': value}, the value as opcodes."""
  state = weights() if state is None else state
  head = b'\x80\x02}(' + torchfile._text('params') + torchfile._pickled(state, {}) + torchfile._text('x')
  return fuzz_weights.write_zip(path, head + value + b'u.', state)


def opcodes(value, protocol: int) -> bytes:
  return pickle.dumps(value, protocol)[2 if protocol > 1 else 0 : -1]


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
@pytest.mark.parametrize('kind', HARMLESS)
def test_harmless_objects_beside_the_weights_are_left_alone(tmp_path, kind, protocol):
  path = beside(tmp_path / 'x.pth', opcodes(HARMLESS[kind], protocol))
  assert convert.read(path).keys() == weights().keys()


FOREIGN = {
  'config class': b'cyacs.config\nCfgNode\n)\x81(X\x01\x00\x00\x00aK\x01u}X\x01\x00\x00\x00bK\x02sb',
  'dict subclass': b'ceasydict\nEasyDict\n)R(X\x01\x00\x00\x00aK\x01u',
  'class in small letters': b'cutils.options\ndotdict\n)\x81}b',
  'class of the program': b'c__main__\nConfig\n)\x81}X\x01\x00\x00\x00aK\x01sb',
  'method of a history buffer': b'c__builtin__\ngetattr\n(cmmengine.logging.history_buffer\nHistoryBuffer\n'
  b'X\x04\x00\x00\x00meantR',
  'reconstructed': b'ccopy_reg\n_reconstructor\n(caddict\nDict\nc__builtin__\ndict\n}tR}b',
  'sparse tensor': b'ctorch._utils\n_rebuild_sparse_tensor\n(ctorch.serialization\n_get_layout\n'
  b'(X\x10\x00\x00\x00torch.sparse_cootRK\x01tR',
  'function that is only named': b'ctorch.nn.functional\nrelu\n',
  'module object': b'ctorch.nn.modules.activation\nGELU\n)\x81}b',
}


@pytest.mark.parametrize('kind', FOREIGN)
def test_foreign_objects_stay_opaque(tmp_path, kind):
  path = beside(tmp_path / 'x.pth', FOREIGN[kind])
  assert convert.read(path).keys() == weights().keys()
  assert not {'yacs', 'easydict', 'mmengine', 'addict', 'torch.nn'} & set(sys.modules)


@pytest.mark.parametrize(
  ('opcodes', 'name'),
  [
    (b'cutils\nrun\n(X\x01\x00\x00\x00atR', 'utils.run'),
    (b'ctorch.hub\nload\n)R', 'torch.hub.load'),
    (b'cnumpy.testing._private.utils\nrunstring\n)R', 'runstring'),
    (b'csubprocess\nPopen\n)\x81', 'subprocess.Popen'),
    (b'cwebbrowser\nopen\n', 'webbrowser.open'),
    (b'c__builtin__\ngetattr\n(c__builtin__\neval\nX\x01\x00\x00\x00atR', 'eval'),
    (b'cfunctools\nreduce\n', 'functools.reduce'),
    (b'c__builtin__\ngetattr\n(X\x01\x00\x00\x00aX\x04\x00\x00\x00jointR', 'getattr'),
    (b'c__builtin__\ngetattr\n(cpkg\nTool\nX\x03\x00\x00\x00runtR)R', 'pkg.Tool.run'),
  ],
)
def test_what_would_be_called_is_refused_by_name(tmp_path, opcodes, name):
  with pytest.raises(UserError, match=re.escape(name)):
    convert.read(beside(tmp_path / 'x.pth', opcodes))


@pytest.mark.parametrize('as_zip', [True, False])
def test_arrays_of_numpy_are_no_tensors(tmp_path, as_zip):
  weights = {'params': {'conv.weight': np.ones((3, 3, 3, 3), np.float32), 'conv.bias': np.ones(3, np.float32)}}
  path = as_file(tmp_path / 'net.pth', pickle.dumps(weights, 2), as_zip)
  with pytest.raises(UserError, match=r"NumPy arrays and no tensors; .*\['params'\]\.items\(\)}, 'net_tensors\.pth'"):
    convert.read(path)


def whole_model(kind: bytes = b'mypkg.archs\nSAFMN') -> bytes:
  state = b'}(X\x0b\x00\x00\x00_parameters}X\x08\x00\x00\x00_modules}X\x08\x00\x00\x00trainingI01\nu'
  return b'c' + kind + b'\n)\x81' + state + b'b'


@pytest.mark.parametrize('as_zip', [True, False])
def test_a_pickled_model_is_refused_with_the_line_that_saves_its_weights(tmp_path, as_zip):
  path = as_file(tmp_path / 'net.pth', b'\x80\x02' + whole_model() + b'.', as_zip)
  line = r"torch\.save\(torch\.load\('net\.pth', weights_only=False\)\.state_dict\(\), 'net_weights\.pth'\)"
  with pytest.raises(UserError, match=rf'whole pickled model \(class mypkg\.archs\.SAFMN\).*{line}'):
    convert.read(path)
  inside = as_file(tmp_path / 'net.pth', b'\x80\x02}X\x03\x00\x00\x00ema' + whole_model() + b's.', as_zip)
  with pytest.raises(UserError, match=r"weights_only=False\)\['ema'\]\.state_dict\(\)"):
    convert.read(inside)


# What is no network, or none that can be used.


def test_an_optimiser_is_called_one(tmp_path):
  for path in (CASES / 'kair_optimizerG.pth', tmp_path / 'x.state'):
    if path.parent == tmp_path:
      state = {
        'optimizers': {'0': {'state': {'w': weights()['to_feat.weight']}, 'param_groups': {}}},
        'iter': np.array(5),
      }
      saved(path, state)
    with pytest.raises(UserError, match='holds the state of an optimiser, no weights of a network'):
      base.load(path)


def test_values_that_are_not_finite_are_refused_with_file_tensor_and_count(tmp_path):
  with pytest.raises(UserError, match=r"nan\.pth cannot be used: 'to_feat\.weight' has .*\(1 of 216\)\.$"):
    base.load(CASES / 'nan.pth')
  bad = weights() | {'to_feat.bias': np.full(8, np.inf, np.float32)}
  bad['to_img.0.bias'] = np.where(np.arange(12) < 3, np.nan, 1).astype(np.float32)
  for name in ('x.pth', 'x.safetensors'):
    convert.write(tmp_path / name, bad)
    with pytest.raises(UserError, match=r"'to_feat\.bias' has .*\(8 of 8\), and 1 other tensors have 3 more"):
      base.load(tmp_path / name)
    assert run(tmp_path / name, tmp_path / 'out.pth')[0] == 2
    assert not (tmp_path / 'out.pth').exists()
  loaded = base.load(CASES / 'nested.pth')
  loaded.params['to_feat']['bias'][2] = np.nan
  params_folder.save_params(tmp_path / 'folder', loaded.params, loaded.info())
  with pytest.raises(UserError, match=r"folder cannot be used: 'to_feat/bias' has .*\(1 of 8\)"):
    base.load(tmp_path / 'folder')


@pytest.mark.parametrize('dtype', ['complex64', 'int64', 'bool'])
def test_weights_that_are_no_real_numbers_are_refused(tmp_path, dtype):
  state = weights() | {'feats.0.norm1.weight': np.ones(8, dtype)}
  with pytest.raises(UserError, match=f'{dtype}'):
    base.load(saved(tmp_path / 'x.pth', state))


def test_quantised_weights_are_refused_with_their_number(tmp_path):
  whole = {key: (value * 9).astype(np.int8) if key.endswith('weight') else value for key, value in weights().items()}
  saved(tmp_path / 'x.pth', whole)
  with pytest.raises(
    UserError, match=r"holds quantised weights \(11 tensors, the first is 'to_feat\.weight' in int8\)"
  ):
    base.load(tmp_path / 'x.pth')
  saved(tmp_path / 'x.pth', weights() | {'to_feat.scale': np.ones(1, np.float32), 'to_feat.zero_point': np.array([3])})
  with pytest.raises(UserError, match='holds quantised weights'):
    base.load(tmp_path / 'x.pth')


@pytest.mark.parametrize(
  'names',
  [
    ('weight_g', 'weight_v'),
    ('weight_orig', 'weight_u', 'weight_v'),
    ('parametrizations.weight.original0', 'parametrizations.weight.original1'),
  ],
)
@pytest.mark.parametrize('which', ['to_feat', 'feats.0.safm.aggr'])
def test_kernels_in_parts_are_named_for_what_they_are(tmp_path, names, which):
  state = {key: value for key, value in weights().items() if key != f'{which}.weight'}
  state |= {f'{which}.{name}': np.ones((8, 3, 3, 3), np.float32) for name in names}
  with pytest.raises(UserError, match=rf"x\.pth: .*kernels in parts .*'{which}\.{names[0]}'.*remove_parametrizations"):
    base.load(saved(tmp_path / 'x.pth', {'params': state}))


def test_run_folders_and_adapters_as_params_are_called_what_they_are(tmp_path):
  loaded = base.load(CASES / 'nested.pth')
  params_folder.save_params(tmp_path / 'run/merged', loaded.params, loaded.info())
  with pytest.raises(UserError, match=r'run is not a params folder but that of a run; its network is .*run/merged'):
    base.load(tmp_path / 'run')
  with pytest.raises(UserError, match=r'a part of one: give .*run/merged'):
    base.load(tmp_path / 'run/merged/params')
  convert.write(tmp_path / 'a.pth', weights())
  with pytest.raises(UserError, match=r'give one of its files \(a\.pth\)'):
    base.load(tmp_path)
  with pytest.raises(UserError, match='has one network'):
    base.load(tmp_path / 'run/merged', key='params')
  header = {'adaptsr_jax': json.dumps({'format': adapter_file.FORMAT, 'version': 1})}
  with open(tmp_path / 'adapter.safetensors', 'wb') as file:
    safefile.save(file, {'adapters/x/a': np.ones((2, 2), np.float32)}, header)
  with pytest.raises(UserError, match=r'is an adapter.*adaptsr_jax\.adapters merge BASE .*adapter\.safetensors OUT'):
    base.load(tmp_path / 'adapter.safetensors')


# Types.


def test_float64_comes_back_with_the_same_bits_or_is_refused(tmp_path):
  assert run(CASES / 'f64.pth', tmp_path / 'out.pth')[0] == 0
  assert run(CASES / 'f64.pth', tmp_path / 'folder')[0] == 0
  assert run(tmp_path / 'folder', tmp_path / 'again.safetensors')[0] == 0
  before = convert.read(CASES / 'f64.pth')
  for name in ('out.pth', 'again.safetensors'):
    after = convert.read(tmp_path / name)
    assert after.keys() == before.keys()
    assert all(after[key].dtype == np.float64 and after[key].tobytes() == before[key].tobytes() for key in before)
  for path in (CASES / 'f64.pth', tmp_path / 'folder'):
    with pytest.raises(UserError, match=r'float64 digits that float32 cannot hold .*--dtype float32'):
      base.load(path)
  assert run(CASES / 'f64.pth', tmp_path / 'rounded.pth', '--dtype', 'float32')[0] == 0
  assert base.load(tmp_path / 'rounded.pth').source['dtype'] == 'float32'


def test_rounding_tells_the_largest_change(tmp_path):
  code, out, _ = run(CASES / 'nested.pth', tmp_path / 'out.pth', '--dtype', 'float16')
  before, after = weights(), convert.read(tmp_path / 'out.pth')
  change = max(np.abs(before[key] - np.float64(after[key])).max() for key in before)
  assert code == 0
  assert f'Rounded to float16: largest change {change:.2g}, in ' in out


@pytest.mark.parametrize('through', ['', 'folder', 'loaded'])
def test_every_tensor_keeps_its_own_type(tmp_path, through):
  types_of = dict(zip(weights(), itertools.cycle(['float16', 'float32', 'bfloat16']), strict=False))
  state = {key: value.astype(types_of[key]) for key, value in weights().items()}
  convert.write(tmp_path / 'in.pth', state)
  source = tmp_path / 'in.pth'
  if through == 'folder':
    assert run(source, tmp_path / 'folder')[0] == 0
    source = tmp_path / 'folder'
  if through == 'loaded':
    loaded = base.load(source)
    base.export(tmp_path / 'out.pth', loaded, loaded.params)
  else:
    assert run(source, tmp_path / 'out.pth')[0] == 0
  after = convert.read(tmp_path / 'out.pth')
  assert {key: value.dtype.name for key, value in after.items()} == types_of
  assert all(after[key].tobytes() == state[key].tobytes() for key in state)


# Choosing, in every command.


def test_a_name_behind_the_file_chooses(tmp_path):
  np.testing.assert_allclose(enlarged(f'{CASES}/g_ema.pth::g'), ORACLE['y'], atol=TOLERANCE)
  np.testing.assert_allclose(enlarged(CASES / 'g_ema.pth', key='g'), ORACLE['y'], atol=TOLERANCE)
  np.testing.assert_allclose(enlarged(f'{CASES}/ema_state_dict.pt::state_dict'), ORACLE['y'], atol=TOLERANCE)
  with pytest.raises(UserError, match=r'no network nothing; what it has: g, g_ema, d\.'):
    base.load(f'{CASES}/g_ema.pth::nothing')
  with pytest.raises(UserError, match='no known architecture'):
    base.load(f'{CASES}/g_ema.pth::d')
  odd = tmp_path / 'a::b.pth'
  shutil.copy(CASES / 'nested.pth', odd)
  assert base.load(odd).name == 'safmn'
  assert base.load(f'{odd}::params').name == 'safmn'


def picture(path, array):
  image.write(path, array.transpose(1, 2, 0))
  return path


@pytest.fixture
def photos(tmp_path):
  """LR and HR pictures of 16 and 32 pixels, in folders."""
  for folder, y in (('LR', ORACLE['x'][0]), ('HR', np.repeat(np.repeat(ORACLE['x'][0], 2, 1), 2, 2))):
    (tmp_path / folder).mkdir()
    picture(tmp_path / folder / 'a.png', np.clip(y, 0, 1))
  return tmp_path


@pytest.mark.parametrize('way', ['flag', 'name'])
def test_upscale_evaluate_and_lam_choose(photos, capsys, way):
  spec, flag = (f'{CASES}/g_ema.pth::g', []) if way == 'name' else (f'{CASES}/g_ema.pth', ['--key=g'])
  told = f'Taken from g; the file also has g_ema, d: choose with {CASES}/g_ema.pth::g_ema'
  assert upscale.main([f'--params={spec}', *flag, str(photos / 'LR/a.png'), str(photos / 'out.png')]) == 0
  assert told in capsys.readouterr().out
  assert upscale.main([f'--params={CASES}/g_ema.pth', str(photos / 'LR/a.png'), str(photos / 'ema.png')]) == 0
  assert 'Taken from g_ema; the file also has g, d' in capsys.readouterr().out
  assert (photos / 'out.png').read_bytes() != (photos / 'ema.png').read_bytes()
  folders = [f'--lr={photos}/LR', f'--hr={photos}/HR']
  assert evaluate.main([f'--params=net={spec}', *flag, *folders]) == 0
  assert f'net: {told}' in capsys.readouterr().out
  lam_of = ['--box=4,4,4', '--context=12', f'--picture={photos}/LR/a.png', f'--out={photos}/lam.png']
  assert lam.main([f'--params={spec}', *flag, *lam_of]) == 0
  assert told in capsys.readouterr().out


@pytest.mark.parametrize('fields', [{'base': '{}::g'}, {'base': '{}', 'key': 'g'}], ids=str)
def test_runs_choose(fields):
  settings = config.default()
  settings.update({name: value.format(CASES / 'g_ema.pth') for name, value in fields.items()})
  chosen = prepare.choose_base(settings)
  np.testing.assert_array_equal(
    chosen.params['to_feat']['bias'], convert.read(CASES / 'g_ema.pth', 'g')['to_feat.bias']
  )


def test_the_input_is_not_overwritten_under_another_name(tmp_path):
  shutil.copy(CASES / 'g_ema.pth', tmp_path / 'in.pth')
  before = (tmp_path / 'in.pth').read_bytes()
  code, _, err = run(f'{tmp_path}/in.pth::g', tmp_path / 'in.pth')
  assert (code, err) == (2, f'Error: {tmp_path}/in.pth is the input; choose another OUT.\n')
  assert (tmp_path / 'in.pth').read_bytes() == before


def test_assumptions_are_told_while_enlarging(photos, capsys):
  loaded = base.random('edsr_baseline_x2', 0, {'num_feat': 8, 'num_block': 1})
  base.export(photos / 'edsr.pth', loaded, loaded.params)
  assert upscale.main([f'--params={photos}/edsr.pth', str(photos / 'LR/a.png'), str(photos / 'out.png')]) == 0
  assert 'Assumed: res_scale = 1.0 (' in (said := capsys.readouterr().out)
  assert 'change it with --fields=res_scale=1.0' in said


# Sentences.


@pytest.mark.parametrize('name', ['out.gif', 'out.xyz', 'out.heic'])
def test_names_with_an_unknown_ending_become_no_folders(photos, capsys, name):
  arguments = [f'--params={CASES}/nested.pth', str(photos / 'LR/a.png'), str(photos / name)]
  assert upscale.main(arguments) == 2
  assert f'{name} would become a folder, although it ends in {Path(name).suffix}' in capsys.readouterr().err
  assert not (photos / name).exists()
  (photos / name).mkdir()
  assert upscale.main(arguments) == 0


@pytest.mark.parametrize('name', ['out.ckpt', 'out.json', 'out.png'])
def test_weights_under_an_unknown_ending_become_no_folders(tmp_path, name):
  code, _, err = run(CASES / 'nested.pth', tmp_path / name)
  assert code == 2
  assert f'{name} would become a folder' in err
  assert not list(tmp_path.iterdir())
  assert run(CASES / 'nested.pth', tmp_path / 'net.v2')[0] == 0


def test_crops_that_are_too_small_are_told_as_such(photos):
  settings = config.default()
  settings.base, settings.patch, settings.data.train.hr = str(CASES / 'nested.pth'), 8, str(photos / 'HR')
  with pytest.raises(UserError, match=r'config\.patch is 8 HR pixels, crops of 4 LR .*give config\.patch=16 or more'):
    prepare.prepare(settings)


def test_lr_pictures_of_two_scales_are_told_as_such(photos, capsys):
  (photos / 'LR/a.png').unlink()
  for scale in (2, 4):
    picture(photos / f'LR/ax{scale}.png', ORACLE['x'][0][:, :: scale // 2, :: scale // 2])
  folders = [f'--lr={photos}/LR', f'--hr={photos}/HR']
  for main, arguments in ((evaluate.main, ['--params=bicubic']), (doctor.main, [f'--out={photos}/doctor'])):
    assert main([*arguments, *folders]) == 2
    assert 'holds more than one LR picture for each of' in (said := capsys.readouterr().err)
    assert 'ax2.png, ax4.png' in said
    assert main([*arguments, *folders, '--scale=2']) in (0, 1)
    capsys.readouterr()


@pytest.mark.parametrize(
  ('content', 'said'),
  [
    ('{"steps": 3}', 'is JSON, as a run writes for itself'),
    ('a: [', 'is no Python'),
    ('steps: 3', 'has no get_config()'),
    ('\x00', 'is no Python'),
  ],
)
def test_what_is_no_config_is_called_so(tmp_path, content, said):
  (tmp_path / 'c.py').write_text(content)
  with pytest.raises(UserError, match=re.escape(said)):
    config.find(f'{tmp_path}/c.py')


# Names and sizes that are out to harm.


@pytest.mark.parametrize('name', ['x' * 60_000, 'a\nError: forged', '\x1b[31m', '\x00', '\u202e'])
def test_names_in_files_are_shown_short_and_escaped(tmp_path, name):
  state = weights()
  files = {
    'key': {**state, f'feats.{name}': np.ones((2, 2), np.float32)},
    'prefix': {name + key: value for key, value in state.items()} | {'other.to_feat.weight': np.ones(2, np.float32)},
    'wrapper': {name: state, name + '2': state},
    'unknown': {f'{name}.weight': np.ones((2, 2), np.float32)},
    'beside': state | {f'loss.{name}': np.ones(3, np.float32), f'{name}loss.a': np.ones(3, np.float32)},
    'nan': {name + '.' + key: value * np.nan for key, value in state.items()},
  }
  for content in files.values():
    saved(tmp_path / 'x.pth', content)
    code, out, err = run(tmp_path / 'x.pth', tmp_path / 'out.pth')
    lines = (out + err).splitlines()
    assert all(line.isprintable() for line in lines)
    assert len(out + err) < 3000
    assert code == 0 or (len(lines) == 1 and err.startswith('Error: '))
  made = f'c{name}\nx\n)R'.encode() if name.isprintable() else b'X\x01\x00\x00\x00a'
  for value in (made, f'cos\n{name}\n'.encode(), b'c__main__\n' + name.encode() + b'\n)R'):
    code, out, err = run(beside(tmp_path / 'x.pth', value), tmp_path / 'out.pth')
    assert (out + err)[:-1].replace('\n', '').isprintable()
    assert len(out + err) < 3000


def test_sizes_beyond_all_bounds_end_at_once(tmp_path):
  nines = '9' * 4000
  for shape in (nines, ','.join([nines] * 2000), '9' * 3_000_000, '9,' * 1_000_000 + '9'):
    header = f'{{"w":{{"dtype":"F32","shape":[{shape}],"data_offsets":[0,16]}}}}'.encode()
    path = tmp_path / 'x.safetensors'
    path.write_bytes(len(header).to_bytes(8, 'little') + header + bytes(16))
    with pytest.raises(UserError, match=r'x\.safetensors has a damaged safetensors header') as error:
      convert.read(path)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize('name', ['x' * 60_000, 'a\nError: forged', '\x1b[31m'])
def test_names_in_adapter_files_are_shown_short_and_escaped(tmp_path, name):
  meta = {'format': 'adaptsr_jax adapter', 'version': 1, 'model': name, 'fields': {name: 1}, 'sites': name}
  for header in (meta, meta | {'version': name}, {name: name}, name):
    with open(tmp_path / 'a.safetensors', 'wb') as file:
      safefile.save(file, {f'adapters/{name}/a': np.ones((2, 2), np.float32)}, {'adaptsr_jax': json.dumps(header)})
    with pytest.raises(UserError, match=r'a\.safetensors') as error:
      adapter_file.load(tmp_path / 'a.safetensors')
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1000

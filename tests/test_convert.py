"""Weights in and out: detection, exactness there and back, wrappers, and the command."""

import contextlib
import functools
import io
import json
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from adaptsr_jax import convert, models, params_folder, tree
from adaptsr_jax.convert import __main__ as command
from adaptsr_jax.convert import architectures, names, safefile, shapes, torchfile
from adaptsr_jax.errors import UserError
from tests.shared import GOLDEN, shared

FIXTURES = sorted(
  path.name for path in GOLDEN.glob('*/') if path.name.startswith(('safmn', 'edsr')) and 'real' not in path.name
)
FILES = sorted(str(path.relative_to(GOLDEN)) for name in FIXTURES for path in (GOLDEN / name).glob('w*.*'))
PRESETS = [name for name in models.PRESETS if name.startswith(('safmn', 'edsr'))]  # the others: test_convert_window.py
DTYPES = ('float32', 'float16', 'bfloat16')


def zeros(name: str, fields: dict) -> dict[str, np.ndarray]:
  """Weights by PyTorch key that take no memory, whatever the size of the network."""
  return {
    e.key: e.value() if e.value else np.broadcast_to(np.float32(0), e.shape)
    for e in architectures.entries(name, fields)
  }


def random_weights(name: str, fields: dict, dtype: str = 'float32') -> dict[str, np.ndarray]:
  random = np.random.default_rng(0)
  return {
    entry.key: (entry.value() if entry.value else random.standard_normal(entry.shape)).astype(dtype)
    for entry in architectures.entries(name, fields)
  }


SMALL = {
  'safmn': {'upscale': 2, 'dim': 8, 'n_blocks': 2},
  'safmn_ntire2023': {'upscale': 4, 'dim': 8, 'n_blocks': 1},
  'edsr': {'upscale': 4, 'num_feat': 4, 'num_block': 2},
  'edsr_official': {'upscale': 3, 'num_feat': 4, 'num_block': 2},
}


def assert_same(found, expected, order: bool = True):
  assert list(found) == list(expected) if order else set(found) == set(expected)
  for key, array in expected.items():
    assert found[key].dtype == array.dtype, key
    assert found[key].shape == array.shape, key
    assert found[key].tobytes() == array.tobytes(), key


def there_and_back(weights):
  name, fields, _ = convert.detect(weights)
  return convert.to_torch(name, fields, convert.to_flax(name, weights))


# Detection.


@pytest.mark.parametrize('name', ['edsr', 'edsr_official'])
@pytest.mark.parametrize('upscale', [1, 2, 3, 4, 8, 16])
def test_edsr_enlarges_by_what_the_classes_of_the_authors_take(name, upscale):
  weights = random_weights(name, {**SMALL[name], 'upscale': upscale})
  assert convert.detect(weights)[1]['upscale'] == upscale
  assert_same(there_and_back(weights), weights)


@pytest.mark.parametrize('name', ['safmn', 'safmn_ntire2023'])
@pytest.mark.parametrize('upscale', [1, 2, 3, 5, 8])
def test_safmn_enlarges_by_any_factor(name, upscale):
  weights = random_weights(name, {**SMALL[name], 'upscale': upscale})
  assert convert.detect(weights)[1]['upscale'] == upscale
  assert_same(there_and_back(weights), weights)


@pytest.mark.parametrize('fixture', FIXTURES)
def test_detects_the_fixtures(fixture):
  made = json.loads((GOLDEN / fixture / 'meta.json').read_text())['constructor']
  name, fields, assumed = convert.detect(convert.read(GOLDEN / fixture / 'weights.safetensors'))
  if name.startswith('safmn'):
    expected = {
      'upscale': made['upscaling_factor'],
      **{field: made[field] for field in ('dim', 'n_blocks', 'ffn_scale')},
    }
    assert fields == expected
    assert not assumed
  else:
    official = name == 'edsr_official'
    assert fields['upscale'] == (made['scale'][0] if official else made['upscale'])
    assert fields['num_feat'] == made['n_feats' if official else 'num_feat']
    assert fields['num_block'] == made['n_resblocks' if official else 'num_block']
    assert fields['img_range'] == 255.0
    assert fields['rgb_mean'] == (0.4488, 0.4371, 0.4040)
    assert all(type(value) is float for value in fields['rgb_mean'])
    assert set(assumed) == {'res_scale'} if official else {'res_scale', 'img_range', 'rgb_mean'}
  assert fixture.startswith({'edsr': 'edsr_basicsr'}.get(name, name))
  assert set(assumed) <= set(fields)
  json.dumps([fields, assumed])


@pytest.mark.parametrize('preset', PRESETS)
def test_detects_every_preset(preset):
  name, fields = models.PRESETS[preset]
  found, detected, _ = convert.detect(zeros(name, fields))
  assert found == name
  assert models.build(name, **detected) == models.build(name, **fields)


@pytest.mark.parametrize('preset', PRESETS)
def test_table_has_the_parameters_of_the_model(preset):
  name, fields = models.PRESETS[preset]
  model = models.build(name, **fields)
  params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, model.minimum, model.minimum, 3)))['params']
  table = architectures.entries(name, fields)
  paths = {e.path: np.broadcast_to(0, names.flax_shape(e)) for e in table if e.path}
  assert tree.compare(params, tree.unflatten(paths)) == []


def test_table_has_the_published_numbers_of_tensors_and_values():
  facts = json.loads((GOLDEN / 'backbone_facts.json').read_text())['models']
  checked = 0
  for preset, (name, fields) in ((preset, models.PRESETS[preset]) for preset in PRESETS):
    width = {'edsr': 'full', 'edsr_official': 'full'}.get(name)
    scale = fields['upscale']
    style = 'official' if name == 'edsr_official' else 'basicsr'
    fact = {
      'edsr': f'edsr_{style}_{"baseline" if "baseline" in preset else width}_x{scale}',
      'safm': f'{name}_{fields.get("dim")}x{fields.get("n_blocks")}_x{scale}',
    }[name[:4]]
    table = architectures.entries(name, fields)
    assert len(table) == facts[fact]['state_dict_tensors']
    assert sum(np.prod(entry.shape, dtype=int) for entry in table) == facts[fact]['total']
    checked += 1
  assert checked >= 14


@pytest.mark.parametrize(('width', 'expected'), [(256, 0.1), (64, 1.0), (32, 1.0)])
def test_res_scale_is_that_of_the_published_networks(width, expected):
  _, fields, assumed = convert.detect(zeros('edsr', {'num_feat': width, 'num_block': 1}))
  assert fields['res_scale'] == expected
  assert 'res_scale' in assumed


@pytest.mark.parametrize('dim', [4, 12, 36, 60, 100, 128])
def test_ffn_scale_gives_the_stored_width_exactly(dim):
  for hidden in range(1, 4 * dim, 3):
    scale = shapes.factor((dim, hidden))
    assert int(dim * scale) == hidden
    entries = architectures.entries('safmn', {'dim': dim, 'ffn_scale': scale, 'n_blocks': 1})
    assert {entry.key: entry.shape[0] for entry in entries}['feats.0.ccm.ccm.0.weight'] == hidden
  assert shapes.factor((dim, 2 * dim)) == 2.0
  assert shapes.factor((dim, dim // 2)) == 0.5


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('img_range', [255.0, 1.0])
@pytest.mark.parametrize('mean', [(0.4488, 0.4371, 0.4040), (0.5, 0.5, 0.5), (0.485, 0.456, 0.406), (0.0, 0.0, 0.0)])
def test_means_come_back_as_short_decimals_that_give_the_same_bits(mean, img_range, dtype):
  if mean == (0.0, 0.0, 0.0) and img_range == 255.0:
    img_range = 1.0  # Without a mean the range cannot be told, and makes no difference to the stored numbers.
  weights = random_weights('edsr_official', {**SMALL['edsr_official'], 'img_range': img_range, 'rgb_mean': mean}, dtype)
  _, fields, assumed = convert.detect(weights)
  assert fields['img_range'] == img_range
  assert 'rgb_mean' not in assumed
  if dtype == 'float32':
    assert fields['rgb_mean'] == mean
  assert_same(there_and_back(weights), weights)


def test_mean_shift_bits_are_those_of_pytorch(torch):
  for mean in ((0.4488, 0.4371, 0.4040), (0.5, 0.123456, 0.99)):
    weights = random_weights('edsr_official', {**SMALL['edsr_official'], 'rgb_mean': mean})
    for sign, name in ((-1, 'sub_mean'), (1, 'add_mean')):
      bias = sign * 255 * torch.Tensor(mean) / torch.Tensor((1.0, 1.0, 1.0))
      assert weights[f'{name}.bias'].tobytes() == bias.numpy().tobytes()


@pytest.mark.parametrize(
  ('key', 'change'),
  [
    ('sub_mean.weight', lambda w: w * 1.01),
    ('add_mean.weight', lambda w: w + 0.01),
    ('sub_mean.bias', lambda b: -b),
    ('sub_mean.bias', lambda b: b * 0.9),
    ('add_mean.bias', lambda b: b * np.nan),
    ('add_mean.bias', lambda b: b[:2]),
    ('add_mean.weight', lambda w: w[:2]),
    ('add_mean.weight', lambda w: w + np.inf),
  ],
)
def test_mean_shifts_that_do_more_are_refused(key, change):
  weights = random_weights('edsr_official', SMALL['edsr_official'])
  with pytest.raises(UserError, match=re.escape(key)):
    convert.detect({**weights, key: change(weights[key])})


def test_mean_shifts_that_differ_a_little_are_assumed_equal():
  weights = random_weights('edsr_official', SMALL['edsr_official'])
  weights['sub_mean.bias'] = weights['sub_mean.bias'] + np.float32(0.01)
  _, fields, assumed = convert.detect(weights)
  assert 'rgb_mean' in assumed
  assert fields['rgb_mean'] == (0.4488, 0.4371, 0.4040)


def test_official_edsr_without_its_mean_shifts_is_read():
  weights = random_weights('edsr_official', SMALL['edsr_official'])
  bare = {key: value for key, value in weights.items() if 'mean' not in key}
  name, fields, assumed = convert.detect(bare)
  assert set(assumed) == {'res_scale', 'img_range', 'rgb_mean'}
  assert_same(convert.to_torch(name, fields, convert.to_flax(name, bare)), weights)


@pytest.mark.parametrize('name', SMALL)
def test_differences_are_named(name):
  weights = random_weights(name, SMALL[name])
  key = list(weights)[-1]
  wrong = {**weights, key: np.zeros(7, np.float32)}
  with pytest.raises(UserError, match=re.escape(f"'{key}' is (7,) instead of {weights[key].shape}")):
    convert.detect(wrong)
  with pytest.raises(UserError, match=r"'extra\.weight' is unknown"):
    convert.detect({**weights, 'extra.weight': np.zeros(1)})
  with pytest.raises(UserError, match=re.escape(f"'{key}' {weights[key].shape} is missing")):
    convert.detect({k: v for k, v in weights.items() if k != key})
  with pytest.raises(UserError, match='and 2 more') as error:
    convert.detect({**weights, **{f'extra.{i}': np.zeros(1) for i in range(7)}})
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', SMALL)
def test_any_missing_or_misshapen_tensor_is_a_user_error(name):
  weights = random_weights(name, SMALL[name])
  buffers = {entry.key for entry in architectures.entries(name, SMALL[name]) if entry.value}
  for key, value in weights.items():
    for shape in ((), (5,), (0, 3, 3, 3), (1, 2, 3, 4, 5), (value.shape[0] + 1, *value.shape[1:])):
      with pytest.raises(UserError):
        convert.detect({**weights, key: np.zeros(shape, np.float32)})
    if key not in buffers:
      with pytest.raises(UserError):
        convert.detect({other: v for other, v in weights.items() if other != key})


def test_other_architectures_are_not_taken_for_known_ones():
  shape = (4, 4, 3, 3)
  others = {
    'sr_resnet': ['conv_first.weight', 'body.0.conv1.weight', 'upconv1.weight'],
    'swinir': ['conv_first.weight', 'layers.0.residual_group.blocks.0.norm1.weight', 'conv_after_body.weight'],
    'rcan': ['head.0.weight', 'body.0.body.0.body.0.weight', 'tail.1.weight'],
  }
  for keys in others.values():
    with pytest.raises(UserError, match='no known architecture'):
      convert.detect({key: np.zeros(shape) for key in keys})


def test_gray_networks_are_refused():
  weights = zeros('edsr', SMALL['edsr'])
  weights['conv_first.weight'] = np.zeros((4, 1, 3, 3), np.float32)
  with pytest.raises(UserError, match='1 colours'):
    convert.detect(weights)


# There and back.


@pytest.mark.parametrize('file', FILES)
def test_fixtures_come_back_bit_for_bit(file):
  weights = convert.read(GOLDEN / file)
  assert_same(there_and_back(weights), weights, order=False)


@pytest.mark.parametrize('file', ['safmn_x2_official.pth', 'safmn_ntire2023_x4.pth'])
def test_published_files_come_back_bit_for_bit(file, tmp_path):
  source = convert.read_source(shared('weights', file))
  weights = there_and_back(source.weights)
  # Through another program the blocks of one have come into another order than the authors' class has.
  assert_same(weights, source.weights, order=file != 'safmn_x2_official.pth')
  convert.write(tmp_path / file, weights, source.layout)
  again = convert.read_source(tmp_path / file)
  assert_same(again.weights, weights)
  assert {**again.layout, 'sha256': ''} == {**source.layout, 'sha256': ''}


@pytest.mark.parametrize('suffix', ['.pth', '.pt', '.safetensors'])
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('name', SMALL)
def test_every_network_comes_back_bit_for_bit_through_files(tmp_path, name, dtype, suffix):
  weights = random_weights(name, SMALL[name], dtype)
  convert.write(tmp_path / f'x{suffix}', weights)
  source = convert.read_source(tmp_path / f'x{suffix}')
  assert {array.dtype.name for array in source.weights.values()} == {dtype}
  assert_same(there_and_back(source.weights), weights)


def test_flax_layout_of_each_kind():
  weights = random_weights('safmn_ntire2023', SMALL['safmn_ntire2023'])
  params = convert.to_flax('safmn_ntire2023', weights)
  kernel = params['feats_0']['ccm']['ccm_0']['kernel']
  assert kernel.shape == (3, 3, 8, 16)
  assert kernel[2, 1, 5, 11] == weights['feats.0.ccm.ccm.0.weight'][11, 5, 2, 1]
  depthwise = params['feats_0']['safm']['mfr_3']['kernel']
  assert depthwise.shape == (3, 3, 1, 2)
  assert depthwise[0, 2, 0, 1] == weights['feats.0.safm.mfr.3.weight'][1, 0, 0, 2]
  np.testing.assert_array_equal(params['norm']['gamma'], weights['norm.gamma'].reshape(8))
  dense = np.arange(6).reshape(2, 3)
  np.testing.assert_array_equal(names.KINDS['dense'].to_flax(dense), dense.T)
  np.testing.assert_array_equal(names.KINDS['dense'].to_torch(dense.T), dense)


@pytest.mark.parametrize('fixture', FIXTURES)
def test_converted_fixtures_compute_the_fixtures_output(fixture):
  weights = convert.read(GOLDEN / fixture / 'weights.safetensors')
  made = json.loads((GOLDEN / fixture / 'meta.json').read_text())['constructor']
  name, fields, _ = convert.detect(weights)
  if 'res_scale' in made:
    fields['res_scale'] = made['res_scale']
  arrays = np.load(GOLDEN / fixture / 'io.npz')
  y = models.build(name, **fields).apply(
    {'params': convert.to_flax(name, weights)}, arrays['input'].transpose(0, 2, 3, 1)
  )
  np.testing.assert_allclose(y, arrays['output'].transpose(0, 2, 3, 1), atol=5e-5, rtol=0)


def test_wrong_parameters_and_names_are_refused():
  weights = random_weights('safmn', SMALL['safmn'])
  params = convert.to_flax('safmn', weights)
  with pytest.raises(UserError, match='of safmn, not of edsr'):
    convert.to_flax('edsr', weights)
  with pytest.raises(UserError, match='to_img_0'):
    convert.to_torch('safmn', {**SMALL['safmn'], 'upscale': 3}, params)
  with pytest.raises(UserError, match='depth'):
    convert.to_torch('safmn', {'depth': 3}, params)
  with pytest.raises(UserError, match='not those of safmn'):
    convert.to_torch('safmn', SMALL['safmn'], {**params, 'extra': {'kernel': np.zeros(3)}})


def test_device_arrays_are_exported_too():
  weights = random_weights('safmn', SMALL['safmn'], 'bfloat16')
  params = jax.tree.map(jnp.asarray, convert.to_flax('safmn', weights))
  assert_same(convert.to_torch('safmn', SMALL['safmn'], params), weights)


# Wrappers.


def test_reads_the_wrapped_fixture():
  source = convert.read_source(GOLDEN / 'edsr_basicsr_x2/wrapped.pth')
  assert_same(source.weights, convert.read(GOLDEN / 'edsr_basicsr_x2/weights.safetensors'), order=False)
  assert source.layout['places'] == [[['params_ema'], 'module.']]
  assert source.layout['format'] == 'pth'
  json.dumps(source.layout)


def saved(path, tree):
  with open(path, 'wb') as file:
    torchfile.save(file, tree)
  return path


def nested(path, value):
  for key in reversed(path):
    value = {key: value}
  return value


def prefixed(prefix, weights):
  return {prefix + key: value for key, value in weights.items()}


W = random_weights('safmn', SMALL['safmn'])
EMA = {key: 2 * value for key, value in W.items()}
OTHER = {'d.weight': np.ones((1, 1), np.float32)}


@pytest.mark.parametrize(
  ('content', 'key', 'places'),
  [
    (W, '', [[[], '']]),
    ({'params': W}, 'params', [[['params'], '']]),
    ({'params': EMA, 'params_ema': W}, 'params_ema', [[['params'], ''], [['params_ema'], '']]),
    ({'params_ema': W, 'params': EMA}, 'params_ema', [[['params_ema'], ''], [['params'], '']]),
    ({'state_dict': W, 'epoch': np.ones(1)}, 'state_dict', [[['state_dict'], '']]),
    ({'model': W, 'optimizer': {'m': EMA['to_feat.weight']}}, 'model', [[['model'], '']]),
    ({'net_g': W, 'net_d': OTHER}, 'net_g', [[['net_g'], '']]),
    ({'params': OTHER, 'params_ema': W}, 'params_ema', [[['params_ema'], '']]),
    ({'my_network': W}, 'my_network', [[['my_network'], '']]),
    (nested(('a', 'b', 'c'), W), 'a.b.c', [[['a', 'b', 'c'], '']]),
    (prefixed('module.', W), 'module', [[[], 'module.']]),
    ({'state_dict': prefixed('module.model.', W)}, 'state_dict.module.model', [[['state_dict'], 'module.model.']]),
    ({'params': prefixed('_orig_mod.', W)}, 'params._orig_mod', [[['params'], '_orig_mod.']]),
  ],
)
def test_unwraps_and_wraps_again(tmp_path, content, key, places):
  source = convert.read_source(saved(tmp_path / 'in.pth', content))
  assert_same(source.weights, W)
  assert (source.layout['key'], source.layout['places']) == (key, places)
  convert.write(tmp_path / 'out.pth', source.weights, source.layout, like_source=True)
  written = torchfile.load(tmp_path / 'out.pth')
  for path, prefix in places:
    state = functools.reduce(dict.get, path, written)
    assert_same({name: tensor.numpy() for name, tensor in state.items()}, prefixed(prefix, W))


@pytest.mark.parametrize(
  ('content', 'wrappers'),
  [
    (W, []),
    (prefixed('_orig_mod.module.', W), []),
    ({'params_ema': prefixed('module.', W)}, ['params_ema']),
    ({'params': W, 'params_ema': EMA}, ['params', 'params_ema']),
    ({'params': W, 'params-ema': EMA}, ['params']),
    ({'state_dict': prefixed('net_g.', W)}, ['params']),
    ({'model': {'params': W}}, ['params']),
  ],
)
def test_exports_are_plain(tmp_path, content, wrappers):
  source = convert.read_source(saved(tmp_path / 'in.pth', content))
  convert.write(tmp_path / 'out.pth', source.weights, source.layout)
  written = torchfile.load(tmp_path / 'out.pth')
  assert list(written) == (wrappers or list(W))
  for state in [written[wrapper] for wrapper in wrappers] or [written]:
    assert list(state) == list(W)


def test_key_chooses(tmp_path):
  path = saved(tmp_path / 'in.pth', {'params': W, 'params_ema': EMA})
  assert_same(convert.read(path), EMA)
  assert_same(convert.read(path, key='params'), W)
  with pytest.raises(UserError, match='params, params_ema'):
    convert.read(path, key='model')
  with pytest.raises(UserError, match='bare'):
    convert.read(saved(tmp_path / 'bare.pth', W), key='params')


def test_several_unknown_networks_must_be_chosen_from(tmp_path):
  path = saved(tmp_path / 'in.pth', {'first': OTHER, 'second': {'e.weight': np.ones((1, 1), np.float32)}})
  with pytest.raises(UserError, match='first, second'):
    convert.read(path)
  assert list(convert.read(path, key='second')) == ['e.weight']


def test_files_without_weights_are_foreign(tmp_path):
  for content in ({'alpha': np.ones(3, np.float32)}, {'params': {'a': np.ones(3, np.float32)}}, {}):
    with pytest.raises(UserError, match=r'in\.pth holds no weights'):
      convert.read(saved(tmp_path / 'in.pth', content))


def test_a_tensor_alone_is_no_network(torch, tmp_path):
  torch.save(torch.ones(3, 3), tmp_path / 'in.pth')
  with pytest.raises(UserError, match=r'in\.pth holds no weights'):
    convert.read(tmp_path / 'in.pth')


def test_other_format_gets_the_usual_wrapper(tmp_path):
  source = convert.read_source(GOLDEN / 'edsr_basicsr_x2/weights.safetensors')
  convert.write(tmp_path / 'x.pth', source.weights, source.layout)
  assert convert.read_source(tmp_path / 'x.pth').layout['places'] == [[['params'], '']]
  wrapped = convert.read_source(GOLDEN / 'edsr_basicsr_x2/wrapped.pth')
  convert.write(tmp_path / 'x.safetensors', wrapped.weights, wrapped.layout)
  assert convert.read_source(tmp_path / 'x.safetensors').layout['places'] == [[[], '']]
  official = convert.read(GOLDEN / 'edsr_official_x2/weights.safetensors')
  convert.write(tmp_path / 'y.pth', official)
  assert convert.read_source(tmp_path / 'y.pth').layout['places'] == [[[], '']]


def test_layout_names_the_file():
  import hashlib

  path = GOLDEN / 'safmn_x2/weights.safetensors'
  layout = convert.read_source(path).layout
  assert layout['file'] == 'weights.safetensors'
  assert layout['sha256'] == hashlib.sha256(path.read_bytes()).hexdigest()
  assert layout['format'] == 'safetensors'


@pytest.mark.parametrize('name', ['weights.safetensors', 'a.pth'])
def test_the_content_tells_the_format(tmp_path, name):
  convert.write(tmp_path / name, W)
  wrong = tmp_path / ('x.pth' if name.endswith('safetensors') else 'x.safetensors')
  (tmp_path / name).rename(wrong)
  assert_same(convert.read(wrong), W, order=False)


def test_writing_leaves_nothing_behind(tmp_path, monkeypatch):
  with pytest.raises(UserError, match='endings'):
    convert.write(tmp_path / 'x.ckpt', W)
  with pytest.raises(UserError, match='cannot be written'):
    convert.write(tmp_path / 'no folder/x.pth', W)
  path = tmp_path / 'x.pth'
  path.write_bytes(b'before')
  with pytest.raises(UserError, match='uint16'):
    convert.write(path, {**W, 'bad': np.zeros(3, np.uint16)})
  assert path.read_bytes() == b'before'
  assert list(tmp_path.iterdir()) == [path]


# Safetensors.


def safetensors_bytes(weights, metadata) -> bytes:
  buffer = io.BytesIO()
  safefile.save(buffer, weights, metadata)
  return buffer.getvalue()


def test_the_library_reads_what_is_written_and_the_other_way_round(tmp_path):
  library = pytest.importorskip('safetensors.numpy')
  types = ('float64', 'float32', 'float16', 'int64', 'int32', 'int16', 'int8', 'uint8', 'uint16', 'bool')
  weights = {name: np.array([[0, 1, 2], [3, 100, 5]]).astype(name) for name in types}
  weights |= {'scalar': np.array(3, np.float32), 'empty': np.zeros((0, 2), np.float32), 'é"': np.ones((1, 2))}
  weights['transposed'] = np.arange(6, dtype=np.float32).reshape(2, 3).T
  content = safetensors_bytes(weights, {'format': 'pt', 'licence': 'MIT "quoted"'})
  assert_same(library.load(content), weights, order=False)
  (tmp_path / 'x.safetensors').write_bytes(library.save(weights | {'transposed': np.ones(2)}, {'origin': 'ä'}))
  found, metadata = safefile.load(tmp_path / 'x.safetensors')
  assert_same(found, weights | {'transposed': np.ones(2)}, order=False)
  assert metadata == {'origin': 'ä'}


def test_safetensors_are_the_same_bytes_and_keep_metadata(tmp_path):
  metadata = {'format': 'pt', 'origin': 'somewhere', 'licence': 'MIT', 'a': 'b'}
  assert safetensors_bytes(W, metadata) == safetensors_bytes(W, dict(reversed(metadata.items())))
  (tmp_path / 'x.safetensors').write_bytes(safetensors_bytes(W, metadata))
  source = convert.read_source(tmp_path / 'x.safetensors')
  convert.write(tmp_path / 'y.safetensors', source.weights, source.layout)
  assert (tmp_path / 'y.safetensors').read_bytes() == (tmp_path / 'x.safetensors').read_bytes()


def test_bfloat16_safetensors_in_pytorch(torch, tmp_path):
  library = pytest.importorskip('safetensors.torch')
  weights = {'w': np.array([[1.5, -3]], ml_dtypes.bfloat16), 'b': np.array([1.0], np.float32)}
  convert.write(tmp_path / 'x.safetensors', weights)
  loaded = library.load_file(tmp_path / 'x.safetensors')
  assert loaded['w'].dtype == torch.bfloat16
  assert loaded['w'].tolist() == [[1.5, -3]]
  library.save_file(loaded, tmp_path / 'y.safetensors')
  assert_same(convert.read(tmp_path / 'y.safetensors'), weights, order=False)


@pytest.mark.parametrize(
  'header',
  [
    b'{',
    b'[]',
    b'{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,12]}}',
    b'{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,1600]}}',
    b'{"w":{"dtype":"F32","shape":[-2,-2],"data_offsets":[0,16]}}',
    b'{"w":{"dtype":"F32","shape":[99999999999,99999999999],"data_offsets":[0,16]}}',
    b'{"w":{"dtype":"F31","shape":[2,2],"data_offsets":[0,16]}}',
    b'{"w":{"dtype":["F32"],"shape":[2,2],"data_offsets":[0,16]}}',
    b'{"w":{"dtype":"F32","shape":"22","data_offsets":[0,16]}}',
    b'{"w":{"dtype":"F32","shape":[2.0,2],"data_offsets":[0,16]}}',
    b'{"w":{"shape":[2,2],"data_offsets":[0,16]}}',
    b'{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0]}}',
    b'{"w":5}',
    b'{"__metadata__":5}',
    b'{"a":' * 100_000,
  ],
)
def test_damaged_safetensors_are_clear_errors(tmp_path, header):
  path = tmp_path / 'x.safetensors'
  path.write_bytes(len(header).to_bytes(8, 'little') + header + bytes(16))
  with pytest.raises(UserError, match=r'x\.safetensors'):
    convert.read(path)


def test_safetensors_cut_anywhere_are_clear_errors(tmp_path):
  content = safetensors_bytes(OTHER, {'format': 'pt'})
  path = tmp_path / 'cut.safetensors'
  for cut in range(len(content)):
    path.write_bytes(content[:cut])
    with pytest.raises(UserError, match=r'cut\.safetensors'):
      convert.read(path)


# The command.


def run(*arguments):
  """Returns exit code, standard output and standard error of the command."""
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    try:
      code = command.main(list(map(str, arguments)))
    except SystemExit as stop:
      code = stop.code
  return code, out.getvalue(), err.getvalue()


def test_command_detects():
  code, out, err = run(GOLDEN / 'edsr_official_x4/weights.safetensors', '--detect')
  assert (code, err) == (0, '')
  assert 'edsr_official, 14,203 parameters' in out
  assert '--fields res_scale=1.0' in out
  code, out, _ = run(GOLDEN / 'safmn_x2/weights.safetensors', '--detect', '--json')
  report = json.loads(out)
  assert report['model'] == 'safmn'
  assert report['fields'] == {'upscale': 2, 'dim': 8, 'n_blocks': 2, 'ffn_scale': 2.0}
  assert report['parameters'] == 4076
  assert report['written'] is None


@pytest.mark.parametrize('file', FILES)
def test_command_round_trip_through_a_folder_gives_the_same_weights(tmp_path, file):
  folder, out = tmp_path / 'params', tmp_path / f'out.{file.split(".")[-1]}'
  assert run(GOLDEN / file, folder)[0] == 0
  assert params_folder.is_params_folder(folder)
  assert run(folder, out)[0] == 0
  first, second = convert.read_source(GOLDEN / file), convert.read_source(out)
  assert_same(second.weights, first.weights, order=False)
  assert second.layout['format'] == first.layout['format']
  assert [place for place, _ in second.layout['places']] == [place for place, _ in first.layout['places']]


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('out', ['out.pth', 'out.safetensors', 'folder'])
def test_command_casts(tmp_path, dtype, out):
  source = GOLDEN / 'safmn_ntire2023_x4/weights.safetensors'
  assert run(source, tmp_path / out, '--dtype', dtype)[0] == 0
  expected = {key: value.astype(dtype) for key, value in convert.read(source).items()}
  if out == 'folder':
    params, info = params_folder.load_params(tmp_path / out)
    found = convert.to_torch(info['model'], info['fields'], params)
  else:
    found = convert.read(tmp_path / out)
  assert_same(found, expected, order=False)


def test_command_sets_what_cannot_be_known(tmp_path):
  source = GOLDEN / 'edsr_basicsr_x3/weights.safetensors'
  code, out, _ = run(source, tmp_path / 'p', '--fields', 'res_scale=0.1', '--set', 'rgb_mean=0.5,0.5,0.5')
  assert code == 0
  assert 'Assumed: img_range' in out
  assert 'Assumed: res_scale' not in out
  _, info = params_folder.load_params(tmp_path / 'p')
  assert info['fields']['res_scale'] == 0.1
  assert list(info['fields']['rgb_mean']) == [0.5, 0.5, 0.5]
  assert set(info['assumed']) == {'img_range'}


def test_command_tells_which_of_two_networks_it_took(tmp_path):
  weights = random_weights('safmn', SMALL['safmn'])
  average = {key: value * 2 for key, value in weights.items()}
  path = saved(tmp_path / 'in.pth', {'params': weights, 'params_ema': average})
  code, out, _ = run(path, tmp_path / 'out.pth')
  assert code == 0
  assert f'Taken from params_ema; the file also has params: choose with {path}::params' in out
  assert_same(convert.read(tmp_path / 'out.pth', 'params'), average)
  assert run(path, tmp_path / 'out.pth', '--key', 'params')[0] == 0
  assert_same(convert.read(tmp_path / 'out.pth', 'params_ema'), weights)
  assert run(path, tmp_path / 'out.pth', '--key', 'params_ema')[0] == 0
  assert_same(convert.read(tmp_path / 'out.pth', 'params'), average)


def test_command_changes_the_key_style_of_edsr(tmp_path):
  official = convert.read(GOLDEN / 'edsr_official_x2/weights.safetensors')
  assert run(GOLDEN / 'edsr_official_x2/wrapped.pth', tmp_path / 'basicsr.pth', '--name', 'edsr')[0] == 0
  assert convert.read_source(tmp_path / 'basicsr.pth').layout['places'] == [[['params'], '']]
  assert convert.detect(convert.read(tmp_path / 'basicsr.pth'))[0] == 'edsr'
  assert run(tmp_path / 'basicsr.pth', tmp_path / 'official.pt', '--name', 'edsr_official')[0] == 0
  assert convert.read_source(tmp_path / 'official.pt').layout['places'] == [[[], '']]
  assert_same(convert.read(tmp_path / 'official.pt'), official, order=False)


GOOD = GOLDEN / 'safmn_x2/weights.safetensors'


@pytest.mark.parametrize(
  ('arguments', 'match'),
  [
    (['{tmp}/absent.pth', '{tmp}/out'], 'absent.pth'),
    (['{tmp}/page.pth', '{tmp}/out'], 'page.pth is a web page'),
    (['{tmp}/foreign.safetensors', '{tmp}/out.pth'], 'foreign.safetensors: The weights'),
    ([GOOD, '{tmp}/out.pth', '--fields', 'res_scale=0.1'], 'res_scale'),
    ([GOOD, '{tmp}/out.pth', '--fields', 'dim'], "--fields has 'dim'"),
    ([GOOD, '{tmp}/out.pth', '--fields', 'dim=large'], "dim is 'large', but it should be a whole number"),
    ([GOOD, '{tmp}/out.pth', '--fields', 'dim=16'], 'weights.safetensors'),
    ([GOOD, '{tmp}/out.pth', '--key', 'params'], 'no network params'),
    ([GOOD, '{tmp}/out.pth', '--name', 'edsr'], '--name'),
    ([GOOD, '{tmp}/out.pth', '--dtype', 'int8'], 'dtype'),
    ([GOOD, '{tmp}/no folder/out.pth'], 'folder does not exist'),
    ([GOOD, '{tmp}/no folder/out'], 'folder does not exist'),
    ([GOOD, '{tmp}/full'], 'other content'),
    ([GOOD, '{tmp}/page.pth/out'], 'page.pth'),
    ([GOOD, '{tmp}/plain'], 'is a file'),
    ([GOOD, GOOD], 'is the input'),
    (['{tmp}/large.safetensors', '{tmp}/out.pth', '--dtype', 'float16'], 'too large for float16'),
    ([GOOD], 'OUT'),
    ([GOOD, '{tmp}/out.pth', '--detect'], 'OUT'),
  ],
)
def test_command_errors_are_one_sentence_and_write_nothing(tmp_path, arguments, match):
  (tmp_path / 'page.pth').write_text('<html>')
  (tmp_path / 'plain').write_text('a file')
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full/thesis.tex').write_text('years of work')
  convert.write(tmp_path / 'foreign.safetensors', OTHER)
  large = convert.read(GOOD)
  convert.write(tmp_path / 'large.safetensors', large | {'to_feat.bias': large['to_feat.bias'] + np.float32(1e5)})
  before = {path: path.read_bytes() for path in tmp_path.rglob('*') if path.is_file()}
  code, out, err = run(*(str(argument).format(tmp=tmp_path) for argument in arguments))
  assert code == 2
  assert out == ''
  assert match in err
  assert 'Traceback' not in err
  assert {path: path.read_bytes() for path in tmp_path.rglob('*') if path.is_file()} == before

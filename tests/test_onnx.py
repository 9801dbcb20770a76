"""Networks as ONNX: onnxruntime makes the same pictures of them, of every size, in batches, of every family."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adaptsr_jax as sr
from adaptsr_jax import base as base_lib
from adaptsr_jax import convert, infer, models
from adaptsr_jax.adapters.__main__ import main as adapters_main
from adaptsr_jax.convert import graph
from adaptsr_jax.convert.__main__ import main
from adaptsr_jax.errors import UserError
from tests.test_adapter_file import RANKS, SITES, make, save

onnx = pytest.importorskip('onnx', reason="onnx is not installed (python -m pip install -e '.[test]')")
runtime = pytest.importorskip('onnxruntime', reason="onnxruntime is not installed (pip install -e '.[test]')")

NETWORKS = {
  'edsr': ('edsr', {'upscale': 3, 'num_feat': 4, 'num_block': 1}),
  'edsr_official': ('edsr_official', {'upscale': 2, 'num_feat': 4, 'num_block': 1}),
  'safmn': ('safmn', {'upscale': 2, 'dim': 8, 'n_blocks': 1}),
  'safmn_ntire2023': ('safmn_ntire2023', {'upscale': 2, 'dim': 8, 'n_blocks': 1}),
  'swinir': ('swinir', {'upscale': 2, 'embed_dim': 8, 'depths': (2,), 'num_heads': (2,), 'num_feat': 4}),
  'swinir light': (
    'swinir',
    {'upscale': 2, 'embed_dim': 8, 'depths': (2,), 'num_heads': (2,), 'upsampler': 'pixelshuffledirect'},
  ),
  'swinir gray': (
    'swinir',
    {
      **{'upscale': 1, 'embed_dim': 8, 'depths': (2,), 'num_heads': (2,), 'window_size': 7, 'img_size': 126},
      **{'img_range': 255.0, 'upsampler': '', 'rgb_mean': (0.0,)},
    },
  ),
  'drct': ('drct', {'upscale': 2, 'embed_dim': 8, 'gc': 4, 'num_heads': (2,), 'window_size': 4, 'num_feat': 4}),
  'rrdb': ('rrdb', {'upscale': 2, 'unshuffle': 2, 'num_block': 1, 'num_feat': 8, 'num_grow_ch': 4}),
  'rrdb_esrgan': ('rrdb_esrgan', {'upscale': 4, 'num_block': 1, 'num_feat': 8, 'num_grow_ch': 4}),
  'srvgg': ('srvgg', {'upscale': 2, 'num_conv': 2, 'num_feat': 8}),
  'msrresnet': ('msrresnet', {'upscale': 2, 'num_feat': 8, 'num_block': 1}),
  'dasr': ('dasr', {'upscale': 2, 'num_feat': 4, 'num_block': 1, 'nf': 4, 'num_models': 3}),
}


def network(name, **fields):
  """Returns model and parameters; all of them are far from zero, as in trained networks."""
  model = models.build(name, **fields)
  side = -(-model.minimum // model.multiple) * model.multiple
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, side, side, graph.colours(model))))['params']
  draw = np.random.default_rng(0)
  drawn = jax.tree.map(lambda x: draw.normal(0, 0.7 * np.prod(x.shape[:-1]) ** -0.5, x.shape), shapes)
  return model, jax.tree.map(lambda x: x.astype(np.float32), drawn)


def session(path):
  return runtime.InferenceSession(path, providers=['CPUExecutionProvider'])


def enlarged(path, x):
  """Returns (b, h, w, c) as the file enlarges it."""
  (y,) = session(path).run(None, {'input': x.transpose(0, 3, 1, 2)})
  return y.transpose(0, 2, 3, 1)


@pytest.mark.parametrize('name', NETWORKS)
def test_every_family_computes_the_same(tmp_path, name):
  """At sizes that are no multiples of windows and pooling, in a batch; as the commands enlarge one by one."""
  model, params = network(NETWORKS[name][0], **NETWORKS[name][1])
  path = tmp_path / 'x.onnx'
  assert graph.write(path, model, params, {}) < 1e-4
  height, width = 29, 22
  x = np.random.default_rng(1).random((2, height, width, graph.colours(model)), np.float32)
  found = enlarged(path, x)
  padded = np.pad(x, ((0, 0), *((0, -side % model.multiple) for side in (height, width)), (0, 0)), 'reflect')
  expected = np.asarray(jax.jit(model.apply)({'params': params}, padded))
  expected = expected[:, : height * model.upscale, : width * model.upscale]
  np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
  assert np.ptp(expected) > 0.05


def test_the_file_is_what_the_library_enlarges_by(tmp_path):
  path = tmp_path / 'bundled.onnx'
  net = sr.load('bundled:safmn_x4')
  net.save(path)
  picture = np.random.default_rng(0).random((27, 18, 3), np.float32)
  np.testing.assert_allclose(enlarged(path, picture[None])[0], net.enlarge(picture), atol=1e-4)
  proto = onnx.load(path)
  onnx.checker.check_model(proto, full_check=True)
  assert [(each.domain, each.version) for each in proto.opset_import] == [('', graph.OPSET)]
  told = {each.key: each.value for each in proto.metadata_props}
  assert (told['model'], told['scale']) == ('safmn', '4')
  shapes = {each.name: each.shape for each in (*session(path).get_inputs(), *session(path).get_outputs())}
  assert shapes['input'] == ['batch', 3, 'height', 'width']
  assert shapes['output'][1] == 3


@pytest.fixture
def weights(tmp_path):
  """Returns the file of the network that the adapters of `test_adapter_file` are for."""
  _, params = network('edsr', upscale=2, num_feat=4, num_block=1)
  convert.write(tmp_path / 'edsr.pth', convert.to_torch('edsr', {'upscale': 2, 'num_feat': 4, 'num_block': 1}, params))
  return tmp_path / 'edsr.pth'


def test_adapters_merge_into_it_and_tell_their_origin(tmp_path, weights):
  base = base_lib.load(weights)
  adapter = save(tmp_path / 'a.safetensors', make(base.params, SITES, RANKS, alpha=0.01))
  assert adapters_main(['merge', str(weights), str(adapter), str(tmp_path / 'merged.onnx')]) == 0
  assert adapters_main(['merge', str(weights), str(adapter), str(tmp_path / 'merged')]) == 0
  picture = np.random.default_rng(0).random((9, 11, 3), np.float32)
  merged = sr.load(tmp_path / 'merged', 'res_scale=1')
  np.testing.assert_allclose(enlarged(tmp_path / 'merged.onnx', picture[None])[0], merged.enlarge(picture), atol=1e-4)
  told = {each.key: each.value for each in onnx.load(tmp_path / 'merged.onnx').metadata_props}
  assert json.loads(told['adaptsr_jax'])['adapters'][0]['file'] == 'a.safetensors'


def test_half_is_half_as_large_and_says_what_it_changes(tmp_path, weights, capsys):
  outs = {name: tmp_path / name for name in ('full.onnx', 'half.onnx', 'half.pth')}
  assert main([str(weights), str(outs['full.onnx'])]) == 0
  full = capsys.readouterr().out
  assert f'ONNX, opset {graph.OPSET}, checked by onnxruntime: largest difference ' in full
  assert main([str(weights), str(outs['half.onnx']), '--half']) == 0
  assert 'stored as float16, computed in float32' in capsys.readouterr().out
  assert main([str(weights), str(outs['half.pth']), '--half']) == 0
  (said,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith('Computed in float32')]
  assert outs['half.onnx'].stat().st_size < outs['full.onnx'].stat().st_size
  x = np.random.default_rng(0).random((1, 12, 12, 3), np.float32)
  model = base_lib.load(weights).model()
  rounded = infer.network(model, base_lib.load(outs['half.pth']).params, infer.WHOLE)(x[0])
  np.testing.assert_allclose(enlarged(outs['half.onnx'], x)[0], rounded, atol=1e-5)
  picture = np.random.default_rng(0).random((48, 48, 3), np.float32)
  before, after = (
    infer.network(model, base_lib.load(path).params, infer.WHOLE)(picture) for path in (weights, outs['half.pth'])
  )
  difference = np.abs(after - before)
  assert float(said.split('largest difference ')[1].split(' ')[0]) == pytest.approx(difference.max(), rel=0.1)
  assert difference.max() > 0


@pytest.mark.parametrize('words', [['--half', '--dtype=bfloat16'], ['--half', '--detect'], ['--dtype=bfloat16']])
def test_what_cannot_be_is_said(tmp_path, weights, capsys, words):
  out = [] if '--detect' in words else [str(tmp_path / 'x.onnx')]
  assert main([str(weights), *out, *words]) == 2
  assert '--dtype' in capsys.readouterr().err
  assert not (tmp_path / 'x.onnx').exists()


POSITIONS = {'upscale': 2, 'embed_dim': 8, 'num_heads': (2,), 'num_feat': 4, 'img_size': 16, 'ape': True}


@pytest.mark.parametrize(('name', 'fields'), [('swinir', {'depths': (2,)}), ('drct', {'gc': 4, 'window_size': 8})])
def test_absolute_positions_fix_the_size(tmp_path, capsys, name, fields):
  fields = POSITIONS | fields
  model, params = network(name, **fields)
  convert.write(tmp_path / 'net.pth', convert.to_torch(name, fields, params))
  assert main([str(tmp_path / 'net.pth'), str(tmp_path / 'net.onnx')]) == 0
  assert 'It takes pictures of 16 x 16 pixels only' in capsys.readouterr().out
  assert session(tmp_path / 'net.onnx').get_inputs()[0].shape == ['batch', 3, 16, 16]
  assert session(tmp_path / 'net.onnx').get_outputs()[0].shape == ['batch', 3, 32, 32]
  x = np.random.default_rng(1).random((3, 16, 16, 3), np.float32)
  expected = np.asarray(jax.jit(model.apply)({'params': params}, x))
  np.testing.assert_allclose(enlarged(tmp_path / 'net.onnx', x), expected, atol=1e-4, rtol=0)
  assert main([str(tmp_path / 'net.pth'), str(tmp_path / 'half.pth'), '--half']) == 0
  assert 'Computed in float32 with parameters so rounded' in capsys.readouterr().out


def test_kernels_are_mixed_for_each_picture_of_a_batch(tmp_path):
  """Mixtures differ by picture, and half precision reaches the kernels within the loop."""
  model, params = network(NETWORKS['dasr'][0], **NETWORKS['dasr'][1])
  # Without biases the mixture is in proportion to the picture.
  params['net_p'] = jax.tree.map(lambda leaf: leaf * (leaf.ndim > 1), params['net_p'])
  params['net_p']['MappingNet_1']['kernel'] *= 300
  graph.write(tmp_path / 'x.onnx', model, params, {})
  x = np.random.default_rng(1).random((3, 12, 9, 3), np.float32) * np.float32([0.2, 0.6, 1])[:, None, None, None]
  together = enlarged(tmp_path / 'x.onnx', x)
  for one, result in zip(x, together, strict=True):
    expected = infer.network(model, params, infer.WHOLE)(one)
    np.testing.assert_allclose(result, expected, atol=1e-4, rtol=0)
  mixtures = [np.asarray(model.once(params, one[None])['mixture']) for one in x]
  assert np.ptp(mixtures, axis=0).max() > 0.5
  assert graph.write(tmp_path / 'half.onnx', model, params, {}, half=True) < 0.01
  assert (tmp_path / 'half.onnx').stat().st_size < (tmp_path / 'x.onnx').stat().st_size
  onnx.checker.check_model(onnx.load(tmp_path / 'half.onnx'), full_check=True)


def test_missing_packages_are_named(tmp_path, weights, capsys, monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'onnxruntime', None)
  assert main([str(weights), str(tmp_path / 'x.onnx')]) == 2
  assert r"pip install 'adaptsr-jax[onnx]'" in capsys.readouterr().err
  assert not (tmp_path / 'x.onnx').exists()


def test_a_graph_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
  model, params = network('edsr', upscale=2, num_feat=4, num_block=1)
  monkeypatch.setitem(graph._HANDLERS, 'add', lambda builder, *rest: builder.elementwise(*rest, 'Sub'))
  with pytest.raises(UserError, match='onnxruntime computes something else'):
    graph.write(tmp_path / 'x.onnx', model, params, {})
  monkeypatch.delitem(graph._HANDLERS, 'add')
  with pytest.raises(UserError, match='the operation add has no counterpart'):
    graph.write(tmp_path / 'x.onnx', model, params, {})
  assert not (tmp_path / 'x.onnx').exists()


def test_onnx_is_not_read_and_not_overwritten_by_a_folder(tmp_path, weights, capsys):
  (tmp_path / 'x.onnx').write_bytes(b'some')
  assert main([str(tmp_path / 'x.onnx'), str(tmp_path / 'y.pth')]) == 2
  assert 'is ONNX, which can be written and not be read' in capsys.readouterr().err
  (tmp_path / 'folder.onnx').mkdir()
  assert main([str(weights), str(tmp_path / 'folder.onnx')]) == 2
  assert 'is a folder' in capsys.readouterr().err

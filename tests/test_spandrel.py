"""Exported files in an independent PyTorch implementation of the networks: the same picture comes out.

Runs where the package spandrel can be imported (`pip install --no-deps spandrel einops`). Of torchvision it uses two
functions, for networks that do not occur here: where torchvision is absent, empty ones stand in.
"""

import importlib.util
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaptsr_jax import base as base_lib
from adaptsr_jax import convert, models, tree
from tests.shared import shared

TOLERANCE = 1e-4
NETWORKS = {
  'swinir classical': (
    'swinir',
    {'upscale': 3, 'embed_dim': 12, 'depths': (2, 3), 'num_heads': (2, 3), 'window_size': 8},
  ),
  'swinir light': (
    'swinir',
    {'upscale': 2, 'embed_dim': 12, 'depths': (3,), 'num_heads': (2,), 'upsampler': 'pixelshuffledirect'},
  ),
  'swinir real': (
    'swinir',
    {
      'upscale': 4,
      'embed_dim': 16,
      'depths': (2,),
      'num_heads': (4,),
      'window_size': 4,
      'img_size': 48,
      'upsampler': 'nearest+conv',
      'resi_connection': '3conv',
    },
  ),
  'swinir restore': (
    'swinir',
    {
      'upscale': 1,
      'embed_dim': 12,
      'depths': (2,),
      'num_heads': (2,),
      'window_size': 7,
      'img_size': 126,
      'img_range': 255.0,
      'upsampler': '',
    },
  ),
  'swinir gray': (
    'swinir',
    {'upscale': 1, 'embed_dim': 12, 'depths': (2,), 'num_heads': (2,), 'upsampler': '', 'rgb_mean': (0.0,)},
  ),
  'drct': ('drct', {'upscale': 4, 'embed_dim': 12, 'gc': 8, 'num_heads': (6, 6)}),
  'safmn': ('safmn', {'upscale': 4, 'dim': 12, 'n_blocks': 2}),
  **{
    f'{style} x4': (style, {'upscale': 4, 'num_feat': 12, 'num_block': 2})
    for style in ('rrdb', 'rrdb_bsrgan', 'rrdb_esrgan')
  },
  'rrdb x2': ('rrdb', {'upscale': 2, 'num_feat': 12, 'num_block': 1, 'unshuffle': 2}),
  'rrdb x1': ('rrdb', {'upscale': 1, 'num_feat': 12, 'num_block': 1, 'unshuffle': 4}),
  'rrdb_bsrgan x2': ('rrdb_bsrgan', {'upscale': 2, 'num_feat': 12, 'num_block': 1}),
  'rrdb_esrgan x1': ('rrdb_esrgan', {'upscale': 1, 'num_feat': 12, 'num_block': 1}),
  'rrdb gray': ('rrdb', {'upscale': 4, 'num_feat': 16, 'num_block': 1, 'num_in_ch': 1}),
  'srvgg': ('srvgg', {'upscale': 4, 'num_feat': 12, 'num_conv': 3}),
  'srvgg x2': ('srvgg', {'upscale': 2, 'num_feat': 12, 'num_conv': 2}),
}


@pytest.fixture(scope='module')
def load():
  """Returns (path) -> network of spandrel."""
  if importlib.util.find_spec('spandrel') is None:
    pytest.skip('spandrel is not installed')
  stubs = {}
  if importlib.util.find_spec('torchvision') is None:
    stubs = {f'torchvision{part}': types.ModuleType(f'torchvision{part}') for part in _TORCHVISION}
    functional = stubs['torchvision.transforms.functional']
    functional.InterpolationMode = functional.rotate = functional.normalize = None
  sys.modules.update(stubs)
  try:
    spandrel = pytest.importorskip('spandrel')
  finally:
    for name in stubs:
      del sys.modules[name]
  return lambda path: spandrel.ModelLoader('cpu').load_from_file(path).model.eval()


_TORCHVISION = ('', '.transforms', '.transforms.functional')


@pytest.mark.parametrize('name', NETWORKS)
def test_exported_files_give_the_same_picture(torch, load, tmp_path, name):
  family, fields = NETWORKS[name]
  model = models.build(family, **fields)
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, model.minimum, model.minimum, 3)))['params']
  leaves = {path: rng.normal(path.endswith('scale'), 0.1, leaf.shape) for path, leaf in tree.flatten(shapes).items()}
  params = tree.unflatten({path: leaf.astype(np.float32) for path, leaf in leaves.items()})
  side = 2 * model.multiple if model.multiple > 1 else 24
  x = rng.random((1, side, 2 * side, fields.get('num_in_ch', len(fields.get('rgb_mean', 'RGB')))), np.float32)
  y = jax.jit(model.apply)({'params': params}, x)

  base = base_lib.Base(family, fields, params, {}, None)
  for suffix in ('pth', 'safetensors'):
    path = tmp_path / f'network.{suffix}'
    base_lib.export(path, base, params)
    network = load(path)
    with torch.no_grad():
      z = network(torch.from_numpy(x.transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1)
    assert z.shape == y.shape
    assert np.std(y) > 0.1
    np.testing.assert_allclose(z, y, rtol=0, atol=TOLERANCE)
    # Names and buffers are those of the network too, and so is their order.
    state = network.state_dict()
    written = convert.read(tmp_path / 'network.pth')
    if family in ('rrdb', 'rrdb_bsrgan'):  # which are loaded under the old names, in the same order
      written = dict(zip(state, written.values(), strict=True))
    assert list(written) == list(state)
    for key, value in state.items():
      assert written[key].dtype == value.numpy().dtype, key
      np.testing.assert_array_equal(written[key], value.numpy(), err_msg=key)


@pytest.mark.parametrize(
  'file', ['realesr_general_x4v3_fp16.pth', 'realesr_animevideov3_fp16.pth', 'realesrgan_x4plus_anime_6b_fp16.pth']
)
def test_published_weights_give_the_same_picture(torch, load, tmp_path, file):
  base = base_lib.load(shared('weights', file))
  x = np.random.default_rng(0).random((1, 9, 7, 3), np.float32)
  y = jax.jit(base.model().apply)({'params': base.params}, x)
  base_lib.export(tmp_path / 'again.pth', base, base.params)
  for path in (shared('weights', file), tmp_path / 'again.pth'):
    with torch.no_grad():
      z = load(path)(torch.from_numpy(x.transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(z, y, rtol=0, atol=TOLERANCE)


def test_edsr_of_the_package_in_lines_of_pytorch(torch, tmp_path):
  """EDSR, which spandrel does not know."""
  base = base_lib.load('bundled:edsr_x4')
  base_lib.export(tmp_path / 'edsr.pth', base, base.params)
  weights = torch.load(tmp_path / 'edsr.pth', weights_only=True)
  weights = weights.get('params', weights)

  def conv(name, x):
    return torch.nn.functional.conv2d(x, weights[f'{name}.weight'].float(), weights[f'{name}.bias'].float(), padding=1)

  x = np.random.default_rng(0).random((1, 9, 7, 3), np.float32)
  mean = torch.tensor(base.fields['rgb_mean']).reshape(1, 3, 1, 1)
  y = first = conv('conv_first', (torch.from_numpy(x.transpose(0, 3, 1, 2)) - mean) * base.fields['img_range'])
  for i in range(base.fields['num_block']):
    y = y + conv(f'body.{i}.conv2', torch.relu(conv(f'body.{i}.conv1', y)))
  y = conv('conv_after_body', y) + first
  for name in ('upsample.0', 'upsample.2'):
    y = torch.nn.functional.pixel_shuffle(conv(name, y), 2)
  y = (conv('conv_last', y) / base.fields['img_range'] + mean).numpy().transpose(0, 2, 3, 1)
  np.testing.assert_allclose(y, jax.jit(base.model().apply)({'params': base.params}, x), rtol=0, atol=1e-5)

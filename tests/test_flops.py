"""The formula of forward operations against XLA's own count, and against what must not change it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaptsr_jax import base as base_lib
from adaptsr_jax import lora, models, tree
from adaptsr_jax.errors import UserError
from benchmarks import flops, kept, step_time

# Wide enough that norms, softmax and biases, which only XLA counts, are small beside the products.
TINY = {
  'classical': ('swinir', {'upscale': 4, 'embed_dim': 48, 'depths': (2, 1), 'num_heads': (3, 3), 'num_feat': 24}),
  'x3, small windows': (
    'swinir',
    {'upscale': 3, 'embed_dim': 48, 'depths': (2,), 'num_heads': (3,), 'num_feat': 16, 'window_size': 4},
  ),
  'light': (
    'swinir',
    {'upscale': 2, 'embed_dim': 48, 'depths': (2,), 'num_heads': (2,), 'upsampler': 'pixelshuffledirect'},
  ),
  'real': (
    'swinir',
    {
      'upscale': 4,
      'embed_dim': 64,
      'depths': (1,),
      'num_heads': (2,),
      'upsampler': 'nearest+conv',
      'resi_connection': '3conv',
      'num_feat': 32,
      'mlp_ratio': 4.0,
    },
  ),
  'restore': ('swinir', {'upscale': 1, 'embed_dim': 48, 'depths': (2,), 'num_heads': (2,), 'upsampler': ''}),
  'drct': ('drct', {'upscale': 2, 'embed_dim': 48, 'gc': 16, 'num_heads': (3,), 'num_feat': 24}),
  'drct, identity': (
    'drct',
    {'upscale': 4, 'embed_dim': 48, 'gc': 16, 'num_heads': (3, 3), 'num_feat': 24, 'resi_connection': 'identity'},
  ),
}
SIDE = 96  # large enough that the border, whose products with zeros only the formula counts, is small


@pytest.mark.parametrize('name', TINY)
def test_xla_counts_what_the_formula_says(name):
  family, fields = TINY[name]
  formula = flops.forward_flops(family, fields, SIDE, SIDE)
  assert 0.99 < flops.counted_flops(family, fields, SIDE, SIDE) / formula < 1.09


@pytest.mark.skipif(
  jax.default_backend() != 'cpu', reason='other compilers replace products by calls that they cannot count'
)
@pytest.mark.parametrize('name', ['light', 'drct'])
def test_compiling_adds_little(name):
  family, fields = TINY[name]
  traced, compiled = (flops.counted_flops(family, fields, 32, 32, compiled) for compiled in (False, True))
  assert 0.95 < compiled / traced < 1.05


@pytest.mark.parametrize(
  ('preset', 'least', 'most'),
  [('swinir_light_x4', 1.0, 1.06), ('swinir_classical_x4', 1.0, 1.02), ('drct_x4', 1.0, 1.02)],
)
def test_published_networks(preset, least, most):
  family, fields = models.PRESETS[preset]
  assert least < flops.counted_flops(family, fields, 64, 64) / flops.forward_flops(family, fields, 64, 64) < most


@pytest.mark.parametrize('name', ['light', 'drct'])
def test_only_whole_windows_are_computed(name):
  family, fields = TINY[name]
  window = models.build(family, **fields).window_size
  one = flops.forward_flops(family, fields, window, window)
  assert flops.forward_flops(family, fields, window - 1, window + 1) == 2 * one
  assert flops.counted_flops(family, fields, 2 * window - 1, 3 * window) == pytest.approx(
    flops.counted_flops(family, fields, 2 * window, 3 * window), rel=0.01
  )


def test_terms_of_swinir_m_by_hand():
  # 4096 pixels: 36 blocks of 180 channels in windows of 64 pixels, MLPs of 360.
  terms = flops.forward_terms(*models.PRESETS['swinir_classical_x4'], 64, 64)
  assert terms['qkv and proj'] == 2 * 4096 * 36 * 4 * 180**2
  assert terms['attention'] == 2 * 4096 * 36 * 2 * 64 * 180
  assert terms['mlp'] == 2 * 4096 * 36 * 2 * 180 * 360
  convolutions = 3 * 180 + 7 * 180**2 + 180 * 64 + 64 * 256 + 4 * 64 * 256 + 16 * 64 * 3
  assert terms['convolutions'] == 2 * 4096 * 9 * convolutions


def test_other_models_and_faulty_fields_are_refused():
  with pytest.raises(UserError, match="no formula for model 'safmn'.*swinir, drct"):
    flops.forward_flops('safmn', {}, 64, 64)
  with pytest.raises(UserError, match='upscale is 5'):
    flops.forward_flops('drct', {'upscale': 5}, 64, 64)


def test_command(capsys):
  assert flops.main(['--models', 'swinir_light_x2', '--height', '16', '--width', '16']) == 0
  assert '| swinir_light_x2 |' in capsys.readouterr().out
  assert flops.main(['--models', 'swinir']) == 2
  assert capsys.readouterr().err.startswith("Error: There is no variant 'swinir'")


@pytest.mark.parametrize('name', ['light', 'drct'])
def test_the_exported_model_compiles_to_the_flops_of_the_base(tmp_path, name):
  family, fields = TINY[name]
  model = models.build(family, **fields)
  x = jnp.zeros((1, 16, 16, 3))
  rng = np.random.default_rng(0)
  shapes = tree.flatten(flops.parameters(model))
  params = tree.unflatten({path: rng.normal(0, 0.1, leaf.shape).astype(np.float32) for path, leaf in shapes.items()})
  sites = lora.find_sites(model)
  fresh = lora.init(jax.random.key(0), sites, {site.name: 2 for site in sites}, '1x1_kxk')
  adapters = jax.tree.map(lambda leaf: leaf + 0.1, fresh)
  merged = jax.device_get(lora.merge(params, adapters, sites, 1.0, '1x1_kxk'))
  base_lib.export(tmp_path / 'merged.pth', base_lib.Base(family, fields, params, {}, None), merged)
  exported = base_lib.load(tmp_path / 'merged.pth')

  def unmerged(variables, x):
    return lora.factored.forward(model.apply, variables['params'], adapters, sites, 1.0, '1x1_kxk', x)

  kernels = [tree.get(found, (*sites[1].path, 'kernel')) for found in (params, exported.params)]
  assert np.abs(kernels[0] - kernels[1]).max() > 1e-3
  programs = [
    step_time.program(jax.jit(apply).lower({'params': p}, x).compile())
    for apply, p in ((model.apply, params), (exported.model().apply, exported.params), (unmerged, params))
  ]
  assert programs[0] == programs[1]
  # That it tells programs apart: adapters beside the layers cost more.
  assert programs[2]['flops'] > 1.02 * programs[0]['flops']


def test_blocks_computed_again_keep_little_and_kept_bytes_follow_the_batch(capsys):
  fields = {**TINY['classical'][1], 'depths': (6, 6)}
  model = models.build('swinir', **fields)
  base = base_lib.Base('swinir', fields, flops.parameters(model), {}, None)

  def count(batch, **options):
    return kept.kept_bytes(step_time.Row('step', 'full', **options), base, batch, 16, 2)

  all_of_it, again, low = count(2), count(2, remat=True), count(2, dtype='bfloat16')
  assert again < 0.3 * all_of_it
  assert 0.5 * all_of_it < low < 0.8 * all_of_it
  weights = 4 * tree.count(base.params)
  assert 2 * (count(1) - weights) <= all_of_it < 2 * count(1)
  # A block keeps at least its input, what q, k, v are made of, the weights of attention and the hidden layer.
  pixels, c = 2 * 16 * 16, 48
  assert all_of_it > 4 * 12 * pixels * (c + 3 * c + 3 * 64 + 2 * c)

  assert kept.main(['--models=edsr_baseline_x2', '--batch=1', '--patch=8']) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[2].startswith('| edsr_baseline_x2, full | ')
  assert len(lines) == 5
  assert kept.main(['--models=edsr']) == 2
  assert "--models has 'edsr'" in capsys.readouterr().err

"""SwinIR and DRCT against outputs of the original code, published parameter counts, and their own promises."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaptsr_jax import convert, lora, models, tree
from adaptsr_jax.errors import UserError
from adaptsr_jax.models import attention
from tests.shared import GOLDEN

TOLERANCE = 5e-5  # the tanh GELU, a transposed position table and a layer norm with another epsilon fail
FIXTURES = sorted(path.name for family in ('swinir', 'drct') for path in GOLDEN.glob(f'{family}_*'))
PRESETS = [name for name in models.PRESETS if name.startswith(('swinir', 'drct'))]

# Names of the published configurations in the fixture of counts.
FACTS = {
  'swinir_classical': 'swinir_M_classical',
  'swinir_light': 'swinir_S_light',
  'swinir_real': 'swinir_M_real',
  'swinir_real_l': 'swinir_L_real',
  'swinir_denoise': 'swinir_M_colorDN',
  'swinir_jpeg': 'swinir_M_colorCAR_w7',
  'drct': 'drct',
  'drct_l': 'drct-l',
}

SWINIR = {'embed_dim': 8, 'depths': (2,), 'num_heads': (2,), 'window_size': 4, 'img_size': 8}
TINY = {
  'classical': ('swinir', {**SWINIR, 'upscale': 3, 'num_feat': 4}),
  'light': ('swinir', {**SWINIR, 'upscale': 2, 'upsampler': 'pixelshuffledirect'}),
  'real': (
    'swinir',
    {**SWINIR, 'upscale': 4, 'upsampler': 'nearest+conv', 'resi_connection': '3conv', 'num_feat': 4},
  ),
  'restore': ('swinir', {**SWINIR, 'upscale': 1, 'upsampler': '', 'window_size': 5, 'img_size': 10}),
  'drct': (
    'drct',
    {'upscale': 2, 'embed_dim': 8, 'gc': 4, 'num_heads': (2,), 'window_size': 4, 'img_size': 8, 'num_feat': 4},
  ),
}


# Most of the time goes into compiling: with less care it takes half as long.
jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})


def golden(name):
  """Returns (model, params, arrays, meta) of a fixture; four-dimensional arrays as NHWC."""
  folder = GOLDEN / name
  weights = convert.read(folder / 'weights.safetensors')
  family, fields, _ = convert.detect(weights)
  with np.load(folder / 'io.npz') as arrays:
    arrays = {key: value.transpose(0, 2, 3, 1) if value.ndim == 4 else value for key, value in arrays.items()}
  params = jax.tree.map(lambda leaf: leaf.astype(np.float32), convert.to_flax(family, weights))
  return models.build(family, **fields), params, arrays, json.loads((folder / 'meta.json').read_text())


def tiny(name, **fields):
  """Returns (model, params) of a small model with parameters that leave no part of it idle."""
  family, chosen = TINY[name]
  model = models.build(family, **{**chosen, **fields})
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, model.minimum, model.minimum, 3)))['params']
  leaves = {path: rng.normal(path.endswith('scale'), 0.2, leaf.shape) for path, leaf in tree.flatten(shapes).items()}
  return model, tree.unflatten({path: leaf.astype(np.float32) for path, leaf in leaves.items()})


def picture(h, w, b=1):
  return np.random.default_rng(h * w).random((b, h, w, 3), np.float32)


@pytest.mark.parametrize('name', FIXTURES)
def test_outputs_and_activations_equal_original(name):
  model, params, arrays, meta = golden(name)
  assert model.num_feat == meta['num_feat'] or model.upsampler == 'pixelshuffledirect'
  apply = jit(functools.partial(model.apply, capture_intermediates=True, mutable=['intermediates']))
  inputs = [key for key in arrays if key.startswith('input')]
  assert inputs
  for key in inputs:
    y, state = apply({'params': params}, arrays[key])
    np.testing.assert_allclose(y, arrays[key.replace('input', 'output')], rtol=0, atol=TOLERANCE, err_msg=key)
    if key == 'input':
      activations = state['intermediates']
  compared = 0
  for key in arrays:
    if key.startswith('act:'):
      path = key[4:].replace('.residual_group', '').replace('layers.', 'layers_').replace('blocks.', 'blocks_')
      (found,) = tree.get(activations, (*path.split('.'), '__call__'))
      want = arrays[key]  # (b, h * w, c)
      np.testing.assert_allclose(found.reshape(want.shape), want, rtol=0, atol=TOLERANCE, err_msg=key)
      compared += 1
  assert compared == 3


@pytest.mark.parametrize('preset', PRESETS)
def test_parameter_counts(preset):
  name, fields = models.PRESETS[preset]
  model = models.build(name, **fields)
  x = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
  y, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
  stem, _, scale = preset.rpartition('_x')
  facts = json.loads((GOLDEN / 'backbone_facts.json').read_text())['models']
  fact = facts[f'{FACTS[stem]}_x{scale}' if stem else FACTS[preset]]
  assert tree.count(variables['params']) == fact['trainable']
  assert y.shape == (1, 16 * model.upscale, 16 * model.upscale, 3)
  assert list(variables) == ['params']
  if 'heads_per_swin' in fact:
    assert model.heads_of(model.num_heads[0]) == tuple(fact['heads_per_swin'])


def test_presets_are_all_published_ones():
  facts = json.loads((GOLDEN / 'backbone_facts.json').read_text())['models']
  stems = [preset.rpartition('_x') for preset in PRESETS]
  named = {f'{FACTS[stem]}_x{scale}' if stem else FACTS[scale] for stem, _, scale in stems}
  # A smaller training picture changes the stored masks, and nothing that is learned.
  assert named | {'swinir_M_classical_x4_img48'} == {key for key in facts if key.startswith(('swinir', 'drct'))}


def test_sites_of_swinir_m_are_those_of_the_paper_in_order():
  names = json.loads((GOLDEN / 'methods/allocation_156/meta.json').read_text())['names']
  # The fixture numbers the convolutions of the upsampler; their names in weight files count the shuffles too.
  renamed = {'conv_before_upsample': 'conv_before_upsample_0', 'upsample_1': 'upsample_2'}
  name, fields = models.PRESETS['swinir_classical_x4']
  for remat in (False, True):
    sites = lora.find_sites(models.build(name, **fields, remat=remat))
    assert [site.name for site in sites] == [renamed.get(name, name) for name in names]
  kinds = {site.name.rpartition('/')[2]: site.kind for site in sites if '/' in site.name}
  assert kinds == {'qkv': 'attn', 'proj': 'attn', 'fc1': 'mlp', 'fc2': 'mlp', 'conv': 'conv'}


def test_sites_of_drct():
  model, _ = tiny('drct')
  sites = lora.find_sites(model, split_qkv=True)
  block = [('attn/qkv:q', 'attn'), ('attn/qkv:k', 'attn'), ('attn/qkv:v', 'attn'), ('attn/proj', 'attn')]
  block += [('mlp/fc1', 'mlp'), ('mlp/fc2', 'mlp')]
  want = [('conv_first', 'conv')]
  for k in range(1, 6):
    want += [(f'layers_0/swin{k}/{name}', kind) for name, kind in block] + [(f'layers_0/adjust{k}', 'conv')]
  want += [(name, 'conv') for name in ('conv_after_body', 'conv_before_upsample_0', 'upsample_0', 'conv_last')]
  assert [(site.name, site.kind) for site in sites] == want


@pytest.mark.parametrize('name', TINY)
def test_any_size_is_taken_and_tells_nothing_of_its_neighbours(name):
  model, params = tiny(name)
  apply = jit(model.apply)
  h, w, side = model.minimum, 9, model.multiple
  x = picture(h, w, 2)
  y = apply({'params': params}, x)
  assert y.shape == (2, model.upscale * h, model.upscale * w, 3)
  # Padding is by reflection at the bottom and the right; pictures of a batch do not meet.
  padded = np.pad(x[1:], ((0, 0), (0, -h % side), (0, -w % side), (0, 0)), 'reflect')
  whole = apply({'params': params}, padded)[:, : y.shape[1], : y.shape[2]]
  np.testing.assert_allclose(whole, y[1:], rtol=0, atol=1e-5)


@pytest.mark.parametrize('name', TINY)
def test_gray_networks_take_gray_pictures_and_colours_one_by_one(name):
  model, params = tiny(name, rgb_mean=(0.0,))
  apply = jit(model.apply)
  x = picture(7, 9, 2)
  colours = [apply({'params': params}, x[..., i : i + 1]) for i in range(3)]
  assert colours[0].shape == (2, 7 * model.upscale, 9 * model.upscale, 1)
  np.testing.assert_allclose(apply({'params': params}, x), np.concatenate(colours, -1), rtol=0, atol=1e-5)


def test_other_numbers_of_colours_are_taken_as_they_are_and_not_otherwise():
  model = models.build('swinir', **{**TINY['light'][1], 'rgb_mean': (0.0,) * 4})
  y, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.zeros((1, 8, 8, 4)))
  assert y.shape == (1, 16, 16, 4)
  with pytest.raises(UserError, match='pictures of 4 colours, not of 3'):
    jax.eval_shape(model.init, jax.random.key(0), picture(8, 8))
  with pytest.raises(UserError, match='pictures of 3 colours, not of 1'):
    jax.eval_shape(models.build('drct').init, jax.random.key(0), picture(8, 8)[..., :1])


def test_a_number_stands_for_a_tuple_of_one():
  assert models.build('swinir', rgb_mean=0, depths=2, num_heads=[6]) == models.build(
    'swinir', rgb_mean=(0,), depths=(2,), num_heads=(6,)
  )


@pytest.mark.parametrize('name', TINY)
def test_too_small_pictures_are_refused(name):
  model, params = tiny(name)
  smallest = model.minimum
  assert smallest == model.window_size // 2 + 1
  with pytest.raises(UserError, match=f'9 x {smallest - 1} pixels.* {smallest};'):
    jax.eval_shape(model.apply, {'params': params}, jnp.zeros((1, smallest - 1, 9, 3)))


@pytest.mark.parametrize('name', TINY)
def test_gradients_are_finite_reach_all_and_survive_remat(name):
  model, params = tiny(name)
  x = picture(7, 9)

  def gradients(model):
    return jit(jax.grad(lambda p: jnp.abs(model.apply({'params': p}, x) - 0.5).mean()))(params)

  kept = tree.flatten(gradients(model))
  computed_again = tree.flatten(gradients(model.clone(remat=True)))
  assert list(kept) == list(computed_again)
  for path, gradient in kept.items():
    assert np.isfinite(gradient).all(), path
    assert np.abs(gradient).max() > 0, path
    np.testing.assert_allclose(computed_again[path], gradient, rtol=0, atol=1e-5, err_msg=path)


@pytest.mark.parametrize('name', TINY)
def test_bfloat16_keeps_parameters_sums_and_pictures_in_float32(name):
  model, params = tiny(name)
  low = model.clone(dtype=jnp.bfloat16)
  x = picture(8, 12)
  y = jit(model.apply)({'params': params}, x)
  z, state = jit(functools.partial(low.apply, capture_intermediates=True))({'params': params}, x)
  assert z.dtype == y.dtype == jnp.float32
  (features,) = state['intermediates']['layers_0']['__call__']
  assert features.dtype == jnp.float32
  initial = jax.eval_shape(low.init, jax.random.key(0), x)['params']
  assert {leaf.dtype for leaf in jax.tree.leaves(initial)} == {jnp.dtype('float32')}
  assert 0 < np.abs(y - z).max() < 0.03 * np.abs(y).max()


@pytest.mark.parametrize('name', ['real', 'drct'])
@pytest.mark.parametrize('remat', [False, True], ids=['', 'remat'])
def test_adapters_reach_every_site_merged_and_factored(name, remat):
  model, params = tiny(name, remat=remat)
  sites = lora.find_sites(model, split_qkv=True)
  rng = np.random.default_rng(0)
  fresh = lora.init(jax.random.key(0), sites, {site.name: 1 for site in sites}, 'loralib')
  adapters = jax.tree.map(lambda leaf: leaf + rng.normal(0, 0.1, leaf.shape).astype(np.float32), fresh)
  x = picture(8, 8)

  def merged(adapters):
    return model.apply({'params': lora.merge(params, adapters, sites, 1.0, 'loralib')}, x)

  def factored(adapters):
    return lora.factored.forward(model.apply, params, adapters, sites, 1.0, 'loralib', x)

  y, z = jit(merged)(adapters), jit(factored)(adapters)
  np.testing.assert_allclose(z, y, rtol=0, atol=1e-5 * np.abs(y).max())
  assert np.abs(y - jit(merged)(fresh)).max() > 1e-2
  gradient = jit(jax.grad(lambda a: jnp.abs(factored(a)).mean()))(adapters)
  for site, ab in gradient.items():
    assert min(np.abs(leaf).max() for leaf in ab.values()) > 0, site


@pytest.mark.parametrize('name', TINY)
def test_receptive_is_the_radius(name):
  model, params = tiny(name)
  side, upscale = 40 // model.multiple * model.multiple, model.upscale

  @jit
  @jax.grad
  def gradient(x, row):  # of the output pixels of one input pixel on the diagonal
    y = model.apply({'params': params}, x)
    block = jax.lax.dynamic_slice(y, (0, row * upscale, row * upscale, 0), (1, upscale, upscale, 3))
    return block.sum()

  reached = 0
  for row in range(side // 2, side // 2 + model.multiple):
    _, rows, columns, _ = np.nonzero(gradient(picture(side, side), row))
    reached = max(reached, *np.abs(rows - row), *np.abs(columns - row))
  assert model.tileable
  assert model.receptive - 2 <= reached <= model.receptive < side // 2


def test_absolute_positions_fit_one_size_only():
  model, params = tiny('classical', ape=True)
  assert params['absolute_pos_embed'].shape == (1, 64, 8)
  apply = jit(model.apply)
  y = apply({'params': params}, picture(8, 8))
  without = {**params, 'absolute_pos_embed': 0 * params['absolute_pos_embed']}
  assert np.abs(y - apply({'params': without}, picture(8, 8))).max() > 1e-3
  assert apply({'params': params}, picture(8, 8)[:, :7, :6]).shape == (1, 21, 18, 3)
  with pytest.raises(UserError, match='8 x 8 pixels, not 12 x 8'):
    jax.eval_shape(model.apply, {'params': params}, jnp.zeros((1, 8, 12, 3)))


def test_options_change_the_parameters_that_they_name():
  paths = {}
  for field, value in (('patch_norm', True), ('patch_norm', False), ('qkv_bias', False), ('img_size', 4)):
    paths[field, value] = set(tree.flatten(tiny('light', **{field: value})[1]))
  full = paths['patch_norm', True]
  assert full - paths['patch_norm', False] == {'patch_embed/norm/scale', 'patch_embed/norm/bias'}
  assert full - paths['qkv_bias', False] == {f'layers_0/blocks_{i}/attn/qkv/bias' for i in (0, 1)}
  assert paths['img_size', 4] == full
  assert 'conv_after_body/kernel' not in tree.flatten(tiny('drct', resi_connection='identity')[1])


def test_pictures_no_larger_than_a_window_are_not_shifted():
  model, params = tiny('light', window_size=8, img_size=4)
  assert params['layers_0']['blocks_0']['attn']['relative_position_bias_table'].shape == (49, 2)
  x = picture(8, 8)
  apply = jit(model.apply)
  y = apply({'params': params}, x)
  assert (model.multiple, y.shape) == (8, (1, 16, 16, 3))
  # Windows of 4 stand still: four convolutions carry the last window one pixel short of the first.
  x[:, 7, 7] += 1
  assert np.array_equal(apply({'params': params}, x)[:, :2, :2], y[:, :2, :2])
  with pytest.raises(UserError, match='single window'):
    _ = model.receptive


def test_qk_scale_replaces_the_root_of_the_width():
  model, params = tiny('light')
  y, z, other = (
    jit(model.clone(qk_scale=scale).apply)({'params': params}, picture(8, 8)) for scale in (None, 0.5, 0.1)
  )
  np.testing.assert_array_equal(y, z)  # four channels a head
  assert np.abs(y - other).max() > 1e-3


@pytest.mark.parametrize(
  ('name', 'fields', 'message'),
  [
    ('swinir', {'dtype': jnp.float16}, 'float16.*65504.*bfloat16'),
    ('drct', {'dtype': np.float16}, 'float16.*65504.*bfloat16'),
    ('swinir', {'upscale': 3, 'upsampler': 'nearest+conv'}, "upscale is 3.*'nearest\\+conv' it can be 2, 4"),
    ('swinir', {'upscale': 5}, 'upscale is 5; it can be 3 or a power of two'),
    ('swinir', {'upsampler': 'bilinear'}, "upsampler is 'bilinear'.*pixelshuffledirect"),
    ('swinir', {'resi_connection': 'identity'}, "resi_connection is 'identity'.*3conv"),
    ('swinir', {'depths': (6,)}, 'depths has 1 entries and num_heads 6'),
    ('swinir', {'embed_dim': 64}, 'embed_dim is 64, which 6 heads'),
    ('swinir', {'num_heads': (6, 6, 6, 6, 6, 0)}, '0 heads'),
    ('swinir', {'img_size': 60}, 'img_size is 60.*window of 8'),
    ('swinir', {'img_size': 6}, 'img_size is 6.*window_size 8'),
    ('swinir', {'window_size': 0}, 'window_size is 0'),
    ('swinir', {'img_range': 'abc'}, "img_range is 'abc', but it should be a number"),
    ('swinir', {'img_size': 64.0}, 'img_size is 64.0, but it should be a whole number'),
    ('swinir', {'depths': (6, 'x')}, r"depths is \(6, 'x'\), but it should be numbers"),
    ('swinir', {'ape': 1}, 'ape is 1, but it should be true or false'),
    ('drct', {'resi_connection': 1}, 'resi_connection is 1, but it should be a word'),
    ('drct', {'qk_scale': 'x'}, "qk_scale is 'x', but it should be a number or None"),
    ('drct', {'dtype': 'bf'}, "dtype is 'bf', but it should be a type of numbers"),
    ('swinir', {'rgb_mean': ()}, 'rgb_mean is empty.*3 values, or 1 for gray'),
    ('drct', {'resi_connection': '3conv'}, "resi_connection is '3conv'.*identity"),
    ('drct', {'gc': 31}, 'num_heads of 6 gives 5 heads to a block of 211 channels'),
    ('drct', {'num_heads': (0,)}, 'num_heads of 0'),
    ('drct', {'depths': (6, 6)}, "no field 'depths'"),
  ],
)
def test_faulty_settings_are_refused(name, fields, message):
  with pytest.raises(UserError, match=message):
    models.build(name, **fields)


@pytest.mark.parametrize('order', [attention._ON_CPU, attention._ELSEWHERE], ids=['cpu', 'elsewhere'])
@pytest.mark.parametrize('shifted', [None, (8, 4, 2)])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_attention_and_its_gradient_follow_the_definition(monkeypatch, shifted, dtype, order):
  monkeypatch.setattr(attention, '_ON_CPU', order)
  side, heads, width = 4, 3, 2
  n, c = side**2, heads * width
  rng = np.random.default_rng(0)
  shapes = ((4, n, 3 * c), (heads, n, n), (4, n, c))
  qkv, bias, weight = (rng.normal(0, 2, shape).astype(np.float32) for shape in shapes)

  def plain(qkv, bias):
    q, k, v = jnp.moveaxis(qkv.reshape(4, n, 3, heads, width), 2, 0)
    logits = 0.4 * jnp.einsum('wahd,wbhd->whab', q, k) + bias
    if shifted:
      region = jnp.tile(attention.regions(8, 4, side, 2), (2, 1))
      logits += jnp.where(region[:, None, :, None] == region[:, None, None], 0, -100.0)
    logits = jnp.exp(logits - logits.max(-1, keepdims=True))
    return jnp.einsum('whab,wbhd->wahd', logits / logits.sum(-1, keepdims=True), v).reshape(4, n, c)

  def both(attend, qkv, bias):
    return attend(qkv, bias), *jax.grad(lambda *of: (weight * attend(*of)).sum(), (0, 1))(qkv, bias)

  low = jnp.asarray(qkv, dtype)
  want = both(plain, low.astype(jnp.float32), bias)
  for found, expected in zip(both(functools.partial(attention.attend, shifted, 0.4), low, bias), want, strict=True):
    np.testing.assert_allclose(
      found.astype(jnp.float32), expected, rtol=0, atol=1e-4 if dtype == 'float32' else 0.03 * np.abs(expected).max()
    )


@pytest.mark.parametrize(('height', 'width', 'side', 'shift'), [(8, 8, 4, 2), (14, 21, 7, 3), (4, 12, 4, 2)])
def test_regions_are_the_neighbourhoods_after_the_shift(height, width, side, shift):
  """Two pixels of a window may meet if rolling back leaves them as far apart as they are in the window."""
  y, x = np.mgrid[:height, :width]
  at = np.stack([np.roll(grid, (-shift, -shift), (0, 1)) for grid in (y, x)], -1)
  cut = attention.partition(jnp.asarray(at[None]), side)
  windows = np.asarray(cut)
  inside = np.stack(np.divmod(np.arange(side**2), side), -1)
  moved = windows[:, :, None] - windows[:, None]
  together = (moved == inside[:, None] - inside[None]).all(-1)
  labels = attention.regions(height, width, side, shift)
  np.testing.assert_array_equal(labels[:, :, None] == labels[:, None], together)
  np.testing.assert_array_equal(
    attention.unite(attention.partition(jnp.asarray(at[None]), side), side, height, width)[0], at
  )

"""Sites, adapters and both ways of running them, against published numbers and the arrays of reference programs."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaptsr_jax import lora, models, tree
from adaptsr_jax.errors import UserError
from adaptsr_jax.lora import Site
from tests.shared import GOLDEN

TOLERANCE = {'atol': 2e-5, 'rtol': 2e-5}
X = np.random.default_rng(0).uniform(size=(2, 8, 8, 3)).astype(np.float32)


# Small networks in every style of linen.


class Attention(nn.Module):
  @nn.compact
  def __call__(self, x):
    q, k, v = jnp.split(nn.Dense(3 * x.shape[-1], name='qkv')(x), 3, -1)
    return nn.Dense(x.shape[-1], name='proj')(nn.softmax(q * k) * v)


class Block(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = x + Attention(name='attn')(x)
    x = x + nn.Dense(x.shape[-1], name='fc2')(nn.gelu(nn.Dense(6, name='fc1')(x)))
    return x + nn.Conv(x.shape[-1], (3, 3), feature_group_count=x.shape[-1], name='depthwise')(x)


class Compact(nn.Module):
  """Every setting of a convolution that the factored path has to keep."""

  block: type = Block

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(4, (3, 3), name='conv_first')(x)
    x = self.block(name='block')(x)
    x = nn.Conv(5, (3, 3), strides=2, padding=1, name='strided')(x)
    x = nn.Conv(6, (3, 3), kernel_dilation=2, padding='REFLECT', use_bias=False, name='dilated')(x)
    return nn.Conv(3, (1, 1), name='conv_last')(x)


class Setup(nn.Module):
  """Modules of `setup` and in a list, one of them called twice."""

  def setup(self):
    self.head = nn.Conv(4, (3, 3))
    self.body = [nn.Conv(4, (3, 3)) for _ in range(2)]

  def __call__(self, x):
    x = self.head(x)
    return self.body[1](self.body[0](self.body[0](x)))


class Single(nn.Module):
  layer: nn.Module

  def __call__(self, x):
    return self.layer(x)


def networks():
  return {'compact': Compact(), 'remat': Compact(nn.remat(Block)), 'setup': Setup()}


def params_of(model, dtype=jnp.float32):
  # Drawn by numpy: compiling the initialisers would take most of the time of these tests.
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(model.init, jax.random.key(1), X)['params']
  return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), dtype), shapes)


def merged_forward(model, params, adapters, sites, alpha, form, rslora=False):
  return model.apply({'params': lora.merge(params, adapters, sites, alpha, form, rslora)}, X)


def factored_forward(model, params, adapters, sites, alpha, form, rslora=False):
  return lora.factored.forward(model.apply, params, adapters, sites, alpha, form, X, rslora)


def hybrid_forward(model, params, adapters, sites, alpha, form, rslora=False):
  return lora.factored.forward(model.apply, params, adapters, sites, alpha, form, X, rslora, hybrid=True)


def compiled(forward, model, sites, alpha, form, rslora=False):
  return jax.jit(lambda adapters, params: forward(model, params, adapters, sites, alpha, form, rslora))


def ragged(sites):
  return {site.name: (2, 0, 1, 3)[i % 4] for i, site in enumerate(sites)}


def trained(sites, ranks, form, seed=2):
  """Adapters after some training: b is not zero any more."""
  rng = np.random.default_rng(seed)
  return {
    s.name: {
      leaf: 0.2 * rng.normal(size=shape).astype(np.float32)
      for leaf, shape in lora.shapes(s, ranks[s.name], form).items()
    }
    for s in sites
    if ranks.get(s.name)
  }


def deltas(adapters, sites, form, alpha=4.0, rslora=False):
  adapted = [s for s in sites if s.name in adapters]
  return jax.jit(lambda ad: {s.name: lora.delta(s, ad[s.name], alpha, form, rslora) for s in adapted})(adapters)


# Sites


def test_sites_in_order_of_execution():
  sites = lora.find_sites(Compact())
  assert [(s.name, s.kind, s.shape) for s in sites] == [
    ('conv_first', 'conv', (3, 3, 3, 4)),
    ('block/attn/qkv', 'attn', (4, 12)),
    ('block/attn/proj', 'attn', (4, 4)),
    ('block/fc1', 'mlp', (4, 6)),
    ('block/fc2', 'mlp', (6, 4)),
    ('strided', 'conv', (3, 3, 4, 5)),
    ('dilated', 'conv', (3, 3, 5, 6)),
    ('conv_last', 'conv', (1, 1, 6, 3)),
  ]


@pytest.mark.parametrize('style', networks())
def test_paths_lead_to_kernels(style):
  model = networks()[style]
  params, sites = params_of(model), lora.find_sites(model)
  assert len(sites) == {'compact': 8, 'remat': 8, 'setup': 3}[style]
  for site in sites:
    assert tree.get(params, site.path)['kernel'].shape == site.shape
    assert site.name == '/'.join(site.path)


def test_remat_has_the_same_sites():
  assert lora.find_sites(Compact(nn.remat(Block))) == lora.find_sites(Compact())


def test_exclude_searches_names():
  names = [s.name for s in lora.find_sites(Compact(), exclude=('attn', 'conv_(first|last)$'))]
  assert names == ['block/fc1', 'block/fc2', 'strided', 'dilated']


def test_split_qkv_makes_three_sites_of_one_kernel():
  sites = [s for s in lora.find_sites(Compact(), split_qkv=True) if 'qkv' in s.name]
  assert [(s.name[-2:], s.shape, s.part) for s in sites] == [
    (':q', (4, 4), (0, 4)),
    (':k', (4, 4), (4, 8)),
    (':v', (4, 4), (8, 12)),
  ]
  assert {s.path for s in sites} == {('block', 'attn', 'qkv')}
  assert len(lora.find_sites(Compact(), exclude=[':k$'], split_qkv=True)) == 9


def test_picture_for_tracing_follows_the_model():
  class Windows(nn.Module):
    minimum = 9
    multiple = 8

    @nn.compact
    def __call__(self, x):
      assert x.shape == (1, 16, 16, 3)
      return nn.Dense(2)(x)

  assert len(lora.find_sites(Windows())) == 1


@pytest.mark.parametrize(
  ('name', 'fields', 'number'),
  [('safmn', {'dim': 8, 'n_blocks': 2}, 2 + 3 * 2), ('edsr', {'num_feat': 8, 'num_block': 2}, 5 + 2 * 2)],
)
def test_sites_of_backbones(name, fields, number):
  model = models.build(name, upscale=4, **fields)
  sites = lora.find_sites(model)
  assert len(sites) == number
  assert not any('mfr' in site.name for site in sites)
  params = jax.eval_shape(model.init, jax.random.key(0), X)['params']
  assert all(tree.get(params, site.path)['kernel'].shape == site.shape for site in sites)


def test_sites_go_through_json():
  sites = lora.find_sites(Compact(), split_qkv=True)
  rows = json.loads(json.dumps(lora.to_json(sites, ragged(sites))))
  assert lora.from_json(rows) == (sites, ragged(sites))


@pytest.mark.parametrize(
  'fault',
  [
    {'kind': 'conv'},
    {'shape': [4, 5]},
    {'shape': [4.0, 4]},
    {'shape': [0, 4]},
    {'shape': []},
    {'part': [4, 2]},
    {'part': [4]},
    {'path': []},
    {'path': [1]},
    {'rank': -1},
    {'rank': 'x'},
    {'name': 3},
  ],
  ids=str,
)
def test_rows_that_describe_no_site_are_refused(fault):
  row = lora.to_json(lora.find_sites(Compact(), split_qkv=True), {})[1]
  with pytest.raises(UserError, match='does not describe a site'):
    lora.from_json([{**row, **fault}])
  with pytest.raises(UserError, match='twice'):
    lora.from_json([row, row])


def test_table_shows_ranks_and_totals():
  sites = lora.find_sites(Compact())
  ranks = ragged(sites)
  text = lora.table(sites, ranks, '1x1_kxk', biases=17)
  total = sum(ranks[s.name] * lora.cost(s, '1x1_kxk') for s in sites)
  assert f'= {total + 17:,} parameters' in text
  assert 'conv: 3 of 4 sites adapted' in text
  assert 'Depthwise' in text
  assert next(line for line in text.splitlines() if line.startswith('block/fc2')).split()[1:] == [
    'mlp',
    '6x4',
    '2',
    '20',
  ]


# Costs, against the published tables for SwinIR-M x4 (180 wide, 36 blocks)


def conv(name, cin, cout):
  return Site(name, (name,), 'conv', (3, 3, cin, cout), None)


def dense(name, kind, cin, cout):
  return Site(name, (name,), kind, (cin, cout), None)


def swinir_sites():
  convolutions = [
    conv('conv_first', 3, 180),
    *(conv(f'layers_{i}/conv', 180, 180) for i in range(6)),
    conv('conv_after_body', 180, 180),
    conv('conv_before_upsample', 180, 64),
    conv('conv_last', 64, 3),
  ]
  blocks = [
    dense(f'blocks_{i}/{name}', kind, cin, cout)
    for i in range(36)
    for name, kind, cin, cout in (
      ('attn/qkv', 'attn', 180, 540),
      ('attn/proj', 'attn', 180, 180),
      ('fc1', 'mlp', 180, 360),
      ('fc2', 'mlp', 360, 180),
    )
  ]
  return convolutions + blocks


@pytest.mark.parametrize(
  ('form', 'rank', 'parameters'),
  [
    ('loralib', 1, 151_753 - 46_867),
    ('loralib', 4, 466_411 - 46_867),
    ('loralib', 8, 839_088),
    ('loralib', 16, 1_725_043 - 46_867),
    ('loralib', 64, 6_759_571 - 46_867),
    ('1x1_kxk', 8, 789_507 - 46_867),
  ],
)
def test_costs_give_the_published_counts(form, rank, parameters):
  assert rank * sum(lora.cost(site, form) for site in swinir_sites()) == parameters


def test_costs_by_kind_give_the_published_counts():
  kinds = dict.fromkeys(('conv', 'mlp', 'attn'), 0)
  for site in swinir_sites():
    kinds[site.kind] += 32 * lora.cost(site, 'loralib')
  assert kinds == {'conv': 868_032, 'mlp': 1_244_160, 'attn': 1_244_160}


def test_biases_of_the_published_sites():
  assert sum(site.shape[-1] for site in swinir_sites()) == 46_867


@pytest.mark.parametrize('form', lora.FORMS)
def test_cost_is_what_init_makes(form):
  sites = lora.find_sites(Compact(), split_qkv=True)
  ranks = ragged(sites)
  adapters = jax.eval_shape(lambda: lora.init(jax.random.key(0), sites, ranks, form))
  assert tree.count(adapters) == sum(lora.cost(s, form) * ranks[s.name] for s in sites)
  assert {name: lora.rank_of(next(s for s in sites if s.name == name), ab, form) for name, ab in adapters.items()} == {
    name: rank for name, rank in ranks.items() if rank
  }


def test_kernel_width():
  assert lora.kernel_width(conv('conv_first', 3, 180)) == 3
  assert lora.kernel_width(dense('fc1', 'mlp', 180, 360)) == 180


def test_unknown_forms_and_oblong_kernels_are_refused():
  oblong = Site('oblong', ('oblong',), 'conv', (1, 3, 4, 4), None)
  with pytest.raises(UserError, match='oblong is 1x3'):
    lora.cost(oblong, 'loralib')
  with pytest.raises(UserError, match='square'):
    lora.init(jax.random.key(0), [oblong], {'oblong': 2}, 'loralib')
  with pytest.raises(UserError, match="'eq2' is not known"):
    lora.cost(oblong, 'eq2')
  assert lora.cost(oblong, 'kxk_1x1') == 3 * 4 + 4


# Adapters


@pytest.mark.parametrize(
  ('name', 'form', 'rslora'),
  [
    ('lora_linear', '1x1_kxk', False),
    ('rslora_linear', 'loralib', True),
    ('loralib_conv', 'loralib', False),
    ('peft_conv', 'kxk_1x1', False),
    ('eq2_conv', '1x1_kxk', False),
  ],
)
def test_merge_and_factored_equal_the_reference(name, form, rslora):
  data = np.load(GOLDEN / 'methods' / name / 'data.npz')
  meta = json.loads((GOLDEN / 'methods' / name / 'meta.json').read_text())
  kernel = data['kernel']
  cout = kernel.shape[-1]
  conv = kernel.ndim == 4
  model = Single(nn.Conv(cout, (3, 3), precision='highest') if conv else nn.Dense(cout, precision='highest'))
  site = Site('layer', ('layer',), 'conv' if conv else 'mlp', kernel.shape, None)
  params = {'layer': {'kernel': kernel, 'bias': data['bias']}}
  adapters = {'layer': {'a': data['a'], 'b': data['b']}}

  assert lora.rank_of(site, adapters['layer'], form) == meta['r']
  merged = lora.merge(params, adapters, [site], meta['alpha'], form, rslora)
  np.testing.assert_allclose(merged['layer']['kernel'], data['kernel_merged'], **TOLERANCE)
  np.testing.assert_allclose(model.apply({'params': merged}, data['x']), data['y'], **TOLERANCE)
  y = lora.factored.forward(model.apply, params, adapters, [site], meta['alpha'], form, data['x'], rslora)
  np.testing.assert_allclose(y, data['y'], **TOLERANCE)


def test_merge_and_factored_equal_the_reference_for_parts():
  data = np.load(GOLDEN / 'methods' / 'lora_split_qkv' / 'data.npz')
  meta = json.loads((GOLDEN / 'methods' / 'lora_split_qkv' / 'meta.json').read_text())
  width = data['kernel'].shape[0]
  model = Single(nn.Dense(3 * width, precision='highest'))
  parts = {letter: (i * width, (i + 1) * width) for i, letter in enumerate('qkv')}
  sites = [Site(f'layer:{x}', ('layer',), 'attn', (width, width), part) for x, part in parts.items()]
  params = {'layer': {'kernel': data['kernel'], 'bias': data['bias']}}
  adapters = {f'layer:{p}': {'a': data['a'][i], 'b': data['b'][i]} for i, p in enumerate(meta['parts'])}

  merged = lora.merge(params, adapters, sites, meta['alpha'], '1x1_kxk')
  np.testing.assert_allclose(merged['layer']['kernel'], data['kernel_merged'], **TOLERANCE)
  np.testing.assert_array_equal(merged['layer']['kernel'][:, width : 2 * width], data['kernel'][:, width : 2 * width])
  np.testing.assert_allclose(model.apply({'params': merged}, data['x']), data['y'], **TOLERANCE)
  y = lora.factored.forward(model.apply, params, adapters, sites, meta['alpha'], '1x1_kxk', data['x'])
  np.testing.assert_allclose(y, data['y'], **TOLERANCE)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('form', lora.FORMS)
def test_start_is_the_base_bit_for_bit(form, dtype):
  params, sites = params_of(Compact(), dtype), lora.find_sites(Compact(), split_qkv=True)
  merged = lora.merge(params, lora.init(jax.random.key(3), sites, ragged(sites), form), sites, 4.0, form)
  assert tree.compare(params, merged) == []
  for name, leaf in tree.flatten(merged).items():
    assert leaf.dtype == dtype
    assert np.asarray(leaf).tobytes() == np.asarray(tree.flatten(params)[name]).tobytes(), name


def test_merge_leaves_the_rest_as_it_is():
  params, sites = params_of(Compact()), lora.find_sites(Compact())
  before = jax.tree.map(np.array, params)
  merged = lora.merge(params, trained(sites, {'block/fc1': 2}, '1x1_kxk'), sites, 4.0, '1x1_kxk')
  changed = [k for k, leaf in tree.flatten(merged).items() if leaf is not tree.flatten(params)[k]]
  assert changed == ['block/fc1/kernel']
  assert not np.array_equal(merged['block']['fc1']['kernel'], params['block']['fc1']['kernel'])
  assert merged['block']['attn'] is params['block']['attn']
  jax.tree.map(np.testing.assert_array_equal, params, before)


def test_merge_adds_in_float32():
  # An update far below the spacing of bfloat16 must survive until the sum is rounded, once.
  site = dense('fc', 'mlp', 1, 1)
  params = {'fc': {'kernel': jnp.ones((1, 1), jnp.bfloat16)}}
  adapters = {f'fc{i}': {'a': jnp.ones((1, 1)), 'b': jnp.full((1, 1), 0.003)} for i in range(2)}
  sites = [site._replace(name=f'fc{i}') for i in range(2)]
  merged = lora.merge(params, adapters, sites, 1.0, '1x1_kxk')
  assert float(merged['fc']['kernel'][0, 0]) == 1.0078125  # 1.003 alone rounds to 1


@pytest.mark.parametrize('form', lora.FORMS)
def test_a_starts_within_its_bounds(form):
  sites = [conv('layers_0/conv', 180, 180), dense('blocks_35/attn/qkv', 'attn', 180, 540)]
  adapters = lora.init(jax.random.key(0), sites, {s.name: 8 for s in sites}, form)
  fan_in = {'1x1_kxk': 180, 'kxk_1x1': 9 * 180, 'loralib': 3 * 180}[form]
  for name, fan in {'layers_0/conv': fan_in, 'blocks_35/attn/qkv': 180}.items():
    largest = np.abs(adapters[name]['a']).max()
    assert 0.98 / np.sqrt(fan) < largest <= 1 / np.sqrt(fan)
    assert not adapters[name]['b'].any()


def test_start_of_a_site_depends_on_its_name_only():
  sites = lora.find_sites(Compact())
  few = lora.init(jax.random.key(0), sites[3:5], {'block/fc2': 2}, '1x1_kxk')
  many = lora.init(jax.random.key(0), sites, {s.name: 2 for s in sites}, '1x1_kxk')
  np.testing.assert_array_equal(few['block/fc2']['a'], many['block/fc2']['a'])
  assert list(few) == ['block/fc2']
  assert not np.array_equal(many['block/attn/proj']['a'], many['block/attn/qkv']['a'])


def test_foreign_sites_are_refused():
  sites = lora.find_sites(Compact())
  adapters = trained(sites, {'block/fc1': 1}, '1x1_kxk')
  for call in (
    lambda: lora.init(jax.random.key(0), sites, {'block/fc9': 1}, '1x1_kxk'),
    lambda: lora.merge({}, {'block/fc9': adapters['block/fc1']}, sites, 1.0, '1x1_kxk'),
    lambda: lora.combine([{'block/fc9': adapters['block/fc1']}], [1.0], sites, '1x1_kxk'),
  ):
    with pytest.raises(UserError, match='block/fc9 is not among the 8 sites'):
      call()


@pytest.mark.parametrize('rslora', [False, True])
@pytest.mark.parametrize('form', lora.FORMS)
def test_scale_and_combine_are_linear(form, rslora):
  sites = lora.find_sites(Compact(), split_qkv=True)
  first = trained(sites, ragged(sites), form, seed=5)
  second = trained(sites, {s.name: 1 + i % 2 for i, s in enumerate(sites)}, form, seed=6)
  one, two = (deltas(each, sites, form, rslora=rslora) for each in (first, second))

  for name, update in deltas(lora.scale(first, 0.3), sites, form, rslora=rslora).items():
    np.testing.assert_allclose(update, 0.3 * one[name], atol=1e-6)

  combined = jax.jit(lambda one, two: lora.combine([one, two], [0.7, -1.5], sites, form, rslora))(first, second)
  assert set(combined) == {s.name for s in sites}
  for name, update in deltas(combined, sites, form, rslora=rslora).items():
    np.testing.assert_allclose(update, 0.7 * one.get(name, 0) - 1.5 * two[name], atol=1e-6)
  ranks = ragged(sites)
  site = sites[0]
  assert lora.rank_of(site, combined[site.name], form) == ranks[site.name] + 1


# The factored path


@pytest.mark.parametrize('split', [False, True], ids=['fused', 'split'])
@pytest.mark.parametrize('style', networks())
@pytest.mark.parametrize('form', lora.FORMS)
def test_factored_equals_merged(form, style, split):
  model = networks()[style]
  params, sites = params_of(model), lora.find_sites(model, split_qkv=split)
  adapters = trained(sites, ragged(sites), form)
  rslora = split  # both scales, without doubling the table
  merged = compiled(merged_forward, model, sites, 4.0, form, rslora)(adapters, params)
  y = compiled(factored_forward, model, sites, 4.0, form, rslora)(adapters, params)
  assert np.abs(y - merged).max() <= 1e-5 * np.abs(merged).max()
  np.testing.assert_array_equal(compiled(hybrid_forward, model, sites, 4.0, form, rslora)(adapters, params), merged)
  assert np.abs(merged - model.apply({'params': params}, X)).max() > 0.01 * np.abs(merged).max()


@pytest.mark.parametrize('form', lora.FORMS)
def test_factored_keeps_dtype_and_base(form):
  class Half(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dense(3, dtype=jnp.bfloat16, name='out')(nn.Conv(4, (3, 3), dtype=jnp.bfloat16, name='conv')(x))

  model = Half()
  params, sites = params_of(model), lora.find_sites(model)
  adapters = lora.init(jax.random.key(0), sites, {s.name: 2 for s in sites}, form)
  y = lora.factored.forward(model.apply, params, adapters, sites, 1.0, form, X)
  assert y.dtype == jnp.bfloat16
  np.testing.assert_array_equal(y, model.apply({'params': params}, X))


@pytest.mark.parametrize('form', lora.FORMS)
def test_gradients_of_all_paths_reach_every_a_and_b(form):
  model = Compact(nn.remat(Block))
  params, sites = params_of(model), lora.find_sites(model, split_qkv=True)
  adapters = trained(sites, {s.name: 2 for s in sites}, form)

  def gradient(forward):
    run = compiled(forward, model, sites, 4.0, form)
    return jax.jit(jax.grad(lambda ad: jnp.mean(run(ad, params) ** 2)))(adapters)

  merged, *others = map(gradient, (merged_forward, factored_forward, hybrid_forward))
  for name, ab in merged.items():
    for leaf, expected in ab.items():
      size = np.abs(expected).max()
      assert size > 0, (name, leaf)
      for other in others:
        np.testing.assert_allclose(other[name][leaf], expected, rtol=1e-4, atol=1e-4 * size)


@pytest.mark.parametrize(
  ('name', 'fields'), [('safmn', {'dim': 8, 'n_blocks': 1}), ('edsr', {'num_feat': 8, 'num_block': 1})]
)
def test_factored_equals_merged_on_backbones(name, fields):
  model = models.build(name, upscale=2, **fields)
  params, sites = params_of(model), lora.find_sites(model)
  adapters = trained(sites, ragged(sites), '1x1_kxk')
  merged = compiled(merged_forward, model, sites, 1.0, '1x1_kxk')(adapters, params)
  y = compiled(factored_forward, model, sites, 1.0, '1x1_kxk')(adapters, params)
  assert np.abs(y - merged).max() <= 1e-5 * np.abs(merged).max()


def test_factored_notices_adapters_that_were_not_applied():
  model = Compact()
  params, sites = params_of(model), lora.find_sites(model)
  apply_fn = jax.jit(model.apply)
  apply_fn({'params': params}, X)
  with pytest.raises(RuntimeError, match='compiled by itself'):
    lora.factored.forward(apply_fn, params, trained(sites, ragged(sites), '1x1_kxk'), sites, 1.0, '1x1_kxk', X)


@pytest.mark.parametrize(
  ('shape', 'rank', 'pays'),
  [((64, 64), 1, True), ((64, 64), 8, False), ((1, 1, 64, 64), 8, False), ((3, 3, 8, 8), 8, True)],
)
def test_gradients_go_beside_a_layer_where_that_costs_less(shape, rank, pays):
  site = lora.Site('a', ('a',), 'conv' if len(shape) == 4 else 'mlp', shape, None)
  adapters = lora.init(None, [site], {'a': rank}, '1x1_kxk')
  assert lora.factored._pays([site], adapters) is pays

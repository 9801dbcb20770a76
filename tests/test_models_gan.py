"""RRDB, SRVGG, MSRResNet, DASR and the large SAFMN against outputs of the original code, counts, and their promises."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaptsr_jax import convert, infer, lora, models, ranks, tree
from adaptsr_jax.errors import UserError
from adaptsr_jax.models import layers
from tests.shared import GOLDEN

FAMILIES = ('rrdb', 'srvgg', 'msrresnet', 'dasr', 'safmn_real_l')
FIXTURES = sorted(path.name for family in FAMILIES for path in GOLDEN.glob(f'{family}_*/'))
TOLERANCE = 5e-5
# What the other key styles of RRDB, and DASR, call the modules.
SAME = {'RRDB_trunk': 'body', 'model.1.sub': 'body', 'RDB1': 'rdb1', 'model.0': 'conv_first', 'trunk_conv': 'conv_body',
  'act:upconv': 'act:conv_up', 'net_p.weights': 'net_p'}  # fmt: skip

# Preset -> name of the published networks among the facts.
FACTS = {
  'rrdb_x4': 'rrdb_x4_23b', 'rrdb_6b_x4': 'rrdb_x4_6b', 'rrdb_x2': 'rrdb_x2_23b_unshuffle',
  'rrdb_x1': 'rrdb_x1_23b_unshuffle', 'rrdb_bsrgan_x4': 'rrdb_x4_23b', 'rrdb_bsrgan_x2': 'rrdb_x2_23b',
  'rrdb_esrgan_x4': 'rrdb_x4_23b', 'srvgg_x4': 'srvgg_x4_32c', 'srvgg_16c_x4': 'srvgg_x4_16c',
  'srvgg_16c_x2': 'srvgg_x2_16c', 'msrresnet_x2': 'msrresnet_x2_16b', 'msrresnet_x3': 'msrresnet_x3_16b',
  'msrresnet_x4': 'msrresnet_x4_16b', 'safmn_l_x2': 'safmn_l_x2', 'safmn_l_x4': 'safmn_l_x4', 'dasr_x4': 'dasr_x4',
}  # fmt: skip

# The convolutions that the paper's counts leave out: those that enlarge, and one that makes the pixels of a shuffle.
UPSAMPLING = {
  'rrdb': '^conv_up',
  'msrresnet': '^upconv',
  'dasr': '/upconv',
  'safmn': '^to_img',
  'srvgg': '^body_{last}$',
}

TINY = {
  'rrdb': {'upscale': 4, 'num_feat': 6, 'num_block': 1, 'num_grow_ch': 4},
  'rrdb x2': {'upscale': 2, 'num_feat': 6, 'num_block': 1, 'num_grow_ch': 4, 'unshuffle': 2},
  'rrdb x1': {'upscale': 1, 'num_feat': 6, 'num_block': 1, 'num_grow_ch': 4, 'unshuffle': 4},
  'srvgg': {'upscale': 3, 'num_feat': 6, 'num_conv': 2},
  'msrresnet': {'upscale': 2, 'num_feat': 6, 'num_block': 1},
  'dasr': {'upscale': 4, 'num_feat': 6, 'num_block': 1, 'num_models': 3, 'nf': 4, 'num_params': 5},
}


def facts(preset):
  found = json.loads((GOLDEN / 'rrdb_facts.json').read_text())['models']
  return [fact for name, fact in found.items() if name.split(' ')[0] == FACTS[preset]]


def golden(name):
  """Returns (model, params, arrays in NHWC) of a fixture."""
  weights = convert.read(GOLDEN / name / 'weights.safetensors')
  family, fields, _ = convert.detect(weights)
  with np.load(GOLDEN / name / 'io.npz') as arrays:
    arrays = {key: value.transpose(0, 2, 3, 1) for key, value in arrays.items()}
  params = jax.tree.map(lambda leaf: leaf.astype(np.float32), convert.to_flax(family, weights))
  return models.build(family, **fields), params, arrays


def tiny(name, **fields):
  """Returns (model, params) of a small network with parameters that leave no part of it idle."""
  model = models.build(name.split(' ')[0], **{**TINY[name], **fields})
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))['params']
  leaves = {path: rng.normal(0, 0.2, leaf.shape).astype(np.float32) for path, leaf in tree.flatten(shapes).items()}
  return model, tree.unflatten(leaves)


def pictures(*shape):
  return np.random.default_rng(1).random(shape, np.float32)


@pytest.mark.parametrize('name', FIXTURES)
def test_outputs_equal_original(name):
  model, params, arrays = golden(name)
  for key in ('input', 'input_b'):
    if key in arrays:
      y = jax.jit(model.apply)({'params': params}, arrays[key])
      np.testing.assert_allclose(y, arrays[key.replace('input', 'output')], rtol=0, atol=TOLERANCE, err_msg=key)


@pytest.mark.parametrize('name', FIXTURES)
def test_activations_equal_original(name):
  model, params, arrays = golden(name)
  apply = functools.partial(model.apply, capture_intermediates=True, mutable=['intermediates'])
  _, state = jax.jit(apply)({'params': params}, arrays['input'])
  found = tree.flatten(state['intermediates'])
  compared = 0
  for key, want in arrays.items():
    for theirs, ours in SAME.items():
      key = key.replace(theirs, ours)
    path = re.sub(r'\.(\d+)', r'_\1', key.removeprefix('act:')).replace('.', '/')  # body.0.rdb1 -> body_0/rdb1
    value = found.get(f'{path}/__call__', [None])[0]
    if key.startswith('act:') and value is not None:
      np.testing.assert_allclose(value.reshape(want.shape), want, rtol=0, atol=3e-5, err_msg=key)
      compared += 1
  assert compared >= 2


def test_mistakes_would_show():
  """The fixture tells a softmax over the mixture, and the ordinary padding of the stride, from what is right."""
  model, params, arrays = golden('dasr_x4')
  mixture = model.once(params, arrays['input'][:1])['mixture']
  np.testing.assert_allclose(mixture[0], arrays['act:net_p.weights'][0, 0, 0], atol=1e-5)
  y = jax.jit(model.apply)({'params': {**params, 'mixture': jax.nn.softmax(mixture)}}, arrays['input'][:1])
  assert np.abs(y - arrays['output'][:1]).max() > 0.1


@pytest.mark.parametrize('preset', FACTS)
def test_parameters_sites_and_costs_per_rank(preset):
  name, fields = models.PRESETS[preset]
  model = models.build(name, **fields)
  x = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
  y, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
  published = facts(preset)
  assert tree.count(variables['params']) == sum(fact['parameters'] for fact in published)
  assert y.shape == (1, 16 * model.upscale, 16 * model.upscale, 3)
  # One update for all experts costs what it does in the network that they make.
  (fact,) = facts('msrresnet_x4') if preset == 'dasr_x4' else published
  last = 2 * fields.get('num_conv', 0) + 2
  exclude = UPSAMPLING[name.split('_')[0]].format(last=last)
  for sites, suffix in ((lora.find_sites(model), 'all'), (lora.find_sites(model, [exclude]), 'without_upsampling')):
    assert len(sites) == fact['sites' + suffix.removeprefix('all').replace('without', '_without')]
    costs = {form: sum(lora.cost(site, form) for site in sites) for form in ('1x1_kxk', 'kxk_1x1', 'loralib')}
    assert {**costs, 'biases': sum(site.shape[-1] for site in sites)} == fact[f'per_rank_{suffix}']


def test_work_of_the_large_network():
  model = models.build('rrdb')
  # Output pixels of each site, by the number of doublings before it.
  doublings = {'conv_up1': 1, 'conv_up2': 2, 'conv_hr': 2, 'conv_last': 2}
  sites = lora.find_sites(model)
  assert sum(np.prod(site.shape) * 4 ** doublings.get(site.name, 0) for site in sites) == 17_926_848


@pytest.mark.parametrize(
  ('preset', 'radius'),
  [('rrdb_x4', 349), ('rrdb_6b_x4', 94), ('rrdb_x2', 2 * 349 + 1), ('srvgg_x4', 34), ('dasr_x4', 35)],
)
def test_radius_of_published_networks(preset, radius):
  name, fields = models.PRESETS[preset]
  assert models.build(name, **fields).receptive == radius


@pytest.mark.parametrize('name', TINY)
def test_nothing_is_seen_beyond_the_radius(name):
  model, params = tiny(name)
  if name == 'dasr':
    params = model.once(params, pictures(1, 8, 8, 3))
  upscale, row = model.upscale, model.receptive + 1
  side = 2 * row + 2

  @jax.jit
  @jax.grad
  def gradient(x):  # of the output pixels of one input pixel
    y = model.apply({'params': params}, x)
    return jax.lax.dynamic_slice(y, (0, row * upscale, row * upscale, 0), (1, upscale, upscale, 3)).sum()

  _, rows, columns, _ = np.nonzero(gradient(pictures(1, side, side, 3)))
  reached = max(*np.abs(rows - row), *np.abs(columns - row))
  assert model.receptive - model.multiple <= reached <= model.receptive


@pytest.mark.parametrize('name', TINY)
def test_odd_sizes_small_pictures_and_batches(name):
  model, params = tiny(name)
  apply = jax.jit(model.apply)
  for h, w in ((model.minimum, model.minimum + 2), (13, 7)):
    x = pictures(2, h, w, 3)
    y = apply({'params': params}, x)
    assert y.shape == (2, model.upscale * h, model.upscale * w, 3)
    # Pictures of a batch do not meet, nor do their mixtures.
    np.testing.assert_allclose(apply({'params': params}, x[1:]), y[1:], rtol=0, atol=1e-5)
  if model.minimum > 1:
    with pytest.raises(UserError, match=f'9 x {model.minimum - 1} pixels, and each side must have {model.minimum}'):
      model.apply({'params': params}, pictures(1, model.minimum - 1, 9, 3))


@pytest.mark.parametrize('name', TINY)
def test_gradients_are_finite_and_reach_all(name):
  model, params = tiny(name)
  loss = jax.jit(jax.grad(lambda p, x: jnp.abs(model.apply({'params': p}, x) - 0.5).mean()))
  gradients = tree.flatten(loss(params, pictures(2, 9, 7, 3)))
  for path, gradient in gradients.items():
    assert np.isfinite(gradient).all(), path
    assert np.abs(gradient).max() > 0, path


def test_remat_changes_no_gradient():
  model, params = tiny('rrdb')

  def gradients(model):
    return jax.jit(jax.grad(lambda p: jnp.abs(model.apply({'params': p}, pictures(1, 9, 7, 3)) - 0.5).mean()))(params)

  pairs = (jax.tree.leaves(gradients(m)) for m in (model, model.clone(remat=True)))
  for plain, again in zip(*pairs, strict=True):
    np.testing.assert_allclose(plain, again, rtol=0, atol=1e-6)
  again = jax.make_jaxpr(lambda p, x: model.clone(remat=True).apply({'params': p}, x))(params, pictures(1, 9, 7, 3))
  assert sum(equation.primitive.name.startswith(('remat', 'checkpoint')) for equation in again.eqns) == model.num_block


@pytest.mark.parametrize('name', TINY)
def test_bfloat16_keeps_parameters_and_pictures_in_float32(name):
  model, params = tiny(name)
  low = model.clone(dtype=jnp.bfloat16)
  x = pictures(2, 16, 16, 3)
  y, z = (jax.jit(m.apply)({'params': params}, x) for m in (model, low))
  assert z.dtype == y.dtype == jnp.float32
  assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(low.init, jax.random.key(0), x))} == {
    jnp.dtype('float32')
  }
  assert 0 < np.abs(y - z).max() < 0.03 * np.abs(y).max()


@pytest.mark.parametrize('name', ['rrdb', 'rrdb x2', 'srvgg', 'msrresnet'])
def test_gray_networks_take_colours_one_by_one(name):
  model, params = tiny(name, num_in_ch=1)
  x = pictures(2, 8, 6, 3)
  apply = jax.jit(model.apply)
  y = apply({'params': params}, x)
  for c in range(3):
    np.testing.assert_allclose(y[..., c : c + 1], apply({'params': params}, x[..., c : c + 1]), rtol=0, atol=1e-5)
  with pytest.raises(UserError, match='takes pictures of 3 colours, not of 1'):
    tiny(name)[0].apply({'params': tiny(name)[1]}, x[..., :1])


def test_pixel_unshuffle_is_the_inverse_of_the_shuffle():
  x = pictures(2, 8, 12, 3)
  y = layers.pixel_unshuffle(x, 4)
  assert y[1, 1, 2, 2 * 16 + 3 * 4 + 1] == x[1, 4 * 1 + 3, 4 * 2 + 1, 2]
  np.testing.assert_array_equal(layers.pixel_shuffle(y, 4), x)


@pytest.mark.parametrize(
  ('name', 'fields', 'message'),
  [
    ('rrdb', {'unshuffle': 3}, 'unshuffle is 3.*1, 2, 4'),
    ('rrdb_esrgan', {'upscale': 3}, 'upscale is 3 behind an unshuffle of 1.*1, 2, 4, 8'),
    ('msrresnet', {'upscale': 8}, 'upscale is 8.*2, 3, 4'),
    ('dasr', {'upscale': 1}, 'DASR: upscale is 1'),
    ('srvgg', {'upscale': 0}, 'upscale is 0'),
  ],
)
def test_faulty_settings_are_refused(name, fields, message):
  with pytest.raises(UserError, match=message):
    models.build(name, **fields)


def test_initialisation_is_that_of_the_original():
  def initial(name, **fields):
    model = models.build(name, **{**TINY[name], **fields})
    return jax.jit(model.init)(jax.random.key(0), pictures(1, 4, 4, 3))['params']

  params = initial('rrdb', num_feat=64, num_grow_ch=32, upscale=2)
  dense, plain = params['body_0']['rdb2']['conv5'], params['conv_hr']
  assert np.std(dense['kernel']) == pytest.approx(0.1 * (2 / (9 * 192)) ** 0.5, rel=0.02)
  assert not dense['bias'].any()
  bound = (9 * 64) ** -0.5
  for leaf in plain.values():
    assert 0.9 * bound < np.abs(leaf).max() <= bound
  experts = initial('dasr')['net_g']
  assert (experts['conv_hr']['kernel'] == experts['conv_hr']['kernel'][:1]).all()


# DASR: one mixture for a whole picture, one update for all experts.


def test_tiles_share_the_mixture_of_the_whole_picture():
  model, params = tiny('dasr')
  lr = pictures(40, 70, 3)
  tiling = infer.network(model, params, 40, 12).options
  tiled = infer.upscale(model.apply, params, lr, 4, **tiling)
  whole = jax.jit(model.apply)({'params': params}, lr[None])[0]
  np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-5)
  apart = infer.upscale(model.apply, params, lr, 4, **{**tiling, 'once': None})
  assert np.abs(apart - whole).max() > 1e-3


def adapted(form, **fields):
  """Returns (model, params, sites, adapters) of DASR with an update that shows."""
  model, params = tiny('dasr', **fields)
  sites = lora.find_sites(model)
  adapters = lora.init(jax.random.key(0), sites, dict.fromkeys((site.name for site in sites), 2), form)
  noise = np.random.default_rng(2)
  return model, params, sites, jax.tree.map(lambda leaf: leaf + noise.normal(0, 0.1, leaf.shape).astype('f'), adapters)


@pytest.mark.parametrize('form', lora.FORMS)
def test_update_of_all_experts_is_exact_and_counts_by_the_sum_of_the_mixture(form):
  model, params, sites, adapters = adapted(form)
  assert not any(site.name.startswith('net_p') for site in sites)
  merged = lora.merge(params, adapters, sites, 1.0, form)
  site = next(site for site in sites if site.name == 'net_g/conv_hr')
  update = lora.delta(site, adapters[site.name], 1.0, form)
  np.testing.assert_allclose(
    merged['net_g']['conv_hr']['kernel'], params['net_g']['conv_hr']['kernel'] + update[None], rtol=0, atol=1e-6
  )
  x = pictures(2, 9, 7, 3)
  y = jax.jit(model.apply)({'params': merged}, x)
  factored = jax.jit(lambda p, a: lora.factored.forward(model.apply, p, a, sites, 1.0, form, x))(params, adapters)
  np.testing.assert_allclose(factored, y, rtol=0, atol=1e-5)

  def gradient(forward):
    return jax.jit(jax.grad(lambda a: jnp.sum(jnp.sin(forward(a)))))(adapters)

  by_merging = gradient(lambda a: model.apply({'params': lora.merge(params, a, sites, 1.0, form)}, x))
  hybrid = gradient(lambda a: lora.factored.forward(model.apply, params, a, sites, 1.0, form, x, hybrid=True))
  for expected, found in zip(jax.tree.leaves(by_merging), jax.tree.leaves(hybrid), strict=True):
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
  # By hand: the mixed kernel, and the update times the sum of the weights, which is far from 1.
  picture = x[:1]
  mixture = model.once(params, picture)['mixture'][0]
  assert abs(mixture.sum() - 1) > 0.1
  mixed = jax.tree.map(lambda leaf: jnp.tensordot(mixture, leaf, 1), params['net_g'])
  plain = models.build('msrresnet', upscale=4, num_feat=6, num_block=1)
  by_hand = {f'net_g/{path}': leaf for path, leaf in tree.flatten(mixed).items()}
  for site in sites:
    by_hand['/'.join((*site.path, 'kernel'))] += mixture.sum() * lora.delta(site, adapters[site.name], 1.0, form)
  by_hand = tree.unflatten({path.removeprefix('net_g/'): leaf for path, leaf in by_hand.items()})
  np.testing.assert_allclose(jax.jit(plain.apply)({'params': by_hand}, picture), y[:1], rtol=0, atol=1e-5)


@pytest.mark.parametrize('kind', ['gradient', 'fisher', 'activation'])
def test_scores_are_those_of_the_common_update(kind):
  model, params, sites, adapters = adapted('1x1_kxk')
  batch = {'lr': pictures(2, 8, 8, 3), 'hr': pictures(2, 32, 32, 3)}

  def loss(params, batch):
    return jnp.square(model.apply({'params': params}, batch['lr']) - batch['hr']).mean()

  scores = ranks.scores(kind, loss, params, [batch], sites, jax.random.key(0))
  assert all(score > 0 for score in scores.values())
  if kind == 'gradient':
    whole = jax.jit(jax.grad(loss))(params, batch)['net_g']['conv_hr']['kernel']
    assert scores['net_g/conv_hr'] == pytest.approx(float(jnp.linalg.norm(whole.sum(0))), rel=1e-4)

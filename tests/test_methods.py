"""Every method through the same assertions: a newcomer is tested by adding a row to CASES."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaptsr_jax import adapt, config, lora, methods, models, tree
from adaptsr_jax.adapt import losses, optim
from adaptsr_jax.adapters import file, operations
from adaptsr_jax.errors import UserError

CASES = {
  'lora eq. 2': {'method': 'lora'},
  'lora kxk_1x1': {'method': 'lora', 'lora.form': 'kxk_1x1'},
  'lora loralib': {'method': 'lora', 'lora.form': 'loralib'},
  'lora factored': {'method': 'lora', 'lora.path': 'factored'},
  'lora hybrid': {'method': 'lora', 'lora.path': 'hybrid'},
  'lora without biases': {'method': 'lora', 'lora.biases': False},
  'rslora': {'method': 'lora', 'lora.rslora': True},
  'full': {'method': 'full'},
  'full of convolutions': {'method': 'full', 'sites.kinds': ('conv',)},
  'arc': {'method': 'arc', 'arc.rank': 3},
  'difffit': {'method': 'difffit'},
  'difffit recipe': {'method': 'difffit', 'difffit.scope': 'recipe'},
  'rasa': {'method': 'rasa', 'rasa.rank': 3},
  'rasa loralib': {'method': 'rasa', 'rasa.rank': 3, 'rasa.form': 'loralib', 'rasa.groups': 'shapes'},
  'rasa of shared ranks only': {'method': 'rasa', 'rasa.rank': 2, 'rasa.shared': 2},
  **{f'shira {mask}': {'method': 'shira', 'shira.mask': mask} for mask in methods.shira.CHOICES['mask']},
  'dora': {'method': 'dora'},
  'dora loralib': {'method': 'dora', 'lora.form': 'loralib'},
  'bitfit': {'method': 'bitfit'},
}
# Whose change can be dialled: the others say why not.
LINEAR = [name for name in CASES if not name.startswith('dora') and name != 'difffit recipe']


@pytest.fixture(scope='module')
def network():
  model = models.build('edsr', upscale=2, num_feat=8, num_block=2, res_scale=1.0)
  params = jax.jit(model.init)(jax.random.key(1), jnp.zeros((1, 8, 8, 3)))['params']
  return model, jax.tree.map(np.asarray, params), lora.find_sites(model)


def make(name, sites, params=None):
  c = config.default()
  c.update_from_flattened_dict(CASES[name])
  # Ragged, with one site left alone.
  ranks = {site.name: i % 3 for i, site in enumerate(sites)}
  return c, methods.make(c, sites, ranks, Scores(sites, params))


class Scores:
  """Of drawn gradients, and drawn kernels where no parameters are given."""

  available = True

  def __init__(self, sites, params=None):
    rng = np.random.default_rng(5)
    self._gradients = {site.name: rng.normal(size=site.shape) for site in sites}
    self.params = params or tree.unflatten({f'{site.name}/kernel': rng.normal(size=site.shape) for site in sites})

  def gradients(self):
    return self._gradients


def trained(c, method, network, steps=2):
  """Returns (frozen, trainable before, trainable after) of a few real training steps."""
  model, params, _ = network
  frozen, trainable = method.init(jax.random.key(0), params)
  c.steps = steps
  tx, _ = optim.make(c, method.labels)
  start = jax.tree.map(jnp.array, trainable)
  state = adapt.TrainState(jnp.zeros((), jnp.int32), start, tx.init(start), {})
  step = adapt.make_step(model.apply, method, tx, losses.l1)
  rng = np.random.default_rng(0)
  batch = {'lr': rng.random((2, 8, 8, 3), np.float32), 'hr': rng.random((2, 16, 16, 3), np.float32)}
  for _ in range(steps):
    state, scalars = step(state, frozen, batch)
  assert np.isfinite(scalars['loss'])
  return frozen, trainable, jax.device_get(state.trainable)


def test_second_factors_move_by_their_own_rate(network):
  c, method = make('lora eq. 2', network[2])
  c.optim.lr, c.optim.b_lr_scale, c.optim.schedule = 1e-3, 4.0, 'constant'
  after = tree.flatten(trained(c, method, network, steps=1)[2])
  moved = np.concatenate([leaf.ravel() for key, leaf in after.items() if key.endswith('/b')])
  # Adam's first step is the rate.
  np.testing.assert_allclose(np.median(np.abs(moved)), 4e-3, rtol=1e-2)


@pytest.mark.parametrize('name', CASES)
def test_start_is_the_base_bit_for_bit(name, network):
  _, params, sites = network
  merged = make(name, sites)[1].merge(*make(name, sites)[1].init(jax.random.key(0), params))
  assert tree.compare(params, merged) == []
  for key, leaf in tree.flatten(params).items():
    got = np.asarray(tree.flatten(merged)[key])
    assert got.dtype == leaf.dtype
    np.testing.assert_array_equal(got, leaf)


@pytest.mark.parametrize('name', CASES)
def test_training_moves_every_trained_leaf_and_keeps_the_tree(name, network):
  c, method = make(name, network[2])
  frozen_before = jax.tree.map(np.array, method.init(jax.random.key(0), network[1])[0])
  frozen, before, after = trained(c, method, network)
  for leaf_name, leaf in tree.flatten(before).items():
    assert not np.array_equal(leaf, tree.flatten(after)[leaf_name]), f'{leaf_name} did not move'
  jax.tree.map(np.testing.assert_array_equal, frozen, frozen_before)
  merged = method.merge(frozen, after)
  assert tree.compare(network[1], merged) == []
  assert {leaf.dtype for leaf in jax.tree.leaves(merged)} == {np.dtype(np.float32)}


@pytest.mark.parametrize('name', CASES)
def test_forward_equals_the_merged_network(name, network):
  model = network[0]
  c, method = make(name, network[2])
  frozen, _, after = trained(c, method, network)
  x = np.random.default_rng(1).random((1, 9, 7, 3), np.float32)
  merged = model.apply({'params': method.merge(frozen, after)}, x)
  np.testing.assert_allclose(method.forward(model.apply, frozen, after, x), merged, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('name', CASES)
def test_spec_survives_json(name, network):
  _, params, sites = network
  _, method = make(name, sites)
  again = methods.from_spec(json.loads(json.dumps(method.spec)), method.constants)
  assert again.spec == method.spec
  frozen, trainable = method.init(jax.random.key(3), params)
  jax.tree.map(np.testing.assert_array_equal, again.init(jax.random.key(3), params)[1], trainable)
  jax.tree.map(np.testing.assert_array_equal, again.merge(frozen, trainable), method.merge(frozen, trainable))


def perturbed(method, params, seed):
  """Returns (frozen, trainable) after a walk in all directions."""
  frozen, trainable = method.init(jax.random.key(0), params)
  rng = np.random.default_rng(seed)
  return frozen, jax.tree.map(
    lambda leaf: np.asarray(leaf) + rng.normal(0, 0.3, leaf.shape).astype(np.float32), trainable
  )


def change(method, params, tensors):
  """Returns by how much the merged network differs from the base, flat."""
  merged = tree.flatten(method.merge(*methods.restore(method, params, tensors)))
  return {name: np.asarray(merged[name]) - leaf for name, leaf in tree.flatten(params).items()}


def assert_sum(found, parts):
  for name, leaf in found.items():
    expected = sum(weight * part[name] for weight, part in parts)
    np.testing.assert_allclose(leaf, expected, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize('name', LINEAR)
def test_scaling_and_mixing_are_exact(name, network):
  _, params, sites = network
  c, one = make(name, sites)
  c.seed, c.arc.rank = 1, 2
  two = methods.make(c, sites, {site.name: (i + 1) % 3 for i, site in enumerate(sites)}, Scores(sites))
  pair = (one, two)
  states = [tree.flatten(perturbed(method, params, seed)[1]) for seed, method in enumerate(pair)]
  changes = [change(method, params, state) for method, state in zip(pair, states, strict=True)]
  for strength in (0, 0.3, -1):
    scaled = methods.scale(one.spec, states[0], params, strength)
    assert_sum(change(one, params, scaled), [(strength, changes[0])])
  full_states = [
    {**state, **{methods.CONSTANTS + key: leaf for key, leaf in method.constants.items()}}
    for method, state in zip(pair, states, strict=True)
  ]
  spec, mixed = methods.mix([m.spec for m in pair], full_states, [0.7, -0.4], ['one', 'two'], params)
  tensors, constants = methods.parted(mixed)
  spec = json.loads(json.dumps(spec))
  assert_sum(change(methods.from_spec(spec, constants), params, tensors), [(0.7, changes[0]), (-0.4, changes[1])])


@pytest.mark.parametrize('name', sorted(CASES.keys() - set(LINEAR)))
def test_what_cannot_be_dialled_says_why(name, network):
  _, params, sites = network
  _, method = make(name, sites)
  state = tree.flatten(perturbed(method, params, 0)[1])
  with pytest.raises(UserError, match='exactly: '):
    methods.scale(method.spec, state, params, 0.5)
  with pytest.raises(UserError, match='exactly: '):
    methods.mix([method.spec] * 2, [state] * 2, [0.5, 0.5], ['one', 'two'], params)


BACKBONES = {
  'safmn': ('safmn', {'dim': 8, 'n_blocks': 2}),
  'safmn_ntire2023': ('safmn_ntire2023', {'dim': 8, 'n_blocks': 2}),
  'dasr': ('dasr', {'num_feat': 8, 'num_block': 1, 'num_models': 2, 'nf': 4}),
  'swinir': ('swinir', {'embed_dim': 12, 'depths': (2, 1), 'num_heads': (2, 2), 'window_size': 4, 'img_size': 8}),
  'drct': ('drct', {'embed_dim': 12, 'gc': 4, 'num_heads': (2,), 'window_size': 4, 'img_size': 8}),
}
OF_EACH_METHOD = ('lora eq. 2', 'arc', 'difffit', 'rasa', 'shira snip', 'dora', 'bitfit')


@pytest.mark.parametrize('backbone', BACKBONES)
def test_every_method_starts_at_every_backbone(backbone):
  """And a change of what it trains changes the network."""
  architecture, fields = BACKBONES[backbone]
  model = models.build(architecture, upscale=2, **fields)
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))['params']
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
  sites = lora.find_sites(model, split_qkv=True)
  for name in OF_EACH_METHOD:
    _, method = make(name, sites, params)
    frozen, start = method.init(jax.random.key(0), params)
    jax.tree.map(np.testing.assert_array_equal, method.merge(frozen, start), params)
    moved = method.merge(*perturbed(method, params, 0))
    assert tree.compare(params, moved) == []
    assert not all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (moved, params)), strict=True)), name


@pytest.mark.parametrize('name', OF_EACH_METHOD)
def test_a_damaged_adapter_is_told_in_a_sentence(name, network, tmp_path):
  _, params, sites = network
  _, method = make(name, sites, params)
  tensors = tree.flatten(perturbed(method, params, 0)[1])
  rest = {'model': 'edsr', 'fields': {}, 'base_fingerprint': tree.fingerprint(params)}
  whole = file.Adapter({**method.spec, **rest}, tensors, method.constants)
  operations.apply(whole, params)
  faults = [{field: value} for field in method.spec for value in (None, -1, 'x', {'x': 3})]
  damaged = [whole._replace(meta={**whole.meta, **fault}) for fault in faults]
  damaged += [whole._replace(tensors={**tensors, key: tensors[key].ravel()[:1]}) for key in tensors]
  damaged += [
    whole._replace(constants={**whole.constants, key: whole.constants[key] + 10**6}) for key in whole.constants
  ]
  refused = 0
  for adapter in damaged:
    try:
      file.save(tmp_path / 'adapter.safetensors', adapter)
      operations.apply(file.load(tmp_path / 'adapter.safetensors'), params)
    except UserError:
      refused += 1
  # The rest says nothing that matters to what is merged.
  assert refused >= 0.75 * len(damaged)


def test_a_network_without_residual_branches_is_refused():
  sites = lora.find_sites(models.build('edsr', upscale=2, num_feat=4, num_block=1), exclude=['body'])
  for method in ('arc', 'difffit'):
    c = config.default()
    c.method = method
    with pytest.raises(UserError, match=f'Method {method} acts on residual branches, and this network has no site'):
      methods.plan(c, sites)
    c[method].branches = ('(',)
    with pytest.raises(UserError, match=f'config.{method}.branches has a pattern that is no regular expression'):
      methods.plan(c, sites)


def test_sites_without_rank_stay_as_they_are(network):
  c, method = make('lora eq. 2', network[2])
  frozen, _, after = trained(c, method, network)
  merged = tree.flatten(method.merge(frozen, after))
  left_alone = [site for i, site in enumerate(network[2]) if i % 3 == 0]
  assert left_alone
  for site in left_alone:
    for leaf in ('kernel', 'bias'):
      name = '/'.join([*site.path, leaf])
      np.testing.assert_array_equal(merged[name], tree.flatten(network[1])[name])


def test_full_of_a_kind_trains_its_kernels_and_biases_only(network):
  model = models.build('safmn', upscale=2, dim=8, n_blocks=1, ffn_scale=2.0)
  params = jax.jit(model.init)(jax.random.key(1), jnp.zeros((1, 8, 8, 3)))['params']
  c = config.default()
  c.method, c.sites.kinds = 'full', ('conv',)
  sites = lora.find_sites(model)
  _, trainable = methods.make(c, sites, {}).init(jax.random.key(0), params)
  expected = {'/'.join([*site.path, leaf]) for site in sites for leaf in ('kernel', 'bias')}
  assert set(trainable) == expected
  assert not any('norm' in name or 'mfr' in name for name in trainable)

"""Every method through the same assertions: a newcomer is tested by adding a row to CASES."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaptsr_jax import adapt, config, lora, losses, methods, models, optim, tree

CASES = {
  'lora eq. 2': {'method': 'lora'},
  'lora kxk_1x1': {'method': 'lora', 'lora.form': 'kxk_1x1'},
  'lora loralib': {'method': 'lora', 'lora.form': 'loralib'},
  'lora factored': {'method': 'lora', 'lora.path': 'factored'},
  'lora without biases': {'method': 'lora', 'lora.biases': False},
  'rslora': {'method': 'lora', 'lora.rslora': True},
  'full': {'method': 'full'},
  'full of convolutions': {'method': 'full', 'sites.kinds': ('conv',)},
}


@pytest.fixture(scope='module')
def network():
  model = models.build('edsr', upscale=2, num_feat=8, num_block=2, res_scale=1.0)
  params = jax.jit(model.init)(jax.random.key(1), jnp.zeros((1, 8, 8, 3)))['params']
  return model, jax.tree.map(np.asarray, params), lora.find_sites(model)


def make(name, sites):
  c = config.default()
  c.update_from_flattened_dict(CASES[name])
  # Ragged, with one site left alone.
  ranks = {site.name: i % 3 for i, site in enumerate(sites)}
  return c, methods.make(c, sites, ranks)


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
  again = methods.from_spec(json.loads(json.dumps(method.spec)))
  assert again.spec == method.spec
  frozen, trainable = method.init(jax.random.key(3), params)
  jax.tree.map(np.testing.assert_array_equal, again.init(jax.random.key(3), params)[1], trainable)
  jax.tree.map(np.testing.assert_array_equal, again.merge(frozen, trainable), method.merge(frozen, trainable))


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

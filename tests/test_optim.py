import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaptsr_jax import config
from adaptsr_jax.adapt import optim


def setup(**fields):
  c = config.default()
  c.update_from_flattened_dict({'steps': 1000, 'optim.lr': 1e-3, **fields})
  return c


def rates(c, at):
  schedule = optim.schedule(c)
  return [float(schedule(step)) for step in at]


def test_adapters_decay_in_three_steps():
  got = rates(setup(**{'optim.lr': 0.0}), [0, 499, 501, 751, 901, 999])
  assert got == pytest.approx([2e-3, 2e-3, 1e-3, 5e-4, 2.5e-4, 2.5e-4])


def test_full_fine_tuning_halves_where_the_paper_does():
  # 250k, 400k, 450k and 475k of 500k steps.
  c = setup(method='full', steps=500_000, **{'optim.lr': 0.0})
  got = rates(c, [249_999, 250_001, 400_001, 450_001, 475_001])
  assert got == pytest.approx([5e-4 / 2**i for i in range(5)])


@pytest.mark.parametrize(('method', 'rate'), [('lora', 1e-3), ('full', 2e-4), ('bitfit', 1e-3)])
def test_the_papers_rates_are_a_preset(method, rate):
  c = setup(method=method, **{'optim.lr': 0.0, 'optim.preset': 'paper'})
  assert optim.set_rate(c) == rate
  c.optim.lr = 0.1
  assert optim.set_rate(c) == 0.1


def test_rate_and_schedule_can_be_set():
  assert rates(setup(**{'optim.lr': 0.1, 'optim.schedule': 'constant'}), [0, 999]) == pytest.approx([0.1, 0.1])
  cosine = rates(setup(**{'optim.lr': 0.1, 'optim.schedule': 'cosine'}), [0, 500, 1000])
  assert cosine == pytest.approx([0.1, 0.0505, 0.001])


def test_decay_of_the_last_fifth_can_begin_at_any_state():
  fields = {'optim.lr': 0.1, 'optim.schedule': 'wsd', 'optim.warmup': 10}
  short, long = (rates(setup(steps=steps, **fields), [0, 10, 799, 800, 850, 1000]) for steps in (1000, 2000))
  assert short == pytest.approx([0.01, 0.1, 0.1, 0.1, 0.05, 0.0])
  assert long[:3] == short[:3]
  assert long[3:] == pytest.approx([0.1, 0.1, 0.1])


def test_warm_up_rises_to_the_rate():
  got = rates(setup(**{'optim.warmup': 10}), [0, 4, 9, 10, 499])
  assert got[0] == pytest.approx(1e-4)
  assert got == sorted(got)
  assert got[3:] == pytest.approx([1e-3, 1e-3])


def test_accumulation_counts_updates_not_batches():
  c = setup(**{'optim.accumulate': 4})
  assert rates(c, [124, 126]) == pytest.approx([1e-3, 5e-4])


def one_update(c, gradient, labels, steps=1):
  tx, _ = optim.make(c, lambda trainable: labels)
  trainable = {'a': jnp.ones(3), 'b': jnp.ones(3), 'c': jnp.ones(3)}
  state = tx.init(trainable)
  for _ in range(steps):
    updates, state = tx.update(gradient, state, trainable)
    trainable = jax.tree.map(jnp.add, trainable, updates)
  return trainable


LABELS = {'a': 'train', 'b': 'bias', 'c': 'frozen'}
GRADIENT = {name: jnp.full(3, 2.0) for name in 'abc'}


def test_labels_decide_who_moves_and_how_far():
  new = one_update(setup(**{'optim.bias_lr_scale': 0.5}), GRADIENT, LABELS)
  np.testing.assert_allclose(1 - new['a'], 1e-3, rtol=1e-4)
  np.testing.assert_allclose(1 - new['b'], 5e-4, rtol=1e-4)
  np.testing.assert_array_equal(new['c'], 1)


def test_second_factors_can_have_a_rate_of_their_own():
  labels = {'a': 'train', 'b': 'b', 'c': 'bias'}
  apart, alike = (one_update(setup(**{'optim.b_lr_scale': scale}), GRADIENT, labels) for scale in (4.0, 1.0))
  np.testing.assert_allclose(1 - apart['b'], 4e-3, rtol=1e-4)
  np.testing.assert_allclose([1 - apart['a'], 1 - alike['b']], 1e-3, rtol=1e-4)
  np.testing.assert_allclose(1 - apart['c'], 2e-4, rtol=1e-3)


def test_one_rate_for_both_factors_leaves_the_state_of_the_optimiser_as_it_was():
  trainable = dict.fromkeys('ab', jnp.ones(3))
  before, after = (
    optim.make(setup(), lambda _, b=b: {'a': 'train', 'b': b})[0].init(trainable) for b in ('train', 'b')
  )
  assert jax.tree.structure(before) == jax.tree.structure(after)


def test_accumulated_updates_equal_one_of_the_mean():
  whole = one_update(setup(), GRADIENT, LABELS)
  parts = one_update(setup(**{'optim.accumulate': 2}), GRADIENT, LABELS, steps=2)
  waiting = one_update(setup(**{'optim.accumulate': 2}), GRADIENT, LABELS, steps=1)
  np.testing.assert_allclose(parts['a'], whole['a'], rtol=1e-6)
  np.testing.assert_array_equal(waiting['a'], 1)


def test_clipping_bounds_the_global_norm():
  # Adam divides by the gradient's size, so the bound shows in its first moment.
  c = setup(**{'optim.clip': 1.0})
  tx, _ = optim.make(c, lambda trainable: LABELS)
  trainable = {name: jnp.ones(3) for name in 'abc'}
  _, state = tx.update({name: jnp.full(3, 100.0) for name in 'abc'}, tx.init(trainable), trainable)
  moments = [x for x in jax.tree.leaves(state) if x.shape == (3,)]
  np.testing.assert_allclose(max(float(jnp.max(m)) for m in moments), (1 - c.optim.b1) / 3, rtol=1e-5)

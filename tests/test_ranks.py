import json

import flax.linen as nn
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaptsr_jax import lora, ranks, tree
from adaptsr_jax.errors import UserError
from tests.shared import GOLDEN

KEY = jax.random.key(0)


def golden(name):
  folder = GOLDEN / 'methods' / name
  with np.load(folder / 'data.npz') as data:
    return json.loads((folder / 'meta.json').read_text()), dict(data)


# ----------------------------------------------------------------------------------------------------------- scores


class Net(nn.Module):
  @nn.compact
  def __call__(self, x):
    y = nn.gelu(nn.Dense(9, name='fc1')(x), approximate=False)
    return nn.Dense(6, name='fc2')(y)


DENSE_SITES = (
  lora.Site('fc1', ('fc1',), 'mlp', (6, 9), None),
  lora.Site('fc2', ('fc2',), 'mlp', (9, 6), None),
)


def l1(model):
  return lambda params, batch: jnp.mean(jnp.abs(model.apply({'params': params}, batch['x']) - batch['y']))


class Case:
  def __init__(self):
    meta, data = golden('scores')
    self.expected = meta['expected']
    self.tolerance = {k: meta['tolerance'][k] for k in ('atol', 'rtol')}
    self.params = {name: {leaf: data[f'{name}_{leaf}'] for leaf in ('kernel', 'bias')} for name in ('fc1', 'fc2')}
    self.batches = [{'x': x, 'y': y} for x, y in zip(data['x'], data['y'], strict=True)]

  def scores(self, kind, batches=None, **options):
    with jax.default_matmul_precision('highest'):
      return ranks.scores(kind, l1(Net()), self.params, batches or self.batches, DENSE_SITES, KEY, **options)

  def check(self, found, field):
    assert list(found) == ['fc1', 'fc2']
    for name, value in found.items():
      assert type(value) is float
      np.testing.assert_allclose(value, self.expected[name][field], **self.tolerance)


@pytest.fixture(scope='module')
def case():
  return Case()


@pytest.mark.parametrize(
  ('field', 'kind', 'first_only', 'options'),
  [
    ('gradient_norm_batch0', 'gradient', True, {}),
    ('gradient_norm_batch0', 'gradient', True, {'reduce': 'mean_of_norms'}),
    ('gradient_norm_mean_over_batches', 'gradient', False, {'reduce': 'mean_of_norms'}),
    ('gradient_norm_of_mean', 'gradient', False, {'reduce': 'norm_of_mean'}),
    ('gradient_rms_batch0', 'gradient', True, {'normalise': 'sqrt_size'}),
    ('fisher_batch0', 'fisher', True, {}),
    ('fisher_all', 'fisher', False, {}),
    ('activation_out_rms_batch0', 'activation', True, {}),
    ('activation_in_rms_batch0', 'activation', True, {'side': 'input'}),
  ],
)
def test_scores_golden(case, field, kind, first_only, options):
  case.check(case.scores(kind, case.batches[:1] if first_only else None, **options), field)


def test_per_cost_is_the_squared_score_per_adapter_parameter(case):
  plain, per_cost = case.scores('gradient'), case.scores('gradient', normalise='per_cost')
  for site in DENSE_SITES:
    assert per_cost[site.name] == pytest.approx(plain[site.name] ** 2 / lora.cost(site, '1x1_kxk'))


def test_batches_may_be_a_generator_read_once(case):
  batches = (batch for batch in case.batches)
  assert case.scores('gradient', batches) == case.scores('gradient')
  assert next(batches, None) is None


def test_fisher_weighs_examples_not_batches(case):
  x, y = (np.concatenate([batch[k] for batch in case.batches]) for k in 'xy')
  uneven = [{'x': x[:5], 'y': y[:5]}, {'x': x[5:], 'y': y[5:]}]
  case.check(case.scores('fisher', uneven), 'fisher_all')


def test_fisher_equals_a_loop_over_examples(case):
  gradient = jax.jit(jax.grad(l1(Net())))
  squares = {'fc1': [], 'fc2': []}
  for batch in case.batches[:2]:
    for i in range(len(batch['x'])):
      with jax.default_matmul_precision('highest'):
        g = gradient(case.params, {k: v[i : i + 1] for k, v in batch.items()})
      for name in squares:
        squares[name].append(np.sum(np.square(g[name]['kernel'])))
  found = case.scores('fisher', case.batches[:2])
  for name, values in squares.items():
    assert found[name] == pytest.approx(np.mean(values), rel=1e-5)


def test_score_table_holds_each_batch_and_compiles_once(case):
  traces = []

  def loss_fn(params, batch):
    traces.append(1)
    return l1(Net())(params, batch)

  with jax.default_matmul_precision('highest'):
    table = ranks.score_table('gradient', loss_fn, case.params, case.batches, DENSE_SITES)
  assert table.shape == (4, 2)
  assert table.dtype == np.float64
  assert len(traces) == 1
  for row, batch in zip(table, case.batches, strict=True):
    np.testing.assert_allclose(row, list(case.scores('gradient', [batch]).values()), rtol=1e-6)


class ConvNet(nn.Module):
  """A fused kernel, a convolution and a remat block, with more parameters than sites."""

  @nn.compact
  def __call__(self, x):
    q, k, v = jnp.split(nn.Dense(12, name='qkv')(x), 3, axis=-1)
    x = nn.remat(nn.Conv)(6, (3, 3), name='conv')(q * nn.sigmoid(k) + v)
    return nn.Dense(4, name='head')(nn.relu(x))


PART_SITES = (
  *(lora.Site(f'qkv:{p}', ('qkv',), 'attn', (4, 4), (4 * i, 4 * i + 4)) for i, p in enumerate('qkv')),
  lora.Site('conv', ('conv',), 'conv', (3, 3, 4, 6), None),
)


@pytest.fixture(scope='module')
def conv_case():
  x, y = np.random.default_rng(0).normal(size=(2, 3, 5, 5, 4)).astype(np.float32)
  params = jax.jit(ConvNet().init)(KEY, x)['params']
  return params, {'x': x, 'y': y}


def test_parts_of_a_fused_kernel_are_scored_on_their_own_columns(conv_case):
  params, batch = conv_case
  found = ranks.scores('gradient', l1(ConvNet()), params, [batch], PART_SITES, KEY)
  gradient = jax.jit(jax.grad(l1(ConvNet())))(params, batch)
  for i, part in enumerate('qkv'):
    columns = gradient['qkv']['kernel'][:, 4 * i : 4 * i + 4]
    assert found[f'qkv:{part}'] == pytest.approx(np.linalg.norm(columns), rel=1e-5)
  assert found['conv'] == pytest.approx(np.linalg.norm(gradient['conv']['kernel']), rel=1e-5)


@pytest.mark.parametrize('jitted_model', [False, True])
def test_activation_sees_parts_and_modules_under_remat(conv_case, jitted_model):
  params, batch = conv_case
  loss_fn = jax.jit(l1(ConvNet())) if jitted_model else l1(ConvNet())
  found = ranks.scores('activation', loss_fn, params, [batch], PART_SITES, KEY)
  _, seen = ConvNet().apply({'params': params}, batch['x'], capture_intermediates=True)
  qkv = tree.get(seen, ('intermediates', 'qkv', '__call__'))[0]
  for i, part in enumerate('qkv'):
    rms = np.sqrt(np.mean(np.square(qkv[..., 4 * i : 4 * i + 4])))
    assert found[f'qkv:{part}'] == pytest.approx(rms, rel=1e-5)
  q, k, v = jnp.split(qkv, 3, axis=-1)
  conv = nn.Conv(6, (3, 3)).apply({'params': params['conv']}, q * nn.sigmoid(k) + v)
  assert found['conv'] == pytest.approx(np.sqrt(np.mean(np.square(conv))), rel=1e-5)


def test_activation_refuses_a_loss_that_was_compiled_before(conv_case):
  params, batch = conv_case
  loss_fn = jax.jit(l1(ConvNet()))
  jax.eval_shape(loss_fn, params, batch)
  with pytest.raises(ValueError, match='Site qkv:q was not seen .* must not be jitted'):
    ranks.scores('activation', loss_fn, params, [batch], PART_SITES, KEY)


def test_random_scores_depend_on_key_and_names_only():
  def draw(sites, key):
    return ranks.scores('random', None, None, None, sites, key)

  first = draw(PART_SITES, KEY)
  assert list(first) == [site.name for site in PART_SITES]
  assert draw(PART_SITES[::-1], KEY) == first
  assert draw(PART_SITES, jax.random.key(1)) != first
  assert all(0 <= value < 1 for value in first.values())


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'kind': 'hessian'}, "Unknown score kind 'hessian'.*gradient, fisher, activation, random"),
    ({'reduce': 'sum'}, "Unknown score reduction 'sum'.*norm_of_mean"),
    ({'normalise': 'size'}, "Unknown score normalisation 'size'.*sqrt_size"),
    ({'batches': []}, 'no batch'),
    ({'batches': [], 'kind': 'fisher'}, 'no batch'),
    ({'kind': 'activation', 'side': 'middle'}, "Unknown activation side 'middle'"),
  ],
)
def test_score_errors_name_the_choice(case, options, message):
  with pytest.raises(UserError, match=message):
    case.scores(**({'kind': 'gradient'} | options)) if 'batches' not in options else ranks.scores(
      options.get('kind', 'gradient'), l1(Net()), case.params, [], DENSE_SITES, KEY
    )


# ---------------------------------------------------------------------------------------------------- spectral gains


def test_dense_gains_are_the_squared_singular_values(case):
  with jax.default_matmul_precision('highest'):
    gains = ranks.spectral_gains(ranks.mean_gradients(l1(Net()), case.params, case.batches[:1], DENSE_SITES))
  for name, found in gains.items():
    expected = np.square(case.expected[name]['singular_values_batch0'])
    np.testing.assert_allclose(found, expected, **case.tolerance)


@pytest.mark.parametrize('form', lora.FORMS)
def test_a_kernel_made_by_r_units_of_a_form_has_r_gains(form):
  """The gradient is a kernel that rank 2 makes exactly."""
  site = lora.Site('conv', ('conv',), 'conv', (3, 3, 5, 7), None)
  adapters = lora.init(KEY, (site,), {'conv': 2}, form)
  b = jax.random.normal(KEY, adapters['conv']['b'].shape)
  target = np.asarray(lora.delta(site, {'a': adapters['conv']['a'], 'b': b}, 1.0, form))
  gains = ranks.spectral_gains({'conv': target}, form)['conv']
  assert len(gains) == {'1x1_kxk': 5, 'kxk_1x1': 7, 'loralib': 5}[form]
  assert np.all(np.diff(gains) <= 1e-12)
  assert gains[1] > 1e-6
  np.testing.assert_allclose(gains[2:], 0, atol=1e-9)
  np.testing.assert_allclose(gains.sum(), np.sum(np.square(target)), rtol=1e-5)


# -------------------------------------------------------------------------------------------------------- allocation


def allocation_cases(name):
  meta, data = golden(name)
  names = meta['names']
  expected = data['expected'].tolist() if 'expected' in data else [case['expected'] for case in meta['cases']]
  gain = data['gain'] if 'gain' in data else meta['gains_of_the_marginal_case']
  for case, ranks_of_case in zip(meta['cases'], expected, strict=True):
    score = data['score'] / (np.sqrt(data['numel']) if case.get('score') == 'score / sqrt(numel)' else 1)
    options = {k: case[k] for k in ('budget', 'r_min', 'r_max', 'rule', 'unit')}
    if case.get('cap_at_kernel_width'):
      options['caps'] = dict(zip(names, data['width'].tolist(), strict=True))
    if case['rule'] == 'marginal':
      options['gains'] = dict(zip(names, gain, strict=True))
    scores = dict(zip(names, score.tolist(), strict=True))
    costs = dict(zip(names, data['cost'].tolist(), strict=True))
    yield scores, costs, options, dict(zip(names, ranks_of_case, strict=True))


@pytest.mark.parametrize(
  'case',
  [*allocation_cases('allocation_hand'), *allocation_cases('allocation_156')],
  ids=lambda case: '{rule}-{unit}-{budget}-{r_min}-{r_max}'.format(**case[2]),
)
def test_allocation_golden(case):
  scores, costs, options, expected = case
  found = ranks.allocate(scores, costs, **options)
  assert found == expected
  assert list(found) == list(scores)
  assert all(type(rank) is int for rank in found.values())


def test_uniform_is_the_published_uniform_row():
  """Uniform rank 8 is what 885,168 parameters buy at 156 sites; capping frees some of it at the narrow ones."""
  meta, data = golden('allocation_156')
  scores = dict.fromkeys(meta['names'], 1.0)
  costs = dict(zip(meta['names'], data['cost'].tolist(), strict=True))
  assert sum(costs.values()) * 8 == 885168
  assert set(ranks.allocate(scores, costs, 885168, 1, 64, 'uniform').values()) == {8}
  assert set(ranks.allocate(scores, costs, 885167, 1, 64, 'uniform').values()) == {7}
  assert set(ranks.allocate(scores, costs, 1248, 0, 64, 'uniform', 'ranks').values()) == {8}
  assert set(ranks.allocate(scores, costs, 885168, 1, 4, 'uniform').values()) == {4}
  caps = dict(zip(meta['names'], data['width'].tolist(), strict=True))
  capped = ranks.allocate(scores, costs, 885168, 1, 64, 'uniform', caps=caps)
  assert {capped['conv_first'], capped['conv_last']} == {3}


@st.composite
def problems(draw):
  number = draw(st.integers(1, 9))
  names = draw(st.permutations([f'site_{i}' for i in range(number)]))
  # Few distinct scores, so that ties are common; and the extremes of float64.
  value = st.one_of(st.integers(0, 4).map(float), st.floats(0, 1e300), st.floats(0, 1))
  scores = {name: draw(value) for name in names}
  costs = {name: draw(st.integers(1, 60)) for name in names}
  r_min = draw(st.integers(0, 3))
  r_max = draw(st.integers(r_min, 12))
  caps = draw(st.none() | st.fixed_dictionaries({name: st.integers(1, 12) for name in names}))
  unit = draw(st.sampled_from(ranks.UNITS))
  lengths = st.lists(value, min_size=0, max_size=12).map(lambda gains: sorted(gains, reverse=True))
  gains = {name: draw(lengths) for name in names}
  low = {name: min(r_min, caps[name] if caps else r_max) for name in names}
  needed = sum(low[name] * (costs[name] if unit == 'params' else 1) for name in names)
  return {
    'scores': scores, 'costs': costs, 'budget': needed + draw(st.integers(0, 500)), 'r_min': r_min, 'r_max': r_max,
    'rule': draw(st.sampled_from(ranks.RULES)), 'unit': unit, 'caps': caps, 'gains': gains,
  }  # fmt: skip


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(problems(), st.randoms())
def test_allocation_keeps_budget_and_bounds_in_any_order(problem, random):
  found = ranks.allocate(**problem)
  price = problem['costs'] if problem['unit'] == 'params' else dict.fromkeys(found, 1)
  assert sum(price[name] * rank for name, rank in found.items()) <= problem['budget']
  for name, rank in found.items():
    cap = min(problem['r_max'], problem['caps'][name]) if problem['caps'] else problem['r_max']
    assert min(problem['r_min'], cap) <= rank <= cap

  shuffled = list(problem['scores'].items())
  random.shuffle(shuffled)
  again = ranks.allocate(**problem | {'scores': dict(shuffled)})
  assert again == found
  assert list(again) == [name for name, _ in shuffled]


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(problems(), st.sampled_from(['greedy', 'proportional', 'proportional_per_cost']))
def test_what_is_left_buys_no_further_rank(problem, rule):
  found = ranks.allocate(**problem | {'rule': rule})
  price = problem['costs'] if problem['unit'] == 'params' else dict.fromkeys(found, 1)
  rest = problem['budget'] - sum(price[name] * rank for name, rank in found.items())
  for name, rank in found.items():
    cap = min(problem['r_max'], problem['caps'][name]) if problem['caps'] else problem['r_max']
    assert rank == cap or price[name] > rest


def test_allocation_of_equal_scores_goes_by_name():
  scores = {'b': 1.0, 'a': 1.0, 'c': 1.0}
  costs = dict.fromkeys(scores, 10)
  assert ranks.allocate(scores, costs, 40, 0, 4, 'greedy') == {'b': 0, 'a': 4, 'c': 0}
  assert ranks.allocate(scores, costs, 40, 0, 4, 'proportional') == {'b': 1, 'a': 2, 'c': 1}
  gains = dict.fromkeys(scores, [3.0, 2.0, 1.0])
  assert ranks.allocate(scores, costs, 40, 0, 4, 'marginal', gains=gains) == {'b': 1, 'a': 2, 'c': 1}


def test_a_site_of_score_zero_gets_what_others_cannot_use():
  assert ranks.allocate({'a': 0.0, 'b': 1.0}, {'a': 1, 'b': 1}, 6, 0, 4, 'proportional') == {'a': 2, 'b': 4}
  assert ranks.allocate({'a': 0.0, 'b': 0.0}, {'a': 1, 'b': 1}, 5, 0, 4, 'proportional') == {'a': 3, 'b': 2}


def test_marginal_stops_where_the_gains_of_a_site_end():
  found = ranks.allocate(
    {'a': 1.0, 'b': 1.0}, {'a': 1, 'b': 1}, 10, 1, 8, 'marginal', gains={'a': [9.0, 8.0], 'b': [1.0, 1.0, 0.0]}
  )
  assert found == {'a': 2, 'b': 3}


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (
      {'rule': 'best'},
      "Unknown allocation rule 'best'.*uniform, greedy, proportional, proportional_per_cost, marginal",
    ),
    ({'unit': 'bytes'}, "Unknown budget unit 'bytes'.*params, ranks"),
    ({'budget': 19}, 'r_min = 1 at all 2 sites takes 20 params, more than the budget of 19'),
    ({'r_min': 5}, 'r_min is 5 and r_max is 4'),
    ({'r_min': -1}, '0 <= r_min'),
    ({'scores': {'a': 1.0, 'b': float('nan')}}, 'score of b is nan'),
    ({'scores': {'a': float('inf'), 'b': 1.0}}, 'score of a is inf'),
    ({'scores': {'a': 1.0, 'b': -2.0}}, r'score of b is -2\.0'),
    ({'rule': 'marginal'}, 'needs the gains'),
    ({'rule': 'marginal', 'gains': {'a': [1.0], 'b': [2.0, float('nan')]}}, 'gain of unit 2 of b is nan'),
  ],
)
def test_allocation_errors_name_what_is_wrong(change, message):
  options = {'scores': {'a': 1.0, 'b': 2.0}, 'costs': {'a': 10, 'b': 10}, 'budget': 60, 'r_min': 1, 'r_max': 4}
  with pytest.raises(UserError, match=message):
    ranks.allocate(**options | {'rule': 'greedy', 'unit': 'params'} | change)


# --------------------------------------------------------------------------------------------------------- stability


def test_stability_golden():
  meta, data = golden('rank_stability')
  found = ranks.stability(data['scores'])
  assert set(found) == {'mean_pairwise', 'std_pairwise', 'mean_against_average', 'min_against_average'}
  for field, value in found.items():
    assert value == pytest.approx(meta[field], abs=1e-9)
  tied = ranks.stability(np.stack([data['tie_a'], data['tie_b']]))
  assert tied['mean_pairwise'] == pytest.approx(meta['tie_example'], abs=1e-9)


def test_stability_within_kinds_equals_stability_of_their_columns():
  table = golden('rank_stability')[1]['scores'][:6, :9]
  kinds = ['conv', 'attn', 'mlp'] + ['attn', 'attn', 'mlp'] * 2
  found = ranks.stability(table, kinds)
  assert set(found['within']) == {'attn', 'mlp'}  # a single convolution has no order
  attn = [i for i, kind in enumerate(kinds) if kind == 'attn']
  assert found['within']['attn'] == ranks.stability(table[:, attn])


@pytest.mark.parametrize(('other', 'agreement'), [([10, 20, 90], 1), ([5, 4, 1], -1), ([7, 7, 7], np.nan)])
def test_agreement_of_extremes(other, agreement):
  assert ranks.stability([[1, 2, 3], other])['mean_pairwise'] == pytest.approx(agreement, nan_ok=True)


def test_stability_needs_two_batches_and_two_sites():
  with pytest.raises(UserError, match=r'at least 2 batches and 2 sites.*\(1, 5\)'):
    ranks.stability(np.ones((1, 5)))

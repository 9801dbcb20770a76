"""What the compiled programs cost: adapters are free once merged, and the factored step saves kernel gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaptsr_jax import config, lora, losses, methods, models
from adaptsr_jax.base import Base
from benchmarks import step_time


@pytest.fixture(scope='module')
def base():
  fields = {'upscale': 2, 'num_feat': 32, 'num_block': 1}
  model = models.build('edsr', **fields)
  params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))['params']
  return Base('edsr', fields, jax.tree.map(np.asarray, params), {}, None)


@pytest.fixture(scope='module')
def found(base):
  return step_time.variants(base, batch=2, patch=12, rank=2, forms=['1x1_kxk'])


@pytest.fixture(scope='module')
def rows(found):
  return {row['variant']: row for row in step_time.rows(found, step_time.take_turns(found, rounds=2))}


def test_merged_model_compiles_to_the_program_of_the_base(found, rows):
  assert step_time.same_program(found)
  base, merged = found[-2:]
  if jax.default_backend() == 'cpu':  # Elsewhere, tuning may choose another kernel for the same instruction.
    assert base.compiled.as_text() == merged.compiled.as_text()
  assert rows['inference base']['flops'] == rows['inference merged']['flops'] > 0
  assert rows['inference base']['bytes_accessed'] == rows['inference merged']['bytes_accessed'] > 0


def test_a_model_with_adapters_beside_its_layers_is_another_program(base, found):
  # The comparison above would be worth nothing if it held for any two programs.
  model, sites = base.model(), lora.find_sites(base.model())
  adapters = lora.init(jax.random.key(0), sites, {site.name: 2 for site in sites}, '1x1_kxk')

  def unmerged(variables, x):
    return lora.factored.forward(model.apply, variables['params'], adapters, sites, 1.0, '1x1_kxk', x)

  compiled = jax.jit(unmerged).lower({'params': base.params}, jnp.zeros((2, 12, 12, 3))).compile()
  other = found[-1]._replace(compiled=compiled)
  assert not step_time.same_program([*found[:-1], other])


@pytest.mark.skipif(jax.default_backend() != 'cpu', reason='compilers count the FLOPs of library calls differently')
def test_factored_step_takes_fewer_flops_at_low_rank(rows):
  full, merged, factored = (rows[f'step {name}'] for name in ('full', 'lora merged 1x1_kxk', 'lora factored 1x1_kxk'))
  assert factored['flops'] < 0.9 * merged['flops']
  # Merging needs the gradients of the full kernels, as full fine-tuning does.
  assert 0.95 * full['flops'] < merged['flops'] < 1.1 * full['flops']
  assert full['trainable_parameters'] > merged['trainable_parameters'] == factored['trainable_parameters']


def test_rows_compare_with_their_reference(rows):
  for name, row in rows.items():
    assert row['ms'] >= row['ms_min'] > 0
    assert row['cpu_ms'] > 0
    assert row['held_bytes'] >= row['temporary_bytes']
    reference = rows[row['reference']]
    assert row['flops_ratio'] == row['flops'] / reference['flops']
    if name == row['reference']:
      assert row['ms_ratio'] == row['cpu_ms_ratio'] == row['held_bytes_ratio'] == 1


def test_table_has_a_line_for_each_variant(rows):
  lines = step_time.text(list(rows.values())).splitlines()
  assert len(lines) == len(rows) + 2
  assert len({line.count('|') for line in lines}) == 1
  assert all(name in line for name, line in zip(rows, lines[2:], strict=True))


def test_unknown_model_is_one_sentence(capsys):
  assert step_time.main(['--models', 'esdr']) == 2
  assert "'esdr'" in capsys.readouterr().err


@pytest.mark.parametrize('form', lora.FORMS)
@pytest.mark.parametrize('path', ['merged', 'factored'])
def test_a_chosen_path_is_kept(form, path):
  c = config.default()
  c.lora.form, c.lora.path = form, path
  assert methods.lora.spec(c, (), {})['path'] == path


@pytest.mark.parametrize(
  ('backend', 'form', 'rank', 'path'),
  [
    ('cpu', '1x1_kxk', 2, 'factored'),
    ('cpu', '1x1_kxk', 16, 'merged'),
    ('cpu', '1x1_kxk', 0, 'merged'),
    ('cpu', 'kxk_1x1', 2, 'merged'),
    ('cpu', 'loralib', 2, 'merged'),
    ('gpu', '1x1_kxk', 2, 'merged'),
  ],
)
def test_auto_takes_the_path_that_was_measured_to_be_faster(monkeypatch, base, backend, form, rank, path):
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  c = config.default()
  c.lora.form = form
  sites = lora.find_sites(base.model())
  assert methods.lora.spec(c, sites, {site.name: rank for site in sites})['path'] == path


@pytest.mark.parametrize('rank', [2, 8, 16])
def test_auto_agrees_with_the_flops_of_the_compiled_step(monkeypatch, base, rank):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'cpu')
  sites = lora.find_sites(base.model())
  ranks = {site.name: rank for site in sites}
  batch = {'lr': jnp.zeros((1, 8, 8, 3)), 'hr': jnp.zeros((1, 16, 16, 3))}
  c, flops = config.default(), {}
  for c.lora.path in ('merged', 'factored'):
    frozen, trainable = (method := methods.make(c, sites, ranks)).init(jax.random.key(0), base.params)

    def loss(trainable, frozen, method=method):
      return losses.l1(method.forward(base.model().apply, frozen, trainable, batch['lr']), batch['hr'])

    flops[c.lora.path] = jax.jit(jax.grad(loss)).lower(trainable, frozen).cost_analysis()['flops']
  c.lora.path = 'auto'
  assert methods.lora.spec(c, sites, ranks)['path'] == min(flops, key=flops.get)

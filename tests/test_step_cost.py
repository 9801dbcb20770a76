"""What the compiled programs cost: adapters are free once merged, and the factored step saves kernel gradients."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaptsr_jax import config, files, lora, methods, models
from adaptsr_jax.base import Base
from benchmarks import flops, gpu, step_time


@pytest.fixture(scope='module')
def base():
  fields = {'upscale': 2, 'num_feat': 32, 'num_block': 1}
  model = models.build('edsr', **fields)
  params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))['params']
  return Base('edsr', fields, jax.tree.map(np.asarray, params), {}, None)


@pytest.fixture(scope='module')
def found(base):
  return step_time.variants(base, batch=2, patch=12, rank=2, rows=step_time.plan(['1x1_kxk']))


@pytest.fixture(scope='module')
def rows(found):
  return {row['variant']: row for row in step_time.rows(found, step_time.take_turns(found, rounds=2))}


def instructions(compiled) -> str:
  """Returns the program without where its sources stand, which a program from a cache has from whoever put it there."""
  positions = ('FileNames', 'FunctionNames', 'FileLocations', 'StackFrames')
  parts = [part for part in compiled.as_text().split('\n\n') if not part.startswith(positions)]
  return re.sub(r', metadata=\{(?:"[^"]*"|[^"}])*\}', '', '\n\n'.join(parts))


def test_programs_are_compared_without_where_they_were_written():
  def here(x):
    return jnp.tanh(x) @ x

  def there(x):
    y = jnp.tanh(x)
    return y @ x

  there.__name__ = here.__name__
  x = jnp.ones((3, 3))
  here, there = (jax.jit(function).lower(x).compile() for function in (here, there))
  assert 'metadata' in here.as_text()
  assert 'metadata' not in str(instructions(here))
  assert instructions(here) == instructions(there)
  assert 'dot' in instructions(here)
  assert instructions(here) != instructions(jax.jit(lambda x: jnp.tanh(x) + x).lower(x).compile())


def test_merged_model_compiles_to_the_program_of_the_base(found, rows):
  assert step_time.same_program(found)
  base, merged = found[-2:]
  if jax.default_backend() == 'cpu':  # Elsewhere, tuning may choose another kernel for the same instruction.
    assert instructions(base.compiled) == instructions(merged.compiled)
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
  assert rows['step lora hybrid 1x1_kxk']['flops'] < factored['flops']
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


def test_rows_are_chosen_by_name_with_what_they_are_compared_with():
  def names(pattern, **options):
    return [row.name for row in step_time.plan(['1x1_kxk'], pattern=pattern, **options)]

  assert names('factored') == ['step full', 'step lora factored 1x1_kxk']
  assert names('merged$') == ['inference base', 'inference merged']
  assert names('lora merged', remats=[True]) == ['step full remat', 'step lora merged 1x1_kxk remat']
  both = {'remats': [False, True], 'dtypes': ['float32', 'bfloat16']}
  assert names('factored.* remat bfloat16', **both) == ['step full', 'step lora factored 1x1_kxk remat bfloat16']
  assert len(names('', **both)) == len(set(names('', **both))) == 4 * 4 + 4
  assert names('nothing') == []


def test_window_models_again_in_low_precision_and_with_blocks_computed_again():
  # Shapes instead of weights: nothing is run.
  fields = {'upscale': 2, 'embed_dim': 16, 'depths': (2,), 'num_heads': (2,), 'upsampler': 'pixelshuffledirect'}
  base = Base('swinir', fields, flops.parameters(models.build('swinir', **fields)), {}, None)
  wanted = ('step full', 'step full remat', 'step full bfloat16')
  plan = step_time.plan([], [False, True], ['float32', 'bfloat16'], 'full')
  found = step_time.variants(base, 2, 48, 2, [row for row in plan if row.name in wanted])
  rows = {row['variant']: row for row in step_time.rows(found, step_time.take_turns(found, 0))}
  assert tuple(rows) == wanted
  kept, again, low = rows.values()
  assert not any('ms' in row for row in rows.values())
  assert {row['reference'] for row in rows.values()} == {'step full'}
  assert len(step_time.text(list(rows.values())).splitlines()) == len(rows) + 2
  # A second forward pass of the blocks costs up to a third of a step. What it saves, schedules of CPUs may spend again;
  # tests/test_flops.py counts it in the traced program.
  assert 1.1 < again['flops_ratio'] < 1.35
  assert kept['trainable_parameters'] == again['trainable_parameters'] == low['trainable_parameters']
  assert low['bytes_accessed'] != kept['bytes_accessed']


@pytest.mark.parametrize(
  ('flags', 'said'),
  [
    (['--models', 'esdr'], "'esdr'"),
    (['--remat', 'yes'], "--remat has 'yes'; it can have off, on"),
    (['--dtypes', 'float16'], "--dtypes has 'float16'; it can have float32, bfloat16"),
    (['--rows', 'nothing'], "No row of safmn_x4 has a match of --rows='nothing'"),
    (['--rows', '('], "--rows is '(', which is no regular expression"),
  ],
  ids=str,
)
def test_what_cannot_be_measured_is_one_sentence(capsys, flags, said):
  assert step_time.main([*flags, '--rounds', '0']) == 2
  error = capsys.readouterr().err
  assert error.startswith('Error: ')
  assert said in error


def test_command_compiles_without_running(capsys, tmp_path):
  flags = ['--models', 'safmn_x2', '--batch', '1', '--patch', '8', '--remat', 'off,on', '--rows', 'inference']
  assert step_time.main([*flags, '--rounds', '0', '--out', str(tmp_path / 'x.json')]) == 0
  said = capsys.readouterr().out
  assert 'compiled only' in said
  assert 'CPU ms' not in said
  assert 'The merged model compiles to the program of the base (FLOPs, bytes, memory): yes.' in said
  rows = files.read_json(tmp_path / 'x.json')['models']['safmn_x2']['rows']
  assert [row['variant'] for row in rows] == ['inference base', 'inference merged']


@pytest.mark.parametrize('form', lora.FORMS)
@pytest.mark.parametrize('path', step_time.PATHS)
def test_a_chosen_path_is_kept(form, path):
  c = config.default()
  c.lora.form, c.lora.path = form, path
  assert methods.lora.with_ranks(c, (), {}).spec['path'] == path


@pytest.mark.parametrize(
  ('backend', 'form', 'rank', 'path'),
  [
    ('cpu', '1x1_kxk', 2, 'hybrid'),
    ('cpu', '1x1_kxk', 16, 'merged'),
    ('cpu', '1x1_kxk', 0, 'merged'),
    ('cpu', 'kxk_1x1', 2, 'hybrid'),
    ('cpu', 'loralib', 2, 'merged'),
    ('gpu', '1x1_kxk', 2, 'merged'),
  ],
)
def test_auto_takes_the_path_that_was_measured_to_be_faster(monkeypatch, base, backend, form, rank, path):
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  c = config.default()
  c.lora.form = form
  sites = lora.find_sites(base.model())
  assert methods.lora.with_ranks(c, sites, {site.name: rank for site in sites}).spec['path'] == path


@pytest.mark.parametrize(
  ('preset', 'path'),
  [('edsr_baseline_x4', 'hybrid'), ('swinir_light_x4', 'merged'), ('safmn_x4', 'merged'), ('srvgg_x4', 'hybrid')],
)
def test_auto_of_the_networks_that_were_timed(monkeypatch, preset, path):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'cpu')
  name, fields = models.PRESETS[preset]
  sites = lora.find_sites(models.build(name, **fields))
  assert methods.lora.with_ranks(config.default(), sites, {s.name: 8 for s in sites}).spec['path'] == path


def test_what_was_measured_on_a_gpu_is_not_measured_again(tmp_path, capfd):
  job = ['step_time', '--models', 'safmn_x2', '--batch', '1', '--patch', '8', '--rows', 'inference', '--rounds', '0']
  out = tmp_path / 'gpu.json'
  assert gpu.measure({'bad': ['step_time', '--models', 'esdr'], 'good': job}, out) == ['bad']
  kept = files.read_json(out)
  assert list(kept) == ['good']
  assert kept['good']['result']['models']['safmn_x2']['rows']
  assert gpu.measure({'good': ['no_such_module']}, out) == []
  assert files.read_json(out) == kept
  assert 'good: there already' in capfd.readouterr().out

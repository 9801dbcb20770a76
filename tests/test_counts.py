"""The published numbers of trainable parameters of SwinIR-M x4, computed by the code that trains them."""

import re
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from adaptsr_jax import config as config_lib
from adaptsr_jax import lora, methods, models, tree

ROWS = {1: 151_753, 4: 466_411, 8: 885_955, 16: 1_725_043, 64: 6_759_571}  # Table 2, LoRA of uniform rank
SUPER_PIXELS = ('^upsample_',)  # The paper leaves the convolutions of the pixel shuffles alone.


@pytest.fixture(scope='module')
def swinir_m():
  name, fields = models.PRESETS['swinir_classical_x4']
  return models.build(name, **fields)


@pytest.fixture(scope='module')
def base(swinir_m):
  """Parameters that take no memory: zeros of the right shapes."""
  x = jax.ShapeDtypeStruct((1, 8, 8, 3), np.float32)
  shapes = jax.eval_shape(swinir_m.init, jax.random.key(0), x)['params']
  return jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)


@pytest.fixture(scope='module')
def sites(swinir_m):
  return lora.find_sites(swinir_m, exclude=SUPER_PIXELS)


def trained(method: str, sites, base, ranks=None, **settings) -> int:
  """Returns how many parameters a run with these settings trains."""
  config = config_lib.default()
  config.method = method
  config.update_from_flattened_dict(settings)
  made = methods.make(config, sites, ranks or {})
  return tree.count(jax.eval_shape(lambda: made.init(jax.random.key(0), jax.tree.map(jax.numpy.asarray, base))[1]))


def uniform(sites, rank):
  return dict.fromkeys((site.name for site in sites), rank)


@pytest.mark.parametrize(('rank', 'published'), ROWS.items())
def test_table_2_uniform_ranks(sites, base, rank, published):
  settings = {'lora.form': 'loralib', 'lora.biases': True}
  assert trained('lora', sites, base, uniform(sites, rank), **settings) == published
  assert rank * sum(lora.cost(site, 'loralib') for site in sites) + 46_867 == published


@pytest.mark.parametrize(('kind', 'published'), [('conv', 868_032), ('mlp', 1_244_160), ('attn', 1_244_160)])
def test_table_4_lora(sites, base, kind, published):
  """Rank 32 and no biases."""
  chosen = [site for site in sites if site.kind == kind]
  settings = {'lora.form': 'loralib', 'lora.biases': False}
  assert trained('lora', chosen, base, uniform(chosen, 32), **settings) == published
  assert 32 * sum(lora.cost(site, 'loralib') for site in chosen) == published


@pytest.mark.parametrize(('kind', 'published'), [('conv', 2_152_975), ('mlp', 4_685_040), ('attn', 4_691_520)])
def test_table_4_full(sites, base, kind, published):
  assert trained('full', sites, base, **{'sites.kinds': (kind,)}) == published


def test_full_fine_tuning_trains_all(sites, base):
  assert trained('full', sites, base) == 11_900_199


def test_equation_2_costs_less(sites, base):
  assert trained('lora', sites, base, uniform(sites, 8), **{'lora.form': '1x1_kxk'}) == 789_507
  assert trained('lora', sites, base, uniform(sites, 8), **{'lora.form': 'kxk_1x1'}) == 789_507


def test_budget_of_the_rank_aware_row(sites):
  """What is shared out is the adapters of rank 8; the biases come on top."""
  assert 8 * sum(lora.cost(site, 'loralib') for site in sites) == 839_088
  assert 839_088 + sum(site.shape[-1] for site in sites) == 885_955


def test_number_of_sites(swinir_m, sites):
  everywhere = lora.find_sites(swinir_m)
  assert (len(everywhere), len(sites)) == (156, 154)
  assert {site.name for site in everywhere} - {site.name for site in sites} == {'upsample_0', 'upsample_2'}
  assert 8 * sum(lora.cost(site, 'loralib') for site in everywhere) == 885_168
  assert len(lora.find_sites(swinir_m, split_qkv=True)) == 156 + 2 * 36


# Table 3: the methods that the paper compares with.


def planned(method: str, sites, **fields):
  """Returns the plan of `method` with these fields of its own."""
  config = config_lib.default()
  config.method = method
  config.get(method, ConfigDict()).update(fields)
  return methods.plan(config, sites, SimpleNamespace(available=False, params=None))


def count(plan, base) -> int:
  made = methods.from_spec(plan.spec, plan.constants)
  return tree.count(jax.eval_shape(lambda: made.init(jax.random.key(0), jax.tree.map(jax.numpy.asarray, base))[1]))


@pytest.mark.parametrize('form', ['fold', 'swin'])
@pytest.mark.parametrize(
  ('rank', 'published'),
  [(50, 124_560), (100, 236_160), (350, 794_160), (375, 849_960), (400, 905_760), (500, 1_128_960)],
)
def test_table_3_arc(sites, base, form, rank, published):
  assert count(planned('arc', sites, form=form, rank=rank), base) == published


@pytest.mark.parametrize(('scope', 'number'), [('gains', 12_960), ('recipe', 86_979), ('recipe_and_tables', 135_579)])
def test_table_3_difffit(sites, base, scope, number):
  assert count(planned('difffit', sites, scope=scope), base) == number


@pytest.mark.parametrize(('norms', 'number'), [(False, 47_379), (True, 60_699)])
def test_bitfit(sites, base, norms, number):
  assert count(planned('bitfit', sites, norms=norms), base) == number


def test_dora_has_a_size_for_every_output_channel(sites, base):
  settings = {'lora.form': 'loralib', 'lora.biases': False}
  assert trained('dora', sites, base, uniform(sites, 8), **settings) == 839_088 + 46_867


@pytest.mark.parametrize(
  ('of', 'fields', 'number'),
  [
    ('154 sites', {'share': 0.081}, 930_011),
    ('154 sites', {'share': 0.081, 'across': 'all'}, 930_096),
    ('156 sites', {'share': 0.079}, 930_359),
    ('156 sites', {'share': 0.079, 'across': 'all'}, 930_429),
    ('linear', {'share': 0.1}, 933_120),
    ('linear', {'rank': 12}, 933_120),
    ('attn', {'rank': 24}, 933_120),
    ('180 wide', {'rank': 18}, 930_366),
  ],
)
def test_table_3_shira(swinir_m, sites, of, fields, number):
  chosen = {
    '154 sites': sites,
    '156 sites': lora.find_sites(swinir_m),
    'linear': [site for site in sites if site.kind != 'conv'],
    'attn': [site for site in sites if site.kind == 'attn'],
    '180 wide': [site for site in sites if site.kind == 'attn' or site.kind == 'conv' and site.shape[-1] == 180],
  }[of]
  plan = planned('shira', chosen, mask='random', **fields)
  assert sum(map(len, plan.constants.values())) == number


LINEAR = ('mlp', 'attn')


@pytest.mark.parametrize(('rank', 'number'), [(8, 623_952), (64, 4_991_616)])
def test_rasa_of_dense_layers(sites, base, rank, number):
  plan = planned('rasa', [site for site in sites if site.kind in LINEAR], rank=rank)
  assert len(plan.spec['groups']) == 24
  assert {len(members) for members in plan.spec['groups'].values()} == {6}
  assert count(plan, base) == number == 77_760 * rank + 144 * (rank + 5 * rank // 8)


def test_rasa_over_all_blocks(sites, base):
  plan = planned('rasa', [site for site in sites if site.kind in LINEAR], groups='blocks', rank=16, shared=3)
  assert count(plan, base) == 77_760 * 16 + 144 * (16 + 35 * 3)


@pytest.mark.parametrize(('rank', 'shared', 'number'), [(64, 8, 7_096_320), (64, 1, 7_091_280), (8, 1, 887_040)])
def test_table_3_rasa(swinir_m, base, rank, shared, number):
  """Plain adapters in the convolutions."""
  plan = planned('rasa', lora.find_sites(swinir_m), form='loralib', rank=rank, shared=shared, kinds=LINEAR)
  assert count(plan, base) == number


@pytest.mark.parametrize(('form', 'split', 'number'), [('loralib', False, 7_097_440), ('1x1_kxk', True, 7_097_248)])
def test_table_3_rasa_of_all_layers(swinir_m, base, form, split, number):
  """Stages share dense layers, convolutions of one shape share whatever their names."""
  found = lora.find_sites(swinir_m, split_qkv=split)
  plan = planned('rasa', found, form=form, rank=64)
  shapes = planned('rasa', [site for site in found if site.kind == 'conv'], groups='shapes').spec['groups']
  dense = {name: members for name, members in plan.spec['groups'].items() if name.count('x') == 1}
  assert (len(dense), len(shapes)) == (24 + 12 * split, 5)
  assert count(plan._replace(spec={**plan.spec, 'groups': dense | shapes}), base) == number


def test_rasa_of_shared_ranks_only(sites, base):
  plan = planned('rasa', sites, form='loralib', groups='shapes', rank=64, shared=64)
  assert count(plan, base) + 46_867 == 7_094_675  # with the biases of Table 2


@pytest.mark.parametrize(('place', 'preset'), [(0, 'swinir_classical_x4'), (1, 'safmn_ntire2023_x4')])
def test_numbers_of_the_page_on_methods(place, preset):
  page = (Path(__file__).parents[1] / 'docs' / 'methods.md').read_text()
  rows = re.findall(r'^\| `(\w+)` \|.*?\| ([\d,]+) \| ([\d,]+) \|', page, re.MULTILINE)
  written = {method: int(numbers[place].replace(',', '')) for method, *numbers in rows}
  name, fields = models.PRESETS[preset]
  model = models.build(name, **fields)
  x = jax.ShapeDtypeStruct((1, 16, 16, 3), np.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), x)['params']
  base = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
  scores = SimpleNamespace(available=False, params=base)
  found = {}
  for method in methods.METHODS:
    config = config_lib.default()
    config.method = method
    plan = methods.plan(config, lora.find_sites(model), scores)
    found[method] = count(plan, base)
  assert written == found

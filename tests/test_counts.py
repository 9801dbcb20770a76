"""The published numbers of trainable parameters of SwinIR-M x4, computed by the code that trains them."""

import jax
import numpy as np
import pytest

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

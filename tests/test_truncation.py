"""Adapters by singular values: exact where the rank suffices, best where it does not, and within their budget."""

import numpy as np
import pytest

from adaptsr_jax import base as base_lib
from adaptsr_jax import lora, tree
from adaptsr_jax.adapters import file, operations
from adaptsr_jax.adapters.__main__ import main
from adaptsr_jax.lora import truncation
from tests.pictures import write_pairs
from tests.shared import GOLDEN
from tests.test_adapter_file import make, save

WEIGHTS = GOLDEN / 'edsr_basicsr_x2' / 'weights.safetensors'
SITES = [
  lora.Site('conv', ('conv',), 'conv', (3, 3, 5, 4), None),
  lora.Site('up', ('up',), 'conv', (3, 3, 4, 7), None),
  lora.Site('fc', ('fc',), 'mlp', (6, 5), None),
]


@pytest.mark.parametrize('form', lora.FORMS)
@pytest.mark.parametrize('site', SITES, ids=lambda site: site.name)
def test_an_update_of_low_rank_comes_back_and_energies_say_what_is_lost(site, form):
  rng = np.random.default_rng(0)
  ab = {leaf: rng.normal(size=shape).astype(np.float32) for leaf, shape in lora.shapes(site, 2, form).items()}
  update = lora.delta(site, ab, 3.0, form)
  gains = truncation.energies(update, form)
  np.testing.assert_allclose(gains.sum(), np.square(update).sum(), rtol=1e-5)
  assert len(gains) == 2
  for rank in (1, 2, 3):
    small = truncation.truncated(site, update, rank, form, alpha=0.5, rslora=True)
    assert {leaf: array.shape for leaf, array in small.items()} == lora.shapes(site, rank, form)
    rest = update - lora.delta(site, small, 0.5, form, True)
    np.testing.assert_allclose(np.square(rest).sum(), gains[rank:].sum(), atol=1e-8 * gains.sum(), rtol=1e-3)


@pytest.fixture
def folder(tmp_path):
  """Returns a folder with an adapter of WEIGHTS of rank 3, and what it makes of them as a fine-tuned network."""
  base = base_lib.load(WEIGHTS)
  sites = lora.find_sites(base.model())
  adapter = make(base.params, sites, {site.name: 3 for site in sites}, alpha=0.1)
  save(tmp_path / 'adapter.safetensors', adapter)
  base_lib.export(tmp_path / 'tuned.pth', base, operations.apply(adapter, base.params))
  return tmp_path


def run(folder, *words):
  return main([str(folder / str(word)[1:]) if str(word)[0] == '@' else str(word) for word in words])


def fold(path):
  return tree.flatten(operations.apply(file.load(path), base_lib.load(WEIGHTS).params))


@pytest.mark.parametrize('form', lora.FORMS)
def test_what_was_trained_by_adapters_is_extracted_whole(folder, capsys, form):
  # As many ranks as an update of the first form can have in the others.
  rank = 3 if form == '1x1_kxk' else 27
  assert run(folder, 'extract', WEIGHTS, '@tuned.pth', '@out.safetensors', f'--rank={rank}', f'--form={form}') == 0
  tuned = tree.flatten(base_lib.load(folder / 'tuned.pth').params)
  for name, leaf in fold(folder / 'out.safetensors').items():
    np.testing.assert_allclose(leaf, tuned[name], atol=1e-5)
  assert '100.0 % of the squared change of all weights kept' in capsys.readouterr().out
  meta = file.load(folder / 'out.safetensors').meta
  assert (meta['extracted_from'], meta['base_file']) == ('tuned.pth', 'weights.safetensors')


def test_a_budget_is_kept_to_and_goes_where_most_is_kept(folder, capsys):
  # Without biases, which go with their site where it gets no rank.
  base, adapter = base_lib.load(WEIGHTS), file.load(folder / 'adapter.safetensors')
  kernels = {name: leaf for name, leaf in adapter.tensors.items() if not name.startswith('biases/')}
  adapter = adapter._replace(tensors=kernels, meta={**adapter.meta, 'biases': False})
  base_lib.export(folder / 'tuned.pth', base, operations.apply(adapter, base.params))
  shares = {}
  for words in (['--rank=1'], ['--budget=400'], ['--budget=1200']):
    assert run(folder, 'extract', WEIGHTS, '@tuned.pth', '@out.safetensors', *words) == 0
    adapter = file.load(folder / 'out.safetensors')
    sites, ranks = lora.from_json(adapter.meta['sites'])
    spent = sum(ranks[site.name] * lora.cost(site, '1x1_kxk') for site in sites)
    shares[words[0]] = spent, float(capsys.readouterr().out.splitlines()[-1].split(', ')[-1].split(' %')[0])
  assert shares['--budget=400'][0] <= 400 < shares['--budget=1200'][0] <= 1200
  # As much as rank 1 everywhere costs is better spent by budget.
  assert run(folder, 'extract', WEIGHTS, '@tuned.pth', '@out.safetensors', f'--budget={shares["--rank=1"][0]}') == 0
  assert float(capsys.readouterr().out.splitlines()[-1].split(', ')[-1].split(' %')[0]) >= shares['--rank=1'][1]
  assert shares['--budget=1200'][1] > shares['--budget=400'][1]


def test_what_no_adapter_holds_is_named(folder, capsys):
  tuned = base_lib.load(folder / 'tuned.pth')
  flat = tree.flatten(base_lib.load(WEIGHTS).params)
  name = next(name for name in flat if name.endswith('bias'))
  changed = tree.overlay(base_lib.load(WEIGHTS).params, {name: flat[name] + 1})
  base_lib.export(folder / 'biased.pth', tuned, changed)
  assert run(folder, 'extract', WEIGHTS, '@biased.pth', '@out.safetensors', '--rank=2') == 2
  assert 'no kernel' in capsys.readouterr().err
  kernel = name.replace('bias', 'kernel')
  other = next(n for n in flat if n.endswith('kernel') and n != kernel)
  base_lib.export(folder / 'both.pth', tuned, tree.overlay(changed, {other: flat[other] + 1}))
  assert run(folder, 'extract', WEIGHTS, '@both.pth', '@out.safetensors', '--rank=2') == 0
  assert f'Left out, for no adapter holds it: the change of {name}.' in capsys.readouterr().out


def test_what_is_lost_is_measured_on_pictures(folder, capsys):
  lr, hr = write_pairs(folder / 'pairs', 2, size=40)
  words = ['--rank=1', f'--lr={lr}', f'--hr={hr}']
  assert run(folder, 'extract', WEIGHTS, '@tuned.pth', '@out.safetensors', *words) == 0
  table = capsys.readouterr().out
  assert all(label in table for label in ('fine-tuned', 'with adapter', 'base', 'psnr_y', 'difference'))


@pytest.mark.parametrize('form', lora.FORMS)
def test_resizing_is_the_best_smaller_adapter_and_the_same_where_nothing_is_cut(tmp_path, form):
  base = base_lib.load(WEIGHTS)
  sites = lora.find_sites(base.model())
  path = save(tmp_path / 'a.safetensors', make(base.params, sites, {site.name: 2 for site in sites}, form, 0.1))
  assert run(tmp_path, 'resize', '@a.safetensors', '@same.safetensors', '--rank=2') == 0
  before = fold(path)
  for name, leaf in fold(tmp_path / 'same.safetensors').items():
    np.testing.assert_allclose(leaf, before[name], atol=1e-5)
  assert run(tmp_path, 'resize', '@a.safetensors', '@one.safetensors', '--rank=1') == 0
  errors = [np.square(fold(tmp_path / 'one.safetensors')[n] - before[n]).sum() for n in before if n.endswith('kernel')]
  adapter = file.load(path)
  for error, site in zip(sorted(errors), sorted(_second(adapter, site, form) for site in sites), strict=True):
    np.testing.assert_allclose(error, site, rtol=1e-3, atol=1e-9)


def _second(adapter, site, form):
  ab = {leaf: adapter.tensors[f'adapters/{site.name}/{leaf}'] for leaf in ('a', 'b')}
  return truncation.energies(lora.delta(site, ab, 0.1, form), form)[1:].sum()


def test_a_resized_adapter_keeps_to_its_budget_and_forgets_what_was_measured(folder, capsys):
  assert run(folder, 'resize', '@adapter.safetensors', '@small.safetensors', '--budget=500') == 0
  small = file.load(folder / 'small.safetensors')
  sites, ranks = lora.from_json(small.meta['sites'])
  assert 0 < sum(ranks[site.name] * lora.cost(site, '1x1_kxk') for site in sites) <= 500
  assert small.meta['metrics'] == {}
  assert {name.split('/', 1)[1].rpartition('/')[0] for name in small.tensors if name.startswith('biases/')} == {
    '/'.join(site.path) for site in sites if ranks[site.name]
  }
  fold(folder / 'small.safetensors')
  assert main(['inspect', str(folder / 'small.safetensors')]) == 0


REFUSED = {
  'same': (['extract', WEIGHTS, WEIGHTS, '@out.safetensors', '--rank=2'], 'the same'),
  'other': (['extract', WEIGHTS, 'bundled:safmn_x4', '@out.safetensors', '--rank=2'], 'bundled:safmn_x4 safmn'),
  'small': (['resize', '@adapter.safetensors', '@out.safetensors', '--budget=3'], 'too small for a single rank'),
  'negative': (['resize', '@adapter.safetensors', '@out.safetensors', '--rank=-1'], 'above 0'),
  'ending': (['resize', '@adapter.safetensors', '@out.pth', '--rank=1'], 'end in .safetensors'),
  'itself': (['resize', '@adapter.safetensors', '@adapter.safetensors', '--rank=1'], 'one of the inputs'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_mistakes_are_one_sentence_and_write_nothing(folder, capsys, case):
  words, said = REFUSED[case]
  before = {path.name: path.read_bytes() for path in folder.iterdir()}
  assert run(folder, *words) == 2
  error = capsys.readouterr().err
  assert said in error
  assert error.count('\n') == 1
  assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

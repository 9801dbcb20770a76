"""The adapter file and the command that inspects, merges and mixes: there and back, and faults made on purpose."""

import json
import os
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from adaptsr_jax import base as base_lib
from adaptsr_jax import lora, models, tree
from adaptsr_jax.adapters import file, operations
from adaptsr_jax.adapters.__main__ import main
from adaptsr_jax.errors import UserError
from tests.shared import GOLDEN

FIELDS = {'upscale': 2, 'num_feat': 4, 'num_block': 1}
SITES = lora.find_sites(models.build('edsr', **FIELDS))
RANKS = {site.name: i % 3 for i, site in enumerate(SITES)}
V1 = GOLDEN / 'adapter_v1'
WEIGHTS = GOLDEN / 'edsr_basicsr_x2' / 'weights.safetensors'


def random_params(seed=0):
  shapes = jax.eval_shape(models.build('edsr', **FIELDS).init, jax.random.key(0), np.zeros((1, 8, 8, 3)))['params']
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def make(params, sites=SITES, ranks=RANKS, form='1x1_kxk', alpha=2.0, seed=1, biases=True, **meta):
  """Returns an adapter of `params` as after training: nothing is zero."""
  rng = np.random.default_rng(seed)
  adapters = {
    site.name: {
      leaf: rng.normal(size=shape).astype(np.float32)
      for leaf, shape in lora.shapes(site, ranks[site.name], form).items()
    }
    for site in sites
    if ranks[site.name]
  }
  flat = tree.flatten(params)
  names = [f'{name}/bias' for name in adapters if f'{name}/bias' in flat] if biases else []
  biases = {name: flat[name] + rng.normal(size=flat[name].shape).astype(np.float32) for name in names}
  meta = {
    'model': 'edsr',
    'fields': FIELDS,
    'base_fingerprint': tree.fingerprint(params),
    'base_file': 'EDSR_x2.pth',
    'method': 'lora',
    'form': form,
    'alpha': alpha,
    'rslora': False,
    'biases': biases != {},
    'sites': lora.to_json(sites, ranks),
    'metrics': {'psnr_y': 31.5},
    **meta,
  }
  return file.Adapter(meta, tree.flatten({'adapters': adapters, 'biases': biases}))


def parted(adapter):
  """Returns the adapters by site, and the biases."""
  groups = {'adapters': {}, 'biases': {}}
  for name, leaf in adapter.tensors.items():
    group, rest = name.split('/', 1)
    groups[group][rest] = leaf
  by_site: dict = {}
  for name, leaf in groups['adapters'].items():
    site, _, ab = name.rpartition('/')
    by_site.setdefault(site, {})[ab] = leaf
  return by_site, groups['biases']


def save(path, adapter):
  file.save(path, adapter)
  return path


def assert_trees_equal(found, expected, **tolerance):
  assert tree.compare(expected, found) == []
  for name, leaf in tree.flatten(expected).items():
    np.testing.assert_allclose(tree.flatten(found)[name], leaf, err_msg=name, **tolerance)


# The file


@pytest.mark.parametrize('form', lora.FORMS)
def test_there_and_back(tmp_path, form):
  adapter = make(random_params(), form=form, alpha=1)
  path = save(tmp_path / 'new' / 'adapter.safetensors', adapter)
  back = file.load(path)
  assert back.meta == {**adapter.meta, 'format': 'adaptsr_jax adapter', 'version': 2}
  jax.tree.map(np.testing.assert_array_equal, back.tensors, adapter.tensors)
  assert [p.name for p in path.parent.iterdir()] == ['adapter.safetensors']


def test_equal_adapters_are_equal_files_of_little_more_than_their_values(tmp_path):
  adapter = make(random_params())
  one, two = (save(tmp_path / name, adapter) for name in ('one.safetensors', 'two.safetensors'))
  assert one.read_bytes() == two.read_bytes()
  values = 4 * tree.count(adapter.tensors)
  assert values < one.stat().st_size < values + 4096


def test_save_refuses_what_load_would(tmp_path):
  adapter = make(random_params())
  path = tmp_path / 'adapter.safetensors'
  with pytest.raises(UserError, match='contradicts itself'):
    save(path, adapter._replace(tensors={}))
  with pytest.raises(UserError, match='base_fingerprint = None'):
    save(path, adapter._replace(meta={**adapter.meta, 'base_fingerprint': None}))
  assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
  path = save(tmp_path / 'adapter.safetensors', make(random_params()))
  before = path.read_bytes()

  def full_disk(*_):
    raise OSError('No space left on device')

  monkeypatch.setattr(os, 'replace', full_disk)
  with pytest.raises(UserError, match='No space left on '):
    save(path, make(random_params(), seed=9))
  assert path.read_bytes() == before
  assert [p.name for p in tmp_path.iterdir()] == ['adapter.safetensors']


def rewrite(path, meta=None, tensors=None):
  """Writes the file again with some of its header or tensors changed; None removes a tensor."""
  adapter = file.load(path)
  content = {name: leaf for name, leaf in {**adapter.tensors, **(tensors or {})}.items() if leaf is not None}
  path.write_bytes(safetensors.numpy.save(content, {'adaptsr_jax': json.dumps({**adapter.meta, **(meta or {})})}))


FAULTS = {
  'truncated': (lambda path: path.write_bytes(path.read_bytes()[:-5]), 'cannot be read as .safetensors'),
  'header only': (lambda path: path.write_bytes(path.read_bytes()[:100]), 'cannot be read as .safetensors'),
  'empty': (lambda path: path.write_bytes(b''), 'cannot be read as .safetensors'),
  'a picture': (lambda path: path.write_bytes(b'\x89PNG\r\n\x1a\n' * 40), 'cannot be read as .safetensors'),
  'missing': (lambda path: path.unlink(), 'is not a file'),
  'weights': (lambda path: shutil.copy(WEIGHTS, path), "no 'adaptsr_jax' entry"),
  'no json': (
    lambda path: path.write_bytes(safetensors.numpy.save({'a': np.zeros(1)}, {'adaptsr_jax': '{'})),
    'is not JSON',
  ),
  'not a table': (
    lambda path: path.write_bytes(safetensors.numpy.save({'a': np.zeros(1)}, {'adaptsr_jax': '[]'})),
    'does not say format',
  ),
  'other format': (lambda path: rewrite(path, {'format': 'other'}), 'does not say format'),
  'newer': (lambda path: rewrite(path, {'version': 3}), 'has version 3 and this program reads 2'),
  'form': (lambda path: rewrite(path, {'form': 'eq2'}), "form 'eq2' is not known"),
  'wrong form': (lambda path: rewrite(path, {'form': 'kxk_1x1'}), 'contradicts itself'),
  'alpha': (lambda path: rewrite(path, {'alpha': '1'}), "alpha = '1' in its header, where a number belongs"),
  'alpha 0': (lambda path: rewrite(path, {'alpha': 0}), 'must be a positive number'),
  'alpha nan': (lambda path: rewrite(path, {'alpha': float('nan')}), 'must be a positive number'),
  'sites': (lambda path: rewrite(path, {'sites': [{}]}), 'does not describe a site'),
  'ranks': (lambda path: rewrite(path, {'sites': lora.to_json(SITES, {})}), 'should be absent'),
  'tensor gone': (lambda path: rewrite(path, tensors={'adapters/body_0/conv1/b': None}), 'and is absent'),
  'tensor cut': (lambda path: rewrite(path, tensors={'adapters/body_0/conv1/a': np.zeros((4, 2))}), r'\(4, 1\)'),
  'not finite': (
    lambda path: rewrite(path, tensors={'biases/body_0/conv1/bias': np.full(4, np.nan, np.float32)}),
    r'NaN or infinite values \(4 of 4\)',
  ),
  'tensor more': (lambda path: rewrite(path, tensors={'other': np.zeros(2)}), 'tensor other should be absent'),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_damaged_and_foreign_files_are_refused(tmp_path, capsys, fault):
  damage, message = FAULTS[fault]
  path = save(tmp_path / 'adapter.safetensors', make(random_params()))
  damage(path)
  with pytest.raises(UserError, match=message) as error:
    file.load(path)
  assert str(path) in str(error.value)
  assert '\n' not in str(error.value)
  assert main(['inspect', str(path)]) == 2
  assert capsys.readouterr().err == f'Error: {error.value}\n'


def test_files_of_version_1_load_merge_and_mix_as_before(tmp_path):
  """Written by the version before: two adapters, what `merge` (at strength 1 and 0.7) and `mix` made of them."""
  base = base_lib.load(WEIGHTS).params
  one, two, mixed = (file.load(V1 / f'{name}.safetensors') for name in ('one', 'two', 'mixed'))
  for strength, name in ((1.0, 'merged'), (0.7, 'merged_07')):
    merged = operations.apply(one, base, strength)
    assert_trees_equal(merged, base_lib.load(V1 / f'{name}.safetensors').params, rtol=0, atol=0)
  again = operations.mix([one, two], [0.25, 0.75], ['one', 'two'])
  assert again.tensors.keys() == mixed.tensors.keys()
  for name, leaf in mixed.tensors.items():
    np.testing.assert_array_equal(again.tensors[name], leaf)
  save(tmp_path / 'rewritten.safetensors', one)
  rewritten = operations.apply(file.load(tmp_path / 'rewritten.safetensors'), base)
  assert_trees_equal(rewritten, operations.apply(one, base), rtol=0, atol=0)


# The base


def test_fingerprint_sees_values_names_and_shapes():
  params = random_params()
  reference = tree.fingerprint(params)
  assert reference == tree.fingerprint({name: params[name] for name in reversed(params)})
  assert reference == tree.fingerprint(jax.tree.map(jax.numpy.asarray, params))
  bias = params['conv_last']['bias']
  nudged = np.nextafter(bias, np.float32(np.inf))
  others = [
    tree.replaced(params, ('conv_last', 'bias'), nudged),
    tree.replaced(params, ('conv_last', 'bias'), bias[None]),
    {**{name: params[name] for name in params if name != 'conv_last'}, 'conv_fin': params['conv_last']},
  ]
  assert len({reference, *map(tree.fingerprint, others)}) == 4


def test_another_base_is_refused():
  adapter = make(random_params())
  file.check_base(adapter.meta, random_params())
  with pytest.raises(UserError, match=r'another base: edsr from EDSR_x2\.pth'):
    file.check_base(adapter.meta, random_params(seed=4))


def test_apply_dials_between_base_and_adapted():
  params = random_params()
  adapter = make(params)
  adapters, biases = parted(adapter)
  adapted = tree.overlay(lora.merge(params, adapters, SITES, 2.0, '1x1_kxk'), biases)
  assert_trees_equal(operations.apply(adapter, params, 0.0), params, rtol=0, atol=0)
  assert_trees_equal(operations.apply(adapter, params), adapted, rtol=0, atol=0)
  half = jax.tree.map(lambda one, two: (one + two) / 2, params, adapted)
  assert_trees_equal(operations.apply(adapter, params, 0.5), half, atol=1e-5)


def test_apply_refuses_an_adapter_that_does_not_fit():
  params = random_params()
  adapter = make(params)
  wider = SITES[1]._replace(shape=(3, 3, 5, 4))
  misfits = {
    r'biases/conv_fin/bias of shape \(3,\).*absent': adapter._replace(
      tensors={'biases/conv_fin/bias': np.zeros(3, np.float32)}
    ),
    r'biases/body_0/conv1/bias of shape \(5,\).*\(4,\)': adapter._replace(
      tensors={'biases/body_0/conv1/bias': np.zeros(5, np.float32)}
    ),
    'site body_0/conv1': make(params, sites=[wider], biases=False),
    'site conv_fin': make(
      params, sites=[SITES[1]._replace(name='conv_fin', path=('conv_fin',))], ranks={'conv_fin': 1}, biases=False
    ),
  }
  for message, misfit in misfits.items():
    with pytest.raises(UserError, match=message):
      operations.apply(misfit, params)


@pytest.mark.parametrize('form', lora.FORMS)
def test_mix_is_the_weighted_sum_of_changes(form):
  params = random_params()
  one = make(params, form=form)
  two = make(params, ranks={site.name: 1 + i % 2 for i, site in enumerate(SITES)}, form=form, alpha=3.0, seed=2)
  mixed = operations.mix([one, two], [0.25, -0.5], ['one', 'two'], params)
  changed = [operations.apply(adapter, params) for adapter in (one, two)]
  expected = jax.tree.map(lambda b, x, y: b + 0.25 * (x - b) - 0.5 * (y - b), params, *changed)
  assert_trees_equal(operations.apply(mixed, params), expected, atol=2e-5)
  assert mixed.meta['mixed_from'] == [{'file': 'one', 'weight': 0.25}, {'file': 'two', 'weight': -0.5}]


def test_mixed_biases_without_base():
  params = random_params()
  one, two = make(params), make(params, seed=2)
  mixed = operations.mix([one, two], [0.25, 0.75], ['one', 'two'])
  changed = [operations.apply(adapter, params) for adapter in (one, two)]
  expected = jax.tree.map(lambda x, y: 0.25 * x + 0.75 * y, *changed)
  assert_trees_equal(operations.apply(mixed, params), expected, atol=2e-5)
  with pytest.raises(UserError, match='the weights sum to 1.5, not to 1; give their base with --base'):
    operations.mix([one, two], [0.75, 0.75], ['one', 'two'])
  with pytest.raises(UserError, match='cannot be mixed because two has none'):
    operations.mix([one, make(params, seed=2, biases=False)], [0.5, 0.5], ['one', 'two'])


# The command


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A folder with base.safetensors (key names of PyTorch) and two adapters of it."""
  folder = tmp_path_factory.mktemp('trained')
  shutil.copy(WEIGHTS, folder / 'base.safetensors')
  base = base_lib.load(folder / 'base.safetensors')
  sites = lora.find_sites(base.model())
  for seed, name in enumerate(('one', 'two')):
    ranks = {site.name: 1 + (i + seed) % 2 for i, site in enumerate(sites)}
    save(
      folder / f'{name}.safetensors', make(base.params, sites, ranks, seed=seed, model=base.name, fields=base.fields)
    )
  return folder


def run(folder, *words):
  """Runs the command with file names of `folder`: words that start with '@'."""
  return main([str(folder / word[1:]) if word.startswith('@') else word for word in words])


def test_inspect(trained, capsys):
  assert run(trained, 'inspect', '@one.safetensors') == 0
  text = capsys.readouterr().out
  adapter = file.load(trained / 'one.safetensors')
  assert 'EDSR_x2.pth' in text
  assert 'psnr_y 31.5' in text
  assert f'= {tree.count(adapter.tensors):,} parameters' in text
  assert 'scale of the updates 2 / rank' in text

  assert run(trained, 'inspect', '@one.safetensors', '--json') == 0
  found = json.loads(capsys.readouterr().out)
  assert found['sites'] == adapter.meta['sites']
  assert found['parameters']['adapters'] == tree.count(parted(adapter)[0])


@pytest.mark.parametrize('out', ['merged.safetensors', 'merged.pth', 'merged'])
def test_merge(trained, tmp_path, capsys, out):
  assert main(['merge', *(str(trained / f'{x}.safetensors') for x in ('base', 'one')), str(tmp_path / out)]) == 0
  base = base_lib.load(trained / 'base.safetensors').params
  expected = operations.apply(file.load(trained / 'one.safetensors'), base)
  merged = base_lib.load(tmp_path / out)
  assert_trees_equal(merged.params, expected, rtol=0, atol=0)
  largest = max(
    float(np.abs(x - y).max()) for x, y in zip(jax.tree.leaves(base), jax.tree.leaves(expected), strict=True)
  )
  assert f'largest change {largest:.3g}' in capsys.readouterr().out
  assert [p.name for p in tmp_path.iterdir()] == [out]


def test_merge_at_strength_zero_gives_the_base(trained, tmp_path):
  words = ('merge', '@base.safetensors', '@one.safetensors', str(tmp_path / 'same.safetensors'), '--strength', '0')
  assert run(trained, *words) == 0
  assert_trees_equal(
    base_lib.load(tmp_path / 'same.safetensors').params, base_lib.load(trained / 'base.safetensors').params, atol=0
  )


def test_mix(trained, tmp_path):
  out = tmp_path / 'both.safetensors'
  assert run(trained, 'mix', '@one.safetensors', '@two.safetensors', str(out), '--weights', '0.5,0.5') == 0
  mixed = file.load(out)
  assert {row['rank'] for row in mixed.meta['sites']} == {3}
  base = base_lib.load(trained / 'base.safetensors').params
  changed = [operations.apply(file.load(trained / f'{x}.safetensors'), base) for x in ('one', 'two')]
  assert_trees_equal(operations.apply(mixed, base), jax.tree.map(lambda x, y: (x + y) / 2, *changed), atol=2e-5)
  words = ('--weights', '0.5,1', '--base', '@base.safetensors')
  assert run(trained, 'mix', '@one.safetensors', '@two.safetensors', str(out), *words) == 0


REFUSED = {
  'base': (['merge', '@other.safetensors', '@one.safetensors', '@out.pth'], 'trained on another base'),
  'no base': (['merge', '@none.pth', '@one.safetensors', '@out.pth'], 'none.pth'),
  'weights as adapter': (['merge', '@base.safetensors', '@base.safetensors', '@out.pth'], 'not an adapter file'),
  'over input': (['merge', '@base.safetensors', '@one.safetensors', '@base.safetensors'], 'one of the inputs'),
  'over folder': (['merge', '@base.safetensors', '@one.safetensors', '@photos'], 'other content'),
  'strength': (
    ['merge', '@base.safetensors', '@one.safetensors', '@out.pth', '--strength', 'nan'],
    'not finite',
  ),
  'weights': (['mix', '@one.safetensors', '@two.safetensors', '@out.safetensors', '--weights', '1'], 'give 2 finite'),
  'words': (['mix', '@one.safetensors', '@out.safetensors', '--weights', 'half'], 'give numbers'),
  'ending': (['mix', '@one.safetensors', '@out.pth', '--weights', '1'], 'let it end in .safetensors'),
  'mixed bases': (
    ['mix', '@one.safetensors', '@foreign.safetensors', '@out.safetensors', '--weights', '0.5,0.5'],
    'foreign.safetensors has base_fingerprint',
  ),
}


@pytest.mark.parametrize('case', REFUSED)
def test_mistakes_are_one_sentence_and_write_nothing(trained, tmp_path, capsys, case):
  words, message = REFUSED[case]
  for source in trained.glob('*.safetensors'):
    shutil.copy(source, tmp_path)
  save(tmp_path / 'foreign.safetensors', make(random_params()))
  weights = safetensors.numpy.load_file(WEIGHTS)
  safetensors.numpy.save_file({name: leaf + 1 for name, leaf in weights.items()}, tmp_path / 'other.safetensors')
  (tmp_path / 'photos').mkdir()
  (tmp_path / 'photos' / 'photo.png').touch()
  before = {path: path.read_bytes() for path in tmp_path.rglob('*') if path.is_file()}
  assert run(tmp_path, *words) == 2
  error = capsys.readouterr().err.strip()
  assert message in error
  assert '\n' not in error
  assert {path: path.read_bytes() for path in tmp_path.rglob('*') if path.is_file()} == before

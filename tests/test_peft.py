"""Adapters of PEFT in and out. What PEFT itself wrote, and computes with it, is in golden/peft."""

import json
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import adaptsr_jax as sr
from adaptsr_jax import base as base_lib
from adaptsr_jax import lora, tree
from adaptsr_jax.adapters import file, operations, peft
from adaptsr_jax.adapters.__main__ import main
from adaptsr_jax.errors import UserError
from tests.shared import GOLDEN
from tests.test_adapter_file import make, save

BASES = {'dense': 'swinir_light_x4_w4', 'biases': 'swinir_light_x4_w4', 'conv': 'safmn_x2'}


def weights(name):
  return GOLDEN / BASES[name] / 'weights.safetensors'


@pytest.mark.parametrize('name', BASES)
def test_what_peft_trained_makes_the_same_picture(tmp_path, name):
  out = tmp_path / 'adapter.safetensors'
  assert main(['import', str(weights(name)), str(GOLDEN / 'peft' / name), str(out)]) == 0
  golden = np.load(GOLDEN / 'peft' / name / 'picture.npz')
  net = sr.load(weights(name))
  found = net.with_adapter(out).enlarge(golden['x'], tile=-1)
  np.testing.assert_allclose(found, golden['y'], atol=1e-4)
  assert np.abs(net.enlarge(golden['x'], tile=-1) - golden['y']).max() > 0.01


@pytest.mark.parametrize('rslora', [True, False])
@pytest.mark.parametrize(('name', 'split'), [('dense', False), ('dense', True), ('conv', False)])
def test_there_and_back_is_the_same_network(tmp_path, name, split, rslora):
  """With ranks that differ by site, none at some, trained biases, and three sites at one kernel."""
  base = base_lib.load(weights(name))
  sites = lora.find_sites(base.model(), split_qkv=split)
  ranks = {site.name: i % 4 for i, site in enumerate(sites)}
  told = {'model': base.name, 'fields': base.fields, 'rslora': rslora}
  adapter = save(tmp_path / 'a.safetensors', make(base.params, sites, ranks, 'kxk_1x1', **told))
  assert main(['export', str(adapter), str(tmp_path / 'theirs')]) == 0
  assert sorted(path.name for path in (tmp_path / 'theirs').iterdir()) == [peft.CONFIG, peft.WEIGHTS]
  assert main(['import', str(weights(name)), str(tmp_path / 'theirs'), str(tmp_path / 'b.safetensors')]) == 0
  one, two = (tree.flatten(operations.apply(file.load(tmp_path / f'{each}.safetensors'), base.params)) for each in 'ab')
  for leaf, value in one.items():
    np.testing.assert_allclose(two[leaf], value, rtol=1e-6, atol=1e-5, err_msg=leaf)
  assert main(['export', str(tmp_path / 'b.safetensors'), str(tmp_path / 'again')]) == 0
  first, second = (load_file(tmp_path / folder / peft.WEIGHTS) for folder in ('theirs', 'again'))
  assert first.keys() == second.keys()
  for key, leaf in first.items():
    np.testing.assert_array_equal(second[key], leaf, err_msg=key)


def added(folder, weights):
  """Folds a folder of PEFT into PyTorch weights by its formula, W + lora_alpha / r * B A."""
  config, tensors = json.loads((folder / peft.CONFIG).read_text()), load_file(folder / peft.WEIGHTS)
  assert (config['peft_type'], config['lora_dropout'], config['bias']) == ('LORA', 0, 'lora_only')
  merged = dict(weights)
  for key, a in tensors.items():
    name = key.removeprefix('base_model.model.')
    if name.endswith('.base_layer.bias'):
      merged[name.replace('.base_layer', '')] = a
    if not name.endswith('.lora_A.weight'):
      continue
    module, b = name.removesuffix('.lora_A.weight'), tensors[key.replace('lora_A', 'lora_B')]
    rank = next((r for key, r in config['rank_pattern'].items() if re.match(rf'(.*\.)?({key})$', module)), config['r'])
    assert (a.shape[0], b.shape[1]) == (rank, rank)
    change = np.einsum('or...,r...->o...', b.reshape(*b.shape[:2], *(1,) * (a.ndim - 2)), a)
    scale = config['lora_alpha'] / (rank**0.5 if config['use_rslora'] else rank)
    merged[f'{module}.weight'] = weights[f'{module}.weight'] + np.float32(scale) * change
  return merged


def added_by_peft(folder, weights):
  """As `added`, by PEFT itself, on layers of the names and shapes that the kernels have."""
  torch = pytest.importorskip('torch', reason="PyTorch is not installed (python -m pip install -e '.[torch]')")
  library = pytest.importorskip('peft', reason='PEFT is not installed (python -m pip install peft)')
  network = torch.nn.Module()
  for key, leaf in weights.items():
    path, _, last = key.rpartition('.')
    if last != 'weight' or leaf.ndim not in (2, 4):
      continue
    parent = network
    for part in path.split('.')[:-1]:
      parent = parent._modules.setdefault(part, torch.nn.Module())
    out, into, *size = leaf.shape
    biased = f'{path}.bias' in weights
    layer = torch.nn.Conv2d(into, out, size, bias=biased) if size else torch.nn.Linear(into, out, bias=biased)
    parent.add_module(path.rpartition('.')[2], layer)
  network.load_state_dict({key: torch.from_numpy(np.array(weights[key])) for key in network.state_dict()})
  merged = library.PeftModel.from_pretrained(network, folder).merge_and_unload()
  return {**weights, **{key: leaf.detach().numpy() for key, leaf in merged.state_dict().items()}}


@pytest.mark.parametrize('merge', [added, pytest.param(added_by_peft, marks=pytest.mark.torch)])
@pytest.mark.parametrize('rslora', [True, False])
@pytest.mark.parametrize('name', ['dense', 'conv'])
def test_what_is_exported_makes_the_same_weights(tmp_path, name, rslora, merge):
  """Folded in by PEFT, and by its formula, it gives what `adapters merge` writes."""
  base = base_lib.load(weights(name))
  sites = lora.find_sites(base.model())
  ranks = {site.name: i % 4 for i, site in enumerate(sites)}
  told = {'model': base.name, 'fields': base.fields, 'rslora': rslora}
  adapter = save(tmp_path / 'a.safetensors', make(base.params, sites, ranks, 'kxk_1x1', **told))
  assert main(['export', str(adapter), str(tmp_path / 'theirs')]) == 0
  assert main(['merge', str(weights(name)), str(adapter), str(tmp_path / 'merged.safetensors')]) == 0
  expected, before = load_file(tmp_path / 'merged.safetensors'), load_file(weights(name))
  found = merge(tmp_path / 'theirs', before)
  changed = [key for key, leaf in expected.items() if not np.array_equal(leaf, before[key])]
  assert len(changed) >= sum(rank > 0 for rank in ranks.values())
  for key, leaf in expected.items():
    np.testing.assert_allclose(found[key], leaf, rtol=1e-5, atol=1e-5, err_msg=key)


def exported(folder, adapter):
  peft.save(folder, adapter)
  return json.loads((folder / peft.CONFIG).read_text()), load_file(folder / peft.WEIGHTS)


def test_names_in_the_config_fit_one_module_each(tmp_path):
  """As PEFT reads them: a text of target_modules has to fit the whole name, a key of rank_pattern its end."""
  base = base_lib.load(weights('dense'))
  sites = lora.find_sites(base.model())
  ranks = {site.name: 1 + i % 3 for i, site in enumerate(sites)}
  told = {'model': base.name, 'fields': base.fields}
  config, tensors = exported(tmp_path, make(base.params, sites, ranks, 'kxk_1x1', **told))
  modules = {key.removeprefix('base_model.model.').partition('.lora_')[0] for key in tensors if '.lora_' in key}
  assert len(modules) == len(sites)
  assert all(re.fullmatch(config['target_modules'], name) for name in modules)
  for name in modules:
    fitting = [key for key in config['rank_pattern'] if re.match(rf'(.*\.)?({key})$', name)]
    rank = tensors[f'base_model.model.{name}.lora_A.weight'].shape[0]
    assert [config['rank_pattern'][key] for key in fitting] == ([rank] if rank != config['r'] else [])


@pytest.mark.parametrize('form', ['1x1_kxk', 'loralib'])
def test_forms_without_a_counterpart_are_refused(tmp_path, capsys, form):
  base = base_lib.load(weights('conv'))
  sites = lora.find_sites(base.model())
  told = {'model': base.name, 'fields': base.fields}
  adapter = save(tmp_path / 'a.safetensors', make(base.params, sites, {s.name: 1 for s in sites}, form, **told))
  assert main(['export', str(adapter), str(tmp_path / 'theirs')]) == 2
  assert f'is of {form}: train by --config.lora.form=kxk_1x1' in capsys.readouterr().err
  assert not (tmp_path / 'theirs').exists()


def test_kernels_of_one_pixel_are_exact_in_our_form_too(tmp_path):
  base = base_lib.load(weights('conv'))
  sites = tuple(site for site in lora.find_sites(base.model()) if site.shape[:2] == (1, 1))
  told = {'model': base.name, 'fields': base.fields}
  adapters = {
    form: make(base.params, sites, {s.name: 2 for s in sites}, form, **told) for form in ('kxk_1x1', '1x1_kxk')
  }
  plain, ours = (exported(tmp_path / form, adapter)[1] for form, adapter in adapters.items())
  assert plain.keys() == ours.keys()
  for name, leaf in plain.items():
    np.testing.assert_array_equal(leaf, ours[name])


def changed(folder, content=None, tensors=None):
  if content:
    config = json.loads((folder / peft.CONFIG).read_text())
    (folder / peft.CONFIG).write_text(json.dumps(config | content))
  if tensors:
    save_file(load_file(folder / peft.WEIGHTS) | tensors, folder / peft.WEIGHTS)


ZEROS = np.zeros((2, 2), np.float32)


@pytest.mark.parametrize(
  ('fault', 'sentence'),
  [
    (lambda folder: shutil.rmtree(folder), 'is no adapter of PEFT'),
    (lambda folder: (folder / peft.WEIGHTS).unlink(), 'is no adapter of PEFT'),
    (lambda folder: (folder / peft.CONFIG).write_text('{'), 'JSON'),
    (lambda folder: (folder / peft.WEIGHTS).write_bytes(b'x'), 'cannot be read'),
    (lambda folder: changed(folder, {'peft_type': 'IA3'}), 'is of IA3'),
    (lambda folder: changed(folder, {'use_dora': True}), 'has use_dora'),
    (lambda folder: changed(folder, {'modules_to_save': ['norm']}), 'has modules_to_save'),
    (lambda folder: changed(folder, {'lora_alpha': 'x'}), 'lora_alpha'),
    (lambda folder: changed(folder, tensors={'base_model.model.other.lora_A.weight': ZEROS}), 'other.lora_A.weight'),
    (lambda folder: changed(folder, tensors={'base_model.model.to_feat.lora_A.weight': ZEROS}), 'one half'),
    (
      lambda folder: changed(folder, tensors={'base_model.model.feats.0.ccm.ccm.0.bias': ZEROS}),
      'bias of shape (2, 2)',
    ),
    (
      lambda folder: changed(folder, tensors={'base_model.model.feats.0.ccm.ccm.0.lora_B.weight': ZEROS}),
      'does not fit feats_0/ccm/ccm_0',
    ),
  ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(tmp_path, capsys, fault, sentence):
  folder = shutil.copytree(GOLDEN / 'peft' / 'conv', tmp_path / 'theirs')
  fault(folder)
  assert main(['import', str(weights('conv')), str(folder), str(tmp_path / 'a.safetensors')]) == 2
  said = capsys.readouterr().err
  assert said.startswith('Error: ')
  assert sentence in said
  assert not (tmp_path / 'a.safetensors').exists()


def test_other_methods_have_no_counterpart(tmp_path):
  base = base_lib.load(weights('conv'))
  with pytest.raises(UserError, match='bitfit'):
    peft.save(tmp_path, file.Adapter({'method': 'bitfit', 'model': base.name, 'fields': base.fields}, {}))

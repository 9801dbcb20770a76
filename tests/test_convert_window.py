"""Weights of SwinIR and DRCT in and out: detection, exactness there and back, buffers, and what a file cannot tell."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaptsr_jax import convert, models, tree
from adaptsr_jax.convert import architectures, names
from adaptsr_jax.convert.__main__ import main
from adaptsr_jax.errors import UserError
from adaptsr_jax.models import attention
from tests.shared import GOLDEN
from tests.test_convert import assert_same, random_weights, there_and_back
from tests.test_models_window import FACTS, TINY

FIXTURES = sorted(path.name for family in ('swinir', 'drct') for path in GOLDEN.glob(f'{family}_*'))
FILES = sorted(str(path.relative_to(GOLDEN)) for name in FIXTURES for path in (GOLDEN / name).glob('w*.*'))
PRESETS = [name for name in models.PRESETS if name.startswith(('swinir', 'drct'))]
UNTOLD = {'img_range', 'rgb_mean', 'qk_scale'}


@functools.cache
def shapes_of(preset: str) -> dict[str, np.ndarray]:
  """Weights by PyTorch key that take no memory, buffers too, whatever the size of the network."""
  return {e.key: np.broadcast_to(np.float32(0), e.shape) for e in architectures.entries(*models.PRESETS[preset])}


def random_tiny(name: str, **fields) -> dict[str, np.ndarray]:
  """Random weights of a small network, buffers as they are."""
  family, chosen = TINY[name]
  weights = random_weights(family, {**chosen, **fields})
  buffers = {e.key: e.value() for e in architectures.entries(family, {**chosen, **fields}) if e.value}
  return weights | buffers


@pytest.mark.parametrize('fixture', FIXTURES)
def test_detects_the_fixtures(fixture):
  meta = json.loads((GOLDEN / fixture / 'meta.json').read_text())
  made = meta['constructor']
  name, fields, assumed = convert.detect(convert.read(GOLDEN / fixture / 'weights.safetensors'))
  assert name == fixture.partition('_')[0]
  given = ['upscale', 'embed_dim', 'window_size', 'mlp_ratio', 'resi_connection', 'img_size', 'img_range', 'num_heads']
  given += ['depths', 'upsampler'] if name == 'swinir' else ['gc']
  for field in given:
    value = fields[field]
    assert (list(value) if isinstance(value, tuple) else value) == made[field], field
  if 'num_feat' in fields:
    assert fields['num_feat'] == meta['num_feat']
  assert (fields['qkv_bias'], fields['patch_norm'], fields['ape']) == (True, True, False)
  assert set(assumed) == UNTOLD
  json.dumps([fields, assumed])


@pytest.mark.parametrize('file', FILES)
def test_fixtures_come_back_bit_for_bit(file):
  source = convert.read_source(GOLDEN / file)
  assert source.layout['places'] == [[['params'] if file.endswith('pth') else [], '']]
  assert_same(there_and_back(source.weights), source.weights, order=False)


def test_half_precision_keeps_the_types_of_the_buffers():
  weights = convert.read(GOLDEN / 'swinir_real_x4_1conv_nf64_fp16/weights.safetensors')
  back = there_and_back(weights)
  types = {key: array.dtype.name for key, array in back.items() if key.startswith('layers.0.residual_group.blocks.1')}
  assert types.pop('layers.0.residual_group.blocks.1.attn.relative_position_index') == 'int64'
  assert types.pop('layers.0.residual_group.blocks.1.attn_mask') == 'float32'
  assert set(types.values()) == {'float16'}


@pytest.mark.parametrize('preset', PRESETS)
def test_detects_every_preset(preset):
  name, fields = models.PRESETS[preset]
  found, detected, assumed = convert.detect(shapes_of(preset))
  assert found == name
  assert models.build(name, **detected) == models.build(name, **fields)
  assert set(assumed) == UNTOLD


@pytest.mark.parametrize('preset', PRESETS)
def test_table_has_the_published_numbers_of_tensors_and_values(preset):
  stem, _, scale = preset.rpartition('_x')
  facts = json.loads((GOLDEN / 'backbone_facts.json').read_text())['models']
  fact = facts[f'{FACTS[stem]}_x{scale}' if stem else FACTS[preset]]
  table = architectures.entries(*models.PRESETS[preset])
  assert len(table) == fact['state_dict_tensors']
  assert sum(np.prod(entry.shape, dtype=int) for entry in table if entry.path) == fact['total']
  assert sum(np.prod(entry.shape, dtype=int) for entry in table if entry.value) == fact['buffers']


def test_smaller_training_pictures_are_told_from_the_masks():
  name, fields = models.PRESETS['swinir_classical_x4']
  table = architectures.entries(name, {**fields, 'img_size': 48})
  facts = json.loads((GOLDEN / 'backbone_facts.json').read_text())['models']['swinir_M_classical_x4_img48']
  assert sum(np.prod(entry.shape, dtype=int) for entry in table if entry.value) == facts['buffers']
  _, detected, assumed = convert.detect({e.key: np.broadcast_to(np.float32(0), e.shape) for e in table})
  assert detected['img_size'] == 48
  assert set(assumed) == UNTOLD


@pytest.mark.parametrize('name', TINY)
@pytest.mark.parametrize('options', [{}, {'patch_norm': False, 'qkv_bias': False, 'ape': True}], ids=['', 'other'])
def test_table_has_the_parameters_of_the_model(name, options):
  family, fields = TINY[name]
  fields = {**fields, **options}
  model = models.build(family, **fields)
  params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, model.minimum, model.minimum, 3)))['params']
  table = {e.path: np.broadcast_to(0, names.flax_shape(e)) for e in architectures.entries(family, fields) if e.path}
  assert tree.compare(params, tree.unflatten(table)) == []


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('name', TINY)
def test_every_network_comes_back_bit_for_bit_through_files(tmp_path, name, suffix):
  for options in ({}, {'patch_norm': False, 'qkv_bias': False, 'ape': True}):
    weights = random_tiny(name, **options)
    convert.write(tmp_path / f'x{suffix}', weights)
    source = convert.read_source(tmp_path / f'x{suffix}')
    family, fields, _ = convert.detect(source.weights)
    assert models.build(family, **fields) == models.build(TINY[name][0], **TINY[name][1], **options)
    assert_same(there_and_back(source.weights), weights)


@pytest.mark.parametrize('name', TINY)
def test_buffers_are_ignored_on_the_way_in_and_computed_on_the_way_out(name):
  weights = random_tiny(name)
  buffers = {key for key in weights if key.endswith(('attn_mask', 'relative_position_index'))}
  family, fields, assumed = convert.detect(weights)
  spoilt = {key: value + 7 if key in buffers else value for key, value in weights.items()}
  assert_same(there_and_back(spoilt), weights)
  bare = {key: value for key, value in weights.items() if key not in buffers}
  found, without, more = convert.detect(bare)
  assert found == family
  assert set(more) - set(assumed) == {'img_size'}
  assert without['img_size'] % without['window_size'] == 0
  assert {**without, 'img_size': 0} == {**fields, 'img_size': 0}
  params = convert.to_flax(family, bare)
  assert_same(convert.to_torch(family, fields, params), weights)


@pytest.mark.parametrize('name', ['classical', 'drct'])
def test_what_is_learned_alone_is_written_and_is_the_same_network(tmp_path, name):
  weights = random_tiny(name)
  convert.write(tmp_path / 'whole.safetensors', weights)
  assert main([str(tmp_path / 'whole.safetensors'), str(tmp_path / 'learned.safetensors'), '--learned']) == 0
  learned = convert.read(tmp_path / 'learned.safetensors')
  buffers = {key for key in weights if key.endswith(('attn_mask', 'relative_position_index'))}
  assert weights.keys() - learned.keys() == buffers
  assert_same(learned, {key: value for key, value in weights.items() if key not in buffers}, order=False)


@pytest.mark.parametrize('name', ['light', 'drct'])
def test_networks_that_shift_nothing_are_told(name):
  weights = random_tiny(name, img_size=4)
  assert not any(key.endswith('attn_mask') for key in weights)
  family, fields, assumed = convert.detect(weights)
  assert fields['img_size'] == fields['window_size'] == 4
  assert set(assumed) == UNTOLD | {'window_size'}
  assert_same(there_and_back(weights), weights)


def test_range_of_the_networks_against_jpeg_artefacts():
  assert convert.detect(shapes_of('swinir_jpeg'))[1]['img_range'] == 255.0
  assert convert.detect(shapes_of('swinir_denoise'))[1]['img_range'] == 1.0


@pytest.mark.parametrize('name', TINY)
def test_any_missing_or_misshapen_tensor_is_a_user_error(name):
  weights = random_tiny(name)
  for key, value in weights.items():
    for shape in ((), (5,), (0, 3, 3, 3), (1, 2, 3, 4, 5), (value.shape[0] + 1, *value.shape[1:])):
      with pytest.raises(UserError):
        convert.detect({**weights, key: np.zeros(shape, np.float32)})
    if not key.endswith(('attn_mask', 'relative_position_index', 'qkv.bias')):
      with pytest.raises(UserError):
        convert.detect({other: v for other, v in weights.items() if other != key})


def test_differences_are_named():
  weights = random_tiny('drct')
  key = 'layers.0.swin2.attn.relative_position_bias_table'
  with pytest.raises(UserError, match=re.escape(f"'{key}' is (49, 3) instead of (49, 2)")):
    convert.detect({**weights, key: np.zeros((49, 3), np.float32)})
  with pytest.raises(UserError, match=r"'conv_up1\.weight' is unknown"):
    convert.detect({**weights, 'conv_up1.weight': np.zeros((4, 4, 3, 3), np.float32)})
  with pytest.raises(UserError, match=r"'conv_last\.weight' is \(3, 4, 3, 3\) instead of \(1, 4, 3, 3\)"):
    convert.detect({**random_tiny('classical'), 'conv_first.weight': np.zeros((8, 1, 3, 3), np.float32)})
  wide = np.zeros((9, 8), np.float32)
  with pytest.raises(UserError, match='hidden layers have 16 of 8, 9 of 8, 32 of 16 channels, which no common factor'):
    convert.detect({**weights, 'layers.0.swin2.mlp.fc1.weight': wide})


@pytest.mark.parametrize(('width', 'gc', 'ratio'), [(18, 8, 2.25), (30, 7, 2.75), (20, 4, 1.3), (36, 8, 1 / 3)])
def test_ratios_that_widths_round_differently(width, gc, ratio):
  fields = {'upscale': 2, 'embed_dim': width, 'gc': gc, 'num_heads': (2,), 'mlp_ratio': ratio}
  fields |= {'window_size': 4, 'img_size': 8, 'num_feat': 4}
  weights = random_tiny('drct', **fields)
  _, found, _ = convert.detect(weights)
  assert models.build('drct', **found).hidden == models.build('drct', **fields).hidden
  assert_same(there_and_back(weights), weights)


@pytest.mark.parametrize(
  ('name', 'upscale'),
  [
    ('light', 1),
    ('light', 5),
    ('light', 9),
    ('real', 2),
    *((n, s) for n in ('classical', 'drct') for s in (1, 2, 8, 16)),
  ],
)
def test_enlarging_by_what_the_classes_of_the_authors_take(name, upscale):
  weights = random_tiny(name, upscale=upscale)
  assert convert.detect(weights)[1]['upscale'] == upscale
  assert_same(there_and_back(weights), weights)


@pytest.mark.parametrize('name', ['classical', 'drct'])
@pytest.mark.parametrize('size', [(8, 16), (16, 8), (12, 8), (8, 40)])
def test_training_pictures_that_were_not_square_are_told_from_the_masks(name, size):
  weights = random_tiny(
    name, img_size=size, window_size=4, **({'depths': (2,), 'num_heads': (2,)} if name != 'drct' else {})
  )
  _, fields, assumed = convert.detect(weights)
  assert fields['img_size'] == size
  assert set(assumed) == UNTOLD
  assert_same(there_and_back(weights), weights)


@pytest.mark.parametrize(
  ('name', 'fields', 'said'),
  [
    ('classical', {'upscale': 6}, 'upscale is 6; it can be 3 or a power of two'),
    ('drct', {'upscale': 0}, 'upscale is 0; it can be 3 or a power of two'),
    ('light', {'upscale': 0}, 'it can be 1 or more'),
    ('real', {'upscale': 3}, 'it can be 2, 4'),
    ('restore', {'upscale': 2}, 'it can be 1'),
    ('classical', {'img_size': (8, 10), 'window_size': 4}, 'no multiple of the window of 4 pixels'),
    ('classical', {'img_size': (8, 16), 'window_size': 4, 'ape': True}, 'only square ones are known'),
    ('classical', {'img_size': (8, 8, 8)}, 'a whole number, or two'),
  ],
)
def test_what_cannot_be_is_told(name, fields, said):
  family, chosen = TINY[name]
  with pytest.raises(UserError, match=said):
    models.build(family, **{**chosen, **fields})


@pytest.mark.parametrize('name', TINY)
def test_gray_networks_are_recognised_and_come_back(name):
  weights = random_tiny(name, rgb_mean=(0.0,))
  _, fields, assumed = convert.detect(weights)
  assert fields['rgb_mean'] == (0.0,)
  assert fields['upscale'] == TINY[name][1]['upscale']
  assert '0 for gray' in assumed['rgb_mean']
  assert_same(there_and_back(weights), weights)


def test_flax_layout():
  weights = random_tiny('real')
  params = convert.to_flax('swinir', weights)
  block = params['layers_0']['blocks_1']
  assert block['attn']['qkv']['kernel'][3, 20] == weights['layers.0.residual_group.blocks.1.attn.qkv.weight'][20, 3]
  assert params['layers_0']['conv_2']['kernel'].shape == (1, 1, 2, 2)
  assert params['conv_after_body_4']['kernel'][2, 0, 1, 7] == weights['conv_after_body.4.weight'][7, 1, 2, 0]
  np.testing.assert_array_equal(params['patch_embed']['norm']['scale'], weights['patch_embed.norm.weight'])


@pytest.mark.parametrize('side', [1, 4, 7])
def test_position_index_follows_its_definition(side):
  index = attention.position_index(side)
  assert index.dtype == np.int64
  for a in range(side**2):
    for b in range(side**2):
      dy, dx = a // side - b // side, a % side - b % side
      assert index[a, b] == (dy + side - 1) * (2 * side - 1) + dx + side - 1

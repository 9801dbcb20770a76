"""RRDB in three key styles, SRVGG, MSRResNet and DASR in and out: detection, exactness there and back, refusals."""

import contextlib
import io
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaptsr_jax import base as base_lib
from adaptsr_jax import convert, models, tree
from adaptsr_jax.convert import __main__ as command
from adaptsr_jax.convert import architectures, names
from adaptsr_jax.errors import UserError
from tests.shared import GOLDEN, shared
from tests.test_convert import assert_same, random_weights, there_and_back, zeros
from tests.test_models_gan import FACTS, FIXTURES, TINY, TOLERANCE, facts

FILES = sorted(str(path.relative_to(GOLDEN)) for name in FIXTURES for path in (GOLDEN / name).glob('w*.*'))
STYLES = {'rrdb_basicsr': 'rrdb', 'rrdb_esrgan': 'rrdb_esrgan', 'rrdb_bsrgan': 'rrdb_bsrgan', 'safmn': 'safmn'}
SMALL = {
  **{name: (name.split(' ')[0], fields) for name, fields in TINY.items()},
  **{f'rrdb_bsrgan x{2**s}': ('rrdb_bsrgan', {**TINY['rrdb'], 'upscale': 2**s}) for s in range(4)},
  **{f'rrdb_esrgan x{2**s}': ('rrdb_esrgan', {**TINY['rrdb'], 'num_block': 2, 'upscale': 2**s}) for s in range(4)},
  'rrdb gray': ('rrdb', {**TINY['rrdb'], 'num_in_ch': 1}),
  'srvgg gray': ('srvgg', {**TINY['srvgg'], 'num_in_ch': 1}),
  **{f'msrresnet x{s}': ('msrresnet', {**TINY['msrresnet'], 'upscale': s}) for s in (3, 4)},
}


def run(*arguments):
  """Runs the command; returns exit code, output, errors."""
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    code = command.main([str(argument) for argument in arguments])
  return code, out.getvalue(), err.getvalue()


def picture_of(spec, arrays, **options):
  loaded = base_lib.load(spec, **options)
  return jax.jit(loaded.model().apply)({'params': loaded.params}, arrays['input'].transpose(0, 2, 3, 1))


@pytest.mark.parametrize('fixture', FIXTURES)
def test_detects_the_fixtures(fixture):
  made = json.loads((GOLDEN / fixture / 'meta.json').read_text())['constructor']
  name, fields, assumed = convert.detect(convert.read(GOLDEN / fixture / 'weights.safetensors'))
  assert name == next((ours for start, ours in STYLES.items() if fixture.startswith(start)), fixture.split('_')[0])
  assert not assumed
  for field in (
    'num_feat',
    'num_block',
    'num_grow_ch',
    'num_conv',
    'num_models',
    'nf',
    'num_params',
    'dim',
    'n_blocks',
  ):
    assert fields.get(field) == made.get(field, fields.get(field)), field
  assert fields.get('unshuffle', 1) == (2 if 'unshuffle' in fixture else 1)
  assert fields['upscale'] == made.get('scale', made.get('upscale', 4))
  json.dumps(fields)


@pytest.mark.parametrize('file', FILES)
def test_fixtures_come_back_bit_for_bit(file):
  weights = convert.read(GOLDEN / file)
  assert_same(there_and_back(weights), weights, order=file.endswith('pth') and 'safmn' not in file)


@pytest.mark.parametrize('preset', FACTS)
def test_presets_are_detected_with_the_published_numbers_of_tensors(preset):
  name, fields = models.PRESETS[preset]
  found, detected, assumed = convert.detect(zeros(name, fields))
  assert found == name
  assert models.build(name, **detected) == models.build(name, **fields)
  assert not assumed
  assert len(architectures.entries(name, fields)) == sum(fact['state_dict_tensors'] for fact in facts(preset))


@pytest.mark.parametrize('case', SMALL)
def test_every_network_comes_back_bit_for_bit_through_files(tmp_path, case):
  name, fields = SMALL[case]
  weights = random_weights(name, fields, 'float16')
  for suffix in ('.pth', '.safetensors'):
    convert.write(tmp_path / f'x{suffix}', weights)
    source = convert.read_source(tmp_path / f'x{suffix}')
    found, detected, assumed = convert.detect(source.weights)
    assert found == name
    assert models.build(name, **detected) == models.build(name, **fields)
    assert set(assumed) == ({'upscale'} if case == 'rrdb_esrgan x2' else set())
    assert_same(there_and_back(source.weights), weights)
  model = models.build(name, **fields)
  params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))['params']
  table = {e.path: np.broadcast_to(0, names.flax_shape(e)) for e in architectures.entries(name, fields)}
  assert tree.compare(params, tree.unflatten(table)) == []


@pytest.mark.parametrize('case', ['rrdb', 'rrdb x2', 'rrdb_esrgan x4', 'srvgg', 'msrresnet', 'dasr'])
def test_any_missing_or_misshapen_tensor_is_a_user_error(case):
  weights = random_weights(*SMALL[case])
  for key, value in weights.items():
    for shape in ((), (17,), (0, 3, 3, 3), (1, 2, 3, 4, 5, 6), (value.shape[0] + 1, *value.shape[1:])):
      with pytest.raises(UserError):
        convert.detect({**weights, key: np.zeros(shape, np.float32)})
    with pytest.raises(UserError):
      convert.detect({other: v for other, v in weights.items() if other != key})


def test_old_names_are_recognised_without_their_beginning():
  """`model.` is a part of the names of old ESRGAN, which some programs take for a prefix."""
  whole = convert.read(GOLDEN / 'rrdb_esrgan_old_x4/weights.safetensors')
  assert 'model.1.sub.2.weight' in whole
  bare = {key.removeprefix('model.'): value for key, value in whole.items()}
  assert convert.detect(bare) == convert.detect(whole)
  assert_same(there_and_back(bare), whole, order=False)


def test_names_of_old_files_lie_behind_other_prefixes(tmp_path):
  weights = random_weights(*SMALL['rrdb_esrgan x1'])
  convert.write(tmp_path / 'x.safetensors', {f'module.{key}': value for key, value in weights.items()})
  source = convert.read_source(tmp_path / 'x.safetensors')
  assert source.layout['places'] == [[[], 'module.']]
  assert_same(source.weights, weights, order=False)


# Which of two sets.


@pytest.mark.parametrize(
  ('fixture', 'taken'), [('safmn_real_l_x4', 'params'), ('rrdb_basicsr_x2_unshuffle', 'params_ema')]
)
def test_the_weights_that_the_authors_use_are_taken(fixture, taken):
  with np.load(GOLDEN / fixture / 'io.npz') as arrays:
    arrays = dict(arrays)
  path = GOLDEN / fixture / 'wrapped.pth'
  y = picture_of(path, arrays)
  np.testing.assert_allclose(y, arrays['output'].transpose(0, 2, 3, 1), rtol=0, atol=TOLERANCE)
  other = {'params': 'params_ema', 'params_ema': 'params'}[taken]
  z = picture_of(path, arrays, key=other)
  assert np.abs(z - y).max() > 1e-2
  if 'output_ema' in arrays:
    np.testing.assert_allclose(z, arrays['output_ema'].transpose(0, 2, 3, 1), rtol=0, atol=TOLERANCE)
  code, out, _ = run(path, '--detect')
  assert code == 0
  assert f'Taken from {taken}; the file also has {other}: choose with {path}::{other}' in out


# Refused by name.


@pytest.mark.parametrize(
  ('keys', 'message'),
  [
    ({'conv0.weight': 4, 'conv0.bias': 1, 'conv1.weight_orig': 4, 'conv9.weight': 4}, 'a discriminator'),
    ({'conv0_0.weight': 4, 'bn0_1.weight': 1, 'linear1.weight': 2}, 'a discriminator'),
    (
      {'model.0.weight': 4, 'model.1.sub.0.RDB1.conv1.0.weight': 4, 'model.1.sub.0.RDB1.conv1x1.weight': 4},
      r'ESRGAN\+',
    ),
    ({'1.sub.0.RDB1.conv1.0.weight': 4, '1.sub.0.RDB1.conv1x1.weight': 4}, r'ESRGAN\+'),
    ({'to_feat.1.weight': 4, 'feats.0.layers.0.weight': 4, 'to_img.2.weight': 4}, 'SAFMN_BCIE'),
    ({'body.0.weight': 4, 'body.2.weight': 4, 'body.4.weight': 4}, 'SRVGGNetCompact with ReLU or'),
  ],
)
def test_other_networks_are_refused_by_name(keys, message):
  with pytest.raises(UserError, match=f'^The weights are of {message}'):
    convert.detect({key: np.zeros((2,) * ndim, np.float32) for key, ndim in keys.items()})


def test_residual_networks_are_told_apart():
  msrresnet, edsr = ({'upscale': 4, 'num_feat': 8, 'num_block': 2},) * 2
  assert convert.detect(zeros('msrresnet', msrresnet))[0] == 'msrresnet'
  assert convert.detect(zeros('edsr', edsr))[0] == 'edsr'
  total = {
    name: sum(np.size(w) for w in zeros(name, fields).values())
    for name, fields in (('edsr', edsr), ('msrresnet', msrresnet))
  }
  assert total['edsr'] == total['msrresnet']


@pytest.mark.parametrize(
  ('case', 'key', 'shape', 'message'),
  [
    ('srvgg', 'body.6.weight', (26, 6, 3, 3), r"'body\.6\.weight' has 26 outputs, which are not 3 \* upscale\*\*2"),
    ('msrresnet', 'upconv1.weight', (30, 6, 3, 3), r"'upconv1\.weight' has 30 outputs, which are not 6 \* 2\*\*2 or"),
    ('rrdb', 'conv_first.weight', (6, 7, 3, 3), r"'conv_first\.weight' is \(6, 7, 3, 3\) instead of \(6, 3, 3, 3\)"),
  ],
)
def test_what_is_wrong_is_named(case, key, shape, message):
  with pytest.raises(UserError, match=message):
    convert.detect({**random_weights(*SMALL[case]), key: np.zeros(shape, np.float32)})


# Real files.


@pytest.mark.parametrize(
  ('file', 'name', 'parameters'),
  [
    ('realesrgan_x4plus_fp16.pth', 'rrdb', 16_697_987),
    ('realesrgan_x4plus_anime_6b_fp16.pth', 'rrdb', 4_467_779),
    ('realesr_animevideov3_fp16.pth', 'srvgg', 621_424),
    ('realesr_general_x4v3_fp16.pth', 'srvgg', 1_213_296),
  ],
)
def test_published_weights_come_back_bit_for_bit_with_half_kernels_and_whole_biases(tmp_path, file, name, parameters):
  source = convert.read_source(shared('weights', file))
  found, _, _ = convert.detect(source.weights)
  assert found == name
  assert sum(array.size for array in source.weights.values()) == parameters
  assert {array.dtype.name for array in source.weights.values()} == {'float16', 'float32'}
  assert_same(there_and_back(source.weights), source.weights)
  if parameters < 10**6:
    assert run(shared('weights', file), tmp_path / 'out.pth')[0] == 0
    again = convert.read_source(tmp_path / 'out.pth')
    assert_same(again.weights, source.weights)
    assert {**again.layout, 'sha256': '', 'file': ''} == {**source.layout, 'sha256': '', 'file': ''}


def test_predictor_alone_names_what_it_lacks():
  with pytest.raises(UserError, match=r'predictor of DASR, net_p, which needs its generator: net_g\.pth'):
    convert.detect(convert.read(shared('weights', 'dasr_net_p_official.pth')))


def test_mixtures_of_the_published_predictor_are_no_probabilities():
  weights = convert.read(shared('weights', 'dasr_net_p_official.pth'))
  name, fields = models.PRESETS['dasr_x4']
  other = {key: value for key, value in zeros(name, fields).items() if key.startswith('net_g.')}
  params = convert.to_flax(name, other | {f'net_p.{key}': value for key, value in weights.items()})
  from adaptsr_jax import image

  path = sorted(shared('data', 'drealsr_x4', 'LR').iterdir())[0]
  lr = image.to_float(image.read_array(path))[None]
  mixture = np.asarray(jax.jit(models.build(name, **fields).once)(params, lr)['mixture'])[0]
  assert -0.6 < mixture.sum() < -0.3
  assert (mixture < 0).sum() == 4


# DASR in two files.


def test_two_files_are_one_network_and_come_back_bit_for_bit(tmp_path):
  with np.load(GOLDEN / 'dasr_x4/io.npz') as arrays:
    arrays = dict(arrays)
  for part in ('net_g', 'net_p'):
    y = picture_of(GOLDEN / f'dasr_x4/{part}.pth', arrays)
    np.testing.assert_allclose(y, arrays['output'].transpose(0, 2, 3, 1), rtol=0, atol=TOLERANCE)
  assert run(GOLDEN / 'dasr_x4/net_g.pth', tmp_path / 'net_g_mine.pth')[0] == 0
  assert run(GOLDEN / 'dasr_x4/net_p.pth', tmp_path / 'joined.safetensors')[0] == 0
  for part in ('net_g', 'net_p'):
    written = convert.read_source(tmp_path / f'{part}_mine.pth')
    assert written.layout['places'] == [[[], '']]
    assert_same(written.weights, convert.read(GOLDEN / f'dasr_x4/{part}.pth'))
  joined = convert.read(tmp_path / 'joined.safetensors')
  assert_same(joined, convert.read(GOLDEN / 'dasr_x4/weights.safetensors'), order=False)
  # And apart again, from the joined file.
  assert run(tmp_path / 'joined.safetensors', tmp_path / 'net_g.safetensors')[0] == 0
  assert_same(convert.read(tmp_path / 'net_p.safetensors'), convert.read(GOLDEN / 'dasr_x4/net_p.pth'), order=False)


@pytest.mark.parametrize(('part', 'other'), [('net_g', 'net_p'), ('net_p', 'net_g')])
def test_one_file_alone_names_the_other(tmp_path, part, other):
  (tmp_path / f'{part}.pth').write_bytes((GOLDEN / f'dasr_x4/{part}.pth').read_bytes())
  code, _, err = run(tmp_path / f'{part}.pth', tmp_path / 'out')
  assert code == 2
  assert f'{other}.pth beside it' in err


# Between two networks.


def test_interpolation_is_the_weighted_sum_and_keeps_types_and_layout(tmp_path):
  fixture = GOLDEN / 'rrdb_basicsr_x2_unshuffle/wrapped.pth'
  one, other = (convert.read(fixture, key) for key in ('params', 'params_ema'))
  for name, weights in (('a', one), ('b', other)):
    convert.write(tmp_path / f'{name}.pth', {key: value.astype('float16') for key, value in weights.items()})
  code, out, err = run(tmp_path / 'a.pth', tmp_path / 'b.pth', tmp_path / 'out.pth', '--weights', '0.25,0.75')
  assert (code, err) == (0, '')
  assert 'Note' not in out
  mixed = convert.read_source(tmp_path / 'out.pth')
  assert mixed.layout['places'] == [[['params'], '']]
  assert {array.dtype.name for array in mixed.weights.values()} == {'float16'}
  for key, value in mixed.weights.items():
    expected = 0.25 * np.float64(one[key].astype('float16')) + 0.75 * np.float64(other[key].astype('float16'))
    np.testing.assert_array_equal(value, expected.astype(np.float32).astype(np.float16), err_msg=key)
  assert run(tmp_path / 'a.pth', tmp_path / 'b.pth', tmp_path / 'out.pth', '--weights', '1,0')[0] == 0
  assert_same(convert.read(tmp_path / 'out.pth'), convert.read(tmp_path / 'a.pth'))
  strange = {
    key: np.random.default_rng(1).permutation(value.ravel()).reshape(value.shape) for key, value in one.items()
  }
  convert.write(tmp_path / 'c.pth', strange)
  code, out, _ = run(tmp_path / 'a.pth', tmp_path / 'c.pth', tmp_path / 'out.pth', '--weights', '0.5,0.5')
  assert code == 0
  assert re.search(r'Note: the kernels of .*c\.pth and .*a\.pth have a correlation of -?0\.0', out)


@pytest.mark.parametrize(
  ('other', 'weights', 'message'),
  [
    ('rrdb_basicsr_x4/weights.safetensors', '0.5,0.5', 'cannot be interpolated with .*num_block=1.*one architecture'),
    ('srvgg_x4/weights.safetensors', '0.5,0.5', 'is srvgg .* cannot be interpolated with .*rrdb'),
    ('rrdb_basicsr_x2_unshuffle/weights.safetensors', '0.5', 'give 2 finite numbers'),
    ('rrdb_basicsr_x2_unshuffle/weights.safetensors', '0.5,nan', 'give 2 finite numbers'),
    ('rrdb_basicsr_x2_unshuffle/weights.safetensors', 'half', 'numbers with commas between'),
  ],
)
def test_networks_that_do_not_match_are_refused(tmp_path, other, weights, message):
  first = GOLDEN / 'rrdb_basicsr_x2_unshuffle/weights.safetensors'
  code, _, err = run(first, GOLDEN / other, tmp_path / 'out.pth', '--weights', weights)
  assert code == 2
  assert re.search(message, err)
  assert not (tmp_path / 'out.pth').exists()


def test_strength_of_denoising_is_a_mixture_of_the_two_general_networks(tmp_path):
  files = [shared('weights', f'realesr_general{name}_x4v3_fp16.pth') for name in ('', '_wdn')]
  code, out, _ = run(*files, tmp_path / 'dn.pth', '--weights', '0.5,0.5', '--dtype', 'float32')
  assert code == 0
  assert 'Note' not in out
  one, other, mixed = (convert.read(path) for path in (*files, tmp_path / 'dn.pth'))
  for key, value in mixed.items():
    np.testing.assert_array_equal(value, ((np.float64(one[key]) + np.float64(other[key])) / 2).astype(np.float32))

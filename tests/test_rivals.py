"""The methods that the paper compares with: arrays of reference programs, published counts, what can be dialled."""

import json

import flax.linen as nn
import jax
import numpy as np
import pytest

from adaptsr_jax import config as config_lib
from adaptsr_jax import lora, methods, tree
from adaptsr_jax.errors import UserError
from adaptsr_jax.lora import Site
from adaptsr_jax.models import window
from tests.shared import GOLDEN

TOLERANCE = {'atol': 2e-5, 'rtol': 2e-5}


def golden(name):
  folder = GOLDEN / 'methods' / name
  return np.load(folder / 'data.npz'), json.loads((folder / 'meta.json').read_text())


def close(found, expected):
  np.testing.assert_allclose(found, expected, **TOLERANCE)


def block_params(data):
  """Returns the parameters of a block of attention in the tree of `window.SwinBlock`."""
  layer = lambda name: {'kernel': data[f'{name}_kernel'], 'bias': data[f'{name}_bias']}  # noqa: E731
  norm = lambda name: {'scale': data[f'{name}_scale'], 'bias': data[f'{name}_bias']}  # noqa: E731
  return {
    'norm1': norm('norm1'),
    'attn': {'qkv': layer('qkv'), 'proj': layer('proj')},
    'norm2': norm('norm2'),
    'mlp': {'fc1': layer('fc1'), 'fc2': layer('fc2')},
  }


# Arrays of reference programs.


@pytest.mark.parametrize(('name', 'shape'), [('dora_linear', (7, 10)), ('dora_conv', (3, 3, 3, 5))])
def test_dora(name, shape):
  data, meta = golden(name)
  site = Site('layer', ('layer',), 'conv' if len(shape) == 4 else 'mlp', shape, None)
  spec = {'method': 'dora', 'form': 'kxk_1x1', 'alpha': meta['alpha'], 'rslora': False, 'biases': False}
  spec['sites'] = lora.to_json([site], {'layer': meta['r']})
  base = {'layer': {'kernel': data['kernel'], 'bias': data['bias']}}
  method = methods.from_spec(spec)
  _, start = method.init(jax.random.key(0), base)
  close(start['m']['layer'], data['m_init'])
  trained = {'adapters': {'layer': {'a': data['a'], 'b': data['b']}}, 'biases': {}, 'm': {'layer': data['m']}}
  close(method.merge(base, trained)['layer']['kernel'], data['kernel_merged'])


def test_dora_of_parts_leaves_the_other_columns_alone():
  rng = np.random.default_rng(0)
  base = {'layer': {'kernel': rng.normal(size=(4, 12)).astype(np.float32)}}
  sites = [Site(f'layer:{x}', ('layer',), 'attn', (4, 4), (4 * i, 4 * i + 4)) for i, x in enumerate('qkv')]
  spec = {'method': 'dora', 'form': '1x1_kxk', 'alpha': 2.0, 'rslora': False, 'biases': False}
  method = methods.from_spec({**spec, 'sites': lora.to_json(sites, {'layer:q': 2, 'layer:v': 1})})
  frozen, trainable = method.init(jax.random.key(0), base)
  trainable = jax.tree.map(lambda x: x + rng.normal(size=x.shape).astype(np.float32), trainable)
  merged = np.asarray(method.merge(frozen, trainable)['layer']['kernel'])
  np.testing.assert_array_equal(merged[:, 4:8], base['layer']['kernel'][:, 4:8])
  for name, part in (('layer:q', slice(0, 4)), ('layer:v', slice(8, 12))):
    close(np.linalg.norm(merged[:, part], axis=0), np.abs(trainable['m'][name]))


def test_dora_of_an_output_of_zeros_starts_at_the_base():
  kernel = np.ones((4, 3), np.float32) * [1, 0, 2]
  site = lora.Site('fc', ('fc',), 'mlp', (4, 3), None)
  spec = {'method': 'dora', 'form': '1x1_kxk', 'alpha': 1.0, 'rslora': False, 'biases': False}
  method = methods.from_spec({**spec, 'sites': lora.to_json([site], {'fc': 1})})
  base = {'fc': {'kernel': kernel.astype(np.float32)}}
  merged = method.merge(*method.init(jax.random.key(0), base))
  np.testing.assert_array_equal(merged['fc']['kernel'], base['fc']['kernel'])


def test_arc_folds():
  data, meta = golden('arc_block')
  names = {'attn/qkv': 'attn', 'mlp/fc1': 'mlp'}
  spec = {'method': 'arc', 'form': 'fold', 'rank': meta['rank'], 'branches': names, 'widths': {'attn': 12, 'mlp': 12}}
  trained = {
    'p': {x: data[f'p_{x}'] for x in names.values()},
    'c': {path: data[f'c_{x}'] for path, x in names.items()},
    'e': {path: data[f'd_{x}'] for path, x in names.items()},
  }
  merged = methods.from_spec(spec).merge(block_params(data), trained)
  for path, layer in (('attn', 'qkv'), ('mlp', 'fc1')):
    close(merged[path][layer]['kernel'], data[f'{layer}_kernel_merged'])
    close(merged[path][layer]['bias'], data[f'{layer}_bias_merged'])


@pytest.mark.parametrize('remat', [False, True])
def test_arc_of_form_swin(remat):
  data, meta = golden('arc_swin_block')
  params = block_params(data)
  params['attn']['relative_position_bias_table'] = data['relative_position_bias_table']
  side = meta['resolution'][0]
  block = nn.remat(window.SwinBlock) if remat else window.SwinBlock
  block = block(num_heads=meta['heads'], window=meta['window'], shift=meta['shift'], hidden=24)
  names = {'attn/qkv': 'attn', 'mlp/fc1': 'mlp'}
  spec = {'method': 'arc', 'form': 'swin', 'rank': meta['rank'], 'branches': names, 'widths': {'attn': 12, 'mlp': 12}}
  method = methods.from_spec(spec)
  trained = {
    'p': {x: data[f'p_{x}'] for x in names.values()},
    'c': {path: data[f'c_{x}'] for path, x in names.items()},
    'e': {path: data[f'd_{x}'] for path, x in names.items()},
  }
  x = data['x'].reshape(-1, side, side, 12)
  forward = jax.jit(lambda frozen, trained, x: method.forward(block.apply, frozen, trained, x))
  close(forward(params, trained, x).reshape(data['y'].shape), data['y'])
  start = forward(*method.init(jax.random.key(0), params), x)
  np.testing.assert_allclose(start, jax.jit(block.apply)({'params': params}, x), rtol=0, atol=1e-6)
  with pytest.raises(UserError, match="form 'swin' cannot be merged"):
    method.merge(params, trained)


def test_difffit():
  data, _ = golden('difffit_block')
  spec = {'method': 'difffit', 'scope': 'gains', 'branches': {'attn/proj': 12, 'mlp/fc2': 12}}
  trained = {'gains': {'attn/proj': data['gamma_attn'], 'mlp/fc2': data['gamma_mlp']}, 'leaves': {}}
  merged = methods.from_spec(spec).merge(block_params(data), trained)
  for path, layer in (('attn', 'proj'), ('mlp', 'fc2')):
    close(merged[path][layer]['kernel'], data[f'{layer}_kernel_merged'])
    close(merged[path][layer]['bias'], data[f'{layer}_bias_merged'])


def test_rasa():
  data, meta = golden('rasa')
  layers = range(meta['layers'])
  shapes = {'fc1': (8, 12), 'fc2': (12, 8)}
  sites = [Site(f'{i}/{x}', (str(i), x), 'mlp', shape, None) for i in layers for x, shape in shapes.items()]
  base = {
    str(i): {x: {'kernel': data[f'{x}_kernel_{i}'], 'bias': data[f'{x}_bias_{i}']} for x in shapes} for i in layers
  }
  spec = {
    'method': 'rasa',
    'form': '1x1_kxk',
    'rank': meta['r'],
    'shared': meta['k'],
    'alpha': meta['alpha'],
    'groups': {x: [f'{i}/{x}' for i in layers] for x in shapes},
    'sites': lora.to_json(sites, dict.fromkeys((site.name for site in sites), meta['r'])),
  }
  method = methods.from_spec(spec)
  _, start = method.init(jax.random.key(0), base)
  assert tree.count(start) == meta['trainable']
  close(start['adapters']['0/fc1']['m'], data['mix_init'])
  trained = {
    'adapters': {
      f'{i}/{x}': {'a': data[f'{x}_a_{i}'], 'b': data[f'{x}_b_{i}'], 'm': data[f'{x}_mix_{i}']}
      for i in layers
      for x in shapes
    },
    'pools': {x: {'a': data[f'{x}_shared_a'], 'b': data[f'{x}_shared_b']} for x in shapes},
  }
  merged = method.merge(base, trained)
  for i in layers:
    for x in shapes:
      close(merged[str(i)][x]['kernel'], data[f'{x}_kernel_merged_{i}'])


def test_shira():
  data, _ = golden('shira')
  site = Site('layer', ('layer',), 'mlp', (7, 10), None)
  base = {'layer': {'kernel': data['kernel'], 'bias': data['bias']}}
  indices = {'layer': data['rows_in'] * 10 + data['cols_out']}
  spec = {'method': 'shira', 'mask': 'random', 'scale': 1.0, 'sites': lora.to_json([site], {})}
  method = methods.from_spec(spec, indices)
  frozen, _ = method.init(jax.random.key(0), base)
  merged = np.asarray(method.merge(frozen, {'v': {'layer': data['values']}})['layer']['kernel'])
  close(merged, data['kernel_merged'])
  others = np.setdiff1d(np.arange(70), indices['layer'])
  assert merged.ravel()[others].tobytes() == data['kernel'].ravel()[others].tobytes()


class Scores:
  """Of known gradients."""

  def __init__(self, params, gradients=None):
    self.params, self.available, self.gradients = params, gradients is not None, lambda: gradients


def shira_plan(sites, scores, **fields):
  c = config_lib.default()
  c.method = 'shira'
  c.shira.update(fields)
  return methods.plan(c, sites, scores)


@pytest.mark.parametrize(
  ('mask', 'key'), [('magnitude', 'weight_magnitude'), ('gradient', 'gradient'), ('snip', 'snip')]
)
def test_shira_takes_the_largest(mask, key):
  data, meta = golden('shira')
  site = Site('layer', ('layer',), 'mlp', (7, 10), None)
  scores = Scores({'layer': {'kernel': data['kernel']}}, {'layer': data['grad']})
  plan = shira_plan([site], scores, mask=mask, rank=meta['r'])
  np.testing.assert_array_equal(plan.constants['layer'], data[f'topk_{key}'])


def test_shira_masks_that_need_no_kernel():
  sites = [Site('conv', ('conv',), 'conv', (3, 3, 4, 5), None), Site('dense', ('dense',), 'mlp', (6, 7), None)]
  random = shira_plan(sites, Scores({}), mask='random', share=0.25).constants
  assert {name: len(set(indices)) for name, indices in random.items()} == {'conv': 45, 'dense': 10}
  again = shira_plan(sites[1:], Scores({}), mask='random', share=0.25).constants
  np.testing.assert_array_equal(again['dense'], random['dense'])  # whatever the other sites are
  chosen = np.zeros(180, bool)
  chosen[shira_plan(sites, Scores({}), mask='struct', share=0.45).constants['conv']] = True
  matrix = chosen.reshape(36, 5)
  assert matrix[range(5), range(5)].all()
  assert matrix.sum() == 81  # the diagonal, two columns but for what they have of it, and a part of a third
  assert sorted(matrix.sum(axis=0))[-2:] == [36, 36]
  together = shira_plan(sites, Scores({}), mask='random', share=0.3, across='all').constants
  assert sum(map(len, together.values())) == 67


def test_shira_without_pictures_takes_the_largest_kernels():
  site = Site('dense', ('dense',), 'mlp', (2, 2), None)
  plan = shira_plan([site], Scores({'dense': {'kernel': np.array([[1.0, -3.0], [2.0, 0.0]])}}), mask='snip', share=0.5)
  assert plan.spec['mask'] == 'magnitude'
  np.testing.assert_array_equal(plan.constants['dense'], [1, 2])


def test_shira_of_parts_indexes_their_columns():
  base = {'layer': {'kernel': np.zeros((2, 6), np.float32)}}
  site = Site('layer:k', ('layer',), 'attn', (2, 2), (2, 4))
  spec = {'method': 'shira', 'mask': 'random', 'scale': 2.0, 'sites': lora.to_json([site], {})}
  method = methods.from_spec(spec, {'layer:k': np.array([1, 2], np.int32)})
  merged = method.merge(method.init(None, base)[0], {'v': {'layer:k': np.array([1.0, 5.0], np.float32)}})
  np.testing.assert_array_equal(merged['layer']['kernel'], [[0, 0, 0, 2, 0, 0], [0, 0, 10, 0, 0, 0]])

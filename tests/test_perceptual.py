"""LPIPS and DISTS against reference values, with seeded networks and with the published ones."""

import functools

import numpy as np
import pytest
from PIL import Image

from adaptsr_jax import image, metrics
from adaptsr_jax.errors import UserError
from adaptsr_jax.metrics import features, perceptual, weights
from tests.shared import shared


def seeded_trunk(seed: int, layout: features.Layout) -> dict[str, np.ndarray]:
  """Returns random weights by the keys of torchvision, as the reference values were computed with."""
  arrays = {}
  for conv in layout.convs:
    rng = np.random.RandomState(1000 * seed + conv.index)
    shape = (conv.outputs, conv.inputs, conv.kernel, conv.kernel)
    kernel = rng.standard_normal(shape) * np.sqrt(2 / (conv.inputs * conv.kernel**2))
    arrays[f'features.{conv.index}.weight'] = kernel.astype(np.float32)
    arrays[f'features.{conv.index}.bias'] = (0.05 * rng.standard_normal(conv.outputs)).astype(np.float32)
  return arrays


def seeded_heads(layout: features.Layout) -> dict[str, np.ndarray]:
  """Returns random non-negative heads by the keys of the published files."""
  rng = np.random.default_rng(0)
  channels = [stage[-1].outputs for stage in layout.stages]
  return {f'lin{i}.model.1.weight': rng.random((1, n, 1, 1), np.float32) for i, n in enumerate(channels)}


@functools.cache
def reference(name: str):
  """Returns the reference values of 'lpips_alex', 'lpips_vgg' or 'dists', and the weights that gave them."""
  golden = np.load(shared('golden', 'metrics', f'{name}.npz'))
  seed, layout = {
    'lpips_alex': (101, features.ALEXNET),
    'lpips_vgg': (202, features.VGG16),
    'dists': (303, features.VGG16),
  }[name]
  trunk = weights.trunk(seeded_trunk(seed, layout), layout)
  if name == 'dists':
    arrays = {key: golden[key].reshape(1, -1, 1, 1) for key in ('alpha', 'beta')}
    return golden, {'trunk': trunk, **weights.dists_channels(arrays)}
  arrays = {f'lin{i}.model.1.weight': golden[f'lin{i}'].reshape(1, -1, 1, 1) for i in range(5)}
  return golden, {'trunk': trunk, 'heads': weights.heads(arrays, layout)}


@pytest.fixture(scope='module')
def alex():
  """LPIPS with random weights of AlexNet's shapes."""
  layout = features.ALEXNET
  return {
    'trunk': weights.trunk(seeded_trunk(1, layout), layout),
    'heads': weights.heads(seeded_heads(layout), layout),
  }


@pytest.mark.parametrize('i', [0, 1])
@pytest.mark.parametrize('name', ['lpips_alex', 'lpips_vgg'])
def test_lpips_agrees_with_the_reference(name, i):
  golden, lpips = reference(name)
  a, b = golden[f'a{i}'], golden[f'b{i}']
  np.testing.assert_allclose(metrics.lpips(lpips, a[None], b[None]), [golden[f'dist{i}']], rtol=2e-6)
  pair = np.stack([a, b]) / np.float32(255)
  np.testing.assert_allclose(perceptual._contributions(lpips, pair), golden[f'per_layer{i}'], rtol=1e-5)


@pytest.mark.parametrize('i', [0, 1])
@pytest.mark.parametrize('name', ['lpips_alex', 'lpips_vgg'])
def test_features_agree_with_the_reference(name, i):
  golden, lpips = reference(name)
  x = (golden[f'a{i}'][None] / np.float32(127.5) - 1 - perceptual._LPIPS_SHIFT) / perceptual._LPIPS_SCALE
  for number, tap in enumerate(features.taps(lpips['trunk'], x)):
    assert_tap(golden, f'tap{number}', i, np.asarray(tap[0]))


def assert_tap(golden, tap: str, i: int, found: np.ndarray) -> None:
  found = found.transpose(2, 0, 1)
  assert found.shape == tuple(golden[f'{tap}_shape{i}'])
  mean, deviation, largest = golden[f'{tap}_stats{i}']
  statistics = [found.mean(dtype=np.float64), found.std(dtype=np.float64), found.max()]
  np.testing.assert_allclose(statistics, [mean, deviation, largest], rtol=1e-5)
  corner = golden[f'{tap}_corner{i}']
  c, h, w = corner.shape
  np.testing.assert_allclose(found[:c, :h, :w], corner, atol=1e-5 * largest)


@pytest.mark.parametrize('i', [0, 1])
def test_dists_agrees_with_the_reference(i):
  golden, dists = reference('dists')
  a, b = golden[f'a{i}'], golden[f'b{i}']
  np.testing.assert_allclose(metrics.dists(dists, a[None], b[None]), [golden[f'dist{i}']], atol=1e-6)
  pair = np.stack([a, b]) / np.float32(255)
  for number, tap in enumerate(perceptual._dists_taps(dists['trunk'], pair)):
    assert_tap(golden, f'tap{number}', i, np.asarray(tap[0]))


def test_l2_pooling_agrees_with_the_reference():
  golden, _ = reference('dists')
  pooled = features.l2_pool(golden['l2pool_in'].transpose(1, 2, 0)[None])[0]
  np.testing.assert_allclose(np.asarray(pooled).transpose(2, 0, 1), golden['l2pool_out'], atol=1e-6)


def test_published_weights_give_the_published_values():
  folder, pictures = shared('weights'), shared('data', 'lpips_example')
  layout = features.ALEXNET
  lpips = {
    'trunk': weights.trunk(np.load(folder / 'alexnet_torchvision_features.npz'), layout),
    'heads': weights.heads(np.load(folder / 'lpips_alex_lin_v0.1.npz'), layout),
  }
  ref, p0, p1 = (image.read_array(pictures / f'ex_{name}.png') for name in ('ref', 'p0', 'p1'))
  np.testing.assert_allclose(metrics.lpips(lpips, np.stack([ref, ref]), np.stack([p0, p1])), [0.722, 0.138], atol=1e-3)


# What holds for any weights.


def pictures(seed: int = 0, number: int = 2, height: int = 40, width: int = 33) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, 256, (number, height, width, 3), dtype=np.uint8)


def test_a_value_does_not_depend_on_the_batch(alex):
  a, b = pictures(0, 3), pictures(1, 3)
  together = metrics.lpips(alex, a, b)
  assert together.shape == (3,)
  assert together.dtype == np.float64
  np.testing.assert_array_equal(together, [metrics.lpips(alex, a[i : i + 1], b[i : i + 1])[0] for i in range(3)])


def test_bytes_and_floats_give_the_same(alex):
  a, b = pictures(0), pictures(1)
  expected = metrics.lpips(alex, a, b)
  np.testing.assert_array_equal(metrics.lpips(alex, image.to_float(a), image.to_float(b)), expected)
  np.testing.assert_allclose(metrics.lpips(alex, a / 255, b.astype(np.uint16) * 257), expected, rtol=1e-5)


def test_identical_pictures_and_order(alex):
  a, b = pictures(0), pictures(1)
  np.testing.assert_allclose(metrics.lpips(alex, a, a), 0, atol=1e-12)
  np.testing.assert_allclose(metrics.lpips(alex, a, b), metrics.lpips(alex, b, a), rtol=1e-6)
  assert (metrics.lpips(alex, a, b) > 0).all()


def test_the_smallest_pictures(alex):
  assert np.isfinite(metrics.lpips(alex, pictures(0, 1, 31, 31), pictures(1, 1, 31, 31))).all()
  with pytest.raises(UserError, match='AlexNet needs pictures of at least 31 pixels a side, not 40x30'):
    metrics.lpips(alex, pictures(0, 1, 30, 40), pictures(1, 1, 30, 40))


@pytest.mark.parametrize(
  ('a', 'b', 'message'),
  [
    (pictures(), pictures(width=34), 'must both be'),
    (pictures()[0], pictures()[0], 'must both be'),
    (pictures() / np.float32(127.5) - 1, pictures(), r'values in \[0, 1\], not -1 to'),
    (np.full((1, 40, 40, 3), np.nan, np.float32), pictures(0, 1, 40, 40), r'values in \[0, 1\]'),
  ],
)
def test_pictures_that_cannot_be_compared_are_refused(alex, a, b, message):
  with pytest.raises(ValueError, match=message):
    metrics.lpips(alex, a, b)


@pytest.mark.parametrize(
  ('height', 'width', 'expected'), [(300, 407, (256, 347)), (512, 512, (256, 256)), (400, 257, (398, 256))]
)
def test_dists_shrinks_the_short_side_to_256(height, width, expected):
  pair = pictures(0, 2, height, width)
  found = perceptual._shrunk(image.to_float(pair))
  assert found.shape[1:3] == expected
  resized = np.asarray(Image.fromarray(pair[1]).resize(expected[::-1], Image.Resampling.BILINEAR))
  np.testing.assert_array_equal(image.to_uint8(found[1]), resized)


def test_dists_leaves_small_pictures_alone():
  pair = image.to_float(pictures(0, 2, 256, 300))
  assert perceptual._shrunk(pair) is pair


def test_similarities_of_channels_that_hardly_vary():
  """Population statistics by their definition, on values whose squares cancel in single precision."""
  rng = np.random.default_rng(0)
  x, y = (1000 + 1e-3 * rng.random((2, 30, 20, 4))).astype(np.float32)
  exact_x, exact_y = x.reshape(-1, 4).astype(np.float64), y.reshape(-1, 4).astype(np.float64)
  structure = [
    (2 * np.cov(p, q, bias=True)[0, 1] + 1e-6) / (p.var() + q.var() + 1e-6)
    for p, q in zip(exact_x.T, exact_y.T, strict=True)
  ]
  np.testing.assert_allclose(perceptual._similarities(*np.float64([[x], [y]]))[1][0], structure, rtol=1e-6)


# Weights that are not what they should be.


@pytest.mark.parametrize(
  ('fault', 'message'),
  [
    (lambda arrays: arrays.pop('features.3.weight'), 'it has no features.3.weight'),
    (lambda arrays: arrays.update({'features.6.bias': np.zeros(3)}), r'its features.6.bias has the shape \(3,\), not'),
    (lambda arrays: arrays['features.0.bias'].fill(np.nan), 'its features.0.bias has values that are not finite'),
  ],
)
def test_wrong_weights_are_named(fault, message):
  arrays = seeded_trunk(1, features.ALEXNET)
  fault(arrays)
  with pytest.raises(ValueError, match=message):
    weights.trunk(arrays, features.ALEXNET)

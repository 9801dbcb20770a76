"""Training losses: reference values and gradients, the metrics of the same name, and weights that are not there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaptsr_jax import config, metrics
from adaptsr_jax.adapt import losses
from adaptsr_jax.errors import UserError
from adaptsr_jax.metrics import features, weights
from tests.shared import shared
from tests.test_perceptual import reference, seeded_trunk


def crops(number: int = 2, side: int = 48) -> tuple[np.ndarray, np.ndarray]:
  rng = np.random.default_rng(0)
  return tuple(rng.random((2, number, side, side, 3), np.float32))


def test_the_perceptual_loss_agrees_with_the_reference():
  golden = np.load(shared('golden', 'gan', 'perceptual_vgg19.npz'))
  trunk = weights.trunk(seeded_trunk(404, features.VGG19), features.VGG19)
  gt, prediction = (golden[name][None] / np.float32(255) for name in ('gt', 'pred'))
  normalised = [(x - metrics.perceptual.MEAN) / metrics.perceptual.STD for x in (gt, prediction)]
  pairs = list(zip(*(features.taps(trunk, x, before_relu=True) for x in normalised), strict=True))
  np.testing.assert_allclose([losses.l1(y, x) for x, y in pairs], golden['per_layer_unweighted'], rtol=1e-4)
  for name, (found, _) in zip(('conv1_2', 'conv2_2', 'conv3_4', 'conv4_4', 'conv5_4'), pairs, strict=True):
    found = np.asarray(found[0]).transpose(2, 0, 1)
    statistics = [found.mean(dtype=np.float64), found.std(dtype=np.float64, ddof=1), found.min()]
    np.testing.assert_allclose(statistics, golden[f'stats.{name}'], rtol=1e-4, atol=1e-6)
    c, h, w = golden[f'corner.{name}'].shape
    np.testing.assert_allclose(found[:c, :h, :w], golden[f'corner.{name}'], atol=1e-4 * np.abs(found).max())
  value, gradient = jax.jit(jax.value_and_grad(losses.perceptual_vgg19, argnums=1))({'vgg19': trunk}, prediction, gt)
  np.testing.assert_allclose(value, golden['loss'], rtol=1e-4)
  # Units at the kink of their ReLU fall to either side by rounding; PyTorch in single precision is 0.6 % off too.
  expected = golden['grad_pred'].transpose(1, 2, 0)
  assert np.linalg.norm(gradient[0] - expected) < 0.015 * np.linalg.norm(expected)


def test_lpips_and_dists_are_the_metrics():
  for i in (0, 1):
    golden, found = reference('lpips_alex')
    a, b = (golden[f'{name}{i}'][None] / np.float32(255) for name in 'ab')
    loss = jax.jit(losses.lpips)({'alexnet': found['trunk'], 'lpips_alex': found['heads']}, a, b)
    np.testing.assert_allclose(loss, golden[f'dist{i}'], rtol=1e-4)  # the floor under the root shows in the fifth digit
    golden, found = reference('dists')
    a, b = (golden[f'{name}{i}'][None] / np.float32(255) for name in 'ab')
    channels = {name: found[name] for name in ('alpha', 'beta')}
    loss = jax.jit(losses.dists)({'vgg16': found['trunk'], 'dists': channels}, a, b)
    np.testing.assert_allclose(loss, golden[f'dist{i}'], atol=1e-5)


@pytest.mark.parametrize('name', ['lpips', 'dists'])
def test_gradients_of_dark_and_equal_pictures_are_finite(name):
  """Where all features vanish, or both pictures are the same, roots and quotients have no slope of their own."""
  _, found = reference({'lpips': 'lpips_alex', 'dists': 'dists'}[name])
  given = {
    'lpips': {'alexnet': found['trunk'], 'lpips_alex': found.get('heads')},
    'dists': {'vgg16': found['trunk'], 'dists': {key: found[key] for key in found if key != 'trunk'}},
  }
  side = losses.TERMS[name].layout.least
  black = jnp.zeros((1, side, side, 3))
  gradient = jax.jit(jax.grad(losses.TERMS[name].fn, argnums=1))
  for prediction, target in ((black, black), (black, black + 1), (black + 2, black)):
    assert np.isfinite(gradient(given[name], prediction, target)).all()


def test_pixel_losses():
  x, y = crops()
  np.testing.assert_allclose(losses.l1(x, y), np.abs(x - y).mean(), rtol=1e-6)
  np.testing.assert_allclose(losses.mse(x, y), ((x - y) ** 2).mean(), rtol=1e-6)
  np.testing.assert_allclose(losses.charbonnier(x, y), np.sqrt((x - y) ** 2 + 1e-6).mean(), rtol=1e-6)
  assert losses.charbonnier(x, x) == pytest.approx(1e-3)
  # 48 = 3 squares of 16; what is left over at the borders does not count.
  squares = (x - y)[:, :48, :32].reshape(2, 3, 16, 2, 16, 3).mean((2, 4))
  np.testing.assert_allclose(losses.colour(x[:, :, :40], y[:, :, :40]), np.abs(squares).mean(), rtol=1e-4)
  assert losses.colour(x[:, :8, :8] + 0.25, x[:, :8, :8]) == pytest.approx(0.25)


def test_the_sum_and_what_is_logged():
  c = config.default()
  x, y = crops()
  total, logged = losses.make(c)(x, y, {})
  assert (float(total), logged) == (float(losses.l1(x, y)), {})
  c.loss.mse, c.loss.colour = 0.5, 2.0
  total, logged = losses.make(c)(x, y, {})
  assert set(logged) == {'loss/l1', 'loss/mse', 'loss/colour'}
  assert float(logged['loss/mse']) == pytest.approx(float(losses.mse(x, y)))
  np.testing.assert_allclose(total, losses.l1(x, y) + 0.5 * losses.mse(x, y) + 2 * losses.colour(x, y), rtol=1e-6)


def test_published_weights_by_folder():
  c = config.default()
  c.loss.l1, c.loss.lpips, c.metric_weights = 0.0, 2.0, str(shared('weights'))
  criterion = losses.make(c)
  x, y = crops()
  expected = metrics.lpips({'trunk': criterion.weights['alexnet'], 'heads': criterion.weights['lpips_alex']}, x, y)
  np.testing.assert_allclose(criterion(x, y, criterion.weights)[0], 2 * expected.mean(), rtol=1e-4)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'loss.perceptual': 1.0}, r'config.loss.perceptual needs vgg19-dcbb9e9d.pth: .* has no vgg19.*put https'),
    ({'loss.dists': 1.0}, r'config.loss.dists needs weights.pt and vgg16-397923af.pth: .* has no dists_alpha_beta.pt'),
    ({'loss.l1': 0.0}, 'config.loss asks for nothing'),
    ({'loss.lpips': 1.0, 'patch': 24}, 'config.patch is 24; config.loss.lpips compares features of AlexNet'),
  ],
)
def test_what_cannot_be_computed_is_one_sentence(tmp_path, fields, message):
  c = config.default()
  c.metric_weights = str(tmp_path)
  c.update_from_flattened_dict(fields)
  with pytest.raises(UserError, match=message):
    losses.make(c)

"""The simulated camera: its building blocks and whole pipeline against reference numbers, and what it promises."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from adaptsr_jax import bicubic
from adaptsr_jax.data import degrade
from adaptsr_jax.data.degrade import compression, filters, noise, planes, second_order
from tests.pictures import scene
from tests.shared import GOLDEN

# Compiled whole: operation by operation, each would be compiled apart.
filter2d, usm = jax.jit(degrade.filter2d), jax.jit(degrade.usm)
jpeg = jax.jit(degrade.jpeg, static_argnames='soft')
resize = jax.jit(degrade.resize, static_argnames=('mode', 'size', 'factor'))

FOLDER = GOLDEN / 'degradation'
META = json.loads((FOLDER / 'meta.json').read_text())


@functools.cache
def golden(name: str) -> dict[str, np.ndarray]:
  return dict(np.load(FOLDER / f'{name}.npz'))


def unit(x: np.ndarray) -> np.ndarray:
  return (x / 255).astype(np.float32)


def to_nhwc(x: np.ndarray) -> np.ndarray:
  return np.moveaxis(x, -3, -1)


def share_off(x, y, tolerance: float) -> float:
  """Returns the share of values that differ by more than `tolerance`."""
  x, y = np.asarray(x), np.asarray(y)
  assert x.shape == y.shape
  return float(np.mean(np.abs(x - y) > tolerance))


# ---------------------------------------------------------------------------------------------------- building blocks


@pytest.mark.parametrize('params', META['kernel_params']['blur'], ids=lambda p: f'{p["family"]}-{p["i"]}')
def test_blur_kernels(params):
  family = 2 * ['gaussian', 'generalized', 'plateau'].index(params['family']) + (not params['isotropic'])
  names = ('size', 'sigma_x', 'sigma_y', 'theta', 'beta')
  kernel = degrade.blur_kernels(family, *(params[name] for name in names))
  margin = (21 - params['size']) // 2
  expected = np.pad(golden('kernels')[f'k{params["i"]}'], margin)
  np.testing.assert_allclose(kernel, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize('params', META['kernel_params']['sinc'], ids=lambda p: f'{p["size"]}')
def test_sinc_kernels(params):
  expected = golden('kernels')[f's{params["i"]}']
  expected = np.pad(expected, (21 - len(expected)) // 2)
  np.testing.assert_allclose(degrade.sinc_kernels(params['size'], params['cutoff']), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize('kind', ['per_sample', 'shared', 'asym'])
def test_filter2d(kind):
  g = golden('filter2d')
  kernels = g['kernels_per_sample' if kind == 'per_sample' else f'kernel_{kind}']
  expected = to_nhwc(g[f'out_{kind}'])
  result = filter2d(unit(g['in_u8'][: len(expected)]), kernels)
  np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize('size', [(1, 1), (2, 5), (9, 30), (11, 11)], ids=str)
def test_filter2d_reflects_as_often_as_it_takes(size):
  rng = np.random.default_rng(0)
  x, kernel = rng.random((1, *size, 1), np.float32), rng.random((1, 21, 21), np.float32)
  padded = np.pad(x[0, ..., 0], 10, 'reflect')
  windows = np.lib.stride_tricks.sliding_window_view(padded, (21, 21))
  expected = np.einsum('hwij,ij->hw', windows, kernel[0])
  np.testing.assert_allclose(filter2d(x, kernel)[0, ..., 0], expected, rtol=1e-5)


@pytest.mark.parametrize('params', META['interpolate_params'], ids=lambda p: f'{p["key"]}-{p["mode"]}')
def test_resize(params):
  g = golden('interpolate')
  factor = params.get('scale_factor')
  size = tuple(params['size']) if factor is None else degrade.scaled((30, 34), factor)
  result = resize(unit(g['in_u8']), params['mode'], size, factor)
  np.testing.assert_allclose(result[0], to_nhwc(g[params['key']]), rtol=0, atol=2e-5)


@pytest.mark.parametrize('params', META['interpolate_params'], ids=lambda p: f'{p["key"]}-{p["mode"]}')
def test_resize_on_a_canvas_with_traced_sizes_is_the_same(params):
  g = golden('interpolate')
  x = np.pad(unit(g['in_u8']), ((0, 0), (0, 6), (0, 14), (0, 0)), constant_values=7.0)
  resized = _resize_traced(x, jnp.array([30, 34]), *_traced(params))
  expected = to_nhwc(g[params['key']])
  h, w = expected.shape[:2]
  np.testing.assert_allclose(resized[0, :h, :w], expected, rtol=0, atol=2e-5)
  assert not np.any(resized[0, h:])
  assert not np.any(resized[0, :, w:])


def _traced(params):
  factor = params.get('scale_factor', 0.0)
  size = params['out'] if factor else params['size']
  return degrade.MODES.index(params['mode']), jnp.array(size), jnp.float32(factor)


@jax.jit
def _resize_traced(x, extent, mode, size, factor):
  given = lambda factor: degrade.resize(x, mode, tuple(size), factor, tuple(extent), (60, 64))  # noqa: E731
  return jnp.where(factor > 0, given(factor), given(None))


def test_gaussian_noise():
  g = golden('noise')
  x = unit(g['in_u8'])
  result = degrade.gaussian_noise(x, g['g_sigma'], g['g_gray'] > 0, g['g_draw_color'], g['g_draw_gray_hw'])
  np.testing.assert_allclose(result, to_nhwc(g['g_out']), rtol=0, atol=1e-5)
  sigma, gray = 1 + 29 * g['rg_u_sigma'], g['rg_u_gray'] < 0.4
  plane = g.get('rg_draw_gray_hw', np.zeros(x.shape[1:3], np.float32))
  result = degrade.gaussian_noise(x[:2], sigma, gray, g['rg_draw_color'], plane)
  np.testing.assert_allclose(result, to_nhwc(g['rg_out']), rtol=0, atol=1e-5)


def test_poisson_noise():
  g = golden('noise')
  gray = jnp.asarray(g['p_gray'] > 0)

  def counts(rate, gray):
    assert rate.shape == g['p_count_color'].shape
    return jnp.where(gray[:, None, None, None], g['p_count_gray'], g['p_count_color'])

  add = jax.jit(lambda x, scale, gray: degrade.poisson_noise(x, scale, gray, counts))
  result = add(unit(g['in_u8']), g['p_scale'], gray)
  np.testing.assert_allclose(result, to_nhwc(g['p_out']), rtol=0, atol=1e-5)


def test_poisson_levels():
  g = golden('noise')
  colour = planes.of_pictures(jnp.asarray(g['in_u8']))
  np.testing.assert_array_equal(noise.levels(colour), g['p_vals_color'])
  np.testing.assert_array_equal(noise.levels(jnp.asarray(g['p_gray_img_u8'])), g['p_vals_gray'])
  gray = np.rint(255 * noise.gray_of(colour / 255))
  assert np.abs(gray - g['p_gray_img_u8']).max() <= 1
  # What lies outside of the picture does not count.
  padded = jnp.pad(colour[..., :7, :5] // 64 * 64, ((0, 0), (0, 0), (0, 9), (0, 9)), constant_values=37)
  assert noise.levels(padded, (7, 5)).max() <= 4


@pytest.mark.parametrize('rate', [0.0, 0.02, 0.7, 3.0, 7.9, 8.1, 20.0, 100.0, 256.0])
def test_poisson_counts_have_the_distribution(rate):
  u = (np.arange(200_000) + 0.5) / 200_000
  counts = np.asarray(
    jax.jit(noise.poisson_quantile)(jnp.asarray(u, jnp.float32), jnp.full(u.shape, rate, jnp.float32))
  )
  exact = scipy.stats.poisson.ppf(np.float64(np.float32(u)), rate)
  off = counts != exact
  assert np.abs(counts - exact).max() <= 1
  # Below 8 only where float32 does not tell a probability from a step of the distribution.
  assert off.mean() < (5e-5 if rate < 8 else 7e-4)


def test_random_counts_are_shared_by_the_channels_of_gray_pictures():
  rate = jnp.full((2, 3, 8, 8), 20.0)
  counts = jax.jit(lambda key, gray: degrade.random(key).counts(1, rate, gray))(
    jax.random.key(0), jnp.array([True, False])
  )
  assert (counts[0] == counts[0, :1]).all()
  assert (counts[1, 0] != counts[1, 1]).any()


def assert_jpeg(result, expected):
  assert share_off(result, expected, 2e-4) <= 1e-3


@pytest.mark.parametrize('quality', [30, 60, 95])
def test_jpeg(quality):
  g = golden('jpeg')
  result = jpeg(unit(g['in16_u8']), jnp.array([float(quality)]))
  assert_jpeg(result[0], to_nhwc(g[f'out16_q{quality}']))


@pytest.mark.parametrize('quality', [30, 60])
def test_jpeg_of_any_size(quality):
  g = golden('jpeg')
  x, expected = unit(g['inodd_u8']), to_nhwc(g[f'outodd_q{quality}'])
  h, w = expected.shape[:2]
  assert_jpeg(jpeg(x, jnp.array([float(quality)]))[0, -h:, -w:], expected)
  # The same in the corner of a canvas.
  canvas = np.pad(x, ((0, 0), (0, 13), (0, 30), (0, 0)), constant_values=0.5)
  assert_jpeg(jpeg(canvas, jnp.array([float(quality)]), (35, 50))[0, 35 - h : 35, 50 - w : 50], expected)


def test_jpeg_of_a_batch_of_qualities():
  g = golden('jpeg')
  np.testing.assert_allclose(compression.scale_factor(g['batch_quality']), g['batch_factor'], rtol=1e-6)
  assert_jpeg(jpeg(unit(g['batch_u8']), g['batch_quality']), to_nhwc(g['out_batch']))


def test_jpeg_with_soft_rounding():
  g = golden('jpeg')
  result = jpeg(unit(g['in16_u8']), jnp.array([60.0]), soft=True)
  assert_jpeg(result[0], to_nhwc(g['out16_q60_differentiable']))


def test_jpeg_coefficients():
  g = golden('jpeg')
  np.testing.assert_array_equal(compression.LUMINANCE, g['y_table_as_used'])
  np.testing.assert_array_equal(compression.CHROMINANCE, g['c_table_as_used'])
  red, green, blue = 255 * g['float_in']
  luma = 0.299 * red + 0.587 * green + 0.114 * blue
  exact = compression.coefficients(jnp.asarray(luma - 128)[None], compression.LUMINANCE, jnp.array([0.8]))
  equal = np.rint(exact).reshape(4, 8, 8) == g['float_q60_y_coef']
  assert equal.mean() >= 0.999
  assert_jpeg(jpeg(to_nhwc(g['float_in'])[None], jnp.array([60.0]))[0], to_nhwc(g['float_q60_out']))


def test_jpeg_at_the_ends_of_quality_is_finite():
  x = scene(0, 16, 16)[None].repeat(2, 0)
  result = jpeg(x, jnp.array([100.0, 1.0]))
  assert np.isfinite(result).all()
  np.testing.assert_allclose(result[0].mean((0, 1)), x[0].mean((0, 1)), atol=0.02)


def test_usm():
  g = golden('usm')
  np.testing.assert_allclose(filters.gaussian_taps(), g['gauss1d'], rtol=0, atol=1e-12)
  result = usm(unit(g['in_u8']))[0]
  assert share_off(result, to_nhwc(g['out']), 1e-5) < 1e-3
  np.testing.assert_allclose(result, to_nhwc(g['out']), rtol=0, atol=2e-4)


@pytest.mark.parametrize('size', [(60, 72), (30, 41), (9, 72)], ids=str)
def test_usm_on_a_canvas_is_the_same(size):
  h, w = size
  x = unit(golden('usm')['in_u8'])[:, :h, :w]
  canvas = np.pad(x, ((0, 0), (0, 130 - h), (0, 110 - w), (0, 0)), constant_values=0.5)
  result = usm(canvas, (h, w))
  np.testing.assert_allclose(result[:, :h, :w], usm(x), rtol=0, atol=2e-6)


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_bicubic_is_the_one_of_the_house(scale):
  x = np.rint(255 * scene(3, 36, 48)) / 255
  size = (36 // scale, 48 // scale)
  rows = np.clip(np.floor(bicubic.resize_rows(255 * x, 1 / scale, True) + 0.5), 0, 255)
  columns = bicubic.resize_rows(rows.swapaxes(0, 1), 1 / scale, True).swapaxes(0, 1)
  expected = np.clip(np.floor(columns + 0.5), 0, 255) / 255
  shrink = jax.jit(lambda x, h, w: degrade.bicubic(x, scale, (h, w)))
  result = shrink(x.astype(np.float32)[None], 36, 48)[0]
  assert result.shape == (*size, 3)
  assert share_off(result, expected, 1e-6) < 1e-3
  canvas = np.pad(x.astype(np.float32), ((0, 12), (0, 24), (0, 0)))[None]
  result = shrink(canvas, 36, 48)[0]
  np.testing.assert_allclose(result[: size[0], : size[1]], expected, atol=1 / 254)


# ------------------------------------------------------------------------------------------------------- whole pipeline


def stated(number: int) -> tuple[degrade.Draws, degrade.Random]:
  """Returns the decisions of a fixture and its random numbers."""
  p, g = META['pipeline_params'][number], golden(f'pipeline{number}')
  o = degrade.PRESETS['realesrgan']
  between = lambda limits, u: jnp.asarray(limits[0] + (limits[1] - limits[0]) * u)  # noqa: E731

  def noise_of(stage: int, sigma, scale) -> degrade.Noise:
    level, gray = g[f'noise{stage}_u_level'], jnp.asarray(g[f'noise{stage}_u_gray'] < 0.4)
    return degrade.Noise(p[f'n{stage}'] == 'gauss', between(sigma, level), between(scale, level), gray)

  draws = degrade.Draws(
    blur1=degrade.Blur(g['kernel1']),
    resize1=degrade.Resize(p['s1'], degrade.MODES.index(p['m1'])),
    noise1=noise_of(1, o.noise1_sigma, o.poisson1_scale),
    jpeg1=jnp.array(p['j1']),
    has_blur2=p['blur2'],
    blur2=degrade.Blur(g['kernel2']),
    resize2=degrade.Resize(p['s2'], degrade.MODES.index(p['m2'])),
    noise2=noise_of(2, o.noise2_sigma, o.poisson2_scale),
    jpeg2=jnp.array(p['j2']),
    resize_first=p['order'] == 'resize_first',
    final_mode=degrade.MODES.index(p['m3']),
    sinc=degrade.Blur(g['sinc']),
  )

  def fitted(name: str, shape: tuple[int, ...]) -> jax.Array:
    """Lays the stated numbers on a canvas; what the fixture did not draw is not used."""
    x = g.get(name, np.zeros((1, 1))).astype(np.float32)
    x = x[..., : shape[-2], : shape[-1]]
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, shape[axis] - x.shape[axis]) for axis in (-2, -1)])

  def counts(stage, rate, gray):
    colour, plane = (fitted(f'noise{stage}_draw_{kind}', rate.shape) for kind in ('color', 'gray'))
    return jnp.where(gray[:, None, None, None], plane, colour)

  return draws, degrade.Random(
    normal=lambda stage, shape: fitted(f'noise{stage}_draw_color', shape),
    gray_normal=lambda stage, shape: fitted(f'noise{stage}_draw_gray', shape),
    counts=counts,
  )


@pytest.mark.parametrize('number', [0, 1])
def test_whole_pipeline(number):
  g, options = golden(f'pipeline{number}'), degrade.PRESETS['realesrgan']
  draws, random = stated(number)
  hr = unit(g['gt_u8'])
  sharp = usm(hr)
  blurred = filter2d(sharp, g['kernel1'])
  np.testing.assert_allclose(blurred[0, 20:44, 20:44], to_nhwc(g['after_blur1_c']), rtol=0, atol=1e-4)

  exact = jax.jit(lambda x: second_order.degraded(draws, random, x, 4, options))(planes.of_pictures(hr))
  assert share_off(exact, g['out_before_round'], 1e-3) <= 0.02
  lr = 255 * second_order.rounded(exact)
  assert share_off(lr, g['lq_u8'], 0.5) <= 0.03
  assert share_off(lr, g['lq_u8'], 1.5) <= 0.005

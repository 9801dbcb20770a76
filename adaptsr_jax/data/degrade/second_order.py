"""The second-order degradation of Real-ESRGAN (Wang et al., 2021) as one compiled program of static shapes.

HR is blurred, resized, made noisy and JPEG-compressed, and then once more, in sizes that are drawn anew for each batch.
Pictures lie on canvases (`planes.py`): the first stage takes the smallest of a few canvases that holds what the first
resize leaves, as most draws shrink the picture; the second stage is about the size of LR.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from adaptsr_jax.data.degrade import compression, filters, noise, planes, resizing
from adaptsr_jax.data.degrade.draws import Draws, Noise, draw
from adaptsr_jax.data.degrade.planes import Extent
from adaptsr_jax.data.degrade.presets import Options

# HR pixels degraded per pixel of the patch that is kept: 400 for 256 as published. The rest is margin.
_MARGIN = 400 / 256
# Sides of the first stage's canvases relative to HR; the largest factor of the options makes one more.
_CANVASES = (0.5, 0.75, 1.0)


def canvas(patch: int, scale: int) -> int:
  """Returns the side of the HR crop that is degraded for a patch of `patch` HR pixels, a multiple of `scale`."""
  return scale * math.ceil(_MARGIN * patch / scale)


@functools.lru_cache(maxsize=16)  # scoring and training share one compilation
def make(
  options: Options, scale: int, patch: int, usm: bool = False
) -> Callable[[jax.Array, jax.Array], dict[str, jax.Array]]:
  """Returns the compiled function (key, hr) -> {'lr', 'hr'} that makes training pairs of HR crops.

  `hr` is (B, H, W, 3) float32 in [0, 1] of any static size not below `patch`, best of sides `canvas(patch, scale)`; the
  pairs are (B, patch // scale, patch // scale, 3) and (B, patch, patch, 3), cut at one place for the whole batch.

  Args:
    options: of the degradation.
    scale: HR pixels per LR pixel and axis.
    patch: side of the HR patches in pixels, a multiple of `scale`.
    usm: whether to sharpen what LR is compared with; LR is then made of the same sharpened pictures, and 'plain' has
      them as they were, which is what a discriminator is shown.
  """
  if patch % scale:
    raise ValueError(f'the patch, {patch}, is no multiple of the scale, {scale}')

  @jax.jit
  def pairs(key: jax.Array, hr: jax.Array) -> dict[str, jax.Array]:
    plain = planes.of_pictures(hr)
    hr = filters.usm(plain) if usm else plain
    key_lr, key_place = jax.random.split(key)
    lr = _shrunk(key_lr, hr, scale, options._replace(source_usm=options.source_usm and not usm))
    side = patch // scale
    places = jnp.asarray(lr.shape[2:]) - side + 1
    top, left = jax.random.randint(key_place, (2,), 0, places)
    lr = lax.dynamic_slice(lr, (0, 0, top, left), (*lr.shape[:2], side, side))
    large = {'hr': hr, 'plain': plain} if usm else {'hr': hr}
    corner = (0, 0, scale * top, scale * left)
    pair = {key: lax.dynamic_slice(x, corner, (*x.shape[:2], patch, patch)) for key, x in large.items()}
    return {key: planes.to_pictures(x) for key, x in {'lr': lr, **pair}.items()}

  return pairs


@functools.partial(jax.jit, static_argnames=('scale', 'options'))
def realesrgan(key: jax.Array, hr: jax.Array, scale: int, options: Options, extent: Extent | None = None) -> jax.Array:
  """Returns LR pictures of a simulated camera, the same for the same key.

  Args:
    key: of all random numbers.
    hr: (B, H, W, 3) float32 in [0, 1].
    scale: HR pixels per LR pixel and axis.
    options: of the degradation.
    extent: (height, width) of the pictures if they only fill the top left of `hr`, multiples of `scale`; LR then fills
      the top left of the result.

  Returns:
    (B, H // scale, W // scale, 3) float32, multiples of 1 / 255.
  """
  return planes.to_pictures(_shrunk(key, planes.of_pictures(hr), scale, options, extent))


def apply(draws: Draws, random: noise.Random, hr: jax.Array, scale: int, options: Options) -> jax.Array:
  """Degrades pictures by stated decisions and random numbers; the options say no more than what sizes to reckon with.

  Args:
    draws: see `draw`.
    random: of the noise, see `noise.random`.
    hr: (B, H, W, 3) float32 in [0, 1].
    scale: HR pixels per LR pixel and axis.
    options: those that `draws` come from, of kind 'second_order'.

  Returns:
    (B, H // scale, W // scale, 3) float32, multiples of 1 / 255.
  """
  return planes.to_pictures(rounded(degraded(draws, random, planes.of_pictures(hr), scale, options)))


def decisions(key: jax.Array, options: Options, batch: int) -> tuple[Draws, noise.Random]:
  """Returns what `realesrgan` decides and draws with `key`."""
  key_draws, key_noise = jax.random.split(key)
  return draw(key_draws, options, batch), noise.random(key_noise)


def _shrunk(key: jax.Array, x: jax.Array, scale: int, options: Options, extent: Extent | None = None) -> jax.Array:
  if options.kind == 'bicubic':
    return resizing.bicubic(filters.usm(x, extent) if options.source_usm else x, scale, extent)
  return rounded(degraded(*decisions(key, options, len(x)), x, scale, options, extent))


def degraded(
  draws: Draws, random: noise.Random, x: jax.Array, scale: int, options: Options, extent: Extent | None = None
) -> jax.Array:
  """Returns LR planes (B, 3, H // scale, W // scale) of HR planes, before they are rounded; arguments as of `apply`."""
  extent = planes.extent_of(x, extent)
  if options.source_usm:
    x = filters.usm(x, extent)
  x = filters.filter2d(x, draws.blur1.kernel, extent)

  lr_size, lr_canvas = (tuple(n // scale for n in shape) for shape in (extent, x.shape[2:]))
  first_size = resizing.scaled(extent, draws.resize1.factor)
  second_size = resizing.scaled(lr_size, draws.resize2.factor)
  # Sides of the first stage's canvases relative to HR, in rising order.
  largest = _largest_factor(options.resize1_prob, options.resize1_range)
  factors = [f for f in _CANVASES if options.resize1_range[0] < f < largest] + [largest]
  canvases = [_canvas(x.shape[2:], factor) for factor in factors]
  second_canvas = _canvas(lr_canvas, _largest_factor(options.resize2_prob, options.resize2_range))

  # For the largest canvas; the others take parts of them.
  first, second = draws.resize1, draws.resize2
  resize1 = resizing.matrices(first.mode, first_size, first.factor, extent, canvases[-1], x.shape[2:])
  resize2 = resizing.matrices(second.mode, second_size, None, first_size, second_canvas, canvases[-1])
  stages = [functools.partial(_first_stage, draws, random, first_size, resize1, resize2, c) for c in canvases]
  x = lax.switch(sum(jnp.int32(first.factor > factor) for factor in factors[:-1]), stages, x)

  x = _noisy(2, x, draws.noise2, random, second_size)
  compressed = functools.partial(compression.jpeg, quality=draws.jpeg2)
  x = lax.cond(draws.resize_first, lambda x: x, lambda x: compressed(x, extent=second_size), x)
  x = resizing.resize(x, draws.final_mode, lr_size, extent=second_size, canvas=lr_canvas)
  x = filters.filter2d(x, draws.sinc.kernel, lr_size)
  return lax.cond(draws.resize_first, lambda x: compressed(jnp.clip(x, 0, 1), extent=lr_size), lambda x: x, x)


def _first_stage(
  draws: Draws,
  random: noise.Random,
  size: Extent,
  resize1: tuple[jax.Array, jax.Array],
  resize2: tuple[jax.Array, jax.Array],
  canvas: tuple[int, int],
  x: jax.Array,
) -> jax.Array:
  """From the first resize, whose result has `size` on `canvas`, to the second."""
  x = resizing.between(x, tuple(matrix[:n] for matrix, n in zip(resize1, canvas, strict=True)))
  x = _noisy(1, x, draws.noise1, random, size)
  x = compression.jpeg(x, draws.jpeg1, size)
  x = lax.cond(draws.has_blur2, lambda x: filters.filter2d(x, draws.blur2.kernel, size), lambda x: x, x)
  return resizing.between(x, tuple(matrix[:, :n] for matrix, n in zip(resize2, canvas, strict=True)))


def _noisy(stage: int, x: jax.Array, chosen: Noise, random: noise.Random, extent: Extent) -> jax.Array:
  def gaussian(x: jax.Array) -> jax.Array:
    normal, gray_normal = random.normal(stage, x.shape), random.gray_normal(stage, x.shape[2:])
    return noise.gaussian(x, chosen.sigma, chosen.gray, normal, gray_normal)

  def poisson(x: jax.Array) -> jax.Array:
    return noise.poisson(x, chosen.scale, chosen.gray, functools.partial(random.counts, stage), extent)

  return lax.cond(chosen.is_gaussian, gaussian, poisson, x)


def rounded(x: jax.Array) -> jax.Array:
  """Rounds [0, 1] to multiples of 1 / 255, half to even, and clips."""
  return jnp.clip(jnp.rint(255 * x), 0, 255) / 255


def _largest_factor(probs: tuple[float, float, float], factors: tuple[float, float]) -> float:
  return factors[1] if probs[0] else 1.0


def _canvas(size: tuple[int, ...], factor: float) -> tuple[int, ...]:
  return tuple(math.ceil(n * factor) for n in size)

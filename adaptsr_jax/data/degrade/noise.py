"""Noise: Gaussian, and Poisson as Real-ESRGAN defines it, with the random numbers apart from their use."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from adaptsr_jax.data.degrade.planes import Extent, extent_of, inside

_GRAY = (0.2989, 0.587, 0.114)
# Below this rate counts come from the exact inverse of the distribution, in so many terms (what is beyond has a
# probability of 1e-8); above, from its expansion, which then is one off in fewer than 7e-4 of all draws.
_SMALL_RATE = 8.0
_TERMS = 28


class Random(NamedTuple):
  """Where the random numbers of pixels come from; `stage` is 1 or 2.

  Attributes:
    normal: (stage, shape (B, C, H, W)) -> standard normal numbers.
    gray_normal: (stage, shape (H, W)) -> standard normal numbers, shared by a batch.
    counts: (stage, rate (B, C, H, W), gray (B,)) -> Poisson counts; in gray pictures all channels have one rate and
      get one count.
  """

  normal: Callable[[int, tuple[int, ...]], jax.Array]
  gray_normal: Callable[[int, tuple[int, ...]], jax.Array]
  counts: Callable[[int, jax.Array, jax.Array], jax.Array]


def random(key: jax.Array) -> Random:
  """Returns random numbers that are a function of `key`, the stage and the shape."""

  def normal(stage: int, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.normal(jax.random.fold_in(key, stage), shape)

  def gray_normal(stage: int, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.normal(jax.random.fold_in(key, 2 + stage), shape)

  def counts(stage: int, rate: jax.Array, gray: jax.Array) -> jax.Array:
    bits = jax.random.bits(jax.random.fold_in(key, stage), rate.shape)
    # The middles of 2^23 intervals: never 0 or 1.
    u = ((bits >> 9).astype(jnp.float32) + 0.5) * np.float32(2**-23)
    return poisson_quantile(jnp.where(_by_picture(gray), u[:, :1], u), rate)

  return Random(normal, gray_normal, counts)


def gaussian(x: jax.Array, sigma: jax.Array, gray: jax.Array, normal: jax.Array, gray_normal: jax.Array) -> jax.Array:
  """Adds normal noise and clips.

  Args:
    x: planes (B, C, H, W).
    sigma: (B,) standard deviation in levels of 8 bit.
    gray: (B,) bool: which pictures take the noise of `gray_normal` in all channels.
    normal: (B, C, H, W) standard normal numbers.
    gray_normal: (H, W) standard normal numbers.

  Returns:
    Planes of the same shape in [0, 1].
  """
  noise = jnp.where(_by_picture(gray), gray_normal, normal)
  return jnp.clip(x + _by_picture(sigma / 255) * noise, 0, 1)


def poisson(
  x: jax.Array,
  scale: jax.Array,
  gray: jax.Array,
  counts: Callable[[jax.Array, jax.Array], jax.Array],
  extent: Extent | None = None,
) -> jax.Array:
  """Adds the noise of counted photons, as many per full light as the picture has levels, and clips.

  Args:
    x: planes (B, 3, H, W) of RGB.
    scale: (B,) factor of the noise.
    gray: (B,) bool: which pictures take the noise of their gray version in all channels.
    counts: (rate, gray) -> Poisson counts, see `Random`.
    extent: of the pictures on `x`.

  Returns:
    Planes of the same shape in [0, 1].
  """
  gray_x = jnp.broadcast_to(gray_of(x), x.shape)
  quantised = jnp.clip(jnp.rint(255 * jnp.where(_by_picture(gray), gray_x, x)), 0, 255)
  rate_scale = _by_picture(levels(quantised, extent))
  quantised = quantised / 255
  noise = counts(quantised * rate_scale, gray) / rate_scale - quantised
  return jnp.clip(x + _by_picture(scale) * noise, 0, 1)


def gray_of(x: jax.Array) -> jax.Array:
  """Returns the gray version (B, 1, H, W) of planes (B, 3, H, W), with the published weights (their sum is 0.9999)."""
  red, green, blue = (x[:, c : c + 1] for c in range(3))
  return _GRAY[0] * red + _GRAY[1] * green + _GRAY[2] * blue


def levels(quantised: jax.Array, extent: Extent | None = None) -> jax.Array:
  """Returns (B,) how many different values planes of whole numbers from 0 to 255 hold, raised to a power of 2."""
  outside = ~inside(quantised, extent_of(quantised, extent))
  bins = jnp.where(outside, 256, quantised.astype(jnp.int32)).reshape(len(quantised), -1)
  pictures = jnp.arange(len(bins))[:, None]
  used = jnp.zeros((len(bins), 256), bool).at[pictures, bins].set(True, mode='drop')
  powers = 2 ** np.arange(9)
  return jnp.asarray(powers, jnp.float32)[jnp.searchsorted(powers, used.sum(1))]


def poisson_quantile(u: jax.Array, rate: jax.Array) -> jax.Array:
  """Returns the counts of Poisson distributions at probabilities `u`, both of one shape.

  `jax.random.poisson` is exact at any rate, and takes about a hundred times as long. Rates below 8 are inverted
  exactly here; above, the Cornish-Fisher expansion is rounded (Giles, 2016, "Approximation of the inverse Poisson
  cumulative distribution function", equation 9). A count that is one off moves a pixel by 1 / levels, and the mean and
  the variance of the noise by less than 1e-3 of its standard deviation.
  """
  term = cumulative = jnp.exp(-jnp.minimum(rate, _SMALL_RATE))
  exact = jnp.zeros_like(rate)
  for k in range(1, _TERMS):
    exact += u > cumulative
    term *= rate / k
    cumulative += term
  z = np.float32(np.sqrt(2)) * lax.erf_inv(2 * u - 1)  # the normal quantile; half the code of `ndtri`
  root = jnp.sqrt(jnp.maximum(rate, _SMALL_RATE))
  expansion = (
    jnp.square(root)
    + root * z
    + (1 / 3 + z**2 / 6)
    - (z / 36 + z**3 / 72) / root
    + (z**4 / 270 + 7 * z**2 / 810 - 8 / 405) / jnp.square(root)
  )
  return jnp.where(rate < _SMALL_RATE, exact, jnp.maximum(jnp.floor(expansion), 0))


def _by_picture(values: jax.Array) -> jax.Array:
  """(B,) to (B, 1, 1, 1)."""
  return values[:, None, None, None]

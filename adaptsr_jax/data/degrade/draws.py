"""Every random decision of a degradation, drawn at once and apart from its use."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adaptsr_jax.data.degrade import kernels
from adaptsr_jax.data.degrade.presets import Options

# Random numbers of one picture: 3 kernels and 13 further decisions use fewer.
_NUMBERS = 64


class Blur(NamedTuple):
  """Kernels of a batch, and what they were computed from, (B,) each.

  Attributes:
    kernel: (B, 21, 21).
    sinc: bool: a sinc of `cutoff`, otherwise one of the families.
    family: index into `presets.FAMILIES`.
    size: side of the kernel proper.
    sigma_x, sigma_y, theta, beta: as of `kernels.blur`; isotropic families ignore the second and the third.
    cutoff: as of `kernels.sinc`.
  """

  kernel: jax.Array
  sinc: Any = None
  family: Any = None
  size: Any = None
  sigma_x: Any = None
  sigma_y: Any = None
  theta: Any = None
  beta: Any = None
  cutoff: Any = None


class Resize(NamedTuple):
  """A resize, the same for the whole batch.

  Attributes:
    factor: above 1 enlarges; a Python float is taken in float64.
    mode: index into `resizing.MODES`.
  """

  factor: Any
  mode: Any


class Noise(NamedTuple):
  """Noise of a batch.

  Attributes:
    is_gaussian: scalar bool; otherwise Poisson.
    sigma: (B,) of Gaussian noise, in levels of 8 bit.
    scale: (B,) of Poisson noise.
    gray: (B,) bool: the same noise in all channels.
  """

  is_gaussian: Any
  sigma: jax.Array
  scale: jax.Array
  gray: jax.Array


class Draws(NamedTuple):
  """The decisions in the order of their use; `jpeg1`, `jpeg2` (B,) are qualities, the others without shape scalars."""

  blur1: Blur
  resize1: Resize
  noise1: Noise
  jpeg1: jax.Array
  has_blur2: Any  # bool
  blur2: Blur
  resize2: Resize
  noise2: Noise
  jpeg2: jax.Array
  resize_first: Any  # bool: the final resize and sinc come before the second JPEG
  final_mode: Any  # index into resizing.MODES
  sinc: Blur


def draw(key: jax.Array, options: Options, batch: int) -> Draws:
  """Returns the decisions for a batch of `batch` pictures."""
  # One call: each call of the generator is compiled anew. Decisions of a whole batch take the first picture's number.
  numbers = iter(jax.random.uniform(key, (_NUMBERS, batch)))
  o = options
  return Draws(
    blur1=_blur(numbers, o.kernel_sizes, o.blur1_mix, o.blur1_sinc_prob, o.blur1_sigma, o.blur1_betag, o.blur1_betap),
    resize1=_resize(numbers, o.resize1_prob, o.resize1_range),
    noise1=_noise(numbers, o.noise1_gaussian_prob, o.noise1_sigma, o.poisson1_scale, o.gray1_prob),
    jpeg1=_uniform(next(numbers), *o.jpeg1_quality),
    has_blur2=next(numbers)[0] < o.blur2_prob,
    blur2=_blur(numbers, o.kernel_sizes, o.blur2_mix, o.blur2_sinc_prob, o.blur2_sigma, o.blur2_betag, o.blur2_betap),
    resize2=_resize(numbers, o.resize2_prob, o.resize2_range),
    noise2=_noise(numbers, o.noise2_gaussian_prob, o.noise2_sigma, o.poisson2_scale, o.gray2_prob),
    jpeg2=_uniform(next(numbers), *o.jpeg2_quality),
    resize_first=next(numbers)[0] < o.resize_first_prob,
    final_mode=_choice(next(numbers)[0], [1 / 3] * 3),
    sinc=_final_sinc(numbers, o.kernel_sizes, o.final_sinc_prob),
  )


def _blur(
  numbers: Any,
  sizes: Sequence[int],
  mix: Sequence[float],
  sinc_prob: float,
  sigma: tuple[float, float],
  betag: tuple[float, float],
  betap: tuple[float, float],
) -> Blur:
  sinc = next(numbers) < sinc_prob
  family = _choice(next(numbers), mix)
  size = _size(next(numbers), sizes)
  sigma_x, sigma_y = _uniform(next(numbers), *sigma), _uniform(next(numbers), *sigma)
  theta = _uniform(next(numbers), -np.pi, np.pi)
  lower, part = next(numbers) < 0.5, next(numbers)
  beta = jnp.where(family < 4, _beta(lower, part, *betag), _beta(lower, part, *betap))
  # Small kernels do not hold the ripples of a low cut-off.
  cutoff = _uniform(next(numbers), jnp.where(size < 13, np.pi / 3, np.pi / 5), np.pi)
  blurs = kernels.blur(family, size, sigma_x, sigma_y, theta, beta)
  kernel = jnp.where(sinc[:, None, None], kernels.sinc(size, cutoff), blurs)
  return Blur(kernel, sinc, family, size, sigma_x, sigma_y, theta, beta, cutoff)


def _final_sinc(numbers: Any, sizes: Sequence[int], prob: float) -> Blur:
  """Returns a sinc, or with 1 - `prob` the kernel that changes nothing."""
  sinc, size = next(numbers) < prob, _size(next(numbers), sizes)
  cutoff = _uniform(next(numbers), np.pi / 3, np.pi)
  kernel = jnp.where(sinc[:, None, None], kernels.sinc(size, cutoff), kernels.delta())
  return Blur(kernel, sinc, size=size, cutoff=cutoff)


def _resize(numbers: Any, probs: Sequence[float], factors: tuple[float, float]) -> Resize:
  kind, part = _choice(next(numbers)[0], probs), next(numbers)[0]
  up, down = _uniform(part, 1.0, factors[1]), _uniform(part, factors[0], 1.0)
  return Resize(jnp.select([kind == 0, kind == 1], [up, down], 1.0), _choice(next(numbers)[0], [1 / 3] * 3))


def _noise(
  numbers: Any, gaussian_prob: float, sigma: tuple[float, float], scale: tuple[float, float], gray_prob: float
) -> Noise:
  return Noise(
    next(numbers)[0] < gaussian_prob,
    _uniform(next(numbers), *sigma),
    _uniform(next(numbers), *scale),
    next(numbers) < gray_prob,
  )


def _beta(lower: jax.Array, part: jax.Array, low: float, high: float) -> jax.Array:
  return jnp.where(lower, _uniform(part, low, 1.0), _uniform(part, 1.0, high))


def _uniform(u: jax.Array, low: Any, high: Any) -> jax.Array:
  return low + (high - low) * u


def _size(u: jax.Array, sizes: Sequence[int]) -> jax.Array:
  return jnp.asarray(sizes)[_choice(u, [1 / len(sizes)] * len(sizes))]


def _choice(u: jax.Array, probs: Sequence[float]) -> jax.Array:
  """Returns the index that a number in [0, 1) falls on, of outcomes with `probs`."""
  bounds = np.cumsum(probs)[:-1].astype(np.float32)
  return jnp.sum(u[..., None] >= bounds, axis=-1)

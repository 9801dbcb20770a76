"""Blur kernels from traced parameters: Gaussians, generalized Gaussians, plateaus and the circular low-pass (sinc).

All are 21x21 with zeros around a smaller kernel, so that kernels of any size form one array. They are computed in
float64 also where a program is otherwise float32, and cast at the end: steep kernels lose a digit or two otherwise.
Real-ESRGAN (2021), sections 3.1 and 3.2.
"""

import jax
import jax.numpy as jnp
import numpy as np

SIDE = 21
_OFFSETS = np.arange(SIDE) - SIDE // 2  # of pixels from the middle
# Nodes of the quadrature for the Bessel function: exact to float64 for arguments up to 44, the largest here.
_NODES = 24


def blur(
  family: jax.Array, size: jax.Array, sigma_x: jax.Array, sigma_y: jax.Array, theta: jax.Array, beta: jax.Array
) -> jax.Array:
  """Returns kernels (..., 21, 21) with sum 1 of parameters of shape (...).

  With q the squared distance from the middle in units of sigma: exp(-q / 2), exp(-q^beta / 2), or 1 / (1 + q^beta).

  Args:
    family: index into `presets.FAMILIES`; even ones are isotropic and ignore `sigma_y` and `theta`.
    size: odd side of the kernel proper, at most 21.
    sigma_x: standard deviation along the axis that `theta` turns away from the x axis, in pixels.
    sigma_y: along the other one.
    theta: angle in radians.
    beta: exponent of the generalized and plateau families.
  """
  with jax.enable_x64(True):
    family = jnp.asarray(family)[..., None, None]
    sigma_x, sigma_y, theta, beta = (
      jnp.asarray(p).astype(jnp.float64)[..., None, None] for p in (sigma_x, sigma_y, theta, beta)
    )
    isotropic = family % 2 == 0
    sigma_y = jnp.where(isotropic, sigma_x, sigma_y)
    theta = jnp.where(isotropic, 0.0, theta)
    x, y = _OFFSETS, _OFFSETS[:, None]
    along = (x * jnp.cos(theta) + y * jnp.sin(theta)) / sigma_x
    across = (y * jnp.cos(theta) - x * jnp.sin(theta)) / sigma_y
    power = (along**2 + across**2) ** jnp.where(family < 2, 1.0, beta)
    return _normalised(jnp.where(family < 4, jnp.exp(-power / 2), 1 / (1 + power)), size)


def sinc(size: jax.Array, cutoff: jax.Array) -> jax.Array:
  """Returns circular low-pass kernels (..., 21, 21) with sum 1: cutoff J1(cutoff r) / (2 pi r).

  J1(x) / x, all that is left of it after the division by the sum, is the mean of cos(x cos t) sin(t)^2 over the circle,
  by Poisson's integral. (`jax.scipy.special.bessel_jn` gives NaN for some of these x.)

  Args:
    size: (...) odd side of the kernel proper, at most 21.
    cutoff: (...) angular frequency in (0, pi].
  """
  nodes = (np.arange(_NODES) + 0.5) * np.pi / (2 * _NODES)  # a quarter of the circle stands for all
  radii, places = np.unique(np.hypot(_OFFSETS, _OFFSETS[:, None]), return_inverse=True)
  with jax.enable_x64(True):
    x = jnp.asarray(cutoff).astype(jnp.float64)[..., None, None] * radii[:, None]
    values = jnp.mean(jnp.cos(x * np.cos(nodes)) * np.sin(nodes) ** 2, axis=-1)
    return _normalised(values[..., places.reshape(SIDE, SIDE)], size)


def delta() -> jax.Array:
  """Returns the kernel (21, 21) that changes nothing."""
  return jnp.zeros((SIDE, SIDE)).at[SIDE // 2, SIDE // 2].set(1.0)


def _normalised(kernel: jax.Array, size: jax.Array) -> jax.Array:
  """Cuts a kernel to its size, divides it by its sum and returns it in float32."""
  reach = np.maximum(np.abs(_OFFSETS), np.abs(_OFFSETS)[:, None])
  kernel = jnp.where(2 * reach < jnp.asarray(size)[..., None, None], kernel, 0.0)
  return (kernel / kernel.sum((-2, -1), keepdims=True)).astype(jnp.float32)

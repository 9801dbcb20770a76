"""JPEG compression without the files: what quantisation does to a picture, 4:2:0, at real-valued quality.

As in DiffJPEG (Lomnitz), which the published degradations use: the tables are scaled, but neither rounded nor kept
above 1 as libjpeg does; the luminance table is transposed; pictures are padded with black.
"""

import jax
import jax.numpy as jnp
import numpy as np

from adaptsr_jax.data.degrade.planes import Extent, extent_of, inside

# Annex K of ITU-T T.81, indexed [horizontal, vertical frequency]: transposed against the standard, as published.
LUMINANCE = np.array(
  [
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
  ],
  np.float32,
).T
CHROMINANCE = np.full((8, 8), 99, np.float32)
CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

# A quality of 100 would divide by zero.
_LEAST_FACTOR = 1e-4


def jpeg(x: jax.Array, quality: jax.Array, extent: Extent | None = None, soft: bool = False) -> jax.Array:
  """Compresses pictures and opens them again, without rounding the result.

  Args:
    x: planes (B, 3, H, W) of RGB in [0, 1].
    quality: (B,) from above 0 to 100, real-valued.
    extent: of the pictures on `x`.
    soft: whether to replace rounding by round(v) + (v - round(v))^3, which has a gradient.

  Returns:
    Planes of the same shape in [0, 1].
  """
  h, w = x.shape[-2:]
  x = jnp.where(inside(x, extent_of(x, extent)), 255 * x, 0)
  x = jnp.pad(x, ((0, 0), (0, 0), (0, -h % 16), (0, -w % 16)))
  # Written out: a product with a 3x3 matrix takes several times as long on a CPU. Chroma is not shifted by 128, as
  # every plane is shifted back before its transformation.
  red, green, blue = x[:, 0], x[:, 1], x[:, 2]
  y = 0.299 * red + 0.587 * green + 0.114 * blue
  cb = -0.168736 * red - 0.331264 * green + 0.5 * blue
  cr = 0.5 * red - 0.418688 * green - 0.081312 * blue
  factor = scale_factor(quality)
  y = _recoded(y - 128, LUMINANCE, factor, soft) + 128
  cb, cr = (_doubled(_recoded(_halved(plane), CHROMINANCE, factor, soft)) for plane in (cb, cr))
  rgb = jnp.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=1)
  return jnp.clip(rgb[..., :h, :w], 0, 255) / 255


def scale_factor(quality: jax.Array) -> jax.Array:
  """Returns what quantisation tables are multiplied by at `quality`."""
  return jnp.maximum(jnp.where(quality < 50, 50 / quality, 2 - quality / 50), _LEAST_FACTOR)


def coefficients(plane: jax.Array, table: np.ndarray, factor: jax.Array) -> jax.Array:
  """Returns the quotients (B, blocks, 64) of DCT coefficients by `table` times `factor`, not yet rounded.

  Args:
    plane: (B, H, W) around 0, sides multiples of 8.
    table: (8, 8), vertical frequency first.
    factor: (B,).
  """
  return jnp.einsum('bnp,fp->bnf', _blocks(plane), _dct(), precision='highest') / _steps(table, factor)


def _recoded(plane: jax.Array, table: np.ndarray, factor: jax.Array, soft: bool) -> jax.Array:
  """Returns a plane with quantised coefficients."""
  exact = coefficients(plane, table, factor)
  rounded = jnp.rint(exact)
  rounded = rounded + (exact - rounded) ** 3 if soft else rounded
  blocks = jnp.einsum('bnf,fp->bnp', rounded * _steps(table, factor), _dct(), precision='highest')
  return _joined(blocks, plane.shape)


def _steps(table: np.ndarray, factor: jax.Array) -> jax.Array:
  return table.reshape(-1) * factor[:, None, None]


def _dct() -> np.ndarray:
  """Returns the orthonormal DCT-II of flattened 8x8 blocks, (64, 64): one product instead of two thin ones."""
  k = np.arange(8)
  basis = np.sqrt(2 / 8) * np.cos((2 * k + 1) * k[:, None] * np.pi / 16)
  basis[0] /= np.sqrt(2)
  return np.kron(basis, basis).astype(np.float32)


def _blocks(plane: jax.Array) -> jax.Array:
  """(B, H, W) to (B, blocks, 64)."""
  b, h, w = plane.shape
  return plane.reshape(b, h // 8, 8, w // 8, 8).swapaxes(2, 3).reshape(b, -1, 64)


def _joined(blocks: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """The reverse of `_blocks`."""
  b, h, w = shape
  return blocks.reshape(b, h // 8, w // 8, 8, 8).swapaxes(2, 3).reshape(shape)


def _halved(plane: jax.Array) -> jax.Array:
  """Returns the means of 2x2 pixels."""
  even, odd = plane[:, ::2], plane[:, 1::2]
  return (even[..., ::2] + even[..., 1::2] + odd[..., ::2] + odd[..., 1::2]) / 4


def _doubled(plane: jax.Array) -> jax.Array:
  """Repeats each pixel 2x2."""
  return jnp.repeat(jnp.repeat(plane, 2, -1), 2, -2)

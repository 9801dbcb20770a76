"""DRCT: dense residual groups of attention in shifted windows (Hsu et al., CVPR Workshops 2024)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from adaptsr_jax.errors import UserError
from adaptsr_jax.models import layers, window

Array = jax.Array

RESI_CONNECTIONS = ('1conv', 'identity')
BLOCKS = 5  # of every group: the last one, and four that add `gc` channels each


class RDG(nn.Module):
  """x + 0.2 * the last of five blocks, each of which sees x and the results of all before it; (b, h, w, c)."""

  gc: int
  shift: int  # of the second and the fourth block
  heads: tuple[int, ...]
  hidden: tuple[int, ...]
  block: Callable[..., nn.Module]  # of num_heads, hidden, shift and name
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    seen = x
    for k, (heads, hidden) in enumerate(zip(self.heads, self.hidden, strict=True), 1):
      shift = 0 if k % 2 else self.shift
      y = self.block(num_heads=heads, hidden=hidden, shift=shift, name=f'swin{k}')(seen)
      last = k == BLOCKS
      y = layers.pointwise(x.shape[-1] if last else self.gc, dtype=self.dtype, name=f'adjust{k}')(y)
      if last:
        return x + 0.2 * y.astype(x.dtype)
      seen = jnp.concatenate([seen, nn.leaky_relu(y, 0.2).astype(x.dtype)], axis=-1)


class DRCT(nn.Module):
  """(b, h, w, 3) in [0, 1] -> (b, upscale * h, upscale * w, 3) in float32, not clipped.

  The sides may be any above `minimum`: they are extended by reflection to multiples of the window, and cut off again,
  which the original leaves to its caller.
  """

  upscale: int = 4
  embed_dim: int = 180
  gc: int = 32  # channels that each block adds
  num_heads: tuple[int, ...] = (6, 6, 6, 6, 6, 6)  # of the first block of each group; the others follow from it
  window_size: int = 16
  mlp_ratio: float = 2.0  # of the first three blocks of a group; the other two have 1
  resi_connection: str = '1conv'  # or 'identity'
  # Of the training pictures, one side or (height, width); decides the stored masks, and whether windows are shifted.
  img_size: int | tuple[int, int] = 64
  img_range: float = 1.0
  rgb_mean: tuple[float, ...] = layers.RGB_MEAN  # of one value for gray pictures, as in SwinIR
  num_feat: int = 64  # channels of the head
  qkv_bias: bool = True
  qk_scale: float | None = None
  patch_norm: bool = True
  ape: bool = False  # absolute positions: only pictures of img_size fit
  dtype: Any = jnp.float32  # of the computation; parameters, norms, softmax and sums are float32
  remat: bool = False  # compute each block again for its gradient instead of keeping its activations

  tileable = True
  minimum = property(window.minimum)

  def __post_init__(self):
    super().__post_init__()
    window.check(self)
    if self.resi_connection not in RESI_CONNECTIONS:
      raise UserError(f'DRCT: resi_connection is {self.resi_connection!r}; it can be {", ".join(RESI_CONNECTIONS)}.')
    layers.check_shuffles(self)
    for heads in self.num_heads:
      for width, number in zip(self.widths, self.heads_of(heads) if heads > 0 else (0,), strict=False):
        if number < 1 or width % number:
          raise UserError(
            f'DRCT: num_heads of {heads} gives {number} heads to a block of {width} channels (embed_dim '
            f'{self.embed_dim}, gc {self.gc}), which they cannot share evenly.'
          )

  @property
  def widths(self) -> tuple[int, ...]:
    """Channels of the five blocks of a group."""
    return tuple(self.embed_dim + k * self.gc for k in range(BLOCKS))

  @property
  def hidden(self) -> tuple[int, ...]:
    """Channels of their MLPs."""
    return tuple(int(w * self.mlp_ratio + 1e-6) if k < 3 else w for k, w in enumerate(self.widths))

  def heads_of(self, heads: int) -> tuple[int, ...]:
    """Returns the heads of the five blocks of a group whose first has `heads`: less the rest of the division."""
    return (heads, *(heads - width % heads for width in self.widths[1:]))

  @property
  def multiple(self) -> int:
    """The window. Other sides work too; tiles must be cut at its multiples to have the windows of the picture."""
    return self.window_size

  @property
  def receptive(self) -> int:
    """Radius in input pixels: half a window for every change of shift. Most of what is seen is much nearer."""
    side, shift = window.geometry(self)
    if not shift:
      raise UserError('DRCT: without shifted windows the picture is a single window, and all of it is seen.')
    body = [0 if k % 2 == 0 else shift for k in range(BLOCKS)] * len(self.num_heads)
    # The head: one convolution at the input size; those of the upsampler and after it, ever finer, make two.
    after = [None] * ((self.resi_connection == '1conv') + 3)
    return window.radius(side, [None, *body, *after])

  @nn.compact
  def __call__(self, x: Array) -> Array:
    return window.restore(self, x, self._network)

  def _network(self, x: Array) -> Array:
    first = nn.Conv(self.embed_dim, (3, 3), dtype=jnp.float32, name='conv_first')(x)
    y = window.embed(self, first)
    shift, block = window.geometry(self)[1], window.block_of(self)
    for i, heads in enumerate(self.num_heads):
      y = RDG(self.gc, shift, self.heads_of(heads), self.hidden, block, self.dtype, name=f'layers_{i}')(y)
    y = window.layer_norm('norm')(y)
    if self.resi_connection == '1conv':
      y = nn.Conv(self.embed_dim, (3, 3), dtype=self.dtype, name='conv_after_body')(y)
    return window.shuffle_head(self, y + first)


PRESETS = {
  f'drct{size}_x{scale}': ('drct', {'upscale': scale, 'num_heads': (6,) * groups})
  for size, groups in (('', 6), ('_l', 12))
  for scale in (2, 3, 4)
}

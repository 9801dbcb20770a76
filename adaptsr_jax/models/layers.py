"""Layers that the backbones share: GELU, layer norm, pooling and resizing to any size, pixel shuffle, convolutions.

Pictures and features are NHWC. Sizes are static under jit, so every index table below is built while tracing.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from adaptsr_jax.errors import UserError

Array = jax.Array

RGB_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K


def gelu(x: Array) -> Array:
  """Returns x * Phi(x) with the exact normal distribution function (the default of flax is the tanh approximation)."""
  # erf and not the erfc of jax.nn.gelu, with which a training step of SAFMN took 7 % more CPU time.
  return 0.5 * x * (1 + jax.lax.erf(x * np.sqrt(0.5).astype(x.dtype)))


class LayerNorm(nn.Module):
  """Layer norm over the channels of (..., c), computed in float32; parameters as those of `nn.LayerNorm`."""

  epsilon: float
  dtype: Any = jnp.float32  # of the result

  @nn.compact
  def __call__(self, x: Array) -> Array:
    scale = self.param('scale', nn.initializers.ones, x.shape[-1:])
    bias = self.param('bias', nn.initializers.zeros, x.shape[-1:])
    return normalised(self.epsilon, x.astype(jnp.float32), scale, bias).astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def normalised(epsilon: float, x: Array, scale: Array, bias: Array) -> Array:
  """Returns (x - mean) / sqrt(variance + epsilon) * scale + bias over the last axis, float32.

  Its gradient is written out for compilers that fuse. What automatic differentiation makes of these lines, XLA on CPUs
  computes again in every block before, along the sum of residual blocks: time grew with the square of the depth. Beside
  x only (..., 1) statistics are kept.
  """
  return _normalised(epsilon, x, scale, bias)[0]


def _normalised(epsilon, x, scale, bias):
  mean = x.mean(axis=-1, keepdims=True)
  # Two passes: no cancellation where the mean is large, at no cost.
  inverse = jax.lax.rsqrt(jnp.square(x - mean).mean(axis=-1, keepdims=True) + epsilon)
  return (x - mean) * (inverse * scale) + bias, (x, mean, inverse, scale)


def _normalised_gradient(epsilon, kept, gradient):
  x, mean, inverse, scale = kept
  unit = (x - mean) * inverse
  scaled = gradient * scale
  along = (scaled * unit).mean(axis=-1, keepdims=True)
  to_x = inverse * (scaled - scaled.mean(axis=-1, keepdims=True) - unit * along)
  return to_x, _over_pixels(gradient * unit), _over_pixels(gradient)


normalised.defvjp(_normalised, _normalised_gradient)


def _over_pixels(x: Array) -> Array:
  """Returns the sum (c,) of (..., c) over all but the channels."""
  x = x.reshape(-1, x.shape[-1])
  # A product ends the fusion of what is summed with what it is made of.
  return jax.lax.platform_dependent(x, cpu=lambda x: jnp.ones(len(x), x.dtype) @ x, default=lambda x: x.sum(axis=0))


def shuffles(upscale: int) -> tuple[int, ...]:
  """Returns the factors of the pixel shuffles by which EDSR, SwinIR and DRCT enlarge: 3 at once, else by doublings."""
  return (3,) if upscale == 3 else (2,) * (upscale.bit_length() - 1)


def check_shuffles(model: nn.Module) -> None:
  """Raises UserError where `shuffles` cannot make `model.upscale`; the authors' classes take the same."""
  n = model.upscale
  if not (isinstance(n, int) and n > 0 and (n == 3 or n & (n - 1) == 0)):
    raise UserError(f'{type(model).__name__}: upscale is {n}; it can be 3 or a power of two.')


def pixel_shuffle(x: Array, factor: int) -> Array:
  """Moves channels into space: (b, h, w, c * factor**2) -> (b, h * factor, w * factor, c).

  The output channel is the slowest part of the channel axis (the order of PyTorch, not of TensorFlow).
  """
  b, h, w, c = x.shape
  c = c // factor**2
  x = x.reshape(b, h, w, c, factor, factor).transpose(0, 1, 4, 2, 5, 3)
  return x.reshape(b, h * factor, w * factor, c)


def indices(size: Any) -> Any:
  """Returns 0, 1, ..., size - 1: of numpy, unless `size` is a symbol, which stands for any (see `convert.graph`)."""
  return np.arange(size) if isinstance(size, int | np.integer) else jnp.arange(size)


def adaptive_max_pool(x: Array, size: tuple[int, int]) -> Array:
  """Returns the maxima of (b, h, w, c) over size[0] x size[1] bins, h >= size[0] and w >= size[1].

  Along an axis of length n, bin k of m covers the indices from floor(k * n / m) up to, not including,
  ceil((k + 1) * n / m): where m does not divide n, the bins overlap.
  """
  b, h, w, c = x.shape
  m, n = size
  if h % m == 0 and w % n == 0:
    return x.reshape(b, m, h // m, n, w // n, c).max(axis=(2, 4))
  return _pool_axis(_pool_axis(x, m, axis=1), n, axis=2)


def _pool_axis(x: Array, size: int, axis: int) -> Array:
  length = x.shape[axis]
  bins = indices(size)
  start, stop = bins * length // size, ((bins + 1) * length + size - 1) // size
  longest = (stop - start).max() if isinstance(length, int) else -(-length // size) + 1
  # Bins differ in length by one: the shorter ones repeat their last index, which leaves a maximum as it is.
  index = start[:, None] + indices(longest)
  index = (np.minimum if isinstance(index, np.ndarray) else jnp.minimum)(index, stop[:, None] - 1)
  return jnp.take(x, index, axis=axis).max(axis=axis + 1)


def resize_nearest(x: Array, size: tuple[int, int]) -> Array:
  """Resizes (b, h, w, c) to `size`; output index i takes input index floor(i * old / new), without half-pixel shift.

  `jax.image.resize` compares pixel centres, which differs unless the ratio is an integer.
  """
  b, h, w, c = x.shape
  m, n = size
  if m % h == 0 and n % w == 0:
    # The same as the gather below; its gradient is a sum and not a scatter.
    x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, m // h, w, n // w, c))
    return x.reshape(b, m, n, c)
  x = jnp.take(x, indices(m) * h // m, axis=1)
  return jnp.take(x, indices(n) * w // n, axis=2)


def resize_bilinear(x: Array, factor: int) -> Array:
  """Enlarges (b, h, w, c) by an integer: half-pixel centres, edges clamped."""
  b, h, w, c = x.shape
  return jax.image.resize(x, (b, h * factor, w * factor, c), 'bilinear')


def pointwise(features: int, **fields: Any) -> nn.Conv:
  """Returns a 1x1 convolution that is computed as a matrix product, which takes less CPU time."""
  return nn.Conv(features, (1, 1), conv_general_dilated_cls=Pointwise, **fields)


def to_picture(channels: int, name: str) -> nn.Conv:
  """Returns the 3x3 convolution that ends a network; float32, as bfloat16 would round the picture to 8 bits."""
  return nn.Conv(channels, (3, 3), conv_general_dilated_cls=_thin_if(channels), dtype=jnp.float32, name=name)


def _thin_if(channels: int) -> Any:
  """Returns what an `nn.Conv` with so many outputs, stride 1 and zero padding is computed by."""
  return Thin if channels < 16 else None


def thin(conv: nn.Conv) -> nn.Conv:
  """Returns `conv` with the gradient of `thin_convolution`, where that is defined for it."""
  steps = (conv.strides, conv.kernel_dilation, conv.input_dilation)
  around = tuple((side // 2, side // 2) for side in conv.kernel_size)
  plain = conv.padding in ('SAME', around) and all(step in (1, None, (1, 1)) for step in steps)
  ours = plain and all(side % 2 for side in conv.kernel_size) and conv.feature_group_count == 1
  return conv.clone(conv_general_dilated_cls=Thin) if ours and conv.conv_general_dilated_cls is None else conv


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def thin_convolution(precision: Any, x: Array, kernel: Array) -> Array:
  """Convolves (b, h, w, cin) with (kh, kw, cin, cout), odd sizes, zero padding, stride 1.

  On CPUs the gradient of the kernel is a single matrix product of one side with the neighbourhoods of the other, of
  which that with fewer channels is taken. For 64 channels and a colour picture it took a tenth of the time that it
  takes as the convolution which automatic differentiation makes of it.
  """
  numbers = ('NHWC', 'HWIO', 'NHWC')
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=numbers, precision=precision)


def _thin_convolution(precision, x, kernel):
  convolve, kept = functools.partial(thin_convolution.fun, precision), (x, kernel)
  if kernel.shape[-1] > _FEW or x.dtype != jnp.float32:  # each plane of a lower type would be rounded
    return convolve(x, kernel), kept
  return jax.lax.platform_dependent(x, kernel, cpu=functools.partial(_sum_of_planes, precision), default=convolve), kept


def _sum_of_planes(precision: Any, x: Array, kernel: Array) -> Array:
  """Returns the convolution as the product with all that the kernel has, and a sum of its shifted planes.

  For 64 channels and a colour picture a quarter of the time that XLA's own convolution on CPUs takes.
  """
  b, h, w, cin = x.shape
  kh, kw, _, cout = kernel.shape
  taps = kernel.transpose(0, 1, 3, 2).reshape(-1, cin)
  planes = jnp.matmul(taps, x.reshape(-1, cin).T, precision=precision).reshape(kh, kw, cout, b, h, w)
  planes = jnp.pad(planes, ((0, 0),) * 4 + ((kh // 2, kh // 2), (kw // 2, kw // 2)))
  return sum(planes[i, j, ..., i : i + h, j : j + w] for i in range(kh) for j in range(kw)).transpose(1, 2, 3, 0)


def _thin_gradient(precision, kept, gradient):
  x, kernel = kept
  convolve = functools.partial(thin_convolution.fun, precision)

  def automatic(x, gradient):
    return jax.vjp(lambda kernel: convolve(x, kernel), kernel)[1](gradient)[0]

  def product(x, gradient):
    return _kernel_gradient(x, gradient, *kernel.shape[:2], precision)

  to_kernel = jax.lax.platform_dependent(x, gradient, cpu=product, default=automatic)
  return jax.vjp(lambda x: convolve(x, kernel), x)[1](gradient)[0], to_kernel


thin_convolution.defvjp(_thin_convolution, _thin_gradient)


def _kernel_gradient(x: Array, gradient: Array, kh: int, kw: int, precision: Any) -> Array:
  (*_, cin), (*_, cout) = x.shape, gradient.shape
  # Matrices all along: with the axes of the picture left, XLA sorts the neighbourhoods channel by channel.
  if cin <= cout:
    product = jnp.matmul(_neighbourhoods(x, kh, kw).T, gradient.reshape(-1, cout), precision=precision)
    return product.reshape(kh, kw, cin, cout)
  product = jnp.matmul(x.reshape(-1, cin).T, _neighbourhoods(gradient, kh, kw), precision=precision)
  # Seen from the output, the kernel is upside down.
  return product.reshape(cin, kh, kw, cout)[:, ::-1, ::-1].transpose(1, 2, 0, 3)


_FEW = 4  # channels, below which pixels are so short that planes of them are faster


def _neighbourhoods(x: Array, kh: int, kw: int) -> Array:
  """Returns (pixels, kh * kw * c): what a kernel sees from each pixel of (b, h, w, c)."""
  b, h, w, c = x.shape
  if c <= _FEW:
    planes = jnp.pad(x.transpose(3, 0, 1, 2), ((0, 0), (0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2)))
    seen = [planes[:, :, i : i + h, j : j + w].reshape(c, -1) for i in range(kh) for j in range(kw)]
    return jnp.concatenate(seen).T
  x = jnp.pad(x, ((0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)))
  seen = jnp.concatenate([x[:, i : i + h, j : j + w] for i in range(kh) for j in range(kw)], axis=-1)
  return seen.reshape(-1, kh * kw * c)


def shifted_sum(x: Array, kernel: Array) -> Array:
  """Convolves each channel of (b, h, w, c) with its own kernel (kh, kw, 1, c), odd sizes, zero padding, stride 1.

  A sum of shifted products: with grouped convolutions, a training step of SAFMN took 14 % more CPU time.
  """
  kh, kw, _, _ = kernel.shape
  b, h, w, c = x.shape
  x = jnp.pad(x, ((0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)))
  # By lax: of a size that is a symbol, indexing makes a gather.
  parts = {(i, j): jax.lax.slice(x, (0, i, j, 0), (b, i + h, j + w, c)) for i in range(kh) for j in range(kw)}
  return sum(part * kernel[i, j, 0] for (i, j), part in parts.items())


def _standing_in(computed: Callable[[Array, Array, Any], Array]) -> Callable[[], Callable[..., Array]]:
  """Returns what an `nn.Conv` takes as `conv_general_dilated_cls` to be `computed` of input, kernel and precision."""
  return lambda: lambda x, kernel, strides, padding, precision=None, **_: computed(x, kernel, precision)


Pointwise = _standing_in(lambda x, kernel, precision: jnp.matmul(x, kernel[0, 0], precision=precision))
Thin = _standing_in(lambda x, kernel, precision: thin_convolution(precision, x, kernel))  # few inputs or outputs
Depthwise = _standing_in(lambda x, kernel, _: shifted_sum(x, kernel))  # one input for each output


def pixel_unshuffle(x: Array, factor: int) -> Array:
  """Moves space into channels: the inverse of `pixel_shuffle`."""
  b, h, w, c = x.shape
  x = x.reshape(b, h // factor, factor, w // factor, factor, c).transpose(0, 1, 3, 5, 2, 4)
  return x.reshape(b, h // factor, w // factor, c * factor**2)


def torch_conv(features: int, inputs: int, name: str, dtype: Any = jnp.float32, size: int = 3, stride: int = 1):
  """Returns a convolution with zeros around the picture, initialised as PyTorch does by default.

  Its padding is the same on both sides, which 'SAME' is not where the stride is above 1.
  """
  bound = (inputs * size**2) ** -0.5

  def uniform(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  around = ((size // 2, size // 2),) * 2
  fields = {'kernel_init': uniform, 'bias_init': uniform, 'dtype': dtype, 'name': name}
  own = _thin_if(features) if stride == 1 and size % 2 else None
  return nn.Conv(features, (size, size), stride, around, conv_general_dilated_cls=own, **fields)


# Of residual branches in networks without normalisation: Kaiming's, a tenth as large.
SMALL_INIT = nn.initializers.variance_scaling(2 * 0.1**2, 'fan_in', 'normal')


def small_conv(features: int, name: str, dtype: Any = jnp.float32) -> nn.Conv:
  """Returns a 3x3 convolution with `SMALL_INIT`."""
  own = _thin_if(features)
  return nn.Conv(features, (3, 3), kernel_init=SMALL_INIT, conv_general_dilated_cls=own, dtype=dtype, name=name)


def extended(model: nn.Module, x: Array) -> Array:
  """Extends (b, h, w, c) at the bottom and the right, by reflection, to multiples of `model.multiple`.

  Raises:
    UserError: a side is too short to be reflected that far.
  """
  _, h, w, _ = x.shape
  bottom, right = (-side % model.multiple for side in (h, w))
  if bottom >= h or right >= w:
    raise too_small(model, x)
  return jnp.pad(x, ((0, 0), (0, bottom), (0, right), (0, 0)), mode='reflect')


def too_small(model: nn.Module, x: Array) -> UserError:
  """Returns the error of a picture (b, h, w, c) with a side below `model.minimum`."""
  _, h, w, _ = x.shape
  kind = type(model).__name__
  return UserError(f'{kind}: the picture is {w} x {h} pixels, and each side must have {model.minimum}; pad it first.')


def in_colours(model: nn.Module, x: Array, colours: int, network: Callable[[Array], Array]) -> Array:
  """Returns network(x); a network for gray pictures (1 of `colours`) is given the colours of others one by one.

  Raises:
    UserError: the network takes another number of colours.
  """
  b, h, w, c = x.shape
  if c == colours:
    return network(x)
  if colours != 1:
    raise UserError(f'{type(model).__name__}: the network takes pictures of {colours} colours, not of {c}.')
  y = network(jnp.moveaxis(x, -1, 1).reshape(b * c, h, w, 1))
  return jnp.moveaxis(y.reshape(b, c, *y.shape[1:3]), 1, -1)

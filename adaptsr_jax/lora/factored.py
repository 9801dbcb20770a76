"""The adapted forward pass without merged kernels: each adapter runs beside its layer as two thin ones.

Equal to the pass with merged kernels up to rounding. What it saves is the gradient of the full kernels, which merging
needs on its way to 'a' and 'b'; what it costs is r (cin + kh kw cout) more multiplications per pixel for '1x1_kxk', or
r (kh kw cin + cout) for 'kxk_1x1', forward and in each of two gradients. The hybrid pays for two of these three: it
computes through merged kernels, and gradients alone pass through the thin layers. 'loralib' mixes channels with
positions and is no sequence of thin layers: its convolutions form the merged kernel here as well, layer by layer, and
save nothing.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax

from adaptsr_jax import tree
from adaptsr_jax.lora.adapters import by_kernel, delta, in_columns, merge, rank_of, scaling
from adaptsr_jax.lora.sites import Site, is_loralib
from adaptsr_jax.models import layers


def forward(
  apply_fn: Callable,
  params: tree.Params,
  adapters: Mapping,
  sites: Sequence[Site],
  alpha: float,
  form: str,
  x: jax.Array,
  rslora: bool = False,
  hybrid: bool = False,
) -> jax.Array:
  """Returns `apply_fn({'params': merge(params, adapters, ...)}, x)` without the gradient of merged kernels.

  Args:
    apply_fn: `model.apply`, not compiled by itself: a cached compilation would not see the adapters.
    params: the base, untouched.
    adapters: site name -> {'a', 'b'}.
    sites: those of the model.
    alpha: numerator of the scale.
    form: one of FORMS.
    x: (B, h, w, 3).
    rslora: scale by alpha / sqrt(r) instead of alpha / r.
    hybrid: compute through merged kernels, and only the gradients of 'a' and 'b' beside the layers; not even those
      where a matrix is so small that its own gradient costs less.

  Raises:
    UserError: `adapters` names a site that is not among `sites`.
    RuntimeError: a layer with an adapter was not reached.
  """
  groups = by_kernel(adapters, sites)
  reached = set()

  def adapt(call, args, kwargs, context):
    module = context.module
    if context.method_name != '__call__' or module.path not in groups:
      return call(*args, **kwargs)
    reached.add(module.path)
    group = groups[module.path]
    inputs, *mixture = (*args, *kwargs.values())
    if not hybrid and is_loralib(group[0], form):
      (site,) = group
      return _with_delta(module, delta(site, adapters[site.name], alpha, form, rslora), inputs, *mixture)
    y = call(*args, **kwargs)
    if mixture:  # what is added to all experts counts as often as the weights of the mixture sum up to
      inputs = inputs * mixture[0].sum(-1)[:, None, None, None].astype(inputs.dtype)
      module = module.plain()
    layer, width, dtype = module.clone(parent=None), y.shape[-1], y.dtype

    def update(own: Mapping, inputs: jax.Array) -> jax.Array:
      thin = (_low_rank(layer, site, own[site.name], alpha, form, rslora, inputs) for site in group)
      return sum(in_columns(part, site.part, width) for part, site in zip(thin, group, strict=True)).astype(dtype)

    own = {site.name: adapters[site.name] for site in group}
    return _with_gradient(update, own, jax.lax.stop_gradient(inputs), y) if hybrid else y + update(own, inputs)

  if hybrid:
    groups = {path: group for path, group in groups.items() if _pays(group, adapters)}
    beside = {site.name for group in groups.values() for site in group}
    held = {name: jax.lax.stop_gradient(ab) if name in beside else ab for name, ab in adapters.items()}
    params = merge(params, held, sites, alpha, form, rslora)
  with nn.intercept_methods(adapt):
    y = apply_fn({'params': params}, x)
  missed = ['/'.join(path) for path in groups if path not in reached]
  if missed:
    raise RuntimeError(
      f'adapters of {missed[0]} ({len(missed)} in all) were not applied: is apply_fn compiled by itself?'
    )
  return y


def _pays(group: Sequence[Site], adapters: Mapping) -> bool:
  """Tells whether the gradients of the adapters of a kernel cost less beside its layer than through the kernel's own.

  Beside the layer each pixel is multiplied with all values of the adapters twice. Thin matrices are slow for what they
  multiply; of windows, the gradient of the kernel is slower still.
  """
  thin = 2 * sum(tree.count(adapters[site.name]) for site in group)
  window = math.prod(group[0].shape[:-2])
  return window > 1 or thin < _THIN * sum(math.prod(site.shape) for site in group)


_THIN = 0.3


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _with_gradient(update: Callable, adapters: Mapping, x: jax.Array, y: jax.Array) -> jax.Array:
  """Returns `y`, which has `update(adapters, x)` in it, with the gradient of that with respect to the adapters.

  That with respect to what the layer is given comes with `y` already.
  """
  return y


def _gradient(update, kept, gradient):
  adapters, x = kept
  return *jax.vjp(lambda own: update(own, x), adapters)[1](gradient), None, gradient


_with_gradient.defvjp(lambda update, adapters, x, y: (y, (adapters, x)), _gradient)


def _low_rank(
  module: nn.Module, site: Site, ab: Mapping, alpha: float, form: str, rslora: bool, x: jax.Array
) -> jax.Array:
  """Returns scale * up(down(x)) with the settings (padding, strides, dilation, dtype, precision) of `module`."""
  if is_loralib(site, form):
    kernel = delta(site, ab, alpha, form, rslora)
    return module.clone(use_bias=False).apply({'params': {'kernel': kernel}}, x)
  a, b = ab['a'], scaling(alpha, rank_of(site, ab, form), rslora) * ab['b']
  pointwise = nn.Dense(b.shape[-1], use_bias=False, dtype=module.dtype, precision=module.precision, parent=None)
  window = layers.thin(module.clone(use_bias=False, features=b.shape[-1])) if site.kind == 'conv' else pointwise
  # Zero, mirrored and periodic padding commute with a map of single pixels that has no bias, so the thin convolution
  # may stand on either side of it.
  if form == 'kxk_1x1':
    down, up = window.clone(parent=None, features=a.shape[-1]), pointwise
  else:
    down, up = pointwise.clone(parent=None, features=a.shape[-1]), window
  return up.apply({'params': {'kernel': b}}, down.apply({'params': {'kernel': a}}, x))


def _with_delta(module: nn.Module, update: jax.Array, *inputs: jax.Array) -> jax.Array:
  """Returns the output of `module` with `update` added to its kernel."""
  params = module.variables['params']
  kernel = params['kernel']
  merged = (kernel.astype(update.dtype) + update).astype(kernel.dtype)
  return module.clone(parent=None).apply({'params': {**params, 'kernel': merged}}, *inputs)

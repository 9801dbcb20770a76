"""What XLA has to be told to be fast on CPUs."""

import functools
import os

import jax

_OPTION = 'xla_cpu_experimental_ynn_fusion_type'
# Matrix products stay in YNNPACK, where they are fast; convolutions go to XLA's own library. YNNPACK took up to ten
# times as long for the gradient of a 3x3 kernel (`benchmarks/kernel_gradient.py` tells whether it still does).
_PRODUCTS_ONLY = {_OPTION: 'LIBRARY_FUSION_TYPE_DOT'}


def options() -> dict[str, str] | None:
  """Returns `compiler_options` of `jax.jit` for programs that compute gradients of kernels; None for the defaults.

  They are the defaults on other devices, where XLA_FLAGS decides on the same thing, and where XLA does not know it.
  """
  ours = jax.default_backend() == 'cpu' and _OPTION not in os.environ.get('XLA_FLAGS', '') and _known()
  return dict(_PRODUCTS_ONLY) if ours else None


@functools.cache
def _known() -> bool:
  # Asked, and not concluded from a version: the option is experimental, and XLA refuses what it does not know.
  try:
    jax.jit(lambda: 0, compiler_options=_PRODUCTS_ONLY).lower().compile()
  except jax.errors.JaxRuntimeError:
    return False
  return True

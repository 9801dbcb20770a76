"""What XLA has to be told to be fast on CPUs."""

import functools
import os

import jax

_OPTION = 'xla_cpu_experimental_ynn_fusion_type'
# Matrix products stay in YNNPACK, where they are fast; convolutions go to XLA's own library where gradients of kernels
# are among them. YNNPACK took up to ten times as long for that of a 3x3 kernel (`benchmarks/kernel_gradient.py` tells
# whether it still does). It is a fifth faster in the others; sums, which it takes by default, are slower there.
_PRODUCTS = {_OPTION: 'LIBRARY_FUSION_TYPE_DOT'}
_BOTH = {_OPTION: 'LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION'}


def options(kernels: bool = True) -> dict[str, str] | None:
  """Returns `compiler_options` of `jax.jit` for programs that compute gradients; None for the defaults.

  They are the defaults on other devices, where XLA_FLAGS decides on the same thing, and where XLA does not know it.

  Args:
    kernels: whether those of kernels of convolutions are among the gradients.
  """
  ours = jax.default_backend() == 'cpu' and _OPTION not in os.environ.get('XLA_FLAGS', '') and _known()
  return dict(_PRODUCTS if kernels else _BOTH) if ours else None


@functools.cache
def _known() -> bool:
  # Asked, and not concluded from a version: the option is experimental, and XLA refuses what it does not know.
  try:
    jax.jit(lambda: 0, compiler_options=_BOTH).lower().compile()
  except jax.errors.JaxRuntimeError:
    return False
  return True

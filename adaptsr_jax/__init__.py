"""AdaptSR in JAX: low-rank adaptation of super-resolution backbones to real cameras.

  import adaptsr_jax as sr

  net = sr.load('base.pth')                                           # see docs/python.md
  adapted = sr.adapt(net, sr.find_pairs('camera/LR', 'camera/HR'), steps=300)
  large = adapted.net.enlarge(photograph)

Nothing is imported before it is used.
"""

import importlib
import inspect
import sys
import types
from typing import Any

__version__ = '0.1.0'
__all__ = ['Adapted', 'Net', 'Pairs', 'UserError', 'adapt', 'evaluate', 'find_pairs', 'load']


class _Function(types.ModuleType):
  """A module whose name is that of a function of the library, too: called, it is that function."""

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    return _of_library(self.__name__.rpartition('.')[2])(*args, **kwargs)

  @property
  def __signature__(self) -> inspect.Signature:
    return inspect.signature(_of_library(self.__name__.rpartition('.')[2]))


def is_function(module: str) -> None:
  """Makes `adaptsr_jax.adapt(...)` a call of the library where `adaptsr_jax.adapt` is a module, whoever imports it."""
  sys.modules[module].__class__ = _Function


def _of_library(name: str) -> Any:
  module = 'errors' if name == 'UserError' else 'api'
  return getattr(importlib.import_module(f'{__name__}.{module}'), name)


def __getattr__(name: str) -> Any:
  if name in ('adapt', 'evaluate'):
    return importlib.import_module(f'{__name__}.{name}')
  if name in __all__:
    return _of_library(name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})

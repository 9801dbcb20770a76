"""Adaptation methods: each is a choice of what is trained and of how it folds into the base."""

from typing import Any

from ml_collections import ConfigDict

from adaptsr_jax.lora import Site
from adaptsr_jax.methods import full, lora
from adaptsr_jax.methods.base import Method

__all__ = ['Method', 'from_spec', 'make']

_METHODS = {'full': full, 'lora': lora}


def make(config: ConfigDict, sites: tuple[Site, ...], ranks: dict[str, int]) -> Method:
  """Returns the method that `config.method` names, on `sites` with `ranks` (site name -> rank)."""
  return from_spec(_METHODS[config.method].spec(config, sites, ranks))


def from_spec(spec: dict[str, Any]) -> Method:
  """Inverse of `Method.spec`, also after a trip through JSON."""
  return _METHODS[spec['method']].build(spec)

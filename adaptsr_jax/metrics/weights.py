"""Weights of the metrics: from arrays by the keys of their files to what the functions take.

Every function raises a ValueError that names the array where one is absent, or is not what it should be.
"""

from collections.abc import Mapping

import numpy as np

from adaptsr_jax.metrics.features import Layout
from adaptsr_jax.metrics.niqe import FEATURES, Pristine
from adaptsr_jax.metrics.perceptual import DISTS_CHANNELS

Arrays = Mapping[str, np.ndarray]


def trunk(arrays: Arrays, layout: Layout) -> dict[str, dict[str, np.ndarray]]:
  """Returns the weights of `metrics.features` from those of torchvision's network ('features.0.weight', OIHW)."""
  weights = {}
  for conv in layout.convs:
    shape = (conv.outputs, conv.inputs, conv.kernel, conv.kernel)
    kernel = _take(arrays, f'features.{conv.index}.weight', shape)
    bias = _take(arrays, f'features.{conv.index}.bias', (conv.outputs,))
    weights[str(conv.index)] = {'kernel': np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)), 'bias': bias}
  return weights


def heads(arrays: Arrays, layout: Layout) -> tuple[np.ndarray, ...]:
  """Returns the weight of each channel in LPIPS, (C,) for each stage ('lin0.model.1.weight', (1, C, 1, 1))."""
  channels = [stage[-1].outputs for stage in layout.stages]
  return tuple(_take(arrays, f'lin{i}.model.1.weight', (1, n, 1, 1)).ravel() for i, n in enumerate(channels))


def dists_channels(arrays: Arrays) -> dict[str, np.ndarray]:
  """Returns the weights of the channels in DISTS, 'alpha' and 'beta' (1475,)."""
  return {name: _take(arrays, name, (1, DISTS_CHANNELS, 1, 1)).ravel() for name in ('alpha', 'beta')}


def pristine(arrays: Arrays) -> Pristine:
  """Returns the parameters of NIQE from the arrays of BasicSR's niqe_pris_params.npz."""
  return Pristine(
    mean=_take(arrays, 'mu_pris_param', (1, FEATURES), np.float64).ravel(),
    covariance=_take(arrays, 'cov_pris_param', (FEATURES, FEATURES), np.float64),
    window=_take(arrays, 'gaussian_window', (7, 7), np.float64),
  )


def _take(arrays: Arrays, key: str, shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
  if key not in arrays:
    raise ValueError(f'it has no {key}')
  array = np.asarray(arrays[key])
  if array.shape != shape:
    raise ValueError(f'its {key} has the shape {array.shape}, not {shape}')
  if not np.isfinite(array).all():
    raise ValueError(f'its {key} has values that are not finite')
  return array.astype(dtype, copy=False)

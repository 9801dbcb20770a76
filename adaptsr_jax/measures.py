"""The metrics that a command or run was asked for, ready to be called; what lacks its weights is left out, and told."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from adaptsr_jax import metrics
from adaptsr_jax.errors import UserError
from adaptsr_jax.zoo import metric_weights
from adaptsr_jax.zoo.metric_weights import METRIC_FILES, Unavailable

Function = Callable[[np.ndarray, np.ndarray, int], dict[str, float]]

# What can be asked for, and what it gives. Most papers on super-resolution report LPIPS with AlexNet, some with VGG16.
NAMES = {
  'psnr': ('psnr',),
  'ssim': ('ssim',),
  'lpips': ('lpips_alex', 'lpips_vgg'),
  'lpips_alex': ('lpips_alex',),
  'lpips_vgg': ('lpips_vgg',),
  'dists': ('dists',),
  'niqe': ('niqe',),
}

# The files that each metric needs. The small one comes first: where it cannot be had, the large one is not fetched.
_FILES = {
  'lpips_alex': ('lpips_alex', 'alexnet'),
  'lpips_vgg': ('lpips_vgg', 'vgg16'),
  'dists': ('dists', 'vgg16'),
  'niqe': ('niqe',),
}


class Measures(NamedTuple):
  """What `load` gives.

  Attributes:
    functions: (output uint8 (H, W, 3), hr uint8 (H, W, 3), border to crop) -> {key: value}. The keys of all of them, in
      this order, are among psnr_y, ssim_y, psnr_rgb, ssim_rgb, lpips_alex, lpips_vgg, dists, niqe.
    missing: metric -> one sentence that says why it is left out and how to get it.
    protocol: what a table must say beside its numbers, without the width of the border.
  """

  functions: tuple[Function, ...]
  missing: dict[str, str]
  protocol: dict[str, str]


def load(names: Iterable[str], folder: str = '') -> Measures:
  """Returns the metrics of these names, with their weights in memory.

  Args:
    names: of `NAMES`, in any order.
    folder: where the weights are; '' takes them from the cache, or downloads them.

  Raises:
    UserError: an unknown name; no such folder; a file of weights that is damaged or another one.
  """
  wanted = _wanted(names)
  functions, missing = _fidelity(wanted), {}
  read = _reader(folder)
  for name, files in _FILES.items():
    if name in wanted:
      try:
        functions.append(_MAKERS[name](*map(read, files)))
      except Unavailable as error:
        needed = ' and '.join(METRIC_FILES[file].published for file in files)
        missing[name] = f'{name} is left out, for it needs {needed}: {error}'
  return Measures(tuple(functions), missing, _protocol(wanted - missing.keys()))


def _wanted(names: Iterable[str]) -> set[str]:
  wanted = set()
  for name in names:
    if name not in NAMES:
      raise UserError(f"'{name}' is not a metric; there are: {', '.join(NAMES)}.")
    wanted |= set(NAMES[name])
  return wanted


def _reader(folder: str) -> Callable[[str], Any]:
  """Returns `metric_weights.load` with a memory: VGG16 serves two metrics, and a silent server is asked once."""
  results = {}

  def read(file: str) -> Any:
    if file not in results:
      try:
        results[file] = metric_weights.load(file, folder)
      except Unavailable as error:
        results[file] = error
    if isinstance(results[file], Unavailable):
      raise results[file]
    return results[file]

  return read


def _fidelity(wanted: set[str]) -> list[Function]:
  if {'psnr', 'ssim'} <= wanted:
    return [metrics.quality]  # both at once: they share the planes
  return [_one_fidelity(name, fn) for name, fn in (('psnr', metrics.psnr), ('ssim', metrics.ssim)) if name in wanted]


def _one_fidelity(name: str, fn: Callable[..., np.ndarray]) -> Function:
  def measure(output, hr, crop):
    return {
      f'{name}_{space}': float(fn(output[None], hr[None], crop, luma)[0])
      for space, luma in (('y', True), ('rgb', False))
    }

  return measure


def _lpips(key: str, heads: Any, trunk: Any) -> Function:
  weights = jax.device_put({'trunk': trunk, 'heads': heads})
  return lambda output, hr, _: {key: float(metrics.lpips(weights, output[None], hr[None])[0])}


def _dists(channels: dict[str, np.ndarray], trunk: Any) -> Function:
  weights = {'trunk': jax.device_put(trunk), **channels}
  return lambda output, hr, _: {'dists': float(metrics.dists(weights, output[None], hr[None])[0])}


def _niqe(parameters: Any) -> Function:
  return lambda output, _, crop: {'niqe': float(metrics.niqe(parameters, output[None], crop)[0])}


_MAKERS = {
  'lpips_alex': functools.partial(_lpips, 'lpips_alex'),
  'lpips_vgg': functools.partial(_lpips, 'lpips_vgg'),
  'dists': _dists,
  'niqe': _niqe,
}


def _protocol(measured: set[str]) -> dict[str, str]:
  """Returns the lines of the protocol of these metrics."""
  fidelity = {'levels': measured, 'y': measured & {'psnr', 'ssim', 'niqe'}, 'ssim': measured & {'ssim'}}
  lines = {key: metrics.PROTOCOL[key] for key, users in fidelity.items() if users}
  nets = [net for name, net in (('lpips_alex', 'AlexNet'), ('lpips_vgg', 'VGG16')) if name in measured]
  if nets:
    lines['lpips'] = f'v0.1, {" and ".join(nets)}, whole picture with borders, no resizing'
  if 'dists' in measured:
    lines['dists'] = 'VGG16, whole picture with borders, short side shrunk to 256'
  if 'niqe' in measured:
    lines['niqe'] = 'parameters of BasicSR, Y rounded, border left out'
  return lines

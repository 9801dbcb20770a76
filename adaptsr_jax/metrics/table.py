"""The metrics by name: a row has all that is known of one, and a new one is one more row.

Functions take (output uint8 (H, W, 3), hr uint8 (H, W, 3), border to leave out) and return {key: value}.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from adaptsr_jax.metrics.fidelity import PROTOCOL, psnr, ssim
from adaptsr_jax.metrics.niqe import niqe
from adaptsr_jax.metrics.perceptual import dists, lpips

Function = Callable[[np.ndarray, np.ndarray, int], dict[str, float]]


class Metric(NamedTuple):
  """A row of the table.

  Attributes:
    keys: of the values it gives.
    make: (weights of `files`, in their order) -> function.
    protocol: what a table must say beside the values, {word: text}.
    files: of `zoo.METRIC_FILES`. The small one comes first: where it cannot be had, the large one is not fetched.
    lower: whether a smaller value is the better one.
    digits: decimals that are shown.
  """

  keys: tuple[str, ...]
  make: Callable[..., Function]
  protocol: Mapping[str, str]
  files: tuple[str, ...] = ()
  lower: bool = False
  digits: int = 4


def _fidelity(name: str, function: Callable[..., np.ndarray]) -> Callable[[], Function]:
  def measure(output: np.ndarray, hr: np.ndarray, crop: int) -> dict[str, float]:
    return {f'{name}_{space}': float(function(output[None], hr[None], crop, space == 'y')[0]) for space in ('y', 'rgb')}

  return lambda: measure


def _lpips(key: str) -> Callable[[Any, Any], Function]:
  def make(heads: Any, trunk: Any) -> Function:
    weights = jax.device_put({'trunk': trunk, 'heads': heads})
    return lambda output, hr, _: {key: float(lpips(weights, output[None], hr[None])[0])}

  return make


def _dists(channels: dict[str, np.ndarray], trunk: Any) -> Function:
  weights = {'trunk': jax.device_put(trunk), **channels}
  return lambda output, hr, _: {'dists': float(dists(weights, output[None], hr[None])[0])}


def _niqe(parameters: Any) -> Function:
  return lambda output, _, crop: {'niqe': float(niqe(parameters, output[None], crop)[0])}


_LEVELS = {'levels': PROTOCOL['levels']}
_LUMA = {**_LEVELS, 'y': PROTOCOL['y']}
_LPIPS = 'whole picture with borders, no resizing'

# In the order in which they are measured and shown.
METRICS: dict[str, Metric] = {
  'psnr': Metric(('psnr_y', 'psnr_rgb'), _fidelity('psnr', psnr), _LUMA, digits=3),
  'ssim': Metric(('ssim_y', 'ssim_rgb'), _fidelity('ssim', ssim), PROTOCOL),
  **{
    key: Metric((key,), _lpips(key), {**_LEVELS, 'lpips': f'v0.1, {name}, {_LPIPS}'}, (key, trunk), lower=True)
    for key, trunk, name in (('lpips_alex', 'alexnet', 'AlexNet'), ('lpips_vgg', 'vgg16', 'VGG16'))
  },
  'dists': Metric(
    ('dists',),
    _dists,
    {**_LEVELS, 'dists': 'VGG16, whole picture with borders, short side shrunk to 256'},
    ('dists', 'vgg16'),
    lower=True,
  ),
  'niqe': Metric(
    ('niqe',),
    _niqe,
    {**_LUMA, 'niqe': 'parameters of BasicSR, Y rounded, border left out'},
    ('niqe',),
    lower=True,
    digits=3,
  ),
}
# One name for several. Most papers on super-resolution report LPIPS with AlexNet, some with VGG16.
GROUPS = {'lpips': ('lpips_alex', 'lpips_vgg')}
FIDELITY = (*METRICS['psnr'].keys, *METRICS['ssim'].keys)  # what `quality` gives
VALUES: dict[str, Metric] = {key: metric for metric in METRICS.values() for key in metric.keys}


def names_of(name: str) -> tuple[str, ...]:
  """Returns the rows that a name stands for; none where it is unknown."""
  return GROUPS.get(name) or ((name,) if name in METRICS else ())


def key_of(name: str) -> str:
  """Returns the value meant where a name stands for one: of `psnr` and `ssim` that of Y, of `lpips` that of AlexNet."""
  rows = names_of(name)
  return METRICS[rows[0]].keys[0] if rows else name


def protocol(names: Collection[str]) -> dict[str, str]:
  """Returns what a table must say beside the values of these rows; texts that differ in one word have both."""
  words: dict[str, list[list[str]]] = {word: [] for word in PROTOCOL}  # what several share comes first
  for name in METRICS:
    if name in names:
      for word, text in METRICS[name].protocol.items():
        words.setdefault(word, []).append(text.split(', '))
  return {
    word: ', '.join(' and '.join(dict.fromkeys(parts)) for parts in zip(*texts, strict=True))
    for word, texts in words.items()
    if texts
  }

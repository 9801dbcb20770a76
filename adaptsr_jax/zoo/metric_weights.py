"""Weights of the perceptual metrics and losses: where they are published, what a folder may call them, and how to read.

They are downloaded as the weights of networks are (see `zoo`). A folder has them under the name of the publisher or as
.npz with the same keys, which for AlexNet, VGG16 and VGG19 need hold the convolutions only ('features.0.weight', ...):
a tenth of what the published files are.
"""

import functools
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adaptsr_jax import files
from adaptsr_jax.convert import tensors, torchfile
from adaptsr_jax.errors import UserError
from adaptsr_jax.metrics import features, weights
from adaptsr_jax.zoo import cache
from adaptsr_jax.zoo.cache import Unavailable
from adaptsr_jax.zoo.table import METRICS, Entry

_INSTEAD = 'name the folder that has it by --metric_weights=DIR'


class MetricFile(NamedTuple):
  """One file that metrics need.

  Attributes:
    entry: where it is published.
    names: what a folder may call it, patterns of `Path.glob`; the first that is there counts.
    parse: from the arrays of the file to what `metrics` takes; raises a ValueError where they are not the right ones.
  """

  entry: Entry
  names: tuple[str, ...]
  parse: Callable[[Mapping[str, np.ndarray]], Any]

  @property
  def published(self) -> str:
    """The name that the publisher gives it."""
    return self.entry.url.rpartition('/')[2]


METRIC_FILES: dict[str, MetricFile] = {
  name: MetricFile(METRICS[name], names, functools.partial(parse, layout=layout) if layout else parse)
  for name, names, parse, layout in (
    ('alexnet', ('alexnet_torchvision_features.npz', 'alexnet-owt-????????.pth'), weights.trunk, features.ALEXNET),
    ('vgg16', ('vgg16_torchvision_features.npz', 'vgg16-????????.pth'), weights.trunk, features.VGG16),
    ('vgg19', ('vgg19_torchvision_features.npz', 'vgg19-????????.pth'), weights.trunk, features.VGG19),
    ('lpips_alex', ('lpips_alex_lin_v0.1.npz', 'lpips_alex_lin_v0.1.pth', 'alex.pth'), weights.heads, features.ALEXNET),
    ('lpips_vgg', ('lpips_vgg_lin_v0.1.npz', 'lpips_vgg_lin_v0.1.pth', 'vgg.pth'), weights.heads, features.VGG16),
    ('dists', ('dists_alpha_beta.pt', 'weights.pt'), weights.dists_channels, None),
    ('niqe', ('niqe_pris_params.npz',), weights.pristine, None),
  )
}


def load(name: str, folder: str = '') -> Any:
  """Returns weights as `metrics` takes them.

  Args:
    name: a key of `METRIC_FILES`.
    folder: where the file is; '' takes it from the cache, or downloads it.

  Raises:
    Unavailable: the folder does not have the file, or it cannot be downloaded.
    UserError: the folder does not exist, or the file is damaged or another one.
  """
  file = METRIC_FILES[name]
  if folder:
    path = _find(file, Path(folder))
    _check_name(path)
  else:
    path = cache.fetch(file.published, file.entry, cache.Use(functools.partial(read, name), _INSTEAD))
  return read(name, path)


def _find(file: MetricFile, folder: Path) -> Path:
  if not folder.is_dir():
    raise UserError(f'The folder of metric weights {folder} does not exist.')
  there = [path for pattern in file.names for path in sorted(folder.glob(pattern))]
  if not there:
    names = dict.fromkeys((file.names[0], file.published))
    raise Unavailable(f'{folder} has no {" or ".join(names)}; put {file.entry.url} there.')
  return there[0]


def _check_name(path: Path) -> None:
  """Raises a UserError unless the SHA-256 of the file begins with the digits of its name, where it has any."""
  digits = re.search(r'-([0-9a-f]{8})\.pth$', path.name)
  if not digits:
    return
  with torchfile.faults(path):
    digest = files.sha256(path)
  if not digest.startswith(digits[1]):
    raise UserError(f'{path} has SHA-256 {digest[:8]}..., not {digits[1]}... as its name says: it is damaged.')


def read(name: str, path: Path) -> Any:
  """Returns what is in a file of weights as `metrics` takes it.

  Raises:
    UserError: the file is absent or damaged, or is not the file `name` of `METRIC_FILES`.
  """
  arrays = _arrays(path)
  try:
    return METRIC_FILES[name].parse(arrays)
  except ValueError as error:
    raise UserError(f'{path} is not a file of {name} weights: {error}.') from error


def _arrays(path: Path) -> dict[str, np.ndarray]:
  with torchfile.faults(path):
    if _is_npz(path):
      with np.load(path, allow_pickle=False) as content:
        return dict(content)
    content = torchfile.load(path)
    if not isinstance(content, dict):
      raise UserError(f'{path} holds no weights by name.')
    # The classifier is nine tenths of a published trunk, and of no use here.
    found = {key: value for key, value in content.items() if not str(key).startswith('classifier.')}
    return {key: value.numpy() for key, value in found.items() if isinstance(value, tensors.Tensor)}


def _is_npz(path: Path) -> bool:
  if not zipfile.is_zipfile(path):
    return False
  with zipfile.ZipFile(path) as archive:
    return all(name.endswith('.npy') for name in archive.namelist())

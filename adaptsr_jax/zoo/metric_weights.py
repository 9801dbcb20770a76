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
from adaptsr_jax.zoo.table import Entry

_INSTEAD = 'name the folder that has it by --metric_weights=DIR'
_TORCHVISION = 'https://download.pytorch.org/models/'
_LPIPS = 'https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/'
_DISTS = 'https://raw.githubusercontent.com/dingkeyan93/DISTS/master/DISTS_pytorch/weights.pt'
_NIQE = 'https://raw.githubusercontent.com/XPixelGroup/BasicSR/master/basicsr/metrics/niqe_pris_params.npz'


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


# All digits, or the leading ones as the name of the file has them.
_SHA256 = {
  'alexnet': '7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02',
  'vgg16': '397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0',
  # Two sources that agree on more are not at hand.
  'vgg19': 'dcbb9e9d',
  'lpips_alex': 'df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0',
  'lpips_vgg': 'a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868',
  'dists': 'f5e65c96230b7f6ca995691647d482237e4cab8a50c5c4a5784f219ef0748218',
  'niqe': '2a7c182a68c9e7f1b2e2e5ec723279d6f65d912b6fcaf37eb2bf03d7367c4296',
}


def _torchvision(name: str, file: str, layout: features.Layout) -> MetricFile:
  entry = Entry(file, _TORCHVISION + file, 'BSD-3-Clause', 'ImageNet', sha256=_SHA256[name])
  names = (f'{name}_torchvision_features.npz', re.sub('[0-9a-f]{8}', 8 * '?', file))
  return MetricFile(entry, names, functools.partial(weights.trunk, layout=layout))


def _lpips(net: str, layout: features.Layout) -> MetricFile:
  # 'alex.pth' alone would say little in a cache that holds all kinds of weights.
  file = f'lpips_{net}_lin_v0.1.pth'
  entry = Entry(file, f'{_LPIPS}{net}.pth', 'BSD-2-Clause', 'BAPPS', sha256=_SHA256[f'lpips_{net}'])
  names = (f'lpips_{net}_lin_v0.1.npz', file, f'{net}.pth')
  return MetricFile(entry, names, functools.partial(weights.heads, layout=layout))


METRIC_FILES: dict[str, MetricFile] = {
  'alexnet': _torchvision('alexnet', 'alexnet-owt-7be5be79.pth', features.ALEXNET),
  'vgg16': _torchvision('vgg16', 'vgg16-397923af.pth', features.VGG16),
  'vgg19': _torchvision('vgg19', 'vgg19-dcbb9e9d.pth', features.VGG19),
  'lpips_alex': _lpips('alex', features.ALEXNET),
  'lpips_vgg': _lpips('vgg', features.VGG16),
  'dists': MetricFile(
    Entry('dists_alpha_beta.pt', _DISTS, 'MIT', 'KADID-10k', sha256=_SHA256['dists']),
    ('dists_alpha_beta.pt', 'weights.pt'),
    weights.dists_channels,
  ),
  'niqe': MetricFile(
    Entry('niqe_pris_params.npz', _NIQE, 'Apache-2.0', 'pristine photographs', sha256=_SHA256['niqe']),
    ('niqe_pris_params.npz',),
    weights.pristine,
  ),
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

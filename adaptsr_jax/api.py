"""The library: a few functions over what the commands use, under the names and with the defaults of their flags.

  import adaptsr_jax as sr

  net = sr.load('safmn.pth')
  net.enlarge(picture)                                       # (h, w, 3) -> (s * h, s * w, 3), numpy in and out
  net.with_adapter('camera.safetensors', strength=0.7).save('merged.pth')

  pairs = sr.find_pairs('camera/LR', 'camera/HR')
  adapted = sr.adapt(net, pairs, steps=300, lora={'rank': 4})
  adapted.save('camera.safetensors')
  sr.evaluate({'bicubic': 'bicubic', 'base': net, 'adapted': adapted.net}, pairs)

Whatever a person can mend is a UserError of one sentence.
"""

import contextlib
import dataclasses
import functools
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from adaptsr_jax import adapt as run_lib
from adaptsr_jax import base as base_lib
from adaptsr_jax import bicubic, data, image, infer, log, params_folder
from adaptsr_jax import config as config_lib
from adaptsr_jax.adapt import prepare
from adaptsr_jax.adapters import card, file, operations
from adaptsr_jax.data import samples
from adaptsr_jax.errors import UserError
from adaptsr_jax.evaluate import asked as measures
from adaptsr_jax.evaluate import measure, statistics, tables
from adaptsr_jax.tree import Params


class Folded(NamedTuple):
  """An adapter in a network: the adapter, at what strength, and what it is called."""

  adapter: file.Adapter
  strength: float
  name: str


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Net:
  """A network: a base, perhaps with adapters folded in.

  Attributes:
    spec: what the base was loaded from; '' where it is in no file.
    fields: what was given because the file does not tell, as 'res_scale=0.1'.
    base: the backbone as it was loaded.
    model: its linen module; one for all that comes of the base, so that all use what was compiled for one.
    params: with the adapters folded in.
    adapters: what is folded in.
  """

  spec: str
  fields: str
  base: base_lib.Base
  model: Any
  params: Params
  adapters: tuple[Folded, ...] = ()

  @property
  def scale(self) -> int:
    """Factor by which pictures are enlarged."""
    return self.model.upscale

  def __repr__(self) -> str:
    folded = ''.join(f' + {name} at {strength:g}' for _, strength, name in self.adapters)
    return f'<{self.base.name} x{self.scale} from {self.spec or "an adaptation"}{folded}>'

  def enlarge(
    self,
    picture: Any,
    tile: int = 0,
    overlap: int | None = None,
    ensemble: bool = False,
    on_tile: Callable[[int, int], None] | None = None,
  ) -> np.ndarray:
    """Enlarges one picture; as `python -m adaptsr_jax.upscale` does, for its colours alone.

    Args:
      picture: (h, w, 3) RGB, (h, w) or (h, w, 1) gray, (h, w, 4) and (h, w, 2) the same with alpha; uint8, uint16 or
        floats in [0, 1]: an array, or whatever numpy takes as one (such as a picture of Pillow); or the path of a
        picture file, which is taken as RGB.
      tile: side of tiles in LR pixels; 0: automatic; -1: none. See `infer.upscale`.
      overlap: surroundings of a tile in LR pixels.
      ensemble: average over the eight flips and turns.
      on_tile: called after each tile with (done, total).

    Returns:
      (s * h, s * w, ...) with the channels and of the type that were given; floats are not clipped. Alpha is enlarged
      by the bicubic kernel.

    Raises:
      UserError: no such picture, or tiles that cannot be.
    """
    lr = image.read_array(picture) if isinstance(picture, str | os.PathLike) else np.asarray(picture)
    if lr.ndim not in (2, 3) or lr.shape[2:] > (4,) or not lr.size:
      raise UserError(
        f'A picture to enlarge has the shape (h, w), or (h, w, c) with up to 4 channels, and this one {lr.shape}.'
      )
    levels = lr.dtype in (np.uint8, np.uint16)
    if not levels and lr.dtype.kind != 'f':
      raise UserError(f'A picture to enlarge is uint8, uint16 or of floats in [0, 1], not {lr.dtype}.')
    if not levels and not (np.isfinite(lr).all() and np.abs(lr).max() <= 2):
      raise UserError('A picture of floats is in [0, 1], and this one has other values: divide by 255, perhaps.')
    if not tile and not self.model.tileable:
      tile = infer.WHOLE
    network = infer.network(self.model, self._on_device, tile, overlap, ensemble)
    planes = np.atleast_3d(image.to_float(lr) if levels else lr)
    gray, alpha = planes.shape[-1] <= 2, planes[..., -1] if planes.shape[-1] in (2, 4) else None
    colours = np.repeat(planes[..., :1], 3, axis=-1) if gray else planes[..., :3]
    large = network(infer.bled(colours, alpha), on_tile=on_tile)
    if gray:
      large = (large @ image.LUMA)[..., None]
    if alpha is not None:
      large = np.concatenate([large, infer.enlarged_alpha(alpha, self.scale)[..., None]], axis=-1)
    large = large.reshape(*large.shape[:2], *lr.shape[2:])
    return image.to_levels(large, lr.dtype) if levels else large.astype(lr.dtype)

  def with_adapter(self, adapter: Any, strength: float = 1.0) -> 'Net':
    """Returns this network with an adapter folded in, beside those that are; nothing is compiled anew.

    Args:
      adapter: an adapter file, or what `adapt` returned.
      strength: 0 changes nothing, 1 is what was trained.

    Raises:
      UserError: no adapter, of another base, or one that does not go together with the others.
    """
    if not math.isfinite(strength):
      raise UserError(f'The strength of an adapter is {strength}; give a finite number.')
    loaded, name = getattr(adapter, 'adapter', adapter), 'adapter'
    if loaded is None:
      raise UserError('All parameters were trained, so there is no adapter; what `adapt` returned has the network.')
    if not isinstance(loaded, file.Adapter):
      loaded, name = file.load(loaded), os.fspath(loaded)
    file.check_base(loaded.meta, self.base.params)
    folded = (*self.adapters, Folded(loaded, strength, name))
    params = operations.combined(self.base.params, *zip(*folded, strict=True))
    return dataclasses.replace(self, params=params, adapters=folded)

  def save(self, path: str | os.PathLike) -> None:
    """Writes the network: .pth, .pt and .safetensors in the key names of the base, .onnx, else a params folder.

    Raises:
      UserError: it would overwrite the base, or cannot be written.
    """
    if self.spec and Path(path).exists() and Path(self.spec).exists() and Path(path).samefile(self.spec):
      raise UserError(f'{path} is the base; choose another name.')
    folded = [(each.adapter.meta, each.strength, Path(each.name).name) for each in self.adapters]
    base = self.base.with_origin(card.origin(folded, self.base.licence)) if folded else self.base
    base_lib.save(path, base, self.params)

  @functools.cached_property
  def _on_device(self) -> Params:
    return jax.device_put(self.params)


def load(spec: str | os.PathLike, fields: str = '') -> Net:
  """Returns the network in `spec`.

  Args:
    spec: a .pth, .pt or .safetensors file of PyTorch weights ('FILE::NAME' for one of several networks), a params
      folder, 'bundled:NAME', or a name of the zoo.
    fields: hyper-parameters that the file does not tell, as 'res_scale=0.1,img_range=255'.

  Raises:
    UserError: there is no such file, or it is not a backbone that is known here.
  """
  base = base_lib.load(spec, config_lib.parse_fields(fields, 'fields'))
  for remark in base.notes:
    log.say(remark)
  return Net(os.fspath(spec), fields, base, base.model(), base.params)


class Pairs(NamedTuple):
  """Pairs of pictures that were found and fit.

  Attributes:
    where: the fields of `config.data.train` that say where they lie.
    source: decodes them; `source.names`, `source[i]` -> {'lr', 'hr'}.
  """

  where: dict[str, str]
  source: data.Source

  def __repr__(self) -> str:
    return f'<{self.source.describe()}>'


def find_pairs(
  lr: str | os.PathLike = '', hr: str | os.PathLike = '', scale: int = 0, names: str = '', skip_names: str = ''
) -> Pairs:
  """Finds the pairs of two folders by their names, and checks their sizes.

  Args:
    lr: folder of LR pictures; without it they are made from HR by MATLAB's bicubic kernel.
    hr: folder of HR pictures, or 'samples:train' and 'samples:valid', which have LR pictures of their own.
    scale: HR over LR; told from the first pair where there are LR pictures.
    names: only these pictures, 'a,b,c' or a text file with one name a line.
    skip_names: all but these.

  Raises:
    UserError: names every picture without a partner, or that does not fit it.
  """
  where = {'lr': os.fspath(lr), 'hr': os.fspath(hr), 'names': names, 'skip_names': skip_names}
  if not scale:
    if where['hr'].startswith(samples.PREFIX):
      scale = samples.SCALE
    elif lr and hr:
      scale = data.scale_of(where['lr'], where['hr'])
    else:
      raise UserError('Without LR pictures the scale is unknown: give it to find_pairs, such as scale=net.scale.')
  config = config_lib.default()
  config.data.train.update(where)
  return Pairs(where, prepare.open_pictures(config, 'train', scale))


class Adapted(NamedTuple):
  """What came of an adaptation; a notebook shows its picture: input, bicubic, base, adapted and HR.

  Attributes:
    net: the adapted network; None for a method that cannot be merged.
    adapter: what was trained, for `Net.with_adapter`; None after full fine-tuning.
    results: the content of results.json: measurements, parameters, seconds, versions.
    picture: compare.png; None without validation pictures.
  """

  net: Net | None
  adapter: file.Adapter | None
  results: dict[str, Any]
  picture: bytes | None

  def save(self, path: str | os.PathLike) -> None:
    """Writes the adapter file.

    Raises:
      UserError: there is none, or it cannot be written.
    """
    if self.adapter is None:
      raise UserError(f'Method {self.results["method"]} trains the network itself: save `net` instead.')
    file.save(path, self.adapter)

  def __repr__(self) -> str:
    results = self.results
    lines = [f'{results["method"]}, {results["steps"]} steps, {results["trainable_parameters"]:,} parameters']
    if results['base']:
      runs = {label: results[label] for label in ('bicubic', 'base', 'adapted')}
      lines.append(tables.text(tables.means(runs)))
    return '\n'.join(lines)

  def _repr_png_(self) -> bytes | None:
    return self.picture


def adapt(
  net: Net, pairs: Pairs | None, valid: Pairs | None = None, workdir: str | os.PathLike | None = None, **fields: Any
) -> Adapted:
  """Adapts a network to pairs of pictures, as `python -m adaptsr_jax.main` does.

  Args:
    net: without adapters.
    pairs: to train on; None where `data` says where they are.
    valid: to measure before and after; none: nothing is measured.
    workdir: folder of the run, which a second call continues; by default one that is gone afterwards.
    **fields: fields of the config (`adaptsr_jax/config.py`) where they are not to have their defaults: steps=300,
      patch=128, lora={'rank': 4}, data={'train': {'degrade': 'realesrgan'}}.

  Raises:
    UserError: bad input, or a loss that is not a number.
  """
  if net.adapters or not net.spec:
    raise UserError(f'{net!r} is in no file; save it, load that, and adapt the network so loaded.')
  config = config_lib.default().lock()
  try:
    config.update(fields)
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    said = error.args[0] if error.args else error
    raise UserError(f'adapt: no such field, or not of its type: {" ".join(str(said).split())}') from error
  config.base, config.fields = net.spec, net.fields
  for part, given in (('train', pairs), ('valid', valid)):
    config.data[part].update(given.where if given else {})
  config.tensorboard = fields.get('tensorboard', workdir is not None)
  with contextlib.ExitStack() as stack:
    folder = Path(workdir or stack.enter_context(tempfile.TemporaryDirectory()))
    results = run_lib.run(config, folder, 'adaptsr_jax.adapt')
    adapter, merged, picture = (folder / name for name in ('adapter.safetensors', 'merged', 'compare.png'))
    adapted = None
    if merged.is_dir():  # a network that uses what was compiled for its base
      params, info = params_folder.load_params(merged)
      base = net.base._replace(params=params, source=info['source'])
      adapted = dataclasses.replace(net, spec=str(merged) if workdir else '', base=base, params=params)
    return Adapted(
      adapted,
      file.load(adapter) if adapter.is_file() else None,
      results,
      picture.read_bytes() if picture.is_file() else None,
    )


def evaluate(
  networks: Any,
  pairs: Pairs | Iterable[tuple[str, np.ndarray, np.ndarray]],
  metrics: tuple[str, ...] = ('psnr', 'ssim'),
  metric_weights: str = '',
  tile: int = infer.WHOLE,
  ensemble: bool = False,
) -> dict[str, Any]:
  """Measures networks on pairs, as `python -m adaptsr_jax.evaluate` does.

  Args:
    networks: a network, or {label: network}. In place of a network: 'bicubic' (MATLAB), 'bicubic_pil' (Pillow), or a
      function (lr float32 (h, w, 3) in [0, 1], scale) -> (s * h, s * w, 3), floats or uint8.
    pairs: of `find_pairs`, or a list of (name, lr, hr), uint8 or uint16.
    metrics: of psnr, ssim, lpips, dists, niqe.
    metric_weights: folder with the weights of the last three; by default they are downloaded once.
    tile: side of LR tiles, to save memory; -1: whole pictures.
    ensemble: average over the eight flips and turns.

  Returns:
    {'mean': {metric: value}, 'interval': {metric: (low, high)}, 'images': {name: {metric: value}}, 'levels': {name:
    grey levels above HR}, 'protocol'}, of each label where there are labels; from the second on with 'difference' to
    the first, picture by picture: {metric: (mean, low, high)}.

  Raises:
    UserError: no metric is left, or a picture that cannot be measured.
  """
  asked = measures.load(metrics, metric_weights)
  for sentence in asked.missing.values():
    log.say(sentence)
  if not asked.functions:
    raise UserError('No metric is left.')
  given = networks if isinstance(networks, Mapping) else {'': networks}
  triples = list(pairs) if not isinstance(pairs, Pairs) else None
  number = len(pairs.source if triples is None else triples)
  runs: dict[str, Any] = {}
  for label, network in given.items():
    restore = _restore(network, tile, ensemble)
    items = measure.restored(restore, data.pairs(pairs.source) if triples is None else triples)
    result = measure.score(log.watched(items, label or 'measuring', number), asked.functions)
    protocol = {**asked.protocol, 'pictures': number, 'interval': statistics.PROTOCOL}
    first = next(iter(runs.values()), None)
    runs[label] = {**result, 'protocol': protocol}
    runs[label] |= {'difference': tables.differences(result, first)} if first else {}
  return runs if isinstance(networks, Mapping) else runs['']


def _restore(network: Any, tile: int, ensemble: bool) -> Callable[[np.ndarray, int], np.ndarray]:
  if isinstance(network, Net):
    return infer.network(network.model, network._on_device, tile, ensemble=ensemble)
  if isinstance(network, str) and network in bicubic.KERNELS:
    return bicubic.KERNELS[network]
  if callable(network):
    return network
  raise UserError(
    f'{network!r} cannot be measured; give a network of `load`, {", ".join(bicubic.KERNELS)}, or a function.'
  )

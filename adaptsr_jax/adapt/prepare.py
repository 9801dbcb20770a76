"""Before the first step: the base, the pictures, the sites, and what tells how much each matters."""

import hashlib
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from adaptsr_jax import base as base_lib
from adaptsr_jax import config as config_lib
from adaptsr_jax import data, lora, memory, methods, ranks, tree, zoo
from adaptsr_jax.adapt import effects, forecast, losses
from adaptsr_jax.data import degrade, samples
from adaptsr_jax.devices import Devices
from adaptsr_jax.errors import UserError, enough_memory, naming
from adaptsr_jax.log import Work, clock, say
from adaptsr_jax.tree import Params


class Setup(NamedTuple):
  """What a run starts from; the source of pictures that are not given is None."""

  base: base_lib.Base
  model: nn.Module
  train: data.Source | None
  valid: data.Source | None
  decide: data.Source | None
  sites: tuple[lora.Site, ...]


def prepare(config: ConfigDict) -> Setup:
  """Loads the base, opens the folders of pictures and checks every pair, and finds the sites."""
  base = choose_base(config)
  model = base.model(dtype=jnp.dtype(config.dtype))
  if config.remat:
    if not hasattr(model, 'remat'):
      raise UserError(f'config.remat is set, but {base.name} has no blocks to compute again.')
    model = model.clone(remat=True)
  with Work('Looking at the pictures'):
    train, valid, decide = (open_pictures(config, part, model.upscale) for part in config_lib.PARTS)
  side = config.patch // model.upscale
  if train and side < model.minimum:
    raise UserError(
      f'config.patch is {config.patch} HR pixels, crops of {side} LR pixels a side, and {type(model).__name__} needs '
      f'{model.minimum}; give config.patch={model.minimum * model.upscale} or more.'
    )
  return Setup(base, model, train, valid, decide, find_sites(config, model))


def choose_base(config: ConfigDict) -> base_lib.Base:
  """Returns the base that `config.base` names."""
  fields = config_lib.parse_fields(config.fields)
  if config.base == 'random':
    return base_lib.random(config.model, config.seed, fields)
  return base_lib.load(config.base, fields, config.get('key'))


def find_sites(config: ConfigDict, model: nn.Module) -> tuple[lora.Site, ...]:
  """Returns the sites that `config.sites` leaves; UserError where it leaves none."""
  exclude = [pattern for pattern in config.sites.exclude if pattern]  # an empty flag is an empty pattern
  found = lora.find_sites(model, exclude, config.sites.split_qkv)
  kinds = tuple(config.sites.kinds) or config_lib.KINDS
  sites = tuple(site for site in found if site.kind in kinds)
  if not sites:
    raise UserError(
      f'No kernel is left to adapt: {len(found)} sites, none of the kinds {", ".join(kinds)} '
      '(config.sites.kinds, config.sites.exclude).'
    )
  return sites


def licence(config: ConfigDict) -> str:
  """Returns the licence of the training pictures, where it is known."""
  return samples.LICENCE if config.data.train.hr.startswith(samples.PREFIX) else ''


def open_pictures(config: ConfigDict, part: str, scale: int) -> data.Source | None:
  """Opens the pictures of one of `config.PARTS`; None where nothing is given."""
  pictures = config.data[part]
  if not config_lib.sources(config, part):
    return None
  if pictures.hr.startswith(samples.PREFIX):
    if pictures.lr:
      raise UserError(f'lr is {pictures.lr}, but {pictures.hr} comes with its own LR pictures; leave lr empty.')
    lr, hr = samples.folders(pictures.hr, zoo.cache_folder())
    say(f'Sample pictures {pictures.hr} are in {hr.parent}.')
    pictures = ConfigDict({**pictures.to_dict(), 'lr': str(lr), 'hr': str(hr)})
  with naming(f'config.data.{part}'):
    source = data.open_source(pictures, scale, config.data.cache_gb, 'train' if part == 'train' else 'test')
    data.check_task(source)
    return source


def check_pixels(setup: Setup) -> None:
  """Decodes all pictures once; raises PairError that names the bad ones."""
  with Work('Decoding all pictures once'):
    for source in filter(None, (setup.train, setup.valid, setup.decide)):
      data.check_pixels(source)


def describe(config: ConfigDict, setup: Setup, idle: str | None = None) -> str:
  """Returns a few lines on the base and the data, assumptions included; `idle` tells of fields without effect."""
  base = setup.base
  fields = ', '.join(f'{key}={value}' for key, value in base.fields.items())
  lines = [f'Base: {base.name} ({fields}), {tree.count(base.params):,} parameters.']
  lines += [f'  {remark}' for remark in base_lib.remarks(base, '--config.fields=')]
  lines += filter(None, [effects.idle(config) if idle is None else idle])
  canvas = degrade.canvas(config.patch, setup.model.upscale)
  for label, source in (('Training', setup.train), ('Validation', setup.valid)):
    lines.append(f'{label}: {source.describe(canvas) if source else "none"}')
  if setup.decide:
    lines.append(f'Deciding: {setup.decide.describe(canvas)}')
  lines += filter(None, [forecast.sentence(config, setup.train, base.name)])
  if setup.train and repr(setup.train) == repr(setup.valid):
    lines.append('Training and validation pictures are the same: what is measured says nothing about others.')
  turns = sum(setup.train.weights) if setup.train else 1
  if config.batch_size % turns and _presets(setup.train):
    lines.append(
      f'config.batch_size={config.batch_size} is no multiple of {turns}, the sum of the weights: batches with other '
      'numbers of degraded pictures are compiled for each, which takes a while.'
    )
  return '\n'.join(lines)


def loss_of(model: Any) -> Callable[[Params, Mapping[str, jax.Array]], jax.Array]:
  """Returns (params, batch) -> training loss of the base itself, which the scores differentiate."""
  return lambda params, batch: losses.l1(model.apply({'params': params}, batch['lr']), batch['hr'])


def batches(config: ConfigDict, source: data.Source, seed: int, devices: Devices | None = None):
  """Returns the endless iterator over training batches that `seed` gives (see `data.train_batches`)."""
  _check_batches(config, source.scale, 1, f'a batch of {config.batch_size} crops of {config.patch} pixels')
  simulated = _cameras(config, source)
  size = config.batch_size, config.patch, source.scale
  return data.train_batches(source, *size, seed, config.data.workers, simulated, config.data.match_exposure, devices)


def _check_batches(config: ConfigDict, scale: int, number: int, what: str) -> None:
  pixels = config.patch**2 + (config.patch // scale) ** 2
  memory.check(12 * number * config.batch_size * pixels, what, 'lower config.batch_size or config.patch')


def _presets(source: data.Source) -> list[str]:
  """Returns the simulated cameras that a source asks for."""
  return sorted({source.preset(index) for index in range(len(source))} - {''})


def _cameras(config: ConfigDict, source: data.Source) -> data.Cameras | None:
  names = _presets(source)
  changes = {name: value for name, value in config.data.degrade.items() if value is not None}
  if not names:
    unused = [f'config.data.degrade.{name}' for name in changes] + ['config.data.usm'] * config.data.usm
    if unused:
      raise UserError(f'{unused[0]} is set, but no training picture is degraded: see config.data.train.degrade.')
    return None
  options = {name: degrade.options(name, changes) for name in names}
  made = {name: degrade.make(o, source.scale, config.patch, config.data.usm) for name, o in options.items()}
  digest = hashlib.sha256(repr((options, config.data.usm)).encode()).hexdigest()[:16]
  return data.Cameras(made, degrade.canvas(config.patch, source.scale), digest)


def score_batches(config: ConfigDict, setup: Setup, number: int) -> list[dict[str, np.ndarray]]:
  """Returns `number` training batches, drawn apart from those that are trained on."""
  _check_batches(config, setup.train.scale, number, f'to score on {number} batches')
  with closing(batches(config, setup.train, seed=config.seed + 1_000_003)) as drawn:
    return [next(drawn) for _ in range(number)]


WarmUp = Callable[[methods.Plan], tuple[methods.Tensors, float]]


class Scores:
  """What tells how much each site matters (see `methods.Scores`): computed when first asked for, and kept."""

  def __init__(self, config: ConfigDict, setup: Setup, warm_up: WarmUp | None = None):
    """Looks at nothing yet; `warm_up` trains a plan for a while, and is None where nothing is trained."""
    self.available = setup.train is not None
    self.trains = warm_up is not None
    self.warmed_up = warm_up
    self.params = setup.base.params
    self._config, self._setup = config, setup
    self._gradients: dict[str, np.ndarray] | None = None
    self._batches: list[dict[str, np.ndarray]] | None = None

  def by_site(self, form: str = '1x1_kxk') -> dict[str, float]:
    """Returns site name -> score as `config.score` asks for it."""
    s = self._config.score
    if s.kind == 'gradient' and s.reduce == 'norm_of_mean':
      return ranks.norm_scores(self.gradients(), self._setup.sites, s.normalise, form)
    key = jax.random.key(self._config.seed)
    return self._computed(s.kind, lambda *args: ranks.scores(s.kind, *args, key, s.reduce, s.normalise, form))

  def gains(self, form: str = '1x1_kxk') -> dict[str, np.ndarray]:
    """Returns site name -> gain of each unit of rank."""
    return ranks.spectral_gains(self.gradients(), form)

  def gradients(self) -> dict[str, np.ndarray]:
    """Returns site name -> mean gradient of the training loss at its kernel."""
    if self._gradients is None:
      self._gradients = self._computed('gradient', ranks.mean_gradients)
    return self._gradients

  def _computed(self, kind: str, function: Callable[..., Any]) -> Any:
    config, setup = self._config, self._setup
    if not self.available:
      raise UserError('There are no training pictures to score the sites on; give config.data.train.hr.')
    start = time.perf_counter()
    say(f'Scoring {len(setup.sites)} sites by {kind} on {config.score.batches} batches, after compiling ...')
    with enough_memory(memory_advice(config, setup.model)), Work('Scoring'):
      if self._batches is None:
        self._batches = score_batches(config, setup, config.score.batches)
      result = function(loss_of(setup.model), setup.base.params, self._batches, setup.sites)
    say(f'Scored {len(setup.sites)} sites by {kind} in {clock(time.perf_counter() - start)}.')
    return result


def memory_advice(config: ConfigDict, model: Any) -> str:
  """Returns the end of the sentence for a batch that is too large for the device (see `errors.enough_memory`)."""
  ways = ['make config.batch_size (and config.optim.accumulate larger) or config.patch smaller']
  ways += ['set config.remat'] * (getattr(model, 'remat', None) is False)
  ways += ['set config.dtype=bfloat16'] * (config.dtype == 'float32')
  return f'for {config.batch_size} crops of {config.patch} pixels: {", or ".join(ways)}'

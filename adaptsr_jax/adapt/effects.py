"""Fields of a config that are set and have no effect in its run, told in one sentence: nobody waits in vain."""

from collections.abc import Callable
from typing import NamedTuple

from ml_collections import ConfigDict

from adaptsr_jax import config as config_lib
from adaptsr_jax import methods

_WITH_ADAPTERS = ('lora', 'dora')  # the methods of `config.lora`


class _Rule(NamedTuple):
  """When fields, or whole sections, have an effect, and why they have none else."""

  fields: tuple[str, ...]
  used: Callable[[ConfigDict], bool]
  why: str


def _own(method: str) -> tuple[str, ...]:
  return _WITH_ADAPTERS if method == 'lora' else (method,)


def _scored(c: ConfigDict) -> bool:
  if c.init_from:
    return False
  if c.method in _WITH_ADAPTERS:
    return c.lora.rule not in ('uniform', 'post_hoc')
  return c.method == 'shira' and c.shira.mask in ('gradient', 'snip')


def _needs_weights(c: ConfigDict) -> bool:
  return bool(c.metrics) or any(c.loss[name] for name in ('perceptual', 'lpips', 'dists'))


def _has_own_lr(c: ConfigDict) -> bool:
  train = c.data.train
  if train.degrade != 'none' and not train.mix:
    return False
  return not train.hr or train.lr or train.hr.startswith('samples:')


_OF_RANKS = tuple(f'lora.{name}' for name in ('rank', 'budget', 'unit', 'r_min', 'r_max', 'cap_at_kernel_width'))

RULES = (
  _Rule(('key', 'like_source'), lambda c: c.base != 'random', 'a random base comes from no file'),
  _Rule(('model',), lambda c: c.base == 'random', 'config.base tells the network'),
  *(
    _Rule((name,), lambda c, name=name: c.method in _own(name), f'config.method is not {" or ".join(_own(name))}')
    for name, module in methods.METHODS.items()
    if hasattr(module, 'fields')
  ),
  # What an adapter was made with stays; only ranks of rule 'uniform' may grow.
  _Rule(
    tuple(name for name, module in methods.METHODS.items() if hasattr(module, 'fields') and name != 'lora'),
    lambda c: not c.init_from,
    'it is as config.init_from has it',
  ),
  _Rule(
    (*_OF_RANKS, 'lora.rule'),
    lambda c: not c.init_from or (c.method == 'lora' and c.lora.rule == 'uniform'),
    'ranks are those of config.init_from',
  ),
  _Rule(('lora',), lambda c: not (c.init_from and c.method == 'dora'), 'it is as config.init_from has it'),
  _Rule(('lora.path',), lambda c: c.method == 'lora', 'config.method is not lora'),
  _Rule(('lora.rank',), lambda c: not c.lora.budget, 'config.lora.budget is given'),
  _Rule(
    ('lora.r_min', 'lora.r_max', 'lora.cap_at_kernel_width'),
    lambda c: c.lora.rule != 'uniform',
    'config.lora.rule is uniform',
  ),
  _Rule(
    ('lora.unit',), lambda c: c.lora.rule != 'uniform' or c.lora.budget, 'config.lora.rule is uniform, without a budget'
  ),
  _Rule(('shira.share',), lambda c: not c.shira.rank, 'config.shira.rank is given'),
  _Rule(('score',), _scored, 'nothing is scored'),
  _Rule(
    ('score.kind', 'score.normalise', 'score.reduce'), lambda c: c.method != 'shira', 'SHiRA takes the mean gradient'
  ),
  _Rule(
    ('score.batches',),
    lambda c: c.score.kind != 'random' or c.method == 'shira' or c.lora.rule == 'marginal',
    'config.score.kind is random',
  ),
  _Rule(('score.reduce',), lambda c: c.score.kind == 'gradient', 'config.score.kind is not gradient'),
  _Rule(
    ('sites.kinds', 'sites.exclude'), lambda c: c.method != 'bitfit', 'config.method is bitfit, which has no sites'
  ),
  _Rule(
    ('sites.exclude',),
    lambda c: c.method != 'full' or c.sites.kinds,
    'config.method is full, which trains every parameter where config.sites.kinds is empty',
  ),
  _Rule(
    ('sites.split_qkv',),
    lambda c: c.method in (*_WITH_ADAPTERS, 'rasa', 'shira'),
    'config.method does not change q, k and v apart',
  ),
  _Rule(('gan',), lambda c: c.loss.adversarial, 'config.loss.adversarial is 0'),
  _Rule(
    ('loss.adversarial',), lambda c: c.gan.warmup < max(1, c.steps), 'config.gan.warmup is not shorter than the run'
  ),
  _Rule(
    ('optim.bias_lr_scale',),
    lambda c: c.method in _WITH_ADAPTERS and c.lora.biases,
    'no biases are trained beside adapters',
  ),
  _Rule(('optim.b_lr_scale',), lambda c: c.method in _WITH_ADAPTERS, 'only lora and dora have factors of two rates'),
  *(
    _Rule(
      tuple(f'data.{part}.{field}' for field in ('names', 'skip_names', 'track', 'degrade')),
      lambda c, part=part: config_lib.sources(c, part),
      f'config.data.{part} names no pictures',
    )
    for part in config_lib.PARTS
  ),
  _Rule(('data.match_exposure',), _has_own_lr, 'LR is made from HR, with its exposure'),
  _Rule(
    ('data.licence', 'record_cameras', 'thumbnail'),
    lambda c: c.method != 'full' or c.sites.kinds,
    'config.method is full, which leaves no adapter file',
  ),
  _Rule(
    ('metrics', 'eval_every', 'eval_tile', 'best', 'strengths'),
    lambda c: config_lib.sources(c, 'valid'),
    'config.data.valid names no pictures',
  ),
  _Rule(('metric_weights',), _needs_weights, 'no metric and no loss of config has weights'),
)


# What scoring looks at, which trains nothing (`stability`).
_OF_SCORES = (
  *('base', 'key', 'model', 'fields', 'dtype', 'remat', 'seed', 'batch_size', 'patch', 'sites'),
  *('score.kind', 'score.normalise', 'lora.form', 'data.train', 'data.degrade', 'data.usm', 'data.match_exposure'),
  *('data.workers', 'data.cache_gb'),
)
SCORING = (
  *(rule for rule in RULES if rule.fields[0].partition('.')[0] in ('key', 'model', 'data')),
  _Rule(('lora.form',), lambda c: c.score.normalise == 'per_cost', 'config.score.normalise is not per_cost'),
)


def idle(config: ConfigDict, scoring: bool = False) -> str:
  """Returns a sentence on the fields that are not as by default and have no effect in the run; '' where there are none.

  A field that contradicts others is refused by `config.validate`; these are only of other methods, losses or data.

  With `scoring` the run scores batches, each by itself, and trains nothing.
  """
  default = config_lib.flat(config_lib.default())
  changed = [name for name, value in config_lib.flat(config).items() if value != default.get(name, value)]
  reasons: dict[str, list[str]] = {}
  for name in changed:
    if why := _why(config, name, scoring):
      reasons.setdefault(why, []).append(f'config.{name}')
  parts = [f'{", ".join(names)} ({why})' for why, names in reasons.items()]
  return f'Without effect in this run: {"; ".join(parts)}.' if parts else ''


def _why(config: ConfigDict, name: str, scoring: bool) -> str:
  if scoring and not _within(name, _OF_SCORES):
    return 'batches are scored, each by itself, and nothing is trained'
  rules = (rule for rule in (SCORING if scoring else RULES) if _within(name, rule.fields))
  return next((rule.why for rule in rules if not rule.used(config)), '')


def _within(name: str, fields: tuple[str, ...]) -> bool:
  """Tells whether a field is one of `fields`, or of a section that is."""
  return any(name == field or name.startswith(f'{field}.') for field in fields)

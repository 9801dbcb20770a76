"""Every field of a run, once: its default, meaning and unit.

`configs/*.py` start from `default()` and change values; flags of the form `--config.lora.rank=4` override them.
"""

import ast
import difflib
import math
import os
import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags as absl_flags
from etils import epy
from ml_collections import ConfigDict, config_dict, config_flags

from adaptsr_jax import tree
from adaptsr_jax.errors import UserError, escaped, shown

with epy.lazy_imports():  # readers of flags need not wait for jax
  from adaptsr_jax import methods
  from adaptsr_jax.data import degrade
  from adaptsr_jax.metrics import table

KINDS = ('conv', 'mlp', 'attn')
LOSSES = ('l1', 'charbonnier', 'mse', 'colour', 'perceptual', 'lpips', 'dists', 'adversarial')
# Of `data`: what is trained on, measured, and asked when something is to be decided.
PARTS = ('train', 'valid', 'decide')
# The fields that say where pictures come from.
SOURCES = ('hr', 'root', 'tfds', 'packed', 'mix')
CHOICES = {
  'dtype': ('float32', 'bfloat16'),
  'export': ('last', 'best'),
  'data.train.degrade': ('none', 'bicubic', 'stablesr', 'realesrgan'),
  'gan.discriminator': ('patch', 'unet'),
  'gan.kind': ('vanilla', 'hinge', 'relativistic'),
  'score.kind': ('gradient', 'fisher', 'activation', 'random'),
  'score.normalise': ('none', 'sqrt_size', 'per_cost'),
  'score.reduce': ('norm_of_mean', 'mean_of_norms'),
  'optim.preset': ('short', 'paper', 'auto'),
  'optim.schedule': ('auto', 'steps', 'halvings', 'cosine', 'wsd', 'constant'),
}
_LONGEST_REASON = 1000  # characters
_PROBED = 200  # updates of the shortest run that repays the probes of `optim.preset='auto'`
_NO_CONFIG = 'get_config() of the config gives no ConfigDict'


# Fields that had other names.
RENAMED = {
  'lora.kinds': 'sites.kinds',
  'lora.exclude': 'sites.exclude',
  'lora.split_qkv': 'sites.split_qkv',
  'full.kinds': 'sites.kinds',
}


def find(name: str) -> str:
  """Returns the path of a config file; a word such as 'safmn' is one of those that come with the package.

  What follows a colon is for its get_config(), and stays.

  Raises:
    UserError: there is no such file, or it is no config.
  """
  name, colon, argument = name.partition(':')
  if not name:
    return name
  if os.path.isfile(name):
    _check_file(name)
    return name + colon + argument
  package = Path(__file__).parent
  # In a clone they stand beside the package, where they are meant to be read; an installation has them inside.
  folder = next((path for path in (package / 'configs', package.parent / 'configs') if path.is_dir()), package)
  word = Path(name).name.removesuffix('.py')
  if (folder / f'{word}.py').is_file() and name in (word, f'{word}.py', f'configs/{word}.py'):
    return str(folder / f'{word}.py') + colon + argument
  there = ', '.join(sorted(path.stem for path in folder.glob('*.py')))
  raise UserError(f'There is no config {name}; give a file, or a name of those that come with the package: {there}.')


def reason(error: BaseException, file: str, flags: Sequence[str]) -> str:
  """Returns in one line why `flags`, or the config that `file` is, cannot be understood."""
  place, told, inner = '', None, error
  while inner:
    told = inner if isinstance(inner, UserError) else told  # of the config itself; that in the middle has its traceback
    for frame in traceback.extract_tb(inner.__traceback__):
      if frame.filename == file.partition(':')[0]:
        place = f'{frame.filename}, line {frame.lineno}: {type(inner).__name__}: {inner}'
    inner = inner.__cause__ or inner.__context__
  if not told and not place:
    # Fields that are not there set off errors of many types in config_flags, none of which says it in a sentence.
    place = '' if isinstance(error, ValueError) else _lacking(file, flags)
  text, traced, trace = str(error).partition('Traceback (most recent call last):')
  text = text + trace.strip().splitlines()[-1] if traced else text
  return shown(' '.join(str(told or place or text).split()), _LONGEST_REASON)


def _lacking(file: str, flags: Sequence[str]) -> str:
  """Returns the sentence, without its end, on the first field that `flags` set and the config does not have; or ''."""
  if not file:
    return ''
  alone, call = absl_flags.FlagValues(), ['', f'--config={file}']
  config_flags.DEFINE_config_file('config', flag_values=alone, sys_argv=call)
  try:
    alone(call)
  except Exception:  # a config is a program, and can raise anything
    return ''
  config = alone.config
  if not isinstance(config, ConfigDict):
    return _NO_CONFIG
  for match in filter(None, (re.match(r'--?(?:no)?config\.([^=]+)', flag) for flag in flags)):
    section, names = config, match[1].split('.')
    for depth, name in enumerate(names):
      above = names[:depth]
      if not isinstance(section, ConfigDict):
        return f'the config has no field {match[1]}: {".".join(above)} is no section of the config'
      if name not in section:
        close = difflib.get_close_matches(name, section, 1)
        told = f'; did you mean {".".join([*above, *close])}?' if close else ''
        return f'the config has no field {match[1]}{told}'
      section = section[name]
  return ''


def check_made(config: Any) -> None:
  """Raises what a file of a config raises, which is told at its first use only, and ValueError for no ConfigDict."""
  if not hasattr(config, 'update_from_flattened_dict'):
    raise ValueError(_NO_CONFIG)
  config.get('base')


def _check_file(path: str) -> None:
  """Raises UserError unless `path` is a Python file with get_config(); it is not run."""
  wanted = 'a config is a Python file with get_config(), as those in configs/'
  try:
    content = Path(path).read_text(encoding='utf-8')
  except (OSError, ValueError) as error:
    raise UserError(f'{path} cannot be read; {wanted}.') from error
  if content.lstrip().startswith('{'):
    raise UserError(
      f'{path} is JSON, as a run writes for itself; {wanted}. What a run was started with stands in its results.json '
      "as 'command'."
    )
  try:
    nodes = list(ast.walk(ast.parse(content)))
  except (SyntaxError, ValueError, RecursionError) as error:
    raise UserError(f'{path} is no Python; {wanted}.') from error
  if not any('get_config' in (getattr(node, 'name', ''), getattr(node, 'id', '')) for node in nodes):
    raise UserError(f'{path} has no get_config(); {wanted}.')


def default() -> ConfigDict:
  """Returns the config that every file in configs/ starts from."""
  c = ConfigDict()

  # What to adapt: a .pth, .pt or .safetensors file, a params folder written by this package, the name of published
  # weights or 'bundled:NAME' of those in the package (`python -m adaptsr_jax.zoo` lists both), or 'random'.
  c.base = ''
  # Which network of a file with several, e.g. 'params'; default: the averaged one. As config.base=FILE::NAME.
  c.key = ''
  # Write merged.pth with the wrappers and prefixes of the base; default: plain keys, which all programs read.
  c.like_source = False
  # The variant that base='random' builds: a name of adaptsr_jax.models.PRESETS, e.g. 'safmn_x4'.
  c.model = ''
  # Hyper-parameters that a checkpoint does not tell, as 'res_scale=0.1,img_range=255' or 'rgb_mean=0.5,0.5,0.5'; they
  # win over detected ones.
  c.fields = ''

  # 'lora': adapters in the sites' kernels. 'full': the parameters themselves.
  c.method = 'lora'
  # An adapter file that training starts from, of the same base and method; empty: from the base. Its ranks stay as
  # they are, or grow to `lora.rank` under lora.rule='uniform'.
  c.init_from = ''
  # Optimisation steps; 0 measures the base alone.
  c.steps = 2000
  # Seed of everything random: adapters, order and crops of the pictures, random scores.
  c.seed = 0
  # Pairs per step.
  c.batch_size = 8
  # Side of the training crops, in HR pixels.
  c.patch = 256
  # Compute precision; parameters, merging and the optimiser stay in float32.
  c.dtype = 'float32'
  # Compute each block of SwinIR or DRCT again for its gradients instead of keeping what it computed: about a tenth is
  # left to be kept, for a quarter to a third more operations (docs/window_models.md). Of no use on a CPU.
  c.remat = False

  c.data = ConfigDict()
  # Where the pictures come from; see `_pictures`.
  c.data.train = _pictures()
  # The simulated camera that makes LR from HR, anew in every batch: 'realesrgan', or 'stablesr', a milder one. 'none':
  # LR as it is given, or else as MATLAB's bicubic kernel shrinks HR.
  c.data.train.degrade = 'none'
  # Parts of a mixture with their weights: 'root=DIV2K track=unknown weight=1; hr=PHOTOS degrade=realesrgan weight=2'.
  c.data.train.mix = ''
  # Measured before and after; empty: no measurements.
  c.data.valid = _pictures()
  # Decide which state is the best, when to stop, and what strength is recommended; empty: `valid` does, which then
  # flatters itself. Pictures of another camera than that of `train` tell what an adaptation does to others.
  c.data.decide = _pictures()
  # Ranges and probabilities of the simulated camera; what is not given is as the preset has it.
  c.data.degrade = _camera()
  # Sharpen what degraded pictures are compared with (unsharp mask, as Real-ESRGAN does).
  c.data.usm = False
  # Give the HR crops of pairs the exposure of their LR crops, by a gain and an offset fitted to each: pictures of real
  # cameras differ in exposure from pair to pair, which a network cannot know.
  c.data.match_exposure = False
  # Licence of the training pictures, for those who get the adapter file; that of the sample photographs is known.
  c.data.licence = ''
  # Processes that read and crop; 0 does it in a thread of this one.
  c.data.workers = 0
  # Decoded pictures are kept in memory up to this size (GiB).
  c.data.cache_gb = 2.0

  # Sites: the kernels that a method may adapt.
  c.sites = ConfigDict()
  # Those of these kinds only ('conv', 'mlp', 'attn'); empty: all. Full fine-tuning then trains kernels and biases of
  # the sites, and every parameter where this is empty.
  c.sites.kinds = ()
  # Regular expressions; sites whose name contains a match are left alone.
  c.sites.exclude = ()
  # Make three sites of a fused attention kernel: its q, k and v columns.
  c.sites.split_qkv = False

  # What each method has to choose, under its name: see `fields` in adaptsr_jax/methods/NAME.py.
  for name, module in methods.METHODS.items():
    if hasattr(module, 'fields'):
      c[name] = module.fields()

  c.score = ConfigDict()
  # What makes a kernel important: 'gradient' (norm), 'fisher' (diagonal), 'activation' (RMS), 'random'.
  c.score.kind = 'gradient'
  # Training batches that are scored (the paper uses one).
  c.score.batches = 16
  # 'none', 'sqrt_size' (root-mean-square gradient) or 'per_cost' (first-order gain per adapter parameter).
  c.score.normalise = 'none'
  # Over several batches: norm of the mean gradient, or mean of the norms.
  c.score.reduce = 'norm_of_mean'

  c.loss = ConfigDict()
  # What the training loss takes of each term; 0 leaves it out. (Ranks are scored with L1 all the same.) On pixels: mean
  # absolute error, its smooth variant, mean squared error, and the mean absolute error of the mean colours of squares
  # of 16 pixels.
  c.loss.l1 = 1.0
  c.loss.charbonnier = 0.0
  c.loss.mse = 0.0
  c.loss.colour = 0.0
  # On features: VGG19 before its ReLUs as in Real-ESRGAN, LPIPS with AlexNet, DISTS. Their weights lie where those of
  # the metrics do (see `metric_weights`).
  c.loss.perceptual = 0.0
  c.loss.lpips = 0.0
  c.loss.dists = 0.0
  # By a discriminator that is trained beside; see `gan`.
  c.loss.adversarial = 0.0

  c.gan = ConfigDict()
  # 'patch' judges patches of 26 pixels, for 0.1 M parameters; 'unet', of Real-ESRGAN, every pixel, for 4.4 M.
  c.gan.discriminator = 'patch'
  # Channels of its first layer; 0: 32 of 'patch', 64 of 'unet'.
  c.gan.width = 0
  # Weights of a U-Net to start from: RealESRGAN_x4plus_netD.pth, of release v0.2.2.3 of Real-ESRGAN; empty: random.
  c.gan.init_from = ''
  # 'vanilla' (binary cross-entropy), 'hinge', or 'relativistic' (average, as in ESRGAN).
  c.gan.kind = 'vanilla'
  # Adam's learning rate of the discriminator, without a schedule.
  c.gan.lr = 1e-4
  # Steps in which the adversarial term is left out: the discriminator learns, what is adapted follows the other terms.
  c.gan.warmup = 0
  # Largest norm of the gradient of the adversarial term at the enlarged pictures, in norms of that of L1 (of weight 1).
  # 0: none.
  c.gan.ceiling = 0.0

  c.optim = ConfigDict()
  # Adam's learning rate; 0: that of the preset.
  c.optim.lr = 0.0
  # 'short': what served runs of hundreds of steps best on three networks (lora 2e-3, full 5e-4;
  # experiments/008_promise). 'paper': the rates of its long runs (1e-3, 2e-4). Other methods have one rate.
  # 'auto': a tenth of the rate at which training falls apart, found by 80 to 200 updates of probes before the run; on
  # the command line --config.optim.lr=auto is short for it.
  c.optim.preset = 'short'
  # Learning rate of trained biases relative to `lr`, which suits factors: biases move pictures as a whole.
  c.optim.bias_lr_scale = 0.2
  # Learning rate of the second factors b of adapters (methods lora and dora), which start at 0, relative to `lr`, that
  # of the first. Above 1: LoRA+ (Hayou et al., ICML 2024).
  c.optim.b_lr_scale = 1.0
  c.optim.b1 = 0.9
  c.optim.b2 = 0.99
  # 'steps': three decays by half (adapters). 'halvings': four, as full fine-tuning in the paper. 'auto': by method.
  # 'wsd': constant, then a decay to nothing over the last fifth; a run can be made longer, or its decay begun, at any
  # state before that by another `steps`.
  c.optim.schedule = 'auto'
  # Steps of linear warm-up.
  c.optim.warmup = 0
  # Largest global norm of the gradient, far above the usual: for the rare batch that explodes. 0: no clipping.
  c.optim.clip = 1.0
  # Decay of the average of the trained parameters that is measured and exported; 0: no average. Real pairs differ in
  # exposure, and without an average the last few batches decide the level of dark pictures.
  c.optim.ema = 0.99
  # Batches whose gradients are averaged into one update.
  c.optim.accumulate = 1

  # Every how many steps to print and check for NaN, to measure, and to save; 0: 50, 10 and 10 times in a run.
  c.log_every = 0
  c.eval_every = 0
  c.save_every = 0
  # Which state is merged and exported: the last, or the best of the measured ones (see `data.decide`) by the value
  # `best`: psnr (which is psnr_y), ssim (ssim_y), psnr_rgb, ssim_rgb, or one of `metrics`, such as lpips.
  c.export = 'last'
  c.best = 'psnr_y'
  # Stop after so many measurements in a row that are no better than the best before; 0: never.
  c.patience = 0
  # Measured at the end: the network with so much of its change, 1 being all (`adapters merge --strength`).
  c.strengths = (0.6, 0.8)
  # What is measured of base and result beside PSNR and SSIM: lpips, dists, niqe.
  c.metrics = ()
  # Folder with the weights of lpips, dists and niqe, as metrics and as losses; empty: they are downloaded by name.
  c.metric_weights = ''
  # Side of the LR tiles in which pictures are measured; -1: whole pictures, 0: tiles for large ones.
  c.eval_tile = -1
  # Note in the adapter file which cameras took the LR pictures of training, by their EXIF: make, model, lens and ISO.
  c.record_cameras = True
  # Put a small picture into the adapter file: a crop of a validation picture by the base and as adapted.
  c.thumbnail = True
  # Also write TensorBoard events to the run's folder.
  c.tensorboard = True
  # Devices that share each batch; 0: all GPUs of the host that divide it, or one CPU, which uses all its cores (more
  # of them gain nothing there). With several processes, those of each.
  c.devices = 0
  # Operations that give the same bits in every run on a GPU (slower); a CPU always does.
  c.deterministic = False
  return c


def _camera() -> ConfigDict:
  """Returns the fields of `data.degrade.Options`, which tells what each means, without values."""
  defaults = {name: value for name, value in degrade.Options()._asdict().items() if name != 'kind'}
  return ConfigDict({name: config_dict.placeholder(type(value)) for name, value in defaults.items()})


def as_in_paper(c: ConfigDict) -> None:
  """Sets what the paper states, where the defaults are others because they serve short runs better."""
  c.lora.form = 'loralib'  # the form that gives the published counts
  c.lora.alpha = 1.0
  c.lora.rslora = False
  c.lora.biases = True
  c.optim.preset = 'paper'
  c.optim.bias_lr_scale = 1.0
  c.optim.clip = 0.0
  c.optim.ema = 0.0
  c.score.batches = 1


def _pictures() -> ConfigDict:
  """Returns where pictures come from: one of `hr`, `root`, `tfds` and `packed` is given."""
  c = ConfigDict()
  # Folders of pictures that pair by name. Without lr, LR is made from HR. As hr, 'samples:train' and 'samples:valid'
  # are sample photographs in the LR of a simulated camera (x4).
  c.lr = ''
  c.hr = ''
  # The folder of a data set as it is distributed (RealSR, DRealSR, DIV2K, DPED, StableSR's test sets), or with LR and
  # HR folders inside; and which of its tracks, where it has several ('unknown').
  c.root = ''
  c.track = ''
  # A TFDS builder config that is prepared as array_record, e.g. 'div2k/bicubic_x4'.
  c.tfds = ''
  # A folder that `python -m adaptsr_jax.pack` wrote.
  c.packed = ''
  # Restrict the pictures to these names, or leave these out: 'a,b,c' or a text file with one name a line.
  c.names = ''
  c.skip_names = ''
  return c


def with_homes(config: ConfigDict) -> ConfigDict:
  """Returns `config` with ~ at the start of a path written out, as it is in flags."""
  changed = {name: os.path.expanduser(v) for name, v in flat(config).items() if isinstance(v, str) and v[:1] == '~'}
  config = config.copy_and_resolve_references()
  config.update_from_flattened_dict(changed)
  return config


def validate(config: ConfigDict) -> None:
  """Raises UserError that names the first field whose value cannot work, and what would."""
  for old, new in RENAMED.items():
    if old in flat(config):
      raise UserError(renamed(old, new))
  known = flat(default())
  for name, value in flat(config).items():
    if name not in known:
      near = difflib.get_close_matches(name, known, 1, 0) or [name]
      raise UserError(f'The config has a field {name!r} that no run has; the nearest is config.{near[0]}.')
    kind, word = _TYPES.get(type(known[name]), (object, ''))
    if not isinstance(value, kind) or (isinstance(value, bool) and kind not in (bool, object)):
      raise UserError(f'config.{name} is {shown(repr(value))}; it must be {word}.')
    if isinstance(value, int) and abs(value) >= 2**31 or isinstance(value, float) and not math.isfinite(value):
      raise UserError(f'config.{name} is {value}; it must be a finite number, and a whole one below {2**31}.')
    if isinstance(value, list) and not name.startswith('data.degrade.'):
      kind, word = ((int, float), 'numbers') if name == 'strengths' else (str, 'texts')
      if not all(isinstance(item, kind) for item in value):
        raise UserError(f'config.{name} is {value!r}; it must be a tuple of {word}.')
  own = {'method': tuple(methods.METHODS)}
  least, most = dict(_LEAST), dict(_MOST)
  for method, module in methods.METHODS.items():
    own |= {f'{method}.{name}': allowed for name, allowed in getattr(module, 'CHOICES', {}).items()}
    least |= {f'{method}.{name}': value for name, value in getattr(module, 'LEAST', {}).items()}
    most |= {f'{method}.{name}': value for name, value in getattr(module, 'MOST', {}).items()}
  for name, allowed in (own | CHOICES).items():
    value = get(config, name)
    if value not in allowed:
      raise UserError(f'config.{name} is {value!r}; it can be one of: {", ".join(allowed)}.')
  for name, allowed in (('sites.kinds', KINDS), ('metrics', (*table.GROUPS, *table.METRICS))):
    unknown = [value for value in get(config, name) if value not in allowed]
    if unknown:
      raise UserError(f'config.{name} contains {unknown[0]!r}; it can have: {", ".join(allowed)}.')
  for name, value in least.items():
    if get(config, name) < value:
      raise UserError(f'config.{name} is {get(config, name)}; it must be at least {value}.')
  for name, value in most.items():
    if get(config, name) > value:
      raise UserError(f'config.{name} is {get(config, name)}; it can be at most {value}.')
  if not config.base:
    raise UserError(
      "config.base is empty; give a .pth, .pt or .safetensors file, a params folder, or 'random' with config.model."
    )
  for part in PARTS:
    named = sources(config, part)
    if len(named) > 1:
      raise UserError(f'config.data.{part}.{named[0]} and config.data.{part}.{named[1]} are both given; give one.')
    if config.data[part].lr and not config.data[part].hr:
      raise UserError(f'config.data.{part}.lr is given without config.data.{part}.hr.')
  if config.steps and not sources(config, 'train'):
    raise UserError(
      'config.data.train.hr is empty; give the folder of HR pictures (or root, tfds, packed or mix instead), or '
      'config.steps=0 to only measure.'
    )
  if not config.steps and not sources(config, 'valid'):
    raise UserError('config.data.valid.hr is empty, so a run of 0 steps has nothing to measure.')
  for name in ('ema', 'b1', 'b2'):
    if not 0 <= config.optim[name] < 1:
      raise UserError(f'config.optim.{name} is {config.optim[name]}; it must be at least 0 and below 1.')
  if config.steps:
    _check_steps(config)
  measured = [
    key for name in ('psnr', 'ssim', *config.metrics) for row in table.names_of(name) for key in table.METRICS[row].keys
  ]
  if table.key_of(config.best) not in measured:
    raise UserError(
      f'config.best is {config.best!r}, and what is measured is {", ".join(measured)}; see config.metrics.'
    )
  if sources(config, 'decide') and not sources(config, 'valid'):
    raise UserError('config.data.decide is given, but nothing that is measured: give config.data.valid.hr.')
  for name, asked in (('export', config.export == 'best'), ('patience', config.patience)):
    if asked and not sources(config, 'valid'):
      raise UserError(f'config.{name} is {config[name]!r}, which needs validation pictures: give config.data.valid.hr.')
  for value in config.strengths:
    if not 0 < value < 1:
      raise UserError(f'config.strengths has {value}; each must be above 0 and below 1.')
  for pattern in config.sites.exclude:
    try:
      re.compile(pattern)
    except re.error as error:
      raise UserError(f'config.sites.exclude has {pattern!r}, which is no regular expression ({error}).') from error
  for module in methods.METHODS.values():
    if hasattr(module, 'check'):
      module.check(config)


def probes_rate(config: ConfigDict) -> bool:
  """Tells whether the learning rate of a run is found by probes."""
  return config.optim.preset == 'auto' and not config.optim.lr


def _check_steps(config: ConfigDict) -> None:
  """Raises UserError where the steps of a run are over before they have trained anything."""
  o, g, updates = config.optim, config.gan, config.steps // config.optim.accumulate
  if not updates:
    raise UserError(
      f'config.optim.accumulate is {o.accumulate}, more than config.steps={config.steps}: there would be no update.'
    )
  if o.warmup >= updates:
    raise UserError(
      f'config.optim.warmup is {o.warmup}, and the run has {updates} updates: it would end before it has its rate.'
    )
  adversarial, others = config.loss.adversarial, any(config.loss[term] for term in LOSSES if term != 'adversarial')
  if adversarial and not others and g.warmup >= config.steps:
    raise UserError(
      f'config.gan.warmup is {g.warmup}, and in these steps there is no other loss than the adversarial one; '
      f'config.steps is {config.steps}.'
    )
  if adversarial and not g.lr and not g.init_from:
    raise UserError('config.gan.lr is 0: a random discriminator that learns nothing teaches nothing.')
  if probes_rate(config):
    if adversarial:
      raise UserError("config.optim.preset='auto' looks for the rate of one player, not of two: give config.optim.lr.")
    if updates < _PROBED:
      raise UserError(
        f"config.optim.preset='auto' looks for a rate in 80 to 200 updates, and the run has {updates}; give it "
        f'{_PROBED} or more, or config.optim.lr.'
      )


_MOST = {
  # More than a machine has use for; each takes memory of its own.
  'data.workers': max(16, 4 * (os.cpu_count() or 1)),
  'gan.width': 1024,
}

_TYPES = {
  bool: (bool, 'True or False'),
  int: (int, 'a whole number'),
  float: (int | float, 'a number'),
  str: (str, 'text'),
  list: (list, 'a tuple'),
}
_NOT_NEGATIVE = (
  *('steps', 'seed', 'data.workers', 'data.cache_gb', 'devices', *(f'loss.{term}' for term in LOSSES)),
  *(f'gan.{name}' for name in ('width', 'lr', 'warmup', 'ceiling')),
  *(f'optim.{name}' for name in ('lr', 'bias_lr_scale', 'warmup', 'clip')),
  *('log_every', 'eval_every', 'save_every', 'patience'),
)
_LEAST = {
  **dict.fromkeys(_NOT_NEGATIVE, 0),
  **dict.fromkeys(('batch_size', 'patch', 'score.batches', 'optim.accumulate'), 1),
  'optim.b_lr_scale': 0.01,  # at 0 adapters would stay what they are
  'eval_tile': -1,
}


def sources(config: ConfigDict, part: str) -> list[str]:
  """Returns the fields that say where the pictures of 'train' or 'valid' come from."""
  return [field for field in SOURCES if config.data[part].get(field)]


def get(config: ConfigDict, name: str) -> Any:
  """Returns the field 'a.b.c'."""
  for part in name.split('.'):
    config = config[part]
  return config


def flat(config: ConfigDict | dict, prefix: str = '') -> dict[str, Any]:
  """Returns {'a.b.c': value} with tuples as lists, as JSON gives them back."""
  fields = {}
  for key, value in config.items():
    if isinstance(value, ConfigDict | dict):
      fields.update(flat(value, f'{prefix}{key}.'))
    else:
      fields[prefix + key] = list(value) if isinstance(value, tuple) else value
  return fields


def renamed(old: str, new: str) -> str:
  """Returns the sentence on a field that has another name now."""
  return f'config.{old} is called config.{new}: it says which sites there are, for every method.'


def kept(fields: dict[str, Any]) -> dict[str, Any]:
  """Returns {'a.b.c': value} of the config that a run has kept, by the names of today.

  What is newer than the run has its default.
  """
  fields = flat(fields)
  for old, new in RENAMED.items():
    value = fields.pop(old, None)
    # Each method had kinds of its own, and the adapters all of them by default.
    own = not old.endswith('.kinds') or old.startswith(f'{fields.get("method")}.')
    if own and value is not None:
      fields[new] = [] if old == 'lora.kinds' and value == list(KINDS) else value
  if not fields.get('optim.lr'):
    fields.setdefault('optim.preset', 'paper')  # versions before this field had no other rates
  return flat(default()) | fields


def restored(fields: dict[str, Any]) -> ConfigDict:
  """Returns the config that a run has kept, by the names of today."""
  return ConfigDict(tree.unflatten({name.replace('.', '/'): value for name, value in kept(fields).items()}))


def parse_fields(text: str, flag: str = 'config.fields') -> dict[str, Any]:
  """Reads 'res_scale=0.1,depths=6,6,qk_scale=none' into numbers, tuples of them, true/false, None and strings.

  Args:
    text: what was given.
    flag: where, for the error.

  Raises:
    UserError: it does not begin with 'name='.
  """
  given: dict[str, list[Any]] = {}
  name = ''
  for part in filter(None, (part.strip() for part in text.split(','))):
    key, separator, value = part.partition('=')
    if separator:
      name = key.strip()
      given[name] = []
    if not name:
      raise UserError(f'{flag} has {part!r}; write it as name=value, several separated by commas.')
    given[name].append(_literal((value if separator else part).strip()))
  return {name: values[0] if len(values) == 1 else tuple(values) for name, values in given.items()}


def numbers(text: str, count: int, flag: str) -> list[float]:
  """Reads 'count' finite numbers with commas between; UserError where there are others or something else."""
  try:
    values = [float(word) for word in text.split(',')]
  except ValueError as error:
    raise UserError(f'{flag} is {text!r}; give numbers with commas between, e.g. 0.5,0.5.') from error
  if len(values) != count or not all(map(math.isfinite, values)):
    raise UserError(f'{flag} is {text!r}; give {count} finite numbers, one for each input.')
  return values


def labelled(text: str) -> tuple[str, str]:
  """Returns (label, where) of 'LABEL=WHERE'; a plain path, or one that has '=' in its name, is its own label."""
  label, joined, where = text.partition('=')
  there = os.path.exists(text) or os.path.exists(text.rpartition('::')[0])  # FILE::NETWORK
  is_label = bool(label and joined and where) and os.sep not in label and not there
  return (escaped(label), where) if is_label else (escaped(text), text)


def _literal(text: str) -> Any:
  for kind in (int, float):
    try:
      return kind(text)
    except ValueError:
      continue
  return {'true': True, 'false': False, 'none': None}.get(text.lower(), text)

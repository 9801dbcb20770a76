"""One run, straight down: a config and a folder in, a merged checkpoint, an adapter, a table and a picture out."""

import functools
import json
import os
import platform
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from clu import parameter_overview
from ml_collections import ConfigDict

from adaptsr_jax import (
  __version__,
  bicubic,
  data,
  figures,
  files,
  image,
  infer,
  memory,
  methods,
  metrics,
  params_folder,
  tree,
)
from adaptsr_jax import base as base_lib
from adaptsr_jax import config as config_lib
from adaptsr_jax import devices as devices_lib
from adaptsr_jax import processes as processes_lib
from adaptsr_jax.adapt import folder as folder_lib
from adaptsr_jax.adapt import gan, losses, prepare, rate, samples, show, step, train, warm_up
from adaptsr_jax.adapt.folder import Folder
from adaptsr_jax.adapters import cameras, card
from adaptsr_jax.adapters import file as adapter_file
from adaptsr_jax.errors import UserError, enough_memory
from adaptsr_jax.evaluate import asked as measures
from adaptsr_jax.evaluate import measure, statistics, tables
from adaptsr_jax.log import Work, say, watched
from adaptsr_jax.metrics.table import METRICS, key_of
from adaptsr_jax.tree import Params

_STILL = 1e-9  # no picture tells a weight from one that is nearer


def run(config: ConfigDict, workdir: str | os.PathLike, command: str = '') -> dict[str, Any]:
  """Adapts a base to pairs of pictures and writes everything to `workdir`; continues where an earlier start stopped.

  Args:
    config: of the run.
    workdir: folder of the run.
    command: what started it, for the record.

  Returns:
    The content of results.json.

  Raises:
    UserError: bad input, or a loss that is not a number.
    Interrupted: after Ctrl-C or a termination signal; the state is saved.
  """
  config_lib.validate(config)
  config, workdir = config_lib.with_homes(config), os.path.expanduser(workdir)
  config.best = key_of(config.best)
  with folder_lib.alone(workdir) as folder:
    return _run(config, folder, command)


def _run(config: ConfigDict, folder: Folder, command: str) -> dict[str, Any]:
  # 1. Config: a second start must compute the same thing.
  workdir, done = folder.path, processes_lib.decide(lambda: folder.done)
  processes_lib.decide(lambda: folder.check_config(config))

  # 2. Base, and the pictures it is to fit.
  setup = prepare.prepare(config)
  base = setup.base
  say(prepare.describe(config, setup))
  material = _material(config, setup)
  processes_lib.decide(lambda: folder.check_material(material))
  _check_agreement(config, material)
  asked = measures.load(('psnr', 'ssim', *config.metrics), config.metric_weights)
  criterion = losses.make(config)
  devices = devices_lib.choose(config.devices, config.batch_size) if config.steps else None
  batches = prepare.batches(config, setup.train, config.seed, devices) if setup.train and config.steps else None
  if devices:
    rest = f' ({devices.left_out} more do not divide it)' if devices.left_out else ''
    say(f'Each batch of {config.batch_size} is shared by {devices.number} devices{rest}.')
  for name, sentence in asked.missing.items():
    if config.best in METRICS[name].keys:
      raise UserError(f'config.best is {config.best!r}, and {sentence}')
    say(sentence)
  if not done:
    processes_lib.decide(lambda: prepare.check_pixels(setup))

  # 3., 4. and 5. Method: what is decided before training, what is frozen, what is trained.
  # Of several processes the first one decides alone.
  sharing = devices if processes_lib.count() == 1 else None
  first = functools.partial(
    warm_up.run, config, setup, criterion=criterion, folder=folder, material=material, devices=sharing
  )
  method, ranks, tensors = _method_of_run(config, setup, folder, first if config.steps else None)
  parts = methods.restore(method, base.params, tensors, jax.random.key(config.seed))
  frozen, trainable = devices_lib.agreed(parts) if devices else parts  # processors of several kinds round otherwise
  trainable_parameters, total_parameters = tree.count(trainable), tree.count(base.params)
  if config.steps and not trainable_parameters:
    raise UserError(
      f'Nothing is left to train by {config.method}: no site of the kinds asked for, or no budget for it.'
    )

  make_training = gan.two_players if config.loss.adversarial else step.plain
  training = make_training(config, setup.model.apply, method, frozen, trainable, criterion, devices)

  if not done:
    # Up to three states are kept while a fourth is written; the network twice.
    size = [sum(leaf.nbytes for leaf in jax.tree.leaves(part)) for part in (training.state, base.params)]
    processes_lib.decide(lambda: files.check_room(folder.path, 4 * size[0] + 2 * size[1]))
  # The folder is taken now that nothing that was given can be wrong any more.
  if processes_lib.first():
    folder.take(config, material)
    overview = parameter_overview.get_parameter_overview(base.params, include_stats=False)
    files.write(workdir / 'parameters.txt', overview + '\n')
    folder.keep_method(method, tensors)
    if ranks:
      folder.write('ranks', ranks)
      figures.rank_heatmap(workdir / 'ranks.png', ranks['ranks'], f'Ranks by {ranks["rule"]}')
  if table := methods.table(method.spec, tree.flatten(trainable)):
    say(table)
  share = 100 * trainable_parameters / total_parameters
  doing = 'Training' if config.steps else 'Would train'
  say(f'{doing} {trainable_parameters:,} of {total_parameters:,} parameters ({share:.1f} %) by {config.method}.')

  probed = {}
  if config.steps and config_lib.probes_rate(config):
    probed = processes_lib.decide(lambda: folder.read_or_tell('rate'))
    if not probed:
      with enough_memory(prepare.memory_advice(config, setup.model)):
        found = rate.find(config, setup, training, devices)
      probed = processes_lib.decide(lambda: found)
    folder.write('rate', probed)
    training = step.at_rate(training, config, probed['rate'])

  # 6. and 7. Steps and measurements.
  apply_fn, params_of = methods.deployed(method, setup.model.apply)
  # Between the steps only what decides the best state; the rest takes long.
  decisive = (metrics.quality,) if config.best in metrics.FIDELITY else asked.functions

  def network(params: Any, apply_fn: Callable[..., Any] = apply_fn) -> infer.Network:
    return infer.network(setup.model, params, config.eval_tile, apply_fn=apply_fn)

  deciding = setup.decide or setup.valid
  crops = samples.windows(deciding) if deciding else {}

  def measured(
    restore: Callable[..., Any],
    functions: measure.Functions = asked.functions,
    on: data.Source | None = setup.valid,
    sampled: dict[str, Any] | None = None,
  ) -> dict[str, Any]:
    share = processes_lib.share(len(on))
    items = measure.restored(restore, watched(data.pairs(on, share), 'Measuring', len(share)))
    return measure.score(items if sampled is None else samples.taken(items, crops, sampled), functions)

  def decided(trained: Params, sampled: dict[str, Any] | None = None) -> dict[str, Any]:
    # Merged on the host like what is exported: on the device the last bit is another.
    restore = network(params_of(frozen, jax.device_get(trained)))
    return measured(restore, decisive, deciding, sampled)

  def once(label: str, restore: Callable[..., Any]) -> dict[str, Any]:
    return folder.measured_once(label, lambda: _told(label, measured(restore)), asked.protocol)

  networks = {'base': network(base.params, setup.model.apply)}
  enlarged = reference = None
  if setup.valid is not None:
    enlarged, reference = once('bicubic', bicubic.imresize), once('base', networks['base'])
  trained = train.Trained(trainable, 0, 0.0, None, None, None)
  if config.steps:

    def watch(leaves: Params) -> tuple[dict[str, Any], dict[str, Any]]:
      sampled: dict[str, Any] = {}
      result = decided(leaves, sampled)
      return result, samples.of_all(crops, sampled)

    with enough_memory(prepare.memory_advice(config, setup.model)):
      trained = train.train(config, training, batches, watch if setup.valid else None, workdir)
  params = jax.device_get(params_of(frozen, trained.trainable))
  if config.steps:
    _check_moved(jax.device_get(params_of(frozen, trainable)), params, trained.steps)
  networks['adapted'] = network(params)
  adapted = reference
  if reference and config.steps:
    again = decisive != asked.functions or not trained.measured or setup.decide
    adapted = measured(networks['adapted']) if again else trained.measured
    adapted = {**adapted, 'difference': tables.differences(adapted, reference)}
  strengths = {}
  if reference and config.steps:
    with_strength = functools.partial(_at_strength, base, method, trained.trainable)
    strengths = _strengths(config, with_strength, decided, None if setup.decide else (reference, adapted))

  # 8. Export.
  pictures = dict(zip(config_lib.PARTS, (setup.train, setup.valid, setup.decide), strict=True))
  results = {
    'method': method.spec['method'],
    'unmergeable': method.unmergeable,
    'steps': trained.steps,
    'trainable_parameters': trainable_parameters,
    'total_parameters': total_parameters,
    'seconds': trained.seconds + ranks.get('training_seconds', 0) + probed.get('seconds', 0),
    **({'rate': probed} if probed else {}),
    'energy_joules': trained.joules,
    'peak_memory_bytes': peak_memory_bytes(),
    'bicubic': enlarged,
    'base': reference,
    'adapted': adapted,
    'best': trained.best,
    'strengths': strengths,
    'protocol': {
      **asked.protocol,
      'crop': setup.model.upscale,
      'tile': config.eval_tile,
      'interval': statistics.PROTOCOL,
    },
    'base_file': str(config.base),
    'base_fingerprint': material['base'],
    'data': {part: source.describe() for part, source in pictures.items() if source},
    'model': {'name': base.name, 'fields': base.fields, 'assumed': base.assumed},
    'adapter_parameters': ranks.get('parameters', 0),
    'versions': versions(),
    'device': jax.devices()[0].device_kind,
    'devices': devices.number if devices else 1,
    'processes': processes_lib.count(),
    'config': config.to_dict(),
    'command': command,
  }
  left_out = measure.left_out(adapted) if adapted else {}
  if left_out:
    results['protocol']['left_out'] = ', '.join(f'{key} of {count} without an error' for key, count in left_out.items())
  with Work('Enlarging what is shown'):
    rows = show.compared(setup.valid, networks, results)
  if not processes_lib.first():
    return results
  with Work('Writing the network'):
    _export(workdir, base, params, method, trained.trainable, results, _told_of(config, setup, rows))

  # 9. Show.
  with Work('Drawing'):
    show.draw(workdir, rows, results)
    if crops:
      samples.draw(workdir, deciding, crops, networks['base'])
  folder.write('results', results)
  say(show.summary(results, workdir))
  return results


def _check_moved(before: Any, after: Any, steps: int) -> None:
  """Raises UserError where training has changed nothing that would be deployed."""
  leaves = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
  if all(np.allclose(a, b, rtol=0, atol=_STILL) for a, b in leaves):
    raise UserError(
      f'{steps} steps changed no weight: gradients or rates are too small for any change. Look at config.optim.lr, '
      'config.optim.clip and the weights of config.loss, and give another --workdir.'
    )


def _check_agreement(config: ConfigDict, material: dict[str, str]) -> None:
  """Raises UserError where this process was told, or sees, something else than the first."""
  ours = config_lib.flat(config) | material
  theirs = processes_lib.decide(lambda: ours)
  other = [name for name, value in json.loads(json.dumps(ours)).items() if theirs.get(name) != value]
  if other:
    raise UserError(
      f'Process {processes_lib.index()} has another {other[0]} than process 0: give all the same flags and files.'
    )


def _method_of_run(
  config: ConfigDict, setup: prepare.Setup, folder: Folder, first: prepare.WarmUp | None
) -> tuple[methods.Method, Mapping[str, Any], methods.Tensors]:
  """As `_planned`; of several processes the first plans."""
  if processes_lib.count() == 1:
    return _planned(config, setup, folder, first)
  method, ranks, tensors = None, {}, {}
  if processes_lib.first():
    try:
      with processes_lib.alone():
        method, ranks, tensors = _planned(config, setup, folder, first)
    except train.Interrupted as stop:  # of the others none has a step to end
      raise UserError(str(stop)) from stop
  spec, ranks = processes_lib.decide(lambda: [dict(method.spec), dict(ranks)])
  sent = [method.constants if method else {}, tensors]
  constants, tensors = (
    safetensors.numpy.load(processes_lib.shared(safetensors.numpy.save(jax.device_get(dict(part))))) for part in sent
  )
  return methods.from_spec(spec, constants), ranks, tensors


def _planned(
  config: ConfigDict, setup: prepare.Setup, folder: Folder, first: prepare.WarmUp | None
) -> tuple[methods.Method, Mapping[str, Any], methods.Tensors]:
  """Returns the method, the content of ranks.json, and what is trained already: as an earlier start had it, if any."""
  ranks, method, tensors = {}, None, {}
  if folder.done:
    ranks, method = folder.read_or_tell('ranks') or {}, folder.method()
    if method and not ranks and hasattr(methods.module_of(method.spec), 'with_ranks'):
      method = None  # what led to the ranks is needed too
    if method:
      tensors = folder.start()
    elif ranks and not (folder.path / 'method.json').exists():  # versions before this one kept ranks only
      method = methods.make(config, setup.sites, ranks['ranks'])
  # A run that has to begin again, as its states are damaged, needs what it began with; one that goes on does not.
  if config.init_from and (method is None or os.path.exists(config.init_from)):
    adapter = adapter_file.load(config.init_from)
    adapter_file.check_base(adapter.meta, setup.base.params)
    spec = adapter_file.spec_of(adapter)
    plan, tensors = methods.grow(config, setup.sites, spec, adapter.tensors, adapter.constants)
  elif method is None:
    plan = methods.plan(config, setup.sites, prepare.Scores(config, setup, first))
    tensors = plan.start
  if method is None:
    method, ranks = methods.from_spec(plan.spec, plan.constants), plan.ranks
  return method, ranks, tensors


def _strengths(
  config: ConfigDict,
  at: Callable[[float], Params],
  measured: Callable[[Params], dict[str, Any]],
  ends: tuple[dict[str, Any], dict[str, Any]] | None,
) -> dict[str, float]:
  """Returns strength -> value of `config.best` on the pictures that decide; empty where nothing can be in between.

  Args:
    config: of the run.
    at: strength -> what was trained, weakened.
    measured: what was trained -> measurement.
    ends: measurements at the strengths 0 and 1, where they are there already.
  """
  try:
    between = {strength: at(strength) for strength in sorted(config.strengths)}
  except UserError:  # a method that cannot be scaled
    return {}
  if not between:
    return {}
  low, high = ends or (measured(at(0.0)), measured(at(1.0)))
  results = {0.0: low, **{strength: measured(trained) for strength, trained in between.items()}, 1.0: high}
  return {f'{strength:g}': result['mean'][config.best] for strength, result in results.items()}


def _at_strength(base: base_lib.Base, method: methods.Method, trained: Params, strength: float) -> Params:
  return tree.filled(trained, methods.scale(method.spec, tree.flatten(trained), base.params, strength))


def _material(config: ConfigDict, setup: prepare.Setup) -> dict[str, str]:
  """Returns what tells the base and the pictures of a run from others, wherever they lie."""
  sources = {'training pictures': setup.train, 'validation pictures': setup.valid, 'deciding pictures': setup.decide}
  starts = {'adapter to start from': config.init_from, 'discriminator to start from': config.gan.init_from}
  there = {name: Path(file) for name, file in starts.items() if os.path.isfile(file)}
  return {
    'base': tree.fingerprint(setup.base.params),
    **{name: repr(source) for name, source in sources.items()},
    # A run that goes on needs them no more, wherever they are.
    **{name: files.sha256(path) for name, path in there.items()},
  }


def _told(label: str, result: dict[str, Any]) -> dict[str, Any]:
  """Returns `result`, after its means are said."""
  values = '  '.join(f'{key} {tables.number(key, value)}' for key, value in result['mean'].items())
  say(f'{label}  {values}')
  return result


def _told_of(config: ConfigDict, setup: prepare.Setup, rows: dict[str, show.Panels]) -> dict[str, Any]:
  """Returns what the header of the adapter file tells of the pictures, beside what was measured."""
  told = {'data_licence': config.data.licence or prepare.licence(config)}
  if config.thumbnail:
    told['thumbnail'] = show.thumbnail(rows)
  if config.record_cameras and setup.train:
    photographs = filter(None, map(setup.train.photograph, range(len(setup.train))))
    told['cameras'] = cameras.recorded(map(image.shot_of, photographs))
  return {name: value for name, value in told.items() if value}


def _export(
  workdir: Path, base: base_lib.Base, params: Params, method, trained: Params, results: dict, told: dict
) -> None:
  """Writes the network and the adapter file; `told` goes into the header of the latter."""
  meta = {
    **method.spec,
    'model': base.name,
    'fields': base.fields,
    'base_fingerprint': results['base_fingerprint'],
    'base_file': Path(results['base_file']).name,
    'base_licence': base.licence,
    **card.measured(results, results['data']),
    **told,
  }
  # One with more parameters than the network would be a second checkpoint.
  as_adapter = results['trainable_parameters'] < results['total_parameters'] or bool(method.unmergeable)
  name = 'adapter.safetensors' if as_adapter else f'all parameters, trained by {meta["method"]},'
  base = base.with_origin(card.origin([(meta, 1.0, name)], base.licence))
  if not method.unmergeable:
    params_folder.save_params(workdir / 'merged', params, {**base.info(), 'metrics': meta['metrics']})
  if as_adapter:
    adapter = adapter_file.Adapter(meta, tree.flatten(trained), method.constants)
    adapter_file.save(workdir / 'adapter.safetensors', adapter)
  if method.unmergeable:
    say(f'There is no merged network: {method.unmergeable}')
    return
  path = workdir / f'merged.{"safetensors" if (base.source or {}).get("format") == "safetensors" else "pth"}'
  try:
    base_lib.export(path, base, params, like_source=results['config']['like_source'])
  except UserError as error:
    say(f'{error} Writing float32 instead.')
    base_lib.export(path, base, params, 'float32', results['config']['like_source'])


def peak_memory_bytes() -> int | None:
  """Returns the most memory held on the device, or by the whole process where the device (a CPU) keeps no count."""
  return (jax.local_devices()[0].memory_stats() or {}).get('peak_bytes_in_use') or memory.peak()


def versions() -> dict[str, str]:
  """Returns name -> version of Python and of the packages that decide numbers."""
  names = ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'grain', 'orbax-checkpoint', 'pillow')
  found = {distribution.metadata['Name']: distribution.version for distribution in metadata.distributions()}
  known = {'python': platform.python_version(), 'adaptsr-jax': __version__}
  return known | {name: found.get(name, 'not installed') for name in names}

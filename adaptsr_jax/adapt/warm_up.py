"""The short run before a run, for methods that decide by what a first training leads to."""

import shutil
from collections.abc import Mapping

import jax
from ml_collections import ConfigDict

from adaptsr_jax import methods, tree
from adaptsr_jax.adapt import losses, prepare, step, train
from adaptsr_jax.adapt.folder import Folder
from adaptsr_jax.devices import Devices
from adaptsr_jax.log import say

_SHARE = 10  # of the steps of the run, one in so many
_SEED = 2_000_003  # its batches are drawn apart from those of scores and run


def run(
  config: ConfigDict,
  setup: prepare.Setup,
  planned: methods.Plan,
  criterion: losses.Criterion,
  folder: Folder,
  material: Mapping[str, str],
  devices: Devices | None = None,
) -> tuple[methods.Tensors, float]:
  """Trains `planned` for a tenth of the steps, at a constant rate; continues where an earlier start stopped.

  Args:
    config: of the run.
    setup: of the run.
    planned: what is trained.
    criterion: from `losses.make`.
    folder: of the run; this one is kept in warm_up/ there.
    material: what tells base and pictures from others.
    devices: that share the batches; None: one device, as where one of several processes does it for all.

  Returns:
    What was trained, and the seconds that it took in all starts together.

  Raises:
    UserError: a loss that is not a number.
    Interrupted: after Ctrl-C or a termination signal; the state is saved.
  """
  short = config.copy_and_resolve_references()
  short.steps, short.seed, short.tensorboard = max(1, config.steps // _SHARE), config.seed + _SEED, False
  short.optim.schedule, short.export, short.patience = 'constant', 'last', 0
  own = Folder(folder.path / 'warm_up')
  if own.done > short.steps or own.changed_fields(short) or own.changed_material(material):
    shutil.rmtree(own.path)
  own.path.mkdir(exist_ok=True)
  own.take(short, dict(material))
  method = methods.from_spec(planned.spec, planned.constants)
  frozen, trainable = methods.restore(method, setup.base.params, planned.start, jax.random.key(config.seed))
  training = step.plain(short, setup.model.apply, method, frozen, trainable, criterion, devices)
  say(f'Training {tree.count(trainable):,} parameters for {short.steps} steps first, to decide on ranks.')
  trained = train.train(short, training, prepare.batches(short, setup.train, short.seed, devices), None, own.path)
  return tree.flatten(trained.trainable), trained.seconds

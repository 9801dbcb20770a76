"""The learning rate by a range test: a tenth of the one at which training falls apart (`optim.preset='auto'`).

As Smith (WACV 2017) does, training is probed at a rate that grows from step to step. But where the loss falls fastest
in so few steps says little of the best rate of a run; where it blows up does (experiments/008_promise, 'A rate by
probes').
"""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from adaptsr_jax.adapt import optim, prepare
from adaptsr_jax.adapt.step import Training
from adaptsr_jax.devices import Devices
from adaptsr_jax.errors import UserError
from adaptsr_jax.log import Work, say

_SHARE = 10  # the rate is one in so many of that at which training falls apart
_PROBES, _BATCHES, _GROWTH, _LONGEST = 3, 8, 1.1, 100
_APART = 4.0  # times the loss of the base on the same batch
_SEED = 3_000_017  # its batches are drawn apart from those of scores and run


def find(
  config: ConfigDict, setup: prepare.Setup, training: Training, devices: Devices | None = None
) -> dict[str, Any]:
  """Looks for the rate of a run, in 30 to 70 updates for each of three probes.

  Each probe goes round eight batches of its own from where training starts, the first time at no rate, to learn their
  losses, then at rates from the method's default on, each 1.1 times the last, until a loss is four times what it was.

  Args:
    config: of the run; its seed draws the batches.
    setup: of the run.
    training: from `step.plain`; its state is left as it is.
    devices: that share the batches.

  Returns:
    {'rate', 'fell_apart_at': rate of each probe, None where none was too high, 'steps': taken in all, 'seconds'}.

  Raises:
    UserError: no rate is too high for two of the probes, or the loss of the base is not a number.
  """
  begin = time.perf_counter()
  with Work('Looking for a rate'), closing(prepare.batches(config, setup.train, config.seed + _SEED, devices)) as drawn:
    probes = [_probed(config, training, list(islice(drawn, _BATCHES))) for _ in range(_PROBES)]
  ends = [end for end, _ in probes]
  rate = statistics.median(math.inf if end is None else end for end in ends) / _SHARE
  if rate == math.inf:
    raise UserError(
      f"config.optim.preset='auto' found no rate at which training falls apart, up to "
      f'{optim.set_rate(config) * _GROWTH**_LONGEST:.2g}: give config.optim.lr.'
    )
  steps, seconds = sum(taken for _, taken in probes), time.perf_counter() - begin
  say(
    f'Learning rate {rate:.2g}, a tenth of where training falls apart: at '
    f'{", ".join("no rate" if end is None else f"{end:.2g}" for end in ends)} in {_PROBES} probes, {steps} steps, '
    f'{seconds:.0f} s.'
  )
  return {'rate': rate, 'fell_apart_at': ends, 'steps': steps, 'seconds': seconds}


def _probed(config: ConfigDict, training: Training, batches: Sequence[Mapping[str, Any]]) -> tuple[float | None, int]:
  """Returns the rate at which training falls apart, if it does, and the number of steps taken."""
  default, start = optim.set_rate(config), jax.device_get(training.state)

  def losses(rates):
    state = training.place(jax.tree.map(np.array, start))  # copies: a step overwrites its state
    for number, rate in enumerate(rates):
      # The probe has no schedule: what that of the run does at this step is taken back.
      share = training.rates(number)['lr'] / default
      state, scalars = training.step(state, batches[number % len(batches)], rates={'peak': jnp.float32(rate / share)})
      yield float(scalars['loss'])

  usual = list(losses([1e-6 * default] * len(batches)))
  if not np.isfinite(usual).all():
    raise UserError('The loss of the base on training pairs is not a number: look at base, pairs and config.loss.')
  updates = config.optim.accumulate
  tried = [default * _GROWTH ** (number // updates) for number in range(_LONGEST * updates)]
  for number, loss in enumerate(losses(tried)):
    if not loss <= _APART * usual[number % len(usual)]:  # nor is what is not a number
      return tried[number], len(usual) + number + 1
  return None, len(usual) + len(tried)

"""What a run may gain by how many pairs it has: what others gained, told before the first step."""

import math
from typing import NamedTuple

from ml_collections import ConfigDict

from adaptsr_jax.data import Source


class _Network(NamedTuple):
  """What was measured with one network."""

  name: str
  steps: int
  of_method: dict[str, dict[int, tuple[float, float, int]]]


# Number of pairs -> what 14 pictures of DRealSR gained that were not trained on, of experiments/009_tables: PSNR (Y) in
# dB that a quarter of them gained at most, and a quarter at least; how many lost more than 0.1 dB.
_EDSR = _Network(
  'EDSR',
  200,
  {
    'lora': {
      3: (0.22, 0.72, 3),
      5: (0.08, 0.47, 2),
      10: (-0.18, 0.39, 4),
      20: (-0.10, 0.35, 4),
      40: (0.24, 0.46, 2),
      79: (0.16, 0.53, 1),
    },
    'full': {
      3: (0.07, 0.61, 3),
      5: (0.17, 0.44, 3),
      10: (-0.24, 0.40, 4),
      20: (0.10, 0.50, 3),
      40: (0.29, 0.65, 2),
      79: (0.23, 0.59, 2),
    },
  },
)
# Its blocks multiply, and single pictures blow up where pairs are few.
_SAFMN = _Network(
  'SAFMN of NTIRE 2023',
  300,
  {
    'lora': {
      3: (-1.34, 0.86, 6),
      5: (-0.19, 0.65, 4),
      10: (-0.52, 0.32, 5),
      20: (-0.20, 0.63, 4),
      40: (0.11, 0.75, 2),
      79: (0.39, 0.92, 1),
    },
    'full': {
      3: (-0.73, 1.02, 5),
      5: (-0.39, 0.61, 5),
      10: (-0.48, 0.40, 5),
      20: (0.23, 0.69, 3),
      40: (0.24, 0.81, 1),
      79: (0.46, 0.93, 2),
    },
  },
)


def sentence(config: ConfigDict, train: Source | None, backbone: str) -> str:
  """Returns what others gained with about as many pairs; '' where a run is of another kind than those measured.

  Measured with rank-aware adapters at 2e-3 and full fine-tuning at 5e-4; rates and rules of a run are not asked for.
  Backbones other than SAFMN are told of EDSR.
  """
  network = _SAFMN if backbone == 'safmn' else _EDSR
  known = network.of_method.get(config.method)
  short = network.steps / 2 <= config.steps <= 10 * network.steps
  if not (known and train and short and _alike(config, train) and min(known) <= len(train) <= 2 * max(known)):
    return ''
  number = min(known, key=lambda pairs: abs(math.log(pairs / len(train))))
  low, high, lost = known[number]
  what = 'adapters' if config.method == 'lora' else 'full fine-tuning'
  return (
    f'Forecast, from other cameras: with {number} pairs, half of the pictures that were not trained on gained '
    f'{low:+.1f} to {high:+.1f} dB, and {lost} of 14 lost more than 0.1 '
    f'({network.steps} steps of {what} of {network.name}; docs/adapt.md).'
  )


def _alike(config: ConfigDict, train: Source) -> bool:
  """Tells whether a run is of the kind that was measured: a trained base, real pairs, factor 4, pixel losses alone."""
  real = not train.made and not config.data.train.mix and not config.data.train.hr.startswith('samples:')
  plain = config.base != 'random' and not config.init_from and not config.loss.adversarial
  return bool(real and plain and train.scale == 4)

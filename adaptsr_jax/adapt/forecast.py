"""What a run may gain by how many pairs it has: what others gained, told before the first step."""

import math

from ml_collections import ConfigDict

from adaptsr_jax.data import Source

# Number of pairs -> what 14 pictures gained that were not trained on, of experiments/009_tables, EDSR x4 on DRealSR:
# PSNR (Y) in dB that a quarter of them gained at most, and a quarter at least; how many lost more than 0.1 dB.
_STEPS = 200
_MEASURED = {
  'lora': {
    3: (0.15, 0.75, 3),
    5: (0.08, 0.47, 2),
    10: (-0.18, 0.39, 4),
    20: (-0.10, 0.35, 4),
    40: (0.18, 0.50, 2),
    79: (0.16, 0.53, 1),
  },
  'full': {
    3: (0.06, 0.69, 3),
    5: (0.17, 0.44, 3),
    10: (-0.24, 0.40, 4),
    20: (0.10, 0.50, 3),
    40: (0.28, 0.67, 2),
    79: (0.23, 0.59, 2),
  },
}


def sentence(config: ConfigDict, train: Source | None) -> str:
  """Returns what others gained with about as many pairs; '' where a run is of another kind than those measured.

  Measured with rank-aware adapters at 2e-3 and full fine-tuning at 5e-4; rates and rules of a run are not asked for.
  """
  known = _MEASURED.get(config.method)
  if not known or not train or not _alike(config, train) or not min(known) <= len(train) <= 2 * max(known):
    return ''
  number = min(known, key=lambda pairs: abs(math.log(pairs / len(train))))
  low, high, lost = known[number]
  what = 'adapters' if config.method == 'lora' else 'full fine-tuning'
  return (
    f'Forecast, from other cameras: with {number} pairs, half of the pictures that were not trained on gained '
    f'{low:+.1f} to {high:+.1f} dB, and {lost} of 14 lost more than 0.1 '
    f'({_STEPS} steps of {what} of EDSR; docs/adapt.md).'
  )


def _alike(config: ConfigDict, train: Source) -> bool:
  """Tells whether a run is of the kind that was measured: a trained base, real pairs, factor 4, pixel losses alone."""
  real = not train.made and not config.data.train.mix and not config.data.train.hr.startswith('samples:')
  plain = config.base != 'random' and not config.init_from and not config.loss.adversarial
  short = _STEPS / 2 <= config.steps <= 10 * _STEPS
  return bool(real and plain and short and train.scale == 4)

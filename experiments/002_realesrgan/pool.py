"""Does a pool of training pairs help, as Real-ESRGAN keeps one? Full fine-tuning with and without, side by side.

  python -m experiments.002_realesrgan.pool --base=safmn_ntire2023_x4.pth --photos=hr_train --lr=degraded --hr=hr_valid

Pairs are stored until the pool is full; from then on each batch is drawn from the pool at random, and new pairs take
the places of those that were drawn. Prints the validation PSNR of each run.
"""

import argparse

import jax
import numpy as np

from adaptsr_jax import config as config_lib
from adaptsr_jax import data, infer, methods
from adaptsr_jax.adapt import losses, prepare, step
from adaptsr_jax.evaluate import measure

SIZE = 184  # Real-ESRGAN's 180, rounded up to a multiple of the batch


class Pool:
  """Hands out pairs of earlier batches."""

  def __init__(self, size: int, seed: int):
    self._size, self._rng = size, np.random.default_rng(seed)
    self._pairs = None

  def exchange(self, batch: dict) -> dict:
    batch = {key: np.asarray(value) for key, value in batch.items()}
    if self._pairs is None or len(self._pairs['lr']) < self._size:
      old = self._pairs or {key: value[:0] for key, value in batch.items()}
      self._pairs = {key: np.concatenate([old[key], batch[key]]) for key in batch}
      return batch
    drawn = self._rng.permutation(self._size)[: len(batch['lr'])]
    out = {key: value[drawn] for key, value in self._pairs.items()}
    for key, value in self._pairs.items():
      value[drawn] = batch[key]
    return out


def run(config, pool: Pool | None) -> float:
  """Returns the validation PSNR (Y) after `config.steps` steps."""
  setup = prepare.prepare(config)
  method = methods.make(config, setup.sites, {})
  frozen, trainable = method.init(jax.random.key(config.seed), setup.base.params)
  training = step.plain(config, setup.model.apply, method, frozen, trainable, losses.make(config))
  state, batches = training.state, prepare.batches(config, setup.train, config.seed)
  for _ in range(config.steps):
    batch = next(batches)
    state, _ = training.step(state, pool.exchange(batch) if pool else batch)
  batches.close()
  network = infer.network(setup.model, method.merge(frozen, training.trained(state)), infer.WHOLE)
  return measure.measure(network, data.pairs(setup.valid))['mean']['psnr_y']


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  for name in ('base', 'photos', 'lr', 'hr'):
    parser.add_argument(f'--{name}', required=True)
  parser.add_argument('--steps', type=int, default=300)
  parser.add_argument('--seeds', type=int, default=2)
  args = parser.parse_args()
  for seed in range(args.seeds):
    config = config_lib.default()
    config.base, config.method, config.steps, config.seed, config.patch = args.base, 'full', args.steps, seed, 128
    config.optim.lr = 2e-4
    config.data.train.hr, config.data.train.degrade = args.photos, 'realesrgan'
    config.data.valid.lr, config.data.valid.hr = args.lr, args.hr
    for label, pool in (('fresh', None), ('pool', Pool(SIZE, seed))):
      print(f'seed {seed}  {label}  {run(config, pool):.3f} dB', flush=True)


if __name__ == '__main__':
  main()

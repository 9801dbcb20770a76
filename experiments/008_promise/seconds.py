"""What a step of each arm of 008 costs: CPU seconds of this process, arms in turn, the least of all rounds.

python -m experiments.008_promise.seconds --safmn=safmn_ntire2023_x4.pth --data=drealsr_x4
"""

import argparse
import itertools
import time

import jax

from adaptsr_jax import config as config_lib
from adaptsr_jax import methods
from adaptsr_jax.adapt import losses, prepare, step

sweep = __import__('experiments.008_promise.sweep', fromlist=['sweep'])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--safmn', required=True)
  parser.add_argument('--data', required=True)
  parser.add_argument('--rounds', type=int, default=20)
  args = parser.parse_args()
  for backbone, base in (('SAFMN', args.safmn), ('EDSR', 'bundled:edsr_x4')):
    arms = {**sweep.METHODS, 'rank-aware, loralib': sweep.in_loralib(backbone)}
    steps = {name: begin(backbone, base, args.data, fields) for name, fields in arms.items()}
    least = dict.fromkeys(steps, float('inf'))
    for _, name in itertools.product(range(args.rounds), steps):
      start = time.process_time()
      steps[name]()
      least[name] = min(least[name], time.process_time() - start)
    for name, seconds in least.items():
      print(f'{backbone}  {name}  {seconds:.3f} s  {seconds / least["full"]:.2f} of full', flush=True)


def begin(backbone: str, base: str, data: str, fields: dict):
  """Returns a function that takes a step, on one batch."""
  config = config_lib.default()
  flat = {'base': base, **sweep.CROPS[backbone], 'data.train.lr': f'{data}/LR', 'data.train.hr': f'{data}/HR'}
  config.update_from_flattened_dict({**flat, **fields})
  if backbone == 'EDSR':
    config.sites.exclude = ('upsample',)
  setup = prepare.prepare(config)
  method = methods.make(config, setup.sites, scores=prepare.Scores(config, setup))
  frozen, trainable = method.init(jax.random.key(0), setup.base.params)
  training = step.plain(config, setup.model.apply, method, frozen, trainable, losses.make(config))
  batch, state = next(prepare.batches(config, setup.train, 0)), [training.state]

  def once() -> None:
    state[0], scalars = training.step(state[0], batch)
    jax.block_until_ready(scalars)

  once()
  return once


if __name__ == '__main__':
  main()

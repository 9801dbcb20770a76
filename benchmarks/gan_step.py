"""What a two-player step costs against the plain one: CPU time and memory, side by side in one process.

  python -m benchmarks.gan_step --base=safmn_ntire2023_x4.pth --metric_weights=weights --batch=8 --patch=128

All rows take turns; of each the least CPU time of a step is kept, which what else the machine does disturbs least.
Memory is what XLA says that the compiled step holds besides its arguments and results. Prints the table as Markdown.
"""

import argparse
import time

import jax
import numpy as np
import optax

from adaptsr_jax import base as base_lib
from adaptsr_jax import config, lora, methods
from adaptsr_jax.adapt import gan, losses, optim, step
from adaptsr_jax.evaluate import tables

ROWS = {
  'L1': {},
  'L1 + LPIPS': {'loss.lpips': 1.0},
  'L1 + patch discriminator': {'loss.adversarial': 0.1},
  'L1 + LPIPS + patch discriminator': {'loss.lpips': 1.0, 'loss.adversarial': 0.1},
  'L1 + U-Net, 16 wide': {'loss.adversarial': 0.1, 'gan.discriminator': 'unet', 'gan.width': 16},
  'L1 + U-Net, 64 wide': {'loss.adversarial': 0.1, 'gan.discriminator': 'unet'},
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--base', required=True)
  parser.add_argument('--metric_weights', default='')
  parser.add_argument('--batch', type=int, default=8)
  parser.add_argument('--patch', type=int, default=128)
  parser.add_argument('--rounds', type=int, default=3)
  args = parser.parse_args()
  base = base_lib.load(args.base)
  rng = np.random.default_rng(0)
  scale = base.model().upscale
  sides = {'lr': args.patch // scale, 'hr': args.patch}
  batch = {name: rng.random((args.batch, side, side, 3), np.float32) for name, side in sides.items()}
  programs = {name: _program(fields, base, batch, args) for name, fields in ROWS.items()}
  seconds = {name: [] for name in programs}
  for _ in range(args.rounds):
    for name, (run, _) in programs.items():
      before = time.process_time()
      run()
      seconds[name].append(time.process_time() - before)
  plain_time, plain_memory = min(seconds['L1']), programs['L1'][1]
  rows = [['loss', 'CPU time of a step', 'to L1', 'memory of the step', 'to L1']]
  for name, (_, memory) in programs.items():
    least = min(seconds[name])
    rows.append(
      [name, f'{least:.2f} s', f'{least / plain_time:.2f}', f'{memory / 2**20:.0f} MiB', f'{memory / plain_memory:.2f}']
    )
  print(tables.markdown(rows))


def _program(fields: dict, base: base_lib.Base, batch: dict, args: argparse.Namespace):
  """Returns (what takes a step and waits for it, bytes that the step holds)."""
  c = config.default()
  c.patch, c.metric_weights = args.patch, args.metric_weights
  c.update_from_flattened_dict(fields)
  model = base.model()
  sites = lora.find_sites(model)
  method = methods.make(c, sites, {site.name: 8 for site in sites})
  frozen, trainable = method.init(jax.random.key(0), base.params)
  criterion = losses.make(c)
  make = gan.two_players if c.loss.adversarial else step.plain
  state = make(c, model.apply, method, frozen, trainable, criterion).state
  tx, _ = optim.make(c, method.labels)
  if c.loss.adversarial:
    judge_tx = optax.adam(c.gan.lr)
    program = gan.make_step(model.apply, method, tx, criterion, gan.judge_of(c), judge_tx, c)
  else:
    program = step.make_step(model.apply, method, tx, criterion, c.optim.ema, {'weights': criterion.weights})
  compiled = program.func.lower(state, frozen, batch, **program.keywords).compile()

  def run() -> None:
    nonlocal state
    state, scalars = compiled(state, frozen, batch, **program.keywords)
    jax.block_until_ready(scalars)

  run()
  return run, compiled.memory_analysis().temp_size_in_bytes


if __name__ == '__main__':
  main()

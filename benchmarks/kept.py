"""What a training step keeps from its forward pass for its gradients, by the way it is computed; nothing is run.

  python -m benchmarks.kept --models swinir_light_x4,swinir_classical_x4,drct_x4 --batch 8 --patch 64

The sizes are those of the traced program, on any device. A compiler that fuses keeps somewhat less, and what it needs
while it computes comes on top; memory that a CPU's schedule saves or wastes is in `benchmarks.step_time`.
"""

import argparse
import sys
from typing import Any

from benchmarks import step_time
from benchmarks.step_time import Row


def kept_bytes(row: Row, base: Any, batch: int, patch: int, rank: int) -> int:
  """Returns the bytes between the forward and the backward pass of a training step.

  Args:
    row: of kind 'step'.
    base: from `base.load` or `base.random`; shapes instead of its parameters will do.
    batch: pictures at a time.
    patch: their side in LR pixels.
    rank: of every adapter.
  """
  import jax
  import jax.numpy as jnp

  from adaptsr_jax.adapt import losses

  model = step_time.model_of(row, base)
  _, method = step_time.method_of(row, model, rank)

  def residuals(key, params, lr, hr):
    frozen, trainable = method.init(key, params)
    return jax.vjp(lambda trained: losses.l1(method.forward(model.apply, frozen, trained, lr), hr), trainable)[1]

  lr, hr = (jax.ShapeDtypeStruct((batch, side, side, 3), jnp.float32) for side in (patch, model.upscale * patch))
  kept = jax.eval_shape(residuals, jax.random.key(0), base.params, lr, hr)
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog='python -m benchmarks.kept', description=__doc__.split('\n')[0])
  parser.add_argument(
    '--models',
    default='swinir_light_x4,swinir_classical_x4,drct_x4,drct_l_x4,safmn_x4,edsr_baseline_x4',
    help='names of adaptsr_jax.models.PRESETS',
  )
  parser.add_argument('--batch', type=int, default=8, help='pictures in a step (default 8)')
  parser.add_argument('--patch', type=int, default=64, help='their side in LR pixels (default 64)')
  parser.add_argument('--rank', type=int, default=8, help='of every adapter (default 8)')
  parser.add_argument('--form', default='1x1_kxk', help='of the adapters (default 1x1_kxk)')
  return parser


def main(argv: list[str] | None = None) -> int:
  """Prints the table; returns the exit code."""
  args = _parser().parse_args(argv)
  from adaptsr_jax.errors import UserError

  methods = {'full': ('full',), **{f'lora {path}': ('lora', path, args.form) for path in ('merged', 'factored')}}
  ways = [{'remat': remat, 'dtype': dtype} for dtype in step_time.DTYPES for remat in (False, True)]
  heads = [f'{way["dtype"]}{" remat" * way["remat"]}' for way in ways]
  print(f'| MiB | {" | ".join(heads)} |\n| --- |{" ---: |" * len(heads)}')
  try:
    for preset in args.models.split(','):
      base = step_time.base_of(preset, values=False)
      again = hasattr(base.model(), 'remat')
      for name, method in methods.items():
        rows = [Row('step', *method, **way) if again or not way['remat'] else None for way in ways]
        cells = [_mebibytes(kept_bytes(row, base, args.batch, args.patch, args.rank)) if row else '' for row in rows]
        print(f'| {preset}, {name} | {" | ".join(cells)} |', flush=True)
  except UserError as error:
    print(f'Error: {error}', file=sys.stderr)
    return 2
  return 0


def _mebibytes(size: int) -> str:
  return f'{size / 2**20:,.0f}'


if __name__ == '__main__':
  sys.exit(main())

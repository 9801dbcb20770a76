"""Whether XLA still has to be told where to compute gradients of kernels on CPUs (`adaptsr_jax.compiler`).

  python -m benchmarks.kernel_gradient

Times the gradient of each kernel as XLA computes it by itself and with the options of the package, taking turns. The
options are needed as long as the last column has a number well below 1.
"""

import sys
import time

ROUNDS = 7
# (pictures, side, channels in, channels out) of 3x3 convolutions in SAFMN, EDSR-baseline and SwinIR-S.
SHAPES = ((8, 64, 36, 72), (4, 48, 64, 64), (4, 48, 64, 256), (2, 64, 60, 60))


def cpu_seconds(shape: tuple[int, int, int, int]) -> tuple[float, float]:
  """Returns the least CPU time of a gradient by default and with the options of the package."""
  import jax
  import numpy as np
  from jax import lax

  from adaptsr_jax import compiler

  b, side, cin, cout = shape
  x, y = (np.random.default_rng(0).random((b, side, side, c), np.float32) for c in (cin, cout))
  kernel = np.zeros((3, 3, cin, cout), np.float32)

  def gradient(kernel, x, y):
    def convolved(kernel):
      return lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))

    return jax.vjp(convolved, kernel)[1](y)[0]

  programs = [jax.jit(gradient, compiler_options=options) for options in (None, compiler.options())]
  times = []
  for _ in range(ROUNDS + 1):  # the first one compiles
    for program in programs:
      start = time.process_time()
      jax.block_until_ready(program(kernel, x, y))
      times.append(time.process_time() - start)
  return min(times[2::2]), min(times[3::2])


def main() -> int:
  """Runs the command; returns the exit code."""
  from adaptsr_jax import compiler
  from benchmarks import step_time

  print('  '.join(f'{key} {value}' for key, value in step_time.machine().items()))
  print(f'options: {compiler.options()}\n')
  print('| kernel gradient | default, CPU ms | options, CPU ms | ratio |\n|---|---|---|---|')
  for shape in SHAPES:
    default, ours = cpu_seconds(shape)
    b, side, cin, cout = shape
    name = f'{b} x {side} x {side}, {cin} to {cout} channels'
    print(f'| {name} | {1e3 * default:.1f} | {1e3 * ours:.1f} | {ours / default:.2f} |', flush=True)
  return 0


if __name__ == '__main__':
  sys.exit(main())

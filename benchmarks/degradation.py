"""What simulated cameras cost: `degrade.make` next to the same degradation on the host, and next to a training step.

  python -m benchmarks.degradation --patches 128,256 --batch 8 --rounds 10

The host version is the plain way to write it with numpy and OpenCV, one picture after the other, with decisions of the
same distributions. Both take turns in one process. The step is that of a SAFMN with adapters, see `step_time`.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from adaptsr_jax.data.degrade import presets

# --------------------------------------------------------------------------------------------------- on the host, plain


def host_pairs(
  rng: np.random.Generator, hr: np.ndarray, scale: int, patch: int, o: presets.Options
) -> dict[str, np.ndarray]:
  """Returns the pairs {'lr', 'hr'} of HR crops (B, H, W, 3), as `degrade.make` without sharpened targets."""
  shared = _shared(rng, o)
  lr = np.stack([host_lr(rng, x, scale, o, shared) for x in hr])
  side = patch // scale
  top, left = (int(rng.integers(n - side + 1)) for n in lr.shape[1:3])
  return {
    'lr': lr[:, top : top + side, left : left + side],
    'hr': hr[:, scale * top : scale * top + patch, scale * left : scale * left + patch],
  }


def _shared(rng: np.random.Generator, o: presets.Options) -> dict[str, Any]:
  """Returns what is decided once for a batch."""
  return {
    'resize1': _resize_choice(rng, o.resize1_prob, o.resize1_range),
    'gaussian1': rng.random() < o.noise1_gaussian_prob,
    'blur2': rng.random() < o.blur2_prob,
    'resize2': _resize_choice(rng, o.resize2_prob, o.resize2_range),
    'gaussian2': rng.random() < o.noise2_gaussian_prob,
    'resize_first': rng.random() < o.resize_first_prob,
    'mode': int(rng.integers(3)),
  }


def host_lr(
  rng: np.random.Generator, x: np.ndarray, scale: int, o: presets.Options, shared: dict[str, Any]
) -> np.ndarray:
  """Returns the LR picture of an HR crop (H, W, 3)."""
  size = tuple(n // scale for n in x.shape[:2])
  x = _usm(x) if o.source_usm else x
  x = _filtered(
    x, _kernel(rng, o.kernel_sizes, o.blur1_mix, o.blur1_sinc_prob, o.blur1_sigma, o.blur1_betag, o.blur1_betap)
  )
  factor, mode = shared['resize1']
  x = _resized(x, [int(n * factor) for n in x.shape[:2]], mode)
  x = _noisy(rng, x, shared['gaussian1'], o.noise1_sigma, o.poisson1_scale, o.gray1_prob)
  x = _jpeg(x, rng.uniform(*o.jpeg1_quality))
  if shared['blur2']:
    x = _filtered(
      x, _kernel(rng, o.kernel_sizes, o.blur2_mix, o.blur2_sinc_prob, o.blur2_sigma, o.blur2_betag, o.blur2_betap)
    )
  factor, mode = shared['resize2']
  x = _resized(x, [int(n * factor) for n in size], mode)
  x = _noisy(rng, x, shared['gaussian2'], o.noise2_sigma, o.poisson2_scale, o.gray2_prob)
  sinc = None
  if rng.random() < o.final_sinc_prob:
    sinc = _sinc(int(rng.choice(o.kernel_sizes)), rng.uniform(np.pi / 3, np.pi))
  quality = rng.uniform(*o.jpeg2_quality)
  if not shared['resize_first']:
    x = _jpeg(x, quality)
  x = _resized(x, size, shared['mode'])
  x = x if sinc is None else _filtered(x, sinc)
  if shared['resize_first']:
    x = _jpeg(np.clip(x, 0, 1), quality)
  return np.clip(np.rint(255 * x), 0, 255).astype(np.float32) / 255


def _resize_choice(rng: np.random.Generator, probs: Sequence[float], limits: Sequence[float]) -> tuple[float, int]:
  kind = rng.choice(3, p=probs)
  factor = (rng.uniform(1, limits[1]), rng.uniform(limits[0], 1), 1.0)[kind]
  return float(factor), int(rng.integers(3))


def _kernel(
  rng: np.random.Generator, sizes: Any, mix: Any, sinc_prob: float, sigma: Any, betag: Any, betap: Any
) -> np.ndarray:
  size = int(rng.choice(sizes))
  if rng.random() < sinc_prob:
    return _sinc(size, rng.uniform(np.pi / 3 if size < 13 else np.pi / 5, np.pi))
  family = int(rng.choice(6, p=mix))
  sigmas = rng.uniform(*sigma, 2)
  theta = rng.uniform(-np.pi, np.pi)
  if family % 2 == 0:
    sigmas[1], theta = sigmas[0], 0.0
  low, high = betag if family < 4 else betap
  beta = rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high)
  y, x = np.mgrid[:size, :size] - (size - 1) / 2
  along, across = x * math.cos(theta) + y * math.sin(theta), y * math.cos(theta) - x * math.sin(theta)
  q = (along / sigmas[0]) ** 2 + (across / sigmas[1]) ** 2
  power = q if family < 2 else q**beta
  kernel = np.exp(-power / 2) if family < 4 else 1 / (1 + power)
  return kernel / kernel.sum()


def _sinc(size: int, cutoff: float) -> np.ndarray:
  import scipy.special

  radius = np.hypot(*(np.mgrid[:size, :size] - (size - 1) / 2))
  radius[size // 2, size // 2] = 1
  kernel = cutoff * scipy.special.j1(cutoff * radius) / (2 * np.pi * radius)
  kernel[size // 2, size // 2] = cutoff**2 / (4 * np.pi)
  return kernel / kernel.sum()


def _filtered(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
  import cv2

  return cv2.filter2D(x, -1, kernel.astype(np.float32), borderType=cv2.BORDER_REFLECT_101)


def _usm(x: np.ndarray) -> np.ndarray:
  import cv2

  blurred = lambda x: cv2.GaussianBlur(x, (51, 51), 0, borderType=cv2.BORDER_REFLECT_101)  # noqa: E731
  detail = x - blurred(x)
  soft = blurred((255 * np.abs(detail) > 10).astype(np.float32))
  return soft * np.clip(x + 0.5 * detail, 0, 1) + (1 - soft) * x


def _resized(x: np.ndarray, size: Sequence[int], mode: int) -> np.ndarray:
  import cv2

  return cv2.resize(x, tuple(size)[::-1], interpolation=(cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)[mode])


def _noisy(
  rng: np.random.Generator, x: np.ndarray, gaussian: bool, sigma: Any, scale: Any, gray_prob: float
) -> np.ndarray:
  gray = rng.random() < gray_prob
  if gaussian:
    noise = rng.standard_normal(x.shape[:2] + ((1,) if gray else (3,)), np.float32) * (rng.uniform(*sigma) / 255)
  else:
    clean = x @ np.array([[0.2989], [0.587], [0.114]], np.float32) if gray else x
    clean = np.clip(np.rint(255 * clean), 0, 255) / 255
    levels = 2 ** math.ceil(math.log2(len(np.unique(clean))))
    noise = (rng.poisson(clean * levels) / levels - clean).astype(np.float32) * np.float32(rng.uniform(*scale))
  return np.clip(x + noise, 0, 1)


def _jpeg(x: np.ndarray, quality: float) -> np.ndarray:
  """libjpeg instead of its model: 8-bit in and out, whole qualities."""
  import cv2

  _, file = cv2.imencode('.jpg', np.rint(255 * x).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, round(quality)])
  return cv2.imdecode(file, cv2.IMREAD_COLOR).astype(np.float32) / 255


# --------------------------------------------------------------------------------------------------------- measurement


def measure(batch: int, patch: int, rounds: int, preset: str) -> dict[str, float]:
  """Returns the mean times in ms of a batch of those who took turns, and their ratios, at scale 4."""
  import jax

  from adaptsr_jax import base
  from adaptsr_jax.data import degrade
  from benchmarks import step_time

  scale, options = 4, degrade.PRESETS[preset]
  side = degrade.canvas(patch, scale)
  hr = np.random.default_rng(0).random((batch, side // 8, side // 8, 3), np.float32).repeat(8, 1).repeat(8, 2)
  side = hr.shape[1]
  start = time.perf_counter()
  compiled = degrade.make(options, scale, patch).lower(jax.random.key(0), hr).compile()
  compile_seconds = time.perf_counter() - start
  row = step_time.plan(['1x1_kxk'], pattern='factored')[-1]
  step = step_time.variants(base.random('safmn_x4', 0), batch, patch // scale, 8, [row])[0].start()
  on_device = jax.device_put(hr)
  rng = np.random.default_rng(0)
  calls: dict[str, Callable[[int], Any]] = {
    'jax': lambda i: compiled(jax.random.key(i), on_device),
    'host': lambda i: host_pairs(rng, hr, scale, patch, options),
    'step': lambda i: step(),
  }
  times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
  for i in range(rounds + 1):
    for name, call in calls.items():
      wall, cpu = time.perf_counter(), time.process_time()
      jax.block_until_ready(call(i))
      times[name].append((1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)))
  # The first call also sets things up. Means, as times depend on the draws and a training pays for all of them.
  row = {'patch': patch, 'canvas': side, 'compile_s': compile_seconds}
  for name, pairs in times.items():
    row[name], row[f'{name}_cpu'] = map(statistics.mean, zip(*pairs[1:], strict=True))
  for clock in ('', '_cpu'):
    row[f'host/jax{clock}'] = row[f'host{clock}'] / row[f'jax{clock}']
    row[f'jax/step{clock}'] = row[f'jax{clock}'] / row[f'step{clock}']
  row['images/s'], row['host images/s'] = 1e3 * batch / row['jax'], 1e3 * batch / row['host']
  return row


def text(rows: Sequence[dict[str, float]]) -> str:
  """Returns the rows as a markdown table; times in ms, by the clock and as CPU time of all threads."""
  heads = ['patch', 'canvas', 'jax', 'jax_cpu', 'host', 'host_cpu', 'host/jax', 'host/jax_cpu']
  heads += ['step', 'step_cpu', 'jax/step', 'jax/step_cpu', 'images/s', 'host images/s', 'compile_s']
  lines = ['| ' + ' | '.join(heads).replace('_', ' ') + ' |', '|' + ' ---: |' * len(heads)]
  lines += [
    '| ' + ' | '.join(_digits(row[name], '/' in name and 'images' not in name) for name in heads) + ' |' for row in rows
  ]
  return '\n'.join(lines)


def _digits(value: float, ratio: bool) -> str:
  return f'{value:.2f}' if ratio else f'{value:.0f}'


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  parser = argparse.ArgumentParser(prog='python -m benchmarks.degradation', description=__doc__.split('\n')[0])
  parser.add_argument('--patches', default='128,256', help='HR sides, separated by commas')
  parser.add_argument('--batch', type=int, default=8)
  parser.add_argument('--rounds', type=int, default=10)
  parser.add_argument('--preset', default='realesrgan')
  args = parser.parse_args(argv)
  print(text([measure(args.batch, int(p), args.rounds, args.preset) for p in args.patches.split(',')]))
  return 0


if __name__ == '__main__':
  sys.exit(main())

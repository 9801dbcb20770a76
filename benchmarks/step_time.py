"""What adapters cost: a training step of full, LoRA merged and LoRA factored side by side, and inference.

  python -m benchmarks.step_time --models safmn_x4,edsr_baseline_x4 --batch 8 --patch 64 --out step_time.json

All variants of a model take turns in one process, in a new random order each round. Ratios are formed within a round
and then their median taken, so that what else the machine does falls on all variants alike; on a shared CPU the ratio
of CPU time is steadier still. FLOPs, bytes and memory are those of the compiled program and do not depend on the load.
"""

import argparse
import datetime
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

_STEP, _INFERENCE = 'step full', 'inference base'
# Calls of one turn last at least this long (seconds): one call on a CPU, as many as it takes on a GPU.
_TURN = 0.2


class Variant(NamedTuple):
  """One compiled program and what it runs on.

  Attributes:
    name: e.g. 'step lora factored 1x1_kxk'.
    reference: name of the variant that it is compared with.
    trainable: number of trained parameters; 0 for inference.
    compiled: the program.
    compile_seconds: what tracing and compiling took.
    call: runs it once and returns an array to wait for.
  """

  name: str
  reference: str
  trainable: int
  compiled: Any
  compile_seconds: float
  call: Callable[[], Any]


def variants(base: Any, batch: int, patch: int, rank: int, forms: Sequence[str]) -> list[Variant]:
  """Returns every variant, compiled, and ready to run on random pictures.

  Args:
    base: from `base.load` or `base.random`.
    batch: pictures at a time.
    patch: their side in LR pixels.
    rank: of every adapter.
    forms: of the adapters, see `lora.FORMS`.
  """
  import jax
  import numpy as np

  from adaptsr_jax import config, lora

  model = base.model()
  rng = np.random.default_rng(0)
  sides = {'lr': patch, 'hr': model.upscale * patch}
  pictures = jax.device_put({name: rng.random((batch, side, side, 3), np.float32) for name, side in sides.items()})

  c = config.default()
  c.method = 'full'
  found = [_step(_STEP, c, base, {}, pictures)]
  ranks = {site.name: rank for site in lora.find_sites(model)}
  c.method = 'lora'
  for c.lora.form in forms:
    for c.lora.path in ('merged', 'factored'):
      found.append(_step(f'step lora {c.lora.path} {c.lora.form}', c, base, ranks, pictures))
  return [*found, *_inference(base, ranks, pictures['lr'])]


def _step(name: str, config: Any, base: Any, ranks: dict[str, int], batch: Any) -> Variant:
  import jax
  import jax.numpy as jnp

  from adaptsr_jax import adapt, lora, losses, methods, optim, tree

  model = base.model()
  method = methods.make(config, lora.find_sites(model), ranks)
  frozen, trainable = jax.device_put(method.init(jax.random.key(0), base.params))
  tx, _ = optim.make(config, method.labels)
  # Copies: the step overwrites its state, and a LoRA's biases would be arrays of the base.
  trainable = jax.tree.map(jnp.copy, trainable)
  state = adapt.TrainState(jnp.zeros((), jnp.int32), trainable, tx.init(trainable), jax.random.key(0), {})
  start = time.perf_counter()
  compiled = adapt.make_step(model.apply, method, tx, losses.l1).lower(state, frozen, batch).compile()
  seconds = time.perf_counter() - start

  def call():
    nonlocal state
    state, scalars = compiled(state, frozen, batch)
    return scalars

  return Variant(name, _STEP, tree.count(trainable), compiled, seconds, call)


def _inference(base: Any, ranks: dict[str, int], lr: Any) -> list[Variant]:
  """Returns the same forward pass twice: with the base, and with adapters merged into it as a run exports them."""
  import jax

  from adaptsr_jax import config, lora, methods

  model = base.model()
  method = methods.make(config.default(), lora.find_sites(model), ranks)
  merged = jax.device_get(method.merge(*method.init(jax.random.key(0), base.params)))
  found = []
  for name, params in ((_INFERENCE, base.params), ('inference merged', merged)):
    variables = jax.device_put({'params': params})
    start = time.perf_counter()
    compiled = jax.jit(model.apply).lower(variables, lr).compile()
    seconds = time.perf_counter() - start
    call = lambda compiled=compiled, variables=variables: compiled(variables, lr)  # noqa: E731
    found.append(Variant(name, _INFERENCE, 0, compiled, seconds, call))
  return found


def program(compiled: Any) -> dict[str, int]:
  """Returns what XLA says of a compiled program: FLOPs, and bytes read and written, held besides, and held in all.

  'held' is temporary memory plus arguments and results (those that share a buffer counted once). Scratch space that a
  library takes for itself while it computes, such as that of the CPU's convolutions, is not in it.
  """
  cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
  held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
  return {
    'flops': int(cost['flops']),
    'bytes_accessed': int(cost['bytes accessed']),
    'temporary_bytes': memory.temp_size_in_bytes,
    'held_bytes': held + memory.temp_size_in_bytes,
  }


def take_turns(found: Sequence[Variant], rounds: int) -> dict[str, list[tuple[float, float]]]:
  """Returns, for each variant, (seconds, CPU seconds of this process) of one call in each round."""
  calls = {}
  for variant in found:
    _clocked(variant, 1)  # The first call of a program also sets things up.
    calls[variant.name] = max(1, round(_TURN / _clocked(variant, 1)[0]))
  order, shuffle = list(found), random.Random(0).shuffle
  times: dict[str, list[tuple[float, float]]] = {variant.name: [] for variant in found}
  for _ in range(rounds):
    shuffle(order)
    for variant in order:
      times[variant.name].append(_clocked(variant, calls[variant.name]))
  return times


def _clocked(variant: Variant, calls: int) -> tuple[float, float]:
  import jax

  wall, cpu = time.perf_counter(), time.process_time()
  for _ in range(calls):
    result = variant.call()
  jax.block_until_ready(result)
  return (time.perf_counter() - wall) / calls, (time.process_time() - cpu) / calls


def rows(found: Sequence[Variant], times: dict[str, list[tuple[float, float]]]) -> list[dict[str, Any]]:
  """Returns one row of numbers for each variant, and each number's ratio to that of its reference."""
  programs = {variant.name: program(variant.compiled) for variant in found}
  table = []
  for variant in found:
    row = {'variant': variant.name, 'reference': variant.reference, 'trainable_parameters': variant.trainable}
    for i, clock in enumerate(('ms', 'cpu_ms')):
      ours, theirs = ([1e3 * pair[i] for pair in times[name]] for name in (variant.name, variant.reference))
      row[clock] = statistics.median(ours)
      row[f'{clock}_min'] = min(ours)
      row[f'{clock}_ratio'] = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    for key, value in programs[variant.name].items():
      row[key], row[f'{key}_ratio'] = value, value / max(programs[variant.reference][key], 1)
    table.append({**row, 'compile_seconds': variant.compile_seconds})
  return table


def same_program(found: Sequence[Variant]) -> bool:
  """Tells whether the merged model compiles to a program of the base's FLOPs, bytes and memory."""
  base, merged = (variant.compiled for variant in found if variant.reference == _INFERENCE)
  return program(base) == program(merged)


def machine() -> dict[str, Any]:
  """Returns what the times depend on."""
  import jax

  device = jax.devices()[0]
  return {
    'platform': device.platform,
    'device_kind': device.device_kind,
    'cores': len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count(),
    'load': os.getloadavg()[0],
    'jax': jax.__version__,
    'date': datetime.date.today().isoformat(),
  }


def text(table: Sequence[dict[str, Any]]) -> str:
  """Returns the rows as a markdown table."""
  heads = ('variant', 'trained', 'ms', 'min', 'ratio', 'CPU ms', 'ratio', 'GFLOP', 'ratio', 'GB', 'ratio')
  heads = (*heads, 'temp MiB', 'held MiB', 'ratio', 'compile s')
  cells = [
    (
      row['variant'],
      f'{row["trainable_parameters"]:,}' if row['trainable_parameters'] else '',
      *(_digits(row['ms']), _digits(row['ms_min']), f'{row["ms_ratio"]:.2f}'),
      *(_digits(row['cpu_ms']), f'{row["cpu_ms_ratio"]:.2f}'),
      *(f'{row["flops"] / 1e9:.4g}', f'{row["flops_ratio"]:.2f}'),
      *(f'{row["bytes_accessed"] / 1e9:.3g}', f'{row["bytes_accessed_ratio"]:.2f}'),
      *(f'{row["temporary_bytes"] / 2**20:.0f}', f'{row["held_bytes"] / 2**20:.0f}', f'{row["held_bytes_ratio"]:.2f}'),
      f'{row["compile_seconds"]:.1f}',
    )
    for row in table
  ]
  widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
  lines = [
    ' | '.join(f'{cell:{"<" if i == 0 else ">"}{w}}' for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
    for line in (heads, *cells)
  ]
  rule = ' | '.join('-' * w if i == 0 else '-' * (w - 1) + ':' for i, w in enumerate(widths))
  return '\n'.join(f'| {line} |' for line in (lines[0], rule, *lines[1:]))


def _digits(value: float) -> str:
  return f'{value:.0f}' if value >= 1000 else f'{value:.4g}'


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog='python -m benchmarks.step_time', description=__doc__.split('\n')[0])
  parser.add_argument('--models', default='safmn_x4,edsr_baseline_x4', help='names of adaptsr_jax.models.PRESETS')
  parser.add_argument('--batch', type=int, default=8, help='pictures in a step')
  parser.add_argument('--patch', type=int, default=64, help='their side in LR pixels')
  parser.add_argument('--rank', type=int, default=8, help='of every adapter')
  parser.add_argument('--forms', default='1x1_kxk', help="of the adapters, e.g. '1x1_kxk,kxk_1x1,loralib'")
  parser.add_argument('--rounds', type=int, default=10, help='turns of every variant')
  parser.add_argument('--out', metavar='FILE', help='where to write the numbers as JSON')
  return parser


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  args = _parser().parse_args(argv)
  from adaptsr_jax import base as base_lib
  from adaptsr_jax import checkpoint
  from adaptsr_jax.errors import UserError

  content = {'machine': machine(), 'settings': vars(args), 'models': {}}
  print('  '.join(f'{key} {value}' for key, value in content['machine'].items()))
  try:
    for preset in args.models.split(','):
      found = variants(base_lib.random(preset, 0), args.batch, args.patch, args.rank, args.forms.split(','))
      table, same = rows(found, take_turns(found, args.rounds)), same_program(found)
      content['models'][preset] = {'same_program': same, 'rows': table}
      print(f'\n{preset}, batch {args.batch}, {args.patch}x{args.patch} LR, rank {args.rank}, {args.rounds} rounds\n')
      print(text(table))
      print(
        f'\nThe merged model compiles to the program of the base (FLOPs, bytes, memory): {"yes" if same else "NO"}.',
        flush=True,
      )
      if args.out:
        checkpoint.write_json(args.out, content)
  except (UserError, OSError) as error:
    print(f'Error: {error}', file=sys.stderr)
    return 2
  return 0


if __name__ == '__main__':
  sys.exit(main())

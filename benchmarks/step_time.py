"""What adapters cost: training steps of full fine-tuning, LoRA merged and LoRA factored side by side, and inference.

  python -m benchmarks.step_time --models safmn_x4,edsr_baseline_x4 --batch 8 --patch 64 --out step_time.json
  python -m benchmarks.step_time --models swinir_light_x4 --batch 2 --patch 48 --remat off,on --rows 'full|merged'
  python -m benchmarks.step_time --models swinir_classical_x4,drct_x4 --batch 1 --remat on --rounds 0

All rows of a model take turns in one process, in a new random order each round. Ratios are formed within a round and
then their median taken, so that what else the machine does falls on all rows alike; on a shared CPU the ratio of CPU
time is steadier still. FLOPs, bytes and memory are those of the compiled program and do not depend on the load; with
--rounds 0 programs are compiled only, which needs neither weights nor the memory to run them.
"""

import argparse
import datetime
import os
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

PATHS = ('merged', 'factored', 'hybrid')  # of adapters in a step, see config.lora.path
DTYPES = ('float32', 'bfloat16')
# Calls of one turn last at least this long (seconds): one call on a CPU, as many as it takes on a GPU.
_TURN = 0.2


class Row(NamedTuple):
  """One program to measure: what is computed, and how."""

  kind: str  # 'step' or 'inference'
  method: str  # of a step 'full' or 'lora', of inference 'base' or 'merged'
  path: str = ''  # of adapters in a step, see config.lora.path
  form: str = ''  # of adapters, see `lora.FORMS`
  remat: bool = False
  dtype: str = 'float32'

  @property
  def name(self) -> str:
    """E.g. 'step lora factored 1x1_kxk remat'."""
    told = (*self[:4], 'remat' if self.remat else '', self.dtype if self.dtype != 'float32' else '')
    return ' '.join(filter(None, told))


class Variant(NamedTuple):
  """One compiled program and what it runs on.

  Attributes:
    name: of the row, e.g. 'step lora factored 1x1_kxk'.
    reference: name of the variant that it is compared with.
    trainable: number of trained parameters; 0 for inference.
    compiled: the program.
    compile_seconds: what tracing and compiling took.
    start: puts all on the device; returns what runs the program once and returns an array to wait for.
  """

  name: str
  reference: str
  trainable: int
  compiled: Any
  compile_seconds: float
  start: Callable[[], Callable[[], Any]]


def plan(
  forms: Sequence[str], remats: Sequence[bool] = (False,), dtypes: Sequence[str] = DTYPES[:1], pattern: str = ''
) -> list[Row]:
  """Returns the rows whose names contain a match of `pattern`, in order, and the first of their kind to compare with.

  Args:
    forms: of the adapters, see `lora.FORMS`.
    remats: whether blocks are computed again for their gradients.
    dtypes: of the computation.
    pattern: a regular expression; empty for all.
  """
  rows = []
  for dtype in dtypes:
    for remat in remats:
      rows.append(Row('step', 'full', remat=remat, dtype=dtype))
      rows += [Row('step', 'lora', path, form, remat, dtype) for form in forms for path in PATHS]
  # Without gradients there is nothing to compute again.
  rows += [Row('inference', method, dtype=dtype) for dtype in dtypes for method in ('base', 'merged')]
  chosen = [row for row in rows if re.search(pattern, row.name)]
  return [row for row in rows if row in chosen or any(row == _reference(other, rows) for other in chosen)]


def _reference(row: Row, rows: Sequence[Row]) -> Row:
  return next(other for other in rows if other.kind == row.kind)


def variants(base: Any, batch: int, patch: int, rank: int, rows: Sequence[Row]) -> list[Variant]:
  """Returns the variant of every row, compiled.

  Args:
    base: from `base.load` or `base.random`; shapes instead of its parameters will do as long as nothing is started.
    batch: pictures at a time.
    patch: their side in LR pixels.
    rank: of every adapter.
    rows: from `plan`.
  """
  found = []
  for row in rows:
    model, shape = model_of(row, base), (batch, patch, patch, 3)
    if row.kind == 'step':
      variant = training(*method_of(row, model, rank), base, model, shape)
    else:
      variant = _inference(row, base, model, shape, rank)
    found.append(variant._replace(name=row.name, reference=_reference(row, rows).name))
  return found


def model_of(row: Row, base: Any) -> Any:
  """Returns the network as a row computes it."""
  return base.model(dtype=row.dtype, **({'remat': True} if row.remat else {}))


def method_of(row: Row, model: Any, rank: int) -> tuple[Any, Any]:
  """Returns (config, method) of a row, with adapters at every site."""
  from adaptsr_jax import config, lora, methods

  c = config.default()
  c.dtype = row.dtype
  c.method = 'full' if row.method == 'full' else 'lora'
  if row.path:
    c.lora.path, c.lora.form = row.path, row.form
  sites = lora.find_sites(model)
  return c, methods.make(c, sites, {site.name: rank for site in sites})


def training(c: Any, method: Any, base: Any, model: Any, shape: tuple[int, ...]) -> Variant:
  """Returns a compiled training step of `method` under the config `c`, on pictures of `shape`."""
  import jax
  import jax.numpy as jnp

  from adaptsr_jax import tree
  from adaptsr_jax.adapt import losses, optim, step

  tx, _ = optim.make(c, method.labels)

  def begin(key, params):
    frozen, trainable = method.init(key, params)
    state = step.TrainState(jnp.zeros((), jnp.int32), trainable, tx.init(trainable), {})
    return state, frozen

  state, frozen = jax.eval_shape(begin, jax.random.key(0), base.params)
  b, h, w, _ = shape
  sides = {'lr': shape, 'hr': (b, model.upscale * h, model.upscale * w, 3)}
  pictures = {name: jax.ShapeDtypeStruct(size, jnp.float32) for name, size in sides.items()}
  start = time.perf_counter()
  compiled = step.make_step(model.apply, method, tx, losses.l1).lower(state, frozen, pictures).compile()
  seconds = time.perf_counter() - start

  def ready():
    state, frozen = begin(jax.random.key(0), jax.device_put(base.params))
    # Copies: the step overwrites its state, and what is trained of the base would be arrays of the base.
    state = jax.tree.map(jnp.copy, state)
    batch = {name: _noise(size) for name, size in sides.items()}

    def call():
      nonlocal state
      state, scalars = compiled(state, frozen, batch)
      return scalars

    return call

  return Variant('', '', tree.count(state.trainable), compiled, seconds, ready)


def _inference(row: Row, base: Any, model: Any, shape: tuple[int, ...], rank: int) -> Variant:
  """Returns the forward pass: with the base, or with adapters merged into it as a run exports them."""
  import jax
  import jax.numpy as jnp

  _, method = method_of(row, model, rank)

  def variables(key, params):
    return {'params': params if row.method == 'base' else method.merge(*method.init(key, params))}

  given = jax.eval_shape(variables, jax.random.key(0), base.params)
  start = time.perf_counter()
  compiled = jax.jit(model.apply).lower(given, jax.ShapeDtypeStruct(shape, jnp.float32)).compile()
  seconds = time.perf_counter() - start

  def ready():
    placed = jax.device_put(variables(jax.random.key(0), jax.device_put(base.params)))
    lr = _noise(shape)
    return lambda: compiled(placed, lr)

  return Variant('', '', 0, compiled, seconds, ready)


def _noise(shape: tuple[int, ...]) -> Any:
  import jax
  import numpy as np

  return jax.device_put(np.random.default_rng(0).random(shape, np.float32))


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
  """Returns, for each variant, (seconds, CPU seconds of this process) of one call in each round; none for 0 rounds."""
  started = {variant.name: variant.start() for variant in found} if rounds else {}
  calls = {}
  for name, call in started.items():
    _clocked(call, 1)  # The first call of a program also sets things up.
    calls[name] = max(1, round(_TURN / _clocked(call, 1)[0]))
  order, shuffle = list(started), random.Random(0).shuffle
  times: dict[str, list[tuple[float, float]]] = {variant.name: [] for variant in found}
  for _ in range(rounds):
    shuffle(order)
    for name in order:
      times[name].append(_clocked(started[name], calls[name]))
  return times


def _clocked(call: Callable[[], Any], calls: int) -> tuple[float, float]:
  import jax

  wall, cpu = time.perf_counter(), time.process_time()
  for _ in range(calls):
    result = call()
  jax.block_until_ready(result)
  return (time.perf_counter() - wall) / calls, (time.process_time() - cpu) / calls


def rows(found: Sequence[Variant], times: dict[str, list[tuple[float, float]]]) -> list[dict[str, Any]]:
  """Returns one row of numbers for each variant, and each number's ratio to that of its reference.

  Where nothing was timed, 'ms' and 'cpu_ms' are missing.
  """
  programs = {variant.name: program(variant.compiled) for variant in found}
  table = []
  for variant in found:
    row = {'variant': variant.name, 'reference': variant.reference, 'trainable_parameters': variant.trainable}
    for i, clock in enumerate(('ms', 'cpu_ms') if times[variant.name] else ()):
      ours, theirs = ([1e3 * pair[i] for pair in times[name]] for name in (variant.name, variant.reference))
      row[clock] = statistics.median(ours)
      row[f'{clock}_min'] = min(ours)
      row[f'{clock}_ratio'] = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    for key, value in programs[variant.name].items():
      row[key], row[f'{key}_ratio'] = value, value / max(programs[variant.reference][key], 1)
    table.append({**row, 'compile_seconds': variant.compile_seconds})
  return table


def same_program(found: Sequence[Variant]) -> bool | None:
  """Tells whether the merged model compiles to a program of the base's FLOPs, bytes and memory; None if not there."""
  programs = {variant.name: program(variant.compiled) for variant in found if variant.name.startswith('inference')}
  pairs = [(name, name.replace('merged', 'base')) for name in programs if 'merged' in name]
  pairs = [(merged, base) for merged, base in pairs if base in programs]
  return all(programs[merged] == programs[base] for merged, base in pairs) if pairs else None


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
  timed = 'ms' in table[0]
  clocks = ('ms', 'min', 'ratio', 'CPU ms', 'ratio') if timed else ()
  heads = ('variant', 'trained', *clocks, 'GFLOP', 'ratio', 'GB', 'ratio', 'temp MiB', 'held MiB', 'ratio', 'compile s')
  cells = [(row['variant'], _trained(row), *(_times(row) if timed else ()), *_costs(row)) for row in table]
  widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
  lines = [
    ' | '.join(f'{cell:{"<" if i == 0 else ">"}{w}}' for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
    for line in (heads, *cells)
  ]
  rule = ' | '.join('-' * w if i == 0 else '-' * (w - 1) + ':' for i, w in enumerate(widths))
  return '\n'.join(f'| {line} |' for line in (lines[0], rule, *lines[1:]))


def _trained(row: dict[str, Any]) -> str:
  return f'{row["trainable_parameters"]:,}' if row['trainable_parameters'] else ''


def _times(row: dict[str, Any]) -> tuple[str, ...]:
  wall = (_digits(row['ms']), _digits(row['ms_min']), f'{row["ms_ratio"]:.2f}')
  return (*wall, _digits(row['cpu_ms']), f'{row["cpu_ms_ratio"]:.2f}')


def _costs(row: dict[str, Any]) -> tuple[str, ...]:
  return (
    *(f'{row["flops"] / 1e9:.4g}', f'{row["flops_ratio"]:.2f}'),
    *(f'{row["bytes_accessed"] / 1e9:.3g}', f'{row["bytes_accessed_ratio"]:.2f}'),
    *(f'{row["temporary_bytes"] / 2**20:.0f}', f'{row["held_bytes"] / 2**20:.0f}', f'{row["held_bytes_ratio"]:.2f}'),
    f'{row["compile_seconds"]:.1f}',
  )


def _digits(value: float) -> str:
  return f'{value:.0f}' if value >= 1000 else f'{value:.4g}'


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog='python -m benchmarks.step_time', description=__doc__.split('\n')[0])
  parser.add_argument('--models', default='safmn_x4,edsr_baseline_x4', help='names of adaptsr_jax.models.PRESETS')
  parser.add_argument('--batch', type=int, default=8, help='pictures in a step')
  parser.add_argument('--patch', type=int, default=64, help='their side in LR pixels')
  parser.add_argument('--rank', type=int, default=8, help='of every adapter')
  parser.add_argument('--forms', default='1x1_kxk', help="of the adapters, e.g. '1x1_kxk,kxk_1x1,loralib'")
  parser.add_argument('--dtypes', default='float32', help="of the computation: 'float32,bfloat16'")
  parser.add_argument(
    '--remat', default='off', help="'off,on': blocks computed again for gradients, where networks can"
  )
  parser.add_argument('--rows', default='', metavar='REGEX', help='only the rows with a match, e.g. "step|base"')
  parser.add_argument('--rounds', type=int, default=10, help='turns of every row; 0: compile only')
  parser.add_argument('--out', metavar='FILE', help='where to write the numbers as JSON')
  return parser


def _rows_of(preset: str, args: argparse.Namespace) -> list[Row]:
  from adaptsr_jax import models
  from adaptsr_jax.errors import UserError

  remats, dtypes = args.remat.split(','), args.dtypes.split(',')
  for option, values, allowed in (('remat', remats, ('off', 'on')), ('dtypes', dtypes, DTYPES)):
    if unknown := [value for value in values if value not in allowed]:
      raise UserError(f'--{option} has {unknown[0]!r}; it can have {", ".join(allowed)}.')
  if not hasattr(models.MODELS[models.PRESETS[preset][0]], 'remat'):
    remats = ['off']
  try:
    rows = plan(args.forms.split(','), [value == 'on' for value in remats], dtypes, args.rows)
  except re.error as error:
    raise UserError(f'--rows is {args.rows!r}, which is no regular expression ({error}).') from error
  if not rows:
    raise UserError(f'No row of {preset} has a match of --rows={args.rows!r}; without it all are listed.')
  return rows


def base_of(preset: str, values: bool) -> Any:
  """Returns the variant with random weights, or with their shapes only."""
  from adaptsr_jax import base as base_lib
  from adaptsr_jax import models
  from adaptsr_jax.errors import UserError
  from benchmarks import flops

  if preset not in models.PRESETS:
    raise UserError(f'--models has {preset!r}; it can have {", ".join(models.PRESETS)}.')
  if values:
    return base_lib.random(preset, 0)
  name, fields = models.PRESETS[preset]
  return base_lib.Base(name, fields, flops.parameters(models.build(name, **fields)), {}, None)


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  from adaptsr_jax import files

  args = _parser().parse_args(argv)
  from adaptsr_jax.errors import UserError

  content = {'machine': machine(), 'settings': vars(args), 'models': {}}
  print('  '.join(f'{key} {value}' for key, value in content['machine'].items()))
  try:
    for preset in args.models.split(','):
      base = base_of(preset, values=args.rounds > 0)
      found = variants(base, args.batch, args.patch, args.rank, _rows_of(preset, args))
      table, same = rows(found, take_turns(found, args.rounds)), same_program(found)
      content['models'][preset] = {'same_program': same, 'rows': table}
      timed = f'{args.rounds} rounds' if args.rounds else 'compiled only'
      print(f'\n{preset}, batch {args.batch}, {args.patch}x{args.patch} LR, rank {args.rank}, {timed}\n')
      print(text(table), flush=True)
      if same is not None:
        answer = 'yes' if same else 'NO'
        print(f'\nThe merged model compiles to the program of the base (FLOPs, bytes, memory): {answer}.', flush=True)
      if args.out:
        files.write_json(args.out, content)
  except (UserError, OSError) as error:
    print(f'Error: {error}', file=sys.stderr)
    return 2
  return 0


if __name__ == '__main__':
  sys.exit(main())

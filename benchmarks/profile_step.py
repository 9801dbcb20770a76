"""Where the time of a step goes: milliseconds by HLO operation, with the module of the network that it came from.

  python -m benchmarks.profile_step --model safmn_x4 --batch 8 --patch 64 --row 'step full'

An operation that is wrapped by others, such as the body of a loop, counts for itself and within them.
"""

import argparse
import collections
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

# What differentiation and compilation add to the path of a module.
_WRAPPERS = re.compile(r'^(jit|jvp|transpose|vmap|checkpoint|rematted_computation|remat|custom_vjp_call)\(.*\)$')
# '  ROOT %name = f32[8,64]{1,0} opcode(...), ..., metadata={op_name="jit(step)/..." ...}'
_INSTRUCTION = re.compile(r'^\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(')
_OP_NAME = re.compile(r'op_name="([^"]*)"')


class Operation(NamedTuple):
  """An HLO instruction of a compiled program."""

  opcode: str
  shape: str  # of its result, e.g. 'f32[8,64,64,36]'
  module: str  # path in the network, and the primitive, e.g. 'feats_7/ccm/ccm_0/conv_general_dilated'
  backward: bool


def operations(text: str) -> dict[str, Operation]:
  """Returns the instructions of `compiled.as_text()` by name."""
  found = {}
  for line in text.splitlines():
    if match := _INSTRUCTION.match(line):
      name, shape, opcode = match.groups()
      origin = _OP_NAME.search(line)
      path = origin[1] if origin else ''
      found[name] = Operation(opcode, re.sub(r'\{[^}]*\}', '', shape), module_of(path), 'transpose(' in path)
  return found


def module_of(path: str) -> str:
  """Returns 'feats_7/ccm/add' of 'jit(step)/transpose(jvp(SAFMN))/feats_7/ccm/add'."""
  return '/'.join(part for part in path.split('/') if not _WRAPPERS.match(part))


def milliseconds(folder: Path, names: Iterable[str]) -> dict[str, float]:
  """Returns what the operations `names` took in all calls of the trace below `folder`, together."""
  import jax

  (path,) = folder.rglob('*.xplane.pb')
  names, total = set(names), collections.Counter()
  for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
    for line in plane.lines:
      for event in line.events:
        # Begin and end of an operation in other threads are events of their own, without this entry.
        if event.name in names and any(key == 'hlo_op' for key, _ in event.stats):
          total[event.name] += event.duration_ns / 1e6
  return dict(total)


def text(times: Mapping[str, float], found: Mapping[str, Operation], calls: int, top: int) -> str:
  """Returns the dearest operations as a markdown table, and below it the dearest modules."""
  whole = sum(times.values())
  lines = ['| ms | share | operation | result | pass | module |', '|---:|---:|---|---|---|---|']
  for name, spent in sorted(times.items(), key=lambda item: -item[1])[:top]:
    operation = found[name]
    way = 'backward' if operation.backward else 'forward'
    share = f'{100 * spent / whole:.1f} %'
    lines.append(f'| {spent / calls:.2f} | {share} | {name} | {operation.shape} | {way} | {operation.module} |')
  modules = collections.Counter()
  for name, spent in times.items():
    modules[(re.sub(r'\d+', '*', found[name].module), found[name].backward)] += spent
  lines += ['', '| ms | share | pass | module, all numbers together |', '|---:|---:|---|---|']
  for (module, backward), spent in modules.most_common(top):
    way = 'backward' if backward else 'forward'
    lines.append(f'| {spent / calls:.2f} | {100 * spent / whole:.1f} % | {way} | {module} |')
  return '\n'.join([*lines, '', f'{whole / calls:.1f} ms in all, summed over threads'])


def profile(variant: Any, calls: int) -> dict[str, float]:
  """Returns milliseconds by operation of `calls` calls of a `step_time.Variant`."""
  import jax

  call = variant.start()
  jax.block_until_ready(call())  # the first call also sets things up
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      for _ in range(calls):
        jax.block_until_ready(call())
    return milliseconds(Path(folder), operations(variant.compiled.as_text()))


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  parser = argparse.ArgumentParser(prog='python -m benchmarks.profile_step', description=__doc__.split('\n')[0])
  parser.add_argument('--model', default='safmn_x4', help='a name of adaptsr_jax.models.PRESETS')
  parser.add_argument('--batch', type=int, default=8, help='pictures in a step')
  parser.add_argument('--patch', type=int, default=64, help='their side in LR pixels')
  parser.add_argument('--rank', type=int, default=8, help='of every adapter')
  parser.add_argument('--row', default='step full', help="as step_time names it, e.g. 'step lora hybrid 1x1_kxk'")
  parser.add_argument('--calls', type=int, default=3, help='calls that are measured')
  parser.add_argument('--top', type=int, default=25, help='lines of each table')
  args = parser.parse_args(argv)
  from adaptsr_jax.errors import UserError
  from benchmarks import step_time

  rows = step_time.plan(['1x1_kxk', 'kxk_1x1', 'loralib'], [False, True], step_time.DTYPES)
  chosen = [row for row in rows if row.name == args.row]
  try:
    if not chosen:
      raise UserError(f'--row is {args.row!r}; it can be one of: {", ".join(row.name for row in rows)}.')
    base = step_time.base_of(args.model, values=True)
    (variant,) = step_time.variants(base, args.batch, args.patch, args.rank, chosen)
  except UserError as error:
    print(f'Error: {error}', file=sys.stderr)
    return 2
  print('  '.join(f'{key} {value}' for key, value in step_time.machine().items()))
  print(f'{args.model}, {args.row}, batch {args.batch}, {args.patch}x{args.patch} LR\n')
  print(text(profile(variant, args.calls), operations(variant.compiled.as_text()), args.calls, args.top))
  return 0


if __name__ == '__main__':
  sys.exit(main())

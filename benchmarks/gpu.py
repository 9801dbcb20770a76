"""Everything that is to be measured on a machine with a GPU, in about ten minutes, in one file.

  python -m benchmarks.gpu --out gpu.json
  python -m benchmarks.gpu --out gpu.json --torch torchenv/bin/python

Each measurement is a command of its own. What is in the file already is not measured again: stopped, it goes on where
it was, and one that failed is tried again. With --torch PyTorch is measured too (see `benchmarks.against_pytorch`).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from adaptsr_jax import files

_TABLE = ['step_time', '--batch', '8', '--patch', '64', '--dtypes', 'float32,bfloat16']
# Name -> module of benchmarks and its arguments, dearest last; --out is added.
MEASUREMENTS = {
  'convolutions': [*_TABLE, '--models', 'safmn_x4,edsr_baseline_x4'],
  'swinir light': [*_TABLE, '--models', 'swinir_light_x4', '--remat', 'off,on'],
  'swinir classical': [*_TABLE, '--models', 'swinir_classical_x4', '--remat', 'off,on', '--rounds', '5'],
  'drct': [*_TABLE, '--models', 'drct_x4', '--remat', 'on', '--rounds', '5'],
}
SECONDS = 240  # of one measurement at most


def measure(jobs: Mapping[str, Sequence[str]], out: Path, seconds: float = SECONDS) -> list[str]:
  """Runs what `out` does not have yet, and writes it there after each; returns the names of what failed.

  Args:
    jobs: name -> module of benchmarks and its arguments, without --out.
    out: JSON: name -> {'command', 'seconds', 'result'}.
    seconds: that one may take.
  """
  found = files.read_json(out) if out.exists() else {}
  failed = []
  for name, (module, *arguments) in jobs.items():
    if name in found:
      print(f'{name}: there already')
      continue
    with tempfile.TemporaryDirectory() as folder:
      result = Path(folder) / 'result.json'
      call = ['-m', f'benchmarks.{module}', *arguments]
      start = time.perf_counter()
      print(f'{name}: python {" ".join(call)}', flush=True)
      try:
        subprocess.run([sys.executable, *call, '--out', str(result)], check=True, timeout=seconds)
        content = json.loads(result.read_text())
      except (subprocess.SubprocessError, OSError, ValueError) as error:
        print(f'{name} failed: {error}', file=sys.stderr)
        failed.append(name)
        continue
    found[name] = {'command': ['python', *call], 'seconds': time.perf_counter() - start, 'result': content}
    files.write(out, json.dumps(found, indent=1) + '\n')
  return failed


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  parser = argparse.ArgumentParser(prog='python -m benchmarks.gpu', description=__doc__.split('\n')[0])
  parser.add_argument('--out', required=True, metavar='FILE', help='where all numbers go, as JSON')
  parser.add_argument('--torch', metavar='PYTHON', help='interpreter of an environment with torch, spandrel and peft')
  args = parser.parse_args(argv)
  jobs = dict(MEASUREMENTS)
  if args.torch:
    jobs['against PyTorch'] = ['against_pytorch', '--python', args.torch, '--threads', '1']
  failed = measure(jobs, Path(args.out))
  print(f'{len(jobs) - len(failed)} of {len(jobs)} measurements are in {args.out}.')
  return 1 if failed else 0


if __name__ == '__main__':
  sys.exit(main())

"""Table 1 of the paper: every system that is at hand, measured alike on every set at hand, beside what it prints.

  python -m experiments.005_table1.table --set=DRealSR=drealsr_x4 --set=RealSR=RealSRVal_crop128 \
    --system=RealESRGAN=realesrgan_x4 --system=mine=runs/camera/merged --outputs=DRealSR:StableSR=PICTURES \
    --work=runs/table1

A set is a folder with LR and HR in it, or a data set as it is distributed. A system is whatever `evaluate --params`
takes; finished pictures of any program come by `--outputs=SET:LABEL=FOLDER`. The systems of `SYSTEMS` are measured
unasked where their weights are in the cache or can be downloaded; --system=LABEL=FILE gives them from elsewhere. What
is missing is named, and its row holds the printed numbers alone. Every set is measured in parts, by `evaluate` in a
process of its own; parts that are done are kept in --work, so the same command goes on. Writes results.json beside this
file and the table into README.md.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from adaptsr_jax import image
from adaptsr_jax.errors import UserError
from adaptsr_jax.evaluate import statistics, tables
from experiments import sweeping

HERE = Path(__file__).parent
METRICS = {'psnr_y': 2, 'ssim_y': 4, 'lpips_alex': 4, 'dists': 4}  # and the digits that are shown
PART = 24  # pictures that are measured at a time
SYSTEMS = {
  'bicubic': 'bicubic',
  'SAFMN (NTIRE 2023)': 'safmn_ntire2023_x4',
  'RealESRGAN': 'realesrgan_x4',
  'realesr-general': 'realesr_general_x4',
  'realesr-animevideo': 'realesr_animevideo_x4',
  'LDL': 'ldl_rrdb_x4',
  'DASR': 'dasr_x4',
  'Real-SAFMN-L': 'safmn_l_real_lsdir_v2_x4',
}
# What the paper prints: PSNR Y, SSIM Y, LPIPS (AlexNet), on crops of 128 -> 512.
PRINTED = {
  'RealSR': {
    'RealESRGAN': (25.69, 0.7616, 0.2727),
    'LDL': (24.96, 0.7634, 0.2519),
    'DASR': (27.02, 0.7708, 0.3151),
    'Real-SAFMN-L': (24.23, 0.7217, 0.2905),
  },
  'DRealSR': {
    'RealESRGAN': (28.64, 0.8053, 0.2847),
    'LDL': (27.43, 0.8078, 0.2655),
    'DASR': (29.77, 0.7572, 0.3169),
    'Real-SAFMN-L': (27.15, 0.7671, 0.3148),
  },
}


class Run(NamedTuple):
  """One system on one set: 'params' or 'outputs', and where they lie."""

  set: str
  label: str
  kind: str
  where: str


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--set', dest='sets', action='append', default=[], metavar='LABEL=DIR', help='pictures')
  parser.add_argument('--system', dest='systems', action='append', default=[], metavar='LABEL=X', help='a network')
  parser.add_argument('--outputs', action='append', default=[], metavar='SET:LABEL=DIR', help='finished pictures')
  parser.add_argument('--work', type=Path, default=Path('runs/table1'), help='where finished parts are kept')
  parser.add_argument('--metrics', default='psnr,ssim,lpips,dists')
  parser.add_argument('--metric_weights', default='', help='folder with the weights of the metrics')
  parser.add_argument('--only', action='append', help='only these systems')
  parser.add_argument('--table', action='store_true', help='only write the table from results.json')
  args = parser.parse_args()
  path = HERE / 'results.json'
  results = json.loads(path.read_text()) if path.exists() else {}
  if not args.table:
    for run in plan(args):
      try:
        found = measured(run, args)
      except (UserError, subprocess.CalledProcessError) as error:
        print(f'MISSING: {run.label} on {run.set}: {getattr(error, "stderr", None) or error}', flush=True)
        continue
      results.setdefault(run.set, {})[run.label] = found
      path.write_text(json.dumps(results, indent=1) + '\n')
  write_table(results)


def plan(args: argparse.Namespace) -> list[Run]:
  """Returns what is to be measured, set by set."""
  systems = SYSTEMS | dict(split(text) for text in args.systems)
  runs = []
  for name, _ in map(split, args.sets):
    runs += [Run(name, label, 'params', where) for label, where in systems.items()]
    finished = (split(text) for text in args.outputs)
    runs += [
      Run(name, label.partition(':')[2], 'outputs', where) for label, where in finished if label.startswith(f'{name}:')
    ]
  return [run for run in runs if not args.only or run.label in args.only]


def split(text: str) -> tuple[str, str]:
  label, _, where = text.partition('=')
  return label, where


def measured(run: Run, args: argparse.Namespace) -> dict[str, Any]:
  """Returns the means and intervals of a run, part by part; parts that are done are read.

  Raises:
    UserError: the set has no folder HR.
    CalledProcessError: `evaluate` failed; its last line says why.
  """
  folder = Path(dict(map(split, args.sets))[run.set])
  hr = next((folder / name for name in ('HR', 'test_HR', 'gt') if (folder / name).is_dir()), None)
  lr = next((folder / name for name in ('LR', 'test_LR', 'lq') if (folder / name).is_dir()), None)
  if not (hr and lr):
    raise UserError(f'{folder} has no folders LR and HR (or test_LR and test_HR).')
  names = sorted(path.stem for path in image.list_images(hr))
  images = {}
  for number, start in enumerate(range(0, len(names), PART)):
    out = args.work / run.set / f'{sweeping.folder_name(run.label)}_{number}.json'
    if not out.exists():
      out.parent.mkdir(parents=True, exist_ok=True)
      part = out.with_suffix('.txt')
      part.write_text('\n'.join(names[start : start + PART]) + '\n')
      flags = [f'--{run.kind}={run.label}={run.where}', f'--lr={lr}', f'--hr={hr}', f'--names={part}', f'--out={out}']
      flags += [f'--metrics={args.metrics}', f'--metric_weights={args.metric_weights}', '--scale=4']
      command = [sys.executable, '-m', 'adaptsr_jax.evaluate', *flags]
      done = subprocess.run(command, text=True, stderr=subprocess.PIPE, check=False)
      if done.returncode:
        reason = (done.stderr.strip().splitlines() or ['it failed'])[-1]
        raise subprocess.CalledProcessError(done.returncode, command, stderr=reason)
    result = json.loads(out.read_text())
    images |= result['images']
  columns = {key: [row[key] for row in images.values()] for key in METRICS if key in next(iter(images.values()))}
  return {
    'pictures': len(images),
    'mean': {key: statistics.mean(values) for key, values in columns.items()},
    'interval': {key: statistics.bootstrap(values) for key, values in columns.items()},
    'model': result['protocol']['model'],
  }


def write_table(results: dict[str, Any]) -> None:
  """Puts the results into README.md, each beside what the paper prints."""
  shown = ('psnr_y', 'ssim_y', 'lpips_alex')
  rows = [['set', 'system', 'pictures', 'PSNR Y', 'printed', 'SSIM Y', 'printed', 'LPIPS', 'printed']]
  for name in dict.fromkeys([*PRINTED, *results]):
    found, printed = results.get(name, {}), PRINTED.get(name, {})
    for label in dict.fromkeys([*SYSTEMS, *found]):
      if label not in found and label not in printed:
        continue
      cells = []
      for place, key in enumerate(shown):
        value = found.get(label, {}).get('mean', {}).get(key)
        cells.append('' if value is None else f'{value:.{METRICS[key]}f}')
        cells.append(f'{printed[label][place]:.{METRICS[key]}f}' if label in printed else '')
      rows.append([name, label, str(found.get(label, {}).get('pictures', 'not here')), *cells])
  sweeping.fill(HERE / 'README.md', table=tables.markdown(rows))


if __name__ == '__main__':
  main()

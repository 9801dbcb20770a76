"""SAFMN on real camera pairs: an L1 adapter, an adversarial one that starts from it, and the slider between them.

  python -m experiments.007_gan.sweep --base=safmn_ntire2023_x4.pth --data=drealsr_x4 --photos=hr_valid \
    --metric_weights=weights --runs=runs/007

`--data` holds LR and HR; every seventh pair validates. `--photos` are HR pictures for the strip. Each run
is a process of its own, and what is done already is kept. Writes results.json and pictures beside this file, and fills
the table of README.md.
"""

import argparse
import json
import re
import shutil
from pathlib import Path

import numpy as np
from scipy import ndimage

from adaptsr_jax import bicubic, files, image, log
from adaptsr_jax.evaluate import tables
from experiments import sweeping

HERE = Path(__file__).parent
METRICS = {'psnr_y': 3, 'ssim_y': 4, 'psnr_rgb': 3, 'lpips_alex': 4}  # and the digits that are shown
_BLUR = 2.0  # standard deviation in HR pixels
SHOWN = ('city', 'dog', 'flowers')  # parts of the names of photographs


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--base', required=True)
  parser.add_argument('--data', required=True, type=Path)
  parser.add_argument('--photos', required=True, type=Path)
  parser.add_argument('--metric_weights', required=True)
  parser.add_argument('--runs', required=True, type=Path)
  parser.add_argument('--steps', type=int, default=300, help='of the L1 stage')
  parser.add_argument('--gan_steps', type=int, default=161, help='of the adversarial stage')
  args = parser.parse_args()
  held_out = sweeping.every_seventh(args.data / 'HR', args.runs / 'validation.txt')
  adapters = stages(args)
  pairs = {'lr': args.data / 'LR', 'hr': args.data / 'HR', 'names': held_out}
  slider = sweep(args, adapters, pairs, 11, args.runs / 'slider')
  shutil.copy(args.runs / 'slider' / 'sweep.png', HERE / 'slider.png')
  photographs(args, adapters)
  results = {'stages': costs(args.runs), 'slider': slider}
  files.write_json(HERE / 'results.json', results)
  fill(results)


def stages(args: argparse.Namespace) -> list[Path]:
  """Trains both stages, as far as they are not; returns their adapter files."""
  fields = {
    'base': args.base,
    'seed': 0,
    'batch_size': 8,
    'patch': 128,
    'eval_every': 100,
    **sweeping.pairs(args.data, args.runs),
    'metrics': 'lpips_alex',
    'metric_weights': args.metric_weights,
  }
  faithful, sharp = (args.runs / name / 'adapter.safetensors' for name in ('l1', 'gan'))
  sweeping.adapted(faithful.parent, 'configs/safmn.py', {**fields, 'steps': args.steps})
  sweeping.adapted(sharp.parent, 'configs/safmn_gan.py', {**fields, 'steps': args.gan_steps, 'init_from': faithful})
  return [faithful, sharp]


def sweep(args: argparse.Namespace, adapters: list[Path], pictures: dict, points: int, out: Path) -> dict[str, dict]:
  """Measures mixtures of the two; returns {'1 : 0': {metric: mean}, ...}."""
  where = [f'--{key}={value}' for key, value in pictures.items()]
  options = [f'--points={points}', '--metrics=psnr,ssim,lpips_alex', f'--metric_weights={args.metric_weights}']
  command = ['adaptsr_jax.adapters', 'sweep', args.base, *map(str, adapters), *where, *options, f'--out={out}']
  sweeping.command(command)
  return {label: run['mean'] for label, run in json.loads((out / 'sweep.json').read_text())['runs'].items()}


def photographs(args: argparse.Namespace, adapters: list[Path]) -> None:
  """Draws the strip of three photographs, made as soft as a camera: the adapters were trained on such LR pictures."""
  soft = args.runs / 'soft'
  soft.mkdir(exist_ok=True)
  stems = sorted(path.stem for path in args.photos.glob('*.png'))
  names = [next((stem for stem in stems if part in stem), stems[0]) for part in SHOWN]
  for name in names:
    blurred = ndimage.gaussian_filter(image.to_float(image.read_array(args.photos / f'{name}.png')), (_BLUR, _BLUR, 0))
    image.write(soft / f'{name}.png', np.clip(bicubic.imresize(blurred, 1 / 4), 0, 1))
  out = args.runs / 'photographs'
  sweep(args, adapters, {'lr': soft, 'hr': args.photos, 'names': ','.join(names)}, 6, out)
  shutil.copy(out / 'strip.png', HERE / 'strip.png')


def costs(runs: Path) -> dict[str, dict]:
  """Returns what each stage took, and what was logged in its last steps."""
  found = {}
  for name in ('l1', 'gan'):
    results = json.loads((runs / name / 'results.json').read_text())
    kept = ('steps', 'seconds', 'trainable_parameters', 'peak_memory_bytes')
    logged = [row for row in log.read_metrics(runs / name) if 'loss' in row]
    found[name] = {**{key: results[key] for key in kept}, 'last': logged[-1]}
    found[name]['base'], found[name]['adapted'] = (results[label]['mean'] for label in ('base', 'adapted'))
  return found


def fill(results: dict) -> None:
  """Writes the table into README.md, between its marks."""
  base = results['stages']['l1']['base']
  rows = {'base': base, **{label: mean for label, mean in results['slider'].items()}}
  start = next(iter(results['slider'].values()))
  lines = [['L1 : adversarial', 'PSNR Y', 'SSIM Y', 'PSNR RGB', 'LPIPS', 'PSNR Y to L1', 'LPIPS to L1']]
  for label, mean in rows.items():
    change = [
      f'{mean["psnr_y"] - start["psnr_y"]:+.2f} dB',
      f'{100 * (mean["lpips_alex"] / start["lpips_alex"] - 1):+.1f} %',
    ]
    lines.append([label, *(f'{mean[metric]:.{digits}f}' for metric, digits in METRICS.items()), *change])
  readme = HERE / 'README.md'
  text = re.sub(
    r'(<!-- table -->\n).*?(<!-- end -->)',
    lambda mark: f'{mark[1]}{tables.markdown(lines)}\n{mark[2]}',
    readme.read_text(),
    flags=re.DOTALL,
  )
  readme.write_text(text)


if __name__ == '__main__':
  main()

"""SAFMN on two cameras: an L1 adapter, an adversarial one that starts from it, and the slider between them.

  python -m experiments.007_gan.sweep --base=safmn_ntire2023_x4.pth --data=drealsr_x4 --photos=hr_valid \
    --train_photos=hr_train --metric_weights=weights --runs=runs/007

One camera is that of `--data`, which holds LR and HR; every seventh pair validates. The other is simulated, as
Real-ESRGAN does: `--train_photos` are HR pictures to train on (without: left out), `--photos` others to validate on,
and for the strips. Each run is a process of its own, and what is done already is kept. Writes results.json and pictures
beside this file, and fills the tables of README.md.
"""

import argparse
import json
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
  parser.add_argument('--train_photos', type=Path)
  parser.add_argument('--metric_weights', required=True)
  parser.add_argument('--runs', required=True, type=Path)
  parser.add_argument('--steps', type=int, default=300, help='of the L1 stage')
  parser.add_argument('--gan_steps', type=int, default=161, help='of the adversarial stage')
  parser.add_argument('--simulated_gan_steps', type=int, default=1600, help='of that stage on the simulated camera')
  args = parser.parse_args()
  held_out = sweeping.every_seventh(args.data / 'HR', args.runs / 'validation.txt')
  adapters = stages(args, '', sweeping.pairs(args.data, args.runs), args.gan_steps)
  pairs = {'lr': args.data / 'LR', 'hr': args.data / 'HR', 'names': held_out}
  slider = sweep(args, adapters, pairs, 11, args.runs / 'slider')
  shutil.copy(args.runs / 'slider' / 'sweep.png', HERE / 'slider.png')
  photographs(args, adapters)
  results = {'real': {'stages': costs(args.runs, ''), 'slider': slider}}
  if args.train_photos:
    results['simulated'] = simulated(args)
  files.write_json(HERE / 'results.json', results)
  fill(results)


def simulated(args: argparse.Namespace) -> dict[str, dict]:
  """Does the same with a simulated camera, both to train and to validate; returns what came out."""
  degraded = args.runs / 'degraded'
  if not degraded.exists():
    sweeping.command(['adaptsr_jax.degrade', f'--hr={args.photos}', f'--out={degraded}', '--preset=realesrgan'])
  fields = {
    'data.train.hr': args.train_photos,
    'data.train.degrade': 'realesrgan',
    'data.usm': True,
    'data.valid.lr': degraded,
    'data.valid.hr': args.photos,
    'tensorboard': False,
  }
  adapters = stages(args, 'simulated_', fields, args.simulated_gan_steps)
  out = args.runs / 'simulated_slider'
  slider = sweep(args, adapters, {'lr': degraded, 'hr': args.photos}, 11, out)
  for name in ('sweep', 'strip'):
    shutil.copy(out / f'{name}.png', HERE / f'simulated_{name}.png')
  return {'stages': costs(args.runs, 'simulated_'), 'slider': slider}


def stages(args: argparse.Namespace, prefix: str, pictures: dict, gan_steps: int) -> list[Path]:
  """Trains both stages, as far as they are not; returns their adapter files."""
  fields = {
    'base': args.base,
    'seed': 0,
    'batch_size': 8,
    'patch': 128,
    'eval_every': 100,
    **pictures,
    'metrics': 'lpips_alex',
    'metric_weights': args.metric_weights,
  }
  faithful, sharp = (args.runs / f'{prefix}{name}' / 'adapter.safetensors' for name in ('l1', 'gan'))
  sweeping.adapted(faithful.parent, 'configs/safmn.py', {**fields, **sweeping.FIRST['lora'], 'steps': args.steps})
  sweeping.adapted(sharp.parent, 'configs/safmn_gan.py', {**fields, 'steps': gan_steps, 'init_from': faithful})
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


def costs(runs: Path, prefix: str) -> dict[str, dict]:
  """Returns what each stage took, and what was logged in its last steps."""
  found = {}
  for name in ('l1', 'gan'):
    folder = runs / f'{prefix}{name}'
    results = json.loads((folder / 'results.json').read_text())
    kept = ('steps', 'seconds', 'trainable_parameters', 'peak_memory_bytes')
    logged = [row for row in log.read_metrics(folder) if 'loss' in row]
    found[name] = {**{key: results[key] for key in kept}, 'last': logged[-1]}
    found[name]['base'], found[name]['adapted'] = (results[label]['mean'] for label in ('base', 'adapted'))
  return found


def fill(results: dict) -> None:
  """Writes the tables into README.md, each between its marks."""
  for camera, found in results.items():
    rows = {'base': found['stages']['l1']['base'], **found['slider']}
    start = next(iter(found['slider'].values()))
    lines = [['L1 : adversarial', 'PSNR Y', 'SSIM Y', 'PSNR RGB', 'LPIPS', 'PSNR Y to L1', 'LPIPS to L1']]
    for label, mean in rows.items():
      decibels, share = mean['psnr_y'] - start['psnr_y'], mean['lpips_alex'] / start['lpips_alex'] - 1
      cells = [f'{mean[metric]:.{digits}f}' for metric, digits in METRICS.items()]
      lines.append([label, *cells, f'{decibels:+.2f} dB', f'{100 * share:+.1f} %'])
    sweeping.fill(HERE / 'README.md', **{camera: tables.markdown(lines)})


if __name__ == '__main__':
  main()

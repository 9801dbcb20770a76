"""What became of a picture that lost: where its error lies, and how far the kernels moved.

  python -m experiments.008_promise.astray --base=safmn_ntire2023_x4.pth --merged=RUN/merged --data=drealsr_x4 \
    --picture=IMG_107_x1
"""

import argparse
from pathlib import Path

import numpy as np

import adaptsr_jax as sr
from adaptsr_jax import base as base_lib
from adaptsr_jax import image, tree


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  for name in ('base', 'merged', 'picture'):
    parser.add_argument(f'--{name}', required=True)
  parser.add_argument('--data', required=True, type=Path)
  args = parser.parse_args()
  lr, hr = (image.read_array(args.data / side / f'{args.picture}.png') for side in ('LR', 'HR'))
  output = image.to_float(np.asarray(sr.load(args.merged).enlarge(lr)))
  errors = np.sort(np.square(output - image.to_float(hr)).mean(-1), axis=None)
  share = errors[-len(errors) // 20 :].sum() / errors.sum()
  print(f'{args.picture}: {share:.0%} of the squared error lies in 5 % of the pixels')
  before, after = (tree.flatten(base_lib.load(name).params) for name in (args.base, args.merged))
  # As the matrices that adapters of the form 1x1_kxk factor; depthwise kernels have one input.
  wide = [name for name, leaf in before.items() if leaf.ndim == 4 and leaf.shape[2] > 1]
  moved = [np.moveaxis(after[name] - before[name], 2, 0).reshape(before[name].shape[2], -1) for name in wide]
  whole, largest = np.sqrt(sum(np.sum(m * m) for m in moved)), np.mean([np.linalg.norm(m, 2) for m in moved])
  print(f'kernels moved by {whole:.2f} in all (Frobenius), {largest:.2f} in the direction that moved most (mean)')


if __name__ == '__main__':
  main()

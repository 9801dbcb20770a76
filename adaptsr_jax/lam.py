"""Shows which pixels of a photo networks use for a patch of the output: local attribution maps, diffusion index.

python -m adaptsr_jax.lam --params=base.pth --params=runs/camera/merged --picture=PHOTO.png --out=lam.png
python -m adaptsr_jax.lam --params=base=base.pth --params=full=runs/full/merged --params=adapted=runs/camera/merged \
  --picture=HR.png --hr --box=110,150 --out=lam.svg
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from etils import epy

from adaptsr_jax import command, files, log
from adaptsr_jax.errors import UserError, enough_memory

with epy.lazy_imports():
  import numpy as np
  from PIL import Image

  from adaptsr_jax import base, bicubic, config, figures, image
  from adaptsr_jax.evaluate import tables
  from adaptsr_jax.metrics import lam

_LONGEST = 28  # characters of a label that fit below a map


class _Scene(NamedTuple):
  """What is explained.

  Attributes:
    lr: (h, w, 3), what the networks see.
    large: (scale * h, scale * w, 3), the same to look at: HR, or LR enlarged.
    patch: in pixels of `large`.
    corner: (x, y) of `lr` in the whole LR picture.
  """

  lr: 'np.ndarray'
  large: 'np.ndarray'
  patch: 'figures.Box'
  corner: tuple[int, int]


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog='python -m adaptsr_jax.lam', description=__doc__.split('\n')[0])
  parser.add_argument(
    '--params',
    action='append',
    required=True,
    metavar='[LABEL=]X',
    help='params folder, .pth, .pt or .safetensors file, or name of published weights; repeatable',
  )
  parser.add_argument('--picture', required=True, metavar='FILE', help='LR photo')
  parser.add_argument('--hr', action='store_true', help='--picture is HR, and is shrunk for the networks (PIL bicubic)')
  parser.add_argument(
    '--box', metavar='X,Y[,SIZE]', help='the patch, in pixels of the enlarged picture; default: the busiest, SIZE 16'
  )
  parser.add_argument(
    '--context', type=int, default=64, help='side of what is cut out around the patch, in LR pixels (default 64)'
  )
  command.add_flags(parser, 'key', 'fields')
  parser.add_argument('--out', required=True, metavar='FILE', help='.png or .svg; numbers go into a .json beside it')
  return parser


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  args = _parser().parse_args(command.arguments(argv))
  return command.ended(lambda: _run(args), 'Stopped; nothing is written.')


def _run(args: argparse.Namespace) -> None:
  figures.check_path(args.out)
  specs = _specs(args.params)
  networks = _load(specs, config.parse_fields(args.fields), args.key)
  scale = next(iter(networks.values())).model().upscale
  lr, hr = _read(args.picture, args.hr, scale)
  box = _box(args, lr, hr, scale)
  scene = _cut(lr, hr, box, scale, args.context)
  height, width = lr.shape[:2]
  log.say(
    f'Patch {box.x},{box.y},{box.width} of {scale * width} x {scale * height} pixels; networks see {_words(scene)}.'
  )

  maps = {}
  for label, network in networks.items():
    with log.Work(f'{label}: {lam.FOLD} gradients'):
      maps[label] = _attribute(network, scene, label, args.picture)
  indices = {label: lam.diffusion_index(saliency) for label, saliency in maps.items()}

  names = {label: label if len(label) <= _LONGEST else f'…{label[1 - _LONGEST :]}' for label in maps}
  panels = [(f'{names[label]}\nDI {indices[label]:.2f}', saliency) for label, saliency in maps.items()]
  figures.attribution(args.out, f'patch at {box.x},{box.y}', scene.large, scene.patch, panels)
  out = Path(args.out).with_suffix('.json')
  settings = {'sigma': lam.SIGMA, 'fold': lam.FOLD, 'kernel': lam.KERNEL}
  runs = {label: {'params': specs[label], 'diffusion_index': indices[label]} for label in maps}
  region = [*scene.corner, *scene.lr.shape[1::-1]]
  place = {'picture': args.picture, 'hr': args.hr, 'scale': scale, 'box': box[:3], 'region': region}
  files.write_json(out, {**place, 'settings': settings, 'runs': runs})
  log.say(tables.text([['', 'diffusion index'], *([label, f'{value:.2f}'] for label, value in indices.items())]))
  log.say(f'Higher: more pixels are used. Written: {args.out}, {out}')


def _specs(texts: list[str]) -> dict[str, str]:
  """Returns {label: where it lies} of 'LABEL=X' or plain 'X', which is its own label."""
  specs = {}
  for text in texts:
    label, where = config.labelled(text)
    if label in specs:
      raise UserError(f'--params={text}: the label {label!r} is given twice; name them with --params=LABEL=X.')
    specs[label] = where
  return specs


def _load(specs: Mapping[str, str], fields: dict[str, Any], key: str | None) -> dict[str, 'base.Base']:
  networks = {label: base.load(where, fields, key) for label, where in specs.items()}
  for label, loaded in networks.items():
    for remark in base.remarks(loaded, '--fields='):
      log.say(f'{label}: {remark}')
  scales = {label: loaded.model().upscale for label, loaded in networks.items()}
  if len(set(scales.values())) > 1:
    listed = ', '.join(f'{label} x{scale}' for label, scale in scales.items())
    raise UserError(f'The networks enlarge by different factors, so their maps do not compare: {listed}.')
  return networks


def _read(path: str, is_hr: bool, scale: int) -> tuple['np.ndarray', 'np.ndarray | None']:
  """Returns LR (h, w, 3) and, where the file is that, HR (scale * h, scale * w, 3); floats in [0, 1]."""
  picture = image.read(path).rgb
  if not is_hr:
    return picture, None
  height, width = (side // scale for side in picture.shape[:2])
  if min(height, width) < 1:
    raise UserError(f'{path} has {picture.shape[1]} x {picture.shape[0]} pixels: too small to be shrunk by {scale}.')
  hr = picture[: scale * height, : scale * width]
  lr = Image.fromarray(image.to_uint8(hr)).resize((width, height), Image.Resampling.BICUBIC)
  return image.to_float(np.asarray(lr)), hr


def _box(args: argparse.Namespace, lr: 'np.ndarray', hr: 'np.ndarray | None', scale: int) -> 'figures.Box':
  """Returns the patch in pixels of the enlarged picture: the given one, or the busiest."""
  corner, size = _parsed_box(args.box) if args.box else (None, lam.WINDOW)
  height, width = (scale * side for side in lr.shape[:2])
  # Differences to the next row and column need a pixel beyond the patch.
  if min(height, width) <= size:
    raise UserError(
      f'{args.picture} is too small for a patch of {size} pixels: enlarged by {scale} it has {width} x {height}.'
    )
  least = -(-(size + 1) // scale) + 2
  if args.context < least:
    raise UserError(f'--context={args.context} is too small for a patch of {size} pixels: give {least} or more.')
  if corner is None and hr is not None:
    corner = figures.busiest_box(hr[:-1, :-1], size)[:2]
  elif corner is None:
    corner = (scale * start for start in figures.busiest_box(lr[:-1, :-1], -(-size // scale))[:2])
  box = figures.Box(*corner, size, size)
  if box.x + size >= width or box.y + size >= height:
    raise UserError(
      f'--box={args.box} leaves the enlarged picture of {width} x {height} pixels: '
      f'X can be 0 to {width - size - 1}, Y 0 to {height - size - 1}.'
    )
  return box


def _parsed_box(text: str) -> tuple[tuple[int, int], int]:
  """Returns ((x, y), size) of 'X,Y' or 'X,Y,SIZE'."""
  parts = text.split(',')
  if len(parts) not in (2, 3) or not all(part.strip().isdecimal() for part in parts):
    raise UserError(f'--box={text} is not X,Y or X,Y,SIZE in whole pixels, such as 110,150,16.')
  x, y, size = (*map(int, parts), lam.WINDOW)[:3]
  if size < 1:
    raise UserError(f'--box={text} has no size: SIZE is 1 or more pixels.')
  return (x, y), size


def _cut(lr: 'np.ndarray', hr: 'np.ndarray | None', box: 'figures.Box', scale: int, context: int) -> _Scene:
  """Cuts out `context` LR pixels a side around the patch, less where the picture has less."""
  left, right = _span(box.x + box.width / 2, context, lr.shape[1], scale)
  top, bottom = _span(box.y + box.height / 2, context, lr.shape[0], scale)
  small = lr[top:bottom, left:right]
  if hr is None:
    large = np.clip(bicubic.imresize(small, scale), 0, 1)
  else:
    large = hr[scale * top : scale * bottom, scale * left : scale * right]
  return _Scene(small, large, box._replace(x=box.x - scale * left, y=box.y - scale * top), (left, top))


def _span(middle: float, length: int, side: int, scale: int) -> tuple[int, int]:
  """Returns (start, stop) of `length` of the `side` LR pixels, as far as possible around an SR place."""
  length = min(length, side)
  start = min(max(round(middle / scale - length / 2), 0), side - length)
  return start, start + length


def _words(scene: _Scene) -> str:
  height, width = scene.lr.shape[:2]
  return f'{width} x {height} LR pixels from {scene.corner[0]},{scene.corner[1]}'


def _attribute(network: 'base.Base', scene: _Scene, label: str, picture: str) -> 'np.ndarray':
  """Returns the map of `scene.lr`."""
  model = network.model()  # one object for equal networks: the gradient is compiled once
  if min(scene.lr.shape[:2]) < model.minimum:
    raise UserError(
      f'{label}: the network needs {model.minimum} LR pixels on each side, and gets {_words(scene)}: '
      'give a larger picture or --context.'
    )
  with enough_memory(f'for {label}: choose a --context below {max(scene.lr.shape[:2])}'):
    saliency = lam.attribute(model.apply, network.params, scene.lr[None], scene.patch[:3])
  if not np.isfinite(saliency).all():
    raise UserError(f'{label}: the network gives numbers that are not finite; its weights are damaged.')
  if not saliency.any():
    raise UserError(f'{label}: nothing in {picture} adds to this patch, which is flat; choose another --box.')
  return saliency


if __name__ == '__main__':
  command.start(main)

"""Measures networks, or finished pictures of any other system, on pairs of pictures.

python -m adaptsr_jax.evaluate --params=runs/camera/merged --lr=LR --hr=HR --out=results.json
python -m adaptsr_jax.evaluate --params=base.pth --params=runs/camera/merged --params=bicubic --lr=LR --hr=HR
python -m adaptsr_jax.evaluate --outputs=PICTURES --hr=HR --scale=4
"""

import argparse
import sys
from types import SimpleNamespace
from typing import Any


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog='python -m adaptsr_jax.evaluate', description=__doc__.split('\n')[0])
  parser.add_argument(
    '--params',
    action='append',
    default=[],
    metavar='X',
    help="params folder, .pth, .pt or .safetensors file, or 'bicubic' (MATLAB's kernel); may be repeated",
  )
  parser.add_argument('--outputs', metavar='DIR', help='folder of finished pictures of HR size, instead of --params')
  parser.add_argument('--lr', default='', metavar='DIR', help='LR pictures; without: HR shrunk by the bicubic kernel')
  parser.add_argument('--hr', required=True, metavar='DIR', help='HR pictures')
  parser.add_argument('--names', default='', help="only these pictures: 'a,b,c' or a text file with one name a line")
  parser.add_argument('--out', metavar='FILE', help='where to write the measurements as JSON')
  parser.add_argument('--scale', type=int, help='of bicubic and finished pictures; by default told from --lr and --hr')
  parser.add_argument('--fields', default='', help="what a checkpoint does not tell, e.g. 'res_scale=0.1'")
  parser.add_argument('--tile', type=int, default=-1, help='side of LR tiles, to save memory; default: whole pictures')
  parser.add_argument('--ensemble', action='store_true', help='average over the eight flips and turns')
  return parser


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  args = _parser().parse_args(argv)
  from adaptsr_jax import checkpoint
  from adaptsr_jax.errors import UserError

  try:
    runs = _run(args)
    content = {'runs': runs} if len(args.params) > 1 else next(iter(runs.values()))
    if args.out:
      checkpoint.write_json(args.out, content)
  except (UserError, OSError) as error:
    print(f'Error: {error}', file=sys.stderr)
    return 2
  print(_table(runs))
  return 0


def _run(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
  from adaptsr_jax.errors import UserError

  if bool(args.params) == bool(args.outputs):
    raise UserError('Give either --params (once or more) or --outputs.')
  if args.outputs:
    return {args.outputs: _measure_outputs(args)}
  return {spec: _measure_params(spec, args) for spec in dict.fromkeys(args.params)}


def _measure_outputs(args: argparse.Namespace) -> dict[str, Any]:
  from adaptsr_jax import adapt, data, image, metrics

  scale = _scale(args)
  # Finished pictures and HR pictures are pairs of scale 1.
  source = data.open_source(SimpleNamespace(lr=args.outputs, hr=args.hr, names=args.names), 1)
  result = adapt.measure(
    lambda output, _: image.to_uint8(output),
    data.pairs(source),
    [lambda output, hr, _: metrics.quality(output, hr, scale)],
  )
  return {**result, 'protocol': {**metrics.PROTOCOL, 'crop': scale}}


def _scale(args: argparse.Namespace) -> int:
  from adaptsr_jax import data
  from adaptsr_jax.errors import UserError

  if args.scale:
    return args.scale
  if not args.lr:
    raise UserError('Without --lr the scale is unknown: give --scale.')
  return data.scale_of(args.lr, args.hr)


def _measure_params(spec: str, args: argparse.Namespace) -> dict[str, Any]:
  from adaptsr_jax import adapt, base, bicubic, config, data, infer, metrics

  if spec == 'bicubic':
    model, scale = None, _scale(args)
  else:
    loaded = base.load(spec, config.parse_fields(args.fields))
    model = loaded.model()
    scale = model.upscale
  source = data.open_source(SimpleNamespace(lr=args.lr, hr=args.hr, names=args.names), scale)
  print(f'{spec}: {source.describe()}', flush=True)
  if model is None:
    result = adapt.measure(bicubic.imresize, data.pairs(source), [metrics.quality])
  else:
    tiling = infer.tiling_of(model, args.tile)
    result = adapt.evaluate(model.apply, loaded.params, data.pairs(source), ensemble=args.ensemble, **tiling)
  lr = 'as given' if args.lr else 'MATLAB bicubic of HR'
  options = {'crop': scale, 'lr': lr, 'tile': args.tile, 'ensemble': args.ensemble}
  return {**result, 'protocol': {**metrics.PROTOCOL, **options}}


def _table(runs: dict[str, dict[str, Any]]) -> str:
  width = max(map(len, runs))
  first = next(iter(runs.values()))
  lines = [' ' * width + ''.join(f'{key:>10}' for key in first['mean'])]
  lines += [f'{label:{width}}' + ''.join(f'{v:10.4f}' for v in run['mean'].values()) for label, run in runs.items()]
  protocol = '; '.join(f'{key} {value}' for key, value in first['protocol'].items())
  return '\n'.join([*lines, f'Mean of {len(first["images"])} pictures. Protocol: {protocol}.'])


if __name__ == '__main__':
  sys.exit(main())

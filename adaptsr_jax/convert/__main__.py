"""Converts weights between PyTorch files and params folders, and to ONNX, and tells what a file holds.

python -m adaptsr_jax.convert SAFMN_DF2K_x2.pth --detect
python -m adaptsr_jax.convert swinir_light_x4 params_swinir
python -m adaptsr_jax.convert edsr_x4.pt edsr_x4.safetensors --dtype float16
python -m adaptsr_jax.convert edsr.pth params_edsr --fields res_scale=0.1
python -m adaptsr_jax.convert gan_training.pth::g_ema generator.pth
python -m adaptsr_jax.convert runs/camera/merged camera.pth
python -m adaptsr_jax.convert runs/camera/merged camera.onnx --half
python -m adaptsr_jax.convert realesr_general_x4 realesr_general_wdn_x4 between.pth --weights 0.5,0.5
"""

import argparse
from collections.abc import Sequence

from adaptsr_jax import command


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line `argv`; returns the exit code: 0, or 2 after one sentence on what the user can mend."""
  parser = _parser()
  options = parser.parse_intermixed_args(command.arguments(argv))
  *options.sources, options.out = options.paths if not options.detect else (*options.paths, None)
  if not options.sources or options.detect and len(options.sources) > 1:
    parser.error('give IN and OUT, or --detect and a single IN')
  if (options.weights is None) != (len(options.sources) == 1):
    parser.error('several IN need --weights, one number for each, and a single one has none')
  return command.ended(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
  from adaptsr_jax.convert import conversion  # jax with it: help and usage errors come at once

  conversion.run(options)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m adaptsr_jax.convert',
    usage='%(prog)s [options] IN OUT\n       %(prog)s [options] --weights W,W IN IN OUT\n       %(prog)s --detect IN',
    description=__doc__.split('\n')[0],
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    'paths',
    metavar='PATH',
    nargs='+',
    help='IN: .pth, .pt or .safetensors weights, a params folder, or a name that `python -m adaptsr_jax.zoo` lists; '
    'several are mixed by --weights. OUT: .pth, .pt, .safetensors (key names of PyTorch), .onnx, else a params folder',
  )
  parser.add_argument('--detect', action='store_true', help='only print what IN is')
  parser.add_argument('--json', action='store_true', help='print JSON')
  parser.add_argument(
    '--fields',
    '--set',
    action='append',
    default=[],
    metavar='FIELD=VALUE',
    help='a setting that IN cannot tell, e.g. res_scale=0.1',
  )
  parser.add_argument(
    '--weights',
    help='one number per IN: their weighted sum is written, e.g. 0.5,0.5 (between two networks of one architecture, '
    'where one was trained on from the other); --weights=-1,2 where one is negative',
  )
  command.add_flags(parser, 'key')
  parser.add_argument(
    '--like_source',
    action='store_true',
    help='put the weights where the source had them, behind its prefix (default: plain keys, which all programs read)',
  )
  parser.add_argument('--name', help='write the key names of this model: edsr and edsr_official are the same network')
  parser.add_argument(
    '--dtype', choices=('float32', 'float16', 'bfloat16'), help='of OUT (default: of IN; a folder: float32)'
  )
  parser.add_argument(
    '--learned',
    action='store_true',
    help='leave out the masks and position indices of SwinIR and DRCT, which networks here compute anew: smaller, but '
    'PyTorch needs strict=False',
  )
  parser.add_argument('--half', action='store_true', help='as --dtype float16, and tell what that changes of a picture')
  return parser


if __name__ == '__main__':
  command.start(main)

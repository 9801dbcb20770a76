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
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adaptsr_jax import command
from adaptsr_jax.errors import UserError

# What needs jax is imported where it is used: help and usage errors come at once.


RELATED = 0.5  # correlation of kernels; 0.99 for the two realesr-general networks, about 0 for strangers


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
  parser.add_argument(
    '--key', metavar='NAME', help='which network of a file with several; as IN::NAME (default: the averaged one)'
  )
  parser.add_argument(
    '--like_source',
    action='store_true',
    help='put the weights where the source had them, behind its prefix (default: plain keys, which all programs read)',
  )
  parser.add_argument('--name', help='write the key names of this model: edsr and edsr_official are the same network')
  parser.add_argument(
    '--dtype', choices=('float32', 'float16', 'bfloat16'), help='of OUT (default: of IN; a folder: float32)'
  )
  parser.add_argument('--half', action='store_true', help='as --dtype float16, and tell what that changes of a picture')
  return parser


def _run(options: argparse.Namespace) -> None:
  from adaptsr_jax import base, config

  if options.half:
    options.dtype = options.dtype or 'float16'
  _check_dtype(options)
  settings = config.parse_fields(','.join(options.fields), '--fields')
  if options.out:
    for source in options.sources:
      _check_out(source, options.out)
  loaded = [_load(source, settings, options.key) for source in options.sources]
  notes = []
  if options.weights is None:
    (loaded,) = loaded
  else:
    loaded, notes = _interpolated(loaded, config.numbers(options.weights, len(loaded), '--weights'), options.sources)
  named = _renamed(loaded, options.name) if options.name else loaded
  if options.out:
    notes += _write(options.out, named, options.dtype, options.like_source)
  report = _report(options, loaded)
  notes += [_rounding(loaded.params, options.dtype)] if options.out and options.dtype else []
  notes += [_seen(named, options.dtype)] if options.half and not base.is_onnx(options.out) else []
  remarks = [*base.remarks(loaded, '--fields '), *notes]
  print(json.dumps(report, indent=1) if options.json else _text(report, remarks))


def _check_dtype(options: argparse.Namespace) -> None:
  from adaptsr_jax import base

  if options.half and (options.dtype != 'float16' or not options.out):
    raise UserError('--half writes float16 to OUT: leave --dtype and --detect out.')
  if options.out and base.is_onnx(options.out) and options.dtype == 'bfloat16':
    raise UserError(f'{options.out} can be float32 or float16; choose another --dtype.')


def _load(source: str, settings: dict[str, Any], key: str | None) -> Any:
  """Returns the base; what is wrong with the weights themselves is said with the name of their file."""
  from adaptsr_jax import base

  try:
    return base.load(source, settings, key, as_stored=True)
  except UserError as error:
    raise error if source in str(error) else UserError(f'{source}: {error}') from error


def _interpolated(bases: list[Any], weights: list[float], names: list[str]) -> tuple[Any, list[str]]:
  """Returns the network between `bases`, and what there is to say of it."""
  from adaptsr_jax import base

  mixed = base.interpolated(bases, weights, names)
  kin = [base.kinship(bases[0], other) for other in bases[1:]]
  notes = [
    f'Note: the kernels of {name} and {names[0]} have a correlation of {value:.2f}: they were not trained from one '
    'another, and what lies between them is likely of no use.'
    for name, value in zip(names[1:], kin, strict=True)
    if value < RELATED
  ]
  return mixed, notes


def _check_out(source: str, out: str) -> None:
  """Refuses what must not be overwritten."""
  from adaptsr_jax import base, files, params_folder

  path, given = Path(out), Path(base.place(source)[0])
  if path.exists() and given.exists() and path.samefile(given):
    raise UserError(f'{out} is the input; choose another OUT.')
  if base.is_file(out, written=True) and path.is_dir():
    raise UserError(f'{out} is a folder; choose another OUT.')
  if not base.is_file(out, written=True) and path.is_file():
    raise UserError(f'{out} is a file, and would be a params folder; choose another OUT.')
  if not base.is_file(out, written=True):
    files.check_folder(out, base.FILES)
  if path.is_dir() and any(path.iterdir()) and not params_folder.is_params_folder(path):
    raise UserError(f'{out} is a folder with other content; choose another OUT.')
  if not path.absolute().parent.is_dir():
    raise UserError(f'{out} cannot be written: its folder does not exist.')


def _renamed(loaded: Any, name: str) -> Any:
  """Returns the base under another name of the same network, without the layout of its old file but for the types."""
  from adaptsr_jax import models

  if models.MODELS.get(name) is not models.MODELS[loaded.name]:
    same = [other for other, model in models.MODELS.items() if model is models.MODELS[loaded.name]]
    raise UserError(f'--name is {name!r}; a network of {loaded.name} can be written as {" or ".join(same)}.')
  if name == loaded.name:
    return loaded
  source = loaded.source or {}
  return loaded._replace(name=name, source={key: source[key] for key in ('dtype', 'dtypes') if key in source})


def _write(out: str, loaded: Any, dtype: str | None, like_source: bool) -> list[str]:
  """Writes the network; returns what there is to say of that."""
  import jax
  import jax.numpy as jnp
  import numpy as np

  from adaptsr_jax import base, params_folder, tree
  from adaptsr_jax.convert import graph

  for name, leaf in tree.flatten(loaded.params).items() if dtype else ():
    if leaf.size and np.abs(leaf).max() > float(jnp.finfo(dtype).max):
      raise UserError(
        f'{name} has values up to {np.abs(leaf).max():.3g}, too large for {dtype}; choose another --dtype.'
      )
  if base.is_onnx(out):
    half = dtype == 'float16'
    difference = base.export_onnx(out, loaded, loaded.params, half)
    way = 'stored as float16, computed in float32; ' if half else ''
    notes = [f'ONNX, opset {graph.OPSET}, {way}checked by onnxruntime: largest difference {_levels(difference)}']
    if side := graph.fixed_side(loaded.model()):
      notes.append(f'It takes pictures of {side} x {side} pixels only: the network has absolute positions')
    return notes
  if base.is_file(out):
    base.export(out, loaded, loaded.params, dtype, like_source)
  else:
    params_folder.save_params(out, jax.tree.map(lambda leaf: _stored(leaf, dtype), loaded.params), loaded.info())
  return []


def _seen(loaded: Any, dtype: str) -> str:
  """Returns the sentence on the largest change of a picture, of noise, by rounding parameters to `dtype`."""
  import jax
  import numpy as np

  from adaptsr_jax import infer
  from adaptsr_jax.convert import graph

  model = loaded.model()
  side = graph.fixed_side(model) or 48
  picture = np.random.default_rng(0).random((side, side, 3), np.float32)
  whole, rounded = (jax.tree.map(lambda leaf, t=t: leaf.astype(t).astype('f4'), loaded.params) for t in ('f4', dtype))
  before, after = (infer.network(model, params, infer.WHOLE)(picture) for params in (whole, rounded))
  return f'Computed in float32 with parameters so rounded: largest difference {_levels(np.abs(after - before).max())}'


def _levels(difference: float) -> str:
  return f'{difference:.2g} of 1, {255 * difference:.2g} of 255 levels'


def _rounding(params: Any, dtype: str) -> str:
  """Returns the sentence on the largest change of a parameter by rounding to `dtype`."""
  import numpy as np

  from adaptsr_jax import tree

  leaves = {name: np.float64(leaf) for name, leaf in tree.flatten(params).items()}
  changes = {name: np.abs(leaf - np.float64(leaf.astype(dtype))).max() for name, leaf in leaves.items()}
  name = max(changes, key=changes.get)
  return (
    f'Rounded to {dtype}: largest change {changes[name]:.2g}, in {name} (values up to {np.abs(leaves[name]).max():.2g})'
  )


def _stored(leaf: Any, dtype: str | None) -> Any:
  """Returns a leaf as a params folder holds it: float32, unless that loses digits."""
  import numpy as np

  rounded = leaf.astype(np.float32)
  return leaf.astype(dtype) if dtype else leaf if (rounded != leaf).any() else rounded


def _report(options: argparse.Namespace, loaded: Any) -> dict[str, Any]:
  from adaptsr_jax import tree
  from adaptsr_jax.adapters import card

  return {
    'file': ' + '.join(options.sources),
    'model': loaded.name,
    'fields': loaded.fields,
    'assumed': loaded.assumed,
    'parameters': tree.count(loaded.params),
    'weights': options.weights,
    'source': loaded.source,
    'origin': card.sentence(loaded.origin) if loaded.origin else '',
    'written': options.out,
  }


def _text(report: dict[str, Any], remarks: Sequence[str]) -> str:
  from adaptsr_jax import base

  source = report['source'] or {}
  types = sorted({source.get('dtype') or 'float32', *source.get('dtypes', {}).values()})
  lines = [f'{report["file"]}: {report["model"]}, {report["parameters"]:,} parameters, {", ".join(types)}']
  lines += [f'  {name:10} {base.listed(value)}' for name, value in report['fields'].items()]
  lines += [f'Origin: {report["origin"]}'] if report['origin'] else []
  return '\n'.join([*lines, *remarks] + ([f'Written: {report["written"]}'] if report['written'] else []))


if __name__ == '__main__':
  command.start(main)

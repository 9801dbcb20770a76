"""Converts weights between PyTorch files and params folders, and tells what a file holds.

python -m adaptsr_jax.convert SAFMN_DF2K_x2.pth --detect
python -m adaptsr_jax.convert swinir_light_x4 params_swinir
python -m adaptsr_jax.convert edsr_x4.pt edsr_x4.safetensors --dtype float16
python -m adaptsr_jax.convert edsr.pth params_edsr --set res_scale=0.1
python -m adaptsr_jax.convert runs/camera/merged camera.pth
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adaptsr_jax import command
from adaptsr_jax.errors import UserError

# What needs jax is imported where it is used: help and usage errors come at once.


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line `argv`; returns the exit code: 0, or 2 after one sentence on what the user can mend."""
  parser = _parser()
  options = parser.parse_args(command.arguments(argv))
  if bool(options.out) == options.detect:
    parser.error('give OUT, or --detect without OUT')
  return command.ended(lambda: _run(options))


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m adaptsr_jax.convert', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    'source',
    metavar='IN',
    help='.pth, .pt or .safetensors weights, a params folder, or a name that `python -m adaptsr_jax.zoo` lists',
  )
  parser.add_argument(
    'out', metavar='OUT', nargs='?', help='.pth, .pt or .safetensors with key names of PyTorch, else a params folder'
  )
  parser.add_argument('--detect', action='store_true', help='only print what IN is')
  parser.add_argument('--json', action='store_true', help='print JSON')
  parser.add_argument(
    '--set',
    action='append',
    default=[],
    metavar='FIELD=VALUE',
    help='a setting that IN cannot tell, e.g. res_scale=0.1',
  )
  parser.add_argument('--key', help='which weights of a file with several, e.g. params (default: the averaged ones)')
  parser.add_argument('--name', help='write the key names of this model: edsr and edsr_official are the same network')
  parser.add_argument(
    '--dtype', choices=('float32', 'float16', 'bfloat16'), help='of OUT (default: of IN; a folder: float32)'
  )
  return parser


def _run(options: argparse.Namespace) -> None:
  from adaptsr_jax import config

  settings = config.parse_fields(','.join(options.set), '--set')
  if options.out:
    _check_out(options.source, options.out)
  loaded = _load(options.source, settings, options.key)
  named = _renamed(loaded, options.name) if options.name else loaded
  if options.out:
    _write(options.out, named, options.dtype)
  report = _report(options, loaded)
  print(json.dumps(report, indent=1) if options.json else _text(report))


def _load(source: str, settings: dict[str, Any], key: str | None) -> Any:
  """Returns the base; what is wrong with the weights themselves is said with the name of their file."""
  from adaptsr_jax import base

  try:
    return base.load(source, settings, key)
  except UserError as error:
    raise error if source in str(error) else UserError(f'{source}: {error}') from error


def _check_out(source: str, out: str) -> None:
  """Refuses what must not be overwritten."""
  from adaptsr_jax import base, checkpoint

  path = Path(out)
  if path.exists() and Path(source).exists() and path.samefile(source):
    raise UserError(f'{out} is the input; choose another OUT.')
  if base.is_file(out) and path.is_dir():
    raise UserError(f'{out} is a folder; choose another OUT.')
  if not base.is_file(out) and path.is_file():
    raise UserError(f'{out} is a file, and would be a params folder; choose another OUT.')
  if path.is_dir() and any(path.iterdir()) and not checkpoint.is_params_folder(path):
    raise UserError(f'{out} is a folder with other content; choose another OUT.')
  if not path.absolute().parent.is_dir():
    raise UserError(f'{out} cannot be written: its folder does not exist.')


def _renamed(loaded: Any, name: str) -> Any:
  """Returns the base under another name of the same network, without the layout of its old file but for the dtype."""
  from adaptsr_jax import models

  if models.MODELS.get(name) is not models.MODELS[loaded.name]:
    same = [other for other, model in models.MODELS.items() if model is models.MODELS[loaded.name]]
    raise UserError(f'--name is {name!r}; a network of {loaded.name} can be written as {" or ".join(same)}.')
  if name == loaded.name:
    return loaded
  return loaded._replace(name=name, source=None)


def _write(out: str, loaded: Any, dtype: str | None) -> None:
  import jax
  import jax.numpy as jnp
  import numpy as np

  from adaptsr_jax import base, checkpoint, tree

  is_file = base.is_file(out)
  if is_file and not dtype:
    base.export(out, loaded, loaded.params)
    return
  dtype = jnp.dtype(dtype or 'float32')
  for name, leaf in tree.flatten(loaded.params).items():
    if leaf.size and np.abs(leaf).max() > float(jnp.finfo(dtype).max):
      raise UserError(
        f'{name} has values up to {np.abs(leaf).max():.3g}, too large for {dtype}; choose another --dtype.'
      )
  if is_file:
    base.export(out, loaded, loaded.params, str(dtype))
  else:
    checkpoint.save_params(out, jax.tree.map(lambda leaf: leaf.astype(dtype), loaded.params), loaded.info())


def _report(options: argparse.Namespace, loaded: Any) -> dict[str, Any]:
  from adaptsr_jax import tree

  return {
    'file': options.source,
    'model': loaded.name,
    'fields': loaded.fields,
    'assumed': loaded.assumed,
    'parameters': tree.count(loaded.params),
    'source': loaded.source,
    'written': options.out,
  }


def _text(report: dict[str, Any]) -> str:
  fields, source = report['fields'], report['source'] or {}
  lines = [
    f'{report["file"]}: {report["model"]}, {report["parameters"]:,} parameters, {source.get("dtype") or "float32"}'
  ]
  lines += [f'  {name:10} {_shown(value)}' for name, value in fields.items()]
  for name, why in report['assumed'].items():
    lines.append(
      f'Assumed: {name} = {_shown(fields[name])} ({why}); change it with --set {name}={_shown(fields[name])}'
    )
  others = [name for name in source.get('wrappers', ()) if name != source.get('key')]
  if others:
    lines.append(f'Taken from {source["key"]}; the file also has {", ".join(others)}: choose with --key')
  return '\n'.join(lines + ([f'Written: {report["written"]}'] if report['written'] else []))


def _shown(value: Any) -> str:
  return ','.join(map(str, value)) if isinstance(value, tuple | list) else str(value)


if __name__ == '__main__':
  command.start(main)

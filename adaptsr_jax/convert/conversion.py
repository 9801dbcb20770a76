"""What `python -m adaptsr_jax.convert` does."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adaptsr_jax import base, config, files, models, params_folder, tree
from adaptsr_jax.adapters import card
from adaptsr_jax.base import Base
from adaptsr_jax.convert import graph
from adaptsr_jax.errors import UserError, naming

RELATED = 0.5  # correlation of kernels; 0.99 for the two realesr-general networks, about 0 for strangers


def run(options: argparse.Namespace) -> None:
  if options.half:
    options.dtype = options.dtype or 'float16'
  _check_options(options)
  settings = config.parse_fields(','.join(options.fields), '--fields')
  if options.out:
    for source in options.sources:
      _check_out(source, options.out)
  loaded, notes = [], []
  for source in options.sources:
    with naming(source):  # where the weights themselves are wrong
      loaded.append(base.load(source, settings, options.key, as_stored=True))
  if options.weights is None:
    (loaded,) = loaded
  else:
    loaded, notes = _interpolated(loaded, config.numbers(options.weights, len(loaded), '--weights'), options.sources)
  named = _renamed(loaded, options.name) if options.name else loaded
  if options.out:
    notes += _write(options, named)
  report = _report(options, loaded)
  notes += [_rounding(loaded.params, options.dtype)] if options.out and options.dtype else []
  notes += [_seen(named, options.dtype)] if options.half and not base.is_onnx(options.out) else []
  remarks = [*base.remarks(loaded, '--fields '), *notes]
  print(json.dumps(report, indent=1) if options.json else _text(report, remarks))


def _check_options(options: argparse.Namespace) -> None:
  if options.half and (options.dtype != 'float16' or not options.out):
    raise UserError('--half writes float16 to OUT: leave --dtype and --detect out.')
  if options.learned and not (options.out and base.is_file(options.out) and not base.is_onnx(options.out)):
    raise UserError('--learned is for OUT of PyTorch (.pth, .pt, .safetensors): others hold nothing else.')
  if options.out and base.is_onnx(options.out) and options.dtype == 'bfloat16':
    raise UserError(f'{options.out} can be float32 or float16; choose another --dtype.')


def _interpolated(bases: list[Base], weights: list[float], names: list[str]) -> tuple[Base, list[str]]:
  """Returns the network between `bases`, and what there is to say of it."""
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


def _renamed(loaded: Base, name: str) -> Base:
  """Returns the base under another name of the same network, without the layout of its old file but for the types."""
  if models.MODELS.get(name) is not models.MODELS[loaded.name]:
    same = [other for other, model in models.MODELS.items() if model is models.MODELS[loaded.name]]
    raise UserError(f'--name is {name!r}; a network of {loaded.name} can be written as {" or ".join(same)}.')
  if name == loaded.name:
    return loaded
  source = loaded.source or {}
  return loaded._replace(name=name, source={key: source[key] for key in ('dtype', 'dtypes') if key in source})


def _write(options: argparse.Namespace, loaded: Base) -> list[str]:
  """Writes the network; returns what there is to say of that."""
  out, dtype = options.out, options.dtype
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
    base.export(out, loaded, loaded.params, dtype, options.like_source, not options.learned)
  else:
    params_folder.save_params(out, jax.tree.map(lambda leaf: _stored(leaf, dtype), loaded.params), loaded.info())
  return []


def _seen(loaded: Base, dtype: str) -> str:
  """Returns the sentence on the largest change of a picture, of noise, by rounding parameters to `dtype`."""
  from adaptsr_jax import infer  # slow to import, and few ask for this

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
  leaves = {name: np.float64(leaf) for name, leaf in tree.flatten(params).items()}
  changes = {name: np.abs(leaf - np.float64(leaf.astype(dtype))).max() for name, leaf in leaves.items()}
  name = max(changes, key=changes.get)
  return (
    f'Rounded to {dtype}: largest change {changes[name]:.2g}, in {name} (values up to {np.abs(leaves[name]).max():.2g})'
  )


def _stored(leaf: Any, dtype: str | None) -> Any:
  """Returns a leaf as a params folder holds it: float32, unless that loses digits."""
  rounded = leaf.astype(np.float32)
  return leaf.astype(dtype) if dtype else leaf if (rounded != leaf).any() else rounded


def _report(options: argparse.Namespace, loaded: Base) -> dict[str, Any]:
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
  source = report['source'] or {}
  types = sorted({source.get('dtype') or 'float32', *source.get('dtypes', {}).values()})
  lines = [f'{report["file"]}: {report["model"]}, {report["parameters"]:,} parameters, {", ".join(types)}']
  lines += [f'  {name:10} {base.listed(value)}' for name, value in report['fields'].items()]
  lines += [f'Origin: {report["origin"]}'] if report['origin'] else []
  return '\n'.join([*lines, *remarks] + ([f'Written: {report["written"]}'] if report['written'] else []))

"""Measures networks and finished pictures of any other system, side by side on the same pictures.

python -m adaptsr_jax.evaluate --params=runs/camera/merged --lr=LR --hr=HR --out=results.json
python -m adaptsr_jax.evaluate --params=bicubic --params=base.pth --params=ours=runs/camera/merged --lr=LR --hr=HR
python -m adaptsr_jax.evaluate --params=base.pth --params=half=base.pth --adapter=A.safetensors:0.5 --lr=LR --hr=HR
python -m adaptsr_jax.evaluate --params=runs/camera/merged --outputs=StableSR=PICTURES --lr=LR --hr=HR --out=table.md
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from etils import epy

from adaptsr_jax import command, files, log, processes
from adaptsr_jax.errors import UserError

with epy.lazy_imports():
  from adaptsr_jax import base, bicubic, config, data, image, infer, tree
  from adaptsr_jax.adapters import operations
  from adaptsr_jax.evaluate import asked as measures
  from adaptsr_jax.evaluate import measure, statistics, tables

_KERNELS = {'bicubic': 'bicubic kernel of MATLAB', 'bicubic_pil': 'bicubic kernel of Pillow, 8 bit'}
_SUFFIXES = ('.json', '.csv', '.md')


class _Spec(NamedTuple):
  """A run as given: what it is called, whether it is a network ('params') or finished pictures, and where it lies."""

  label: str
  kind: str
  where: str
  adapters: tuple[str, ...] = ()  # 'FILE' or 'FILE:WEIGHT', folded into the network


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m adaptsr_jax.evaluate',
    usage='%(prog)s --params=X ... --lr=LR --hr=HR [options]',
    description=__doc__.split('\n')[0],
  )
  parser.add_argument(
    '--params',
    dest='specs',
    type=lambda text: _spec('params', text),
    action='append',
    default=[],
    metavar='[LABEL=]X',
    help='params folder, .pth, .pt or .safetensors file, name of published weights, bicubic (MATLAB) or bicubic_pil '
    '(Pillow); repeatable',
  )
  parser.add_argument(
    '--outputs',
    dest='specs',
    type=lambda text: _spec('outputs', text),
    action='append',
    metavar='[LABEL=]DIR',
    help='finished pictures of HR size, made by anything; repeatable, beside --params too',
  )
  parser.add_argument(
    '--adapter',
    dest='specs',
    type=lambda text: _Spec(text, 'adapter', text),
    action='append',
    metavar='FILE[:WEIGHT]',
    help='adapter file to fold into the network of the --params before it; repeatable',
  )
  command.add_flags(parser, 'lr', 'hr', 'root', 'track', 'names', 'metrics', 'metric_weights', 'key', 'fields')
  parser.add_argument(
    '--out', action='append', default=[], metavar='FILE', help='.json, .csv or .md, by its ending; repeatable'
  )
  parser.add_argument('--save', metavar='DIR', help='where to keep the enlarged pictures, as PNG')
  parser.add_argument('--scale', type=int, help='without a network; by default told from --lr and --hr')
  parser.add_argument('--tile', type=int, default=-1, help='side of LR tiles, to save memory; default: whole pictures')
  parser.add_argument('--ensemble', action='store_true', help='average over the eight flips and turns')
  processes.add_arguments(parser)
  return parser


def _spec(kind: str, text: str) -> _Spec:
  label, where = config.labelled(text)
  return _Spec(label, kind, where)


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  args = _parser().parse_args(command.arguments(argv))
  return processes.ended(lambda: _main(args), command.STOPPED, args)


def _main(args: argparse.Namespace) -> None:
  specs = _checked(args)
  runs = _run(args, specs)
  for path in args.out if processes.first() else ():
    _write(Path(path), runs)
  log.say(f'{tables.text(tables.comparison(runs))}\n{tables.legend(runs)}')


def _checked(args: argparse.Namespace) -> list[_Spec]:
  """Returns the runs without repetition; raises UserError for flags that can never work, before the slow imports."""
  specs = list(dict.fromkeys(_gathered(args.specs)))
  if not specs:
    raise UserError('Nothing to measure: give --params or --outputs, once or more.')
  labels = [spec.label for spec in specs]
  for label in labels:
    if labels.count(label) > 1:
      raise UserError(f'Two runs are called {label}; give them names: --params=NAME=...')
  if args.scale is not None and args.scale < 1:
    raise UserError(f'--scale is {args.scale}; it must be at least 1.')
  if args.save:
    files.check_folder(args.save)
  for path in map(Path, args.out):
    if path.suffix.lower() not in _SUFFIXES or path.is_dir():
      raise UserError(f'--out={path} is no file name that ends in {", ".join(_SUFFIXES)}.')
  return specs


def _gathered(specs: list[_Spec]) -> list[_Spec]:
  """Returns the runs, each network with the adapters that follow it; without a label they become part of its name."""
  gathered = []
  for spec in specs:
    if spec.kind != 'adapter':
      gathered.append(spec)
      continue
    network = gathered.pop() if gathered else None
    if network is None or network.kind != 'params' or network.where in _KERNELS:
      raise UserError(f'--adapter={spec.where} does not follow the --params of a network; put it behind that.')
    label = (
      f'{network.label} + {Path(spec.where).name}' if network.label.split(' + ')[0] == network.where else network.label
    )
    gathered.append(network._replace(label=label, adapters=(*network.adapters, spec.where)))
  return gathered


def _run(args: argparse.Namespace, specs: list[_Spec]) -> dict[str, dict[str, Any]]:
  """Checks all that can be checked, then measures run by run; {label: result}."""
  chosen = measures.load(args.metrics, args.metric_weights)
  if not chosen.functions:
    raise UserError(f'No metric is left: {" ".join(chosen.missing.values()) or "--metrics is empty."}')
  loaded = _load(args, specs)
  source = data.open_source(args, _scale(args, loaded), cache_gb=0, split='test')
  data.check_task(source)
  folders = _save_folders(args, specs)
  beside = [path.stem for path in image.list_images(args.hr)] if args.hr else source.names
  outputs = {spec.label: measure.find_finished(spec.where, source, beside) for spec in specs if spec.kind == 'outputs'}
  for sentence in chosen.missing.values():
    print(sentence, file=sys.stderr, flush=True)
  log.say(f'Pictures: {source.describe()}')

  runs, first = {}, specs[0].label
  for number, (label, kind, where, adapters) in enumerate(specs, 1):
    if kind == 'outputs':
      items, how = measure.finished(source, outputs[label]), {'model': f'finished pictures in {where}'}
    else:
      items, how = _restored(args, where, loaded.get(label), source)
      how |= {'adapters': ', '.join(adapters)} if adapters else {}
      items = measure.saved(items, folders[label]) if folders else items
    title = f'[{number}/{len(specs)}] {label}'
    share = len(processes.share(len(source)))
    result = measure.score(log.watched(items, title, share), chosen.functions)
    runs[label] = {**result, 'protocol': {**chosen.protocol, **_protocol(source, result), **how}}
    if label != first:
      runs[label]['difference'] = tables.differences(runs[label], runs[first])
      runs[label]['protocol']['difference'] = f'to {first}, picture by picture'
  return runs


def _load(args: argparse.Namespace, specs: list[_Spec]) -> dict[str, Any]:
  """Returns the networks among the runs, and what they were loaded as: {label: (base, network)}."""
  fields = config.parse_fields(args.fields)
  named = [spec for spec in specs if spec.kind == 'params' and spec.where not in _KERNELS]
  loaded = {}
  for spec in named:
    found = base.load(spec.where, fields, args.key)
    for remark in base.remarks(found, '--fields='):
      log.say(f'{spec.label}: {remark}')
    if spec.adapters:
      found = found._replace(params=operations.folded(found.params, spec.adapters))
    loaded[spec.label] = found, infer.network(found.model(), found.params, args.tile, ensemble=args.ensemble)
  return loaded


def _save_folders(args: argparse.Namespace, specs: list[_Spec]) -> dict[str, Path]:
  """Returns where the pictures of each run are kept: --save itself, or a folder in it for each of several."""
  if not args.save:
    return {}
  folders = {spec.label: Path(args.save) for spec in specs if spec.kind == 'params'}
  if len(folders) > 1:
    folders = {label: folder / re.sub(r'[^\w.-]+', '_', label).strip('._') for label, folder in folders.items()}
  given = [args.lr, args.hr, *(spec.where for spec in specs if spec.kind == 'outputs')]
  taken = {Path(folder).resolve() for folder in given if folder}
  for label, folder in folders.items():
    if folder.resolve() in taken:
      raise UserError(
        f'The pictures of {label} cannot be kept in {folder}, which holds others; change --save or LABEL=.'
      )
    taken.add(folder.resolve())
  return folders


def _scale(args: argparse.Namespace, loaded: dict[str, Any]) -> int:
  scales = {label: network.model.upscale for label, (_, network) in loaded.items()}
  scales |= {'--scale': args.scale} if args.scale else {}
  if len(set(scales.values())) > 1:
    told = ', '.join(f'{label} x{scale}' for label, scale in scales.items())
    raise UserError(f'Only runs of one scale can be compared ({told}).')
  if scales:
    return next(iter(scales.values()))
  if not (args.lr and args.hr):
    raise UserError('Without --lr and --hr, or a network, the scale is unknown: give --scale.')
  return data.scale_of(args.lr, args.hr)


def _restored(args: argparse.Namespace, where: str, loaded: Any, source: Any) -> tuple[Iterator[Any], dict[str, Any]]:
  """Returns the enlarged pictures of a network, or of the kernel `where` for None, and how they are made."""
  pairs = data.pairs(source, processes.share(len(source)))
  if loaded is None:
    return measure.restored(bicubic.KERNELS[where], pairs), {'model': _KERNELS[where]}
  found, network = loaded
  how = {
    'model': f'{found.name} {found.fields}',
    'fingerprint': tree.fingerprint(found.params)[:16],
    'tile': 'whole pictures'
    if args.tile == infer.WHOLE
    else f'{args.tile or "automatic"}, overlap {network.options["overlap"]}',
    'ensemble': args.ensemble,
    **({'assumed': found.assumed} if found.assumed else {}),
    **({'notes': list(found.notes)} if found.notes else {}),
  }
  return measure.restored(network, pairs), how


def _protocol(source: Any, result: dict[str, Any]) -> dict[str, Any]:
  """Returns what a table must say beside its numbers, as far as it does not depend on the run or the metric."""
  protocol = {
    'crop': source.scale,
    'lr': 'as given' if not source.made else 'MATLAB bicubic of HR',
    'pictures': len(source),
    'picture_set': repr(source),
    'interval': statistics.PROTOCOL,
  }
  left_out = measure.left_out(result)
  if left_out:
    counts = ', '.join(f'{key} of {count} {"pictures" if count > 1 else "picture"}' for key, count in left_out.items())
    protocol['left_out'] = f'{counts}: infinite or undefined, null in JSON, no part of mean and interval'
  return protocol


def _write(path: Path, runs: dict[str, dict[str, Any]]) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  suffix = path.suffix.lower()
  if suffix == '.json':
    files.write_json(path, {'runs': runs} if len(runs) > 1 else next(iter(runs.values())))
  else:
    files.write(path, tables.csv_text(tables.pictures(runs)) if suffix == '.csv' else tables.document(runs))


if __name__ == '__main__':
  command.start(main)

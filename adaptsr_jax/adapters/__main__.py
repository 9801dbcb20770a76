"""Looks at adapter files, folds them into their base, mixes and measures them, and makes small ones.

python -m adaptsr_jax.adapters inspect runs/realsr/adapter.safetensors
python -m adaptsr_jax.adapters merge base.pth runs/realsr/adapter.safetensors adapted.pth --strength 0.8
python -m adaptsr_jax.adapters sweep base.pth faithful.safetensors sharp.safetensors --lr LR --hr HR --out sweep
python -m adaptsr_jax.adapters merge gan_training.pth::g_ema runs/realsr/adapter.safetensors adapted.pth
python -m adaptsr_jax.adapters extract base.pth finetuned.pth camera.safetensors --rank=8
python -m adaptsr_jax.adapters resize camera.safetensors small.safetensors --budget=20000
python -m adaptsr_jax.adapters tag camera.safetensors --make=Canon --model='EOS 5D*' --iso=100-400
python -m adaptsr_jax.adapters export camera.safetensors camera_peft
python -m adaptsr_jax.adapters import base.pth camera_peft camera.safetensors
python -m adaptsr_jax.adapters mix canon.safetensors nikon.safetensors both.safetensors --weights 0.5,0.5
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from etils import epy

from adaptsr_jax import command, files
from adaptsr_jax.errors import UserError

with epy.lazy_imports():  # help and usage errors come at once
  import numpy as np

  from adaptsr_jax import base as base_lib
  from adaptsr_jax import config, data, image, infer, log, lora, methods, params_folder, tree
  from adaptsr_jax.adapters import cameras, card, file, operations, peft, sweep, truncation
  from adaptsr_jax.evaluate import guard, measure, tables


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line `argv`; returns the exit code: 0, or 2 after one sentence on what the user can mend."""
  options = _parser().parse_args(command.arguments(argv))
  return command.ended(lambda: options.run(options))


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m adaptsr_jax.adapters', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  commands = parser.add_subparsers(required=True, metavar='COMMAND')

  inspect = commands.add_parser('inspect', help='print what an adapter file holds')
  inspect.add_argument('file', metavar='FILE', help='.safetensors file of an adapter')
  inspect.add_argument('--json', action='store_true', help='print JSON instead of tables')
  inspect.set_defaults(run=_inspect)

  tag = commands.add_parser('tag', help='write into an adapter file which photographs it is for')
  tag.add_argument('file', metavar='FILE', help='.safetensors file of an adapter; its header is written anew')
  tag.add_argument('--make', default='', help="of the camera, as EXIF has it; * stands for anything, e.g. 'NIKON*'")
  tag.add_argument('--model', default='', help='of the camera')
  tag.add_argument('--lens', default='', help='its model')
  tag.add_argument('--iso', default='', metavar='LOW-HIGH', help='ISO from, to')
  tag.add_argument('--add', action='store_true', help='beside what it is for already, not instead')
  tag.set_defaults(run=_tag)

  merge = commands.add_parser('merge', help='fold an adapter into its base')
  merge.add_argument('base', metavar='BASE', help='.pth or .safetensors weights, or a params folder')
  merge.add_argument('file', metavar='FILE', help='.safetensors file of an adapter trained on BASE')
  merge.add_argument(
    'out', metavar='OUT', help='.pth or .safetensors with key names of PyTorch, .onnx, else a params folder'
  )
  command.add_flags(merge, 'key')
  merge.add_argument('--like_source', action='store_true', help='OUT with the wrappers and prefixes of BASE')
  merge.add_argument('--strength', type=float, default=1.0, help='0: the base, 1: the adapted model (default)')
  merge.add_argument('--guard', metavar='PHOTOS', help='warn of those whose level, ends or grid depart from the base')
  merge.set_defaults(run=_merge)

  mix = commands.add_parser('mix', help='make one adapter that is the weighted sum of several')
  mix.add_argument('files', metavar='FILE', nargs='+', help='adapters of the same base and form')
  mix.add_argument('out', metavar='OUT', help='.safetensors file to write')
  mix.add_argument(
    '--weights', required=True, help='one number per FILE, e.g. 0.5,0.5; --weights=-1,1 where one is negative'
  )
  mix.add_argument('--base', help='their base; needed where trained biases are mixed with weights that do not sum to 1')
  command.add_flags(mix, 'key')
  mix.set_defaults(run=_mix)

  sweep = commands.add_parser('sweep', help='measure a row of strengths of one adapter, or mixtures of two')
  sweep.add_argument('base', metavar='BASE', help='.pth or .safetensors weights, or a params folder')
  sweep.add_argument(
    'files', metavar='FILE', nargs='+', help='one adapter: from BASE to it; two: from one to the other'
  )
  command.add_flags(sweep, 'lr', 'names', 'key', 'metric_weights')
  command.add_flags(sweep, 'hr', required=True)
  command.add_flags(sweep, 'metrics', default='psnr,ssim,lpips')
  sweep.add_argument('--points', type=int, default=11, help='mixtures, both ends among them (default 11)')
  sweep.add_argument('--out', required=True, metavar='DIR', help='for sweep.json, sweep.md, sweep.png and strip.png')
  sweep.set_defaults(run=_sweep)

  extract = commands.add_parser('extract', help='make an adapter of a network that was fine-tuned elsewhere')
  extract.add_argument('base', metavar='BASE', help='what was fine-tuned: weights, or a params folder')
  extract.add_argument('tuned', metavar='FINETUNED', help='what came of it, of the same shape')
  extract.add_argument('out', metavar='OUT', help='.safetensors file to write')
  _add_size(extract)
  extract.add_argument('--form', choices=('1x1_kxk', 'kxk_1x1', 'loralib'), default='1x1_kxk', help='of convolutions')
  extract.add_argument('--lr', default='', metavar='DIR', help='measure what is lost on these LR pictures')
  extract.add_argument('--hr', default='', metavar='DIR', help='and these HR pictures; alone: HR shrunk')
  command.add_flags(extract, 'names')
  extract.set_defaults(run=_extract)

  resize = commands.add_parser('resize', help='cut an adapter to a budget, or to a rank, by singular values')
  resize.add_argument('file', metavar='FILE', help='.safetensors file of an adapter of method lora')
  resize.add_argument('out', metavar='OUT', help='.safetensors file to write')
  _add_size(resize)
  resize.set_defaults(run=_resize)

  export = commands.add_parser('export', help='write an adapter as a folder that PEFT reads')
  export.add_argument('file', metavar='FILE', help='.safetensors file of an adapter of method lora, form kxk_1x1')
  export.add_argument('out', metavar='DIR', help='folder for adapter_config.json and adapter_model.safetensors')
  export.set_defaults(run=_export)

  imported = commands.add_parser('import', help='make an adapter file of a folder that PEFT wrote')
  imported.add_argument('base', metavar='BASE', help='what it was trained on: weights, or a params folder')
  imported.add_argument('folder', metavar='DIR', help='with adapter_config.json and adapter_model.safetensors')
  imported.add_argument('out', metavar='OUT', help='.safetensors file to write')
  command.add_flags(imported, 'key')
  imported.set_defaults(run=_import)
  return parser


def _add_size(parser: argparse.ArgumentParser) -> None:
  size = parser.add_mutually_exclusive_group(required=True)
  size.add_argument('--rank', type=int, default=0, help='the largest rank of every site')
  size.add_argument(
    '--budget', type=int, default=0, help='parameters in all, biases apart, where they keep most of the change'
  )


def _inspect(options: argparse.Namespace) -> None:
  adapter = file.load(options.file)
  meta, total = adapter.meta, tree.count(adapter.tensors)
  if options.json:
    shapes = {name: list(leaf.shape) for name, leaf in adapter.tensors.items()}
    groups = {name.partition('/')[0] for name in shapes}
    counts = {g: tree.count([a for name, a in adapter.tensors.items() if name.startswith(f'{g}/')]) for g in groups}
    print(json.dumps({**meta, 'tensors': shapes, 'parameters': {**counts, 'total': total}}, indent=1))
    return
  with methods.fitting():
    told = [card.text(options.file, Path(options.file).stat().st_size, adapter), methods.table(meta, adapter.tensors)]
  print('\n\n'.join(filter(None, told)))


def _tag(options: argparse.Namespace) -> None:
  camera = cameras.tagged(options.make, options.model, options.lens, options.iso)
  adapter = file.load(options.file)
  found = [*(cameras.of(adapter.meta) if options.add else []), camera]
  file.save(options.file, adapter._replace(meta={**adapter.meta, 'cameras': found}))
  print(f'{options.file} is for {"; ".join(map(cameras.words, found))}')


def _merge(options: argparse.Namespace) -> None:
  _check_out(options.out, [options.base, options.file])
  if not base_lib.is_file(options.out, written=True):
    files.check_folder(options.out, base_lib.FILES)
  if Path(options.out).is_dir() and not params_folder.is_params_folder(options.out):
    raise UserError(f'{options.out} is a folder with other content; choose another OUT.')
  adapter = file.load(options.file)
  base = base_lib.load(options.base, key=options.key)
  file.check_base(adapter.meta, base.params)
  merged = operations.apply(adapter, base.params, options.strength)
  change, name = _largest_change(base.params, merged)
  origin = card.origin([(adapter.meta, options.strength, Path(options.file).name)], base.licence)
  base_lib.save(options.out, base.with_origin(origin), merged, options.like_source)
  for remark in base.notes:
    print(remark)
  print(f'{options.out}: largest change {change:.3g}, in {name}')
  if options.guard:
    _guard(options.guard, base, merged)


def _guard(where: str, base, merged) -> None:
  """Warns of pictures that the merged network enlarges with another level, more at the ends, or a grid."""
  model, paths = base.model(), [Path(where)]
  if Path(where).is_dir():
    paths = image.list_images(where)
    if not paths:
      raise UserError(f'{image.no_pictures(where)}.')
    image.tell_unread(where)
  tile = 0 if model.tileable else infer.WHOLE
  before, after = (infer.network(model, params, tile) for params in (base.params, merged))
  warned = 0
  for path in log.watched(paths, 'Comparing', len(paths)):
    lr = image.read(path).rgb
    if said := guard.warning(after(lr), before(lr), model.upscale):
      warned += 1
      print(f'Warning: {path}: {said}.', file=sys.stderr)
  print(f'{warned} of {len(paths)} pictures depart from the base.')


def _mix(options: argparse.Namespace) -> None:
  _check_adapter(options.out, options.files)
  weights = config.numbers(options.weights, len(options.files), '--weights')
  loaded = [file.load(path) for path in options.files]
  params = None
  if options.base:
    params = base_lib.load(options.base, key=options.key).params
    file.check_base(loaded[0].meta, params)
  mixed = operations.mix(loaded, weights, [Path(path).name for path in options.files], params)
  file.save(options.out, mixed)
  print(f'{options.out}: {tree.count(mixed.tensors):,} parameters, trained by {mixed.meta["method"]}')


def _sweep(options: argparse.Namespace) -> None:
  sweep.run(options)


def _extract(options: argparse.Namespace) -> None:
  _check_adapter(options.out, [options.base, options.tuned])
  base, tuned = base_lib.load(options.base), base_lib.load(options.tuned)
  if (base.name, base.fields) != (tuned.name, tuned.fields):
    raise UserError(f'{options.base} is {base.name} {base.fields}, and {options.tuned} {tuned.name} {tuned.fields}.')
  meta = {
    'model': base.name,
    'fields': base.fields,
    'base_fingerprint': tree.fingerprint(base.params),
    'base_file': Path(options.base).name,
    'base_licence': base.licence,
    'extracted_from': Path(options.tuned).name,
  }
  sites = lora.find_sites(base.model())
  result = truncation.extract(meta, base.params, tuned.params, sites, options.rank, options.budget, options.form)
  file.save(options.out, result.adapter)
  print(truncation.text(options.out, result))
  if options.hr:
    _print_loss(options, base, tuned, result.adapter)


def _print_loss(options: argparse.Namespace, base, tuned, adapter) -> None:
  """Measures base, fine-tuned network and base with the adapter on the pictures that are given."""
  model = base.model()
  source = data.open_source(options, model.upscale, cache_gb=2, split='test')
  data.check_task(source)
  networks = {
    'fine-tuned': tuned.params,
    'with adapter': operations.apply(adapter, base.params),
    'base': base.params,
  }
  runs = {}
  for label, params in networks.items():
    runs[label] = measure.measure(infer.network(model, params, infer.WHOLE), data.pairs(source))
    if label != 'fine-tuned':
      runs[label]['difference'] = tables.differences(runs[label], runs['fine-tuned'])
  print(tables.text(tables.comparison(runs)))


def _resize(options: argparse.Namespace) -> None:
  _check_adapter(options.out, [options.file])
  result = truncation.resize(file.load(options.file), options.rank, options.budget)
  file.save(options.out, result.adapter)
  print(truncation.text(options.out, result))


def _export(options: argparse.Namespace) -> None:
  files.check_folder(options.out, strict=True)
  adapter = file.load(options.file)
  peft.save(options.out, adapter)
  print(f'{options.out}: LoRA of {adapter.meta["model"]} as PEFT keeps it')


def _import(options: argparse.Namespace) -> None:
  _check_adapter(options.out, [])
  base = base_lib.load(options.base, key=options.key)
  adapter = peft.load(options.folder, base.name, base.fields, base.params, lora.find_sites(base.model()))
  meta = {**adapter.meta, 'base_file': Path(options.base).name, 'base_licence': base.licence}
  file.save(options.out, adapter._replace(meta=meta))
  print(f'{options.out}: {tree.count(adapter.tensors):,} parameters, for {options.base}')


def _check_adapter(out: str, inputs: Sequence[str]) -> None:
  _check_out(out, inputs)
  if Path(out).suffix != '.safetensors':
    raise UserError(f'{out} would be an adapter file; let it end in .safetensors.')


def _check_out(out: str, inputs: Sequence[str]) -> None:
  for given in (Path(base_lib.place(spec)[0]) for spec in inputs):
    if given.exists() and Path(out).exists() and given.samefile(out):
      raise UserError(f'{out} is one of the inputs; choose another OUT.')


def _largest_change(base, merged) -> tuple[float, str]:
  """Returns the largest absolute change of any parameter, and the name of its leaf; refuses what is not finite."""
  before = tree.flatten(base)
  changes = {name: float(np.abs(np.asarray(leaf) - before[name]).max()) for name, leaf in tree.flatten(merged).items()}
  wrong = [name for name, change in changes.items() if not math.isfinite(change)]
  if wrong:
    raise UserError(
      f'The merged {wrong[0]} would hold values that are not finite; the adapter or --strength is unusable.'
    )
  return max((change, name) for name, change in changes.items())


if __name__ == '__main__':
  command.start(main)

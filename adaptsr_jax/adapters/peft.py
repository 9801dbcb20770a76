"""Adapters as PEFT keeps them: a folder with adapter_config.json and adapter_model.safetensors (read: PEFT 0.21).

PEFT knows one form of convolutions, ours called 'kxk_1x1': lora_A (r, in, kh, kw), then lora_B (out, r, 1, 1); of a
linear layer lora_A (r, in), lora_B (out, r). The update is lora_alpha / r times their product, or lora_alpha / sqrt(r)
with use_rslora; ranks that differ by module stand in rank_pattern. Trained biases go with bias 'lora_only'. Modules
have the names that they have in the PyTorch network that the base was published with.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from adaptsr_jax import files, lora, tree
from adaptsr_jax.adapters import card
from adaptsr_jax.adapters.file import Adapter
from adaptsr_jax.convert import architectures
from adaptsr_jax.errors import UserError, first_line, shown, some
from adaptsr_jax.lora.adapters import scaling
from adaptsr_jax.methods import lora as method

CONFIG, WEIGHTS = 'adapter_config.json', 'adapter_model.safetensors'
_PREFIX = 'base_model.model.'
# Fields of the config that change what is computed, beside those that begin with use_.
_FOREIGN = ('fan_in_fan_out', 'modules_to_save', 'layer_replication', 'target_parameters', 'trainable_token_indices')
_KEY = re.compile(r'(.+?)\.(?:(lora_[AB])(?:\.[^.]+)?\.weight|(lora_B)(?:\.[^.]+)?\.bias|(?:base_layer\.)?(bias))')


def save(folder: str | os.PathLike, adapter: Adapter) -> None:
  """Writes an adapter as a folder of PEFT.

  Args:
    folder: is created where it is missing.
    adapter: of method lora; convolutions of the form 'kxk_1x1', or with kernels of one pixel.

  Raises:
    UserError: PEFT has no place for it.
  """
  meta = adapter.meta
  if meta['method'] != 'lora':
    raise UserError(f'What method {meta["method"]} trained has no counterpart in PEFT here; only lora has.')
  sites, ranks = lora.from_json(meta['sites'])
  adapted = {site.name: site for site in sites if ranks[site.name]}
  if odd := [site.name for site in adapted.values() if not _exact(site, meta['form'])]:
    raise UserError(
      f'PEFT knows convolutions of the form kxk_1x1 only, and {some(odd, 1)} is of {meta["form"]}: train by '
      '--config.lora.form=kxk_1x1, or extract an adapter of the merged network by `adapters extract --form=kxk_1x1`.'
    )
  modules = _modules(meta['model'], meta['fields'])
  pairs, biases = method.parted(adapter.tensors)
  alpha, rslora = float(meta['alpha']), bool(meta['rslora'])
  tensors, found = {}, {}
  for path, group in lora.adapters.by_kernel(pairs, sites).items():
    module, kind, width = modules['/'.join(path)]
    found[module] = sum(ranks[site.name] for site in group)
    whole = scaling(alpha, found[module], rslora)
    members = []
    for site in group:
      factor = np.float32(scaling(alpha, ranks[site.name], rslora) / whole)
      # Of kernels of one pixel in another form only the axes differ.
      plain = lora.shapes(site, ranks[site.name], 'kxk_1x1')
      a, b = (pairs[site.name][leaf].reshape(plain[leaf]) for leaf in 'ab')
      members.append((a, lora.adapters.in_columns(factor * b, site.part, width)))
    a, b = np.concatenate([a for a, _ in members], -1), np.concatenate([b for _, b in members], -2)
    down, up = a.T, b.T
    if kind == 'conv':
      down, up = a.transpose(3, 2, 0, 1), b.T[..., None, None]
    tensors |= {f'{module}.lora_A.weight': down, f'{module}.lora_B.weight': up}
  for name, leaf in biases.items():
    tensors[f'{modules[name.rpartition("/")[0]][0]}.base_layer.bias'] = leaf
  usual = max(found.values())
  config = {
    'peft_type': 'LORA',
    'task_type': None,
    'base_model_name_or_path': meta.get('base_file') or None,
    'inference_mode': True,
    'r': usual,
    'lora_alpha': alpha,
    'lora_dropout': 0.0,
    'use_rslora': rslora,
    'bias': 'lora_only' if biases else 'none',
    # As a pattern, which has to fit the whole name: names in a list fit every module that ends so.
    'target_modules': '|'.join(map(re.escape, found)),
    'rank_pattern': {f'^{re.escape(module)}': rank for module, rank in found.items() if rank != usual},
  }
  named = {_PREFIX + name: np.ascontiguousarray(leaf, np.float32) for name, leaf in tensors.items()}
  folder = Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  files.write(folder / WEIGHTS, safetensors.numpy.save(named, {'format': 'pt'}))
  files.write_json(folder / CONFIG, config)


def _exact(site: lora.Site, form: str) -> bool:
  return site.kind != 'conv' or form == 'kxk_1x1' or (form == '1x1_kxk' and site.shape[:2] == (1, 1))


def _modules(name: str, fields: Mapping[str, Any]) -> dict[str, tuple[str, str, int]]:
  """Returns path among our parameters -> (module of PyTorch, kind, outputs) of every kernel."""
  return {
    entry.path.rpartition('/')[0]: (entry.key.rpartition('.')[0], entry.kind, entry.shape[0])
    for entry in architectures.entries(name, fields)
    if entry.path.endswith('/kernel') and entry.kind in ('conv', 'dense')
  }


def load(
  folder: str | os.PathLike, name: str, fields: Mapping[str, Any], params: tree.Params, sites: Sequence[lora.Site]
) -> Adapter:
  """Reads an adapter that PEFT trained on the PyTorch network of the base `params`.

  Args:
    folder: with adapter_config.json and adapter_model.safetensors.
    name: of the architecture.
    fields: of the architecture.
    params: of the base.
    sites: of the base, undivided.

  Raises:
    UserError: no such folder, an adapter of another kind than LoRA, or one for other modules.
  """
  folder = Path(folder)
  config, tensors = _read(folder)
  modules = _modules(name, fields)
  paths = {module: path for path, (module, _, _) in modules.items()}
  parts: dict[str, dict[str, np.ndarray]] = {}
  for key, leaf in tensors.items():
    match = _KEY.fullmatch(key.removeprefix(_PREFIX))
    if not match or match[1] not in paths:
      raise UserError(f'{folder} has {shown(key)}, which is no part of LoRA at a kernel of {name}.')
    kind = match[2] or match[4] or f'{match[3]}.bias'
    parts.setdefault(match[1], {})[kind] = leaf.astype(np.float32)
  alpha, rslora = float(config.get('lora_alpha', 8)), bool(config.get('use_rslora'))
  adapters, ranks, biases = {}, {}, {}
  by_path, flat = {'/'.join(site.path): site for site in sites}, tree.flatten(params)
  for module, part in parts.items():
    site = by_path.get(paths[module])
    if site is None or ('lora_A' in part) != ('lora_B' in part):
      raise UserError(f'{folder} has one half of an adapter at {module}, or one where none can be.')
    if 'bias' in part:
      biases[f'{paths[module]}/bias'] = part['bias']
    if 'lora_A' not in part:
      continue
    rank = ranks[site.name] = part['lora_A'].shape[0]
    own = float(_of_pattern(config.get('alpha_pattern'), module, alpha))
    factor = np.float32(own / alpha)
    adapters[site.name] = _factors(folder, site, part, factor)
    if 'lora_B.bias' in part:
      change = part['lora_B.bias'] * np.float32(scaling(own, rank, rslora))
      biases[f'{paths[module]}/bias'] = np.asarray(flat[f'{paths[module]}/bias']) + change
  spec = {'method': 'lora', 'form': 'kxk_1x1', 'alpha': alpha, 'rslora': rslora, 'biases': bool(biases)}
  meta = {
    'model': name,
    'fields': dict(fields),
    'base_fingerprint': tree.fingerprint(params),
    **{**spec, 'path': 'merged', 'sites': lora.to_json(sites, ranks), 'metrics': {}, 'date': card.today()},
  }
  for path, leaf in biases.items():
    if flat.get(path, np.zeros(0)).shape != leaf.shape:
      raise UserError(f'{folder} has a bias of shape {leaf.shape} at {path}; the base has not.')
  return Adapter(meta, method.joined(adapters, biases))


def _factors(folder: Path, site: lora.Site, part: Mapping[str, np.ndarray], factor: np.float32) -> dict[str, Any]:
  a, b = part['lora_A'], part['lora_B']
  if site.kind == 'conv':
    fits = a.ndim == b.ndim == 4 and b.shape[2:] == (1, 1)
    a, b = (a.transpose(2, 3, 1, 0), b[..., 0, 0].T) if fits else (a, b)
  else:
    a, b = a.T, b.T
  expected = lora.shapes(site, part['lora_A'].shape[0], 'kxk_1x1')
  if (a.shape, b.shape) != (expected['a'], expected['b']):
    raise UserError(
      f'{folder} does not fit {site.name} of shape {site.shape}: its factors are {a.shape} and {b.shape}.'
    )
  return {'a': a, 'b': factor * b}


def _of_pattern(pattern: Any, module: str, otherwise: float) -> float:
  """Returns the value for a module as PEFT looks it up: by the first pattern that its name ends in."""
  for key, value in (pattern or {}).items():
    if re.match(rf'(.*\.)?({key})$', module):
      return value
  return otherwise


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
    raise UserError(f'{folder} is no adapter of PEFT: it has no {CONFIG} with {WEIGHTS} beside it.')
  config = files.read_json(folder / CONFIG)
  if not isinstance(config, dict) or config.get('peft_type') != 'LORA':
    kind = config.get('peft_type') if isinstance(config, dict) else config
    raise UserError(f'{folder / CONFIG} is of {shown(kind)}, and only LORA can be read.')
  odd = [field for field, value in config.items() if value and field.startswith('use_') and field != 'use_rslora']
  odd += [field for field in _FOREIGN if config.get(field)]
  if odd:
    raise UserError(f'{folder / CONFIG} has {odd[0]}, for which an adapter file has no place.')
  for field, value in {'lora_alpha': config.get('lora_alpha', 8), **(config.get('alpha_pattern') or {})}.items():
    if type(value) not in (int, float) or not 0 < value < math.inf:
      raise UserError(f'{folder / CONFIG} has {shown(value)} for {shown(field)}, where a positive number belongs.')
  try:
    return config, safetensors.numpy.load_file(folder / WEIGHTS)
  except (safetensors.SafetensorError, OSError, TypeError, KeyError) as error:
    raise UserError(f'{folder / WEIGHTS} cannot be read as .safetensors ({first_line(error)}).') from error

"""Adapter files of all methods with damaged headers, tensors and bytes, through what reads adapters."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy

from adaptsr_jax import base, config, lora, methods, params_folder, tree, upscale
from adaptsr_jax.adapters import __main__ as command
from adaptsr_jax.adapters import file
from adaptsr_jax.convert import safefile
from tests.fuzz import rule
from tests.fuzz.damage import TEXTS, Random, damaged, damaged_json, misplaced, pick
from tests.pictures import write_pairs


class _Even:
  """Scores of no difference, for methods that plan by them."""

  available = True

  def __init__(self, network, sites):
    self.params, self._sites = network.params, sites

  def by_site(self, form='1x1_kxk'):
    return {site.name: 1.0 for site in self._sites}

  def gains(self, form='1x1_kxk'):
    return {site.name: np.ones(4) for site in self._sites}

  def gradients(self):
    return {site.name: np.ones(site.shape, np.float32) for site in self._sites}


def make(folder: Path) -> Callable[[Random, Path], str]:
  """Returns a trial: (random, empty folder) -> outcome; see `tests.fuzz.__main__`."""
  network = base.random('safmn_x2', 0, {'dim': 8, 'n_blocks': 1})
  params_folder.save_params(folder / 'base', network.params, network.info())
  picture = write_pairs(folder / 'pictures', 1, size=32)[0] / 'p00.png'
  sites = lora.find_sites(network.model())
  good = {name: _adapter(folder, name, network, sites) for name in methods.METHODS}

  def trial(random: Random, place: Path) -> str:
    method = pick(random, good)
    given, mark = place / 'given.safetensors', place / 'executed'
    kind = _spoil(random, good[method], given)
    other, out = good[method], place / 'out.safetensors'
    calls = {
      'inspect': (command.main, ['inspect', given]),
      'inspect --json': (command.main, ['inspect', given, '--json'], (0, 2), float('inf')),
      'merge': (command.main, ['merge', folder / 'base', given, place / 'out.pth']),
      'merge --strength': (command.main, ['merge', folder / 'base', given, place / 'out', '--strength=0.5']),
      'mix': (command.main, ['mix', other, given, out, '--weights=0.5,0.5']),
      'mix --base': (command.main, ['mix', given, other, out, '--weights=0.5,1', f'--base={folder / "base"}']),
      'resize': (command.main, ['resize', given, out, '--rank=1']),
      'upscale': (upscale.main, [f'--params={folder / "base"}', f'--adapter={given}', picture, place / 'out.png']),
    }
    name = pick(random, calls)
    before = rule.content(place) if kind not in ('pipe', 'device') else None
    said = rule.run(*calls[name])
    assert not mark.exists()
    rule.check_whole(place)
    if said.code and before is not None:
      assert rule.content(place) == before
    if not said.code and out.exists():
      file.load(out)  # what is written can be read
    return f'{name}, {("done", "", "refused")[said.code]}'

  return trial


def _adapter(folder: Path, name: str, network: base.Base, sites) -> Path:
  """Writes an adapter of a method in which every value has moved."""
  c = config.default()
  c.method, c.lora.rank, c.lora.rule = name, 2, 'uniform'
  plan = methods.plan(c, sites, _Even(network, sites))
  method = methods.from_spec(plan.spec, plan.constants)
  trained = tree.flatten(method.init(jax.random.key(0), network.params)[1])
  random = np.random.default_rng(0)
  moved = {key: np.asarray(leaf) + random.normal(0, 0.01, np.shape(leaf)) for key, leaf in trained.items()}
  meta = {
    **method.spec,
    'model': network.name,
    'fields': network.fields,
    'base_fingerprint': tree.fingerprint(network.params),
    'base_file': 'base.pth',
    'metrics': {'base': {'psnr_y': 20.0}, 'adapted': {'psnr_y': 21.0}},
    'gains': {'psnr_y': [1.0, 0.5, 1.5]},
    'pictures': 4,
    'data': {'train': '4 pairs', 'valid': '4 pairs'},
    'steps': 10,
    'date': '2026-11-26',
    'versions': {'jax': '0.10'},
    'base_licence': 'MIT',
  }
  path = folder / f'{name}.safetensors'
  file.save(path, file.Adapter(meta, moved, plan.constants))
  return path


def _spoil(random: Random, good: Path, path: Path) -> str:
  content = good.read_bytes()
  length = int.from_bytes(content[:8], 'little')
  header, numbers = content[8 : 8 + length], content[8 + length :]
  kind = pick(random, ('bytes', 'header', 'meta', 'meta', 'meta', 'tensors', 'moved'))
  if kind == 'bytes':
    path.write_bytes(damaged(random, content))
  elif kind == 'header':
    text = damaged_json(random, header)
    path.write_bytes(len(text).to_bytes(8, 'little') + text + numbers)
  elif kind == 'meta':
    tables = json.loads(header)
    tables['__metadata__']['adaptsr_jax'] = damaged_json(
      random, tables['__metadata__']['adaptsr_jax'].encode()
    ).decode()
    text = json.dumps(tables).encode()
    path.write_bytes(len(text).to_bytes(8, 'little') + text + numbers)
  elif kind == 'tensors':
    tensors, meta = safetensors.numpy.load(content), json.loads(header)['__metadata__']
    _change(random, tensors)
    buffer = io.BytesIO()
    safefile.save(buffer, tensors, meta)
    path.write_bytes(buffer.getvalue())
  else:
    path.write_bytes(content)
    return misplaced(random, path)
  return kind


def _change(random: Random, tensors: dict[str, np.ndarray]) -> None:
  name = pick(random, tensors)
  array = tensors[name].copy()
  how = random.integers(6)
  if how == 0:
    array.flat[random.integers(array.size)] = (
      pick(random, (np.nan, np.inf, 1e38, -1)) if array.dtype.kind == 'f' else -1
    )
  elif how == 1:
    array = array.astype(pick(random, ('float16', 'int64', 'bool', 'uint8', 'float64')))
  elif how == 2:
    array = array.reshape(-1) if array.ndim > 1 else array[None]
  elif how == 3:
    array = array[:0]
  elif how == 4:
    tensors[pick(random, [text for text in TEXTS if text.isascii()]) + name] = tensors.pop(name)
    return
  else:
    del tensors[name]
    return
  tensors[name] = array

"""The pictures of a run, made again: what they look like, their colours, and how well they agree with their input."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adaptsr_jax import base as base_lib
from adaptsr_jax import bicubic, data, figures, image, infer, metrics, tree
from adaptsr_jax.adapt import prepare
from adaptsr_jax.adapters import file as adapter_file
from adaptsr_jax.adapters import operations
from adaptsr_jax.errors import UserError
from adaptsr_jax.evaluate import asked as measures
from adaptsr_jax.evaluate import statistics, tables
from adaptsr_jax.log import say, watched
from adaptsr_jax.metrics.table import names_of
from adaptsr_jax.report import gather
from adaptsr_jax.report.gather import Run, Scores, System, metrics_of

FOLDER = 'pictures'  # below the folder of the report
_LARGEST_PAGE = 24 * 2**20  # bytes of pictures up to which they are stored without loss
# Of adapters: of the first run, and of further ones, so that neither time nor page grows as much with each.
_STRENGTHS, _FEWER = tuple(i / 8 for i in range(9)), tuple(i / 4 for i in range(5))
_CROP = 192  # side of what is shown at each, in HR pixels
_LARGEST_CROPS = 8 * 2**20  # bytes of all crops up to which they are stored without loss
_OURS = re.compile(r'\d\d_\w+\.(png|jpg)')

Restore = Callable[[np.ndarray, int], np.ndarray]


class Colour(NamedTuple):
  """By how much pictures differ from others in their mean colour, averaged over pictures."""

  rgb: tuple[float, float, float]  # signed, in 8-bit levels
  lab: tuple[float, float, float]  # signed, CIE L*a*b*
  delta_e: float  # distance of the mean colours in L*a*b*


class Program(NamedTuple):
  """What a network computes for one picture of the commonest size, as compiled for any values of its parameters."""

  text: str
  flops: float
  size: tuple[int, int]  # height and width of the LR picture


class Shown(NamedTuple):
  """A picture that the report shows."""

  name: str
  files: dict[str, Path]  # 'LR', label of a system, or 'HR' -> file
  size: tuple[int, int]  # height and width of HR


class Crop(NamedTuple):
  """A part of a picture at every strength of an adapter."""

  name: str
  files: list[Path]
  values: list[str]  # PSNR (Y) of the whole picture at each
  size: tuple[int, int]  # height and width


class Dial(NamedTuple):
  """What lies between an adapted network and its base."""

  strengths: list[str]
  crops: list[Crop]
  why_not: str = ''  # there are no crops


class Look(NamedTuple):
  """What the pictures tell that the results of the runs do not."""

  order: str  # metric by whose gain the shown pictures were chosen
  described: str  # the source of the pictures
  scores: dict[str, Scores]  # of the metrics that were asked for beyond those of the results, by system
  colours: dict[tuple[str, str], Colour]  # (label, label or 'HR')
  consistency: dict[str, float]  # PSNR in dB of the shrunk output against LR, by label, and of 'HR'
  drift: float  # largest difference in dB from a PSNR of the results
  programs: dict[str, Program]
  best: list[Shown]
  worst: list[Shown]
  lossless: bool  # whether the shown files are
  dials: dict[str, Dial]  # by label of the adapted network
  missing: dict[str, str]  # label -> why its pictures could not be made


def ask(names: Sequence[str], weights: str, systems: Sequence[System]) -> tuple[measures.Measures, str]:
  """Loads the metrics `names` (of `metrics.table`) that were not measured for every system already.

  Returns:
    Those, and the metric that sorts pictures.

  Raises:
    UserError: an unknown name, or weights that are damaged.
  """
  recorded = set.intersection(*({key.removesuffix('_y') for key in metrics_of(system)} for system in systems))
  wanted = dict.fromkeys(key for name in names for key in names_of(name) or [name] if key not in recorded)
  loaded = measures.load(list(wanted), weights)
  known = (recorded | wanted.keys()) - loaded.missing.keys()
  learned = [key for name in names for key in names_of(name) if key in known and key.startswith('lpips')]
  return loaded, learned[0] if learned else 'psnr_y'


def look(
  runs: Sequence[Run], systems: Sequence[System], asked: measures.Measures, order: str, number: int, out: Path
) -> Look:
  """Enlarges all validation pictures again by every system, and writes the chosen ones to `out`/pictures.

  Args:
    runs: from `gather.read`.
    systems: from `gather.systems`.
    asked: from `ask`.
    order: from `ask`.
    number: how many of the best, and of the worst, are shown.
    out: folder of the report.

  Raises:
    UserError: the pictures are not there any more, or are others.
  """
  source = prepare.open_pictures(runs[0].config, 'valid', runs[0].scale)
  if runs[0].material.get('validation pictures') not in (None, repr(source)):
    raise UserError(f'The validation pictures of {runs[0].folder} have changed since they were measured.')
  networks, missing = _networks(systems)
  restores = {'bicubic': bicubic.imresize, **networks}
  say(f'Enlarging {len(source.names)} pictures again by {", ".join(restores)}.')
  tally = _tally(source, restores, asked, {system.label: system.scores for system in systems})
  order = order if _measured(order, systems, tally.scores) else 'psnr_y'
  best, worst = _chosen(systems, tally.scores, order, number)
  commonest = max(dict.fromkeys(tally.sizes), key=tally.sizes.count)
  shown, lossless = _write(out / FOLDER, source, {k: v for k, v in restores.items() if k != 'bicubic'}, best + worst)
  return Look(
    order=order,
    described=source.describe(),
    scores=tally.scores,
    colours=_colours(systems, tally.tones),
    consistency={label: statistics.mean(values) for label, values in tally.agreement.items()},
    drift=max(tally.drift),
    programs={label: _program(network, commonest) for label, network in networks.items()},
    best=[shown[name] for name in best],
    worst=[shown[name] for name in worst],
    lossless=lossless,
    dials=_dials(out / FOLDER, source, systems, networks, best, worst),
    missing=missing,
  )


class _Tally(NamedTuple):
  """What is counted over all pictures; lists are in their order."""

  scores: dict[str, Scores]
  tones: dict[str, list[np.ndarray]]
  agreement: dict[str, list[float]]
  drift: list[float]
  sizes: list[tuple[int, int]]  # of LR


def _tally(
  source: data.Source, restores: Mapping[str, Restore], asked: measures.Measures, recorded: Mapping[str, Scores]
) -> _Tally:
  tally = _Tally(
    {k: {} for k in restores}, {k: [] for k in (*restores, 'HR')}, {k: [] for k in (*restores, 'HR')}, [], []
  )
  for name, lr, outputs in watched(_enlarged(source, restores), 'Enlarging', len(source)):
    hr, crop = outputs['HR'], source.scale
    tally.sizes.append(lr.shape[:2])
    for label, output in outputs.items():
      tally.tones[label].append(_tone(output))
      tally.agreement[label].append(_agreement(output, lr, source.scale))
    for label in restores:
      output = outputs[label]
      tally.scores[label][name] = {key: value for fn in asked.functions for key, value in fn(output, hr, crop).items()}
      difference = metrics.psnr(output[None], hr[None], crop, luma=True)[0] - recorded[label][name]['psnr_y']
      tally.drift.append(float(np.nan_to_num(abs(difference), posinf=0.0)))
  return tally


def _networks(systems: Sequence[System]) -> tuple[dict[str, infer.Network], dict[str, str]]:
  """Returns the networks that can still be read, and for the others why not."""
  networks, missing = {}, {}
  for system in systems:
    if system.kind == 'bicubic':
      continue
    try:
      networks[system.label] = _network(system)
    except (UserError, OSError) as error:
      missing[system.label] = str(error)
      say(f'Without {system.label}: {error}')
  return networks, missing


def _network(system: System) -> infer.Network:
  run = system.run
  if system.kind == 'adapted':
    if run.results.get('unmergeable'):
      raise UserError(run.results['unmergeable'])
    loaded = base_lib.load(run.folder / 'merged')
  else:
    loaded = prepare.choose_base(run.config)
    if tree.fingerprint(loaded.params) != run.results['base_fingerprint']:
      raise UserError(f'{run.config.base} holds other weights now than the base of {run.folder}.')
  return infer.network(loaded.model(dtype=jnp.dtype(run.config.dtype)), loaded.params, run.config.eval_tile)


def _enlarged(
  source: data.Source, restores: Mapping[str, Restore], names: Sequence[str] | None = None
) -> Iterator[tuple[str, np.ndarray, dict[str, np.ndarray]]]:
  """Yields (name, lr, {label: output, 'HR': hr}) of all pictures, or of those in `names`; all are uint8."""
  for name, lr, hr in data.pairs(source, names and map(source.names.index, names)):
    x = image.to_float(lr)
    outputs = {label: image.to_uint8(restore(x, source.scale)) for label, restore in restores.items()}
    yield name, image.to_uint8(lr), {**outputs, 'HR': image.to_uint8(hr)}


# --------------------------------------------------------------------------------------------------- colours and input

# IEC 61966-2-1 (sRGB) to CIE XYZ, each row divided by the white of D65.
_XYZ = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
_XYZ /= np.array([[0.95047], [1.0], [1.08883]])
_LINEAR = image.linear(np.arange(256) / 255)


def lab(rgb: np.ndarray) -> np.ndarray:
  """Returns CIE L*a*b* (..., 3) under D65 of 8-bit sRGB (..., 3)."""
  x = _LINEAR[rgb] @ _XYZ.T
  x, y, z = np.moveaxis(np.where(x > (6 / 29) ** 3, np.cbrt(x), x / (3 * (6 / 29) ** 2) + 4 / 29), -1, 0)
  return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def _tone(picture: np.ndarray) -> np.ndarray:
  """Returns the mean R, G, B (levels) and L*, a*, b* of a picture."""
  return np.concatenate([picture.mean((0, 1)), lab(picture).mean((0, 1))])


def _colour(tones: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> Colour:
  difference = np.asarray(tones) - np.asarray(others)
  mean = difference.mean(0).tolist()
  return Colour(tuple(mean[:3]), tuple(mean[3:]), float(np.linalg.norm(difference[:, 3:], axis=1).mean()))


def _colours(systems: Sequence[System], tones: Mapping[str, list[np.ndarray]]) -> dict[tuple[str, str], Colour]:
  adapted = gather.adapted(systems)
  wanted = [(s.base.label, 'HR') for s in adapted] + [(s.label, x) for s in adapted for x in (s.base.label, 'HR')]
  return {(a, b): _colour(tones[a], tones[b]) for a, b in dict.fromkeys(wanted) if a in tones and b in tones}


def _agreement(output: np.ndarray, lr: np.ndarray, scale: int) -> float:
  """Returns the PSNR (RGB, dB) between the output shrunk by MATLAB's bicubic kernel, and the LR picture."""
  shrunk = image.to_uint8(bicubic.imresize(image.to_float(output), 1 / scale))
  return float(metrics.psnr(shrunk[None], lr[None], 0, luma=False)[0])


# ---------------------------------------------------------------------------------------------------------------- cost


def _program(network: infer.Network, size: tuple[int, int]) -> Program:
  """Counts the operations of one forward pass, without making it."""
  h, w = (-(-max(n, network.model.minimum) // network.model.multiple) * network.model.multiple for n in size)
  params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), network.params)
  x = jax.ShapeDtypeStruct((1, h, w, 3), jnp.float32)
  lowered = jax.jit(network.model.apply).lower({'params': params}, x)
  cost = lowered.cost_analysis() or {}
  return Program(lowered.as_text(), float(cost.get('flops', float('nan'))), size)


# --------------------------------------------------------------------------------------------------------------- files


def _measured(metric: str, systems: Sequence[System], scores: Mapping[str, Scores]) -> bool:
  """Tells whether there are values of `metric` for all networks."""
  rows = [next(iter((scores.get(s.label) or s.scores).values())) | next(iter(s.scores.values())) for s in systems]
  return all(metric in row for row in rows)


def _chosen(
  systems: Sequence[System], scores: Mapping[str, Scores], order: str, number: int
) -> tuple[list[str], list[str]]:
  """Returns the names of the pictures that gained most, and of those that gained least, no name twice."""
  adapted = gather.adapted(systems)[0]

  def gain(name: str) -> float:
    both = adapted, adapted.base
    after, before = ((scores.get(s.label, {}).get(name, {}) | s.scores[name])[order] for s in both)
    return float(np.nan_to_num(before - after if tables.lower_is_better(order) else after - before))

  ordered = sorted(adapted.scores, key=gain, reverse=True)
  best = ordered[: min(number, -(-len(ordered) // 2))]
  rest = ordered[len(best) :]
  return best, rest[::-1][:number]


def _write(
  folder: Path, source: data.Source, restores: Mapping[str, Restore], names: Sequence[str]
) -> tuple[dict[str, Shown], bool]:
  """Writes LR, outputs and HR of the pictures `names`; as PNG, or as JPEG of quality 95 where that is too much."""
  folder.mkdir(parents=True, exist_ok=True)
  shown = {}
  for place, (name, lr, outputs) in enumerate(_enlarged(source, restores, names), 1):
    layers = {'LR': lr, **outputs}
    stems = [
      label.lower() if label in ('LR', 'HR', 'base', 'adapted') else f'network{i}' for i, label in enumerate(layers)
    ]
    files = {label: folder / f'{place:02d}_{stem}.png' for label, stem in zip(layers, stems, strict=True)}
    for label, path in files.items():
      image.write(path, layers[label])
    shown[name] = Shown(name, files, outputs['HR'].shape[:2])
  lossless = sum(path.stat().st_size for picture in shown.values() for path in picture.files.values()) <= _LARGEST_PAGE
  if not lossless:
    shown = {
      name: picture._replace(files={label: _as_jpeg(path) for label, path in picture.files.items()})
      for name, picture in shown.items()
    }
  kept = {path for picture in shown.values() for path in picture.files.values()}
  for path in folder.iterdir():  # of an earlier report
    if path not in kept and _OURS.fullmatch(path.name):
      os.unlink(path)
  return shown, lossless


def _dials(
  folder: Path,
  source: data.Source,
  systems: Sequence[System],
  networks: Mapping[str, infer.Network],
  best: Sequence[str],
  worst: Sequence[str],
) -> dict[str, Dial]:
  """Writes what lies between every adapted network and its base, of the best, a middle and the worst picture."""
  shown = [*best, *worst[::-1]]
  names = list(dict.fromkeys(shown[i] for i in (0, len(shown) // 2, -1))) if shown else []
  dials: dict[str, Dial] = {}
  for system in gather.adapted(systems):
    ends = [networks.get(each.label) for each in (system.base, system)]
    if None in ends or not system.run.results['steps']:
      continue
    strengths = _FEWER if any(dial.crops for dial in dials.values()) else _STRENGTHS
    try:
      between = {f'{t:g}': ends[0]._replace(params=_between(system.run, ends, t)) for t in strengths}
    except UserError as error:  # of methods that cannot be scaled
      say(f'Without a slider of strengths: {error}')
      dials[system.label] = Dial([], [], str(error))
      continue
    stem = f'strength{len(dials) + 1}'
    crops = [
      _crop(folder, f'{place:02d}_{stem}_', name, outputs, source.scale)
      for place, (name, _, outputs) in enumerate(_enlarged(source, between, names), 1)
    ]
    dials[system.label] = Dial(list(between), crops)
  files = [path for dial in dials.values() for crop in dial.crops for path in crop.files]
  if sum(path.stat().st_size for path in files) <= _LARGEST_CROPS:
    return dials
  return {
    label: dial._replace(crops=[crop._replace(files=[*map(_as_jpeg, crop.files)]) for crop in dial.crops])
    for label, dial in dials.items()
  }


def _crop(folder: Path, stem: str, name: str, outputs: dict[str, np.ndarray], scale: int) -> Crop:
  hr = outputs.pop('HR')
  box = figures.busiest_box(image.to_float(hr), _CROP)
  files = [folder / f'{stem}{i}.png' for i in range(len(outputs))]
  for path, output in zip(files, outputs.values(), strict=True):
    image.write(path, output[box.window()])
  values = [metrics.psnr(output[None], hr[None], scale, luma=True)[0] for output in outputs.values()]
  return Crop(name, files, [f'{value:.2f} dB' for value in values], (box.height, box.width))


def _between(run: Run, ends: Sequence[infer.Network], strength: float) -> tree.Params:
  """Returns the network at `strength`; on a straight line where all parameters were trained, without an adapter."""
  path, (base, adapted) = run.folder / 'adapter.safetensors', [jax.device_get(network.params) for network in ends]
  if path.is_file():
    return jax.device_put(operations.apply(adapter_file.load(path), base, strength))
  return jax.tree.map(lambda a, b: (1 - strength) * a + strength * b, base, adapted)


def _as_jpeg(path: Path) -> Path:
  """Puts a JPEG in the place of a PNG; returns its path."""
  image.write(path.with_suffix('.jpg'), image.read_array(path))
  path.unlink()
  return path.with_suffix('.jpg')

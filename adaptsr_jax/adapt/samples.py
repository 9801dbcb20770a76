"""The same crops of a few validation pictures at every measurement, and all of them in one strip."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from adaptsr_jax import data, figures, image, infer, processes
from adaptsr_jax.evaluate.measure import Restored
from adaptsr_jax.log import read_metrics, sample_path

_PICTURES = 3
_CROP = 160  # side in HR pixels
_SHOWN = 6  # measurements in the strip

Windows = dict[str, tuple[slice, slice]]  # of a picture, in HR pixels


def windows(valid: data.Source) -> Windows:
  """Returns the crops: from the first to the last picture in equal steps, each where HR has most detail."""
  found = {}
  for index in figures.evenly(len(valid), _PICTURES):
    box = figures.busiest_box(image.to_float(valid.hr(index)), _CROP, valid.scale)
    found[valid.names[index]] = box.window()
  return found


def taken(items: Iterable[Restored], crops: Windows, into: dict[str, np.ndarray]) -> Iterator[Restored]:
  """Passes pictures on, and puts the crops of those that are sampled `into` a table by name."""
  for item in items:
    if item.name in crops:
      into[item.name] = item.output[crops[item.name]]
    yield item


def of_all(crops: Windows, taken: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the crops that the processes took of their shares of the pictures, in the order of `crops`."""
  parts = processes.gathered({name: crop.tolist() for name, crop in taken.items()})
  found = {name: crop for part in parts for name, crop in part.items()}
  return {name: np.array(found[name], np.uint8) for name in crops}


def draw(workdir: Path, valid: data.Source, crops: Windows, base: infer.Network) -> None:
  """Draws samples.png: input, base, the crops of up to six measurements, and HR; nothing where none were kept."""
  measured = [int(row['step']) for row in read_metrics(workdir) if 'valid/psnr_y' in row]
  places = {name: place for place, name in enumerate(crops, 1)}
  steps = [step for step in measured if all(sample_path(workdir, place, step).is_file() for place in places.values())]
  if not steps:
    return
  steps = [steps[i] for i in figures.evenly(len(steps), _SHOWN)]
  rows: dict[str, list[tuple[str, np.ndarray]]] = {}
  for name, lr, hr in data.pairs(valid, map(valid.names.index, crops)):
    lr = image.to_float(lr)
    whole: Mapping[str, np.ndarray] = {'input': lr.repeat(valid.scale, 0).repeat(valid.scale, 1), 'base': base(lr)}
    files = {n: sample_path(workdir, places[name], n) for n in steps}
    shown = [(f'step {n}', image.to_float(image.read_array(path))) for n, path in files.items()]
    before = [(title, picture[crops[name]]) for title, picture in whole.items()]
    rows[name] = [*before, *shown, ('HR', image.to_float(hr)[crops[name]])]
  figures.compare_strip(workdir / 'samples.png', list(rows.values()), list(rows))

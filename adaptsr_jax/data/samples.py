"""Sample photographs and a simulated camera: pairs of pictures for a first run without any of one's own.

The photographs are files of the scikit-image package (`pip install 'adaptsr-jax[quickstart]'`), each released into the
public domain or under CC0 according to its docstring in `skimage.data`. `PHOTOGRAPHS` is the list; no scene is in both
parts. They play the HR pictures, and `CAMERA` makes the LR ones. Files are written once, so that the pictures can be
looked at, and everything else works on ordinary folders:

    CACHE/samples-1a2b3c4d/train/HR/astronaut.png    the photograph, its sides cut to multiples of 4
    CACHE/samples-1a2b3c4d/train/LR/astronaut.png    what the camera makes of it
"""

import hashlib
import importlib.util
import io
import math
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from adaptsr_jax import files, image
from adaptsr_jax.errors import UserError

PREFIX = 'samples:'
SCALE = 4
LICENCE = 'CC0 or public domain'  # of PHOTOGRAPHS, each


class Photograph(NamedTuple):
  """A file of scikit-image."""

  file: str
  licence: str
  source: str


PHOTOGRAPHS = {
  'train': (
    Photograph('astronaut.png', 'public domain', 'NASA'),
    Photograph('brick.png', 'CC0', 'CC0Textures, Bricks25'),
    Photograph('grass.png', 'CC0', 'linolafett, Grass 01'),
    Photograph('gravel.png', 'CC0', 'CC0Textures, Gravel04'),
    Photograph('hubble_deep_field.jpg', 'public domain', 'NASA'),
    Photograph('rocket.jpg', 'public domain', 'SpaceX'),
  ),
  'valid': (
    Photograph('camera.png', 'CC0', 'Lav Varshney'),
    Photograph('chelsea.png', 'CC0', 'Stefan van der Walt'),
    Photograph('coffee.png', 'CC0', 'Rachel Michetti'),
  ),
}


class Camera(NamedTuple):
  """A camera that is always the same: anisotropic Gaussian blur, x4 decimation, noise that grows with light, JPEG.

  Attributes:
    blur: standard deviations of the blur along its long and short axis, in HR pixels.
    angle: of the long axis against the rows, in degrees.
    read_noise: standard deviation of the noise in the dark, of [0, 1].
    shot_noise: variance that full light adds to it; with it, medium gray has a standard deviation of about 2 / 255.
    quality: of the JPEG file, by Pillow's scale, with chroma at half resolution.
  """

  blur: tuple[float, float] = (3.2, 2.4)
  angle: float = 30.0
  read_noise: float = 1 / 255
  shot_noise: float = 1e-4
  quality: int = 95


CAMERA = Camera()
# Counts the changes of `shoot` that change pixels, so that no folder of older pictures is taken for the new ones.
_REVISION = 1


def folders(spec: str, cache: Path) -> tuple[Path, Path]:
  """Returns the folders (LR, HR) of sample pictures, written to `cache` if they are not there yet.

  Args:
    spec: 'samples:train' or 'samples:valid'.
    cache: folder that keeps them; need not exist.

  Raises:
    UserError: unknown part, scikit-image is not installed, or the cache cannot be written.
  """
  part = spec.removeprefix(PREFIX)
  if part not in PHOTOGRAPHS:
    known = ' and '.join(repr(PREFIX + name) for name in PHOTOGRAPHS)
    raise UserError(f'There are no sample pictures {spec!r}; there are {known}.')
  version = hashlib.sha256(repr((PHOTOGRAPHS, CAMERA, _REVISION)).encode()).hexdigest()[:8]
  folder = cache / f'samples-{version}'
  if not folder.is_dir():
    _write(folder)
  return folder / part / 'LR', folder / part / 'HR'


def _write(folder: Path) -> None:
  """Writes all parts; `folder` appears whole or not at all."""
  try:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with files.aside_folder(folder) as aside:
      for part, photographs in PHOTOGRAPHS.items():
        for kind in ('LR', 'HR'):
          (aside / part / kind).mkdir(parents=True)
        for photograph in photographs:
          hr = read(photograph)
          name = Path(photograph.file).stem
          image.write(aside / part / 'HR' / f'{name}.png', hr)
          image.write(aside / part / 'LR' / f'{name}.png', shoot(hr, name))
  except (OSError, UserError) as error:
    if isinstance(error, UserError) and not files.is_full(error):
      raise
    if not folder.is_dir():  # otherwise another process was faster
      raise UserError(
        f'The sample pictures cannot be written to {folder} ({getattr(error, "strerror", "") or error}); '
        'choose another folder by the environment variable ADAPTSR_JAX_CACHE.'
      ) from error


def read(photograph: Photograph) -> np.ndarray:
  """Returns a photograph (H, W, 3) uint8 RGB, cut at the bottom and right to multiples of 4.

  Raises:
    UserError: scikit-image is not installed, or is too old to contain it.
  """
  # The files themselves: `skimage.data` would go to the network for one that is missing.
  package = importlib.util.find_spec('skimage')
  path = package and Path(package.submodule_search_locations[0]) / 'data' / photograph.file
  if not path or not path.is_file():
    lack = f'scikit-image without {photograph.file}' if path else 'no scikit-image'
    raise UserError(
      f"The sample photographs come with scikit-image, and there is {lack}: pip install 'adaptsr-jax[quickstart]'."
    )
  hr = image.read_array(path)
  h, w = (n // SCALE * SCALE for n in hr.shape[:2])
  return hr[:h, :w]


def shoot(hr: np.ndarray, name: str, camera: Camera = CAMERA) -> np.ndarray:
  """Returns what `camera` makes of a picture.

  Args:
    hr: (4h, 4w, 3) uint8.
    name: of the picture; the seed of its noise, so that a picture is the same whenever and wherever it is made.
    camera: its properties.

  Returns:
    (h, w, 3) uint8.
  """
  light = _blurred_decimated(image.to_float(hr).astype(np.float64), _kernel(camera))
  deviation = np.sqrt(camera.read_noise**2 + camera.shot_noise * light)
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  noisy = image.to_uint8(light + deviation * rng.standard_normal(light.shape))
  file = io.BytesIO()
  Image.fromarray(noisy).save(file, 'JPEG', quality=camera.quality)
  return np.asarray(Image.open(file))


def _kernel(camera: Camera) -> np.ndarray:
  """Returns the blur (2r, 2r) with sum 1, its middle between the pixels: see `_blurred_decimated`."""
  radius = max(SCALE // 2, math.ceil(3 * max(camera.blur)))
  y, x = np.mgrid[: 2 * radius, : 2 * radius] - (radius - 0.5)
  angle = math.radians(camera.angle)
  along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
  kernel = np.exp(-0.5 * ((along / camera.blur[0]) ** 2 + (across / camera.blur[1]) ** 2))
  return kernel / kernel.sum()


def _blurred_decimated(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
  """Returns every fourth pixel of `x` (H, W, C) under `kernel`, mirrored at the borders.

  An LR pixel lies in the middle of its 4 x 4 HR pixels, as in bicubic shrinking. Taken from one of them, the LR picture
  would be shifted against HR, and a gain after adaptation might be no more than that shift undone.
  """
  radius = len(kernel) // 2
  h, w = (n // SCALE for n in x.shape[:2])
  padded = np.pad(x, ((radius, radius), (radius, radius), (0, 0)), 'symmetric')
  total = np.zeros((h, w, x.shape[-1]))
  for (row, column), weight in np.ndenumerate(kernel):
    top, left = row + SCALE // 2, column + SCALE // 2
    total += weight * padded[top : top + SCALE * h : SCALE, left : left + SCALE * w : SCALE]
  return total

"""The metrics that a command or run was asked for, ready to be called; what lacks its weights is left out, and told."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from adaptsr_jax import metrics
from adaptsr_jax.errors import UserError
from adaptsr_jax.metrics.table import GROUPS, METRICS, Function, names_of, protocol
from adaptsr_jax.zoo import metric_weights
from adaptsr_jax.zoo.metric_weights import METRIC_FILES, Unavailable


class Measures(NamedTuple):
  """What `load` gives.

  Attributes:
    functions: (output uint8 (H, W, 3), hr uint8 (H, W, 3), border to crop) -> {key: value}. The keys of all of them, in
      this order, are among psnr_y, ssim_y, psnr_rgb, ssim_rgb, lpips_alex, lpips_vgg, dists, niqe.
    missing: metric -> one sentence that says why it is left out and how to get it.
    protocol: what a table must say beside its numbers, without the width of the border.
  """

  functions: tuple[Function, ...]
  missing: dict[str, str]
  protocol: dict[str, str]


def load(names: Iterable[str], folder: str = '') -> Measures:
  """Returns the metrics of these names, with their weights in memory.

  Args:
    names: of `metrics.table`, in any order.
    folder: where the weights are; '' takes them from the cache, or downloads them.

  Raises:
    UserError: an unknown name; no such folder; a file of weights that is damaged or another one.
  """
  wanted: set[str] = set()
  for name in names:
    if not names_of(name):
      raise UserError(f"'{name}' is not a metric; there are: {', '.join(dict.fromkeys((*METRICS, *GROUPS)))}.")
    wanted.update(names_of(name))
  # PSNR and SSIM at once: they share the planes.
  both = {'psnr', 'ssim'} if {'psnr', 'ssim'} <= wanted else set()
  functions, missing, read = [metrics.quality] if both else [], {}, _reader(folder)
  for name, metric in METRICS.items():
    if name in wanted - both:
      try:
        functions.append(metric.make(*map(read, metric.files)))
      except Unavailable as error:
        needed = ' and '.join(METRIC_FILES[file].published for file in metric.files)
        missing[name] = f'{name} is left out, for it needs {needed}: {error}'
  return Measures(tuple(functions), missing, protocol(wanted - missing.keys()))


def _reader(folder: str) -> Callable[[str], Any]:
  """Returns `metric_weights.load` with a memory: VGG16 serves two metrics, and a silent server is asked once."""
  results = {}

  def read(file: str) -> Any:
    if file not in results:
      try:
        results[file] = metric_weights.load(file, folder)
      except Unavailable as error:
        results[file] = error
    if isinstance(results[file], Unavailable):
      raise results[file]
    return results[file]

  return read

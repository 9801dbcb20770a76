"""What a simulated camera does and how often: every range and probability, with the published settings as presets.

Sources: Wang et al., Real-ESRGAN (2021), and the options of its four official trainings, which agree; Wang et al.,
StableSR (2023), whose milder options made its DIV2K validation set.
"""

import difflib
from collections.abc import Mapping
from typing import Any, NamedTuple

from adaptsr_jax.errors import UserError

FAMILIES = ('iso', 'aniso', 'generalized_iso', 'generalized_aniso', 'plateau_iso', 'plateau_aniso')

Range = tuple[float, float]


class Options(NamedTuple):
  """A simulated camera; `1` and `2` are its two stages, probabilities are of one batch or of one picture.

  Attributes:
    kind: 'second_order', everything below, or 'bicubic', nothing but MATLAB's kernel.
    source_usm: whether HR is sharpened (unsharp mask) before it is degraded.
    kernel_sizes: sides of blur kernels and of the final sinc, each equally likely; odd, at most 21.
    blur1_mix: probability of each of `FAMILIES` among the kernels that are no sinc.
    blur1_sinc_prob: of a sinc kernel, per picture.
    blur1_sigma: standard deviation along an axis, in pixels.
    blur1_betag: exponent of generalized Gaussians, (low, high): with equal probability in (low, 1) and in (1, high).
    blur1_betap: the same of plateau kernels.
    resize1_prob: of shrinking, enlarging and neither come as (up, down, keep), per batch.
    resize1_range: smallest and largest factor, relative to the picture before.
    noise1_gaussian_prob: of Gaussian noise, otherwise Poisson, per batch.
    noise1_sigma: standard deviation of Gaussian noise, in levels of 8 bit.
    poisson1_scale: factor of Poisson noise.
    gray1_prob: of noise that is the same in all channels, per picture.
    jpeg1_quality: real-valued quality.
    blur2_prob: of the second blur, per batch.
    resize2_range: smallest and largest factor, relative to the size of LR.
    resize_first_prob: of the order resize, sinc, JPEG at the end, otherwise JPEG, resize, sinc; per batch.
    final_sinc_prob: of a sinc at the end, otherwise nothing, per picture.
  """

  kind: str = 'second_order'
  source_usm: bool = True
  kernel_sizes: tuple[int, ...] = (7, 9, 11, 13, 15, 17, 19, 21)
  blur1_mix: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
  blur1_sinc_prob: float = 0.1
  blur1_sigma: Range = (0.2, 3.0)
  blur1_betag: Range = (0.5, 4.0)
  blur1_betap: Range = (1.0, 2.0)
  resize1_prob: tuple[float, float, float] = (0.2, 0.7, 0.1)
  resize1_range: Range = (0.15, 1.5)
  noise1_gaussian_prob: float = 0.5
  noise1_sigma: Range = (1.0, 30.0)
  poisson1_scale: Range = (0.05, 3.0)
  gray1_prob: float = 0.4
  jpeg1_quality: Range = (30.0, 95.0)
  blur2_prob: float = 0.8
  blur2_mix: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
  blur2_sinc_prob: float = 0.1
  blur2_sigma: Range = (0.2, 1.5)
  blur2_betag: Range = (0.5, 4.0)
  blur2_betap: Range = (1.0, 2.0)
  resize2_prob: tuple[float, float, float] = (0.3, 0.4, 0.3)
  resize2_range: Range = (0.3, 1.2)
  noise2_gaussian_prob: float = 0.5
  noise2_sigma: Range = (1.0, 25.0)
  poisson2_scale: Range = (0.05, 2.5)
  gray2_prob: float = 0.4
  jpeg2_quality: Range = (30.0, 95.0)
  resize_first_prob: float = 0.5
  final_sinc_prob: float = 0.8


_REALESRGAN = Options()

PRESETS = {
  'realesrgan': _REALESRGAN,
  'stablesr': _REALESRGAN._replace(
    blur1_sigma=(0.2, 1.5),
    blur1_betag=(0.5, 2.0),
    blur1_betap=(1.0, 1.5),
    resize1_range=(0.3, 1.5),
    noise1_sigma=(1.0, 15.0),
    poisson1_scale=(0.05, 2.0),
    jpeg1_quality=(60.0, 95.0),
    blur2_prob=0.5,
    blur2_sigma=(0.2, 1.0),
    blur2_betag=(0.5, 2.0),
    blur2_betap=(1.0, 1.5),
    resize2_range=(0.6, 1.2),
    noise2_sigma=(1.0, 12.0),
    poisson2_scale=(0.05, 1.0),
    jpeg2_quality=(60.0, 100.0),
  ),
  'bicubic': _REALESRGAN._replace(kind='bicubic', source_usm=False),
}


def options(preset: str, changes: Mapping[str, Any] | None = None) -> Options:
  """Returns the options of `preset` with `changes`, name -> value.

  Raises:
    UserError: an unknown preset or name, or a value that cannot work; names the field.
  """
  if preset not in PRESETS:
    raise UserError(f'There is no degradation {preset!r}; there are {", ".join(PRESETS)}.')
  found = PRESETS[preset]
  for name, value in dict(changes or {}).items():
    if name not in Options._fields:
      near = difflib.get_close_matches(name, Options._fields, 1)
      hint = f'did you mean {near[0]}?' if near else f'there are {", ".join(Options._fields)}.'
      raise UserError(f'config.data.degrade.{name} does not exist; {hint}')
    value = _typed(name, value, getattr(PRESETS['realesrgan'], name))
    if fault := _fault(name, value):
      raise UserError(f'config.data.degrade.{name} is {value}; {fault}.')
    found = found._replace(**{name: value})
  return found


def _typed(name: str, value: Any, default: Any) -> Any:
  """Returns `value` in the type of `default`, or raises UserError."""
  try:
    if isinstance(default, str):
      return str(value)
    if isinstance(default, bool):
      return {True: True, False: False}[value]
    if isinstance(default, float):
      return float(value)
    kind = type(default[0])
    typed = tuple(kind(item) for item in value)
    if kind is int and typed != tuple(value):
      raise ValueError
    if kind is float and len(typed) != len(default):
      raise ValueError
    return typed
  except (TypeError, ValueError, KeyError):
    raise UserError(f'config.data.degrade.{name} is {value!r}; it looks like {default!r}.') from None


def _fault(name: str, value: Any) -> str:
  """Returns why a value of the right type cannot work, in words; empty if it can."""
  if name == 'kind':
    return '' if value in ('second_order', 'bicubic') else "it can be 'second_order' or 'bicubic'"
  if name == 'kernel_sizes':
    fits = value and all(3 <= size <= 21 and size % 2 for size in value)
    return '' if fits else 'kernel sizes are odd numbers from 3 to 21'
  if name.endswith(('_mix', 'resize1_prob', 'resize2_prob')):
    fits = all(0 <= p <= 1 for p in value) and abs(sum(value) - 1) < 1e-6
    return '' if fits else 'it must be probabilities that add up to 1'
  if name.endswith('_prob'):
    return '' if 0 <= value <= 1 else 'a probability is from 0 to 1'
  if not isinstance(value, tuple):
    return ''
  low, high = value
  if not low <= high < float('inf'):  # also refuses NaN
    return 'a range is (low, high) with low <= high'
  if low < 0 or (low == 0 and not name.startswith(('noise', 'poisson'))):
    return 'its low end must be above 0'
  if name.startswith('resize') and not low <= 1 <= high:
    return 'it must include 1: shrinking goes from its low end to 1, enlarging from 1 to its high end'
  if name.startswith('resize') and high > 4:
    return 'its high end can be at most 4'
  if 'beta' in name and not low <= 1 <= high:
    return 'it must include 1, between its lower and its upper half'
  if name.startswith('jpeg') and high > 100:
    return 'a JPEG quality is at most 100'
  return ''

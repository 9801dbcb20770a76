"""Several sources in fixed proportions.

    root=/data/DIV2K track=unknown weight=1; root="/data/RealSR (V3)" weight=1; hr=/photos degrade=realesrgan weight=2

Parts are separated by semicolons and their fields by blanks; values with blanks stand in quotes. Fields are those of
`opening.open_source`, and `weight`, a whole number (1 if not given).
"""

import bisect
import itertools
import math
import shlex
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from adaptsr_jax.data.sources import PLAIN, Source
from adaptsr_jax.errors import UserError, naming

_FIELDS = ('lr', 'hr', 'root', 'track', 'tfds', 'packed', 'degrade', 'names', 'skip_names')


class Part(NamedTuple):
  """One part of a mixture, as written."""

  config: SimpleNamespace  # the fields of `open_source`
  weight: int


def _of_part(name: str) -> Callable[..., Any]:
  """Returns the method of a mixture that asks the part which has the index for its own."""

  def method(self: 'Mixture', index: int, *args: int) -> Any:
    part, index = self._at(index)
    return getattr(part, name)(index, *args)

  return method


class Mixture:
  """Sources one after the other under one numbering; `weights` are the proportions of batches, without a common factor.

  Each part keeps its own cache and its own presets.
  """

  def __init__(self, parts: Sequence[Source], weights: Sequence[int]):
    """Takes at least one part; all have one scale."""
    self.parts = tuple(parts)
    self.weights = tuple(weight // math.gcd(*weights) for weight in weights)
    self.scale = parts[0].scale
    self.made = all(part.made for part in parts)
    self.names = [name for part in parts for name in part.names]
    self.cache_bytes = sum(part.cache_bytes for part in parts)
    self._starts = [0, *itertools.accumulate(self.lengths[:-1])]
    self.label = ' : '.join(f'{_label(part)} {weight}' for part, weight in zip(parts, self.weights, strict=True))

  def __len__(self) -> int:
    return len(self.names)

  def __repr__(self) -> str:
    parts = ', '.join(f'{weight} {part!r}' for part, weight in zip(self.parts, self.weights, strict=True))
    return f'Mixture({parts})'

  @property
  def lengths(self) -> tuple[int, ...]:
    return tuple(len(part) for part in self.parts)

  def _at(self, index: int) -> tuple[Source, int]:
    number = bisect.bisect(self._starts, index) - 1
    return self.parts[number], index - self._starts[number]

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    part, index = self._at(range(len(self))[index])
    return part[index]

  hr, crop, lr_size, photograph, preset, origin = map(
    _of_part, ('hr', 'crop', 'lr_size', 'photograph', 'preset', 'origin')
  )

  def describe(self, canvas: int = 0) -> str:
    """Returns a line with the proportions, and one for each part; see `Source.describe`."""
    return '\n'.join([f'{self.label}, x{self.scale}', *(f'  {_line(part, canvas)}' for part in self.parts)])


def open_mix(
  config: Any, scale: int, cache_bytes: int, split: str, open_part: Callable[[Any, int, float, str], Source]
) -> Mixture:
  """Opens all parts of `config.mix` by `open_part`; see `opening.open_source`.

  Raises:
    UserError: as of `parse` and `open_source`; names the part.
  """
  for field, empty in (('names', ('',)), ('skip_names', ('',)), ('degrade', PLAIN)):
    if getattr(config, field, '') not in empty:
      raise UserError(f'{field} is given beside mix; write it into the part of mix that it is meant for.')
  sources, parts = [], parse(config.mix)
  for number, part in enumerate(parts, 1):
    with naming(f'mix, part {number}'):
      sources.append(open_part(part.config, scale, cache_bytes / 2**30, split))
    cache_bytes -= sources[-1].cache_bytes
  return Mixture(sources, [part.weight for part in parts])


def parse(text: str) -> list[Part]:
  """Reads the text form of a mixture.

  Raises:
    UserError: an unclosed quote, a word without '=', an unknown or repeated field, or a weight that is no whole number.
  """
  lexer = shlex.shlex(text, posix=True, punctuation_chars=';')
  lexer.whitespace_split, lexer.commenters, lexer.escape = True, '', ''
  try:
    words = list(lexer)
  except ValueError as error:
    raise UserError(f'mix has a quote that is not closed: {text}') from error
  groups = [list(group) for between, group in itertools.groupby(words, lambda word: not word.strip(';')) if not between]
  if not groups:
    raise UserError("mix is empty; write parts such as 'root=DIV2K track=unknown weight=1; hr=PHOTOS weight=2'.")
  return [_part(group, number) for number, group in enumerate(groups, 1)]


def _part(words: list[str], number: int) -> Part:
  fields = {}
  for word in words:
    name, separator, value = word.partition('=')
    if not separator:
      raise UserError(f'mix, part {number} has {word!r}; write field=value, in quotes if the value has blanks.')
    if name not in (*_FIELDS, 'weight'):
      raise UserError(f'mix, part {number} has the field {name!r}; known are {", ".join(_FIELDS)} and weight.')
    if name in fields:
      raise UserError(f'mix, part {number} has {name} twice; separate parts by a semicolon.')
    fields[name] = value
  weight = fields.pop('weight', '1')
  if not (weight.isascii() and weight.isdigit() and int(weight)):
    raise UserError(f'mix, part {number} has weight={weight}; weights are whole numbers from 1.')
  return Part(SimpleNamespace(**(dict.fromkeys(_FIELDS, '') | fields)), int(weight))


def _label(source: Source) -> str:
  preset = source.preset(0)
  return f'{source.label} + {preset}' if preset else source.label


def _line(source: Source, canvas: int) -> str:
  line = source.describe(canvas)
  return line if line.startswith(source.label) else f'{source.label}: {line}'

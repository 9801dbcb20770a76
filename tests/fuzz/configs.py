"""Config files and overrides at random, through the flags of `main` and as far as a run goes before its first step."""

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from absl import flags
from ml_collections import config_flags

from adaptsr_jax import config, main
from adaptsr_jax.adapt import folder as folder_lib
from adaptsr_jax.methods import METHODS
from tests.fuzz import rule
from tests.fuzz.damage import Random, damaged, pick
from tests.pictures import write_pairs

_WORDS = (
  *('', '0', '1', '2', '-1', '1.5', '1e400', 'nan', 'inf', '99999999999999999999', '9' * 5000, 'true', 'False', 'None'),
  *('x', 'x' * 5000, '()', '(1,)', "('conv',)", '[1, 2]', '{}', '(((', '\x1b[2J', 'a\nforged', '\udcff', 'é', '*', '['),
  *('random', 'lora', 'l1', 'psnr_y', 'last', 'best', 'float32', 'conv', '/dev/null', '.', '~', 'a=b', 'a:b', 'a,b'),
)
_SOURCES = (
  *('None', '-1', '0', '3', '10**30', '1e400', 'float("nan")', '"x"', '"x\\nforged"', '"\\ud800"', '()', '(1, "a")'),
  *('[1]', '{}', '{"a": 1}', 'object', 'c', 'lambda: 1', '"x" * 100000', 'b"x"', '1j', 'range(3)', 'True', 'set()'),
)


class _Reached(BaseException):
  """All that was given is accepted."""


def make(folder: Path) -> Callable[[Random, Path], str]:
  """Returns a trial: (random, empty folder) -> outcome; see `tests.fuzz.__main__`."""
  pictures = dict(zip(('lr', 'hr'), write_pairs(folder / 'pictures', 3, size=32), strict=True))
  fields = list(config.flat(config.default()))

  def trial(random: Random, place: Path) -> str:
    path, lines, words = place / 'given.py', ['c.steps, c.patch, c.lora.rule = 1, 16, "uniform"'], []
    lines += [f'c.data.{part}.{side} = {str(at)!r}' for part in ('train', 'valid') for side, at in pictures.items()]
    kind = pick(random, ('file', 'flags', 'flags', 'text'))
    for _ in range(random.integers(1, 4)):
      name = pick(random, fields) if random.random() < 0.9 else _misspelt(random, pick(random, fields))
      if kind == 'flags':
        words.append(f'--config.{name}={pick(random, _WORDS if random.random() < 0.4 else _likely(name))}')
      else:
        lines.append(f'c.{name} = {pick(random, _SOURCES if random.random() < 0.4 else map(repr, _likely(name)))}')
    body = ''.join(f'  {line}\n' for line in ('c = tiny.get_config()', *lines, 'return c'))
    text = f'from configs import tiny\n\n\ndef get_config():\n{body}'.encode('utf-8', 'surrogatepass')
    path.write_bytes(damaged(random, text) if kind == 'text' else text)
    argv = ['main', f'--config={path}', f'--workdir={place / "run"}', *words]
    to_the_end = random.random() < 0.1
    try:
      # What to try next has the flags as they were given.
      said = rule.run(lambda: _call(argv, to_the_end), longest=20_000)
    except _Reached:
      return f'{kind}, accepted'
    rule.check_whole(place)
    assert (place / 'run' / 'results.json').exists() == (not said.code), (lines, words, said)
    return f'{kind}, {("run", "", "refused")[said.code]}'

  return trial


def _likely(name: str) -> tuple:
  """Returns values of the type of a field, most of which it can have."""
  fields = config.flat(config.default())
  value = fields.get(name)
  if isinstance(value, bool):
    return True, False
  if isinstance(value, int):
    return 0, 1, 2, 4, 16, 1000, -1, 2**31
  if isinstance(value, float):
    return 0.0, 0.5, 1.0, 1e-3, 0.999, 1e9, -1.0
  return (*config.CHOICES.get(name, ()), *METHODS, '', 'conv', 'psnr_y', 'none', '.')


def _misspelt(random: Random, name: str) -> str:
  place = int(random.integers(len(name)))
  return name[:place] + pick(random, ('', 'x', name[place] * 2, '.')) + name[place + 1 :]


def _call(argv: list[str], to_the_end: bool) -> int:
  """Does what the program `main` does, with flags of its own."""
  values = flags.FlagValues()
  for name in ('distributed', 'coordinator', 'processes', 'process'):
    values[name] = copy.deepcopy(flags.FLAGS[name])
  others = {name: flag for name, flag in vars(main).items() if isinstance(flag, flags.FlagHolder)}
  own = {
    **{name: SimpleNamespace(value=flag.default) for name, flag in others.items()},
    'flags': SimpleNamespace(FLAGS=values, Error=flags.Error),
    '_CONFIG': config_flags.DEFINE_config_file('config', None, flag_values=values),
    '_WORKDIR': flags.DEFINE_string('workdir', None, '', flag_values=values),
  }
  with mock.patch.multiple(main, **own), mock.patch.object(sys, 'argv', argv):
    rest = main.parse(argv)
    if to_the_end:
      return main.main(rest)
    with mock.patch.object(folder_lib.Folder, 'take', side_effect=_Reached):
      return main.main(rest)

"""Commands, fields and files that the pages name: they exist, and the commands take the flags that are given there.

Nothing is run. What blocks of Python do is shown by `test_api` and `test_extend`.
"""

import argparse
import importlib
import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest

from adaptsr_jax import command, config, processes, stability
from adaptsr_jax.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = [
  ROOT / 'README.md',
  *sorted(p for folder in ('docs', 'experiments', 'benchmarks') for p in (ROOT / folder).rglob('*.md')),
]


def name(page: Path) -> str:
  return str(page.relative_to(ROOT))


def calls(page: Path) -> list[tuple[str, ...]]:
  """Returns (module, words behind it) of every call in blocks and in code within the text."""
  text = re.sub(r'^```.*', '', page.read_text().replace('\\\n', ' '), flags=re.MULTILINE)
  lines = re.findall(r'^ {4}(\S.*)', text, re.MULTILINE) + re.findall(r'`([^`]+)`', text)
  found = []
  for line in lines:
    for part in re.split(' && | [|] ', ' '.join(line.split())):
      match = re.search(r'(?:^|^[A-Z_]+=\S* )(?:python -m |(?=adaptsr ))(.*)', part)
      if match and not match[1].startswith('adaptsr_jax.COMMAND'):
        found.append(tuple(shlex.split(match[1], comments=True)))
  return found


CALLS = sorted({call for page in PAGES for call in calls(page)})


def test_calls_are_found():
  assert ('adaptsr_jax.convert', 'IN', '--detect') in CALLS
  assert ('adaptsr', 'adapt', '--config=safmn', '...') in CALLS
  assert len([call for call in CALLS if len(call) > 2]) > 40


def of_run(words: list[str], whole: bool) -> None:
  """Reads the flags of `main`; of a call that is not whole, others may be missing."""
  parser = argparse.ArgumentParser(allow_abbrev=False)
  parser.add_argument('--config', required=whole, default='safmn')
  parser.add_argument('--workdir', required=whole)
  processes.add_arguments(parser)
  parser.add_argument('--sweep')
  args, fields = parser.parse_known_args(words)
  made = stability._read_config(args.config, fields)
  if whole:
    config.validate(made)


@pytest.mark.parametrize('call', CALLS, ids=' '.join)
def test_calls_can_be_made(call, monkeypatch):
  module, *words = call
  if module == 'adaptsr':
    command_name, *words = words
    module = f'adaptsr_jax.{COMMANDS[command_name][0]}'
  assert importlib.util.find_spec(module), f'there is no {module}'
  words = [word for word in words if word != '...']
  if not module.startswith('adaptsr_jax') or not words:
    return
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(command, 'ended', lambda *_: 0)  # what every command does with what it has read
  monkeypatch.setattr(sys, 'argv', ['command', *words])
  if module == 'adaptsr_jax.main':
    of_run(words, '...' not in call)
    return
  if module == 'adaptsr_jax.stability':
    args, fields = stability._parser().parse_known_args(words)
    stability._read_config(args.config, fields)
  package = importlib.util.find_spec(module).submodule_search_locations
  assert importlib.import_module(f'{module}.__main__' if package else module).main() == 0


@pytest.mark.parametrize('page', PAGES, ids=name)
def test_fields_exist(page):
  known = config.flat(config.default())
  sections = {name.rpartition('.')[0] for name in known} | {'data', 'data.train', 'data.valid', 'data.decide'}
  # docs/extend.md adds a method, whose field this is.
  others = {'py', 'json', 'gains.limit', *(name for name in vars(config) if callable(getattr(config, name)))}
  named = set(re.findall(r'(?<![\w/])config\.([a-z]\w*(?:\.[a-z]\w*)*)', page.read_text()))
  assert not named - known.keys() - sections - others


@pytest.mark.parametrize('page', [*PAGES, *sorted((ROOT / 'configs').glob('*.py'))], ids=name)
def test_files_that_are_named_exist(page):
  text = page.read_text()
  links = re.findall(r'\]\(([^)#:]+)', text) if page.suffix == '.md' else []
  paths = re.findall(
    r'(?<!/)\b(?:adaptsr_jax|benchmarks|configs|docs|experiments|tests)/[a-z0-9_/]+(?:\.[a-z]+)?', text
  )
  assert not [link for link in links if not (page.parent / link).exists()]
  assert not [path for path in paths if not any(ROOT.glob(f'{path}*'))]  # 'experiments/001' is enough

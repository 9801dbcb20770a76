"""The plan of the house: imports only go to a lower floor, or inside the same sub-folder; no torch, no TensorFlow."""

import ast
import configparser
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest

import adaptsr_jax

PACKAGE = Path(adaptsr_jax.__file__).parent
FLOORS = [
  [
    'command',
    'errors',
    'files',
    'memory',
    'tree',
    'compiler',
    'image',
    'bicubic',
    'figures',
    'page',
    'energy',
    'video',
    'processes',
  ],
  ['models', 'metrics', 'log', 'devices'],
  ['lora', 'data'],
  ['ranks', 'infer', 'convert'],
  ['methods'],
  ['config', 'adapters', 'params_folder', 'zoo'],
  ['base'],
  ['evaluate'],
  ['adapt'],
  ['report'],
  [
    *('main', 'api', '__main__', 'evaluate.__main__', 'upscale', 'stability', 'degrade', 'pack', 'doctor', 'lam'),
    *('convert.__main__', 'convert.conversion', 'adapters.__main__', 'adapters.sweep', 'zoo.__main__'),
  ],
]
OF_THE_PACKAGE = ('adaptsr_jax.__version__', 'adaptsr_jax.is_function')  # no modules
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob('*.py'))


def imports_of(path: Path) -> set[str]:
  """Returns the modules that the file imports anywhere, functions included."""
  found = set()
  for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path} imports relatively'
      found.add(node.module)
      if node.module == 'adaptsr_jax':
        found |= {f'adaptsr_jax.{alias.name}' for alias in node.names}
  return found


def part_of(path: Path) -> str:
  name = '.'.join(path.with_suffix('').parts)
  return name if name in FLOOR else path.parts[0].removesuffix('.py')


@pytest.mark.parametrize('path', [p for p in FILES if p.name != '__init__.py' or len(p.parts) > 1], ids=str)
def test_imports_go_down(path):
  own = part_of(path)
  assert own in FLOOR, f'{path} stands on no floor'
  for module in imports_of(path):
    if not module.startswith('adaptsr_jax.') or module in OF_THE_PACKAGE:
      continue
    other = module.split('.')[1]
    same_folder = len(path.parts) > 1 and other == path.parts[0]
    # These are words that everybody uses, on floor 0 too.
    common = other in ('command', 'errors', 'files', 'memory', 'tree', 'image') and own != other
    assert same_folder or common or FLOOR[other] < FLOOR[own], f'{path} (floor {FLOOR[own]}) imports {other}'


@pytest.mark.parametrize('path', FILES, ids=str)
def test_no_heavy_framework_is_imported(path):
  assert not {module.split('.')[0] for module in imports_of(path)} & {'torch', 'tensorflow', 'torchvision'}


def test_what_is_imported_is_installed_by_the_test_command():
  """Of `pip install -e '.[test]'`: a check that needs more asks for it within the test, and is skipped without it."""
  root = PACKAGE.parent
  setup = configparser.ConfigParser()
  setup.read(root / 'setup.cfg')
  lines = (setup['options']['install_requires'] + setup['options.extras_require']['test']).splitlines()
  declared = {re.split(r'[>=<\[]', line)[0].lower().replace('_', '-') for line in lines if line and line[0] != '#'}
  providers = importlib.metadata.packages_distributions()
  own = {'adaptsr_jax', 'benchmarks', 'configs', 'tests'}
  for folder in own:
    for path in (root / folder).rglob('*.py'):
      if path.name == 'pytorch_steps.py':  # run by an interpreter of another environment
        continue
      modules = {module.split('.')[0] for module in imports_of(path)} - own - set(sys.stdlib_module_names)
      for module in modules:
        names = {name.lower().replace('_', '-') for name in providers.get(module, [module])}
        assert names & declared, f'{path} imports {module}, which setup.cfg does not name'

"""The command blocks of README and docs are run, in order and as printed, on tiny networks and few pixels.

What a block names (BASE.pth, LR, HR, runs/camera, ...) lies in a folder that is made once and copied for each page.
"""

import importlib
import importlib.util
import itertools
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from adaptsr_jax import adapt, base, bicubic, command, image, stability
from adaptsr_jax.__main__ import COMMANDS
from adaptsr_jax.adapters import __main__ as adapters
from adaptsr_jax.convert import __main__ as convert
from adaptsr_jax.zoo import metric_weights
from configs import tiny
from tests.pictures import scene

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
COMMAND = re.compile(r'(?:[A-Z_]+=\S+ )?(?:python -m |adaptsr |--config|ls )')

# Lines that are not run here -> why.
NOT_RUN = {
  r'python -m pip install': 'it changes the environment; .ci/run runs those of the README in a fresh one',
  r'configs/quickstart\.py': 'its photographs take a minute; tests/test_quickstart.py starts it',
  r'python -m pytest': 'these are the tests; .ci/run runs the lines as they stand',
  r'\.\.\. --config\.data\.train\.tfds=': 'it needs a prepared data set; tests/test_tfds.py prepares one',
  r'python -m experiments\.': 'it takes hours; tests/test_docs.py checks that it can be called',
  r'python -m benchmarks\.': 'it takes minutes; tests/test_docs.py checks that it can be called',
  r'--coordinator=|^for |^done;': 'it takes several processes; tests/test_processes.py starts some',
  r'--sweep=': 'it is several runs; tests/test_sweep.py makes one',
  r'phone|scan_|=degraded|runs/(gray|video)': 'it takes minutes; docs/cookbook.md has what came out of every line',
  r'--watch ': 'it waits for ever; tests/test_video.py runs it',
}
# What they need beside the package.
NEEDS = {
  r'\.onnx': lambda: importlib.util.find_spec('onnx') is not None,
  r'\.(mp4|mov) ': lambda: shutil.which('ffmpeg') is not None,
}
# A run is over after two steps; its camera has one canvas, which is quick to compile; features need no weights.
SHORT = (
  *('--config.steps=2', '--config.batch_size=1', '--config.patch=32', '--config.score.batches=1'),
  *('--config.tensorboard=False', '--config.loss.lpips=0.0', '--config.metrics=()', '--config.best=psnr'),
  *('--config.gan.warmup=0', '--config.optim.warmup=0', '--config.strengths=()', '--config.lora.rank=1'),
)
ONE_CANVAS = ('resize1_prob=(0., 1., 0.)', 'resize1_range=(0.5, 1.)')


def blocks(page: Path) -> list[list[str]]:
  """Returns the blocks of a page that hold commands, each as its lines, continued ones in one."""
  text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.MULTILINE | re.DOTALL)
  found = re.findall(r'(?:^ {4,}\S.*\n)+', text, re.MULTILINE)
  lines = [[' '.join(line.split()) for line in block.replace('\\\n', ' ').splitlines()] for block in found]
  return [block for block in lines if any(map(COMMAND.match, block))]


def commands(page: Path) -> list[str]:
  """Returns all commands in order; fields that stand alone are those of one run."""
  made = []
  for block in blocks(page):
    for fields, lines in itertools.groupby(block, lambda line: line.startswith('--config')):
      if fields:
        made.append(f'python -m adaptsr_jax.main --config=configs/safmn.py {" ".join(lines)} ... --workdir=runs/fields')
      else:
        made += [part for line in lines for part in line.split(' && ')]
  return made


@pytest.fixture(scope='module')
def world(tmp_path_factory):
  """A folder with all that the pages name."""
  root = tmp_path_factory.mktemp('world')
  hr = [scene(i, 64, 64) for i in range(3)]
  lr = [np.clip(bicubic.imresize(x, 1 / 4), 0, 1) for x in hr]

  def put(folder: str, pictures, name: str = 'p{}.png') -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(pictures):
      image.write(root / folder / name.format(i), picture)

  for folder in ('', 'camera'):
    put(f'{folder}/HR'.lstrip('/'), hr)
    put(f'{folder}/LR'.lstrip('/'), lr)
  for folder in ('PHOTOS', 'IN'):
    put(folder, lr[:2])
  put('drealsr_x4/HR', hr)
  put('drealsr_x4/LR', lr)
  (root / 'validation.txt').write_text('p0\n')
  put('outputs/stablesr', hr)
  put('photos', [scene(i, 64, 64) for i in range(5)])
  image.write(root / 'photo.png', hr[0])
  image.write(root / 'PHOTO.jpg', lr[0])
  for part, number in (('train', '000{}'), ('valid', '080{}')):
    put(f'data/DIV2K/DIV2K_{part}_HR', hr, f'{number}.png')
    put(f'data/DIV2K/DIV2K_{part}_LR_unknown/X4', lr, f'{number}x4.png')
  for folder in ('RealSR(V3)', 'RealSR (V3)'):
    for part in ('Train', 'Test'):
      put(f'data/{folder}/Canon/{part}/4', hr, 'Canon_00{}_HR.png')
      put(f'data/{folder}/Canon/{part}/4', lr, 'Canon_00{}_LR4.png')

  network = base.random('safmn_x4', 0, {'dim': 8, 'n_blocks': 1})
  for name in ('bundled.safetensors', 'BASE.pth', 'base.pth', 'safmn_ntire2023_x4.pth'):
    base.export(root / name, network, network.params)
  window = {'embed_dim': 12, 'depths': (2,), 'num_heads': (2,), 'window_size': 4, 'num_feat': 8}
  network = base.random('swinir_classical_x4', 0, window)
  base.export(root / '001_classicalSR_DF2K_s64w8_SwinIR-M_x4.pth', network, network.params)
  c = tiny.get_config()
  c.update_from_flattened_dict({'base': str(root / 'BASE.pth'), 'fields': '', 'steps': 2, 'strengths': ()})
  c.lora.form, c.lora.rank = 'kxk_1x1', 1  # the form that goes to PEFT
  for part in (c.data.train, c.data.valid):
    part.lr, part.hr = str(root / 'camera' / 'LR'), str(root / 'camera' / 'HR')
  adapt.run(c, root / 'runs' / 'camera')
  shutil.copytree(root / 'runs' / 'camera', root / 'runs' / 'camera_full')
  (root / 'CAMERAS').mkdir()
  for name in ('night', 'day', 'faithful', 'sharp', 'camera', 'canon', 'CAMERAS/a'):
    shutil.copy(root / 'runs' / 'camera' / 'adapter.safetensors', root / f'{name}.safetensors')
  shutil.copy(root / 'runs' / 'camera' / 'merged.pth', root / 'FINETUNED.pth')
  assert adapters.main(['tag', str(root / 'CAMERAS' / 'a.safetensors'), '--make=Canon']) == 0
  (root / 'WEIGHTS').mkdir()
  if shutil.which('ffmpeg'):
    make = 'ffmpeg -loglevel error -f lavfi -i testsrc=size=24x16:rate=4:duration=1 -pix_fmt yuv420p'
    for name in ('clip.mp4', 'clip.mov'):
      subprocess.run([*make.split(), str(root / name)], check=True)
  return root


def run(line: str) -> int:
  """Runs one command in the working folder; returns its exit code."""
  line = line.replace('/data/', 'data/').replace('hr=/photos', 'hr=PHOTOS')
  # These are tiny.
  line = line.replace('bundled:safmn_x4', 'bundled.safetensors')
  line = line.replace('bundled:swinir_x4', '001_classicalSR_DF2K_s64w8_SwinIR-M_x4.pth')
  if not line.startswith(('python', 'adaptsr')):
    return subprocess.run(['bash', '-c', line]).returncode
  words = [
    word for part in shlex.split(line, comments=True) for word in (sorted(map(str, Path().glob(part))) or [part])
  ]
  module, words = (
    (f'adaptsr_jax.{COMMANDS[words[1]][0]}', words[2:]) if words[0] == 'adaptsr' else (words[2], words[3:])
  )
  if module == 'adaptsr_jax.main':
    return run_main(words)
  if module == 'adaptsr_jax.degrade':
    clear(words, '--out')
    words += ['--set', *ONE_CANVAS] * ('--preset=bicubic' not in words)
  if module == 'adaptsr_jax.doctor':
    clear(words, '--fix')
  package = importlib.util.find_spec(module).submodule_search_locations
  code = importlib.import_module(f'{module}.__main__' if package else module).main(words)
  return 0 if module == 'adaptsr_jax.doctor' and code == 1 else code  # 1: it has found something


def run_main(words: list[str]) -> int:
  """Runs a shortened run; dots stand for the base and the pictures."""
  workdir = next(word.partition('=')[2] for word in words if word.startswith('--workdir='))
  fields = [word for word in words if word.startswith('--config.')]
  if '...' in words:
    given = ' '.join(fields)
    fields += ['--config.base=BASE.pth'] * ('config.base=' not in given)
    fields += ['--config.data.train.lr=LR', '--config.data.train.hr=HR'] * ('config.data.train.' not in given)
  if 'degrade=realesrgan' in ' '.join(fields):
    fields += [f'--config.data.degrade.{option}' for option in ONE_CANVAS]
  config_file = next(word.partition('=')[2] for word in words if word.startswith('--config='))
  sys.argv[1:] = [*fields, *SHORT]
  made = stability._read_config(str(ROOT / config_file if '/' in config_file else config_file), sys.argv[1:])
  shutil.rmtree(workdir, ignore_errors=True)
  return command.ended(lambda: adapt.run(made, workdir) and None)


def clear(words: list[str], flag: str) -> None:
  """Deletes the folder that `flag` names: the commands of a block are alternatives."""
  for word in words:
    if word.startswith(f'{flag}='):
      shutil.rmtree(word.partition('=')[2], ignore_errors=True)


@pytest.mark.parametrize('page', [page for page in PAGES if commands(page)], ids=lambda page: page.stem)
def test_commands_do_what_the_page_says(page, world, tmp_path, monkeypatch, capsys):
  here = tmp_path / 'here'
  shutil.copytree(world, here)
  if page.stem == 'convert':
    shutil.rmtree(here / 'IN')
    shutil.copy(here / 'BASE.pth', here / 'IN')
  monkeypatch.chdir(here)
  monkeypatch.setattr(sys, 'argv', ['command'])
  monkeypatch.setenv('ADAPTSR_JAX_CACHE', str(tmp_path / 'cache'))

  def unavailable(name: str, folder: str = ''):
    raise metric_weights.Unavailable('there is no network here')

  monkeypatch.setattr(metric_weights, 'load', unavailable)
  names = {}
  for block in re.findall(r'```python\n(.*?)```', page.read_text() if page.stem == 'cookbook' else '', re.DOTALL):
    exec(compile(block, page.name, 'exec'), names)
  for line in commands(page):
    lacks = [pattern for pattern, there in NEEDS.items() if re.search(pattern, line) and not there()]
    if lacks or any(re.search(pattern, line) for pattern in NOT_RUN):
      continue
    assert run(line) in (0, None), f'{line}\n{capsys.readouterr().err}'


def test_what_is_not_run_is_there():
  text = '\n'.join(line for page in PAGES for line in commands(page))
  assert [pattern for pattern in NOT_RUN if not re.search(pattern, text)] == []


def test_the_table_of_a_run_names_all_its_files(world):
  text = (ROOT / 'README.md').read_text()
  left = [path.name for path in (world / 'runs' / 'camera').iterdir() if not path.name.startswith('.')]
  assert 'results.json' in left
  assert [name for name in left if f'`{name}`' not in text and f'`{name}/`' not in text] == []


def test_flags_of_convert_are_on_its_page():
  text = (ROOT / 'docs' / 'convert.md').read_text()
  flags = {flag for action in convert._parser()._actions for flag in action.option_strings} - {'-h', '--help'}
  assert [flag for flag in flags if flag not in text] == []

"""What an installation gives: the command `adaptsr`, configs by name from any folder, a wheel that has it all."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from adaptsr_jax import __main__ as commands
from adaptsr_jax import config, main, stability
from adaptsr_jax.errors import UserError
from tests.test_floors import FILES, PACKAGE

ROOT = PACKAGE.parent
SCREEN = {'COLUMNS': '100', 'LINES': '40'}


def adaptsr(*words, **options):
  call = [sys.executable, '-m', 'adaptsr_jax', *words]
  return subprocess.run(call, capture_output=True, text=True, env={**os.environ, **SCREEN}, **options)


def test_every_program_is_a_command():
  starts = [path for path in FILES if '\n  command.start(' in (PACKAGE / path).read_text()]
  programs = {path.parent.name if path.stem == '__main__' else path.stem for path in starts}
  assert {module for module, _ in commands.COMMANDS.values()} == programs


def test_commands_are_listed_and_misspelt_ones_are_told():
  listed = adaptsr()
  assert listed.returncode == 0
  assert all(f'  {name} ' in listed.stdout for name in commands.COMMANDS)
  assert adaptsr('--words').stdout.split() == list(commands.COMMANDS)
  wrong = adaptsr('upscal')
  assert (wrong.returncode, wrong.stderr) == (2, "Error: There is no command 'upscal'; did you mean upscale?\n")


def test_nobody_has_to_read_the_list_to_its_end():
  call = f'{sys.executable} -m adaptsr_jax | true; exit ${{PIPESTATUS[0]}}'
  done = subprocess.run(['bash', '-c', call], capture_output=True, text=True)
  assert (done.returncode, done.stderr) == (0, '')


def test_one_config_goes_on_from_several(capsys, monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['command'])
  for base in ('swinir', 'drct', 'edsr'):
    first, second = (stability._read_config(name, []) for name in (base, f'real_esrgan:{base}'))
    assert (second.sites, second.lora) == (first.sites, first.lora)
    assert second.gan.discriminator == 'unet'
  with pytest.raises(SystemExit):
    main.parse(['main', '--config=real_esrgan:safmn'])
  assert capsys.readouterr().err.startswith('Error: The config real_esrgan is for swinir, drct and edsr (--config=')


@pytest.mark.parametrize('name', commands.COMMANDS)
def test_help_fits_a_screen_and_is_that_of_the_module(name):
  told = adaptsr(name, '--help').stdout
  assert 0 < len(told.splitlines()) <= int(SCREEN['LINES'])
  assert f'adaptsr_jax.{commands.COMMANDS[name][0]}' in told


def test_a_command_works_and_fails_as_its_module_does(tmp_path):
  path = tmp_path / 'nothing.safetensors'
  done = adaptsr('adapters', 'inspect', str(path))
  assert (done.returncode, done.stderr) == (
    2,
    f'Error: {path} is not a file; give the .safetensors file of an adapter.\n',
  )


def test_configs_are_found_by_name_from_any_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for given in ('safmn', 'safmn.py', 'configs/safmn.py'):
    assert Path(config.find(given)).samefile(ROOT / 'configs' / 'safmn.py')
  assert config.find('safmn:x2') == f'{config.find("safmn")}:x2'  # what follows the colon is for its get_config()
  mine = tmp_path / 'safmn.py'
  mine.write_text('def get_config(): ...')
  assert config.find('safmn.py') == 'safmn.py'  # a file goes before what comes with the package
  for given in ('safmm', 'mine/safmn.py'):
    with pytest.raises(UserError, match='those that come with the package: drct, edsr, quick, '):
      config.find(given)


def test_both_ways_to_write_the_flag(capsys):
  for words in (['--config=tiny'], ['--config', 'tiny']):
    argv = main._with_file(['main', *words, '--config.steps=3'])
    assert str(ROOT / 'configs' / 'tiny.py') in ' '.join(argv)
    assert argv[-1] == '--config.steps=3'
  with pytest.raises(SystemExit):
    main.parse(['main', '--config=tinny'])
  assert capsys.readouterr().err.startswith('Error: There is no config tinny; give a file, or a name')


def test_what_is_built_has_configs_and_weights_and_works_outside_the_clone(tmp_path):
  # Not imported: setuptools refuses to be once another test has imported distutils.
  if not importlib.util.find_spec('setuptools'):
    pytest.skip('setuptools is not installed: python -m pip install setuptools')
  call = [sys.executable, 'setup.py', '--quiet', 'build', '--build-base', tmp_path / 'base', '--build-lib']
  subprocess.run([*call, tmp_path / 'lib'], cwd=ROOT, check=True, capture_output=True)
  built = tmp_path / 'lib' / 'adaptsr_jax'
  for folder, inside in (('adaptsr_jax', ''), ('configs', 'configs')):
    files = {
      path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob('*.*') if '__pycache__' not in path.parts
    }
    assert files <= {path.relative_to(built / inside) for path in (built / inside).rglob('*.*')}
  run = 'from adaptsr_jax import config, zoo\nprint(config.find("swinir"), zoo.bundled("safmn_x4"))'
  done = subprocess.run(
    [sys.executable, '-c', run], cwd=tmp_path, env={**os.environ, 'PYTHONPATH': str(built.parent)}, capture_output=True
  )
  found = done.stdout.decode().split()
  assert found == [str(built / 'configs' / 'swinir.py'), str(built / 'assets' / 'safmn_x4.safetensors')], done.stderr

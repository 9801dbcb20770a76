"""`python -m adaptsr_jax.degrade` on generated pictures."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from adaptsr_jax import data, degrade, image
from tests.pictures import scene

# One canvas for all draws: quick to compile.
QUICK = ['--set', 'resize1_prob=(0, 1, 0)', 'resize1_range=(0.5, 1)']


@pytest.fixture(scope='module')
def hr(tmp_path_factory):
  folder = tmp_path_factory.mktemp('HR')
  for i, (h, w) in enumerate([(32, 40), (33, 42)]):
    image.write(folder / f'p{i}.png', scene(i, h, w))
  return folder


def test_pictures_are_written_and_the_same_again(hr, tmp_path, capsys):
  assert degrade.main([f'--hr={hr}', f'--out={tmp_path / "a"}', *QUICK]) == 0
  said = capsys.readouterr().out
  assert '[1/2] p0.png 40x32 -> 10x8' in said
  assert '[2/2] p1.png 42x33 (HR cut to 40x32) -> 10x8' in said
  assert sorted(p.name for p in (tmp_path / 'a').iterdir()) == ['p0.png', 'p1.png']

  # A picture alone is the same picture; another seed is another.
  alone = tmp_path / 'one'
  alone.mkdir()
  image.write(alone / 'p1.png', image.read_array(hr / 'p1.png'))
  assert degrade.main([f'--hr={alone}', f'--out={tmp_path / "b"}', *QUICK]) == 0
  lr = image.read_array(tmp_path / 'a' / 'p1.png')
  np.testing.assert_array_equal(image.read_array(tmp_path / 'b' / 'p1.png'), lr)
  again = [f'--hr={alone}', f'--out={tmp_path / "b"}', '--seed=1', *QUICK]
  assert degrade.main(again) == 2
  assert 'p1.png is there already (1 of 1): give --force' in capsys.readouterr().err
  assert degrade.main([*again, '--force']) == 0
  assert (image.read_array(tmp_path / 'b' / 'p1.png') != lr).any()


def test_bicubic_is_that_of_the_house(hr, tmp_path):
  assert degrade.main([f'--hr={hr}', f'--out={tmp_path / "lr"}', '--preset=bicubic', '--scale=2']) == 0
  source = data.open_source(SimpleNamespace(lr='', hr=str(hr), names=''), 2)
  for name, expected, _ in data.pairs(source):
    lr = image.read_array(tmp_path / 'lr' / f'{name}.png')
    assert np.mean(lr != image.to_uint8(expected)) < 1e-3


@pytest.mark.parametrize('preset', ['bicubic', 'stablesr'])
def test_16_bit_stays_16_bit(tmp_path, preset):
  deep = image.to_levels(0.01 + 0.9 * scene(3, 32, 40), np.dtype(np.uint16))
  (tmp_path / 'hr').mkdir()
  image.write(tmp_path / 'hr' / 'p0.png', deep)
  given = [f'--hr={tmp_path / "hr"}', f'--out={tmp_path}', f'--preset={preset}', '--scale=2']
  assert degrade.main([*given, *QUICK]) == 0
  lr = image.read_array(tmp_path / 'p0.png')
  assert lr.dtype == np.uint16
  if preset == 'bicubic':
    np.testing.assert_array_equal(lr, data.sources.shrink(deep, 2))


def test_sheet(hr, tmp_path):
  sheet = tmp_path / 'sheet.png'
  assert degrade.main([f'--sheet={sheet}', f'--picture={hr / "p0.png"}', '--draws=7', *QUICK]) == 0
  height, width = image.size(sheet)
  assert width > 6 * 200
  assert height > 2 * 200
  assert [p.name for p in tmp_path.iterdir()] == ['sheet.png']


def test_sides_share_canvases():
  canvases = {side: degrade._canvas(side, 4) for side in range(4, 4096, 4)}
  assert all(0 <= canvas - side <= side / 8 and canvas % 4 == 0 for side, canvas in canvases.items())
  assert len(set(canvases.values())) < 80


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ([], 'Give either'),
    (['--hr=HR'], 'Give either'),
    (['--hr=HR', '--out=HR', '--sheet=s.png', '--picture=p'], 'Give either'),
    (['--hr=HR', '--out=HR'], 'is the folder of the HR pictures'),
    (['--hr=EMPTY', '--out=LR'], 'contains no pictures'),
    (['--hr=NOWHERE', '--out=LR'], 'NOWHERE cannot be listed'),
    (['--hr=HR', '--out=LR', '--scale=0'], '--scale is 0'),
    (['--hr=HR', '--out=LR', '--scale=64'], 'too small'),
    (['--hr=HR', '--out=LR', '--seed=-1'], '--seed is -1'),
    (['--hr=HR', '--out=LR', '--preset=camera'], "no degradation 'camera'"),
    (['--hr=HR', '--out=LR', '--set', 'blur1_sigma'], 'has no value'),
    (['--hr=HR', '--out=LR', '--set', 'blur1_sigma=much'], 'blur1_sigma'),
    (['--sheet=LR.png', '--picture=HR/p0.png', '--draws=0'], '--draws is 0'),
    (['--sheet=LR.png', '--picture=HR/p0.png', '--draws=99999999999999999999'], 'it must be from 1 to 600'),
    (['--sheet=LR.png', '--picture=HR/none.png'], 'none.png'),
  ],
)
def test_faults(hr, tmp_path, capsys, changes, words):
  (tmp_path / 'EMPTY').mkdir()
  places = {'HR': str(hr), 'LR': str(tmp_path / 'LR'), 'EMPTY': str(tmp_path / 'EMPTY')}
  argv = []
  for change in changes:
    name, equals, value = change.partition('=')
    first, *rest = value.split('/')
    base, dot, suffix = first.partition('.')
    argv.append(name + equals + '/'.join([places.get(base, base) + dot + suffix, *rest]))
  assert degrade.main(argv) == 2
  error = capsys.readouterr().err
  assert error.startswith('Error: ')
  assert words in error


def test_two_pictures_of_one_name_are_refused(hr, tmp_path, capsys):
  for name in ('a.png', 'a.webp'):
    image.write(tmp_path / name, scene(0, 8, 8))
  assert degrade.main([f'--hr={tmp_path}', f'--out={tmp_path / "LR"}']) == 2
  assert 'would both become a.png' in capsys.readouterr().err


def test_help_is_quick_to_import():
  code = "import sys; import adaptsr_jax.degrade; sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
  assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0

"""A few hundred trials of the loop that damages files at random (`python -m tests.fuzz`)."""

import os
import zipfile

import pytest

from adaptsr_jax import config, convert, degrade
from adaptsr_jax.doctor import __main__ as doctor
from adaptsr_jax.errors import UserError
from adaptsr_jax.evaluate import __main__ as evaluate
from configs import tiny
from tests.fuzz import configs, rule
from tests.fuzz.__main__ import run
from tests.fuzz.weights import CASES
from tests.pictures import write_pairs

TRIALS = {'weights': 200, 'params': 80, 'adapters': 90, 'pictures': 70, 'configs': 54, 'runs': 6}


@pytest.mark.parametrize('kind', TRIALS)
def test_the_rule_holds_for_files_made_at_random(tmp_path, kind):
  outcomes, failures = run(kind, TRIALS[kind], tmp_path, seed=7)
  assert not failures
  assert sum(outcomes.values()) == TRIALS[kind]
  # What is damaged is refused, and what is not is read.
  assert len({outcome.rpartition(', ')[2] for outcome in outcomes}) > 1


# What the loop has found, one test for each kind beside those of the modules.


def test_flipped_bytes_of_a_zip_file_are_noticed_and_no_checksum_is_none(tmp_path):
  good = (CASES / 'nested.pth').read_bytes()
  with zipfile.ZipFile(CASES / 'nested.pth') as archive:
    entry = max(archive.infolist(), key=lambda info: info.file_size)
  content = bytearray(good)
  content[good.index(b'data/', entry.header_offset) + 400] ^= 1
  (tmp_path / 'flipped.pth').write_bytes(content)
  with pytest.raises(UserError, match='does not have its checksum'):
    convert.read(tmp_path / 'flipped.pth')
  unchecked = bytes(content).replace(entry.CRC.to_bytes(4, 'little'), bytes(4))
  (tmp_path / 'unchecked.pth').write_bytes(unchecked)
  assert convert.read(tmp_path / 'unchecked.pth')


@pytest.mark.parametrize(
  ('text', 'said'),
  [
    ('def get_config():\n  return 1 / 0', 'given.py, line 2: ZeroDivisionError: division by zero'),
    ('def get_config():\n  return 3', 'gives no ConfigDict'),
    ('from configs import tiny\ndef get_config():\n  c = tiny.get_config()\n  c.steps = "x"\n  return c', 'line 4: '),
  ],
)
def test_what_goes_wrong_in_a_config_is_told_with_its_line(tmp_path, text, said):
  (tmp_path / 'given.py').write_text(text)
  told = rule.run(lambda: configs._call(['main', f'--config={tmp_path / "given.py"}', f'--workdir={tmp_path}'], False))
  assert told.code == 2
  assert said in told.err


def test_values_of_another_type_are_refused():
  c = tiny.get_config()
  c.data.train.hr, c.optim.b1 = 'HR', None
  with pytest.raises(UserError, match=r'config\.optim\.b1 is None; it must be a number'):
    config.validate(c)


NAMES = [os.fsdecode(name) for name in (b'\xff', b'a\nforged', b'a\x1b[2J', b'$a^$', b'|a|')]


@pytest.mark.parametrize('name', NAMES, ids=ascii)
def test_odd_names_of_pictures_pass_through_every_command(tmp_path, name):
  lr, hr = write_pairs(tmp_path / 'pictures', 2, size=32)
  for folder in (lr, hr):
    (folder / 'p01.png').rename(folder / f'{name}.png')
  out, pairs = tmp_path / 'out', [f'--lr={lr}', f'--hr={hr}']
  assert rule.run(doctor.main, [*pairs, f'--out={out}', f'--fix={tmp_path / "mended"}'], (1,)).code == 1
  assert (out / 'worst.png').exists()
  assert rule.run(degrade.main, [f'--hr={hr}', f'--out={tmp_path / "made"}', '--preset=bicubic', '--scale=2']).code == 0
  table = tmp_path / 'x.md'
  words = ['--params=bicubic', f'--params={name}=bicubic_pil', *pairs, '--scale=2', f'--out={table}']
  assert rule.run(evaluate.main, words).code == 0
  rows = [line for line in table.read_text().splitlines() if line.startswith('|')]
  assert len({line.replace('\\|', '').count('|') for line in rows}) <= 2  # of the two tables
  (lr / f'{name}.png').write_bytes(b'x')
  assert name.isprintable() or name not in rule.run(evaluate.main, [*pairs, '--params=bicubic', '--scale=2']).err


def test_sentences_have_an_end():
  assert len(str(UserError('x' * 10**6))) < rule.LONGEST

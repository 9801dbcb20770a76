"""Batches shared by four devices: the numbers of one, one sum of gradients and nothing else between them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.four_devices import CEILING, PLAYERS
from tests.pictures import write_pairs

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def found(tmp_path_factory):
  folder = tmp_path_factory.mktemp('devices')
  call = [sys.executable, '-m', 'tests.four_devices', *map(str, write_pairs(folder, 4)), str(folder / 'runs')]
  env = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': '4'}
  done = subprocess.run(call, cwd=ROOT, env=env, capture_output=True, text=True)
  assert not done.returncode, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize('what', ['plain', *PLAYERS])
def test_any_number_of_devices_gives_the_same_numbers(found, what):
  steps = found['steps'][what]
  for expected, row in zip(*steps['logged'], strict=True):
    assert row.keys() == expected.keys()
    # What is told of the players' judgement passes zero.
    names = [name for name in row if name not in ('gan/real', 'gan/fake')]
    np.testing.assert_allclose([row[name] for name in names], [expected[name] for name in names], rtol=1e-6)
    assert 'gan/strength' not in row or row['gan/strength'] > CEILING
  assert steps['alike']
  assert len(steps['vectors']) == (4 if what in PLAYERS else 0)
  assert max(steps['vectors'], default=0) < 1e-6


@pytest.mark.parametrize('what', ['plain', 'swinir', 'two players'])
def test_devices_exchange_nothing_but_the_sum_of_gradients(found, what):
  sums, others, whole = found['swinir'] if what == 'swinir' else found['steps'][what]['exchanged']
  ((size,),) = sums
  assert size > 100
  assert not others
  assert whole


def test_what_is_no_mean_over_pictures_takes_a_few_numbers_more(found):
  sums, others, whole = found['steps']['relative players']['exchanged']
  *few, (size,) = sorted(sums, key=max)
  assert size > 100
  # Means of logits, and the gradients through them, of both players; the strength that is held to the ceiling.
  assert sorted(sum(few, [])) == [1, 2, 2, 2, 2]
  assert not others
  assert whole


def test_devices_simulate_cameras_for_their_own_crops(found):
  assert found['camera'] == {'lr': True, 'hr': True}
  assert found['camera devices'] == 4


def test_a_run_goes_on_with_another_number_of_devices(found):
  runs = found['runs']
  assert [runs[name]['devices'] for name in ('one', 'four')] == [1, 2]
  np.testing.assert_allclose(runs['four']['losses'], runs['one']['losses'], rtol=1e-6)


def test_the_short_run_that_decides_on_ranks_is_shared_too(found):
  runs = found['runs']
  assert {name: run['sharing'] for name, run in runs.items()} == {'begun': [4, 4], 'one': [1, 1], 'four': [2]}
  assert len(runs['one']['short']) == 1
  np.testing.assert_allclose(runs['begun']['short'], runs['one']['short'], rtol=1e-6)
  assert runs['begun']['ranks'] == runs['one']['ranks']


def test_a_config_makes_as_many_devices_of_a_cpu(tmp_path):
  lr, hr = write_pairs(tmp_path / 'pictures', 2)
  flags = ['--config=configs/tiny.py', '--config.devices=2', '--config.steps=1', '--config.patch=16']
  flags += [
    f'--config.data.{part}.{kind}={path}' for part in ('train', 'valid') for kind, path in (('lr', lr), ('hr', hr))
  ]
  call = [sys.executable, '-m', 'adaptsr_jax.main', *flags, f'--workdir={tmp_path / "run"}']
  env = {name: value for name, value in os.environ.items() if name != 'JAX_NUM_CPU_DEVICES'}
  done = subprocess.run(call, cwd=ROOT, env={**env, 'JAX_PLATFORMS': 'cpu'}, capture_output=True, text=True)
  assert not done.returncode, done.stderr
  assert 'Each batch of 2 is shared by 2 devices.' in done.stdout


def test_devices_take_turns_with_tiles_and_pictures(found):
  same, number = found['inference']
  assert same
  assert number == 4


def test_what_cannot_be_shared_is_one_sentence(found):
  assert found['refused'] == [
    'config.devices is 5, and of this host there are 4 (cpu).',
    'config.batch_size is 8, which 3 devices cannot share: give a multiple of 3, or another config.devices.',
  ]
  assert found['chosen']  # one CPU where nothing is asked for

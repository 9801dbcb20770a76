"""The rate by probes: what they find, what they leave alone, and runs at the rate that was found."""

import json
import math
import subprocess
import sys
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from adaptsr_jax import adapt, config
from adaptsr_jax.adapt import optim, rate, step, train
from adaptsr_jax.errors import UserError
from tests import pictures
from tests.pictures import write_pairs

AUTO = {'optim.lr': 0.0, 'optim.preset': 'auto', 'steps': 200, 'save_every': 20, 'strengths': ()}


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  return write_pairs(tmp_path_factory.mktemp('pictures'), 4)


@pytest.fixture(scope='module')
def whole(folders, tmp_path_factory):
  """A run that was never stopped: (folder, results)."""
  workdir = tmp_path_factory.mktemp('runs') / 'whole'
  return workdir, adapt.run(pictures.settings(folders, **AUTO), workdir)


def probed(monkeypatch, c, explodes):
  """Returns what is found of a training whose loss is `explodes` (number of the probe, rate) times the usual.

  Its steps write over the state they are given.
  """
  numbers = iter(range(10**6))
  monkeypatch.setattr(rate.prepare, 'batches', lambda *_: ({'number': next(numbers)} for _ in iter(int, 1)))
  schedule = lambda step: float(optim.schedule(c)(step // c.optim.accumulate))  # noqa: E731

  def made(state, batch, rates):
    assert state['weight'] == 1 + state['step']
    real = float(rates['peak']) * schedule(state['step']) / optim.set_rate(c)
    usual = 1 + batch['number'] % 8 / 10
    state['weight'] += 1
    state['step'] += 1
    return state, {'loss': jnp.float32(usual * explodes(batch['number'] // 8, real))}

  state = {'weight': np.ones(()), 'step': np.zeros((), int)}
  training = step.Training(made, state, lambda s: s, lambda taken: {'lr': schedule(taken)}, lambda s: s)
  found = rate.find(c, SimpleNamespace(train=None), training)
  assert state == {'weight': 1, 'step': 0}
  return found


@pytest.mark.parametrize(
  ('schedule', 'warmup', 'accumulate', 'apart'),
  [('steps', 0, 1, 5.0), ('steps', 0, 1, math.nan), ('cosine', 0, 1, 5.0), ('wsd', 5, 1, 5.0), ('steps', 0, 3, 5.0)],
)
def test_a_tenth_of_the_median_rate_at_which_losses_are_four_times_the_usual(
  monkeypatch, schedule, warmup, accumulate, apart
):
  c = config.default()
  c.steps, c.optim.schedule, c.optim.warmup, c.optim.accumulate = 900, schedule, warmup, accumulate
  ends = [0.01, 0.3, 0.02]
  found = probed(monkeypatch, c, lambda probe, real: apart if real > ends[probe] else 3.9 if real > 1e-4 else 1)
  for end, truth in zip(found['fell_apart_at'], ends, strict=True):
    assert truth < end <= 1.101 * truth
  assert found['rate'] == pytest.approx(found['fell_apart_at'][2] / 10)
  updates = [math.ceil(math.log(end / 2e-3) / math.log(1.1)) for end in ends]
  assert found['steps'] == accumulate * sum(updates) + 3 * (8 + 1)


def test_probes_that_never_fall_apart(monkeypatch, capsys):
  """One of three is told, and counts as the largest; two of them leave no rate."""
  c = config.default()
  c.steps = 300
  found = probed(monkeypatch, c, lambda probe, real: 5.0 if probe < 2 and real > 0.01 * (1 + probe) else 1)
  assert found['fell_apart_at'][2] is None
  assert found['rate'] == pytest.approx(found['fell_apart_at'][1] / 10)
  assert 'at 0.01, 0.022, no rate in 3 probes' in capsys.readouterr().out
  with pytest.raises(UserError, match='no rate at which training falls apart, up to 28: give config.optim.lr'):
    probed(monkeypatch, c, lambda probe, real: 5.0 if probe < 1 and real > 0.01 else 1)
  with pytest.raises(UserError, match='loss of the base on training pairs is not a number'):
    probed(monkeypatch, c, lambda probe, real: math.nan)


def test_a_run_at_the_rate_that_was_found(folders, whole, tmp_path):
  """It is what a run that is given this rate is."""
  workdir, results = whole
  found = json.loads((workdir / 'rate.json').read_text())
  assert found['rate'] == results['rate']['rate'] == pytest.approx(sorted(found['fell_apart_at'])[1] / 10)
  assert results['seconds'] > results['rate']['seconds'] > 0
  logged = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  assert next(row['lr'] for row in logged if 'lr' in row) == pytest.approx(found['rate'], rel=1e-6)
  given = adapt.run(pictures.settings(folders, **AUTO | {'optim.lr': found['rate']}), tmp_path / 'given')
  assert given['adapted'] == results['adapted']
  assert 'rate' not in given


def test_a_run_that_was_stopped_goes_on_at_its_rate(folders, whole, tmp_path, monkeypatch, capsys):
  """Without looking again, and to the same end; what is damaged is found again, and is the same."""
  asked = pictures.settings(folders, **AUTO)
  tick, count = train.Clock.tick, []

  def stopped(self):
    count.append(1)
    tick(self)
    if len(count) == 50:
      raise train.Interrupted('stopped')

  with monkeypatch.context() as patch:
    patch.setattr(train.Clock, 'tick', stopped)
    with pytest.raises(train.Interrupted):
      adapt.run(asked, tmp_path / 'run')
  with monkeypatch.context() as patch:
    patch.setattr(rate, 'find', lambda *_: pytest.fail('it was found already'))
    again = adapt.run(asked, tmp_path / 'run')
  assert again['adapted'] == whole[1]['adapted']
  file = tmp_path / 'run/rate.json'
  kept = file.read_text()
  file.write_text(kept.replace('0.0', '0.1', 1))
  (tmp_path / 'run/results.json').unlink()
  assert adapt.run(asked, tmp_path / 'run')['rate']['rate'] == json.loads(kept)['rate']
  assert 'rate.json is damaged' in capsys.readouterr().out


def test_short_for_it_on_the_command_line(folders, tmp_path):
  lr, hr = folders
  pictures = [
    f'--config.data.{part}.{side}={folder}' for part in ('train', 'valid') for side, folder in (('lr', lr), ('hr', hr))
  ]
  flags = ['--config=configs/tiny.py', f'--workdir={tmp_path / "run"}', '--config.optim.lr=auto', *pictures]
  done = subprocess.run([sys.executable, '-m', 'adaptsr_jax.main', *flags], capture_output=True, text=True)
  assert done.returncode == 2
  assert 'looks for a rate in 80 to 200 updates, and the run has 20;' in done.stderr


@pytest.mark.parametrize(
  ('fields', 'sentence'),
  [
    ({'steps': 199}, 'in 80 to 200 updates, and the run has 199; give it 200 or more'),
    ({'optim.accumulate': 2}, 'the run has 100; give it'),
    ({'loss.adversarial': 0.1}, 'of one player, not of two'),
  ],
)
def test_what_probes_cannot_serve_is_refused(folders, tmp_path, fields, sentence):
  with pytest.raises(UserError, match=sentence):
    adapt.run(pictures.settings(folders, **AUTO | fields), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()

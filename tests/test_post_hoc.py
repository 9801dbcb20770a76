"""Ranks by what a short training leads to: what is kept of it, and runs that are stopped on the way."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from adaptsr_jax import adapt, config, lora, methods, tree
from adaptsr_jax.adapt import train
from adaptsr_jax.errors import UserError
from adaptsr_jax.models import build
from tests import pictures
from tests.pictures import write_pairs


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  return write_pairs(tmp_path_factory.mktemp('pictures'), 4)


def settings(folders, **fields):
  return pictures.settings(folders, **{'lora.rule': 'post_hoc', 'strengths': (), **fields})


@pytest.mark.parametrize('form', lora.FORMS)
def test_the_largest_singular_values_are_kept(form):
  """After a training in which one site alone moved, in one direction, that direction is kept exactly."""
  model = build('edsr', num_feat=8, num_block=1, upscale=2)
  sites = lora.find_sites(model)
  c = config.default()
  c.lora.rule, c.lora.rank, c.lora.form = 'post_hoc', 2, form
  moved = next(site for site in sites if site.shape == (3, 3, 8, 8))
  asked = []

  def warmed_up(planned):
    asked.append(planned)
    own, ranks = lora.from_json(planned.spec['sites'])
    trained = lora.init(jax.random.key(0), own, ranks, form)
    trained[moved.name]['b'] = np.full_like(trained[moved.name]['b'], 0.1)
    one = lora.weigh(moved, trained[moved.name], np.eye(4, dtype=np.float32)[0], form)  # one unit of rank
    trained[moved.name] = one
    return tree.flatten({'adapters': jax.tree.map(np.asarray, trained), 'biases': {}}), 1.5

  scores = SimpleNamespace(trains=True, available=True, warmed_up=warmed_up)
  plan = methods.plan(c, sites, scores)
  _, wide = lora.from_json(asked[0].spec['sites'])
  assert set(wide.values()) == {4}
  assert plan.ranks['parameters'] <= plan.ranks['budget'] == 2 * sum(lora.cost(site, form) for site in sites)
  assert plan.ranks['training_seconds'] == 1.5
  # The others have the least; there is nothing of them to keep.
  assert all(rank == 1 for name, rank in plan.ranks['ranks'].items() if name != moved.name)
  assert set(plan.start) == {f'adapters/{moved.name}/{factor}' for factor in 'ab'}
  before = warmed_up(asked[0])[0]
  updates = [
    lora.delta(moved, {f: leaves[f'adapters/{moved.name}/{f}'] for f in 'ab'}, c.lora.alpha, form, c.lora.rslora)
    for leaves in (before, plan.start)
  ]
  assert np.abs(updates[0]).max() > 0
  np.testing.assert_allclose(*updates, atol=1e-6)


@pytest.fixture(scope='module')
def whole(folders, tmp_path_factory):
  """A run that was never stopped: (folder, results)."""
  workdir = tmp_path_factory.mktemp('runs') / 'whole'
  return workdir, adapt.run(settings(folders, **LONGER), workdir)


# Three steps first, each of which is saved.
LONGER = {'steps': 30, 'eval_every': 30, 'save_every': 1}


def test_a_run_goes_on_from_what_is_kept(whole):
  workdir, results = whole
  ranks = json.loads((workdir / 'ranks.json').read_text())
  assert ranks['rule'] == 'post_hoc'
  assert ranks['spent'] <= ranks['budget']
  assert results['seconds'] > ranks['training_seconds'] > 0
  assert results['adapted']['mean']['psnr_y'] > results['base']['mean']['psnr_y'] + 0.5
  kept = load_file(workdir / 'start.safetensors')
  trained = load_file(workdir / 'adapter.safetensors')
  assert {name: leaf.shape for name, leaf in kept.items()} == {name: leaf.shape for name, leaf in trained.items()}


@pytest.mark.parametrize('when', [4, 14], ids=['in the short run', 'after it'])
def test_stopped_and_continued_equals_never_stopped(folders, whole, tmp_path, monkeypatch, capsys, when):
  tick, count = train.Clock.tick, []

  def stopped(self):
    count.append(1)
    tick(self)
    if len(count) == when:
      raise train.Interrupted('stopped')

  monkeypatch.setattr(train.Clock, 'tick', stopped)
  with pytest.raises(train.Interrupted):
    adapt.run(settings(folders, **LONGER), tmp_path / 'run')
  again = adapt.run(settings(folders, **LONGER), tmp_path / 'run')
  assert again['adapted']['images'] == whole[1]['adapted']['images']
  assert 'Continuing from step' in capsys.readouterr().out


def test_without_training_ranks_are_equal(folders, tmp_path):
  adapt.run(settings(folders, steps=0), tmp_path / 'run')
  ranks = json.loads((tmp_path / 'run' / 'ranks.json').read_text())
  assert ranks['rule'] == 'uniform'
  assert not (tmp_path / 'run' / 'warm_up').exists()


def test_other_methods_refuse_it(folders, tmp_path):
  with pytest.raises(UserError, match="'post_hoc' is for config.method='lora', not for 'dora'"):
    adapt.run(settings(folders, method='dora'), tmp_path / 'run')

"""Fields without effect are told, fields that would leave a run with nothing to train are refused."""

import numpy as np
import pytest

from adaptsr_jax import base, config
from adaptsr_jax.adapt import effects, folder, whole
from adaptsr_jax.errors import UserError


def made(**changes):
  c = config.default()
  c.base, c.data.train.hr, c.data.train.lr, c.data.valid.hr = 'base.pth', 'HR', 'LR', 'HR'
  c.update_from_flattened_dict({name.replace('__', '.'): value for name, value in changes.items()})
  return c


def test_a_run_whose_fields_all_work_is_told_nothing():
  assert effects.idle(made()) == ''
  assert effects.idle(made(lora__budget=9, optim__warmup=5, score__kind='fisher', loss__adversarial=0.1)) == ''


def test_rules_name_fields_that_there_are():
  known = config.flat(config.default())
  for rule in effects.RULES:
    for field in rule.fields:
      if field.endswith('.degrade') and field != 'data.train.degrade':
        continue  # only what is trained on has cameras
      assert any(name == field or name.startswith(f'{field}.') for name in known), field


@pytest.mark.parametrize(
  ('changes', 'idle'),
  [
    ({'method': 'full', 'lora__rank': 4}, 'config.lora.rank (config.method is not lora or dora)'),
    ({'arc__rank': 4}, 'config.arc.rank (config.method is not arc)'),
    ({'method': 'dora', 'lora__path': 'merged'}, 'config.lora.path (config.method is not lora)'),
    ({'method': 'full', 'sites__exclude': ('up',)}, 'config.sites.exclude (config.method is full'),
    ({'method': 'bitfit', 'sites__kinds': ('conv',)}, 'config.sites.kinds (config.method is bitfit'),
    ({'method': 'difffit', 'sites__split_qkv': True}, 'config.sites.split_qkv'),
    ({'lora__budget': 9, 'lora__rank': 4}, 'config.lora.rank (config.lora.budget is given)'),
    ({'lora__rule': 'uniform', 'lora__r_max': 4}, 'config.lora.r_max (config.lora.rule is uniform)'),
    ({'lora__rule': 'uniform', 'score__kind': 'fisher'}, 'config.score.kind (nothing is scored)'),
    ({'init_from': 'a.safetensors', 'lora__budget': 9}, 'config.lora.budget (ranks are those of config.init_from)'),
    ({'init_from': 'a', 'method': 'rasa', 'rasa__rank': 4}, 'config.rasa.rank (it is as config.init_from has it)'),
    ({'method': 'shira', 'score__kind': 'fisher'}, 'config.score.kind (SHiRA takes the mean gradient)'),
    ({'score__kind': 'random', 'score__batches': 2}, 'config.score.batches (config.score.kind is random)'),
    ({'score__kind': 'fisher', 'score__reduce': 'mean_of_norms'}, 'config.score.reduce'),
    ({'gan__width': 8}, 'config.gan.width (config.loss.adversarial is 0)'),
    ({'loss__adversarial': 1.0, 'gan__warmup': 10_000}, 'config.loss.adversarial (config.gan.warmup is not shorter'),
    ({'method': 'full', 'optim__bias_lr_scale': 1.0}, 'config.optim.bias_lr_scale (no biases are trained'),
    ({'method': 'rasa', 'optim__b_lr_scale': 4.0}, 'config.optim.b_lr_scale (only lora and dora'),
    ({'data__valid__hr': '', 'eval_every': 5}, 'config.eval_every (config.data.valid names no pictures)'),
    ({'data__valid__hr': '', 'data__valid__names': 'a'}, 'config.data.valid.names (config.data.valid names no'),
    ({'metric_weights': 'WEIGHTS'}, 'config.metric_weights (no metric and no loss'),
    ({'model': 'safmn_x2'}, 'config.model (config.base tells the network)'),
    ({'base': 'random', 'key': 'params'}, 'config.key (a random base comes from no file)'),
    ({'data__train__lr': '', 'data__match_exposure': True}, 'config.data.match_exposure (LR is made from HR'),
  ],
)
def test_a_field_without_effect_is_told_with_the_reason(changes, idle):
  told = effects.idle(made(**changes))
  assert told.startswith('Without effect in this run: config.')
  assert idle in told


@pytest.mark.parametrize(
  ('changes', 'named'),
  [
    ({'steps': 2, 'optim__accumulate': 3}, 'config.optim.accumulate is 3'),
    ({'steps': 4, 'optim__accumulate': 2, 'optim__warmup': 2}, 'config.optim.warmup is 2'),
    ({'steps': 4, 'loss__l1': 0.0, 'loss__adversarial': 1.0, 'gan__warmup': 4}, 'config.gan.warmup is 4'),
    ({'loss__adversarial': 1.0, 'gan__lr': 0.0}, 'config.gan.lr is 0'),
    ({'optim__b1': 1.0}, 'config.optim.b1'),
    ({'optim__bias_lr_scale': -1.0}, 'config.optim.bias_lr_scale'),
    ({'rasa__alpha': 0.0}, 'config.rasa.alpha'),
    ({'rasa__kinds': ('dense',)}, 'config.rasa.kinds'),
    ({'shira__share': 1.5}, 'config.shira.share'),
    ({'data__workers': 10**6}, 'config.data.workers'),
    ({'lora__rank': 10**6}, 'config.lora.rank'),
    ({'arc__rank': 10**6}, 'config.arc.rank'),
    ({'gan__width': 10**6}, 'config.gan.width'),
    ({'sites__exclude': (1,)}, 'config.sites.exclude'),
    ({'strengths': ('a',)}, 'config.strengths'),
    ({'metrics': (1,)}, 'config.metrics'),
  ],
)
def test_what_trains_nothing_or_cannot_be_is_refused(changes, named):
  with pytest.raises(UserError, match=named.replace('.', r'\.')):
    config.validate(made(**changes))


def test_steps_that_change_nothing_are_no_training():
  before = {'a': np.ones(3, np.float32), 'b': np.zeros(2, np.float32)}
  with pytest.raises(UserError, match='7 steps changed no weight'):
    whole._check_moved(before, {**before, 'b': np.full(2, 1e-30, np.float32)}, 7)
  whole._check_moved(before, {**before, 'b': np.array([0, 1e-6], np.float32)}, 7)


def test_a_run_of_an_earlier_version_does_not_go_on_at_another_rate(tmp_path):
  run = folder.Folder(tmp_path)
  run.take(made(), {'base': 'b'})
  old = run.read('config')
  for rate, changed in ((0.0, ['optim.preset']), (1e-3, [])):
    optim = {name: value for name, value in old['optim'].items() if name != 'preset'} | {'lr': rate}
    run.write('config', {**old, 'optim': optim})
    assert list(run.changed_fields(made(**{'optim.lr': rate}))) == changed
    assert run.changed_fields(made(**{'optim.lr': rate, 'optim.preset': 'paper'})) == {}


def test_an_adapter_to_start_from_may_lie_elsewhere_and_may_be_gone(tmp_path):
  c, run = made(init_from='here.safetensors'), folder.Folder(tmp_path)
  material = {'base': 'b', 'adapter to start from': 'digest'}
  run.take(c, material)
  assert run.changed_fields(made(init_from='there.safetensors')) == {}
  assert list(run.changed_fields(made())) == ['init_from']
  assert run.changed_material({**material, 'adapter to start from': 'other'}) == ['adapter to start from']
  run.take(c, {'base': 'b'})  # the file is gone, and is remembered
  assert run.read('material') == material


@pytest.mark.parametrize(
  ('preset', 'fields'),
  [
    ('safmn_x2', {'dim': 0}),
    ('safmn_x2', {'dim': 10**20}),
    ('safmn_x2', {'dim': 8, 'n_blocks': -1}),
    ('safmn_x2', {'dim': 8, 'n_blocks': 10**9}),
    ('safmn_x2', {'dim': 8, 'n_blocks': 1, 'ffn_scale': -1}),
    ('safmn_x2', {'dim': 8, 'n_blocks': 1, 'ffn_scale': 1e300}),
    ('safmn_x2', {'dim': 8, 'n_blocks': 1, 'upscale': 0}),
    ('safmn_x2', {'dim': 8, 'dtype': 'float16'}),
    ('edsr_x2', {'num_feat': 0}),
    ('swinir_light_x2', {'embed_dim': 0}),
  ],
)
def test_networks_that_cannot_be_are_told(preset, fields):
  with pytest.raises(UserError):
    base.random(preset, 0, fields)

import pytest
from absl import flags

from adaptsr_jax import config, lora, methods, models, ranks
from adaptsr_jax.adapt import optim
from adaptsr_jax.data import degrade
from adaptsr_jax.errors import UserError
from adaptsr_jax.ranks import scoring


def usable():
  c = config.default()
  c.base = 'base.pth'
  c.data.train.hr = 'HR'
  return c


def test_default_with_base_and_data_is_valid():
  config.validate(usable())


@pytest.mark.parametrize(
  ('field', 'value', 'named'),
  [
    ('base', '', 'config.base'),
    ('method', 'lorra', 'config.method'),
    ('lora.form', '3x3', 'config.lora.form'),
    ('lora.rule', 'best', 'config.lora.rule'),
    ('sites.kinds', ('conv', 'dense'), 'config.sites.kinds'),
    ('score.kind', 'hessian', 'config.score.kind'),
    ('steps', -1, 'config.steps'),
    ('batch_size', 0, 'config.batch_size'),
    ('data.train.hr', '', 'config.data.train.hr'),
    ('optim.ema', 1.0, 'config.optim.ema'),
    ('lora.r_max', 0, 'config.lora.r_max'),
    ('dtype', 'float16', 'config.dtype'),
    ('lora.alpha', 0.0, 'config.lora.alpha'),
    ('sites.exclude', ('*up*',), 'config.sites.exclude'),
    ('data.valid.lr', 'LR', 'config.data.valid.lr'),
    ('export', 'best', 'config.export'),
    ('seed', 2**31, 'config.seed'),
    ('optim.lr', float('nan'), 'config.optim.lr'),
  ],
)
def test_validate_names_the_field_and_what_is_possible(field, value, named):
  c = usable()
  parent, _, last = field.rpartition('.')
  (config.get(c, parent) if parent else c)[last] = value
  with pytest.raises(UserError, match=named.replace('.', r'\.')):
    config.validate(c)


def test_zero_steps_need_something_to_measure():
  c = usable()
  c.steps = 0
  with pytest.raises(UserError, match=r'config\.data\.valid\.hr'):
    config.validate(c)


def test_parse_fields():
  assert config.parse_fields('res_scale=0.1, num_block=32,flag=true,name=x') == {
    'res_scale': 0.1,
    'num_block': 32,
    'flag': True,
    'name': 'x',
  }
  assert config.parse_fields('') == {}
  assert config.parse_fields('rgb_mean=0.5,0,1, qk_scale=None,depths=6') == {
    'rgb_mean': (0.5, 0, 1),
    'qk_scale': None,
    'depths': 6,
  }
  with pytest.raises(UserError, match="--set has '=2'"):
    config.parse_fields('a=1,=2', '--set')
  with pytest.raises(UserError, match='res_scale'):
    config.parse_fields('res_scale')


def test_flat_reads_like_the_flags():
  flat = config.flat(usable())
  assert flat['lora.rank'] == 8
  assert flat['sites.kinds'] == []


@pytest.mark.parametrize('old', config.RENAMED)
def test_old_names_are_told_their_new_one(old):
  c = usable()
  parent, _, last = old.rpartition('.')
  if parent not in c:
    c[parent] = {}
  c[parent][last] = ('conv',)
  with pytest.raises(UserError, match=f'config.{old} is called config.{config.RENAMED[old]}'):
    config.validate(c)


def test_configs_of_earlier_versions_are_read_by_the_names_of_today():
  old = {'method': 'lora', 'lora': {'kinds': ['conv', 'mlp', 'attn'], 'exclude': ['up']}, 'full': {'kinds': ['conv']}}
  kept = config.kept(old)
  assert (kept['sites.kinds'], kept['sites.exclude']) == ([], ['up'])
  assert not config.RENAMED.keys() & kept.keys()
  assert config.kept({**old, 'method': 'full'})['sites.kinds'] == ['conv']


def test_fields_of_every_method_stand_under_its_name():
  for name, module in methods.METHODS.items():
    if hasattr(module, 'fields'):
      fields = module.fields()
      assert config.default()[name] == fields
      assert set(getattr(module, 'CHOICES', {})) | set(getattr(module, 'LEAST', {})) <= set(fields)
      assert all(fields[field] in allowed for field, allowed in getattr(module, 'CHOICES', {}).items())


def test_choices_are_those_of_the_tables_that_they_repeat():
  assert config.CHOICES['score.kind'] == ranks.KINDS
  assert config.CHOICES['score.normalise'] == scoring.NORMALISATIONS
  assert config.CHOICES['score.reduce'] == scoring.REDUCTIONS
  assert set(config.CHOICES['data.train.degrade']) == {'none', 'bicubic', *degrade.PRESETS}
  c = usable()
  for c.optim.schedule in config.CHOICES['optim.schedule']:
    assert optim.schedule(c)(0) > 0
  c.optim.schedule = 'stairs'
  with pytest.raises(KeyError):
    optim.schedule(c)
  model = models.build('swinir', embed_dim=4, depths=(1,), num_heads=(1,), window_size=2)
  assert {site.kind for site in lora.find_sites(model)} == set(config.KINDS)


@pytest.mark.parametrize('flag', ['--wrkdir=run', '--config.steps=4', '--steps=4'])
def test_a_wrong_flag_without_a_config_is_told_as_absl_has_it(flag):
  unknown = flags.UnrecognizedFlagError(flag.strip('-').partition('=')[0])
  assert config.reason(unknown, '', [flag]) == str(unknown)

import pytest

from adaptsr_jax import config
from adaptsr_jax.errors import UserError


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
    ('lora.kinds', ('conv', 'dense'), 'config.lora.kinds'),
    ('score.kind', 'hessian', 'config.score.kind'),
    ('steps', -1, 'config.steps'),
    ('batch_size', 0, 'config.batch_size'),
    ('data.train.hr', '', 'config.data.train.hr'),
    ('optim.ema', 1.0, 'config.optim.ema'),
    ('lora.r_max', 0, 'config.lora.r_max'),
    ('dtype', 'float16', 'config.dtype'),
    ('lora.alpha', 0.0, 'config.lora.alpha'),
    ('lora.exclude', ('*up*',), 'config.lora.exclude'),
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
  assert flat['lora.kinds'] == ['conv', 'mlp', 'attn']

"""The two-player step against its recipe written out, its safeguards, and real runs of it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

from adaptsr_jax import config, convert, log, lora, methods, models
from adaptsr_jax.adapt import gan, losses, optim, train
from adaptsr_jax.data import degrade
from adaptsr_jax.errors import UserError
from adaptsr_jax.models import discriminator
from tests.pictures import write_pairs
from tests.shared import shared
from tests.test_methods import CASES, make
from tests.test_run import command
from tests.test_run import start as start_run


def settings(**fields):
  c = config.default()
  c.loss.adversarial, c.gan.width, c.patch, c.steps = 0.1, 4, 16, 10
  c.optim.clip, c.lora.rank = 0.0, 2
  c.update_from_flattened_dict(fields)
  return c


def start(c):
  """Returns (model, method, frozen, the two-player training)."""
  model = models.build('safmn', dim=8, n_blocks=1, upscale=2)
  base = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))['params']
  sites = lora.find_sites(model)
  method = methods.make(c, sites, {site.name: 2 for site in sites})
  frozen, trainable = method.init(jax.random.key(1), base)
  trainable = jax.tree.map(lambda leaf: leaf + 0.05, trainable)
  training = gan.two_players(c, model.apply, method, frozen, trainable, losses.make(c))
  return model, method, frozen, training


def batch(seed: int = 0):
  rng = np.random.default_rng(seed)
  return {'lr': rng.random((2, 8, 8, 3), np.float32), 'hr': rng.random((2, 16, 16, 3), np.float32)}


def bce(logits, real):
  return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, jnp.full_like(logits, real)))


def test_a_step_is_the_recipe():
  c = settings(**{'optim.ema': 0.9})
  model, method, frozen, training = start(c)
  state, judge = training.state, discriminator.Patch(4)
  tx, _ = optim.make(c, method.labels)
  pair = {**batch(), 'plain': batch(1)['hr']}

  def look(params, spectral, x):
    logits, moved = judge.apply({'params': params, 'spectral': spectral}, x, True, mutable=['spectral'])
    return logits, moved['spectral']

  def generator_loss(trainable):
    sr = method.forward(model.apply, frozen, trainable, pair['lr'])
    logits, moved = look(state.discriminator, state.spectral, sr)
    return losses.l1(sr, pair['hr']) + 0.1 * bce(logits, 1.0), (sr, moved)

  @jax.jit
  def recipe(state):
    (loss, (sr, spectral)), gradient = jax.value_and_grad(generator_loss, has_aux=True)(state.trainable)

    def judge_loss(params):
      real, moved = look(params, spectral, pair['plain'])
      fake, moved = look(params, moved, sr)
      return bce(real, 1.0) + bce(fake, 0.0), moved

    (told, moved), slope = jax.value_and_grad(judge_loss, has_aux=True)(state.discriminator)
    updates, _ = tx.update(gradient, state.opt_state, state.trainable)
    adam = optax.adam(1e-4, b1=0.9, b2=0.99)
    judged, _ = adam.update(slope, adam.init(state.discriminator))
    return (
      loss,
      told,
      optax.apply_updates(state.trainable, updates),
      optax.apply_updates(state.discriminator, judged),
      moved,
    )

  loss, told, trainable, judged, moved = recipe(state)
  old = jax.tree.map(np.array, state.ema)
  after, scalars = training.step(state, pair)
  np.testing.assert_allclose(scalars['loss'], loss, rtol=1e-5)
  np.testing.assert_allclose(scalars['loss/discriminator'], told, rtol=1e-5)
  for expected, found in ((trainable, after.trainable), (judged, after.discriminator), (moved, after.spectral)):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, atol=2e-6), expected, found)
  mixed = jax.tree.map(lambda a, b: 0.1 * a + 0.9 * b, old, after.trainable)  # (1 + 0) / (10 + 0) of the old
  jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, atol=1e-6), mixed, after.ema)


@pytest.mark.parametrize('kind', ['vanilla', 'hinge', 'relativistic'])
def test_players_want_the_opposite(kind):
  game = gan.GAMES[kind]
  real, fake = jnp.array([2.0, 1.0]), jnp.array([-1.0, -2.0])
  assert game.discriminator(real, fake) < game.discriminator(fake, real)
  assert game.generator(real, fake) < game.generator(fake, real)


def test_relativistic_is_that_of_esrgan():
  real, fake = jnp.array([0.3, -1.0, 2.0]), jnp.array([0.5, 0.1, -0.7])
  expected = bce(real - fake.mean(), 1.0) + bce(fake - real.mean(), 0.0)
  np.testing.assert_allclose(gan.GAMES['relativistic'].discriminator(real, fake), expected, rtol=1e-6)
  expected = bce(real - fake.mean(), 0.0) + bce(fake - real.mean(), 1.0)
  np.testing.assert_allclose(gan.GAMES['relativistic'].generator(fake, real), expected, rtol=1e-6)


def test_warmup_leaves_the_adversarial_term_out_and_teaches_the_discriminator():
  c = settings(**{'gan.warmup': 1, 'gan.kind': 'relativistic'})
  *_, training = start(c)
  state = training.state
  kernel = np.array(state.discriminator['conv1']['kernel'])
  state, first = training.step(state, batch())
  assert float(first['loss']) == pytest.approx(float(first['loss/l1']))
  assert np.abs(np.asarray(state.discriminator['conv1']['kernel']) - kernel).max() > 0
  _, second = training.step(state, batch())
  expected = float(second['loss/l1'] + 0.1 * second['loss/adversarial'])
  assert float(second['loss']) == pytest.approx(expected)


def test_the_ceiling_holds_the_adversarial_gradient():
  pulls = {}
  for factor, ceiling in ((0.0001, 0.0), (1000.0, 0.0), (1000.0, 0.5)):
    c = settings(**{'loss.adversarial': factor, 'gan.ceiling': ceiling, 'optim.lr': 1e-3})
    *_, training = start(c)
    _, scalars = training.step(training.state, batch())
    pulls[factor, ceiling] = float(scalars['grad_norm'])
    assert (float(scalars['gan/strength']) > 0.5) == (factor == 1000.0)
  assert pulls[1000.0, 0.0] > 10 * pulls[0.0001, 0.0]
  assert pulls[1000.0, 0.5] < 3 * pulls[0.0001, 0.0]


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'health/contrast': 0.1}, 'In step 8 .* gray: their contrast is 0.10'),
    ({'health/drift': 0.3}, 'In step 8 .* off in colour: a mean is 0.30'),
    ({'health/clipped': 0.5}, 'In step 8 .* saturated: 50 %'),
  ],
)
def test_a_collapse_is_named_with_its_step(change, message):
  well = {'health/contrast': 1.0, 'health/drift': 0.02, 'health/clipped': 0.01}
  check = gan.make_check()
  for step in range(1, 7):  # never well so far: it may still become so
    check(step, well | change)
  check(7, well)
  for step in (8, 9, 10, 11):
    check(step, well | change)
  with pytest.raises(UserError, match=message):
    check(12, well | change)
  check = gan.make_check()
  for step in range(1, 40):  # ill only now and then
    check(step, well if step % 4 == 0 else well | change)


def test_published_weights_of_a_discriminator(tmp_path):
  golden = np.load(shared('golden', 'gan', 'unet_disc.npz'))
  arrays = {key.removeprefix('w.'): golden[key] for key in golden.files if key.startswith('w.')}
  path = tmp_path / 'netD.pth'
  convert.write(path, arrays, {'format': 'pth', 'wrappers': ['params']})
  c = settings(**{'gan.discriminator': 'unet', 'gan.init_from': str(path)})
  *_, training = start(c)
  x = golden['x'].transpose(0, 2, 3, 1)
  variables = {'params': training.state.discriminator, 'spectral': training.state.spectral}
  logits = jax.jit(discriminator.UNet(4).apply)(variables, x)
  expected = golden['out_eval'].transpose(0, 2, 3, 1)
  np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())
  for fields, message in (
    ({'gan.width': 8}, r'netD.pth does not fit config.gan.discriminator=unet, 8 wide: - conv0/bias \(8,\); \+'),
    ({'gan.discriminator': 'patch'}, 'netD.pth does not fit config.gan.discriminator=patch'),
    ({'gan.init_from': str(path) + '.gone'}, 'netD.pth.gone'),
    ({'patch': 20}, 'config.patch is 20; the discriminator unet needs a multiple of 8'),
  ):
    with pytest.raises(UserError, match=message):
      start(settings(**{'gan.discriminator': 'unet', 'gan.init_from': str(path), **fields}))


def test_config_names_every_term():
  assert set(config.LOSSES) == {*losses.TERMS, 'adversarial'} == set(config.default().loss)
  assert config.CHOICES['gan.kind'] == tuple(gan.GAMES)
  assert config.CHOICES['gan.discriminator'] == tuple(discriminator.DISCRIMINATORS)


@pytest.fixture(scope='module')
def edsr():
  model = models.build('edsr', upscale=2, num_feat=4, num_block=1, res_scale=1.0)
  params = jax.jit(model.init)(jax.random.key(1), jnp.zeros((1, 8, 8, 3)))['params']
  return model, jax.tree.map(np.asarray, params), lora.find_sites(model)


@pytest.mark.parametrize('name', sorted(methods.METHODS))
def test_every_method_plays(edsr, name):
  model, params, sites = edsr
  case = next(case for case, fields in CASES.items() if fields['method'] == name)
  c, method = make(case, sites, params)
  c.loss.adversarial, c.gan.width, c.patch = 1.0, 4, 16
  frozen, trainable = method.init(jax.random.key(0), params)
  training = gan.two_players(c, model.apply, method, frozen, trainable, losses.make(c))
  state, scalars = training.step(training.state, batch())
  moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - b).max(), state.trainable, trainable)
  assert max(jax.tree.leaves(moved)) > 0
  assert all(np.isfinite(value) for value in scalars.values())


# Real runs.

PLAYERS = (
  '--config.loss.adversarial=0.1',
  '--config.gan.width=4',
  '--config.gan.warmup=4',
  '--config.save_every=3',
)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  return write_pairs(tmp_path_factory.mktemp('pictures'), 4)


def test_killed_between_players_and_continued_equals_never_stopped(folders, tmp_path):
  flags = (*PLAYERS, '--config.optim.accumulate=2')
  process = start_run(command(folders, tmp_path / 'whole', *flags))
  output = process.communicate()[0]
  assert process.returncode == 0, output
  process = start_run(command(folders, tmp_path / 'killed', *flags))
  for line in process.stdout:
    if line.startswith('step 10/'):
      process.kill()
      break
  process.wait()
  assert not (tmp_path / 'killed' / 'results.json').exists()
  process = start_run(command(folders, tmp_path / 'killed', *flags))
  output = process.communicate()[0]
  assert process.returncode == 0, output
  assert 'Continuing from step' in output
  whole, killed = (load_file(tmp_path / name / 'adapter.safetensors') for name in ('whole', 'killed'))
  assert whole.keys() == killed.keys()
  for key in whole:
    np.testing.assert_array_equal(whole[key], killed[key], err_msg=key)
  # Both players at the end, with the vectors of the power iterations.
  rows = [log.read_metrics(tmp_path / name)[-2] for name in ('whole', 'killed')]
  for key in ('loss/l1', 'loss/adversarial', 'loss/discriminator', 'gan/real', 'gan/fake'):
    assert rows[0][key] == rows[1][key]


def test_weights_that_are_not_there_stop_a_run_before_its_folder_is_taken(folders, tmp_path):
  process = start_run(
    command(folders, tmp_path / 'run', '--config.loss.perceptual=1', f'--config.metric_weights={tmp_path}')
  )
  output = process.communicate()[0]
  assert process.returncode == 2
  assert 'config.loss.perceptual needs vgg19-dcbb9e9d.pth' in output
  assert 'Traceback' not in output
  assert not (tmp_path / 'run' / 'config.json').exists()


def test_the_loop_looks_at_every_step(tmp_path):
  well = {'health/contrast': 1.0, 'health/drift': 0.02, 'health/clipped': 0.01}
  rows = [(1, well), *((step, well | {'health/drift': 0.5}) for step in range(2, 7))]
  with pytest.raises(UserError, match='In step 2 the adversarial training collapsed'):
    train._checked(rows, gan.make_check(), tmp_path)


def test_a_discriminator_sees_pictures_that_are_not_sharpened():
  made = degrade.make(degrade.options('stablesr', {}), 4, 32, usm=True)
  hr = jax.random.uniform(jax.random.key(0), (1, 52, 52, 3))
  pair = made(jax.random.key(1), hr)
  assert pair['plain'].shape == pair['hr'].shape
  places = [
    (y, x)
    for y in range(0, 21, 4)
    for x in range(0, 21, 4)
    if np.array_equal(pair['plain'][0], hr[0, y : y + 32, x : x + 32])
  ]
  assert len(places) == 1
  assert np.abs(np.asarray(pair['hr'] - pair['plain'])).max() > 0.05

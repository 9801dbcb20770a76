"""The two-player step: what is adapted learns to pass for photographs before a discriminator that learns to tell.

The recipe is that of Real-ESRGAN (Wang et al. 2021): one forward pass of the network; its update by the terms of
`config.loss` and by the discriminator, whose parameters rest; then an update of the discriminator on real pictures and
on the same enlarged ones, made before the network's update. Each of the three passes through the discriminator moves
its spectral vectors by one power iteration. Real pictures are never sharpened.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from adaptsr_jax import compiler, convert, methods, tree, zoo
from adaptsr_jax.adapt import losses, optim
from adaptsr_jax.adapt import step as step_lib
from adaptsr_jax.adapt.step import Training
from adaptsr_jax.devices import Devices
from adaptsr_jax.errors import UserError
from adaptsr_jax.models import discriminator
from adaptsr_jax.tree import Params

_WIDTHS = {'patch': 32, 'unet': 64}
_CLIPPED = 0.02  # how far values may leave [0, 1] before they count as saturated

# Beyond these the enlarged pictures of a batch are no longer pictures of what is in HR.
_LEAST_CONTRAST = 0.25  # standard deviation, as a part of that of HR
_MOST_DRIFT = 0.15  # of the mean of a colour
_MOST_CLIPPED = 0.3  # share of values that are saturated
_PATIENCE = 5  # steps in a row


class GanState(NamedTuple):
  """All that a two-player step changes; the first four as in `step.TrainState`."""

  step: jax.Array
  trainable: Params
  opt_state: Any
  ema: Params
  discriminator: Params
  spectral: Params  # vectors of the power iterations
  discriminator_opt_state: Any


class Game(NamedTuple):
  """What the players are told.

  Attributes:
    generator: (logits of enlarged pictures, of real ones, over) -> loss of what is adapted. `over` gives the mean over
      the parts of a batch of an array that each part has.
    discriminator: (logits of real pictures, of enlarged ones, over) -> loss of the discriminator.
    relative: whether the first of them looks at its second argument.
  """

  generator: Callable[..., jax.Array]
  discriminator: Callable[..., jax.Array]
  relative: bool = False


def _undivided(x: jax.Array) -> jax.Array:
  """The mean over the parts of a batch that is one part."""
  return x


def _mean(fn: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
  return jnp.mean(fn(x))


def _relative(high: jax.Array, low: jax.Array, over: Callable[[jax.Array], jax.Array] = _undivided) -> jax.Array:
  """Binary cross-entropy of `high` being more real than the mean of `low`, and the reverse."""
  means = over(jnp.stack([jnp.mean(high), jnp.mean(low)]))
  return _mean(jax.nn.softplus, means[1] - high) + _mean(jax.nn.softplus, low - means[0])


GAMES = {
  # Binary cross-entropy of maps of ones and zeros.
  'vanilla': Game(
    lambda fake, *_: _mean(jax.nn.softplus, -fake),
    lambda real, fake, *_: _mean(jax.nn.softplus, -real) + _mean(jax.nn.softplus, fake),
  ),
  # Lim and Ye 2017.
  'hinge': Game(
    lambda fake, *_: -jnp.mean(fake),
    lambda real, fake, *_: _mean(jax.nn.relu, 1 - real) + _mean(jax.nn.relu, 1 + fake),
  ),
  # Relativistic average, as in ESRGAN (Wang et al. 2018), equations 1 and 2.
  'relativistic': Game(_relative, _relative, True),
}


def two_players(
  config: ConfigDict,
  apply_fn: Callable[..., jax.Array],
  method: methods.Method,
  frozen: Params,
  trainable: Params,
  criterion: losses.Criterion,
  devices: Devices | None = None,
) -> Training:
  """Returns the training of one network against a discriminator; arguments as of `step.plain`.

  Raises:
    UserError: crops that the discriminator cannot take; weights that are not of it.
  """
  g, o = config.gan, config.optim
  judge = judge_of(config)
  if config.patch % judge.multiple:
    raise UserError(
      f'config.patch is {config.patch}; the discriminator {g.discriminator} needs a multiple of {judge.multiple}.'
    )
  variables = judge.init(jax.random.key(config.seed), jnp.zeros((1, judge.multiple, judge.multiple, 3)))
  params, spectral = variables['params'], variables['spectral']
  if g.init_from:
    params, spectral = _published(g, judge, params, spectral)
  judge_tx = optax.adam(g.lr, b1=o.b1, b2=o.b2)
  if o.accumulate > 1:
    judge_tx = optax.MultiSteps(judge_tx, o.accumulate)
  one = step_lib.plain(config, apply_fn, method, frozen, trainable, criterion, devices)
  tx, _ = optim.make(config, method.labels)
  frozen, weights = step_lib.placed((frozen, criterion.weights), devices)
  step = make_step(apply_fn, method, tx, criterion._replace(weights=weights), judge, judge_tx, config, devices)
  return one._replace(
    step=lambda state, batch: step(state, frozen, devices.divided(batch) if devices else batch),
    state=GanState(*one.state, params, spectral, judge_tx.init(params)),
    check=make_check(),
  )


def judge_of(config: ConfigDict) -> Any:
  """Returns the discriminator that `config.gan` describes."""
  g = config.gan
  return discriminator.DISCRIMINATORS[g.discriminator](g.width or _WIDTHS[g.discriminator])


def make_step(
  apply_fn: Callable[..., jax.Array],
  method: methods.Method,
  tx: optax.GradientTransformation,
  criterion: losses.Criterion,
  judge: Any,
  judge_tx: optax.GradientTransformation,
  config: ConfigDict,
  devices: Devices | None = None,
) -> Callable[..., tuple[GanState, dict[str, jax.Array]]]:
  """Returns the compiled step(state, frozen, batch) -> (state, scalars); `state` is overwritten in place.

  Args:
    apply_fn: as `model.apply`.
    method: what is trained, and how it reaches the network.
    tx: its optimiser.
    criterion: the terms of the loss beside the adversarial one.
    judge: module of `models.discriminator`.
    judge_tx: its optimiser.
    config: the run's config; reads `loss.adversarial`, `gan` and `optim.ema`.
    devices: that share the batch; None: one device. They exchange one array, and few numbers more where a game or a
      ceiling asks for what is no mean over pictures.
  """
  game, factor, options = GAMES[config.gan.kind], config.loss.adversarial, config.gan
  over = devices.over if devices else _undivided

  def look(params: Params, spectral: Params, x: jax.Array) -> tuple[jax.Array, Params]:
    logits, moved = judge.apply({'params': params, 'spectral': spectral}, x, True, mutable=['spectral'])
    return logits, moved['spectral']

  def means(whole, batch):
    """Returns (both players' gradients, spectral vectors, scalars, moments), of a batch the means over its parts."""
    state, frozen, weights = whole
    hr, real = batch['hr'], batch.get('plain', batch['hr'])
    forward = lambda trainable: method.forward(apply_fn, frozen, trainable, batch['lr'])  # noqa: E731
    prediction, back = jax.vjp(forward, state.trainable)
    sr = prediction.astype(jnp.float32)

    # The terms meet at the enlarged pictures, where their gradients can be weighed against each other.
    (value, logged), gradient = jax.value_and_grad(criterion.terms, has_aux=True)(sr, hr, weights)

    def deceit(x):
      fake, spectral = look(state.discriminator, state.spectral, x)
      shown = None
      if game.relative:
        shown, spectral = look(state.discriminator, spectral, real)
      return game.generator(fake, shown, over), spectral

    (deceived, spectral), push = jax.value_and_grad(deceit, has_aux=True)(sr)
    strength = factor**2 * sr.size * jnp.sum(jnp.square(push))  # squared, in norms of the gradient of L1
    playing = factor * (state.step >= options.warmup)
    held = 1.0
    if options.ceiling:
      held = jnp.minimum(1, options.ceiling / jnp.maximum(jnp.sqrt(over(strength)), 1e-12))
    (towards,) = back((gradient + playing * held * push).astype(prediction.dtype))

    def telling_apart(params):
      shown, moved = look(params, spectral, real)
      fake, moved = look(params, moved, sr)
      return game.discriminator(shown, fake, over), (moved, jnp.mean(shown), jnp.mean(fake))

    (told, (moved, shown, fake)), slope = jax.value_and_grad(telling_apart, has_aux=True)(state.discriminator)
    scalars = {
      'loss': value + playing * deceived,
      **logged,
      'loss/adversarial': deceived,
      'loss/discriminator': told,
      'gan/real': shown,
      'gan/fake': fake,
      **step_lib.wishes(batch),
    }
    return towards, slope, moved, scalars, {'strength': strength, **_moments(sr, hr)}

  averaged = devices.mean(means) if devices else means

  def step(state: GanState, frozen: Params, batch: Mapping[str, jax.Array], weights: Mapping[str, Any]):
    towards, slope, spectral, scalars, moments = averaged((state, frozen, weights), batch)
    updates, opt_state = tx.update(towards, state.opt_state, state.trainable)
    trainable = optax.apply_updates(state.trainable, updates)
    updates, judge_opt_state = judge_tx.update(slope, state.discriminator_opt_state, state.discriminator)
    judged = optax.apply_updates(state.discriminator, updates)
    scalars |= {
      'grad_norm': optax.tree.norm(towards),
      'gan/strength': jnp.sqrt(moments['strength']),
      **_health(moments),
    }
    average = optim.averaged(state.ema, trainable, state.step, config.optim.ema)
    return GanState(state.step + 1, trainable, opt_state, average, judged, spectral, judge_opt_state), scalars

  compiled = jax.jit(step, donate_argnums=0, compiler_options=compiler.options())
  return functools.partial(compiled, weights=criterion.weights)


def _moments(sr: jax.Array, hr: jax.Array) -> dict[str, jax.Array]:
  """Returns means over pixels, of which `_health` is made."""

  def mean(x: jax.Array) -> jax.Array:
    return jnp.mean(jnp.mean(x, (1, 2)), 0)  # of each picture first, as long sums lose digits

  centred = sr - 0.5, hr - 0.5  # squares of small deviations lose least
  return {
    'level': jnp.stack([mean(x) for x in centred]),
    'square': jnp.stack([mean(jnp.square(x)) for x in centred]),
    'drift': mean(sr - hr),
    'clipped': jnp.mean(jnp.abs(centred[0]) > 0.5 + _CLIPPED),
  }


def _health(moments: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """Returns what tells of a collapse; see `make_check`."""
  level, square = (jnp.mean(moments[name], -1) for name in ('level', 'square'))
  sr, hr = jnp.sqrt(jnp.maximum(square - jnp.square(level), 0))
  return {
    'health/contrast': sr / (hr + 1e-3),
    'health/drift': jnp.max(jnp.abs(moments['drift'])),
    'health/clipped': moments['clipped'],
  }


def make_check() -> Callable[[int, Mapping[str, float]], None]:
  """Returns what looks at the scalars of every step, (step, row) -> None, once they have been those of pictures.

  A network that starts with something else, such as a random one, is given time.

  Raises:
    UserError: for several steps the enlarged pictures were gray or saturated, or their colours were off.
  """
  been_well, ill = False, []

  def check(step: int, row: Mapping[str, float]) -> None:
    nonlocal been_well
    fault = _fault(row)
    been_well = been_well or not fault
    ill.append((step, fault))
    if not (been_well and fault):
      ill.clear()
    if len(ill) == _PATIENCE:
      raise UserError(
        f'In step {ill[0][0]} the adversarial training collapsed, the enlarged pictures are {ill[0][1]}. Lower '
        'config.loss.adversarial or config.optim.lr, or set config.gan.ceiling=1 or config.loss.colour=1, in a new '
        '--workdir.'
      )

  return check


def _fault(row: Mapping[str, float]) -> str:
  """Returns what is wrong with the pictures of a step, or ''."""
  contrast, clipped, drift = (row[f'health/{name}'] for name in ('contrast', 'clipped', 'drift'))
  if contrast < _LEAST_CONTRAST:
    return f'gray: their contrast is {contrast:.2f} of that of HR'
  if clipped > _MOST_CLIPPED:
    return f'saturated: {100 * clipped:.0f} % of their values lie outside [0, 1]'
  return f'off in colour: a mean is {drift:.2f} from that of HR' if drift > _MOST_DRIFT else ''


def _published(g: ConfigDict, judge: Any, params: Params, spectral: Params) -> tuple[Params, Params]:
  """Reads the weights `g.init_from` of the discriminator; the random ones say what is expected."""
  path = zoo.locate(g.init_from)
  try:
    found = discriminator.from_torch(convert.read(path))
  except (KeyError, ValueError, IndexError) as error:
    raise UserError(f'{path} holds no weights of a discriminator ({error}).') from error
  difference = [line for pair in zip((params, spectral), found, strict=True) for line in tree.compare(*pair)]
  if difference:
    raise UserError(
      f'{path} does not fit config.gan.discriminator={g.discriminator}, {judge.width} wide:{";".join(difference[:2])} '
      f'(- expected, + found; {len(difference)} lines in all).'
    )
  return jax.tree.map(jnp.asarray, found)

"""What four devices make of a step, as JSON: `python -m tests.four_devices LR HR WORKDIR`.

A process of its own, as the number of CPU devices is told to jax before it begins.
"""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import jax
import numpy as np

from adaptsr_jax import adapt, data, devices, infer, lora, methods, models
from adaptsr_jax.adapt import gan, losses, step
from adaptsr_jax.errors import UserError
from adaptsr_jax.evaluate import measure
from configs import tiny

CEILING = 1e-3
COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute', 'collective-broadcast')
FIELDS = {
  'safmn': {'upscale': 2, 'dim': 8, 'n_blocks': 1},
  'swinir': {'upscale': 2, 'embed_dim': 8, 'depths': (2,), 'num_heads': (2,), 'window_size': 4, 'img_size': 8},
}

PLAYERS = {
  'two players': {'loss.adversarial': 0.1, 'gan.width': 4},
  'relative players': {'loss.adversarial': 0.1, 'gan.width': 4, 'gan.kind': 'relativistic', 'gan.ceiling': CEILING},
}


def settings(**fields):
  c = tiny.get_config()
  c.batch_size, c.patch, c.optim.accumulate, c.loss.colour = 8, 16, 2, 0.5
  c.optim.lr = 1e-3  # Adam lifts rounding errors of the smallest gradients to changes of this size
  c.update_from_flattened_dict(fields)
  return c


def given(name, c):
  """Returns a network, a method on it, its parameters and a batch."""
  model = models.build(name, **FIELDS[name])
  rng = np.random.default_rng(0)
  batch = {key: rng.random((8, side, side, 3), np.float32) for key, side in (('lr', 8), ('hr', 16))}
  batch['stop'] = np.zeros(8, np.float32)  # as several processes have it
  params = jax.jit(model.init)(jax.random.key(0), batch['lr'][:1])['params']
  sites = lora.find_sites(model)
  return model, methods.make(c, sites, dict.fromkeys((site.name for site in sites), 2)), params, batch


def steps(name, c, number):
  """Returns what four steps on `number` devices log, of two players where the loss asks for them, their state and their
  compiled program."""
  model, method, params, batch = given(name, c)
  parts, shared, programs = method.init(jax.random.key(0), params), devices.choose(number, 8), []
  module, make = (gan, gan.two_players) if c.loss.adversarial else (step, step.plain)
  make_step = module.make_step

  def compiled_once(*args):
    jitted = make_step(*args)

    def run(*args):
      if not programs:
        programs.append(jitted.func.lower(*args, **jitted.keywords).compile())
      return programs[0](*args, **jitted.keywords)

    return run

  with mock.patch.object(module, 'make_step', compiled_once):
    made = make(c, model.apply, method, *parts, losses.make(c), shared)
  state, rows = made.place(made.state), []
  for _ in range(4):
    state, row = made.step(state, batch)
    rows.append({key: float(value) for key, value in row.items()})
  return rows, state, programs[0]


def compared(name, c):
  """Returns what one device and four log, whether the four end with the same bits, how far vectors of power iterations
  are from those of the one, and what the four exchange."""
  (one, single, _), (four, shared, program) = (steps(name, c, number) for number in (1, 4))
  shards = [[np.asarray(shard.data) for shard in leaf.addressable_shards] for leaf in jax.tree.leaves(shared)]
  alike = all(len(each) == 4 and all(np.array_equal(each[0], other) for other in each) for each in shards)
  vectors = zip(*(jax.tree.leaves(getattr(state, 'spectral', ())) for state in (single, shared)), strict=True)
  off = [float(np.abs(a - np.asarray(b)).max()) for a, b in vectors]
  return {'logged': (one, four), 'alike': alike, 'vectors': off, 'exchanged': exchanged(program)}


def exchanged(program):
  """Returns how many elements the arrays of each sum between devices have, how many other exchanges there are, and
  whether the state is whole everywhere."""
  found = re.findall(rf'= (.*?) ({"|".join(COLLECTIVES)})(?:-start)?\(', program.as_text())
  sums = [
    [int(size or 1) for size in re.findall(r'\w+\[(\d*)\]', shapes)] for shapes, kind in found if kind == 'all-reduce'
  ]
  whole = all(sharding.is_fully_replicated for sharding in jax.tree.leaves(program.output_shardings))
  return sums, len(found) - len(sums), whole


@jax.jit
def noisy(key, hr):
  """A camera with noise, which compiles in no time."""
  lr = hr[:, ::2, ::2] + 0.1 * jax.random.normal(key, hr[:, ::2, ::2].shape)
  return {'lr': lr[:, :8, :8], 'hr': hr[:, :16, :16]}


def camera(number, lr_hr):
  """Returns a batch of a mixture of pairs and of crops that a camera makes pairs of."""
  lr, hr = lr_hr
  c = tiny.get_config()
  c.data.train.mix = f'lr={lr} hr={hr} weight=1; hr={hr} degrade=realesrgan weight=1'
  source = data.open_source(c.data.train, 2)
  cameras = SimpleNamespace(presets={'realesrgan': noisy}, canvas=20, digest='')
  batches = data.train_batches(source, 8, 16, 2, 0, degrade=cameras, devices=devices.choose(number, 8))
  batch = next(batches)
  batches.close()
  return batch


def same_but_for_order(single, divided):
  """Tells whether each device has a pair and one made by the camera, which are the halves of the batch of one."""
  divided = np.asarray(divided)
  return np.array_equal(np.asarray(single), np.concatenate([divided[::2], divided[1::2]]))


def runs(lr_hr, workdir):
  """Returns what a run on one device leads to, and one that begins on four and goes on on two; each with a short run
  before that decides on ranks."""

  def run(name, steps, number):
    c = settings(steps=steps, devices=number, log_every=1, save_every=1)
    c.optim.schedule, c.optim.accumulate, c.lora.rule = 'constant', 1, 'post_hoc'
    c.data.train.lr, c.data.train.hr = lr_hr
    folder = workdir / name
    with mock.patch.object(step, 'plain', wraps=step.plain) as plain:
      results = adapt.run(c, folder)
    return {
      'devices': results['devices'],
      'sharing': [call.args[-1].number if call.args[-1] else 1 for call in plain.call_args_list],
      'ranks': json.loads((folder / 'ranks.json').read_text())['ranks'],
      'losses': [json.loads(row)['loss'] for row in (folder / 'metrics.jsonl').read_text().splitlines()],
      'short': [json.loads(row)['loss'] for row in (folder / 'warm_up' / 'metrics.jsonl').read_text().splitlines()],
    }

  return {'begun': run('four', 2, 4), 'one': run('one', 4, 1), 'four': run('four', 4, 2)}


def inference():
  """Returns whether tiles and whole pictures in turn on four devices come out as on one, and where they were made."""
  model, _, params, batch = given('safmn', settings())
  lr = np.random.default_rng(0).random((60, 70, 3), np.float32)
  tiled = {'tile': 40, 'overlap': 8, 'minimum': 8}
  one = infer.upscale(model.apply, params, lr, 2, **tiled)
  four = infer.upscale(model.apply, params, lr, 2, devices=jax.devices(), **tiled)
  pairs = [(f'{i}', (255 * x).astype(np.uint8), np.zeros((16, 16, 3), np.uint8)) for i, x in enumerate(batch['lr'])]
  restores = [infer.network(model, params, infer.WHOLE), infer.network(model, params, infer.WHOLE)]
  restores[1] = restores[1]._replace(options={**restores[1].options, 'devices': jax.devices()})
  whole = [list(measure.restored(restore, pairs, at_once)) for restore, at_once in zip(restores, (1, 4), strict=True)]
  same = [a.name == b.name and np.array_equal(a.output, b.output) for a, b in zip(*whole, strict=True)]
  there = jax.device_put(params)
  made = [infer._Applied(model.apply, there, False, device)(batch['lr']).devices() for device in jax.devices()]
  return np.allclose(four, one, atol=1e-6) and all(same), len(set().union(*made))


def refused(asked, batch_size):
  try:
    devices.choose(asked, batch_size)
  except UserError as error:
    return str(error)


def main():
  *lr_hr, workdir = sys.argv[1:]
  single, divided = (camera(number, lr_hr) for number in (1, 4))
  report = {
    'steps': {what: compared('safmn', settings(**fields)) for what, fields in {'plain': {}, **PLAYERS}.items()},
    'swinir': exchanged(steps('swinir', settings(), 4)[-1]),
    'camera': {key: same_but_for_order(single[key], divided[key]) for key in single},
    'camera devices': len(divided['lr'].sharding.device_set),
    'runs': runs(lr_hr, Path(workdir)),
    'refused': [refused(5, 10), refused(3, 8)],
    'inference': inference(),
    'chosen': devices.choose(0, 8) is None,
  }
  print(json.dumps(report))


if __name__ == '__main__':
  main()

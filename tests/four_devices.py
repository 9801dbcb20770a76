"""What four devices make of a step, as JSON: `python -m tests.four_devices LR HR WORKDIR`.

A process of its own, as the number of CPU devices is told to jax before it begins.
"""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np

from adaptsr_jax import adapt, data, devices, infer, lora, methods, models
from adaptsr_jax.adapt import gan, losses, step
from adaptsr_jax.errors import UserError
from adaptsr_jax.evaluate import measure
from configs import tiny
from tests.test_programs import traced

COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute', 'collective-broadcast')
FIELDS = {
  'safmn': {'upscale': 2, 'dim': 8, 'n_blocks': 1},
  'swinir': {'upscale': 2, 'embed_dim': 8, 'depths': (2,), 'num_heads': (2,), 'window_size': 4, 'img_size': 8},
}


def settings(**fields):
  c = tiny.get_config()
  c.batch_size, c.patch, c.optim.accumulate, c.loss.colour = 8, 32, 2, 0.5
  c.update_from_flattened_dict(fields)
  return c


def given(name, c):
  """Returns a network, a method on it, its parameters and a batch."""
  model = models.build(name, **FIELDS[name])
  rng = np.random.default_rng(0)
  batch = {key: rng.random((8, side, side, 3), np.float32) for key, side in (('lr', 16), ('hr', 32))}
  params = jax.jit(model.init)(jax.random.key(0), batch['lr'][:1])['params']
  sites = lora.find_sites(model)
  return model, methods.make(c, sites, dict.fromkeys((site.name for site in sites), 2)), params, batch


def scalars(name, c, number):
  """Returns what four steps on `number` devices log, of two players where the loss asks for them."""
  model, method, params, batch = given(name, c)
  make = gan.two_players if c.loss.adversarial else step.plain
  parts = method.init(jax.random.key(0), params)
  made = make(c, model.apply, method, *parts, losses.make(c), devices.choose(number, 8))
  state, rows = made.place(made.state), []
  for _ in range(4):
    state, row = made.step(state, batch)
    rows.append({key: float(value) for key, value in row.items()})
  return rows


def collectives(name, c):
  """Returns how many of each kind the compiled step of four devices has, whether a sum is of one array, and whether its
  state is whole everywhere."""
  shared = devices.choose(4, 8)
  model, method, params, batch = given(name, c)
  step_, (state, frozen, _) = traced(c, method, model, params, batch, shared)
  program = step_.lower(*shared.everywhere((state, frozen)), shared.divided(batch)).compile()
  text = program.as_text()
  counts = {kind: len(re.findall(rf' {kind}(?:-start)?\(', text)) for kind in COLLECTIVES}
  single = bool(re.search(r'= f32\[\d+\]\S* all-reduce\(', text))
  return counts, single, all(sharding.is_fully_replicated for sharding in jax.tree.leaves(program.output_shardings))


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
  """Returns the losses of a run on one device, and of one that begins on four and goes on on two."""

  def run(name, steps, number):
    c = settings(steps=steps, devices=number, log_every=1, save_every=1)
    c.optim.schedule, c.optim.accumulate, c.lora.rule = 'constant', 1, 'uniform'
    c.data.train.lr, c.data.train.hr = lr_hr
    results = adapt.run(c, workdir / name)
    rows = (workdir / name / 'metrics.jsonl').read_text().splitlines()
    return {'devices': results['devices'], 'losses': [json.loads(row)['loss'] for row in rows]}

  run('four', 2, 4)
  return {'one': run('one', 4, 1), 'four': run('four', 4, 2)}


def inference():
  """Returns whether tiles and whole pictures in turn on four devices come out as on one, and where they were made."""
  model, _, params, batch = given('safmn', settings())
  lr = np.random.default_rng(0).random((60, 70, 3), np.float32)
  tiled = {'tile': 40, 'overlap': 8, 'minimum': 8}
  one = infer.upscale(model.apply, params, lr, 2, **tiled)
  four = infer.upscale(model.apply, params, lr, 2, devices=jax.devices(), **tiled)
  pairs = [(f'{i}', (255 * x).astype(np.uint8), np.zeros((32, 32, 3), np.uint8)) for i, x in enumerate(batch['lr'])]
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
  cases = {'plain': settings(), 'two players': settings(**{'loss.adversarial': 0.1, 'gan.kind': 'relativistic'})}
  cases['two players'].gan.width = 4
  single, divided = (camera(number, lr_hr) for number in (1, 4))
  report = {
    'steps': {what: [scalars('safmn', c, number) for number in (1, 4)] for what, c in cases.items()},
    'collectives': {name: collectives(name, cases['plain']) for name in FIELDS},
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

"""A first run without any pictures or weights of one's own: minutes on two CPU cores, offline after the install.

  python -m pip install -e '.[quickstart]'
  python -m adaptsr_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

Adapts the SAFMN x4 that comes with the package to the camera of `adaptsr_jax.data.samples`, on six photographs, and
measures on three others. Full fine-tuning of the same length: the same command with --config.method=full.

Expected: held out, bicubic 26.75 dB (Y), base 27.05, adapted 28.29, 28.29 and 28.31 with seeds 0, 1 and 2, full
fine-tuning 28.32; three quarters of a minute in all on two CPU cores.
"""

from adaptsr_jax import config


def get_config():
  c = config.default()
  c.base = 'bundled:safmn_x4'
  c.data.train.hr = 'samples:train'
  c.data.valid.hr = 'samples:valid'
  c.steps = 200
  c.patch = 128
  c.score.batches = 4
  c.eval_every = 50
  c.tensorboard = False
  return c

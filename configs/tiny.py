"""A run of seconds on a small random network, for tests: 7 s of processor time on three pictures of 64 pixels.

  python -m adaptsr_jax.main --config=configs/tiny.py --workdir=runs/tiny \
    --config.data.train.hr=HR --config.data.valid.hr=HR
"""

from adaptsr_jax import config


def get_config():
  c = config.default()
  c.base = 'random'
  c.model = 'safmn_x2'
  c.fields = 'dim=8,n_blocks=1'
  c.steps = 20
  c.batch_size = 2
  c.patch = 32
  c.optim.lr = 0.02
  c.lora.rank = 2
  c.score.batches = 2
  c.tensorboard = False
  return c

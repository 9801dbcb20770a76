"""Pre-trains SAFMN x4 (36 wide, 8 blocks) on bicubic pairs from scratch.

  python -m adaptsr_jax.main --config=experiments/000_pretrain/config.py --config.data.train.hr=HR \
    --config.data.valid.lr=SET5_LR --config.data.valid.hr=SET5_HR --workdir=runs/pretrain

Expected: 29.95 dB (Y) on Set5 x4, bicubic has 28.43; an hour and a half on two busy cores. README.md has the table.
"""

from adaptsr_jax import config


def get_config():
  c = config.default()
  c.base = 'random'
  c.model = 'safmn_x4'
  c.method = 'full'
  c.steps = 8000
  c.batch_size = 8
  c.patch = 128
  c.optim.lr = 1e-3
  c.optim.schedule = 'cosine'
  c.optim.warmup = 200
  c.optim.ema = 0.999
  c.optim.clip = 1.0
  c.log_every = 100
  c.eval_every = 500
  c.save_every = 250
  c.tensorboard = False
  return c

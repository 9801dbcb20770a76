"""Pre-trains a small x4 network on bicubic pairs from scratch: edsr, safmn, swinir or drct.

  python -m adaptsr_jax.main --config=experiments/000_pretrain/config.py:edsr --config.data.train.hr=HR \
    --config.data.valid.lr=SET5_LR --config.data.valid.hr=SET5_HR --workdir=runs/pretrain_edsr

The rate is constant and falls over the last fifth of `steps`. To train longer than planned, or to begin the decay at
any state before it, give the same command another `--config.steps`. README.md has the results.
"""

from adaptsr_jax import config

# Name of the network in the package, the fields that make it at most a million parameters, Adam's rate, and crops of a
# batch: fewer for window models, for more of their slow steps in the same time.
NETWORKS = {
  'edsr': ('edsr_baseline_x4', 'num_feat=48,num_block=14', 5e-4, 8),
  'safmn': ('safmn_x4', '', 1e-3, 8),
  'swinir': ('swinir_light_x4', 'depths=2,2,2,2,num_heads=6,6,6,6', 1e-3, 4),
  'drct': ('drct_x4', 'embed_dim=48,gc=16,num_heads=4,4,window_size=8', 4e-4, 4),
}


def get_config(network: str = 'safmn'):
  c = config.default()
  c.base = 'random'
  c.model, c.fields, c.optim.lr, c.batch_size = NETWORKS[network]
  c.method = 'full'
  c.steps = 20000
  c.patch = 128
  c.optim.schedule = 'wsd'
  c.optim.warmup = 200
  c.optim.ema = 0.999
  c.optim.clip = 1.0
  c.log_every = 100
  c.eval_every = 500
  c.save_every = 250
  c.tensorboard = False
  return c

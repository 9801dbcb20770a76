"""Adapts a network to pairs of pictures in minutes on a CPU: short, small crops.

  python -m adaptsr_jax.main --config=configs/quick.py --config.base=safmn_ntire2023_x4.pth \
    --config.data.train.lr=LR --config.data.train.hr=HR \
    --config.data.valid.lr=LR_VALID --config.data.valid.hr=HR_VALID --workdir=runs/quick

Expected of this network and 79 pairs of DRealSR, on 14 others: 30.44 dB (Y) before, 31.17 ± 0.08 after (five seeds,
experiments/008_promise), and the 300 steps in 43 s on two quiet cores of an x86-64 server, CPU
(experiments/004_rivals). The last lines tell whether less than all of the change would be better.
"""

from adaptsr_jax import config


def get_config():
  c = config.default()
  c.steps = 300
  c.patch = 128
  c.eval_every = 100
  c.tensorboard = False
  return c

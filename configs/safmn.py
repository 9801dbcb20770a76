"""Adapts SAFMN to pairs of pictures of a real camera.

  python -m adaptsr_jax.main --config=configs/safmn.py --config.base=safmn_ntire2023_x4.pth \
    --config.data.train.lr=LR --config.data.train.hr=HR \
    --config.data.valid.lr=LR_VALID --config.data.valid.hr=HR_VALID --workdir=runs/safmn

SAFMN has 0.24 million parameters (36 channels, 8 blocks); the default budget is that of rank 8 at every site.
"""

from adaptsr_jax import config


def get_config():
  return config.default()

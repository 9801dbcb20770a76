"""Adapts SRVGGNetCompact, the small networks of Real-ESRGAN, to pairs of pictures of a real camera.

  python -m adaptsr_jax.main --config=configs/srvgg.py --config.base=realesr_general_x4 \
    --config.data.train.lr=LR --config.data.train.hr=HR \
    --config.data.valid.lr=LR_VALID --config.data.valid.hr=HR_VALID --workdir=runs/srvgg

realesr-general-x4v3 has 1.21 million parameters (64 channels, 34 convolutions). The default budget, that of rank 8 at
all 34 sites, buys 172,440 parameters of adapters; 2,160 biases are trained beside them. realesr_animevideo_x4 has 18
sites and 0.62 million parameters.

Expected on DRealSR (79 pairs, 200 steps of 8 crops of 128 HR pixels; experiments/006_srvgg): what a network that was
trained to please the eye has lost in PSNR comes back within minutes.
"""

from adaptsr_jax import config


def get_config():
  return config.default()

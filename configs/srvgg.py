"""Adapts SRVGGNetCompact, the small networks of Real-ESRGAN, to pairs of pictures of a real camera.

  python -m adaptsr_jax.main --config=configs/srvgg.py --config.base=realesr_general_x4 \
    --config.data.train.lr=LR --config.data.train.hr=HR \
    --config.data.valid.lr=LR_VALID --config.data.valid.hr=HR_VALID --workdir=runs/srvgg

realesr-general-x4v3 has 1.21 million parameters (64 channels, 34 convolutions). The default budget, that of rank 8 at
all 34 sites, buys 172,440 parameters of adapters; 2,160 biases are trained beside them. realesr_animevideo_x4 has 18
sites and 0.62 million parameters.

Expected of realesr-general-x4v3 on DRealSR (pairs of experiments/001_safmn_drealsr, 79 and 14 others;
--config.lora.rule=uniform --config.steps=200 --config.patch=128 --config.metrics=lpips; seed 0, 2 cores of an x86-64
server, CPU, 2026-11-26): PSNR (Y) from 27.66 to 31.54 dB, LPIPS (AlexNet) from 0.3513 to 0.3612. A network that was
trained to please the eye gains much PSNR, and loses a little of what pleases.
"""

from adaptsr_jax import config


def get_config():
  return config.default()

"""A perceptual stage for SAFMN that two CPU cores can run: L1, LPIPS and a small discriminator, from an L1 adapter on.

  python -m adaptsr_jax.main --config=configs/safmn_gan.py --config.base=safmn_ntire2023_x4.pth \
    --config.init_from=runs/safmn/adapter.safetensors --config.metric_weights=WEIGHTS \
    --config.data.train.lr=LR --config.data.train.hr=HR \
    --config.data.valid.lr=LR_VALID --config.data.valid.hr=HR_VALID --workdir=runs/safmn_gan

WEIGHTS holds alexnet-owt-7be5be79.pth and the heads of LPIPS (without the flag they are downloaded). Without init_from
it starts from the base. Then choose between faithful and sharp:

  python -m adaptsr_jax.adapters sweep safmn_ntire2023_x4.pth runs/safmn/adapter.safetensors \
    runs/safmn_gan/adapter.safetensors --lr=LR_VALID --hr=HR_VALID --metric_weights=WEIGHTS --out=runs/slider

Expected, on 14 real pairs after 161 steps: LPIPS 0.300 instead of 0.427, for 1.1 dB (experiments/007_gan).
Watch loss/adversarial, gan/real and gan/fake in metrics.jsonl: a discriminator that has won (loss/discriminator near 0)
teaches nothing. A step takes 1.8 times the CPU time of one with L1 alone; with the U-Net of Real-ESRGAN 26 times
(benchmarks/README.md). That and VGG19, as in its recipe:

  --config.loss.lpips=0 --config.loss.perceptual=1 --config.gan.discriminator=unet --config.gan.ceiling=0
"""

from adaptsr_jax import config


def get_config():
  c = config.default()
  c.steps = 200
  c.patch = 128
  c.loss.l1 = 1.0
  c.loss.lpips = 1.0
  c.loss.adversarial = 0.1
  c.gan.discriminator = 'patch'
  c.gan.lr = 4e-4
  c.gan.warmup = 50
  c.gan.ceiling = 1.0
  c.optim.lr = 5e-4
  c.optim.schedule = 'constant'
  c.metrics = ('lpips_alex',)
  c.best = 'lpips_alex'
  return c

"""The adversarial stage of Real-ESRGAN for the adapters of EDSR, from an L1 adapter on; for an accelerator.

  python -m adaptsr_jax.main --config=configs/edsr_gan.py --config.base=edsr_baseline_x4-6b446fab.pt \
    --config.init_from=runs/edsr/adapter.safetensors --config.metric_weights=WEIGHTS \
    --config.data.train.hr=PHOTOS --config.data.train.degrade=realesrgan --config.data.usm \
    --config.data.valid.lr=LR_VALID --config.data.valid.hr=HR_VALID --workdir=runs/edsr_gan

WEIGHTS holds vgg19-dcbb9e9d.pth (without the flag it is downloaded, 548 MB). L1, VGG19 and a U-Net of 4,376,897
parameters with the weights 1, 1 and 0.1; photographs are degraded and sharpened as in the recipe, real pairs
(--config.data.train.lr) go as they are. Its published discriminator: --config.gan.init_from=RealESRGAN_x4plus_netD.pth.

Expected: pictures become sharper and PSNR falls; the paper's SwinIR goes from 28.47 to 26.48 dB and from 0.2680 to
0.2256 in LPIPS on RealSR. Not measured here: no machine for it was at hand.
"""

from adaptsr_jax import config


def get_config():
  c = config.default()
  # As configs/edsr.py.
  c.sites.exclude = ('upsample',)
  config.as_real_esrgan(c)
  return c

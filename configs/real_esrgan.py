"""The adversarial stage of Real-ESRGAN for the adapters of SwinIR-M, DRCT or EDSR, from an L1 adapter on.

For an accelerator. What follows the colon is the config that the adapter was trained by, swinir, drct or edsr:

  python -m adaptsr_jax.main --config=configs/real_esrgan.py:swinir \
    --config.base=001_classicalSR_DF2K_s64w8_SwinIR-M_x4.pth \
    --config.init_from=runs/swinir/adapter.safetensors --config.metric_weights=WEIGHTS \
    --config.data.train.hr=PHOTOS --config.data.train.degrade=realesrgan --config.data.usm \
    --config.data.valid.lr=LR_VALID --config.data.valid.hr=HR_VALID --workdir=runs/swinir_gan

WEIGHTS holds vgg19-dcbb9e9d.pth (without the flag it is downloaded, 548 MB). L1, VGG19 and a U-Net of 4,376,897
parameters with the weights 1, 1 and 0.1; photographs are degraded and sharpened as in the recipe, real pairs
(--config.data.train.lr) go as they are. Its published discriminator: --config.gan.init_from=RealESRGAN_x4plus_netD.pth.

Expected: pictures become sharper and PSNR falls; the paper's SwinIR goes from 28.47 to 26.48 dB and from 0.2680 to
0.2256 in LPIPS on RealSR. Not measured here: no machine for it was at hand.
"""

from adaptsr_jax import config
from adaptsr_jax.errors import UserError


def get_config(base='swinir'):
  c = config.default()
  # As configs/swinir.py, drct.py and edsr.py.
  if base in ('swinir', 'drct'):
    c.steps = 100_000
    config.as_in_paper(c)
    c.lora.budget = 839_088
    c.sites.exclude = ('^upsample_',)
  elif base == 'edsr':
    c.lora.form, c.lora.rank = 'loralib', 4
    c.sites.exclude = ('upsample',)
  else:
    raise UserError(
      f'The config real_esrgan is for swinir, drct and edsr (--config=real_esrgan:drct), not for {base!r}.'
    )
  c.loss.l1 = 1.0
  c.loss.perceptual = 1.0
  c.loss.adversarial = 0.1
  c.gan.discriminator = 'unet'
  c.gan.kind = 'vanilla'
  c.gan.lr = 1e-4
  c.optim.lr = 1e-4
  c.optim.bias_lr_scale = 1.0
  c.optim.schedule = 'constant'
  c.optim.clip = 0.0
  c.optim.ema = 0.999
  c.patch = 256
  return c

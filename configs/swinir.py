"""Adapts SwinIR-M to pairs of pictures of a real camera, with the settings of the paper.

  python -m adaptsr_jax.main --config=configs/swinir.py \
    --config.base=001_classicalSR_DF2K_s64w8_SwinIR-M_x4.pth \
    --config.data.train.lr=LR --config.data.train.hr=HR \
    --config.data.valid.lr=LR_VALID --config.data.valid.hr=HR_VALID --workdir=runs/swinir

The budget buys what rank 8 at all 154 sites costs: 839,088 adapter parameters. Where every site gets a rank, as
--config.lora.rule=uniform does, 46,867 biases are trained beside them: 885,955 parameters, 7.4 % of 11,900,199. Other
uniform ranks give the rows of Table 2: with --config.lora.budget=0, ranks 1, 4, 16 and 64 train 151,753, 466,411,
1,725,043 and 6,759,571.

A step on this batch keeps 18.8 GiB for its gradients, with --config.remat 1.3 GiB (docs/window_models.md).

With --config.steps=0 the base is measured alone and the counts printed; without weights, on any pair of pictures:

  python -m adaptsr_jax.main --config=configs/swinir.py --config.base=random --config.model=swinir_classical_x4 \
    --config.steps=0 --config.data.valid.lr=LR_VALID --config.data.valid.hr=HR_VALID --workdir=runs/counts

Expected: 'adapters (loralib) 839,088 + trained biases 46,867 = 885,955 parameters'. A light network (swinir_light_x4,
929,628 parameters) takes --config.lora.budget=0, and trains 185,976 + 10,440 = 196,416; so does
--config.base=bundled:swinir_x4, without a download.
"""

from adaptsr_jax import config


def get_config():
  c = config.default()
  c.steps = 100_000
  c.batch_size = 8
  c.patch = 256
  config.as_in_paper(c)
  c.lora.budget = 839_088
  # The convolutions in front of the pixel shuffles are left alone; conv_before_upsample_0 is adapted.
  c.sites.exclude = ('^upsample_',)
  return c

"""Adapts DRCT to pairs of pictures of a real camera, with the settings of the paper for SwinIR.

  python -m adaptsr_jax.main --config=configs/drct.py --config.base=DRCT_X4.pth \
    --config.data.train.lr=LR --config.data.train.hr=HR \
    --config.data.valid.lr=LR_VALID --config.data.valid.hr=HR_VALID --workdir=runs/drct

The budget is the same, 839,088 adapter parameters; rank 8 at all 154 sites of DRCT costs 781,488 of them, and at all
304 sites of DRCT-L 1,501,488. Where every site gets a rank, 50,011 biases of DRCT are trained beside them: 889,099
parameters, 6.3 % of 14,139,579.

A step on this batch keeps 22.5 GiB for its gradients, with --config.remat 2.2 GiB (docs/window_models.md).

With --config.steps=0 the base is measured alone and the counts printed; without weights, on any pair of pictures:

  python -m adaptsr_jax.main --config=configs/drct.py --config.base=random --config.model=drct_x4 --config.steps=0 \
    --config.data.valid.lr=LR_VALID --config.data.valid.hr=HR_VALID --workdir=runs/counts

Expected: ranks of 8, 'adapters (loralib) 781,488 + trained biases 50,011 = 831,499 parameters'. A small DRCT without a
download is --config.base=bundled:drct_x4 --config.lora.budget=0.
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

"""Adapts RRDBNet, the network of Real-ESRGAN, BSRGAN and ESRGAN, to pairs of pictures of a real camera.

  python -m adaptsr_jax.main --config=configs/rrdb.py --config.base=realesrgan_x4 \
    --config.data.train.lr=LR --config.data.train.hr=HR \
    --config.data.valid.lr=LR_VALID --config.data.valid.hr=HR_VALID --workdir=runs/rrdb

16.7 million parameters in 23 blocks; 349 sites without those that enlarge, of which each unit of rank costs 165,342
parameters. The inputs of its dense blocks are wide and the outputs narrow, so the same rank buys less than elsewhere:
compare at equal parameters. The default budget is that of rank 8, 1,322,736 parameters, with 13,443 biases beside.

A step keeps every activation of the dense blocks; with remat, which is set here, those of one block at a time, for a
third more operations. On a CPU take small crops: --config.patch=64 --config.batch_size=4.

Expected: with --config.steps=0 --config.base=random --config.model=rrdb_x4 and a folder of validation pictures,
'adapters (1x1_kxk) 1,322,736 + trained biases 13,443 = 1,336,179 parameters'.
"""

from adaptsr_jax import config


def get_config():
  c = config.default()
  # As in the paper, the convolutions that enlarge are left alone.
  c.sites.exclude = ('^(conv_up|upconv)',)
  c.remat = True
  return c

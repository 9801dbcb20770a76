"""Simulated cameras: low-resolution pictures made of HR pictures on the accelerator, new ones for each batch.

    pairs = degrade.make(degrade.options('realesrgan'), scale=4, patch=256)
    batch = pairs(key, hr)         # hr (B, 400, 400, 3), of side degrade.canvas(256, 4) -> batch['lr'], batch['hr']

The building blocks take and return pictures (B, H, W, C) here; inside, they are functions of planes (B, C, H, W), which
is also the layout of what else they take (random numbers, counts).
"""

from adaptsr_jax.data.degrade import compression, filters, noise, resizing
from adaptsr_jax.data.degrade.draws import Blur, Draws, Noise, Resize, draw
from adaptsr_jax.data.degrade.kernels import blur as blur_kernels
from adaptsr_jax.data.degrade.kernels import sinc as sinc_kernels
from adaptsr_jax.data.degrade.noise import Random, random
from adaptsr_jax.data.degrade.planes import on_pictures
from adaptsr_jax.data.degrade.presets import FAMILIES, PRESETS, Options, options
from adaptsr_jax.data.degrade.resizing import MODES, scaled
from adaptsr_jax.data.degrade.second_order import apply, canvas, decisions, make, realesrgan

bicubic = on_pictures(resizing.bicubic)
filter2d = on_pictures(filters.filter2d)
gaussian_noise = on_pictures(noise.gaussian)
jpeg = on_pictures(compression.jpeg)
poisson_noise = on_pictures(noise.poisson)
resize = on_pictures(resizing.resize)
usm = on_pictures(filters.usm)

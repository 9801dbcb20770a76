"""Measures of picture quality."""

from adaptsr_jax.metrics.fidelity import PROTOCOL, WINDOW, level, psnr, quality, ssim
from adaptsr_jax.metrics.niqe import niqe
from adaptsr_jax.metrics.perceptual import dists, lpips
from adaptsr_jax.metrics.table import FIDELITY, METRICS, VALUES

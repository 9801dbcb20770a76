"""Measures of picture quality."""

from adaptsr_jax.metrics.fidelity import PROTOCOL, WINDOW, psnr, quality, ssim
from adaptsr_jax.metrics.niqe import niqe
from adaptsr_jax.metrics.perceptual import dists, lpips

__all__ = ['PROTOCOL', 'WINDOW', 'dists', 'lpips', 'niqe', 'psnr', 'quality', 'ssim']

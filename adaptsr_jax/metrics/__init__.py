"""Measures of picture quality."""

from adaptsr_jax.metrics.fidelity import PROTOCOL, psnr, quality, ssim

__all__ = ['PROTOCOL', 'psnr', 'quality', 'ssim']

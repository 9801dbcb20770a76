"""Measures of picture quality."""

from adaptsr_jax.metrics.fidelity import PROTOCOL, WINDOW, psnr, quality, ssim

__all__ = ['PROTOCOL', 'WINDOW', 'psnr', 'quality', 'ssim']

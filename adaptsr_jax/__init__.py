"""AdaptSR in JAX: low-rank adaptation of super-resolution backbones to real cameras."""

__version__ = '0.1.0'

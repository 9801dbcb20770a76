"""Measuring: pictures and networks in, tables with intervals out; the command is `python -m adaptsr_jax.evaluate`."""

from adaptsr_jax import is_function

is_function(__name__)

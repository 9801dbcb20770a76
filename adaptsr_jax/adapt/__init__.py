"""Runs: a base and pairs of pictures in, an adapted network, its measurements and pictures out (`whole`)."""

from etils import epy

from adaptsr_jax import is_function

with epy.lazy_api_imports(globals()):  # reports read the folders of runs, and need nothing of what a run imports
  from adaptsr_jax.adapt.step import TrainState, make_step
  from adaptsr_jax.adapt.train import Interrupted
  from adaptsr_jax.adapt.whole import run

is_function(__name__)

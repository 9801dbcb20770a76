"""What setup.cfg cannot say: configs/ stands beside the package, to be read and copied, and is installed inside."""

from setuptools import find_packages, setup

setup(
  packages=[*find_packages(include=['adaptsr_jax', 'adaptsr_jax.*']), 'adaptsr_jax.configs'],
  package_dir={'adaptsr_jax.configs': 'configs'},
)

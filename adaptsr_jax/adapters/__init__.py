"""Trained adapters as files of their own: the format in `file`, the command in `python -m adaptsr_jax.adapters`."""

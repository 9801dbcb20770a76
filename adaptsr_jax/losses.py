"""Training losses: functions of (prediction, target), both (B,H,W,3), to a scalar."""

import jax
import jax.numpy as jnp


def l1(prediction: jax.Array, target: jax.Array) -> jax.Array:
  """Mean absolute error over everything, computed in float32."""
  return jnp.mean(jnp.abs(prediction.astype(jnp.float32) - target))

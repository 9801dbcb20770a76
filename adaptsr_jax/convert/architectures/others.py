"""Networks that lie beside generators, and are no super-resolution networks."""

from adaptsr_jax.convert import names

FOREIGN = (
  names.Foreign(
    'a discriminator (of Real-ESRGAN and its kin), which judges pictures and makes none; the generator is another file',
    lambda weights: {'conv0.weight', 'conv1.weight_orig'} <= weights.keys(),
  ),
  names.Foreign(
    'a discriminator (of ESRGAN), which judges pictures and makes none; the generator is another file',
    lambda weights: {'conv0_0.weight', 'linear1.weight'} <= weights.keys(),
  ),
)

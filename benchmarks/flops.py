"""Floating point operations of a forward pass of SwinIR and DRCT: by formula, and as XLA counts them.

  python -m benchmarks.flops --models swinir_light_x4,swinir_classical_x4,drct_x4 --height 64 --width 64

Neither needs weights or runs anything. The formula has the convolutions and the matrix products, as tables of papers
do (a multiplication with its addition is 2 operations, half of that the 'multi-adds'). XLA also counts norms, softmax,
GELU, sums and biases, one operation a value, and leaves out the products with zeros outside the picture.
"""

import argparse
import sys
from collections.abc import Mapping
from typing import Any

TERMS = ('convolutions', 'qkv and proj', 'attention', 'mlp')


def forward_terms(name: str, fields: Mapping[str, Any], h: int, w: int) -> dict[str, int]:
  """Returns the operations of one picture of h x w pixels by the kind of product, a key of `TERMS` each.

  With H x W the picture extended to whole windows and P = H W its pixels,
    convolutions   2 k^2 cin cout for each pixel of the output, at the size that it has in the head
    qkv and proj   2 P (3 c^2 + c^2) for each block of c channels
    attention      2 P (N c + N c), N = window^2: every pixel with all pixels of its window, QK^T and AV, all heads
    mlp            2 P (c m + m c), m hidden channels

  Args:
    name: 'swinir' or 'drct'.
    fields: as `models.build` takes them.
    h: height of the picture in LR pixels.
    w: its width.

  Raises:
    UserError: another model, or fields that it cannot have.
  """
  from adaptsr_jax import models
  from adaptsr_jax.errors import UserError

  if name not in _COUNTERS:
    raise UserError(f"There is no formula for model '{name}'; there are those of {', '.join(_COUNTERS)}.")
  model = models.build(name, **fields)
  height, width = (-(-side // model.window_size) * model.window_size for side in (h, w))
  return _COUNTERS[name](model, height * width)


def forward_flops(name: str, fields: Mapping[str, Any], h: int, w: int) -> int:
  """Returns the sum of `forward_terms`."""
  return sum(forward_terms(name, fields, h, w).values())


def _swinir(model: Any, pixels: int) -> dict[str, int]:
  c = model.embed_dim
  residual = 9 * c * c if model.resi_connection == '1conv' else 2 * 9 * c * (c // 4) + (c // 4) ** 2
  convolutions = 9 * 3 * c + (len(model.depths) + 1) * residual + _head(model)
  blocks = [_block(model, c, int(c * model.mlp_ratio + 1e-6))] * sum(model.depths)
  return _total(pixels, convolutions, blocks)


def _drct(model: Any, pixels: int) -> dict[str, int]:
  c, groups = model.embed_dim, len(model.num_heads)
  # The 1x1 convolutions behind the blocks: to `gc` channels, and behind the last one back to all.
  adjust = model.gc * sum(model.widths[:-1]) + c * model.widths[-1]
  after = 9 * c * c if model.resi_connection == '1conv' else 0
  blocks = [_block(model, *sides) for sides in zip(model.widths, model.hidden, strict=True)] * groups
  return _total(pixels, 9 * 3 * c + groups * adjust + after + _shuffles(model), blocks)


def _block(model: Any, c: int, hidden: int) -> tuple[int, int, int]:
  """Returns the multiplications for each pixel in a block of attention: qkv and proj, attention, mlp."""
  from adaptsr_jax.models import window

  side, _ = window.geometry(model)
  return 4 * c * c, 2 * side**2 * c, 2 * c * hidden


def _head(model: Any) -> int:
  """Returns the multiplications of the head for each input pixel."""
  c, features = model.embed_dim, model.num_feat
  if model.upsampler == 'pixelshuffle':
    return _shuffles(model)
  if model.upsampler == 'pixelshuffledirect':
    return 9 * c * 3 * model.upscale**2
  if model.upsampler == 'nearest+conv':
    enlarged = sum(4**i for i in range(1, model.upscale.bit_length()))  # 4, or 4 and 16 pixels for each
    return 9 * features * (c + enlarged * features + model.upscale**2 * (features + 3))
  return 9 * c * 3


def _shuffles(model: Any) -> int:
  """Returns those of the head of convolutions and pixel shuffles."""
  from adaptsr_jax.models import layers

  features, side = model.num_feat, 1
  products = model.embed_dim * features
  for factor in layers.shuffles(model.upscale):
    products += side**2 * features * features * factor**2
    side *= factor
  return 9 * (products + side**2 * features * 3)


def _total(pixels: int, convolutions: int, blocks: list[tuple[int, int, int]]) -> dict[str, int]:
  products = (convolutions, *map(sum, zip(*blocks, strict=True)))
  return {term: 2 * pixels * number for term, number in zip(TERMS, products, strict=True)}


_COUNTERS = {'swinir': _swinir, 'drct': _drct}


def parameters(model: Any) -> Any:
  """Returns the tree of shapes and types of the parameters of `model`."""
  import jax
  import jax.numpy as jnp

  picture = jax.ShapeDtypeStruct((1, model.minimum, model.minimum, 3), jnp.float32)
  return jax.eval_shape(model.init, jax.random.key(0), picture)['params']


def counted_flops(name: str, fields: Mapping[str, Any], h: int, w: int, compiled: bool = False) -> float:
  """Returns what XLA counts for one picture: in the program as it is traced, or as it is `compiled` for this device."""
  import jax
  import jax.numpy as jnp

  from adaptsr_jax import models

  model = models.build(name, **fields)
  picture = jax.ShapeDtypeStruct((1, h, w, 3), jnp.float32)
  lowered = jax.jit(model.apply).lower({'params': parameters(model)}, picture)
  return (lowered.compile() if compiled else lowered).cost_analysis()['flops']


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog='python -m benchmarks.flops', description=__doc__.split('\n')[0])
  parser.add_argument('--models', default='swinir_light_x4,swinir_classical_x4,drct_x4', help='names of models.PRESETS')
  parser.add_argument('--height', type=int, default=64, help='of the picture in LR pixels (default 64)')
  parser.add_argument('--width', type=int, default=64, help='of the picture in LR pixels (default 64)')
  parser.add_argument('--compiled', action='store_true', help='count in the compiled program too; takes a while')
  return parser


def main(argv: list[str] | None = None) -> int:
  """Prints the table; returns the exit code."""
  args = _parser().parse_args(argv)
  from adaptsr_jax import models
  from adaptsr_jax.errors import UserError

  heads = ('GFLOP', *TERMS, 'formula', 'XLA', 'ratio', 'compiled', 'ratio')[: None if args.compiled else -2]
  print(f'| {" | ".join(heads)} |\n| --- |{" ---: |" * (len(heads) - 1)}')
  try:
    for preset in args.models.split(','):
      if preset not in models.PRESETS:
        raise UserError(f"There is no variant '{preset}'; there are {', '.join(models.PRESETS)}.")
      name, fields = models.PRESETS[preset]
      terms = forward_terms(name, fields, args.height, args.width)
      cells = [*terms.values(), formula := sum(terms.values())]
      row = [f'{cell / 1e9:.2f}' for cell in cells]
      for compiled in (False, True)[: 1 + args.compiled]:
        counted = counted_flops(name, fields, args.height, args.width, compiled)
        row += [f'{counted / 1e9:.2f}', f'{counted / formula:.4f}']
      print(f'| {preset} | ' + ' | '.join(row) + ' |', flush=True)
  except UserError as error:
    print(f'Error: {error}', file=sys.stderr)
    return 2
  return 0


if __name__ == '__main__':
  sys.exit(main())

"""Sites: the kernels of a model that can take a low-rank adapter, found by tracing, and what rank costs there."""

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from adaptsr_jax import tree
from adaptsr_jax.errors import UserError, shown

# How the adapter of a k x k convolution is factored (see `lora.adapters`). Dense kernels have one way only.
FORMS = ('1x1_kxk', 'kxk_1x1', 'loralib')

_TRACE_SIDE = 16  # pixels; for models that do not tell the smallest picture they take
_FUSED = 'qkv'  # name of the Dense that holds query, key and value side by side


class Site(NamedTuple):
  """A kernel, or a range of columns of a fused one, that can take an adapter.

  Attributes:
    name: path joined by '/', with ':q', ':k' or ':v' behind it for a part, e.g. 'layers_0/blocks_3/attn/qkv:v'.
    path: of the module that owns the kernel, in the parameter tree.
    kind: 'conv', 'attn' (a Dense with 'attn' in its path) or 'mlp' (any other Dense).
    shape: of what is adapted: (cin, cout) or (kh, kw, cin, cout); cout counts the columns of the part only.
    part: (start, stop) columns of the fused kernel, or None for all of it.
  """

  name: str
  path: tuple[str, ...]
  kind: str
  shape: tuple[int, ...]
  part: tuple[int, int] | None


def find_sites(model: nn.Module, exclude: Iterable[str] = (), split_qkv: bool = False) -> tuple[Site, ...]:
  """Returns the sites of `model` in order of execution; traces shapes only, so it needs no weights and no arithmetic.

  Every two-dimensional `nn.Conv` and every `nn.Dense` is a site, except grouped and depthwise convolutions: a low-rank
  update of a kernel with one input channel saves nothing. A module that is called twice is one site. A convolution that
  mixes its kernel from several `experts` is one site, too: the same update for all of them. What `model.frozen` names
  is left out.

  Args:
    model: takes (1, side, side, 3); `minimum` and `multiple`, where it has them, choose the side.
    exclude: regular expressions; a site is left out when one is found in its name.
    split_qkv: makes three sites of each fused `qkv`, so that query, key and value have ranks of their own.
  """
  found: dict[tuple[str, ...], Site] = {}

  def record(call, args, kwargs, context):
    y = call(*args, **kwargs)
    module = context.module
    if context.method_name == '__call__' and module.path not in found and _adaptable(module):
      found[module.path] = _whole(module, module.variables['params']['kernel'].shape)
    return y

  multiple = getattr(model, 'multiple', 1)
  side = -(-getattr(model, 'minimum', _TRACE_SIDE) // multiple) * multiple
  picture = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  with nn.intercept_methods(record):
    jax.eval_shape(model.init, jax.random.key(0), picture)
  sites = found.values()
  if split_qkv:
    sites = [part for site in sites for part in _parts(site)]
  exclude = (*exclude, *getattr(model, 'frozen', ()))
  return tuple(site for site in sites if not tree.matches(site.name, exclude))


def _adaptable(module: nn.Module) -> bool:
  if isinstance(module, nn.Conv):
    two_dimensional = not isinstance(module.kernel_size, int) and len(module.kernel_size) == 2
    return two_dimensional and module.feature_group_count == 1
  return isinstance(module, nn.Dense) or hasattr(module, 'experts') and module.has_variable('params', 'kernel')


def _whole(module: nn.Module, shape: tuple[int, ...]) -> Site:
  path, shape = module.path, shape[1:] if hasattr(module, 'experts') else shape
  dense_kind = 'attn' if any('attn' in element for element in path) else 'mlp'
  return Site('/'.join(path), path, 'conv' if len(shape) == 4 else dense_kind, tuple(shape), None)


def _parts(site: Site) -> list[Site]:
  if site.path[-1:] != (_FUSED,):
    return [site]
  cin, cout = site.shape
  width = cout // 3
  return [
    site._replace(name=f'{site.name}:{letter}', shape=(cin, width), part=(i * width, (i + 1) * width))
    for i, letter in enumerate('qkv')
  ]


def to_json(sites: Iterable[Site], ranks: Mapping[str, int]) -> list[dict[str, Any]]:
  """Returns the sites with their ranks (0 where absent) as JSON: what a method and an adapter file keep of them."""
  return [
    {field: list(value) if isinstance(value, tuple) else value for field, value in site._asdict().items()}
    | {'rank': int(ranks.get(site.name, 0))}
    for site in sites
  ]


def from_json(rows: Iterable[Mapping[str, Any]]) -> tuple[tuple[Site, ...], dict[str, int]]:
  """Inverse of `to_json`: (sites, ranks).

  Raises:
    UserError: a row is not that of a site.
  """
  sites, ranks = [], {}
  for row in rows:
    try:
      part = tuple(map(operator.index, row['part'])) if row['part'] else None
      shape = tuple(map(operator.index, row['shape']))
      site = Site(row['name'], tuple(row['path']), row['kind'], shape, part)
      rank = operator.index(row['rank'])
    except (KeyError, TypeError) as error:
      raise UserError(f'{shown(row)} does not describe a site ({type(error).__name__}: {shown(error)}).') from error
    if not _sound(site) or rank < 0 or site.name in ranks:
      raise UserError(f'{shown(row)} does not describe a site of a model, or describes it twice.')
    sites.append(site)
    ranks[site.name] = rank
  return tuple(sites), ranks


def _sound(site: Site) -> bool:
  kinds = {2: ('attn', 'mlp'), 4: ('conv',)}.get(len(site.shape), ())
  named = bool(site.path) and all(isinstance(element, str) for element in (site.name, *site.path))
  if not named or site.kind not in kinds or min(site.shape) < 1:
    return False
  if site.part is None:
    return True
  return len(site.part) == 2 and site.part[0] >= 0 and site.part[1] - site.part[0] == site.shape[-1]


def check_form(form: str) -> None:
  """Raises UserError unless `form` is one of FORMS."""
  if form not in FORMS:
    raise UserError(f'Adapter form {form!r} is not known; choose one of {", ".join(FORMS)}.')


def is_loralib(site: Site, form: str) -> bool:
  """Tells whether an adapter of `form` at `site` is one of 'loralib', which dense kernels have none of."""
  check_form(form)
  return form == 'loralib' and site.kind == 'conv'


def square(site: Site) -> int:
  """Returns k of a k x k convolution site; 'loralib' is defined for no other kernel.

  Raises:
    UserError: the kernel is not square.
  """
  kh, kw, _, _ = site.shape
  if kh != kw:
    raise UserError(
      f'Form loralib needs square kernels and {site.name} is {kh}x{kw}; choose another form or exclude this site.'
    )
  return kh


def shapes(site: Site, rank: int, form: str) -> dict[str, tuple[int, ...]]:
  """Returns the shapes of 'a' and 'b' at `site`.

  Raises:
    UserError: unknown form, or 'loralib' on a kernel that is not square.
  """
  check_form(form)
  *window, cin, cout = site.shape
  if not window:
    return {'a': (cin, rank), 'b': (rank, cout)}
  if form == 'loralib':
    k = square(site)
    return {'a': (rank * k, cin * k), 'b': (cout * k, rank * k)}
  if form == '1x1_kxk':
    return {'a': (cin, rank), 'b': (*window, rank, cout)}
  return {'a': (*window, cin, rank), 'b': (rank, cout)}


def cost(site: Site, form: str) -> int:
  """Returns the parameters that one unit of rank costs at `site`; errors as of `shapes`."""
  return sum(map(math.prod, shapes(site, 1, form).values()))


def kernel_width(site: Site) -> int:
  """Returns min(cin, cout), the rank above which the published counts spend parameters on nothing.

  It is the rank limit of a dense kernel and of 'loralib'; the other two convolution forms could use up to
  min(cin, kh kw cout) and min(kh kw cin, cout), and are capped alike so that rank maps can be compared.
  """
  return min(site.shape[-2:])


def table(sites: Sequence[Site], ranks: Mapping[str, int], form: str, biases: int = 0) -> str:
  """Returns the sites as text: name, kind, shape, rank and adapter parameters of each, with totals by kind.

  Args:
    sites: those of the model, in the order to print.
    ranks: site name -> rank; 0 or absent prints as 0.
    form: one of FORMS.
    biases: number of bias values that are trained beside the adapters.
  """
  parameters = {site.name: ranks.get(site.name, 0) * cost(site, form) for site in sites}
  rows = [('site', 'kind', 'kernel', 'rank', 'parameters')]
  for site in sites:
    kernel = 'x'.join(map(str, site.shape))
    rows.append((shown(site.name), site.kind, kernel, str(ranks.get(site.name, 0)), f'{parameters[site.name]:,}'))
  a, b, c, d, e = (max(map(len, column)) for column in zip(*rows, strict=True))
  lines = [f'{row[0]:{a}}  {row[1]:{b}}  {row[2]:{c}}  {row[3]:>{d}}  {row[4]:>{e}}' for row in rows]
  lines.insert(1, '  '.join('-' * width for width in (a, b, c, d, e)))
  for kind in dict.fromkeys(site.kind for site in sites):
    names = [site.name for site in sites if site.kind == kind]
    adapted = [ranks[name] for name in names if ranks.get(name, 0)]
    spent = sum(parameters[name] for name in names)
    lines.append(f'{kind}: {len(adapted)} of {len(names)} sites adapted, {sum(adapted):,} ranks, {spent:,} parameters')
  total = sum(parameters.values())
  lines.append(f'adapters ({form}) {total:,} + trained biases {biases:,} = {total + biases:,} parameters')
  lines.append('Depthwise and grouped kernels are not sites: a low-rank update of a one-input kernel saves nothing.')
  return '\n'.join(lines)

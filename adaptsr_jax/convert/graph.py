"""Networks as ONNX: what a model computes, traced by jax for pictures of any size, operation by operation.

The input is (batch, colours, height, width) in [0, 1], the output `upscale` times as high and wide, not clipped. All
three sizes are free, but for networks with absolute positions, which have one height and width. Where a network needs
multiples of a window, the graph itself extends the picture by reflection and cuts the result. Sizes within the network
are expressions in those of the picture (`jax.export.symbolic_shape`), and become nodes that compute them. What depends
on the parameters alone is computed here and stored.

Written out because jax2onnx 0.17 asks for orbax-checkpoint before 0.11.37, and this package for 0.12.
"""

import ast
import functools
import importlib
import itertools
import math
import os
import string
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adaptsr_jax import files
from adaptsr_jax.errors import UserError, first_line
from adaptsr_jax.tree import Params

SUFFIX = '.onnx'
OPSET, IR = 18, 8  # as onnxruntime 1.14 (2023) and later read them
TOLERANCE = 1e-4  # of what onnxruntime makes of a float32 graph, where pictures are in [0, 1]
_SIZES = ('b', 'h', 'w')  # batch, and height and width in multiples of what the network needs


def write(
  path: str | os.PathLike, model: Any, params: Params, metadata: Mapping[str, str], half: bool = False
) -> float:
  """Writes a network as an ONNX file, after onnxruntime has computed the same with it.

  Args:
    path: of the file.
    model: linen module.
    params: its parameters.
    metadata: name -> text, for `metadata_props` of the file.
    half: store the parameters as float16, half as large; computed is in float32 all the same.

  Returns:
    The largest difference of the results, where pictures are in [0, 1].

  Raises:
    UserError: the packages onnx and onnxruntime are missing, or the network does something that has no counterpart.
  """
  onnx = package('onnx')
  try:
    graph = _graph(model, jax.tree.map(_rounded, params) if half else params, half)
  except _Unknown as error:
    raise UserError(f'{path} is not written: {error}') from error
  proto = onnx.helper.make_model(
    graph,
    producer_name='adaptsr_jax',
    opset_imports=[onnx.helper.make_opsetid('', OPSET)],
    ir_version=IR,
  )
  onnx.helper.set_model_props(proto, dict(metadata))
  onnx.checker.check_model(proto)
  content = proto.SerializeToString()
  difference = _difference(content, model, params)
  if not difference <= TOLERANCE and not half:
    raise UserError(f'{path} is not written: onnxruntime computes something else with it, by up to {difference:.2g}.')
  files.write(path, content)
  return difference


def package(name: str) -> ModuleType:
  """Returns one of the packages that only ONNX needs; UserError where it is missing."""
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise UserError(
      f"ONNX needs the package {name}, which is not here ({first_line(error)}): pip install 'adaptsr-jax[onnx]'"
    ) from error


def _difference(content: bytes, model: Any, params: Params) -> float:
  """Returns by how much a graph differs from the model."""
  runtime = package('onnxruntime')
  options = runtime.SessionOptions()
  options.log_severity_level = 4
  session = runtime.InferenceSession(content, options, providers=['CPUExecutionProvider'])
  # Odd sides, in a batch: sizes that are mixed up, or taken for numbers, do not come out by chance.
  least, fixed = max(model.minimum, 2), fixed_side(model)
  height, width = (fixed, fixed) if fixed else (least + 9, least + 4)
  x = np.random.default_rng(0).random((2, height, width, colours(model)), np.float32)
  extra = [(0, -side % model.multiple) for side in (height, width)]
  expected = jax.jit(model.apply)({'params': params}, np.pad(x, ((0, 0), *extra, (0, 0)), 'reflect'))
  expected = np.asarray(expected)[:, : height * model.upscale, : width * model.upscale]
  (found,) = session.run(None, {'input': x.transpose(0, 3, 1, 2)})
  found = found.transpose(0, 2, 3, 1)
  return float(np.abs(found - expected).max()) if found.shape == expected.shape else math.inf


def _rounded(array: np.ndarray) -> np.ndarray:
  with np.errstate(over='ignore'):
    return array.astype(np.float16).astype(np.float32)


def colours(model: Any) -> int:
  """Returns the channels of the pictures that a network takes."""
  return len(model.rgb_mean) if hasattr(model, 'rgb_mean') else getattr(model, 'num_in_ch', 3)


def fixed_side(model: Any) -> int | None:
  """Returns the height and width of the only pictures that a network takes; None where they are free."""
  return model.minimum if getattr(model, 'ape', False) else None


class _Unknown(ValueError):
  """What has no counterpart here; one sentence."""


class _Late(NamedTuple):
  """A value that is yet to be expanded to `shape`: element by element, ONNX does that by itself."""

  value: Any
  shape: tuple[Any, ...]


def _graph(model: Any, params: Params, half: bool) -> Any:
  n, fixed = model.multiple, fixed_side(model)
  least = -(-model.minimum // n)
  scope = jax.export.SymbolicScope([f'h >= {least}', f'w >= {least}'])
  sides = f'{fixed}, {fixed}' if fixed else f'{n}*h, {n}*w'
  batch, height, width = jax.export.symbolic_shape(f'b, {sides}', scope=scope)
  x = jax.ShapeDtypeStruct((batch, height, width, colours(model)), jnp.float32)
  try:
    traced = jax.make_jaxpr(lambda x: model.apply({'params': params}, x))(x)
  except Exception as error:  # whatever a model does with a size that is no number
    raise _Unknown(
      f'{type(model).__name__} cannot be traced for pictures of any size ({first_line(error)}).'
    ) from error
  builder = _Builder(half)
  picture = builder.picture(n)
  (result,) = builder.run(traced.jaxpr, traced.consts, [picture])
  return builder.finished(result, model, n)


class _Builder:
  """The nodes and constants of a graph in the making.

  A value is a numpy array, which is known while the graph is made, the name of what a node computes, or `_Late`.
  """

  def __init__(self, half: bool):
    self._onnx = package('onnx')
    self._half = half
    self._nodes: list[Any] = []
    self._casts: list[Any] = []  # of constants; before all nodes, so that those in the bodies of loops find them too
    self._constants: dict[tuple[Any, ...], str] = {}
    self._stored: list[Any] = []
    self._sizes: dict[str, str] = {}  # expression -> name of an int64 tensor (1,)
    self._numbers = itertools.count()

  # Nodes

  def node(self, kind: str, *inputs: Any, **attributes: Any) -> str:
    """Adds a node with one output, and returns its name."""
    return self.nodes(kind, *inputs, outputs=1, **attributes)[0]

  def nodes(self, kind: str, *inputs: Any, outputs: int, **attributes: Any) -> list[str]:
    """Adds a node, and returns the names of its outputs."""
    names = [f'v{next(self._numbers)}' for _ in range(outputs)]
    given = [self.name(value) for value in inputs]
    self._nodes.append(self._onnx.helper.make_node(kind, given, names, **attributes))
    return names

  def name(self, value: Any) -> str:
    """Returns the name of a value; a known one is stored."""
    if isinstance(value, str):
      return value
    if isinstance(value, _Late):
      return self.name(self.full(value))
    array = np.asarray(value)
    key = (array.dtype.name, array.shape, array.tobytes())
    if key not in self._constants:
      self._constants[key] = self._store(array)
    return self._constants[key]

  def _store(self, array: np.ndarray) -> str:
    name = f'c{next(self._numbers)}'
    # All that parameters were made of was rounded before, and nothing else is.
    small = self._half and array.dtype == np.float32 and array.ndim and (_rounded(array) == array).all()
    stored = array.astype(np.float16) if small else array
    self._stored.append(self._onnx.numpy_helper.from_array(stored, name))
    if not small:
      return name
    self._casts.append(self._onnx.helper.make_node('Cast', [name], [f'{name}f'], to=self.type_of(np.float32)))
    return f'{name}f'

  def type_of(self, dtype: Any) -> int:
    return self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

  # Sizes

  def picture(self, multiple: int) -> str:
    """Returns the input as (b, h, w, c), extended to whole multiples."""
    shape = self.node('Shape', 'input')
    names = [self.node('Slice', shape, *(np.array([i]) for i in (at, at + 1, 0))) for at in (0, 2, 3)]
    units = [self.node('Div', self.node('Add', n, np.array([multiple - 1])), np.array([multiple])) for n in names[1:]]
    self._sizes |= dict(zip(_SIZES, [names[0], *units], strict=True))
    self._picture = names[1:]
    x = 'input'
    if multiple > 1:
      extra = [self.node('Sub', self.size(f'{multiple}*{unit}'), n) for unit, n in zip('hw', names[1:], strict=True)]
      x = self.node('Pad', x, self.node('Concat', np.zeros(6, np.int64), *extra, axis=0), mode='reflect')
    return self.node('Transpose', x, perm=[0, 2, 3, 1])

  def finished(self, result: Any, model: Any, multiple: int) -> Any:
    """Returns the graph whose output is `result` as (b, c, h, w), cut to the size of the picture."""
    make, kind = self._onnx.helper, self.type_of(np.float32)
    y = self.node('Transpose', self.full(result), perm=[0, 3, 1, 2])
    if multiple > 1:
      ends = [self.node('Mul', name, np.array([model.upscale])) for name in self._picture]
      y = self.node('Slice', y, np.array([0, 0]), self.node('Concat', *ends, axis=0), np.array([2, 3]))
    self._nodes.append(make.make_node('Identity', [y], ['output']))
    shapes = {'input': ['height', 'width'], 'output': ['height_out', 'width_out']}
    if fixed_side(model):
      shapes = {'input': [fixed_side(model)] * 2, 'output': [fixed_side(model) * model.upscale] * 2}
    ends = [make.make_tensor_value_info(at, kind, ['batch', colours(model), *free]) for at, free in shapes.items()]
    nodes = self._casts + self._nodes
    return make.make_graph(nodes, type(model).__name__, ends[:1], ends[1:], self._stored)

  def shape(self, sizes: Sequence[Any]) -> Any:
    """Returns sizes, numbers or expressions, as an int64 vector."""
    if all(isinstance(size, int) for size in sizes):
      return np.array(sizes, np.int64)
    return self.node('Concat', *(np.array([s]) if isinstance(s, int) else self.size(str(s)) for s in sizes), axis=0)

  def size(self, expression: str) -> str:
    """Returns an expression in b, h and w, as jax writes it, as an int64 vector of one."""
    if expression not in self._sizes:
      tree = ast.parse(expression.replace('^', '**'), mode='eval').body
      self._sizes[expression] = self.node('Identity', self._computed(tree))
    return self._sizes[expression]

  def _computed(self, tree: ast.AST) -> Any:
    match tree:
      case ast.Constant(value=int(value)):
        return np.array([value])
      case ast.Name(id=name):
        return self._sizes[name]
      case ast.UnaryOp(op=ast.USub(), operand=operand):
        return self.node('Neg', self._computed(operand))
      case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
        return self.node(_ARITHMETIC[type(op)], self._computed(left), self._computed(right))
      case ast.Call(func=ast.Name(id=name), args=[left, right]) if name in _DIVISIONS:
        return self._divided(name, self._computed(left), self._computed(right))
    raise _Unknown(f'the size {ast.unparse(tree)} cannot be computed there.')

  def _divided(self, name: str, left: Any, right: Any) -> str:
    if name in ('max', 'min'):
      return self.node(name.capitalize(), left, right)
    rest = self.node('Mod', left, right)  # of the sign of `right`, as in Python
    return rest if name == 'mod' else self.node('Div', self.node('Sub', left, rest), right)

  def full(self, value: Any) -> Any:
    """Returns a value in its whole shape."""
    return self.node('Expand', value.value, self.shape(value.shape)) if isinstance(value, _Late) else value

  # Programs

  def run(self, jaxpr: Any, constants: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    """Adds what a program computes; returns its results."""
    values = dict(zip(jaxpr.constvars, map(np.asarray, constants), strict=True))
    values |= dict(zip(jaxpr.invars, inputs, strict=True))

    def of(variable: Any) -> Any:
      return np.asarray(variable.val, variable.aval.dtype) if hasattr(variable, 'val') else values[variable]

    for equation in jaxpr.eqns:
      given = [of(variable) for variable in equation.invars]
      results = self._results(equation, given)
      values |= dict(zip(equation.outvars, results, strict=True))
    return [of(variable) for variable in jaxpr.outvars]

  def _results(self, equation: Any, given: list[Any]) -> list[Any]:
    name = equation.primitive.name
    for inner in ('jaxpr', 'call_jaxpr'):
      if inner in equation.params and name in _CALLS:
        program = equation.params[inner]
        consts = getattr(program, 'consts', ())
        return self.run(getattr(program, 'jaxpr', program), consts, given)
    shapes = [variable.aval.shape for variable in equation.outvars]
    fixed = all(isinstance(size, int) for shape in shapes for size in shape)
    if fixed and name != 'dim_as_value' and all(isinstance(value, np.ndarray) for value in given):
      if name in _KNOWN:  # jax would compile a program for every shape
        return [_KNOWN[name](given[0], equation.params)]
      found = equation.primitive.bind(*given, **equation.params)
      return [np.asarray(each) for each in (found if equation.primitive.multiple_results else [found])]
    if name not in _HANDLERS:
      raise _Unknown(f'the operation {name} has no counterpart there.')
    found = _HANDLERS[name](self, equation, given)
    return found if isinstance(found, list) else [found]

  def looped(self, program: Any, known: Sequence[Any], inputs: Sequence[Any]) -> list[str]:
    """Adds a program that runs for every entry of the inputs, along their first axis; returns its results, stacked.

    Args:
      program: closed jaxpr.
      known: its first arguments, the same for all entries.
      inputs: its other arguments.
    """
    make = self._onnx.helper
    outer = self._nodes, dict(self._sizes)
    self._nodes = []
    names = [f'v{next(self._numbers)}' for _ in inputs]
    results = [self.name(each) for each in self.run(program.jaxpr, program.consts, [*known, *names])]

    def typed(names: Sequence[str], avals: Sequence[Any]) -> list[Any]:
      pairs = zip(names, avals, strict=True)
      return [make.make_tensor_value_info(name, self.type_of(aval.dtype), None) for name, aval in pairs]

    ends = typed(names, program.in_avals[len(known) :]), typed(results, program.out_avals)
    body = make.make_graph(self._nodes, 'body', *ends)
    self._nodes, self._sizes = outer  # what was computed within is not seen from outside
    return self.nodes('Scan', *inputs, outputs=len(results), body=body, num_scan_inputs=len(inputs))

  def elementwise(self, equation: Any, given: Sequence[Any], kind: str) -> str:
    """Adds a node whose inputs ONNX expands to one another, where one of them has the whole shape."""
    shape = equation.outvars[0].aval.shape
    whole = [not isinstance(v, _Late) and a.aval.shape == shape for v, a in zip(given, equation.invars, strict=True)]
    if not any(whole):
      given = [self.full(value) for value in given]
    return self.node(kind, *(value.value if isinstance(value, _Late) else value for value in given))


_ARITHMETIC = {ast.Add: 'Add', ast.Sub: 'Sub', ast.Mult: 'Mul', ast.Pow: 'Pow'}
_DIVISIONS = ('floordiv', 'mod', 'max', 'min')
_CALLS = ('jit', 'pjit', 'closed_call', 'core_call', 'custom_jvp_call', 'custom_vjp_call', 'checkpoint', 'remat')

_KNOWN: dict[str, Callable[[np.ndarray, Mapping[str, Any]], np.ndarray]] = {
  'convert_element_type': lambda x, p: x.astype(p['new_dtype']),
  'reshape': lambda x, p: x.reshape(p['new_sizes']),
  'squeeze': lambda x, p: np.squeeze(x, p['dimensions']),
  'transpose': lambda x, p: x.transpose(p['permutation']),
}

Handler = Callable[[_Builder, Any, list[Any]], Any]


def _select(builder, equation, given):
  which, *cases = given
  if len(cases) != 2 or equation.invars[0].aval.dtype != np.bool_:
    raise _Unknown('a choice among more than two has no counterpart there.')
  return builder.node('Where', *(builder.full(value) for value in (which, cases[1], cases[0])))


def _converted(builder, equation, given):
  dtype = equation.params['new_dtype']
  if dtype == equation.invars[0].aval.dtype:
    return given[0]
  cast = functools.partial(builder.node, 'Cast', to=builder.type_of(dtype))
  return _Late(cast(given[0].value), given[0].shape) if isinstance(given[0], _Late) else cast(given[0])


def _size_as_value(builder, equation, given):
  one = builder.size(str(equation.params['dim']))
  dtype = equation.outvars[0].aval.dtype
  return builder.node('Cast', builder.node('Squeeze', one, np.array([0])), to=builder.type_of(dtype))


def _expanded(builder, equation, given):
  x, shape, places = given[0], equation.params['shape'], equation.params['broadcast_dimensions']
  old = equation.invars[0].aval.shape
  sizes: list[Any] = [1] * len(shape)
  for place, size in zip(places, old, strict=True):
    sizes[place] = size
  if isinstance(x, np.ndarray):
    x = x.reshape(sizes)
  elif len(old) < len(shape):
    added = [i for i in range(len(shape)) if i not in places]
    x = builder.node('Unsqueeze', builder.full(x), np.array(added))
  else:
    x = builder.full(x)
  return x if tuple(sizes) == tuple(shape) else _Late(x, tuple(shape))


def _reshaped(builder, equation, given):
  x, sizes = builder.full(given[0]), list(equation.params['new_sizes'])
  free = [i for i, size in enumerate(sizes) if not isinstance(size, int)]
  if len(free) == 1 and 0 not in sizes:
    sizes[free[0]] = -1
  return builder.node('Reshape', x, builder.shape(sizes))


def _sliced(builder, equation, given):
  p = equation.params
  steps = list(p['strides'] or [1] * len(p['start_indices']))
  bounds = zip(p['start_indices'], p['limit_indices'], equation.invars[0].aval.shape, steps, strict=True)
  whole = [isinstance(low, int) and (low, high, step) == (0, size, 1) for low, high, size, step in bounds]
  axes = [i for i, all_of_it in enumerate(whole) if not all_of_it]
  if not axes:
    return given[0]
  ends = (builder.shape([p[name][i] for i in axes]) for name in ('start_indices', 'limit_indices'))
  return builder.node('Slice', given[0], *ends, np.array(axes), np.array([steps[i] for i in axes]))


def _scanned(builder, equation, given):
  p = equation.params
  if p['num_carry'] or p['reverse']:
    raise _Unknown('a loop whose turns depend on each other has no counterpart there.')
  known, inputs = given[: p['num_consts']], given[p['num_consts'] :]
  return builder.looped(p['jaxpr'], known, inputs)


def _split(builder, equation, given):
  sizes, axis = equation.params['sizes'], equation.params['axis']
  return builder.nodes('Split', given[0], builder.shape(sizes), outputs=len(sizes), axis=axis)


def _padded(builder, equation, given):
  config = equation.params['padding_config']
  if any(inner for *_, inner in config):
    raise _Unknown('padding between elements has no counterpart there.')
  around = [low for low, _, _ in config] + [high for _, high, _ in config]
  return builder.node('Pad', given[0], builder.shape(around), given[1])


def _reversed(builder, equation, given):
  axes = list(equation.params['dimensions'])
  ends = ([-1] * len(axes), [np.iinfo(np.int64).min] * len(axes), axes, [-1] * len(axes))
  return builder.node('Slice', given[0], *map(np.array, ends))


def _counted(builder, equation, given):
  p, dtype = equation.params, equation.outvars[0].aval.dtype
  axis, shape = p['dimension'], p['shape']
  end = builder.node('Squeeze', builder.shape(shape[axis : axis + 1]), np.array([0]))
  line = builder.node('Cast', builder.node('Range', np.array(0), end, np.array(1)), to=builder.type_of(dtype))
  if len(shape) == 1:
    return line
  sizes = [-1 if i == axis else 1 for i in range(len(shape))]
  return _Late(builder.node('Reshape', line, np.array(sizes)), tuple(shape))


def _convolved(builder, equation, given):
  p, (x, kernel) = equation.params, given
  if set(p['lhs_dilation']) != {1} or p['batch_group_count'] != 1:
    raise _Unknown('a transposed convolution has no counterpart there.')
  numbers = p['dimension_numbers']
  if isinstance(kernel, np.ndarray):
    kernel = kernel.transpose(numbers.rhs_spec)
  else:
    kernel = builder.node('Transpose', kernel, perm=list(numbers.rhs_spec))
  if not all(isinstance(n, int) for pair in p['padding'] for n in pair):
    raise _Unknown('a padding that depends on the size has no counterpart there.')
  y = builder.node(
    'Conv',
    builder.node('Transpose', x, perm=list(numbers.lhs_spec)),
    kernel,
    pads=[low for low, _ in p['padding']] + [high for _, high in p['padding']],
    strides=list(p['window_strides']),
    dilations=list(p['rhs_dilation']),
    group=p['feature_group_count'],
  )
  return builder.node('Transpose', y, perm=np.argsort(numbers.out_spec).tolist())


def _multiplied(builder, equation, given):
  (left, right), (batch, same) = equation.params['dimension_numbers']
  ranks = [len(variable.aval.shape) for variable in equation.invars]
  leading, rows = tuple(range(len(batch))), not batch and left == (ranks[0] - 1,)  # rows may lie along several axes
  if batch == same == leading and len(left) == 1 and ranks[1] == len(batch) + 2 and (rows or ranks[0] == ranks[1]):
    x, y = given
    swap = [*leading, ranks[1] - 1, ranks[1] - 2]
    x = x if left == (ranks[0] - 1,) else builder.node('Transpose', x, perm=swap)
    if right != (ranks[1] - 2,):
      y = y.transpose(swap) if isinstance(y, np.ndarray) else builder.node('Transpose', y, perm=swap)
    return builder.node('MatMul', x, y)
  letters = iter(string.ascii_letters)
  first = [next(letters) for _ in range(ranks[0])]
  second = [next(letters) for _ in range(ranks[1])]
  for i, j in zip((*left, *batch), (*right, *same), strict=True):
    second[j] = first[i]
  free = [each for i, each in enumerate(first) if i not in (*left, *batch)]
  free += [each for j, each in enumerate(second) if j not in (*right, *same)]
  out = [first[i] for i in batch] + free
  return builder.node('Einsum', *given, equation=f'{"".join(first)},{"".join(second)}->{"".join(out)}')


def _taken(builder, equation, given):
  """Entries along one axis, as `jnp.take` asks for them; indices that are not there do not occur."""
  p, numbers = equation.params, equation.params['dimension_numbers']
  shape, at = equation.invars[0].aval.shape, equation.invars[1].aval.shape
  plain = len(numbers.start_index_map) == 1 and numbers.collapsed_slice_dims == numbers.start_index_map
  if not plain or numbers.operand_batching_dims:
    raise _Unknown('entries at places that are computed have no counterpart there.')
  (axis,) = numbers.start_index_map
  whole = tuple(1 if i == axis else size for i, size in enumerate(shape))
  out = len(equation.outvars[0].aval.shape)
  between = tuple(range(axis, axis + len(at) - 1))
  if tuple(p['slice_sizes']) != whole or numbers.offset_dims != tuple(i for i in range(out) if i not in between):
    raise _Unknown('entries of parts have no counterpart there.')
  index = given[1]
  index = index[..., 0] if isinstance(index, np.ndarray) else builder.node('Squeeze', index, np.array([-1]))
  return builder.node('Gather', given[0], index, axis=axis)


_HANDLERS: dict[str, Handler] = {
  **{
    name: functools.partial(_Builder.elementwise, kind=kind)
    for name, kind in {
      **{'add': 'Add', 'add_any': 'Add', 'sub': 'Sub', 'mul': 'Mul', 'div': 'Div', 'max': 'Max', 'min': 'Min'},
      **{'neg': 'Neg', 'abs': 'Abs', 'sign': 'Sign', 'floor': 'Floor', 'exp': 'Exp', 'log': 'Log', 'tanh': 'Tanh'},
      **{'erf': 'Erf', 'sqrt': 'Sqrt', 'logistic': 'Sigmoid', 'pow': 'Pow', 'and': 'And', 'or': 'Or', 'not': 'Not'},
      **{'eq': 'Equal', 'lt': 'Less', 'le': 'LessOrEqual', 'gt': 'Greater', 'ge': 'GreaterOrEqual'},
    }.items()
  },
  **{
    name: lambda builder, equation, given, kind=kind: builder.node(
      kind, *given, np.array(equation.params['axes'], np.int64), keepdims=0
    )
    for name, kind in (('reduce_sum', 'ReduceSum'), ('reduce_max', 'ReduceMax'))
  },
  **dict.fromkeys(('stop_gradient', 'copy', 'copy_p', 'reduce_precision'), lambda builder, equation, given: given[0]),
  'broadcast_in_dim': _expanded,
  'clamp': lambda builder, _, given: builder.node('Min', builder.node('Max', given[1], given[0]), given[2]),
  'concatenate': lambda builder, equation, given: builder.node('Concat', *given, axis=equation.params['dimension']),
  'conv_general_dilated': _convolved,
  'convert_element_type': _converted,
  'dim_as_value': _size_as_value,
  'dot_general': _multiplied,
  'gather': _taken,
  'integer_pow': lambda builder, equation, given: builder.node(
    'Pow', given[0], np.asarray(equation.params['y'], equation.invars[0].aval.dtype)
  ),
  'iota': _counted,
  'ne': lambda builder, *rest: builder.node('Not', builder.elementwise(*rest, 'Equal')),
  'pad': _padded,
  'rem': lambda builder, _, given: builder.node('Mod', *map(builder.full, given), fmod=1),  # of the sign of the first
  'reshape': _reshaped,
  'rev': _reversed,
  'rsqrt': lambda builder, _, given: builder.node('Reciprocal', builder.node('Sqrt', *given)),
  'scan': _scanned,
  'select_n': _select,
  'slice': _sliced,
  'split': _split,
  'square': lambda builder, _, given: builder.node('Mul', *given, *given),
  'squeeze': lambda builder, equation, given: builder.node('Squeeze', *given, np.array(equation.params['dimensions'])),
  'transpose': lambda builder, equation, given: builder.node(
    'Transpose', *given, perm=list(equation.params['permutation'])
  ),
}

"""Reads the pickles of PyTorch files as data: nothing in them is ever imported or called.

A pickle is a program for a small stack machine. This one knows the opcodes that build plain values, and the names of
tensors and containers; an object of any other class (a config, a history) becomes a `tensors.Opaque`, and what is no
data (`posix.system`, `builtins.eval`) stops the reading. Opcodes are decoded by `pickletools` of the standard library;
the forms of tensors and storages are those of `torch.save`.
"""

import pickletools
from typing import Any, BinaryIO

from adaptsr_jax.convert import tensors
from adaptsr_jax.errors import shown

MAX_OPCODES = 2_000_000  # of one pickle; a network of 1,000 tensors has 30,000

_LITERALS = frozenset({
  'INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4', 'FLOAT', 'BINFLOAT',
  'STRING', 'BINSTRING', 'SHORT_BINSTRING', 'UNICODE', 'SHORT_BINUNICODE', 'BINUNICODE', 'BINUNICODE8',
  'SHORT_BINBYTES', 'BINBYTES', 'BINBYTES8', 'BYTEARRAY8',
})  # fmt: skip
_CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False}


def load(stream: BinaryIO) -> tuple[Any, dict[str, tensors.Storage]]:
  """Reads one pickle and leaves `stream` right behind it.

  Returns:
    The value, with `tensors.Tensor` for tensors, and the storages it speaks of by key.

  Raises:
    tensors.Refused: the pickle names what is not on the list, or does what plain data does not need.
    Exception: any other, for bytes that are no pickle.
  """
  return _Machine().run(stream)


class _Machine:
  """The stack machine; `below` holds the stacks that lie under each open mark."""

  def __init__(self):
    self.stack: list[Any] = []
    self.below: list[list[Any]] = []
    self.memo: dict[int, Any] = {}
    self.storages: dict[str, tensors.Storage] = {}

  def run(self, stream: BinaryIO) -> tuple[Any, dict[str, tensors.Storage]]:
    for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
      if number > MAX_OPCODES:
        raise tensors.Refused(f'its pickle has more than {MAX_OPCODES} operations')
      name = opcode.name
      if name in _LITERALS:
        self.stack.append(argument)
      elif name in _CONSTANTS:
        self.stack.append(_CONSTANTS[name])
      else:
        self.step(name, argument)
    return self.stack.pop(), self.storages

  def step(self, name: str, argument: Any) -> None:
    stack = self.stack
    match name:
      case 'PROTO' | 'FRAME' | 'STOP':
        pass
      case 'MARK':
        self.below.append(stack)
        self.stack = []
      case 'POP':
        stack.pop()
      case 'POP_MARK':
        self.to_mark()
      case 'DUP':
        stack.append(stack[-1])
      case 'BINPUT' | 'LONG_BINPUT' | 'PUT':
        self.memo[argument] = stack[-1]
      case 'MEMOIZE':
        self.memo[len(self.memo)] = stack[-1]
      case 'BINGET' | 'LONG_BINGET' | 'GET':
        stack.append(self.memo[argument])
      case 'EMPTY_DICT':
        stack.append({})
      case 'EMPTY_LIST' | 'EMPTY_SET':
        stack.append([])
      case 'EMPTY_TUPLE':
        stack.append(())
      case 'TUPLE1' | 'TUPLE2' | 'TUPLE3':
        count = int(name[-1])
        stack[-count:] = [tuple(stack[-count:])]
      case 'TUPLE' | 'FROZENSET':
        self.push(tuple(self.to_mark()))
      case 'LIST':
        self.push(self.to_mark())
      case 'DICT':
        self.push(_pairs(self.to_mark()))
      case 'SETITEM':
        value, key = stack.pop(), stack.pop()
        _update(stack[-1], tensors.plain_dict([(key, value)]))
      case 'SETITEMS':
        pairs = _pairs(self.to_mark())
        _update(self.stack[-1], pairs)
      case 'APPEND':
        value = stack.pop()
        _extend(stack[-1], [value])
      case 'APPENDS' | 'ADDITEMS':
        values = self.to_mark()
        _extend(self.stack[-1], values)
      case 'GLOBAL':
        stack.append(tensors.find(argument.replace(' ', '.', 1)))
      case 'STACK_GLOBAL':
        attribute, module = stack.pop(), stack.pop()
        if not isinstance(module, str) or not isinstance(attribute, str):
          raise tensors.Refused('it names something other than by text')
        stack.append(tensors.find(f'{module}.{attribute}'))
      case 'REDUCE':
        arguments, function = stack.pop(), stack.pop()
        stack.append(tensors.call(function, arguments))
      case 'NEWOBJ':
        arguments, kind = stack.pop(), stack.pop()
        stack.append(tensors.instance(kind, arguments))
      case 'NEWOBJ_EX':
        _, arguments, kind = stack.pop(), stack.pop(), stack.pop()
        stack.append(tensors.instance(kind, arguments))
      case 'BUILD':
        state = stack.pop()
        if isinstance(stack[-1], tensors.Opaque):
          stack[-1].build(state)
        elif not isinstance(stack[-1], dict | tensors.Tensor):
          raise tensors.Refused('it sets the state of something that has none')
      case 'BINPERSID':
        stack.append(self.persistent(*stack.pop()))
      case 'INST':
        tensors.find(argument.replace(' ', '.', 1))
        raise tensors.Refused('it makes an object in a way that a weight file does not need')
      case _:
        raise tensors.Refused(f'it uses the pickle operation {name}, which a weight file does not need')

  def push(self, value: Any) -> None:
    self.stack.append(value)

  def to_mark(self) -> list[Any]:
    """Returns what was pushed since the last mark and goes back to the stack below it."""
    values, self.stack = self.stack, self.below.pop()
    return values

  def persistent(
    self, kind: str, what: Any, key: Any = None, _location: Any = None, count: Any = None, view: Any = None
  ) -> Any:
    """Returns a storage, or the class of a whole model, which the stream format writes with its source text."""
    if kind == 'module' and isinstance(what, tensors.Name):
      return what
    if kind != 'storage' or not isinstance(what, tensors.StorageType):
      raise tensors.Refused('it refers to something outside the file that is not a storage of numbers')
    if not isinstance(key, str) or not isinstance(count, int) or not 0 <= count < 2**63:
      raise tensors.Refused('it speaks of a storage without a proper name or size')
    storage = self.storages.setdefault(key, tensors.Storage(key, what.dtype, count))
    if (storage.dtype, storage.count) != (what.dtype, count):
      raise tensors.Refused(f'it gives two types or sizes to the storage {shown(key)}')
    return storage if view is None else tensors.StorageView(storage, view[1])


def _pairs(flat: list[Any]) -> dict:
  return tensors.plain_dict(zip(flat[::2], flat[1::2], strict=True))


def _update(target: Any, items: dict) -> None:
  if isinstance(target, tensors.Opaque):
    target = target.items
  if not isinstance(target, dict):
    raise tensors.Refused('it puts items into something that is not a dict')
  target.update(items)


def _extend(target: Any, items: list) -> None:
  if isinstance(target, list):
    target.extend(items)
  elif not isinstance(target, tensors.Opaque):
    raise tensors.Refused('it appends to something that is not a list')

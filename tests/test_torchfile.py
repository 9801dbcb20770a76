"""Reading and writing .pth without PyTorch: what PyTorch wrote, what is damaged, and what is out to harm."""

import contextlib
import gzip
import io
import os
import pickle
import struct
import time
import zipfile

import ml_dtypes
import numpy as np
import pytest

from adaptsr_jax.convert import torchfile
from adaptsr_jax.errors import UserError
from tests.shared import GOLDEN

BOTH_FORMATS = pytest.mark.parametrize('as_zip', [True, False], ids=['zip', 'stream'])


def as_zip_file(path, content: bytes, **records: bytes):
  with zipfile.ZipFile(path, 'w') as archive:
    for name, record in {'data.pkl': content, **records}.items():
      archive.writestr(f'archive/{name}', record)
  return path


def as_stream_file(path, content: bytes):
  head = [pickle.dumps(value, protocol=2) for value in (torchfile.MAGIC, 1001, {'little_endian': True})]
  path.write_bytes(b''.join(head) + content + pickle.dumps([], protocol=2))
  return path


def as_file(path, content: bytes, as_zip: bool):
  return (as_zip_file if as_zip else as_stream_file)(path, content)


def saved(path, tree):
  with open(path, 'wb') as file:
    torchfile.save(file, tree)
  return path


# What PyTorch writes.


def torch_tensors(torch):
  """Tensors of every type and of every way to lie in a storage."""
  grid = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
  types = ('float64', 'float32', 'float16', 'bfloat16', 'int64', 'int32', 'int16', 'int8', 'uint8', 'bool')
  return {
    **{name: torch.tensor([[0, 1, 2], [3, 100, 5]]).to(getattr(torch, name)) for name in types},
    'complex64': torch.tensor([1 + 2j, 3 - 4j]),
    'scalar': torch.tensor(2.5),
    'empty': torch.zeros(0, 3),
    'offset': grid[1:],
    'strided': grid[:, ::2, 1::3],
    'transposed': grid.permute(2, 0, 1),
    'expanded': torch.tensor([1.0, 2.0])[:, None].expand(2, 3),
    'parameter': torch.nn.Parameter(torch.ones(2, 2)),
    'frozen': torch.nn.Parameter(torch.ones(2), requires_grad=False),
  }


def torch_bytes(torch, tensor) -> bytes:
  tensor = tensor.detach().contiguous()
  return tensor.view(torch.uint8).numpy().tobytes() if tensor.dim() and tensor.numel() else tensor.numpy().tobytes()


@pytest.mark.parametrize('protocol', [2, 4])
@BOTH_FORMATS
def test_reads_every_type_and_view_as_pytorch_does(torch, tmp_path, as_zip, protocol):
  tensors = torch_tensors(torch)
  path = tmp_path / 'all.pth'
  torch.save(tensors, path, _use_new_zipfile_serialization=as_zip, pickle_protocol=protocol)
  loaded = torchfile.load(path)
  assert list(loaded) == list(tensors)
  for name, tensor in tensors.items():
    array = loaded[name].numpy()
    assert array.shape == tuple(tensor.shape), name
    assert array.dtype.name == str(tensor.dtype).removeprefix('torch.'), name
    assert array.tobytes() == torch_bytes(torch, tensor), name
    assert array.flags.owndata
    assert array.flags.c_contiguous


def test_reads_types_without_a_storage_class(torch, tmp_path):
  tensors = {name: torch.tensor([1, 2, 3]).to(getattr(torch, name)) for name in ('uint16', 'uint32', 'float8_e4m3fn')}
  torch.save({**tensors, 'part': tensors['uint32'][1:]}, tmp_path / 'x.pth')
  loaded = torchfile.load(tmp_path / 'x.pth')
  for name, tensor in tensors.items():
    assert loaded[name].numpy().tobytes() == tensor.view(torch.uint8).numpy().tobytes()
  np.testing.assert_array_equal(loaded['part'].numpy(), [2, 3])


@BOTH_FORMATS
def test_shared_storage_is_read_by_all_its_tensors(torch, tmp_path, as_zip):
  x = torch.arange(6.0)
  path = tmp_path / 'x.pth'
  torch.save({'whole': x, 'half': x[3:], 'again': x}, path, _use_new_zipfile_serialization=as_zip)
  loaded = {name: tensor.numpy() for name, tensor in torchfile.load(path).items()}
  np.testing.assert_array_equal(loaded['half'], [3, 4, 5])
  np.testing.assert_array_equal(loaded['again'], loaded['whole'])


@BOTH_FORMATS
def test_skips_the_records_of_a_training_run(torch, tmp_path, as_zip):
  import argparse
  import collections
  import pathlib

  model = torch.nn.Linear(2, 3)
  optimizer = torch.optim.Adam(model.parameters())
  model(torch.ones(1, 2)).sum().backward()
  optimizer.step()
  weight = torch.ones(2)
  weight.note = 'an attribute of a tensor'
  state = {
    'model': model.state_dict(),
    'optimizer': optimizer.state_dict(),
    'milestones': collections.Counter([1000, 2000]),
    'lists': collections.defaultdict(list, a=[1]),
    'loss': np.float64(0.5),
    'curve': np.arange(3),
    'args': argparse.Namespace(scale=2),
    'folder': pathlib.PurePosixPath('runs'),
    'device': torch.device('cpu'),
    'type': torch.float16,
    'size': torch.Size([1, 2]),
    'storage': torch.ones(2).untyped_storage(),
    'noted': weight,
  }
  path = tmp_path / 'run.pth'
  torch.save(state, path, _use_new_zipfile_serialization=as_zip)
  loaded = torchfile.load(path)
  assert list(loaded) == list(state)
  assert loaded['size'] == (1, 2)
  np.testing.assert_array_equal(loaded['noted'].numpy(), [1, 1])
  np.testing.assert_array_equal(loaded['model']['weight'].numpy(), model.weight.detach().numpy())


def test_stream_files_with_views_of_storages(torch, tmp_path):
  """Files before 2018 describe parts of a storage by (key, start, size)."""

  class Writer(pickle._Pickler):
    def persistent_id(self, value):
      return ('storage', torch.FloatStorage, 'root', 'cpu', 6, value.view) if isinstance(value, Part) else None

  class Part:
    def __init__(self, view):
      self.view = view

  class Tensor:
    def __init__(self, *arguments):
      self.arguments = arguments

    def __reduce__(self):
      return torch._utils._rebuild_tensor, self.arguments

  buffer = io.BytesIO()
  tree = {'all': Tensor(Part(None), 0, (2, 3), (3, 1)), 'end': Tensor(Part(('v', 4, 2)), 1, (1,), (1,))}
  Writer(buffer, 2).dump(tree)
  path = as_stream_file(tmp_path / 'old.pt', b'')
  head = path.read_bytes()[: -len(pickle.dumps([], protocol=2))]
  storage = struct.pack('<q6f', 6, *range(6))
  path.write_bytes(head + buffer.getvalue() + pickle.dumps(['root'], protocol=2) + storage)
  loaded = torchfile.load(path)
  np.testing.assert_array_equal(loaded['all'].numpy(), [[0, 1, 2], [3, 4, 5]])
  np.testing.assert_array_equal(loaded['end'].numpy(), [5])


def test_reads_big_endian_storages(tmp_path):
  arrays = {
    'f': np.array([[1.5, -2]], np.float32),
    'b': np.array([1.5, 3], ml_dtypes.bfloat16),
    'i': np.array([258], np.int64),
  }
  path = saved(tmp_path / 'little.pth', arrays)
  with zipfile.ZipFile(path) as archive:
    records = {name.removeprefix('archive/'): archive.read(name) for name in archive.namelist()}
  records['byteorder'] = b'big'
  for key, array in enumerate(arrays.values()):
    records[f'data/{key}'] = array.byteswap().tobytes()
  loaded = torchfile.load(as_zip_file(tmp_path / 'big.pth', records.pop('data.pkl'), **records))
  for name, array in arrays.items():
    assert loaded[name].numpy().dtype == array.dtype
    np.testing.assert_array_equal(loaded[name].numpy(), array)


# What PyTorch reads.


def test_pytorch_reads_what_is_written(torch, tmp_path):
  names = ('float64', 'float32', 'float16', 'bfloat16', 'int64', 'int32', 'int16', 'int8', 'uint8', 'bool')
  arrays = {
    **{name: np.array([[0, 1, 2], [3, 100, 5]]).astype(name) for name in names},
    'scalar': np.array(2.5, np.float32),
    'empty': np.zeros((0, 3), np.float32),
    'transposed': np.arange(12, dtype=np.float32).reshape(3, 4).T,
    'long_name_of_a_weight_é': np.ones((2, 1, 3, 3), np.float16),
  }
  path = saved(tmp_path / 'x.pth', {'params': arrays, 'params_ema': arrays})
  for mmap in (False, True):
    loaded = torch.load(path, weights_only=True, mmap=mmap)
    assert list(loaded) == ['params', 'params_ema']
    for wrapper in loaded:
      assert list(loaded[wrapper]) == list(arrays)
      for name, tensor in loaded[wrapper].items():
        assert tuple(tensor.shape) == arrays[name].shape
        assert str(tensor.dtype) == f'torch.{arrays[name].dtype.name}'
        assert torch_bytes(torch, tensor) == arrays[name].tobytes(), name


def test_bare_weights_become_an_ordered_dict_that_loads_strictly(torch, tmp_path):
  model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 3, 1))
  arrays = {name: np.full(tensor.shape, 0.5, np.float32) for name, tensor in model.state_dict().items()}
  loaded = torch.load(saved(tmp_path / 'x.pth', arrays), weights_only=True)
  assert type(loaded).__name__ == 'OrderedDict'
  model.load_state_dict(loaded, strict=True)
  assert model[1].bias.tolist() == [0.5, 0.5, 0.5]


def test_written_bytes_are_the_same_each_time_and_aligned(tmp_path):
  arrays = {f'w{i}': np.full((i + 1, 3), i, np.float32) for i in range(5)}
  first, second = saved(tmp_path / 'a.pth', arrays), saved(tmp_path / 'b.pth', arrays)
  assert first.read_bytes() == second.read_bytes()
  content = first.read_bytes()
  for array in arrays.values():
    assert content.index(array.tobytes()) >= 0
  with zipfile.ZipFile(first) as archive:
    assert archive.testzip() is None
    for info in archive.infolist():
      name_length, extra_length = struct.unpack_from('<HH', content, info.header_offset + 26)
      assert (info.header_offset + 30 + name_length + extra_length) % torchfile.ALIGNMENT == 0


def test_one_array_under_two_wrappers_is_stored_once(tmp_path):
  array = np.zeros((64, 64), np.float32)
  path = saved(tmp_path / 'x.pth', {'params': {'w': array}, 'params_ema': {'w': array}})
  assert path.stat().st_size < 1.5 * array.nbytes


def test_types_without_a_storage_class_are_not_written(tmp_path):
  with pytest.raises(UserError, match='uint16'):
    saved(tmp_path / 'x.pth', {'w': np.zeros(3, np.uint16)})


# What is out to harm. Everything here must be refused by name without being run.


class Harm:
  def __init__(self, function, *arguments):
    self.function, self.arguments = function, arguments

  def __reduce__(self):
    return self.function, self.arguments


HARM = {
  f'{os.system.__module__}.system': lambda mark: Harm(os.system, f'touch {mark}'),
  'builtins.eval': lambda mark: Harm(eval, f'open({str(mark)!r}, "w")'),
  'builtins.exec': lambda mark: Harm(exec, f'open({str(mark)!r}, "w")'),
  'builtins.getattr': lambda mark: Harm(getattr, '', 'join'),
  f'{open.__module__}.open': lambda mark: Harm(open, str(mark), 'w'),
}


@pytest.mark.parametrize('protocol', [0, 2, 3, 4, 5])
@pytest.mark.parametrize('name', HARM)
@BOTH_FORMATS
def test_code_is_refused_by_name_and_not_run(tmp_path, as_zip, name, protocol):
  mark = tmp_path / 'ran'
  content = pickle.dumps({'params': HARM[name](mark)}, protocol=protocol).replace(b'__builtin__', b'builtins')
  with pytest.raises(UserError) as error:
    torchfile.load(as_file(tmp_path / 'evil.pth', content, as_zip))
  assert f"'{name}'" in str(error.value)
  assert 'evil.pth' in str(error.value)
  assert not mark.exists()


def test_a_bare_harmful_pickle_is_refused(tmp_path):
  path = tmp_path / 'evil.pth'
  path.write_bytes(pickle.dumps(Harm(os.system, f'touch {tmp_path}/ran')))
  with pytest.raises(UserError, match=r"'\w+\.system'"):
    torchfile.load(path)
  assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize(
  ('content', 'match'),
  [
    (b'\x80\x02(S"touch ran"\nios\nsystem\n.', r"'os\.system'"),  # INST
    (b'\x80\x02(cos\nsystem\nS"touch ran"\no.', r"'os\.system'"),  # OBJ
    (b'\x80\x04\x8c\x02os\x8c\x06system\x93.', r"'os\.system'"),  # STACK_GLOBAL
    (b'\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93.', r"'collections\.OrderedDict\.fromkeys'"),
    (b'\x80\x02ctorch\nload\n)R.', r"'torch\.load'"),
    (b'\x80\x02ctorch.storage\n_load_from_bytes\n)R.', '_load_from_bytes'),
    (b'\x80\x02X\x01\x00\x00\x00a)R.', 'not a function'),  # calls a string
    (b'\x80\x02ctorch\nfloat32\n)R.', 'not a function'),  # calls a type
    (b'\x80\x02ccollections\nOrderedDict\n}b.', 'state'),  # sets attributes of a function
    (b'\x80\x02\x82\x01.', 'EXT1'),
    (b'\x80\x02Phttp://x\n.', 'PERSID'),
    (b'\x80\x02(X\x05\x00\x00\x00thingctorch\nTensor\nX\x01\x00\x00\x00aNK\x01tQ.', 'outside'),
    (b'\x80\x04\x8c\x01a)}\x92.', 'not a function'),  # NEWOBJ_EX of a string
    (b'\x80\x02]X\x01\x00\x00\x00aK\x01s.', 'not a dict'),
    (b'\x80\x02}K\x01a.', 'not a list'),
  ],
)
@BOTH_FORMATS
def test_operations_that_data_does_not_need_are_refused(tmp_path, as_zip, content, match):
  with pytest.raises(UserError, match=match):
    torchfile.load(as_file(tmp_path / 'odd.pth', content, as_zip))


def tensor_pickle(count=4, offset=0, shape=(4,), strides=(1,), key='0') -> bytes:
  """A pickle of one float32 tensor, with whatever numbers."""
  rebuild, storage = torchfile._global('torch._utils', '_rebuild_tensor_v2'), torchfile._global('torch', 'FloatStorage')

  def number(value):
    return b'I' + str(value).encode() + b'\n'

  def numbers(values):
    return torchfile._tuple(*map(number, values))

  text = torchfile._text
  reference = torchfile._tuple(text('storage'), storage, text(key), text('cpu'), number(count)) + b'Q'
  arguments = torchfile._tuple(reference, number(offset), numbers(shape), numbers(strides), b'\x89', b'}')
  return b'\x80\x02}X\x01\x00\x00\x00w' + rebuild + arguments + b'Rs.'


@pytest.mark.parametrize(
  'numbers',
  [
    {'offset': 1},
    {'offset': -1},
    {'shape': (5,)},
    {'shape': (-1,)},
    {'strides': (2,)},
    {'strides': (-1,)},
    {'shape': (2, 2)},
    {'shape': (2**31, 2**31), 'strides': (0, 0)},
    {'shape': (2**40,), 'strides': (0,)},
    {'shape': (2**70,), 'strides': (0,)},
    {'shape': (1,) * 100, 'strides': (1,) * 100},
    {'offset': 2**80},
    {'count': 2**60},
    {'count': -1},
    {'count': 5},
    {'key': '../../secret'},
    {'key': '1'},
  ],
  ids=str,
)
def test_tensors_that_reach_beyond_their_storage_are_refused(tmp_path, numbers):
  path = as_zip_file(tmp_path / 'x.pth', tensor_pickle(**numbers), **{'data/0': bytes(16)})
  with pytest.raises(UserError), torchfile.faults(path):
    torchfile.load(path)['w'].numpy()


def test_the_tensor_pickle_of_these_tests_is_otherwise_good(tmp_path):
  path = as_zip_file(tmp_path / 'x.pth', tensor_pickle(), **{'data/0': np.arange(4, dtype='<f4').tobytes()})
  np.testing.assert_array_equal(torchfile.load(path)['w'].numpy(), [0, 1, 2, 3])


@pytest.mark.parametrize(
  'content',
  [
    b'\x80\x02}' + b')' + b'2\x86' * 60 + b'K\x01s.',  # a key whose hash takes 2**60 steps
    b'\x80\x02r\xff\xff\xff\xffK\x01.',  # a memo of 4 billion entries
    b'\x80\x02K\x01r\xff\xff\xff\xff.',
    b'\x80\x05\x96' + struct.pack('<Q', 2**40) + b'x.',  # a text of a terabyte
    b'\x80\x04\x8e' + struct.pack('<Q', 2**62) + b'x.',
    b'\x80\x02I' + b'9' * 100_000 + b'\n.',
    b'\x80\x02c' + b'a' * 1_000_000,
  ],
  ids=['hash', 'memo', 'put', 'bytes', 'bytes8', 'digits', 'line'],
)
def test_pickles_made_to_exhaust_the_machine_end_at_once(tmp_path, content):
  start = time.perf_counter()
  path = as_zip_file(tmp_path / 'bomb.pth', content)
  with contextlib.suppress(UserError):  # some are good, if odd, pickles
    torchfile.load(path)
  assert time.perf_counter() - start < 5


def test_compressed_entries_are_refused(tmp_path):
  with zipfile.ZipFile(tmp_path / 'x.pth', 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('archive/data.pkl', tensor_pickle())
    archive.writestr('archive/data/0', bytes(16))
  with pytest.raises(UserError, match='compressed'):
    torchfile.load(tmp_path / 'x.pth')


# What is foreign or damaged.


@pytest.mark.parametrize(
  ('content', 'match'),
  [
    (b'', 'empty'),
    (b'<!DOCTYPE html><html><title>Quota exceeded</title>', 'web page'),
    (b'\n <HTML>', 'web page'),
    (b'version https://git-lfs.github.com/spec/v1\noid sha256:00', 'Git LFS'),
    (b'x' * 257 + b'ustar' + b'x' * 300, 'tar'),
    (gzip.compress(b'weights', mtime=0), r'weights\.pth is compressed by gzip \(unpack it first\)'),
    (b'\x89PNG\r\n\x1a\n' + bytes(100), 'known format'),
    (b'PK\x03\x04', 'cut short'),
    (pickle.dumps({'a': 1}), 'not of torch.save'),
    (b'\x80\x02', 'cut short'),
  ],
)
def test_foreign_files_are_named_for_what_they_are(tmp_path, content, match):
  path = tmp_path / 'weights.pth'
  path.write_bytes(content)
  with pytest.raises(UserError, match=match) as error:
    torchfile.load(path)
  assert str(path) in str(error.value)
  assert '\n' not in str(error.value)


def test_other_zip_archives_are_named_for_what_they_are(tmp_path):
  np.savez(tmp_path / 'x.pth.npz', a=np.zeros(3))
  with pytest.raises(UserError, match=r'without data\.pkl: not written by torch\.save\.$'):
    torchfile.load(tmp_path / 'x.pth.npz')
  # Checkpoints that somebody packed.
  for name in ('SAFMN/model_zoo/safmn.pth', 'weights.safetensors'):
    with zipfile.ZipFile(tmp_path / 'packed.zip', 'w') as archive:
      archive.writestr('README.md', b'')
      archive.writestr(name, b'')
    with pytest.raises(UserError, match=f'not written by torch.save; unpack it, and give {name}.$'):
      torchfile.load(tmp_path / 'packed.zip')
  script = as_zip_file(tmp_path / 'script.pt', tensor_pickle(), **{'constants.pkl': b'\x80\x02).'})
  with pytest.raises(UserError, match='TorchScript'):
    torchfile.load(script)


def test_absent_files_and_folders(tmp_path):
  with pytest.raises(UserError, match='does not exist'):
    torchfile.load(tmp_path / 'nothing.pth')
  with pytest.raises(UserError, match='cannot be read'):
    torchfile.load(tmp_path)


def stream_content() -> bytes:
  """A stream file of four tensors that share two storages, without PyTorch."""
  storage = b''.join(struct.pack('<q4f', 4, *range(4)) for _ in range(2))
  head = b''.join(pickle.dumps(value, protocol=2) for value in (torchfile.MAGIC, 1001, {'little_endian': True}))
  one, two = tensor_pickle(key='a')[3:-1], tensor_pickle(key='b')[3:-1]
  return head + b'\x80\x02}' + one + two + b'.' + pickle.dumps(['a', 'b'], protocol=2) + storage


def read_all(path):
  def arrays(value):
    if isinstance(value, dict):
      return {key: arrays(item) for key, item in value.items()}
    return value.numpy() if hasattr(value, 'numpy') else value

  with torchfile.faults(path):
    return arrays(torchfile.load(path))


@pytest.mark.parametrize('kind', ['zip', 'stream'])
def test_a_file_cut_anywhere_is_a_clear_error(tmp_path, kind):
  content = (GOLDEN / 'edsr_official_x2/wrapped.pth').read_bytes() if kind == 'zip' else stream_content()
  path = tmp_path / 'cut.pth'
  path.write_bytes(content)
  assert read_all(path)
  cuts = range(len(content)) if kind == 'stream' else range(0, len(content), 211)
  for cut in cuts:
    path.write_bytes(content[:cut])
    with pytest.raises(UserError, match=r'cut\.pth'):
      read_all(path)


@pytest.mark.parametrize('kind', ['zip', 'stream'])
def test_damaged_bytes_give_numbers_or_a_clear_error(tmp_path, kind):
  content = stream_content()
  if kind == 'zip':
    content = as_zip_file(tmp_path / 'x', tensor_pickle(), **{'data/0': bytes(16)}).read_bytes()
  random = np.random.default_rng(0)
  path = tmp_path / 'damaged.pth'
  for _ in range(400):
    damaged = bytearray(content)
    for position in random.integers(len(content), size=random.integers(1, 4)):
      damaged[position] = random.integers(256)
    path.write_bytes(damaged)
    with contextlib.suppress(UserError):
      read_all(path)

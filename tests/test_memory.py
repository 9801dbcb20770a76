"""What does not fit into memory is refused in a sentence, before it is taken; large pictures are measured in strips."""

import numpy as np
import pytest
from PIL import Image

from adaptsr_jax import base, command, degrade, image, infer, memory, metrics, upscale
from adaptsr_jax.doctor import __main__ as doctor
from adaptsr_jax.errors import UserError
from adaptsr_jax.evaluate import __main__ as evaluate
from adaptsr_jax.metrics import fidelity
from tests.pictures import scene, write_pairs, write_params

BOMB = 6000  # pixels a side, 108 MB in 8 bit


@pytest.fixture
def bomb(tmp_path, monkeypatch):
  """A folder with a picture that is larger than what is free."""
  (tmp_path / 'bomb').mkdir()
  Image.new('RGB', (BOMB, BOMB)).save(tmp_path / 'bomb' / 'a.png', compress_level=1)
  monkeypatch.setattr(memory, 'available', lambda: 10**8)
  return tmp_path / 'bomb'


@pytest.fixture(scope='module')
def params(tmp_path_factory):
  return write_params(tmp_path_factory.mktemp('params') / 'merged')


def test_commands_refuse_what_is_too_large_before_they_take_it(bomb, params, tmp_path, capsys):
  calls = [
    (upscale.main, [f'--params={params}', bomb, tmp_path / 'out']),
    (evaluate.main, [f'--outputs={bomb}', f'--hr={bomb}', '--scale=2']),
    (degrade.main, [f'--hr={bomb}', f'--out={tmp_path / "lr"}', '--preset=bicubic']),
  ]
  for main, words in calls:
    assert main([str(word) for word in words]) == 2
    told = capsys.readouterr().err
    assert str(bomb / 'a.png') in told
    assert 'GB of memory, and 0.1 GB are free' in told
  assert not (tmp_path / 'out').exists()
  assert not list((tmp_path / 'lr').iterdir())


def test_doctor_goes_on_after_what_is_too_large(tmp_path, monkeypatch, capsys):
  lr, hr = write_pairs(tmp_path, 2)
  read = image.read_array

  def full(path):
    if path.name == 'p01.png':
      raise MemoryError
    return read(path)

  monkeypatch.setattr(image, 'read_array', full)
  assert doctor.main([f'--lr={lr}', f'--hr={hr}', f'--out={tmp_path / "out"}']) == 1
  assert 'p01.png does not fit into the memory of this machine' in capsys.readouterr().out


@pytest.mark.parametrize(
  'error',
  [
    MemoryError(),
    RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 1811939328 bytes.'),
    Exception('OpenCV(5.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9 bytes'),
  ],
)
def test_the_lack_of_memory_is_one_sentence_whoever_tells_of_it(error, capsys):
  def work():
    raise error

  assert command.ended(work) == 2
  assert capsys.readouterr().err == 'Error: The memory of this machine does not suffice.\n'


def test_what_is_free_is_known_and_small_things_are_not_asked_for(monkeypatch):
  assert memory.available() > 10**6
  monkeypatch.setattr(memory, 'available', lambda: 0)
  infer.check_memory((100, 100), 4)
  with pytest.raises(UserError, match='an output of 40000 x 40000 pixels needs about 24.0 GB'):
    infer.check_memory((10000, 10000), 4)
  monkeypatch.setattr(memory, 'available', lambda: None)
  infer.check_memory((10000, 10000), 4)


def test_a_whole_picture_that_is_too_large_is_refused_before_it_is_computed(params, monkeypatch):
  loaded = base.load(params)
  whole = infer.network(loaded.model(), loaded.params, infer.WHOLE)
  monkeypatch.setattr(infer, 'AUTO_WHOLE', 40 * 40)
  monkeypatch.setattr(memory, 'available', lambda: 10**5)
  whole(scene(0, 32, 32))
  with pytest.raises(UserError, match='not enough memory for 48 x 48 pixels at a time: choose a smaller tile'):
    whole(scene(0, 48, 48))


def test_strips_measure_what_the_whole_does(monkeypatch):
  a, b = (image.to_uint8(scene(seed, 60, 50)) for seed in (1, 2))
  whole, level = metrics.quality(a, b, 2), metrics.level(a, b, 2)
  monkeypatch.setattr(fidelity, '_STRIP', 46 * 7)
  assert metrics.quality(a, b, 2) == pytest.approx(whole, rel=1e-12)
  assert metrics.level(a, b, 2) == pytest.approx(level, rel=1e-9)
  np.testing.assert_array_equal(metrics.psnr(a[None], a[None], 2, True), [np.inf])

"""Another adapter or another strength, in the same process: nothing is compiled or traced anew."""

import contextlib

import jax
import numpy as np
import pytest
from PIL import Image

import adaptsr_jax as sr
from adaptsr_jax import base as base_lib
from adaptsr_jax import image, lora, methods, tree, upscale
from adaptsr_jax.adapters import file, operations
from adaptsr_jax.evaluate import __main__ as evaluate
from tests.pictures import scene, write_pairs
from tests.shared import GOLDEN
from tests.test_adapter_file import make, save

WEIGHTS = GOLDEN / 'edsr_basicsr_x2' / 'weights.safetensors'
_events = []
jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: _events.append(event))


@contextlib.contextmanager
def compilations():
  """Yields a list that holds, after the block, what was traced or compiled within."""
  found = []
  start = len(_events)
  yield found
  found += [event for event in _events[start:] if event.startswith('/jax/core/compile/')]


@pytest.fixture(scope='module')
def adapters(tmp_path_factory):
  """Returns adapter files of WEIGHTS with other ranks at every site, in every form."""
  folder = tmp_path_factory.mktemp('adapters')
  base = base_lib.load(WEIGHTS)
  sites = lora.find_sites(base.model())
  ranks = [{site.name: rank(i) for i, site in enumerate(sites)} for rank in (lambda i: i % 3, lambda i: 1, lambda i: 2)]
  ranks.append({site.name: 3 - i % 2 for i, site in enumerate(sites)})
  forms = ['1x1_kxk', '1x1_kxk', 'kxk_1x1', 'loralib']
  return [
    save(folder / f'{i}.safetensors', make(base.params, sites, ranks[i], form, seed=i)) for i, form in enumerate(forms)
  ]


def test_the_library_compiles_nothing_for_another_adapter_or_strength(adapters):
  net, picture = sr.load(WEIGHTS), np.random.default_rng(0).random((9, 10, 3))
  with compilations() as first:
    before = net.enlarge(picture)
  assert first, 'what counts compilations does not see the first'
  with compilations() as further:
    swapped = [net.with_adapter(path, strength).enlarge(picture) for path in adapters for strength in (0.3, 1.7)]
    swapped.append(net.with_adapter(adapters[0], 0.5).with_adapter(adapters[1], 0.5).enlarge(picture))
  assert further == []
  assert all(np.abs(large - before).max() > 1e-3 for large in swapped)


def test_evaluate_compiles_once_for_a_base_with_many_adapters(adapters, tmp_path):
  """Pictures of another size than above, so that the first network has to be compiled for."""
  lr, hr = write_pairs(tmp_path, 2, size=40)
  words = [f'--lr={lr}', f'--hr={hr}']
  for i, path in enumerate(adapters[:2]):
    words += [f'--params=n{i}={WEIGHTS}', f'--adapter={path}:0.1']
  assert evaluate.main([f'--params={WEIGHTS}', f'--lr={lr}', f'--hr={hr}']) == 0
  with compilations() as further:
    assert evaluate.main(words) == 0
  # Both load the base and check that it fits its model, which traces without compiling.
  assert [event for event in further if 'backend_compile' in event] == []


def test_a_folder_of_photographs_by_adapters_of_their_cameras_compiles_once(adapters, tmp_path):
  """Pictures of another size than above, for which the first of them compiles."""
  (tmp_path / 'in').mkdir()
  (tmp_path / 'cameras').mkdir()
  for number, path in enumerate(adapters):
    adapter = file.load(path)
    meta = {**adapter.meta, 'cameras': [{'model': f'model {number}'}]}
    file.save(tmp_path / 'cameras' / path.name, adapter._replace(meta=meta))
    exif = Image.Exif()
    exif[0x0110] = f'Model {number}'
    Image.fromarray(image.to_uint8(scene(number, 7, 11))).save(tmp_path / 'in' / f'{number}.jpg', exif=exif)
  run = [f'--params={WEIGHTS}', f'--adapters={tmp_path / "cameras"}']
  assert upscale.main([*run, str(tmp_path / 'in' / '0.jpg'), str(tmp_path / 'first.png')]) == 0
  with compilations() as further:
    assert upscale.main([*run, str(tmp_path / 'in'), str(tmp_path / 'out')]) == 0
  assert [event for event in further if 'backend_compile' in event] == []
  large = [image.read_array(tmp_path / 'out' / f'{number}.jpg') for number in range(len(adapters))]
  assert {each.shape for each in large} == {(14, 22, 3)}


def test_what_is_folded_without_compiling_is_what_training_merges(adapters):
  params = base_lib.load(WEIGHTS).params
  for path in adapters:
    adapter = file.load(path)
    folded = tree.flatten(operations.apply(adapter, params))
    method = methods.from_spec(adapter.meta)
    trained = jax.tree.map(jax.numpy.asarray, methods.restore(method, params, adapter.tensors))
    for name, leaf in tree.flatten(jax.jit(method.merge)(*trained)).items():
      assert isinstance(folded[name], np.ndarray)
      np.testing.assert_allclose(folded[name], leaf, rtol=1e-6, atol=1e-6)

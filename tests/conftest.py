"""What all tests share: PyTorch as the other side of a check, and a mark on the checks that need it."""

import os

import pytest

# Commands under test keep no compiled programs in the user's cache.
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', '')


@pytest.fixture(scope='session')
def torch():
  return pytest.importorskip('torch', reason="PyTorch is not installed (python -m pip install -e '.[torch]')")


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by marks
def pytest_collection_modifyitems(items):
  """Marks what asks for PyTorch, so that `pytest -m torch` runs all of it and nothing else."""
  for item in items:
    if 'torch' in item.fixturenames:
      item.add_marker(pytest.mark.torch)

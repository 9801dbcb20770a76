"""Each command without room at some of its writes (all of them: `python -m tests.full_disk all`)."""

import pytest

from tests import full_disk


@pytest.fixture(scope='module')
def cases(tmp_path_factory):
  return full_disk.cases(tmp_path_factory.mktemp('cases'))


@pytest.mark.parametrize('name', ['convert', 'convert to a folder', 'pack', 'mix', 'evaluate', 'degrade'])
def test_no_room_is_one_sentence_and_with_room_it_is_done(cases, tmp_path, name):
  assert full_disk.check(cases[name], tmp_path, every=2) > 0

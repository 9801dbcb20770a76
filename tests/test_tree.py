import numpy as np

from adaptsr_jax import tree

PARAMS = {'conv': {'kernel': np.ones((3, 3, 2, 4)), 'bias': np.zeros(4)}, 'block': {'fc': {'kernel': np.ones((4, 5))}}}


def test_flatten_and_unflatten_are_inverse():
  flat = tree.flatten(PARAMS)
  assert list(flat) == ['conv/kernel', 'conv/bias', 'block/fc/kernel']
  again = tree.unflatten(flat)
  assert again == PARAMS or tree.compare(PARAMS, again) == []
  assert again['block']['fc']['kernel'] is PARAMS['block']['fc']['kernel']


def test_replaced_shares_all_but_the_path():
  new = tree.replaced(PARAMS, ('conv', 'bias'), np.ones(4))
  assert new['conv']['bias'].sum() == 4
  assert PARAMS['conv']['bias'].sum() == 0
  assert new['block'] is PARAMS['block']
  assert new['conv']['kernel'] is PARAMS['conv']['kernel']


def test_overlay_takes_names():
  new = tree.overlay(PARAMS, {'block/fc/kernel': np.zeros((4, 5)), 'conv/bias': np.ones(4)})
  assert new['block']['fc']['kernel'].sum() == 0
  assert new['conv']['bias'].sum() == 4


def test_count():
  assert tree.count(PARAMS) == 72 + 4 + 20


def test_compare_names_what_differs_and_only_that():
  other = {'conv': {'kernel': np.ones((3, 3, 2, 5)), 'bias': np.zeros(4)}, 'extra': np.zeros(1)}
  assert tree.compare(PARAMS, other) == [
    ' - block/fc/kernel (4, 5)',
    ' - conv/kernel (3, 3, 2, 4)',
    ' + conv/kernel (3, 3, 2, 5)',
    ' + extra (1,)',
  ]
  assert tree.compare(PARAMS, PARAMS) == []


def test_matches_searches_regular_expressions():
  assert tree.matches('feats_3/ccm/ccm_0', ['attn', r'feats_\d/ccm'])
  assert not tree.matches('feats_3/ccm/ccm_0', ['^ccm'])
  assert not tree.matches('anything', [])

from adaptsr_jax.errors import LONGEST, UserError, shown


def test_names_of_others_are_shown_short_and_without_what_a_terminal_obeys():
  assert shown('feats.0.weight') == 'feats.0.weight'
  assert shown('größe 大') == 'größe 大'
  assert shown('a\nError: b\x1b[31m\ud800\u202e') == r'a\nError: b\x1b[31m\ud800\u202e'
  long = shown('a' * 60_000 + 'end')
  assert len(long) < LONGEST
  assert long.startswith('aaa')
  assert long.endswith('end')
  assert shown(5) == '5'


def test_errors_never_hold_control_characters():
  assert str(UserError('x\x1b]0;title\x07.png\r is bad')) == r'x\x1b]0;title\x07.png\r is bad'

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from adaptsr_jax import figures
from adaptsr_jax.errors import UserError


def pixels(path):
  with Image.open(path) as picture:
    return np.asarray(picture.convert('RGB'))


def swinir_like(value=lambda i: i):
  names = ['conv_first']
  for layer in range(2):
    for block in range(3):
      names += [f'layers_{layer}/blocks_{block}/{module}' for module in ('attn/qkv', 'mlp/fc1')]
    names.append(f'layers_{layer}/conv')
  names += ['conv_after_body', 'upsample_0', 'upsample_1']
  return {name: value(i) for i, name in enumerate(names)}


def test_grid_of_nested_blocks():
  grid = figures.module_grid(list(swinir_like()))
  assert grid.rows == ('attn/qkv', 'mlp/fc1', 'conv')
  assert grid.columns == tuple(f'layers_{i}/blocks_{j}' for i in range(2) for j in range(3))
  assert grid.singles == ('conv_first', 'conv_after_body', 'upsample_0', 'upsample_1')
  assert grid.cells['layers_1/blocks_2/mlp/fc1'] == (1, 5, 1)
  assert grid.cells['layers_1/conv'] == (2, 3, 3)


@pytest.mark.parametrize(
  ('name', 'column', 'row'),
  [
    ('layers_0/blocks_3/attn/qkv:v', 'layers_0/blocks_3', 'attn/qkv:v'),
    ('feats_4/ccm/ccm_0', 'feats_4', 'ccm/ccm_0'),
    ('feats_14/safm/aggr', 'feats_14', 'safm/aggr'),
    ('body_3/conv1', 'body_3', 'conv1'),
    ('layers_2/swin1/attn/proj', 'layers_2', 'swin1/attn/proj'),
  ],
)
def test_grid_of_one_name(name, column, row):
  grid = figures.module_grid([name])
  assert (grid.columns, grid.rows, grid.singles) == ((column,), (row,), ())


def test_grid_without_blocks():
  assert figures.module_grid(['fc1', 'to_img_0', 'head/conv']).singles == ('fc1', 'to_img_0', 'head/conv')


DRAWINGS = {
  'heat map': lambda path: figures.rank_heatmap(path, swinir_like(), 'Ranks'),
  'heat map of singles': lambda path: figures.rank_heatmap(path, {'fc1': 0, 'fc2': 0.5}),
  'heat map of blocks': lambda path: figures.rank_heatmap(path, {'body_0/conv1': 3, 'body_1/conv2': 8}),
  'heat map of zeros': lambda path: figures.rank_heatmap(path, swinir_like(lambda i: 0), log=True),
  'heat map of scores': lambda path: figures.rank_heatmap(path, swinir_like(lambda i: 0.1**i), label='score', log=True),
  'curves': lambda path: figures.learning_curves(
    path, {'a': ([0, 1, 2], [27.0, np.nan, 27.5]), 'b': (range(90), range(90))}, 'step', 'dB', 'Title', {'base': 27.1}
  ),
  'spreads': lambda path: figures.spreads(
    path, {name: [i, i + 1, i + 5] for name, i in swinir_like().items()}, 'position', 'Title', {'conv_first': 'conv'}
  ),
  'many spreads': lambda path: figures.spreads(path, {str(i): [i, i + 1] for i in range(120)}, 'position'),
  'strip': lambda path: figures.compare_strip(path, [[('a', np.zeros((8, 8, 3))), ('b\n27 dB', np.ones((8, 8, 3)))]]),
}


@pytest.mark.parametrize('suffix', ['png', 'svg'])
@pytest.mark.parametrize('name', DRAWINGS)
def test_every_figure_has_content_and_is_the_same_again(tmp_path, name, suffix):
  path = tmp_path / f'figure.{suffix}'
  DRAWINGS[name](path)
  first = path.read_bytes()
  if suffix == 'png':
    picture = pixels(path)
    assert min(picture.shape[:2]) > 100
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
    assert 0.2 < picture.mean() / 255 < 0.999
  else:
    assert first.lstrip().startswith(b'<?xml')
    assert len(first) > 3000
  assert [file.name for file in tmp_path.iterdir()] == [path.name]
  DRAWINGS[name](path)
  assert path.read_bytes() == first


def test_larger_values_are_darker(tmp_path):
  figures.rank_heatmap(tmp_path / 'map.png', {f'body_{i}/conv': 4 * i for i in range(5)})
  row = pixels(tmp_path / 'map.png')[32].mean(-1)  # inside the cells, above their numbers
  edges = np.flatnonzero(np.diff(row))
  plain = [row[start + 1] for start, end in zip(edges, edges[1:], strict=False) if end - start > 60]
  cells = [value for value in plain if value < 250]
  assert len(cells) == 5
  assert cells == sorted(cells, reverse=True)


def test_strip_shows_every_pixel_unchanged(tmp_path):
  rng = np.random.default_rng(0)
  lr, hr, wide = (rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((30, 40), (120, 160), (50, 260)))
  rows = [[('LR', lr / 255), ('HR', hr / 255)], [('another\nscene', wide / 255)]]
  figures.compare_strip(tmp_path / 'strip.png', rows, ['scene 1', 'scene 2'])
  drawn = pixels(tmp_path / 'strip.png')
  for picture, factor in ((lr, 4), (hr, 1), (wide, 1)):
    expected = picture.repeat(factor, 0).repeat(factor, 1)
    h, w = expected.shape[:2]
    corners = np.argwhere((drawn[: -h + 1, : -w + 1] == expected[0, 0]).all(-1))
    assert any((drawn[y : y + h, x : x + w] == expected).all() for y, x in corners)


def test_strip_enlarges_small_pictures_for_their_titles(tmp_path):
  figures.compare_strip(tmp_path / 'strip.png', [[('a title of some length', np.zeros((16, 20, 3)))]])
  black = (pixels(tmp_path / 'strip.png') == 0).all(-1)
  assert black.any(0).sum() >= 240
  assert black.any(0).sum() % 20 == 0


def test_values_outside_the_range_are_clipped(tmp_path):
  picture = np.concatenate([np.full((128, 256, 3), -3.0), np.full((128, 256, 3), 7.0)])
  figures.compare_strip(tmp_path / 'strip.png', [[('', picture)]])
  drawn = pixels(tmp_path / 'strip.png')
  assert set(np.unique(drawn)) == {0, 255}
  assert (drawn == 0).all(-1).sum() == 128 * 256


def test_unknown_suffix_and_missing_folder_are_named(tmp_path):
  with pytest.raises(UserError, match=r'ranks\.jpg.*\.png, \.svg'):
    figures.rank_heatmap(tmp_path / 'ranks.jpg', {'fc1': 1})
  with pytest.raises(UserError, match='nowhere.*does not exist'):
    figures.rank_heatmap(tmp_path / 'nowhere' / 'ranks.png', {'fc1': 1})
  assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / 'figure.png'
  path.write_bytes(b'old')

  def savefig(self, file, **options):
    del self, options
    file.write_bytes(b'half')
    raise OSError('disk full')

  monkeypatch.setattr(Figure, 'savefig', savefig)
  with pytest.raises(OSError, match='disk full'):
    figures.rank_heatmap(path, {'fc1': 1})
  assert path.read_bytes() == b'old'
  assert list(tmp_path.iterdir()) == [path]


def test_nothing_to_draw_is_refused(tmp_path):
  with pytest.raises(ValueError, match='at least one value'):
    figures.rank_heatmap(tmp_path / 'map.png', {})
  with pytest.raises(ValueError, match='at least one row'):
    figures.compare_strip(tmp_path / 'strip.png', [])


def test_pyplot_is_not_touched(tmp_path):
  """No global figure is left behind, and no interactive backend is chosen."""
  import subprocess
  import sys

  code = (
    'import sys; from adaptsr_jax import figures; '
    f'figures.rank_heatmap({str(tmp_path / "map.png")!r}, {{"fc1": 1}}); '
    'assert "matplotlib.pyplot" not in sys.modules'
  )
  subprocess.run([sys.executable, '-c', code], check=True)

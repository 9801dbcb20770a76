import itertools
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from adaptsr_jax import figures
from adaptsr_jax.errors import UserError
from adaptsr_jax.figures.style import apart
from tests.pictures import scene


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


POINTS = [
  *(('VPT', 120e3, 30.7), ('BitFit', 48e3, 30.88), ('DiffFit', 50e3, 30.9), ('LN tuning', 46e3, 30.8)),
  *(('LoRA r8', 310e3, 31.35, 31.28, 31.40), ('adapters', 320e3, 31.34), ('re-parameterised adapters', 315e3, 31.36)),
  *(('adapted', 330e3, 31.52, 31.46, 31.6), ('full', 11.8e6, 31.6, 31.5, 31.7)),
]
MANY = [(f'{arm} {i}', 10 ** (3 + i / 5), 30 + 0.05 * i + 0.01 * j) for i in range(11) for j, arm in enumerate('abc')]
CURVES = {f'method {i}': (range(0, 50000, 1000), 27 + 0.02 * i + np.log1p(np.arange(50))) for i in range(9)}


def explained():
  maps = [('base\nDI 15.12', np.eye(16)), ('adapted\nDI 26.31', np.ones((16, 16)))]
  return 'patch at 8,12', scene(2, 64, 64), figures.Box(8, 12, 16, 16), maps


DRAWINGS = {
  'heat map': lambda path: figures.rank_heatmap(path, swinir_like(), 'Ranks'),
  'heat map of singles': lambda path: figures.rank_heatmap(path, {'fc1': 0, 'fc2': 0.5}),
  'heat map of blocks': lambda path: figures.rank_heatmap(path, {'body_0/conv1': 3, 'body_1/conv2': 8}),
  'heat map of zeros': lambda path: figures.rank_heatmap(path, swinir_like(lambda i: 0)),
  'curves': lambda path: figures.learning_curves(
    path, {'a': ([0, 1, 2], [27.0, np.nan, 27.5]), 'b': (range(90), range(90))}, 'step', 'dB', {'base': 27.1}
  ),
  'spreads': lambda path: figures.spreads(
    path, {name: [i, i + 1, i + 5] for name, i in swinir_like().items()}, 'position', 'Title', {'conv_first': 'conv'}
  ),
  'many spreads': lambda path: figures.spreads(path, {str(i): [i, i + 1] for i in range(120)}, 'position'),
  'many curves': lambda path: figures.learning_curves(
    path, CURVES, 'step', 'dB', baselines={'base': 27, 'other': 27.01}
  ),
  'trade-off': lambda path: figures.tradeoff(path, POINTS, 'PSNR in dB', baselines={'base': 30.6, 'bicubic': 30.59}),
  'trade-off of one': lambda path: figures.tradeoff(path, [('full', 9e5, 0.3)], 'LPIPS', 'lower'),
  'trade-off of many': lambda path: figures.tradeoff(path, MANY, 'PSNR in dB', baselines={'base': 29.9}),
  'attribution': lambda path: figures.attribution(path, *explained()),
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


@pytest.mark.parametrize(
  ('name', 'labels'),
  [
    ('heat map', ['Ranks', 'attn/qkv', 'layers_1', 'conv_first']),
    ('many curves', ['method 0', 'method 8', 'base', 'step']),
    ('trade-off', [point[0] for point in POINTS] + ['base', 'PSNR in dB, higher is better', '10M']),
    ('trade-off of one', ['full', 'LPIPS, lower is better']),
    ('attribution', ['patch at 8,12', 'DI 26.31']),
    ('strip', ['27 dB']),
  ],
)
def test_letters_of_an_svg_stay_letters(tmp_path, name, labels):
  DRAWINGS[name](tmp_path / 'figure.svg')
  written = re.findall(r'<text[^>]*>([^<]*)</text>', (tmp_path / 'figure.svg').read_text())
  assert set(labels) <= set(written)


@pytest.fixture
def drawn(tmp_path, monkeypatch):
  """Returns a function that draws one of the figures, and hands it out instead of writing it."""
  figures_drawn = []
  monkeypatch.setattr(Figure, 'savefig', lambda self, file, **options: (figures_drawn.append(self), file.touch()))

  def draw(drawing):
    drawing(tmp_path / 'figure.png')
    figures_drawn[-1].draw_without_rendering()
    return figures_drawn[-1]

  return draw


@pytest.mark.parametrize(
  'name', ['many curves', 'trade-off', 'trade-off of one', 'trade-off of many', 'attribution', 'heat map']
)
def test_no_two_labels_overlap_and_none_is_cut_off(drawn, name):
  figure = drawn(DRAWINGS[name])
  texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
  # Without the lines that lead to labels; ticks beyond the limits of their axis are known to matplotlib, and not drawn.
  boxes = {text: Text.get_window_extent(text) for text in texts}
  boxes = {text: box for text, box in boxes.items() if not any(text in outside(axes) for axes in figure.axes)}
  assert len(boxes) > 4
  for (a, box), (b, other) in itertools.combinations(boxes.items(), 2):
    shared = box.intersection(box, other)
    assert shared is None or min(shared.width, shared.height) < 1, (a.get_text(), b.get_text())
  for text, box in boxes.items():
    assert min(*box.min, *(figure.bbox.max - box.max)) > -1, text.get_text()


@pytest.mark.parametrize(('name', 'points', 'base'), [('trade-off', POINTS, 30.6), ('trade-off of many', MANY, 29.9)])
def test_labels_of_a_trade_off_stand_by_their_marks_and_those_of_baselines_by_their_lines(drawn, name, points, base):
  axes = drawn(DRAWINGS[name]).axes[0]
  inside, labels = axes.get_window_extent(), {text.get_text(): text for text in axes.texts}
  for label, *place in points:
    box, mark = Text.get_window_extent(labels[label]), axes.transData.transform(place[:2])
    assert (box.min >= inside.min - 1).all(), label
    assert (box.max <= inside.max + 1).all(), label
    away = np.maximum(0, np.maximum(box.min - mark, mark - box.max)).max()
    assert away < 100, label  # pixels, of about 800
    assert (labels[label].arrow_patch is not None) == (away > 30), label  # only where the label was moved is a line
  assert len({labels[label].get_color() for label, *_ in points}) == len(points)
  box = Text.get_window_extent(labels['base'])
  assert box.x0 > inside.x1
  assert abs((box.y0 + box.y1) / 2 - axes.transData.transform((1e3, base))[1]) < 20


def test_a_range_may_be_missing_or_open_on_one_side(drawn):
  points = [('a', 1e4, 30.0, None, None), ('b', 2e4, 31.0, 30.5), ('c', 3e4, 32.0, None, 32.5), ('d', 4e4, 33.0)]
  ranges = drawn(lambda path: figures.tradeoff(path, points, 'dB')).axes[0].collections
  ends = [tuple(lines.get_segments()[0][:, 1]) for lines in ranges]
  assert ends == [(30, 30), (30.5, 31), (32, 32.5), (33, 33)]


def outside(axes):
  labels = []
  for axis in (axes.xaxis, axes.yaxis):
    low, high = sorted(axis.get_view_interval())
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    labels += [label for tick in ticks if not low <= tick.get_loc() <= high for label in (tick.label1, tick.label2)]
  return labels


@pytest.mark.parametrize('wanted', [[0.5], [0.5, 0.5, 0.5], [0.9, 0.1, 0.91], [0, 0, 1, 1, 0.52, 0.5], [2, 2, -1]])
def test_apart(wanted):
  places = apart(wanted, 0.1, 0, 1)
  order = np.argsort(wanted, kind='stable')
  assert (np.diff(places[order]) >= 0.1 - 1e-12).all()
  assert places.min() >= 0
  assert places.max() <= 1 + 1e-12
  if len(wanted) == 3 and len(set(wanted)) == 1:
    np.testing.assert_allclose(places, [0.4, 0.5, 0.6])


def test_more_labels_than_room_go_on_upwards():
  np.testing.assert_allclose(apart([0.5] * 4, 0.5, 0, 1), [0, 0.5, 1, 1.5])


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
    assert contains(drawn, picture.repeat(factor, 0).repeat(factor, 1))


def test_the_title_of_a_strip_is_broken_into_lines_and_moves_the_pictures(tmp_path):
  rows = [[('LR', np.zeros((60, 240, 3))), ('HR', np.zeros((60, 240, 3)))]]
  figures.compare_strip(tmp_path / 'plain.png', rows)
  figures.compare_strip(tmp_path / 'titled.png', rows, title='a verdict of so many words ' * 6)
  plain, titled = (pixels(tmp_path / f'{name}.png') for name in ('plain', 'titled'))
  more = titled.shape[0] - plain.shape[0]
  assert titled.shape[1] == plain.shape[1]
  assert more > 2 * 14  # pixels: at least two lines of the smallest usual letters
  np.testing.assert_array_equal(titled[more + 4 :], plain[4:])
  margin = titled[:more, -4:]
  assert (margin == 255).all()


def test_strip_enlarges_small_pictures_for_their_titles(tmp_path):
  figures.compare_strip(tmp_path / 'strip.png', [[('a title of some length', np.zeros((16, 20, 3)))]])
  black = (pixels(tmp_path / 'strip.png') == 0).all(-1)
  assert black.any(0).sum() >= 240
  assert black.any(0).sum() % 20 == 0


def test_attribution_blends_red_with_the_gray_picture(tmp_path):
  picture = np.zeros((256, 256, 3))
  maps = [('none', np.zeros((64, 64))), ('all', np.ones((64, 64)))]
  figures.attribution(tmp_path / 'map.png', '', picture, figures.Box(8, 8, 16, 16), maps)
  drawn = pixels(tmp_path / 'map.png')
  assert contains(drawn, np.full((256, 256, 3), (127, 127, 127), np.uint8), 1)
  assert contains(drawn, np.full((256, 256, 3), (64, 0, 0), np.uint8), 1)


def contains(drawn, part, tolerance=0):
  h, w = part.shape[:2]
  near = (abs(drawn.astype(int) - part[0, 0]) <= tolerance).all(-1)
  corners = np.argwhere(near[: -h + 1, : -w + 1])
  return any((abs(drawn[y : y + h, x : x + w].astype(int) - part) <= tolerance).all() for y, x in corners)


def test_busiest_box():
  picture = np.full((60, 80, 3), 0.5)
  picture[33:45, 21:33] = np.random.default_rng(0).random((12, 12, 3))
  x, y, width, height = figures.busiest_box(picture, 14)
  assert (width, height) == (14, 14)
  assert 19 <= x <= 21
  assert 31 <= y <= 33
  x, y, width, height = figures.busiest_box(picture, 18, step=4)
  assert (x % 4, y % 4, width, height) == (0, 0, 16, 16)
  assert figures.busiest_box(picture, 500) == (0, 0, 80, 60)
  with pytest.raises(ValueError, match='grid of 64'):
    figures.busiest_box(picture, 64, step=64)


@pytest.mark.parametrize(
  ('points', 'better', 'said'),
  [
    ([], 'higher', 'at least one point'),
    ([('base', 0, 27.0)], 'higher', 'more than 0 parameters'),
    ([('full', 100, np.nan)], 'higher', 'finite'),
    ([('full', 100, 27.0)], 'more', "'higher' or 'lower'"),
  ],
  ids=['none', 'zero', 'nan', 'better'],
)
def test_a_trade_off_that_cannot_be_drawn_is_refused(tmp_path, points, better, said):
  with pytest.raises(ValueError, match=said):
    figures.tradeoff(tmp_path / 'figure.png', points, 'PSNR in dB', better)


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

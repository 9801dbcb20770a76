"""The measuring core: numbers, intervals, matching of finished pictures, tables."""

import csv
import io
import math
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from adaptsr_jax import bicubic, data, image, infer, metrics
from adaptsr_jax.errors import UserError
from adaptsr_jax.evaluate import measure, statistics, tables
from adaptsr_jax.report import gather
from tests.pictures import scene, write_pairs


def pairs(number, size=24, scale=2):
  for i in range(number):
    hr = image.to_uint8(scene(i, size * scale, size * scale))
    yield f'p{i}', data.sources.shrink(hr, scale), hr


def test_measure_is_the_metric_of_each_picture_and_their_mean():
  result = measure.measure(bicubic.imresize, pairs(3))
  for name, lr, hr in pairs(3):
    output = image.to_uint8(bicubic.imresize(image.to_float(lr), 2))
    assert result['images'][name] == metrics.quality(output, hr, 2)
    y = [metrics.fidelity.to_luma(x[2:-2, 2:-2]).mean() for x in (output, hr)]
    assert result['levels'][name] == pytest.approx(y[0] - y[1])
  for key, mean in result['mean'].items():
    values = [row[key] for row in result['images'].values()]
    assert mean == np.mean(values)
    assert result['interval'][key] == statistics.bootstrap(values)


def test_a_network_is_measured_with_its_params():
  def double(variables, x):
    return variables['params']['gain'] * x.repeat(2, 1).repeat(2, 2)

  model = SimpleNamespace(apply=double, upscale=2, multiple=1, minimum=1)
  result = measure.measure(infer.network(model, {'gain': np.float32(0.5)}), pairs(2))
  expected = measure.measure(lambda lr, s: 0.5 * lr.repeat(2, 0).repeat(2, 1), pairs(2))
  assert result == expected


def test_at_most_a_few_pictures_are_in_hand():
  alive, most, lock = set(), [0], threading.Lock()

  def counted():
    for i, (name, lr, hr) in enumerate(pairs(12)):
      with lock:
        alive.add(i)
        most[0] = max(most[0], len(alive))
      yield name, lr, hr

  done = iter(range(12))

  def slow(output, hr, crop):
    with lock:
      alive.discard(next(done))
    return {'x': 1.0}

  measure.measure(lambda lr, s: lr.repeat(s, 0).repeat(s, 1), counted(), [slow])
  assert most[0] <= 5


def test_identical_pictures_stay_out_of_the_mean():
  pictures = {lr.tobytes(): hr for _, lr, hr in pairs(1)}  # the first is restored without a fault

  def restore(lr, scale):
    return pictures.get(image.to_uint8(lr).tobytes(), image.to_uint8(bicubic.imresize(lr, scale)))

  result = measure.measure(restore, pairs(3), [metrics.quality, lambda output, hr, crop: {'niqe': math.nan}])
  assert result['images']['p0']['psnr_y'] == math.inf
  assert result['mean']['psnr_y'] == np.mean([result['images'][name]['psnr_y'] for name in ('p1', 'p2')])
  assert math.isnan(result['mean']['niqe'])
  assert measure.left_out(result) == {'psnr_y': 1, 'psnr_rgb': 1, 'niqe': 3}


def test_values_read_back_from_a_file_count_as_left_out():
  images = {'a': {'niqe': None}, 'b': {'niqe': 4.0}, 'c': {'niqe': float('inf')}}
  assert measure.left_out({'mean': {'niqe': 4.0}, 'images': images}) == {'niqe': 2}


@pytest.mark.parametrize(
  ('restore', 'size', 'said'),
  [
    (lambda lr, s: np.full((48, 48, 3), np.nan, np.float32), 24, 'p0 holds values that are no finite numbers'),
    (bicubic.imresize, 7, 'p0 is 14x14; to be measured it needs at least 15 pixels'),
  ],
)
def test_what_cannot_be_measured_is_named(restore, size, said):
  with pytest.raises(UserError, match=said):
    measure.measure(restore, pairs(1, size))


# Finished pictures


@pytest.fixture
def folder(tmp_path):
  write_pairs(tmp_path, 2)
  (tmp_path / 'out').mkdir()
  return tmp_path


def source(folder, **options):
  return data.open_source(SimpleNamespace(lr=str(folder / 'LR'), hr=str(folder / 'HR'), **options), 2)


def finish(folder, *names, size=48):
  for name in names:
    image.write(folder / 'out' / name, np.zeros((size, size, 3), np.uint8))


def found(folder, **options):
  beside = [path.stem for path in (folder / 'HR').iterdir()]
  files = measure.find_finished(str(folder / 'out'), source(folder, **options), beside)
  return {name: path.name for name, path in files.items()}


@pytest.mark.parametrize(
  'ends',
  [
    ('', ''),
    ('_out', '_out'),
    ('_SwinIR', '_SwinIR'),
    ('x2', 'x2'),
    ('_x2_out', '_x2_out'),
    (' (1)', '-b'),
    ('', '_o'),
  ],
)
def test_names_may_be_longer(folder, ends):
  names = [f'p0{i}{end}.png' for i, end in enumerate(ends)]
  finish(folder, *names)
  assert found(folder) == dict(zip(['p00', 'p01'], names, strict=True))


def test_names_of_data_sets(folder):
  for old, new in (('p00', 'p00_x1'), ('p01', 'p01_x1')):
    (folder / 'HR' / f'{old}.png').rename(folder / 'HR' / f'{new}.png')
    (folder / 'LR' / f'{old}.png').rename(folder / 'LR' / f'{old}_x2.png')
  finish(folder, 'p00_x2_out.jpg', 'p01.png')
  assert found(folder) == {'p00_x1': 'p00_x2_out.jpg', 'p01_x1': 'p01.png'}


def test_the_very_name_goes_first(folder):
  finish(folder, 'p00.png', 'p00_out.png', 'p01.png')
  assert found(folder)['p00'] == 'p00.png'


def test_a_picture_belongs_to_the_longest_name(folder):
  for kind in ('HR', 'LR'):
    (folder / kind / 'p01.png').rename(folder / kind / 'p00_b.png')
  finish(folder, 'p00_out.png', 'p00_b_out.png')
  assert found(folder) == {'p00': 'p00_out.png', 'p00_b': 'p00_b_out.png'}
  assert found(folder, names='p00') == {'p00': 'p00_out.png'}


@pytest.mark.parametrize(
  ('names', 'size', 'said'),
  [
    (['p00.png'], 48, '1 of 2 pictures do not fit: no picture for p01'),
    (['p012.png', 'q.png'], 48, 'no picture for p00, p01'),
    (['p00.png', 'p01_a.png', 'p01_b.png'], 48, r'several for p01 \(p01_a.png, p01_b.png\)'),
    (['p00.png', 'p01.png'], 40, '2 of 2 pictures do not fit: p00.png is 40x40, not 48x48; p01.png is 40x40'),
    (['p00.png'], 24, 'no picture for p01; p00.png is 24x24 like LR, not 48x48'),
  ],
)
def test_bad_outputs_are_named(folder, names, size, said):
  finish(folder, *names, size=size)
  with pytest.raises(UserError, match=said):
    found(folder)


def test_outputs_of_uncut_hr_are_cut_with_it(tmp_path):
  (tmp_path / 'HR').mkdir()
  (tmp_path / 'out').mkdir()
  picture = image.to_uint8(scene(0, 51, 49))
  image.write(tmp_path / 'HR' / 'a.png', picture)
  image.write(tmp_path / 'out' / 'a.png', picture)
  opened = data.open_source(SimpleNamespace(lr='', hr=str(tmp_path / 'HR')), 2)
  (item,) = measure.finished(opened, measure.find_finished(str(tmp_path / 'out'), opened))
  assert item.output.shape == (50, 48, 3)
  np.testing.assert_array_equal(item.output, item.hr)


# Intervals


def test_bootstrap_is_the_loop_over_resamples():
  values = np.random.default_rng(1).normal(30, 2, 37)
  rng = np.random.default_rng(statistics.SEED)
  means = [np.mean(values[rng.integers(37, size=37)]) for _ in range(statistics.RESAMPLES)]
  assert statistics.bootstrap(values) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), rel=2e-4)
  assert statistics.bootstrap(values) == statistics.bootstrap(list(values))


def test_bootstrap_of_many_values_is_that_of_few_in_law():
  # 5,000 values are drawn in chunks; the normal approximation holds there.
  values = np.random.default_rng(2).normal(0, 1, 5000)
  half = 1.96 * values.std() / np.sqrt(values.size)
  assert statistics.bootstrap(values) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.05 * half)


def test_95_percent_of_the_intervals_hold_the_true_mean():
  rng = np.random.default_rng(3)
  hits = sum(low <= 1 <= high for low, high in (statistics.bootstrap(rng.exponential(1, 60)) for _ in range(200)))
  assert 0.89 <= hits / 200 <= 0.99


def test_values_that_are_not_finite_do_not_count():
  values = [1.0, 2.0, 4.0, 7.0]
  assert statistics.bootstrap([*values, math.inf, math.nan]) == statistics.bootstrap(values)
  assert all(map(math.isnan, statistics.bootstrap([1.0])))
  assert statistics.mean([1.0, math.inf, 3.0]) == 2
  assert statistics.mean([math.inf]) == math.inf


def test_paired_differences_see_what_overlapping_intervals_hide():
  rng = np.random.default_rng(4)
  reference = rng.normal(30, 4, 50)
  values = reference + 0.1 + rng.normal(0, 0.05, 50)
  assert statistics.bootstrap(values)[0] < statistics.bootstrap(reference)[1]
  mean, low, high = statistics.paired(values, reference)
  assert 0.05 < low < mean < high < 0.15
  assert statistics.paired([5.0, math.inf], [4.0, 1.0])[0] == 1
  assert all(map(math.isnan, statistics.paired([math.inf], [1.0])))
  with pytest.raises(ValueError, match='same pictures'):
    statistics.paired([1.0, 2.0], [1.0])


# Tables


def run(*values, **more):
  images = {f'p{i}': {'psnr_y': value, 'lpips_alex': value / 100} for i, value in enumerate(values)}
  return {**measure.score([], []), **more, **summed(images)}


def summed(images):
  columns = {key: [row[key] for row in images.values()] for key in ('psnr_y', 'lpips_alex')}
  return {
    'images': images,
    'mean': {key: statistics.mean(column) for key, column in columns.items()},
    'interval': {key: statistics.bootstrap(column) for key, column in columns.items()},
  }


@pytest.fixture
def runs():
  runs = {'bicubic': run(30.0, 31.0, 33.0), 'ours|x4': run(30.5, 31.25, 33.5)}
  runs['ours|x4']['difference'] = tables.differences(runs['ours|x4'], runs['bicubic'])
  for label, one in runs.items():
    one['protocol'] = {'crop': 4, 'model': label}
  return runs


def test_comparison(runs):
  rows = tables.comparison(runs)
  assert rows[0] == ['metric', 'run', 'mean', '95 % interval', 'difference', '95 % interval']
  assert rows[1] == ['psnr_y', 'bicubic', '31.333', '[30.000, 33.000]', '', '']
  assert rows[2] == ['', 'ours|x4', '31.750', '[30.500, 33.500]', '+0.417', '[+0.250, +0.500]']
  assert rows[3][:3] == ['lpips_alex', 'bicubic', '0.3133']


def test_a_star_takes_more_than_a_few_pictures():
  reference = run(30.0, 31.0, 33.0, 30.0, 31.0, 33.0)
  for gain, marked in ((0.5, True), (0.0, False)):
    other = run(*(row['psnr_y'] + gain for row in reference['images'].values()))
    other['difference'] = tables.differences(other, reference)
    assert tables.comparison({'a': reference, 'b': other})[2][-1].endswith('*') == marked


def test_one_run_has_no_differences(runs):
  assert tables.comparison({'bicubic': runs['bicubic']})[0] == ['metric', 'run', 'mean', '95 % interval']


def test_text_is_aligned(runs):
  lines = tables.text(tables.means(runs)).splitlines()
  assert lines == ['run      psnr_y  lpips_alex', 'bicubic  31.333      0.3133', 'ours|x4  31.750      0.3175']


def test_intervals_stand_under_each_other(runs):
  runs['ours|x4']['difference']['lpips_alex'] = (0.001, -0.001, 0.002)
  lines = tables.text(tables.comparison(runs)).splitlines()
  assert lines[2].endswith('[+0.250, +0.500]')
  assert lines[4].index('[-0.0010, +0.0020]') == lines[2].index('[+0.250')


def test_markdown_escapes_its_own_signs(runs):
  lines = tables.markdown(tables.means(runs)).splitlines()
  assert lines[1] == '| --- | ---: | ---: |'
  assert lines[3] == r'| ours\|x4 | 31.750 | 0.3175 |'


def test_csv_holds_every_digit_and_leaves_the_absent_empty(runs):
  runs['bicubic']['images']['p0'] = {'psnr_y': math.inf, 'lpips_alex': 1 / 3}
  runs['ours|x4']['images']['p0']['psnr_y'] = None
  rows = list(csv.DictReader(io.StringIO(tables.csv_text(tables.pictures(runs)))))
  assert len(rows) == 6
  assert rows[0] == {'run': 'bicubic', 'picture': 'p0', 'psnr_y': 'inf', 'lpips_alex': repr(1 / 3)}
  assert rows[3]['psnr_y'] == ''


def test_legend_tells_what_is_common_once(runs):
  lines = tables.legend(runs).splitlines()
  assert lines == [
    'Mean of 3 pictures. Lower is better: lpips_alex. Differences are to bicubic, picture by picture; '
    'too few pictures for a verdict.',
    'Protocol: crop 4.',
    'bicubic: model bicubic.',
    'ours|x4: model ours|x4.',
  ]


def test_absent_numbers_are_dashes():
  run = {'mean': {'psnr_y': None}, 'interval': {'psnr_y': [None, None]}, 'images': {'a': {'psnr_y': None}}}
  assert tables.comparison({'a': run})[1] == ['psnr_y', 'a', '-', '-']
  assert tables.number('psnr_y', math.inf) == 'inf'


@pytest.mark.parametrize(
  ('low', 'high', 'pictures', 'expected'),
  [
    (0.1, 0.3, 6, True),
    (-0.3, -0.1, 6, True),
    (-0.1, 0.3, 93, False),
    (0.1, 0.3, 5, False),
    (np.nan, np.nan, 9, False),
  ],
)
def test_one_rule_for_certain_in_tables_summaries_and_reports(low, high, pictures, expected):
  assert statistics.certain(low, high, pictures) == expected
  assert gather.Interval(0.2, low, high, pictures).certain == expected
  cells = tables.comparison(
    {
      label: {'mean': {'psnr_y': 1.0}, 'interval': {}, 'images': dict.fromkeys(range(pictures)), **more}
      for label, more in (('a', {}), ('b', {'difference': {'psnr_y': (0.2, low, high)}}))
    }
  )
  assert ('*' in cells[-1][-1]) == expected

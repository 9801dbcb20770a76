"""The report on real runs: what it says, that the page is whole and loads nothing, and how it looks in a browser."""

import base64
import io
import json
import re
import shutil
import struct
import zlib
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from skimage import color

from adaptsr_jax import adapt, image, metrics
from adaptsr_jax.evaluate import statistics
from adaptsr_jax.report import pictures
from adaptsr_jax.report.__main__ import main
from adaptsr_jax.report.content import gains_svg
from adaptsr_jax.report.gather import Interval
from tests import browser as browsers
from tests import pictures as made
from tests.pictures import write_pairs
from tests.shared import shared

# Whatever a file may be called, it is text on the page.
NAMES = ('a<b>&"c', 'p|q_r*[s]')
PICTURES = 7


def settings(folders, **fields):
  every = {'eval_every': 40, 'save_every': 40, 'log_every': 10}
  return made.settings(folders, **{'score.batches': 1, **every, **fields})


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  lr, hr = write_pairs(tmp_path_factory.mktemp('pictures'), PICTURES)
  for i, name in enumerate(NAMES):
    for folder in (lr, hr):
      (folder / f'p{i:02d}.png').rename(folder / f'{name}.png')
  return lr, hr


@pytest.fixture(scope='module')
def good(folders, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'good'
  adapt.run(settings(folders, steps=80), workdir)
  return workdir


@pytest.fixture(scope='module')
def bad(folders, good, tmp_path_factory):
  """A run that goes on from the good one, at a learning rate that ruins the network."""
  workdir = tmp_path_factory.mktemp('runs') / 'bad'
  optim = {'optim.lr': 0.5, 'optim.clip': 0.0, 'optim.ema': 0.0}
  base = {'base': str(good / 'merged'), 'model': '', 'fields': ''}
  adapt.run(settings(folders, method='full', steps=3, **optim, **base), workdir)
  return workdir


class Page(HTMLParser):
  """Reads a page: `tags` of what it holds, `text` of what is seen; fails where tags do not close as they opened."""

  VOID = {'meta', 'link', 'img', 'input', 'br'}

  def __init__(self, source):
    super().__init__()
    self.source, self.tags, self.text, self._open = source, [], '', []
    self.feed(source)
    self.close()
    assert not self._open

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in self.VOID:
      self._open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self._open.pop() == tag

  def handle_data(self, data):
    if not {'style', 'script'} & set(self._open):
      self.text += data

  def all(self, tag):
    return [attributes for name, attributes in self.tags if name == tag]


def report(out, *runs, **flags):
  args = [*map(str, runs), f'--out={out}', *(f'--{name}={value}' for name, value in flags.items())]
  assert main(args) == 0
  return Page((out / 'report.html').read_text()), (out / 'report.md').read_text()


@pytest.fixture(scope='module')
def of_good(good, tmp_path_factory):
  """(folder, page, Markdown) of the run that helped."""
  out = tmp_path_factory.mktemp('report')
  return out, *report(out, good, pictures=2)


def results(run):
  return json.loads((run / 'results.json').read_text())


def decoded(address):
  return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition('base64,')[2]))))


def layer(page, name, label):
  """Returns the pixels of one picture of a viewer."""
  (found,) = (img for img in page.all('img') if img['alt'] == f'{name}, {label}')
  return decoded(found['src'])


# ------------------------------------------------------------------------------------------------------- what it says


def test_it_says_by_how_much_the_adaptation_helped(good, of_good, capsys):
  _, page, text = of_good
  r = results(good)
  after, before = ([row['psnr_y'] for row in r[label]['images'].values()] for label in ('adapted', 'base'))
  mean, low, high = statistics.paired(after, before)
  assert low > 0
  median = np.median(np.subtract(after, before))
  for content in (page.text, text):
    assert f'The adaptation helped: {mean:+.2f} dB PSNR (Y) against the base.' in content
    says = f'Better on {PICTURES} of {PICTURES} pictures (signed-rank p = 0.016), median {median:+.2f} dB.'
    assert says in content
    assert f'The 95 % interval is {low:+.2f} to {high:+.2f} dB, without 0' in content
    assert 'What to try' not in content
  # The tiny run is measured on what it was trained on, and says so.
  assert 'measured on the pictures it was trained on' in page.text


def test_it_says_plainly_that_it_did_harm_and_what_to_try(bad, tmp_path, capsys):
  page, text = report(tmp_path, bad, pictures=1)
  assert 'The adaptation did harm' in capsys.readouterr().out
  for content in (page.text, text):
    assert re.search(r'The adaptation did harm: \N{MINUS SIGN}\d+\.\d\d dB', content)
    assert f'Better on 0 of {PICTURES}' in content
    for flag in ('--config.optim.lr=0.2', '--config.optim.clip=1', '--config.optim.ema=0.99', 'adaptsr_jax.doctor'):
      assert flag in content


def edited(run, folder, change):
  """Returns a copy of a run whose results are changed; `change` takes and returns the values of the adapted network."""
  shutil.copytree(run, folder)
  r = results(folder)
  r['adapted']['images'] = change(r['base']['images'])
  (folder / 'results.json').write_text(json.dumps(r))
  return folder


def test_an_interval_with_0_is_not_clear(good, tmp_path):
  def change(base):
    return {n: {**row, 'psnr_y': row['psnr_y'] + (0.5 - i % 2)} for i, (n, row) in enumerate(base.items())}

  page, _ = report(tmp_path / 'out', edited(good, tmp_path / 'run', change))
  assert 'It is not clear that the adaptation helped' in page.text
  assert 'which includes 0' in page.text
  assert 'More validation pictures' in page.text
  # The pictures, made again, are not those that were measured.
  assert re.search(r'differ from the recorded measurements by up to \d', page.text)


@pytest.fixture(scope='module')
def mixed(good, tmp_path_factory):
  """A run in which one picture lost and all others gained."""

  def change(base):
    rows = {n: {**row, 'psnr_y': row['psnr_y'] + 0.1 + 0.01 * i} for i, (n, row) in enumerate(base.items())}
    rows['p03']['psnr_y'] = base['p03']['psnr_y'] - 2
    return rows

  return edited(good, tmp_path_factory.mktemp('runs') / 'mixed', change)


def test_one_picture_that_decides_the_mean_is_told_with_its_level(mixed, tmp_path):
  run, r = shutil.copytree(mixed, tmp_path / 'run'), results(mixed)
  assert r['adapted']['levels'].keys() == r['adapted']['images'].keys()
  r['adapted']['levels']['p03'] = r['base']['levels']['p03'] + 9.3
  (run / 'results.json').write_text(json.dumps(r))
  page, text = report(tmp_path / 'out', run, pictures=1)
  for content in (page.text, text):
    assert 'Most pictures gained, but it is not clear that the adaptation helped: \N{MINUS SIGN}0.' in content
    assert f'Better on {PICTURES - 1} of {PICTURES} pictures (signed-rank p' in content
    assert 'p03 decides the mean: \N{MINUS SIGN}2.00 dB, its level shifted by +9.3 grey levels' in content
  assert 'A look at p03' in page.text
  assert 'lower learning rate' not in page.text
  assert page.all('article')[0]['data-name'] == 'p03'
  for row in ('base', 'adapted'):  # as versions before this one left it
    del r[row]['levels']
  (run / 'results.json').write_text(json.dumps(r))
  page, _ = report(tmp_path / 'out', run, pictures=1)
  assert 'p03 decides the mean: \N{MINUS SIGN}2.00 dB; without it' in page.text


def test_a_metric_that_goes_the_other_way_is_named(good, tmp_path):
  def change(base):
    return {n: {**row, 'psnr_y': row['psnr_y'] + 1, 'ssim_y': row['ssim_y'] - 0.1} for n, row in base.items()}

  page, _ = report(tmp_path / 'out', edited(good, tmp_path / 'run', change))
  assert 'SSIM (Y) disagrees: by it the adapted pictures are worse (\N{MINUS SIGN}0.1000)' in page.text


def test_values_that_are_not_finite_are_left_out_and_counted(good, tmp_path):
  def change(base):
    rows = {n: {**row, 'psnr_y': row['psnr_y'] + 1} for n, row in base.items()}
    rows['p03']['psnr_y'] = None  # as JSON holds the PSNR of identical pictures
    return rows

  page, _ = report(tmp_path / 'out', edited(good, tmp_path / 'run', change))
  assert 'The adaptation helped: +1.00 dB' in page.text
  assert '1 picture left out' in page.text


def test_one_picture_and_no_steps(folders, tmp_path):
  fields = {'steps': 0, 'data.valid.names': 'p03'}
  adapt.run(settings(folders, **fields), tmp_path / 'run')
  page, _ = report(tmp_path / 'out', tmp_path / 'run')
  assert 'Nothing was trained' in page.text
  adapt.run(settings(folders, **fields | {'steps': 2}), tmp_path / 'longer')
  page, _ = report(tmp_path / 'out', tmp_path / 'longer')
  assert 'It is not clear that the adaptation helped' in page.text
  assert 'Measured on one picture' in page.text
  assert 'needs two pictures' in page.text


def test_two_runs_in_one_report(good, bad, tmp_path):
  page, text = report(tmp_path, good, bad, pictures=1)
  for content in (page.text, text):
    content = content.replace('\\', '')
    assert 'The adaptation helped' in content
    assert 'The adaptation did harm' in content
    assert 'bad (full) against good (lora)' in content
    assert re.search(r'bad \(full\) is \N{MINUS SIGN}.* dB .* against good \(lora\), a difference that holds', content)
  rows = [line for line in text.splitlines() if line.startswith('| bad (full)')]
  assert len({line.count('|') for line in rows if '100.0 %' in line}) == 1
  # Two bases, each named by its run.
  shown = [img['data-label'] for img in page.all('img') if 'data-label' in img]
  assert shown[:6] == ['base of good (lora)', 'good (lora)', 'LR', 'base of bad (full)', 'bad (full)', 'HR']
  # Each run has its strengths, in fewer steps after the first, between its own base and what became of it.
  dials = [attributes['data-label'] for _, attributes in page.tags if attributes.get('class') == 'strength']
  assert dials == ['Strength of good (lora)', 'Strength of bad (full)']
  steps = [img for img in page.all('img') if 'data-step' in img]
  assert [img['data-step'] for img in steps[18:23]] == ['0', '0.25', '0.5', '0.75', '1']
  assert len(steps) == 2 * (9 + 5)
  name = steps[18]['alt'].partition(', strength')[0]
  for step, label in ((steps[18], 'base of bad (full)'), (steps[22], 'bad (full)')):
    np.testing.assert_array_equal(decoded(step['src']), layer(page, name, label))


def test_cost_is_that_of_the_base(of_good, good):
  _, page, text = of_good
  assert 'adapted is the same program as base' in page.text
  r = results(good)
  assert f'{r["trainable_parameters"]:,}' in page.text
  (flops,) = {line.split('|')[3] for line in text.splitlines() if re.match(r'\| (base|adapted) \| [\d,]+ \| ', line)}
  # A 3 x 3 convolution to 3 * 2**2 channels from 8 alone takes 2 * 9 * 8 * 12 operations a pixel.
  value, unit = flops.split()
  assert float(value) * {'k': 1e3, 'M': 1e6}[unit] > 24 * 24 * 2 * 9 * 8 * 12


def test_what_was_run_is_told(of_good, good, folders):
  _, page, _ = of_good
  r = results(good)
  for words in (
    r['base_fingerprint'],
    r['versions']['jax'],
    str(folders[0]),
    'score.batches',
    'lora.cap_at_kernel_width',
  ):
    assert words in page.text
  assert f'--config.data.valid.hr={folders[1]}' in page.text


# ------------------------------------------------------------------------------------------------------- the pictures


def test_the_pictures_are_those_that_were_measured(of_good, good, folders):
  _, page, _ = of_good
  r = results(good)
  gains = {n: row['psnr_y'] - r['base']['images'][n]['psnr_y'] for n, row in r['adapted']['images'].items()}
  order = sorted(gains, key=gains.get, reverse=True)
  shown = [attributes['data-name'] for attributes in page.all('article')]
  assert shown == [*order[:2], *order[:-3:-1]]
  for name in shown:
    hr, lr = (image.read_array(folder / f'{name}.png') for folder in (folders[1], folders[0]))
    np.testing.assert_array_equal(layer(page, name, 'HR'), hr)
    np.testing.assert_array_equal(layer(page, name, 'LR'), lr)
    for label in ('base', 'adapted'):
      psnr = metrics.psnr(layer(page, name, label)[None], hr[None], 2, luma=True)[0]
      assert psnr == pytest.approx(r[label]['images'][name]['psnr_y'], abs=0.01)


def test_colours_and_agreement_are_those_of_the_pictures(good, tmp_path, folders):
  page, text = report(tmp_path, good, pictures=PICTURES)
  names = [attributes['data-name'] for attributes in page.all('article')]
  assert len(set(names)) == PICTURES
  difference = np.mean(
    [layer(page, n, 'adapted').mean((0, 1)) - layer(page, n, 'HR').mean((0, 1)) for n in names], axis=0
  )
  cells = next(line for line in text.splitlines() if line.startswith('| adapted against HR')).split('|')[2:5]
  assert [float(cell.replace('\N{MINUS SIGN}', '-')) for cell in cells] == pytest.approx(difference, abs=0.006)
  # The LR pictures are darker than HR, so HR does not agree with them, and the network learns to brighten.
  agreement = dict(re.findall(r'^\| (bicubic|base|adapted|HR) \| ([\d.]+) \|$', text, re.MULTILINE))
  assert set(agreement) == {'bicubic', 'base', 'adapted', 'HR'}
  assert float(agreement['bicubic']) > 30 > float(agreement['HR'])


def test_lab_is_that_of_scikit_image():
  rgb = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
  np.testing.assert_allclose(pictures.lab(rgb), color.rgb2lab(rgb), atol=1e-3)


def test_crops_lie_between_base_and_adapted_network(of_good, good, folders):
  out, page, text = of_good
  steps = [img for img in page.all('img') if 'data-step' in img]
  assert len(steps) == 3 * 9
  name = steps[0]['alt'].partition(', strength')[0]
  ends = [decoded(steps[i]['src']) for i in (0, 8)]
  for pixels, label in zip(ends, ('base', 'adapted'), strict=True):
    np.testing.assert_array_equal(pixels, layer(page, name, label))
    assert steps[8 * (label == 'adapted')]['data-says'] == f'{results(good)[label]["images"][name]["psnr_y"]:.2f} dB'
  middle = decoded(steps[4]['src']).astype(float)
  assert 0 < np.abs(middle - ends[0]).mean() < np.abs(ends[1].astype(float) - ends[0]).mean()
  assert '--strength=0.5' not in page.text  # a random base is in no file that could be named
  assert text.count('_strength') == 3 * 9


def test_without_its_adapter_file_a_run_has_pictures_but_no_slider(good, tmp_path, capsys):
  run = shutil.copytree(good, tmp_path / 'run')
  (run / 'adapter.safetensors').write_bytes(b'damaged')
  page, _ = report(tmp_path / 'out', run, pictures=1)
  said = capsys.readouterr().out.partition('Without a slider of strengths: ')[2].splitlines()[0]
  assert said.startswith(str(run / 'adapter.safetensors'))
  assert f'Strength of the adapter: no slider. {said}' in page.text
  assert len(page.all('article')) == 2
  assert not any('data-step' in img for img in page.all('img'))


def test_large_pictures_are_kept_small_and_that_is_said(good, tmp_path, monkeypatch):
  page, _ = report(tmp_path, good, pictures=2)
  assert 'stored without loss' in page.text
  monkeypatch.setattr(pictures, '_LARGEST_PAGE', 1000)
  monkeypatch.setattr(pictures, '_LARGEST_CROPS', 1000)
  page, text = report(tmp_path, good, pictures=1)
  assert page.text.count('JPEG of quality 95') == 2  # of pictures, and of crops at every strength
  # Nothing of the earlier report stays.
  assert {path.name for path in (tmp_path / 'pictures').iterdir()} == set(re.findall(r'pictures/(\w+\.\w+)', text))


def test_further_metrics_are_measured_here(good, tmp_path):
  weights = shared('weights')
  page, _ = report(tmp_path, good, pictures=2, metrics='psnr,lpips_alex', metric_weights=weights)
  assert 'LPIPS ALEX' in page.text
  assert 'Largest gains in LPIPS ALEX' in page.text


def test_metrics_without_weights_are_named(good, tmp_path):
  (tmp_path / 'weights').mkdir()
  page, _ = report(tmp_path / 'out', good, pictures=1, metrics='niqe', metric_weights=tmp_path / 'weights')
  assert 'niqe is left out' in page.text


# ------------------------------------------------------------------------------------------------- what is not there


def moved(run, folder, change):
  """Returns a copy of a run with other fields in its config."""
  shutil.copytree(run, folder)
  r = results(folder)
  change(r['config'])
  (folder / 'results.json').write_text(json.dumps(r))
  return folder


def test_without_pictures_the_rest_is_told(good, tmp_path):
  run = moved(good, tmp_path / 'run', lambda config: config['data']['valid'].update(hr='nowhere'))
  page, text = report(tmp_path / 'out', run)
  assert 'The adaptation helped' in page.text
  for content in (page.text, text.replace('\\', '')):
    assert re.search(r'No pictures are shown, and nothing is said on colours.*: .*nowhere is not there', content)
  assert not page.all('article')
  assert {'gains1.svg', 'curve.svg', 'ranks1.svg'} <= {path.name for path in (tmp_path / 'out').iterdir()}


def test_other_pictures_are_not_shown_as_those_measured(good, tmp_path):
  lr, hr = write_pairs(tmp_path / 'others', 2)
  run = moved(good, tmp_path / 'run', lambda config: config['data']['valid'].update(lr=str(lr), hr=str(hr)))
  page, _ = report(tmp_path / 'out', run)
  assert 'have changed since they were measured' in page.text


def huge(content):
  """Returns a PNG that says it had 60,000 x 60,000 pixels."""
  header = b'IHDR' + struct.pack('>2I', 60000, 60000) + content[24:29]
  return content[:12] + header + struct.pack('>I', zlib.crc32(header)) + content[33:]


def bomb(content):
  """Returns a PNG with a text of 100 MB, packed."""
  text = b'zTXta\0\0' + zlib.compress(bytes(10**8))
  return content[:33] + struct.pack('>I', len(text) - 4) + text + struct.pack('>I', zlib.crc32(text)) + content[33:]


@pytest.mark.parametrize(
  ('damage', 'said'),
  [
    (lambda content: content[:200] + bytes(50) + content[250:], 'p02.png cannot be read: '),
    (lambda content: content[: len(content) // 2], 'have changed since they were measured'),
    (lambda content: b'', 'p02.png is empty (0 bytes)'),
    (huge, 'p02.png has 60000 x 60000 pixels, above the limit of '),
    (bomb, 'p02.png cannot be read: decompressed data too large'),
  ],
  ids=['damaged', 'cut', 'empty', 'huge', 'bomb'],
)
def test_pictures_that_cannot_be_decoded_any_more_are_one_sentence(good, folders, tmp_path, capsys, damage, said):
  lr, hr = (shutil.copytree(folder, tmp_path / folder.name) for folder in folders)
  run = moved(good, tmp_path / 'run', lambda config: config['data']['valid'].update(lr=str(lr), hr=str(hr)))
  (hr / 'p02.png').write_bytes(damage((hr / 'p02.png').read_bytes()))
  page, _ = report(tmp_path / 'out', run, pictures=1)
  (line,) = [
    line for line in capsys.readouterr().out.splitlines() if str(tmp_path / 'out') not in line and said in line
  ]
  assert line.startswith('Without pictures: ')
  assert line.endswith('.')
  assert line.count('p02.png') <= 1
  assert said in page.text
  assert 'The adaptation helped' in page.text
  assert not (tmp_path / 'out' / 'pictures').exists()


def test_without_the_base_the_adapted_pictures_are_shown(good, tmp_path):
  run = moved(good, tmp_path / 'run', lambda config: config.update(base='gone.pth'))
  page, _ = report(tmp_path / 'out', run, pictures=1)
  assert re.search('Without pictures of base: gone.pth', page.text)
  assert {img['data-label'] for img in page.all('img') if 'data-label' in img} == {'LR', 'adapted', 'HR'}
  assert page.all('article')[0]['data-left'] == 'LR'
  other = moved(good, tmp_path / 'other', lambda config: config.update(seed=1))
  page, _ = report(tmp_path / 'out', other, pictures=1)
  assert 'holds other weights now' in page.text


def refused(capsys, *args):
  assert main([str(arg) for arg in args]) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert error.startswith('Error: ')
  return error


def test_what_is_no_finished_run_is_one_sentence(good, folders, tmp_path, capsys):
  out = f'--out={tmp_path}/out'
  assert 'has no config.json' in refused(capsys, tmp_path, out)
  assert 'is not there' in refused(capsys, tmp_path / 'nowhere', out)
  assert 'given twice' in refused(capsys, good, good, out)
  assert "'nonsense' is not a metric" in refused(capsys, good, out, '--metrics=nonsense')
  shutil.copytree(good, tmp_path / 'unfinished')
  (tmp_path / 'unfinished' / 'results.json').unlink()
  said = refused(capsys, tmp_path / 'unfinished', out)
  assert 'is not finished (80 of 80 steps are saved); start it again by the same command' in said
  blind = settings(folders, steps=1)
  blind.data.valid.lr = blind.data.valid.hr = ''
  adapt.run(blind, tmp_path / 'blind')
  assert 'measured nothing' in refused(capsys, tmp_path / 'blind', out)
  assert not (tmp_path / 'out').exists()


def test_runs_that_were_measured_differently_are_refused(good, folders, tmp_path, capsys):
  out = f'--out={tmp_path}/out'
  adapt.run(settings(folders, **{'steps': 0, 'data.valid.names': 'p03,p04'}), tmp_path / 'fewer')
  said = refused(capsys, good, tmp_path / 'fewer', out)
  assert f'different pictures ({PICTURES} pictures and 2 pictures)' in said
  adapt.run(settings(folders, steps=0, eval_tile=48), tmp_path / 'tiled')
  assert '(tile -1 and 48)' in refused(capsys, good, tmp_path / 'tiled', out)
  four = write_pairs(tmp_path / 'four', 1, scale=4, size=64)
  adapt.run(settings(four, steps=0, fields='dim=8,n_blocks=1,upscale=4'), tmp_path / 'x4')
  assert 'enlarge by 2 and by 4' in refused(capsys, good, tmp_path / 'x4', out)


# ---------------------------------------------------------------------------------------------------------- the page


def test_the_page_loads_nothing(of_good):
  _, page, _ = of_good
  addresses = [value for _, attributes in page.tags for key, value in attributes.items() if key in ('src', 'href')]
  assert len(addresses) > 10
  assert all(address.startswith('data:') for address in addresses)
  assert not re.search(r'url\(|@import|https?://(?!www\.w3\.org)', re.sub(r'base64,[\w+/=]+', '', page.source))
  assert [meta['content'] for meta in page.all('meta') if meta.get('http-equiv')][0].startswith("default-src 'none'")
  assert any(meta.get('name') == 'viewport' for meta in page.all('meta'))


def test_every_picture_has_words_and_every_name_is_text(of_good):
  _, page, _ = of_good
  assert all(img['alt'] for img in page.all('img'))
  for name in NAMES:
    assert name in page.text
  assert 'a<b>' not in page.source


def test_markdown_points_at_files_that_are_there(of_good):
  out, _, text = of_good
  places = re.findall(r'\]\(([^)]+)\)', text)
  assert len(places) > 10
  assert all((out / place).is_file() for place in places)
  for name in NAMES:
    assert name not in text  # escaped
  assert 'a\\<b\\>&amp;"c' in text


def test_bars_of_gains():
  svg = gains_svg({'a<b': 2.0, 'c': -1.0}, Interval(0.5, -0.25, 1.25), 'dB')
  root = ElementTree.fromstring(svg)
  titles = [node.text for node in root.iter('{http://www.w3.org/2000/svg}title')]
  assert titles == [
    'Gain of each picture in dB, from +2 to \N{MINUS SIGN}1; 1 of 2 gained.',
    'a<b: +2 dB',
    'c: \N{MINUS SIGN}1 dB',
  ]
  band, gain, loss = root.iter('{http://www.w3.org/2000/svg}rect')
  assert float(gain.get('height')) == pytest.approx(2 * float(loss.get('height')), abs=0.02)
  assert float(band.get('height')) == pytest.approx(0.75 * float(gain.get('height')), abs=0.1)
  assert float(loss.get('y')) == pytest.approx(float(gain.get('y')) + float(gain.get('height')), abs=0.02)
  assert gain.get('fill') != loss.get('fill')
  ElementTree.fromstring(gains_svg({'one': 0.0}, Interval(0.0, np.nan, np.nan), 'dB'))


# -------------------------------------------------------------------------------------------------------- the browser


@pytest.fixture(scope='module')
def browser():
  with browsers.started() as browser:
    yield browser


HEIGHTS = {390: 844, 1280: 800}  # of the screens of a phone and a laptop


def check_first_screen(shown, width):
  for part in ('h1', '.verdict', '.lead .stage', '.lead .tools'):
    box = shown.page.locator(part).first.bounding_box()
    assert box['x'] >= 0
    assert box['x'] + box['width'] <= width
    assert 0 < box['y'] < box['y'] + box['height'] <= HEIGHTS[width]


@pytest.mark.parametrize('width', HEIGHTS)
def test_the_first_screen_holds_a_long_verdict_too(browser, mixed, tmp_path, width):
  report(tmp_path / 'out', mixed, pictures=1)
  check_first_screen(browsers.Shown(browser, tmp_path / 'out' / 'report.html', width, HEIGHTS[width]), width)


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('width', HEIGHTS)
def test_in_a_browser(browser, of_good, width, scheme):
  path = of_good[0] / 'report.html'
  shown = browsers.Shown(browser, path, width, HEIGHTS[width], color_scheme=scheme)
  assert shown.run('document.documentElement.scrollWidth') <= width
  check_first_screen(shown, width)
  boxes = '[...document.querySelectorAll("table")].map(t => t.parentElement)'
  assert shown.run(f'{boxes}.every(b => b.className.includes("scroll") && getComputedStyle(b).overflowX == "auto")')
  assert shown.run(f'{boxes}.every(b => b.getBoundingClientRect().right <= {width})')
  assert shown.run('[...document.images].every(i => !i.checkVisibility() || i.complete && i.naturalWidth > 0)')
  assert shown.run("getComputedStyle(document.querySelector('.stage')).position") == 'relative'
  paper, ink = (shown.run(f'getComputedStyle(document.body).{of}') for of in ('backgroundColor', 'color'))
  light = [sum(map(int, re.findall(r'\d+', colour)[:3])) for colour in (paper, ink)]
  assert (light[0] > light[1] + 400) == (scheme == 'light')
  assert abs(light[0] - light[1]) > 400
  assert shown.complaints == []
  assert {url for url in shown.requests if not url.startswith('data:')} == {path.absolute().as_uri()}


SHARE = "getComputedStyle(document.querySelector('.pair img')).clipPath"


def test_the_divider_follows_keys_mouse_and_finger(browser, of_good):
  shown = browsers.Shown(browser, of_good[0] / 'report.html', 800, has_touch=True)
  assert shown.run(SHARE) == 'inset(0px 50% 0px 0px)'
  divider = shown.page.locator('.tools input').first
  divider.press('ArrowRight')
  assert shown.run(SHARE) == 'inset(0px 49% 0px 0px)'
  assert divider.get_attribute('aria-valuetext') == '51 % base, 49 % adapted'
  pair = shown.page.locator('.pair').first
  pair.scroll_into_view_if_needed()
  box = pair.bounding_box()
  shown.page.mouse.click(box['x'] + box['width'] / 4, box['y'] + box['height'] / 2)
  assert shown.run(SHARE) == 'inset(0px 75% 0px 0px)'
  shown.page.touchscreen.tap(box['x'] + 0.6 * box['width'], box['y'] + box['height'] / 2)
  assert shown.run(SHARE) == 'inset(0px 40% 0px 0px)'
  assert shown.complaints == []


def test_all_that_can_be_moved_is_reached_by_the_tab_key(browser, of_good):
  shown = browsers.Shown(browser, of_good[0] / 'report.html', 800)
  shown.run("void (window.movable = [...document.querySelectorAll('input, select, summary, .scroll')])")
  wanted = shown.run('movable.flatMap((element, i) => element.checkVisibility() ? [i] : [])')
  assert len(wanted) > 20
  reached = []
  for _ in range(len(wanted) + 5):
    shown.page.keyboard.press('Tab')
    reached.append(shown.run('movable.indexOf(document.activeElement)'))
  assert set(wanted) <= set(reached)


def test_the_strength_of_the_adapter_is_dialled(browser, of_good, good):
  shown = browsers.Shown(browser, of_good[0] / 'report.html', 390, 844)
  dial = shown.page.get_by_role('slider', name='Strength of the adapter')
  seen = "[...document.querySelectorAll('.steps img')].filter(i => i.checkVisibility()).map(i => i.dataset.step).join()"
  assert shown.run(seen) == '1,1,1'
  for key, step in (('ArrowLeft', '0.875'), ('Home', '0'), ('ArrowRight', '0.125')):
    dial.press(key)
    assert shown.run(seen) == ','.join([step] * 3)
    assert dial.get_attribute('aria-valuetext') == step
  assert shown.page.locator('.dial output').text_content() == 'Strength of the adapter: 0.125'
  dial.press('Home')
  said = shown.page.locator('.strength figcaption').first.text_content()
  name, _, value = said.rpartition(': ')
  assert value == f'{results(good)["base"]["images"][name]["psnr_y"]:.2f} dB'
  assert shown.run('document.documentElement.scrollWidth') <= 390
  assert shown.complaints == []


def test_other_layers_and_sizes(browser, of_good):
  shown = browsers.Shown(browser, of_good[0] / 'report.html', 800)
  seen = (
    "[...document.querySelector('.pair').children].filter(i => i.alt && i.checkVisibility()).map(i => i.alt).join()"
  )
  name = shown.run("document.querySelector('.viewer').dataset.name")
  left, right, zoom = (shown.page.locator('.tools select').nth(i) for i in range(3))
  left.select_option('LR')
  right.select_option('HR')
  assert shown.run(seen) == f'{name}, LR,{name}, HR'
  zoom.select_option('4')
  assert shown.run("document.querySelector('.pair').clientWidth") == 4 * 48
  assert shown.run('document.documentElement.scrollWidth') <= 800


def test_without_scripts_the_pictures_stand_beside_each_other(browser, of_good):
  shown = browsers.Shown(browser, of_good[0] / 'report.html', 390, java_script_enabled=False)
  places = [shown.page.locator('.layers img').nth(i).bounding_box()['x'] for i in (0, 1)]
  assert 0 < places[0] < places[1]
  assert not shown.page.locator('.stage').count()
  assert len({shown.page.locator('.steps img').nth(i).bounding_box()['x'] for i in range(3)}) == 3

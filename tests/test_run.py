"""The real entry point on generated pictures: what it writes, that it learns, that it resumes to the bit."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from adaptsr_jax import adapt, base, config, convert, energy, image, infer, log, tree
from adaptsr_jax.adapt.store import latest_step
from adaptsr_jax.adapters import file as adapter_file
from adaptsr_jax.errors import UserError
from tests.pictures import settings, write_pairs

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  return write_pairs(tmp_path_factory.mktemp('pictures'), 4)


def command(folders, workdir, *flags):
  """Returns the command line that a user would type."""
  sides = dict(zip(('lr', 'hr'), folders, strict=True))
  data = [f'--config.data.{part}.{side}={folder}' for part in ('train', 'valid') for side, folder in sides.items()]
  return [sys.executable, '-m', 'adaptsr_jax.main', '--config=configs/tiny.py', f'--workdir={workdir}', *data, *flags]


def start(args):
  env = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
  return subprocess.Popen(args, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope='module')
def done(folders, tmp_path_factory):
  """A finished run: (folder, results)."""
  workdir = tmp_path_factory.mktemp('runs') / 'done'
  return workdir, adapt.run(settings(folders), workdir)


def test_the_adapted_network_is_better(done):
  _, results = done
  assert results['adapted']['mean']['psnr_y'] > results['base']['mean']['psnr_y'] + 0.5


def test_results_say_what_was_done(done):
  workdir, results = done
  assert json.loads((workdir / 'results.json').read_text()) == json.loads(json.dumps(results))
  assert set(results['base']['mean']) == {'psnr_y', 'ssim_y', 'psnr_rgb', 'ssim_rgb'}
  assert set(results['adapted']['images']) == {'p00', 'p01', 'p02', 'p03'}
  ranks = json.loads((workdir / 'ranks.json').read_text())
  assert 0 < ranks['spent'] <= ranks['budget']
  assert results['adapter_parameters'] == ranks['parameters']
  assert results['trainable_parameters'] < results['total_parameters']
  assert results['seconds'] > 0
  assert results['peak_memory_bytes'] > 1e6


def test_loss_falls_and_is_logged(done):
  rows = [row['loss'] for row in log.read_metrics(done[0]) if 'loss' in row]
  assert len(rows) == 20
  assert np.mean(rows[-5:]) < np.mean(rows[:5])


def test_pictures_are_drawn(done):
  for name in ('compare.png', 'samples.png', 'ranks.png', 'curve.png'):
    assert image.read_array(done[0] / name).std() > 5


def test_the_same_crops_are_kept_at_every_measurement(done, folders):
  workdir, results = done
  kept = sorted(path.name for path in (workdir / 'samples').iterdir())
  assert kept == [f'{place}_{step:06d}.png' for place in (1, 2, 3) for step in range(2, 21, 2)]
  merged = base.load(workdir / 'merged')
  enlarge = infer.network(merged.model(), merged.params, infer.WHOLE)
  for place, name in ((1, 'p00'), (2, 'p02'), (3, 'p03')):  # 48 pixels a side: shown whole
    lr = image.to_float(image.read_array(folders[0] / f'{name}.png'))
    large = image.to_uint8(enlarge(lr))
    np.testing.assert_array_equal(image.read_array(log.sample_path(workdir, place, 20)), large)
    assert np.abs(image.read_array(log.sample_path(workdir, place, 2)) - large.astype(float)).mean() > 1
  assert image.size(workdir / 'samples.png')[0] > 3 * 48


def test_all_exports_are_the_same_network(done, folders):
  workdir, results = done
  merged = base.load(workdir / 'merged')
  from_torch_file = base.load(workdir / 'merged.pth')
  jax.tree.map(np.testing.assert_array_equal, from_torch_file.params, merged.params)
  assert from_torch_file.name == merged.name
  assert from_torch_file.fields.items() >= merged.fields.items()
  adapter = adapter_file.load(workdir / 'adapter.safetensors')
  start_params = base.random('safmn_x2', 0, {'dim': 8, 'n_blocks': 1}).params
  adapter_file.check_base(adapter.meta, start_params)
  with pytest.raises(UserError, match='base'):
    adapter_file.check_base(adapter.meta, merged.params)
  assert adapter.meta['metrics']['adapted'] == results['adapted']['mean']
  assert 2000 < len(adapter.meta['thumbnail']) < 20_000


def test_a_second_start_is_done_at_once(done, folders, capsys):
  workdir, results = done
  again = adapt.run(settings(folders), workdir)
  assert 'are done' in capsys.readouterr().out
  assert again['adapted'] == results['adapted']
  assert again['seconds'] == results['seconds']


def test_runs_of_versions_before_go_on(done, folders, tmp_path, capsys):
  """They kept ranks and no plan, and said which sites there are under the names of the methods."""
  shutil.copytree(done[0], tmp_path / 'run')
  (tmp_path / 'run' / 'method.json').unlink()
  kept = json.loads((tmp_path / 'run' / 'config.json').read_text())
  del kept['sites'], kept['best'], kept['init_from'], kept['arc']
  kept['lora'] |= {'kinds': ['conv', 'mlp', 'attn'], 'exclude': [], 'split_qkv': False}
  kept['full'] = {'kinds': []}
  (tmp_path / 'run' / 'config.json').write_text(json.dumps(kept))
  again = adapt.run(settings(folders), tmp_path / 'run')
  assert 'are done' in capsys.readouterr().out
  assert again['adapted'] == done[1]['adapted']


def test_a_folder_of_another_run_is_refused(done, folders):
  with pytest.raises(UserError, match=r'config\.lora\.rank=2, not 3'):
    adapt.run(settings(folders, **{'lora.rank': 3}), done[0])


def test_fewer_steps_than_are_done_change_nothing(done, folders):
  before = {path.name: path.stat().st_mtime_ns for path in done[0].iterdir()}
  for steps in (0, 10):
    with pytest.raises(UserError, match='holds a run of 20 steps'):
      adapt.run(settings(folders, steps=steps), done[0])
  assert {path.name: path.stat().st_mtime_ns for path in done[0].iterdir()} == before


def test_other_pictures_in_the_same_folders_are_refused(folders, tmp_path):
  lr, hr = write_pairs(tmp_path / 'pictures', 2)
  adapt.run(settings((lr, hr), steps=1), tmp_path / 'run')
  shutil.copy(folders[0] / 'p02.png', lr)
  shutil.copy(folders[1] / 'p02.png', hr)
  with pytest.raises(UserError, match='training pictures and the validation pictures of the run'):
    adapt.run(settings((lr, hr), steps=2), tmp_path / 'run')


def test_a_picture_that_is_cut_off_is_named_before_the_first_step(folders, tmp_path):
  lr, hr = write_pairs(tmp_path / 'pictures', 2)
  whole = (hr / 'p01.png').read_bytes()
  (hr / 'p01.png').write_bytes(whole[: len(whole) // 2])
  with pytest.raises(UserError, match=r'1 of 2 pairs cannot be read: .*p01\.png'):
    adapt.run(settings((lr, hr)), tmp_path / 'run')
  assert not (tmp_path / 'run' / 'config.json').exists()
  # The folder is still free for the mended pictures.
  (hr / 'p01.png').write_bytes(whole)
  adapt.run(settings((lr, hr), steps=1), tmp_path / 'run')


def test_pictures_too_small_to_measure_are_named(folders, tmp_path):
  small = write_pairs(tmp_path / 'pictures', 1, size=14)
  c = settings(folders)
  c.data.valid.lr, c.data.valid.hr = map(str, small)
  with pytest.raises(UserError, match='p00 is 14x14; to be measured it needs at least 15'):
    adapt.run(c, tmp_path / 'run')


def test_nothing_to_train_is_refused(folders, tmp_path):
  with pytest.raises(UserError, match='No kernel is left to adapt'):
    adapt.run(settings(folders, method='full', **{'sites.kinds': ('attn',)}), tmp_path / 'run')
  assert not (tmp_path / 'run' / 'config.json').exists()


def test_zero_steps_give_the_baseline_row(done, folders, tmp_path):
  results = adapt.run(settings(folders, steps=0), tmp_path / 'run')
  assert results['base'] == results['adapted'] == done[1]['base']
  # Four panels instead of five: nothing was adapted.
  widths = [image.read_array(folder / 'compare.png').shape[1] for folder in (tmp_path / 'run', done[0])]
  assert widths[0] < 0.85 * widths[1]
  merged = base.load(tmp_path / 'run' / 'merged').params
  jax.tree.map(np.testing.assert_array_equal, merged, base.random('safmn_x2', 0, {'dim': 8, 'n_blocks': 1}).params)


@pytest.mark.parametrize(
  'fields',
  [
    {'method': 'full'},
    {'optim.ema': 0.9, 'optim.accumulate': 2, 'optim.clip': 1.0},
    {'lora.rule': 'marginal', 'score.kind': 'fisher'},
    {'lora.rule': 'uniform', 'lora.path': 'factored', 'dtype': 'bfloat16'},
    {'lora.rule': 'greedy', 'score.kind': 'random', 'lora.unit': 'ranks', 'lora.r_min': 0},
  ],
  ids=str,
)
def test_options_run_and_learn(folders, tmp_path, fields):
  results = adapt.run(settings(folders, steps=12, eval_every=12, **fields), tmp_path / 'run')
  losses = [row['loss'] for row in log.read_metrics(tmp_path / 'run') if 'loss' in row]
  assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
  assert results['adapted']['mean'] != results['base']['mean']
  assert (tmp_path / 'run' / 'adapter.safetensors').exists() == (results['method'] == 'lora')


def test_a_published_file_comes_back_under_its_wrapper_and_without_its_prefix(folders, tmp_path):
  start_base = base.random('edsr_baseline_x2', 0, {'num_feat': 8, 'num_block': 2})
  weights = convert.to_torch(start_base.name, start_base.fields, start_base.params)
  layout = {'format': 'pth', 'places': [[['params_ema'], 'module.']]}
  convert.write(tmp_path / 'edsr.pth', weights, layout, like_source=True)
  adapt.run(settings(folders, base=str(tmp_path / 'edsr.pth'), model='', fields='', steps=2), tmp_path / 'run')
  source = convert.read_source(tmp_path / 'run' / 'merged.pth')
  assert source.layout['places'] == [[['params_ema'], '']]
  assert {key: value.shape for key, value in source.weights.items()} == {k: v.shape for k, v in weights.items()}


def test_killed_and_continued_equals_never_stopped(done, folders, tmp_path):
  workdir = tmp_path / 'killed'
  process = start(command(folders, workdir, '--config.save_every=3'))
  for line in process.stdout:
    if line.startswith('step 10/'):
      process.kill()
      break
  process.wait()
  assert not (workdir / 'results.json').exists()
  second = start(command(folders, workdir, '--config.save_every=3'))
  output = second.communicate()[0]
  assert second.returncode == 0, output
  assert 'Continuing from step' in output
  for name in ('merged.pth', 'adapter.safetensors'):
    ours, theirs = (read_weights(folder / name) for folder in (workdir, done[0]))
    assert ours.keys() == theirs.keys()
    for key in ours:
      np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)
  steps = [row['step'] for row in log.read_metrics(workdir) if 'loss' in row]
  assert steps == list(range(1, 21))


def test_training_goes_on_from_an_adapter(done, folders, tmp_path):
  """A rate of nearly nothing shows where training starts: where the adapter left off, also with larger ranks."""
  start = {'init_from': str(done[0] / 'adapter.safetensors'), 'optim.lr': 1e-6, 'steps': 1}
  trained = done[1]['adapted']['mean']['psnr_y']
  assert trained > done[1]['base']['mean']['psnr_y'] + 0.5
  same = adapt.run(settings(folders, **start), tmp_path / 'same')
  assert same['adapted']['mean']['psnr_y'] == pytest.approx(trained, abs=1e-3)
  assert same['trainable_parameters'] == done[1]['trainable_parameters']
  rank = max(json.loads((done[0] / 'ranks.json').read_text())['ranks'].values()) + 1
  larger = {**start, 'lora.rule': 'uniform', 'lora.rank': rank}
  grown = adapt.run(settings(folders, **larger), tmp_path / 'grown')
  assert grown['adapted']['mean']['psnr_y'] == pytest.approx(trained, abs=1e-3)
  assert grown['trainable_parameters'] > same['trainable_parameters']
  again = adapt.run(settings(folders, **larger), tmp_path / 'grown')  # a second start takes its own state
  assert again['adapted'] == grown['adapted']


@pytest.mark.parametrize(
  ('fields', 'said'),
  [
    ({'method': 'bitfit'}, 'of method lora; give --config.method=lora'),
    ({'lora.rule': 'uniform', 'lora.rank': 1}, 'ranks can only grow'),
    ({'lora.alpha': 7.0}, r'alpha = .*; give --config.lora.alpha='),
    ({'seed': 1}, 'trained on another base'),
    ({'init_from': 'missing.safetensors'}, 'missing.safetensors is not a file'),
  ],
  ids=str,
)
def test_an_adapter_that_training_cannot_start_from_is_refused(done, folders, tmp_path, fields, said):
  fields = {'init_from': str(done[0] / 'adapter.safetensors'), **fields}
  with pytest.raises(UserError, match=said):
    adapt.run(settings(folders, **fields), tmp_path / 'run')
  assert not (tmp_path / 'run' / 'config.json').exists()


def read_weights(path):
  return load_file(path) if path.suffix == '.safetensors' else convert.read(path)


def test_interrupt_saves_and_says_how_to_continue(folders, tmp_path):
  flags = ('--config.steps=100000', '--config.log_every=1')
  process = start(command(folders, tmp_path / 'run', *flags))
  for line in process.stdout:
    if line.startswith('step 5/'):
      process.send_signal(signal.SIGINT)
      break
  output = process.communicate()[0]
  assert process.returncode == 130, output
  assert 'the same command continues' in output
  assert latest_step(tmp_path / 'run' / 'checkpoints') >= 5


def test_divergence_names_the_step_and_keeps_the_last_good_state(folders, tmp_path):
  with pytest.raises(UserError, match=r'of step \d+ is not a finite number'):
    adapt.run(settings(folders, method='full', **{'optim.lr': 1e30, 'save_every': 1}), tmp_path / 'run')
  assert not (tmp_path / 'run' / 'results.json').exists()


@pytest.mark.parametrize(
  ('flags', 'said'),
  [
    (['--config.base=nowhere.pth'], 'nowhere.pth is neither a file nor a folder'),
    (['--config.model=safmn_x9'], 'safmn_x9'),
    (['--config.data.train.hr=nowhere'], 'nowhere'),
    (['--config.patch=512'], 'p00'),
    (['--config.lora.r_min=40', '--config.lora.r_max=40'], 'budget'),
    (['--config.sites.kinds=attn'], 'config.sites.kinds'),
    (['--config.lora.kinds=conv'], 'config.lora.kinds is called config.sites.kinds'),
    (['--config.fields=dim=7'], 'dim'),
    (['--config.lora.rnk=2'], 'Error: the config has no field lora.rnk; did you mean lora.rank?'),
    (['--config.steps=many'], 'config.steps=many'),
    (['--confg.steps=2'], 'confg.steps'),
  ],
  ids=str,
)
def test_bad_input_is_one_sentence_and_exit_code_2(folders, tmp_path, flags, said):
  process = start(command(folders, tmp_path / 'run', *flags))
  output = process.communicate()[0]
  assert process.returncode == 2, output
  assert 'Traceback' not in output
  assert said in output
  assert sum(line.startswith('Error: ') for line in output.splitlines()) == 1


def test_tensorboard_events_are_written(folders, tmp_path):
  adapt.run(settings(folders, steps=2, tensorboard=True, best='ssim'), tmp_path / 'run')
  (events,) = (tmp_path / 'run' / 'tensorboard').glob('events.out.tfevents.*')
  written = events.read_bytes()
  assert all(f'samples/{name}'.encode() in written for name in ('p00', 'p02', 'p03'))
  sample = log.sample_path(tmp_path / 'run', 1, 2).read_bytes()
  assert written.count(b'\x89PNG') == 2 * 3
  assert sample[:8] == b'\x89PNG\r\n\x1a\n'
  # A short name of a metric stands for its value on Y.
  assert config.flat(config.restored(json.loads((tmp_path / 'run' / 'config.json').read_text())))['best'] == 'ssim_y'


def test_nobody_waits_long_without_a_word(capsys, monkeypatch):
  monkeypatch.setattr(log, '_SILENCE', 0.05)
  for _ in log.watched(range(3), 'Measuring', 3):
    time.sleep(0.1)
  lines = capsys.readouterr().err.splitlines()
  assert 2 <= len(lines) <= 3  # after 0.05, 0.15 and, should this machine be slow, 0.35 seconds
  assert re.fullmatch(r'Measuring  0:00 so far', lines[0])
  assert re.fullmatch(r'Measuring  [12]/3  0:00 left', lines[1])


def test_quick_work_says_nothing(capsys):
  assert list(log.watched('abc', 'Measuring', 3)) == ['a', 'b', 'c']
  assert capsys.readouterr().err == ''


def test_a_bar_on_a_terminal_and_lines_above_it(monkeypatch):
  """What a terminal of 80 columns gets: the bar goes away for each line and at the end."""
  screen = io.StringIO()
  screen.isatty = lambda: True
  monkeypatch.setattr(sys, 'stderr', screen)
  monkeypatch.setattr(sys, 'stdout', screen)
  with log.Work('Training', 4, done=1) as work:
    work.advance(2)
    work.title = 'Measuring'
    log.say('step 3/4')
    time.sleep(1.2)
  written = screen.getvalue()
  assert re.search(r'Training:  25%.* 1/4 ', written)
  assert '\rstep 3/4\n' in re.sub(r'\r +\r', '\r', written)
  assert re.search(r'Measuring:  75%.* 3/4 ', written)
  assert written.rsplit('\r', 2)[-1] == ''


def test_what_came_before_a_restart_is_not_in_the_time_left():
  work = log.Work('Training', 100)
  work._start -= 1000  # spent on compiling
  work.restart(100, 1)
  work.advance()
  assert re.fullmatch(r'2/100  0:0\d left', work.state())


def test_progress_tells_speed_time_left_and_waiting():
  progress = log.Progress(0, 300, energy.Clock(1000))
  time.sleep(0.02)
  progress.waited = progress.seconds() / 2
  line = progress.line(100, {'loss': 0.03125})
  assert line.startswith('step 100/300  loss 0.03125  ')
  assert 'data wait 50%' in line
  assert line.endswith('left')
  progress = log.Progress(0, 300, energy.Clock())
  time.sleep(0.05)
  progress.compiled()
  assert progress.line(1, {'loss': 1.0}) == 'step 1/300  loss 1  compiled in 0:00'
  time.sleep(0.02)
  assert '/s  ' in progress.line(100, {})  # of the 99 steps after the first: thousands a second
  assert [log.clock(s) for s in (5, 65, 3 * 3600 + 7 * 60)] == ['0:05', '1:05', '3:07:00']


def test_count_of_what_is_exported(done):
  merged = base.load(done[0] / 'merged').params
  assert tree.count(merged) == done[1]['total_parameters']


def test_config_is_kept(done):
  kept = config.flat(json.loads((done[0] / 'config.json').read_text()))
  assert kept['steps'] == 20
  assert kept['lora.rank'] == 2

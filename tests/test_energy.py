"""Energy counters as Linux shows them, made of files."""

import pytest

from adaptsr_jax import energy


def zone(folder, name, label, microjoules, largest=262143328850):
  path = folder / name
  path.mkdir(exist_ok=True)
  (path / 'name').write_text(f'{label}\n')
  (path / 'energy_uj').write_text(f'{microjoules}\n')
  (path / 'max_energy_range_uj').write_text(f'{largest}\n')


@pytest.fixture
def folder(tmp_path):
  (tmp_path / 'intel-rapl').mkdir()  # the control type: no counter of its own
  zone(tmp_path, 'intel-rapl:0', 'package-0', 1_000_000)
  zone(tmp_path, 'intel-rapl:0:0', 'core', 0)
  zone(tmp_path, 'intel-rapl:0:1', 'dram', 500_000)
  zone(tmp_path, 'intel-rapl:1', 'package-1', 0)
  zone(tmp_path, 'intel-rapl:2', 'psys', 0)
  zone(tmp_path, 'intel-rapl-mmio:0', 'package-0', 0)
  return tmp_path


def test_packages_and_memory_are_added_once(folder):
  meter = energy.Meter(folder)
  zone(folder, 'intel-rapl:0', 'package-0', 4_000_000)
  zone(folder, 'intel-rapl:0:1', 'dram', 1_000_000)
  zone(folder, 'intel-rapl:1', 'package-1', 2_250_000)
  for part in ('intel-rapl:0:0', 'intel-rapl:2', 'intel-rapl-mmio:0'):
    (folder / part / 'energy_uj').write_text('900000000')
  assert meter.lap() == pytest.approx(3 + 0.5 + 2.25)
  assert meter.lap() == 0


def test_a_counter_that_starts_again(tmp_path):
  zone(tmp_path, 'intel-rapl:0', 'package-0', 9_000_000, largest=9_999_999)
  meter = energy.Meter(tmp_path)
  zone(tmp_path, 'intel-rapl:0', 'package-0', 500_000, largest=9_999_999)
  assert meter.lap() == pytest.approx(1.5)


@pytest.mark.parametrize('broken', ['absent', 'empty', 'forbidden', 'not a number'])
def test_what_cannot_be_read_is_none(tmp_path, broken):
  folder = tmp_path / 'powercap'
  if broken != 'absent':
    folder.mkdir()
  if broken in ('forbidden', 'not a number'):
    zone(folder, 'intel-rapl:0', 'package-0', 1)
  if broken == 'forbidden':  # as far as the administrator, who may run this, is concerned: a folder is not readable
    (folder / 'intel-rapl:0' / 'energy_uj').unlink()
    (folder / 'intel-rapl:0' / 'energy_uj').mkdir()
  if broken == 'not a number':
    (folder / 'intel-rapl:0' / 'energy_uj').write_text('?')
  assert energy.Meter(folder).lap() is None


def test_a_counter_that_goes_away_ends_the_knowledge(folder):
  meter = energy.Meter(folder)
  (folder / 'intel-rapl:1' / 'energy_uj').unlink()
  assert meter.lap() is None
  (folder / 'intel-rapl:1' / 'energy_uj').write_text('5')
  assert meter.lap() is None


def test_this_machine_tells_or_does_not():
  joules = energy.Meter().lap()
  assert joules is None or joules >= 0


def test_a_clock_leaves_out_pauses_and_goes_on_from_what_was_spent(folder, monkeypatch):
  now = iter([0.0, 1.0, 5.0, 7.0, 8.0])  # begun, pause begun and ended, asked; the second one begun
  monkeypatch.setattr(energy.time, 'perf_counter', lambda: next(now))
  meter = energy.Meter
  monkeypatch.setattr(energy, 'Meter', lambda: meter(folder))
  clock = energy.Clock(100.0, 10.0)
  zone(folder, 'intel-rapl:0', 'package-0', 2_000_000)
  with clock.paused():
    zone(folder, 'intel-rapl:0', 'package-0', 9_000_000)
  zone(folder, 'intel-rapl:0', 'package-0', 9_500_000)
  clock.tick()
  assert clock.joules == pytest.approx(10 + 1 + 0.5)
  assert clock.seconds() == pytest.approx(100 + 1 + 2)
  assert energy.Clock(0.0, None).joules is None

"""Energy of a stretch of work, in joules, from the counters that the processor keeps (RAPL).

Linux shows them under /sys/class/powercap (kernel documentation: power/powercap/powercap.rst): one folder per zone with
`name`, `energy_uj` (microjoules so far) and `max_energy_range_uj` (where the counter starts again at 0). Counted are
the zones `package-N` and `dram`, and with them everything else that the machine did meanwhile; a graphics card is not
in them. Since 2020 most systems let only the administrator read the counters, and virtual machines have none: the
energy is then not known, which is no error.
"""

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

_POWERCAP = '/sys/class/powercap'
# Packages, and memory below them. `core` and `uncore` are parts of a package, `psys` holds the packages, and the zones
# of `intel-rapl-mmio` are the packages once more.
_FOLDER = re.compile(r'intel-rapl:\d+(:\d+)?')
_NAME = re.compile(r'package-\d+|dram')


class Meter:
  """Tells the energy spent since it was last asked.

    meter = Meter()
    work()
    joules = meter.lap()

  A counter starts again after some 260 kJ on common processors, 20 minutes at 200 W. A lap sees that once, so a longer
  stretch is the sum of shorter laps.
  """

  def __init__(self, folder: str | os.PathLike = _POWERCAP):
    """Begins the first lap; `folder` is where the zones lie."""
    try:
      self._zones = _zones(Path(folder))
      self._last = self._read()
    except (OSError, ValueError):
      self._zones = []

  def lap(self) -> float | None:
    """Returns the joules since the last lap, or since the start; None where they cannot be read."""
    if not self._zones:
      return None
    try:
      now = self._read()
    except (OSError, ValueError):
      self._zones = []
      return None
    spent = sum((new - old) % wrap for new, old, (_, wrap) in zip(now, self._last, self._zones, strict=True))
    self._last = now
    return spent / 1e6

  def _read(self) -> list[int]:
    return [int(counter.read_text()) for counter, _ in self._zones]


class Clock:
  """Seconds and joules of a stretch of work in several starts, without the pauses in it."""

  def __init__(self, seconds: float = 0.0, joules: float | None = 0.0):
    """Goes on from what earlier starts spent; `joules` None counts none."""
    self.joules = joules
    self._start = time.perf_counter() - seconds
    self._meter = Meter()

  def seconds(self) -> float:
    """Returns the seconds so far."""
    return time.perf_counter() - self._start

  def tick(self) -> None:
    """Adds the joules since the last tick; to be called every few minutes, as their counters start again."""
    lap = self._meter.lap()
    self.joules = None if self.joules is None or lap is None else self.joules + lap

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Counts nothing of what is done in this block."""
    self.tick()
    start = time.perf_counter()
    yield
    self._start += time.perf_counter() - start
    self._meter.lap()


def _zones(folder: Path) -> list[tuple[Path, int]]:
  """Returns the counters, and the microjoules after which each starts again at 0."""
  zones = []
  for path in sorted(folder.iterdir()):
    if _FOLDER.fullmatch(path.name) and _NAME.fullmatch((path / 'name').read_text().strip()):
      # A counter of range r counts 0..r.
      zones.append((path / 'energy_uj', int((path / 'max_energy_range_uj').read_text()) + 1))
  return zones

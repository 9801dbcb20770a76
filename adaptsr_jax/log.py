"""What a run says while it goes: lines on the terminal, metrics.jsonl, samples, TensorBoard events."""

import contextlib
import errno
import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from adaptsr_jax import files, processes
from adaptsr_jax.energy import Clock

_SILENCE = 5  # seconds without a word that nobody minds


def say(text: str) -> None:
  """Prints `text` at once, also into a pipe, and above the bar where there is one."""
  if 'tqdm' in sys.modules:
    sys.modules['tqdm'].tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()
  else:
    print(text, flush=True)


class RunLog:
  """Appends scalars to `folder`/metrics.jsonl, one JSON object a line, and to TensorBoard events beside it."""

  def __init__(self, folder: Path, step: int, tensorboard: bool):
    """Opens the log at `step`; what an earlier start wrote past it is dropped, since those steps are done again.

    Of several processes the first writes.
    """
    self._writes = processes.first()
    if not self._writes:
      return
    self._path = folder / 'metrics.jsonl'
    rows = [row for row in read_metrics(folder) if row['step'] <= step]
    files.write(self._path, ''.join(json.dumps(row) + '\n' for row in rows))
    self._file = self._path.open('ab', buffering=0)
    self._events = _Events(folder / 'tensorboard', step + 1) if tensorboard else None

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Records `values` as of `step`; the line is there whole or, where the disk is full, not at all."""
    if not self._writes:
      return
    line, end = (json.dumps({'step': step, **values}) + '\n').encode(), self._path.stat().st_size
    with files.room(self._path.parent, len(line)):
      if self._file.write(line) < len(line):
        self._file.truncate(end)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
      if self._events:
        self._events.write(step, values)

  def pictures(self, step: int, pictures: Mapping[str, Any]) -> None:
    """Keeps pictures (H, W, 3), uint8, as of `step`, always of the same names: in samples/, and in the events."""
    from adaptsr_jax import image

    if not self._writes:
      return
    for place, picture in enumerate(pictures.values(), 1):
      path = sample_path(self._path.parent, place, step)
      path.parent.mkdir(exist_ok=True)
      image.write(path, picture)
    if self._events:
      with files.room(self._path.parent):
        self._events.show(step, pictures)

  def close(self) -> None:
    """Flushes and closes the files."""
    if not self._writes:
      return
    self._file.close()
    if self._events:
      self._events.close()


class _Events:
  """Events for TensorBoard, written at once: a writer of its own thread would die there where the disk is full."""

  def __init__(self, folder: Path, step: int):
    # Slow to import, and not everybody wants it.
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.summary import image, scalar

    folder.mkdir(exist_ok=True)
    self._event, self._scalar, self._image = Event, scalar, image
    with files.room(folder):
      self._writer = EventsWriter(str(folder / 'events'))
      # What an earlier start wrote from `step` on is not shown.
      self._writer.write_event(Event(step=step, session_log=SessionLog(status=SessionLog.START)))
      self._writer.flush()

  def write(self, step: int, values: Mapping[str, float]) -> None:
    self._write(step, (self._scalar(name, value) for name, value in values.items()))

  def show(self, step: int, pictures: Mapping[str, Any]) -> None:
    self._write(step, (self._image(f'samples/{n}', picture, dataformats='HWC') for n, picture in pictures.items()))

  def _write(self, step: int, summaries: Iterable[Any]) -> None:
    for summary in summaries:
      self._writer.write_event(self._event(wall_time=time.time(), step=step, summary=summary))
    self._writer.flush()

  def close(self) -> None:
    with contextlib.suppress(OSError):
      self._writer.close()


def sample_path(folder: Path, place: int, step: int) -> Path:
  """Returns where a run keeps the `place`-th of its samples as of `step`; names of pictures may be of any length."""
  return folder / 'samples' / f'{place}_{step:06d}.png'


def read_metrics(folder: str | os.PathLike) -> list[dict[str, float]]:
  """Returns the lines of metrics.jsonl; those that are damaged, or were cut off by a kill, are left out."""
  path = Path(folder) / 'metrics.jsonl'
  rows = [_row(line) for line in path.read_bytes().split(b'\n')] if path.is_file() else []
  return [row for row in rows if row]


def _row(line: bytes) -> dict[str, float] | None:
  try:
    row = json.loads(line)
  except (ValueError, RecursionError):
    return None
  numbers = isinstance(row, dict) and all(type(value) in (int, float) for value in row.values())
  return row if numbers and type(row.get('step')) is int else None


class Progress:
  """Counts steps against the clock: speed, time left, and the share of time spent waiting for data."""

  def __init__(self, done: int, total: int, clock: Clock):
    """Starts at `done` of `total` steps; `clock` leaves out what is not training."""
    self._first, self._total = done, total
    self._clock, self._start = clock, clock.seconds()
    self._first_step = 0.0
    self.waited = 0.0

  def seconds(self) -> float:
    """Returns the time since the start, pauses excluded."""
    return self._clock.seconds() - self._start

  def compiled(self) -> float:
    """Takes note that the first step is done, nearly all of it compilation: it says nothing about those to come.

    Returns the seconds that it took.
    """
    self._first_step = self.seconds()
    return self._first_step

  def line(self, step: int, values: Mapping[str, float]) -> str:
    """Returns e.g. 'step 120/300  loss 0.0312  4.1 steps/s  data wait 1%  0:44 left'."""
    elapsed = max(self.seconds(), 1e-9)
    steps = step - self._first - bool(self._first_step)
    speed = steps / max(elapsed - self._first_step, 1e-9)
    pace = f'{speed:.1f} steps/s' if speed >= 1 else f'{1 / max(speed, 1e-9):.1f} s/step'
    numbers = '  '.join(f'{name} {value:.4g}' for name, value in values.items())
    if not steps:
      return f'step {step}/{self._total}  {numbers}  compiled in {clock(self._first_step)}'
    left = (self._total - step) / max(speed, 1e-9)
    wait = 100 * self.waited / elapsed
    return f'step {step}/{self._total}  {numbers}  {pace}  data wait {wait:.0f}%  {clock(left)} left'


class Work:
  """Tells on stderr how far some work is: nobody waits for more than five seconds without a word on what is going on.

    with Work('Measuring', total=93) as work:
      for picture in pictures:
        ...
        work.advance()

  On a terminal it is a bar with the rate and the time left. Elsewhere there are lines, the first after five seconds and
  the others ever more rarely, at most ten minutes apart. Without a total only the time is told.
  """

  def __init__(self, title: str, total: float | None = None, done: float = 0, unit: str = ''):
    """Takes the number of things to do, and how many of them are done; the title may change."""
    self._unit = unit
    self.title, self.total, self.done, self._first = title, total, done, done
    self._start = time.perf_counter()
    self._ended = threading.Event()
    if not processes.first():  # which speaks for all
      self._ended.set()
    self._bar = None

  def __enter__(self) -> 'Work':
    if sys.stderr.isatty() and processes.first():
      from tqdm import tqdm  # the first bar need not delay the start of a command

      shape = {} if self.total else {'bar_format': '{desc}  {elapsed}'}
      shape |= {'unit': self._unit, 'unit_scale': True} if self._unit else {}
      self._bar = tqdm(
        total=self.total, initial=self.done, desc=self.title, leave=False, file=sys.stderr, dynamic_ncols=True, **shape
      )
    self._thread = threading.Thread(target=self._tell, daemon=True)
    self._thread.start()
    return self

  def __exit__(self, *exception) -> None:
    self._ended.set()
    self._thread.join()
    if self._bar is not None:
      self._bar.refresh()
      self._bar.close()

  def restart(self, total: float | None, done: float) -> None:
    """Begins anew with a number of things to do, known only now, of which `done` are done; so does the rate."""
    self.total, self.done, self._first = total, done, done
    self._start = time.perf_counter()
    if self._bar is not None:
      self._bar.bar_format = None
      self._bar.reset(total)
      self._bar.n = self._bar.last_print_n = self._bar.initial = done
      self._bar.refresh()

  def advance(self, number: float = 1) -> None:
    """Takes note that so many more are done."""
    self.done += number
    if self._bar is not None:
      self._bar.update(number)

  def state(self) -> str:
    """Returns e.g. '12/93  0:44 left', or '0:05 so far' where that cannot be told."""
    elapsed, new = time.perf_counter() - self._start, self.done - self._first
    if not self.total or not new:
      return f'{clock(elapsed)} so far'
    return f'{int(self.done)}/{int(self.total)}  {clock(elapsed * (self.total - self.done) / new)} left'

  def elapsed(self) -> str:
    """Returns the time since the start, as `clock` writes it."""
    return clock(time.perf_counter() - self._start)

  def _tell(self) -> None:
    pause = _SILENCE
    while not self._ended.wait(1 if self._bar is not None else pause):
      if self._bar is not None:
        self._bar.set_description(self.title)  # and its clock goes on where nothing advances
      else:
        print(f'{self.title}  {self.state()}', file=sys.stderr, flush=True)
        pause = min(2 * pause, 600)


def watched(items: Iterable[Any], title: str, total: int) -> Iterator[Any]:
  """Yields the items, and tells how far the work on them is (see `Work`)."""
  with Work(title, total) as work:
    for item in items:
      yield item
      work.advance()


def clock(seconds: float) -> str:
  """Returns '0:44', '12:03' or '3:07:00'."""
  minutes, seconds = divmod(int(seconds + 0.5), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02d}:{seconds:02d}' if hours else f'{minutes}:{seconds:02d}'

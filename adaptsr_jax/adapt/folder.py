"""The folder of a run as one subject: who works in it, what an earlier start left, and one reader of each file.

What is in it:

  config.json, material.json     what the run is: its fields, and what tells its base and pictures from others
  method.json, constants.safetensors     what was decided before training (`methods.Plan`)
  start.safetensors, warm_up/    where training starts, if not where its method does, and the short run that led there
  ranks.json, ranks.png          of methods with ranks: scores, ranks, and a map of them
  rate.json                      the learning rate, where probes have found it
  parameters.txt                 name, shape and size of every parameter of the base
  base.json, bicubic.json        measurements before training
  metrics.jsonl, samples/, tensorboard/, checkpoints/     what was logged, and the states that are kept
  results.json, merged/, merged.pth, adapter.safetensors, compare.png, samples.png, curve.png     what came out
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.numpy
from ml_collections import ConfigDict

from adaptsr_jax import config as config_lib
from adaptsr_jax import files, log, methods, processes
from adaptsr_jax.adapt import store
from adaptsr_jax.errors import UserError, first_line, shown

# What may differ between two starts in one folder: how long, how often, and where things lie; not what is computed.
_FREE_FIELDS = (
  *('steps', 'export', 'patience', 'strengths', 'log_every', 'eval_every', 'save_every', 'tensorboard'),
  *('data.cache_gb', 'data.workers', 'devices', 'metric_weights', 'remat', 'record_cameras', 'thumbnail'),
  'data.licence',
  # A moved file or folder is no other one: `material` tells what is in it.
  'base',
  *(f'data.{part}.{field}' for part in config_lib.PARTS for field in ('lr', 'hr', 'root', 'packed', 'mix')),
  *(f'data.{part}.{field}' for part in config_lib.PARTS for field in ('names', 'skip_names')),
)
# Files to start from: that one was given is part of the run, and not where it lay.
_STARTS = ('init_from', 'gan.init_from')
# What later starts build on without asking whether it is the same; what is not can be made again.
_SEALED = ('method', 'ranks', 'rate', 'base', 'bicubic')
_SEAL = 'sha256'  # in them
_CONSTANTS, _START = 'constants', 'start'  # .safetensors, whose seals are in method.json
# What a start leaves before its first save.
_EARLY = (
  *('base.json', 'bicubic.json', 'ranks.json', 'ranks.png'),
  *('method.json', 'constants.safetensors', 'start.safetensors', 'rate.json'),
)


class Folder(NamedTuple):
  """The folder of a run."""

  path: Path

  @property
  def done(self) -> int:
    """Steps of the newest state that is kept."""
    return store.latest_step(self.path / 'checkpoints')

  def read(self, name: str) -> Any:
    """Returns the content of NAME.json; None where there is none.

    Raises:
      UserError: it is no JSON, or not of the form that is written there.
    """
    path = self.path / f'{name}.json'
    if not path.is_file():
      return None
    content = files.read_json(path)
    if not _fits(content, _FORMS.get(name, {})):
      raise UserError(f'{path} is damaged: it does not have the form that a run gives it.')
    # Versions before this one gave no seal.
    if content.pop(_SEAL, None) not in (None, files.json_digest(content)):
      raise UserError(f'{path} is damaged: it is not what a run has written.')
    return content

  def read_or_tell(self, name: str) -> Any:
    """As `read` of what can be made again: where it is damaged, that is said, and there is none."""
    try:
      return self.read(name)
    except UserError as error:
      log.say(f'{str(error).rstrip(".")}; it is made again.')
      return None

  def write(self, name: str, content: Any) -> None:
    """Writes NAME.json, with a seal where a later start builds on what stands in it; of several processes the first."""
    content = json.loads(json.dumps(files.finite(content)))  # as it is read
    if processes.first():
      files.write_json(
        self.path / f'{name}.json', {**content, _SEAL: files.json_digest(content)} if name in _SEALED else content
      )

  def method(self) -> methods.Method | None:
    """Returns the method as an earlier start planned it; None where it left no plan."""
    spec = self.read_or_tell('method')
    if spec is None:
      return None
    try:
      for name in (_CONSTANTS, _START):  # versions before this one gave no seal
        if spec.pop(f'{name}_{_SEAL}', None) not in (None, hashlib.sha256(self._tensors(name)).hexdigest()):
          raise ValueError(f'{name}.safetensors is not what was written with it')
      content = self._tensors(_CONSTANTS)
      return methods.from_spec(spec, safetensors.numpy.load(content) if content else {})
    except Exception as error:  # whatever the method makes of a value that it never wrote
      log.say(f'{self.path / "method.json"} is damaged ({shown(first_line(error))}); it is made again.')
      return None

  def start(self) -> methods.Tensors:
    """Returns where training started as an earlier start kept it; empty: where its method does."""
    content = self._tensors(_START)
    return safetensors.numpy.load(content) if content else {}

  def _tensors(self, name: str) -> bytes:
    """Returns NAME.safetensors; empty where there is none."""
    path = self.path / f'{name}.safetensors'
    return path.read_bytes() if path.is_file() else b''

  def keep_method(self, method: methods.Method, start: methods.Tensors) -> None:
    """Writes what `method` and `start` read."""
    if not processes.first():
      return
    tensors = {_CONSTANTS: dict(method.constants), _START: dict(start)}
    contents = {name: safetensors.numpy.save(parts) if parts else b'' for name, parts in tensors.items()}
    for name, content in contents.items():
      if content:
        files.write(self.path / f'{name}.safetensors', content)
    digests = {f'{name}_{_SEAL}': hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    self.write('method', {**method.spec, **digests})

  def measured_once(
    self, label: str, measure: Callable[[], dict[str, Any]], protocol: dict[str, str]
  ) -> dict[str, Any]:
    """Returns what an earlier start measured; measures where none did, or by other metrics."""
    earlier = processes.decide(lambda: self.read_or_tell(label))
    if earlier is None or earlier['protocol'] != protocol:
      self.write(label, {**measure(), 'protocol': protocol})
    return processes.decide(lambda: self.read(label))

  def changed_fields(self, config: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """Returns the fields that make `config` another run than the one that is here: {field: (here, in config)}."""
    self._check_owner(config)
    kept = self.read('config') if self.done else self.read_or_tell('config')
    if kept is None:
      return {}
    try:
      ours, theirs = config_lib.flat(config), config_lib.kept(kept)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
      raise UserError(f'{self.path / "config.json"} is damaged ({error}).') from error
    if ours['optim.lr'] and theirs['optim.lr']:
      theirs['optim.preset'] = ours['optim.preset']  # which has no effect
    pairs = {field: (theirs.get(field), ours.get(field)) for field in sorted(ours | theirs)}
    changed = {field: pair for field, pair in pairs.items() if pair[0] != pair[1] and field not in _FREE_FIELDS}
    return {field: pair for field, pair in changed.items() if field not in _STARTS or not all(pair)}

  def _check_owner(self, config: ConfigDict) -> None:
    """Raises UserError where config.json has none of the fields of a run: another program's is not written over."""
    path = self.path / 'config.json'
    try:
      content = files.read_json(path)
    except (OSError, UserError):
      return
    if isinstance(content, dict) and content and not content.keys() & set(config.to_dict()):
      raise UserError(f'{path} is not of a run of this program; give another --workdir, or move it away.')

  def changed_material(self, material: dict[str, str]) -> list[str]:
    """Returns what of `material` is other than that of the run that is here; what it lacks is not known any more."""
    kept = self.read('material') if self.done else self.read_or_tell('material')
    return [name for name, value in (kept or {}).items() if material.get(name, value) != value]

  def is_free(self) -> bool:
    """Tells whether the start that left its config ended before its first save, for lack of memory perhaps."""
    there = [(self.path / f'{name}.json').is_file() for name in ('material', 'results')]
    return not self.done and there == [True, False]

  def check_config(self, config: ConfigDict) -> None:
    """Raises UserError where the run that is here is longer, or computes something else."""
    if self.done > config.steps:
      raise UserError(
        f'{self.path} holds a run of {self.done} steps, more than config.steps={config.steps}; give another --workdir.'
      )
    changed = self.changed_fields(config)
    if changed and not self.is_free():
      name, (theirs, ours) = next(iter(changed.items()))
      more = f' (and {len(changed) - 1} more differences)' if len(changed) > 1 else ''
      raise UserError(
        f'{self.path} holds a run with config.{name}={theirs!r}, not {ours!r}{more}; '
        "give that run's config to continue it, or another --workdir."
      )

  def check_material(self, material: dict[str, str]) -> None:
    """Raises UserError where the run that is here has another base or other pictures."""
    changed = self.changed_material(material)
    if changed and not self.is_free():
      raise UserError(f'The {" and the ".join(changed)} of the run in {self.path} were others; give another --workdir.')

  def take(self, config: ConfigDict, material: dict[str, str]) -> None:
    """Makes this the folder of a run; what another one left that ended before its first save is deleted."""
    kept = {}
    if self.changed_fields(config) or self.changed_material(material):
      for name in (*_EARLY, 'metrics.jsonl'):
        (self.path / name).unlink(missing_ok=True)
      shutil.rmtree(self.path / 'samples', ignore_errors=True)
    else:
      kept = self.read_or_tell('material') or {}
    self.write('config', config.to_dict())
    self.write('material', {**kept, **material})


# What the files of a run hold, a table where nothing else is said: of a table the form of some fields, or of all (...).
_NUMBER = (int, float, type(None))
_SCORES = {
  'mean': {...: _NUMBER},
  'interval': {...: [_NUMBER, _NUMBER]},
  'images': {...: {...: _NUMBER}},
  'levels?': {...: _NUMBER},  # versions before this one kept none
}
_MEASUREMENT = {**_SCORES, 'protocol': {}}
_FORMS = {
  'config': {'steps': (int,)},
  'material': {...: (str,)},
  'ranks': {'ranks': {...: lambda rank: type(rank) is int and rank >= 0}, 'rule': (str,)},
  'rate': {'rate': (float,), 'seconds': (float,)},
  'base': _MEASUREMENT,
  'bicubic': _MEASUREMENT,
  'results': {
    'steps?': (int,),
    **dict.fromkeys(('method?', 'base_fingerprint?'), (str,)),
    **dict.fromkeys(('config?', 'protocol?', 'model?'), {}),
    **dict.fromkeys(('bicubic?', 'base?', 'adapted?'), lambda value: value is None or _fits(value, _SCORES)),
  },
}


def _fits(value: Any, form: Any) -> bool:
  """Tells whether JSON is of a form: a condition, types, a list of forms, or a table of them ('name?' may lack)."""
  if callable(form):
    return form(value)
  if isinstance(form, tuple):
    return type(value) in form
  if isinstance(form, list):
    return isinstance(value, list) and len(value) == len(form) and all(map(_fits, value, form))
  if not isinstance(value, dict):
    return False
  if ... in form:
    return all(_fits(part, form[...]) for part in value.values())
  fields = {name.rstrip('?'): name for name in form}
  return all(_fits(value[field], form[name]) if field in value else field != name for field, name in fields.items())


@contextlib.contextmanager
def alone(path: str | os.PathLike) -> Iterator[Folder]:
  """Makes the folder of a run; refuses one that cannot be written, or in which a run is going on.

  Of several processes the first does, and the others wait for it.
  """
  path = Path(path).absolute()
  with contextlib.ExitStack() as stack:
    if processes.first():
      path.mkdir(parents=True, exist_ok=True)
      if not os.access(path, os.W_OK):
        raise UserError(f'{path} cannot be written; give another --workdir.')
      try:
        stack.enter_context(files.lock(path.resolve()))
      except BlockingIOError as error:
        raise UserError(f'A run is going on in {path}; wait for its end, or give another --workdir.') from error
    processes.decide(lambda: None)
    yield Folder(path)

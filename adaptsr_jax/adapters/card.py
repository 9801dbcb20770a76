"""What an adapter file and a merged network tell of themselves: origin, licence, data, measurements.

In an adapter file these are entries of the header beside those that `adapters.file` needs, all optional:
  base_licence  of the base, where the published weights are known
  metrics       {'base' and 'adapted': {metric: mean}}
  gains         {metric: [mean, low, high]} of adapted minus base, with the 95 % interval over pictures
  pictures      how many were measured
  data          {'train' and 'valid': what the pictures are}
  steps, date, versions
  data_licence  of the training pictures
  cameras       which photographs it is for, see `adapters.cameras`
  thumbnail     base and adapted side by side, a crop of the median validation picture: 'data:image/jpeg;base64,...'

A merged network tells its `origin`: in model.json of a params folder, in the metadata of a .safetensors, in the record
'extra/adaptsr_jax.json' of the zip archive that a .pth is.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from adaptsr_jax import __version__, files, tree
from adaptsr_jax.adapters import cameras
from adaptsr_jax.adapters.file import Adapter
from adaptsr_jax.errors import shown

_FORMS = {
  **dict.fromkeys(('base_file', 'base_licence', 'data_licence', 'thumbnail'), str),
  **{'date': str, 'steps': int, 'pictures': int, 'mixed_from': list},
  **dict.fromkeys(('metrics', 'gains', 'data', 'versions'), dict),
}


_LONGEST = 500  # characters of a row of a card


def measured(results: Mapping[str, Any], data: Mapping[str, str]) -> dict[str, Any]:
  """Returns the entries above that come of a run; `data` says what its pictures are."""
  scores = {label: results[label] for label in ('base', 'adapted') if results[label]}
  adapted = results['adapted'] or {}
  return files.finite(
    {
      'metrics': {label: result['mean'] for label, result in scores.items()},
      'gains': adapted.get('difference', {}),
      'pictures': len(adapted.get('images', ())),
      'data': dict(data),
      'steps': results['steps'],
      'date': today(),
      'versions': results['versions'],
    }
  )


def today() -> str:
  """Returns the date in UTC, such as 2026-11-26."""
  return time.strftime('%Y-%m-%d', time.gmtime())


def origin(folded: Sequence[tuple[Mapping[str, Any], float, str]], licence: str = '') -> dict[str, Any]:
  """Returns what a network with `folded`, all of one base, tells of where it comes from.

  Args:
    folded: (header, strength, file) of every adapter in the network.
    licence: of the base; by default what the adapters say.
  """
  first, _, _ = folded[0]
  kept = ('method', 'steps', 'date', 'data', 'data_licence', 'pictures', 'gains')
  return {
    'made_by': f'adaptsr_jax {__version__}',
    'date': today(),
    'base': {
      'model': first['model'],
      'file': first.get('base_file'),
      'fingerprint': first['base_fingerprint'],
      'licence': licence or first.get('base_licence') or 'unknown',
    },
    'adapters': [
      {'file': name, 'strength': strength, **{field: meta[field] for field in kept if field in meta}}
      for meta, strength, name in folded
    ],
  }


def sentence(origin: Mapping[str, Any]) -> str:
  """Returns what a person needs of an origin, in a line."""
  try:
    base = origin['base']
    parts = [f'{each["file"]} at strength {each["strength"]:g}' for each in origin['adapters']]
    return shown(f'{base["file"]} (licence {base["licence"]}) with {" and ".join(parts)}, {origin["date"]}', _LONGEST)
  except (KeyError, TypeError, ValueError):  # of a file that somebody else has written
    return 'told in a form that is not known here'


def text(name: str, size: int, adapter: Adapter) -> str:
  """Returns an adapter as a card.

  Args:
    name: of the file.
    size: of the file in bytes.
    adapter: what is in it.
  """
  # What is optional is not checked on reading.
  meta = {key: entry for key, entry in adapter.meta.items() if isinstance(entry, _FORMS.get(key, object))}
  fields = ', '.join(f'{shown(field)}={shown(value)}' for field, value in meta['fields'].items())
  base = f'{shown(meta.get("base_file") or "not named")}, fingerprint {meta["base_fingerprint"][:12]}'
  data, steps = meta.get('data', {}), f', {meta["steps"]:,} steps' if 'steps' in meta else ''
  known = meta.get('versions', {})
  versions = ', '.join(f'{name} {known[name]}' for name in ('adaptsr-jax', 'jax', 'python') if name in known)
  rows = {
    'model': f'{shown(meta["model"])} ({fields})',
    'base': base + (f', licence {meta["base_licence"]}' if meta.get('base_licence') else ''),
    'trained': f'{tree.count(adapter.tensors):,} parameters by {meta["method"]}{steps}',
    'made': f'{meta.get("date", "")} {f"({versions})" if versions else ""}'.strip(),
    'data': ', licence '.join(filter(None, (data.get('train'), meta.get('data_licence')))),
    'tested on': data.get('valid', ''),
    'picture': f'before and after, {len(meta["thumbnail"]):,} bytes; --json has it' if meta.get('thumbnail') else '',
    'for': '; '.join(map(cameras.words, cameras.of(meta))),
    'mixed of': ', '.join(f'{each["weight"]:g} {each["file"]}' for each in meta.get('mixed_from', ())),
  }
  lines = [f'{name}: {size:,} bytes', *(f'  {label:9}  {shown(row, _LONGEST)}' for label, row in rows.items() if row)]
  lines += [f'  {"gain" if not number else "":9}  {shown(row, _LONGEST)}' for number, row in enumerate(_gains(meta))]
  return '\n'.join(lines)


def _gains(meta: Mapping[str, Any]) -> list[str]:
  """Returns a row for each metric: before, after, difference and interval; of older files what they have."""
  means, gains = meta.get('metrics') or {}, meta.get('gains') or {}
  before, after = (means.get(label) if isinstance(means.get(label), Mapping) else {} for label in ('base', 'adapted'))
  if not after:
    return [f'{key} {value}' for key, value in means.items()]
  rows = []
  for key, value in after.items():
    row = f'{key:10} {before[key]:.4f} -> {value:.4f}' if before.get(key) is not None and value is not None else key
    if gains.get(key) and None not in gains[key]:
      gain, low, high = gains[key]
      row += f'   {gain:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}, {meta.get("pictures")} pictures'
    rows.append(row)
  return rows

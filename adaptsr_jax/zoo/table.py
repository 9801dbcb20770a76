"""The table of published weights, weights.csv: where they are, what they may be used for, what they reach."""

import csv
from pathlib import Path
from typing import NamedTuple


class Entry(NamedTuple):
  """Weights that somebody published: a row, but for its kind and its name, and for its note, which is for readers.

  Attributes:
    file: name in the cache.
    url: direct download; '' where only a person with a browser can get the file.
    licence: of the repository that publishes the weights.
    trained: degradation, and pictures.
    psnr: published PSNR on Set5 in dB (Y, border of `upscale` pixels cut off), or None.
    sha256: hexadecimal digits, all or the leading ones as the name of the file has them; '' where none is known.
    page: where a person finds the file.
    key: which weights of the file the authors use, where it holds several; '' for the usual choice.
  """

  file: str
  url: str
  licence: str
  trained: str
  psnr: float | None = None
  sha256: str = ''
  page: str = ''
  key: str = ''


# What may be done with weights under their licence, in short; the text of the licence is what counts.
LICENCES = {
  'Apache-2.0': 'use, change and pass on, for money too; keep the licence and the notices, say what was changed',
  'BSD-3-Clause': 'use, change and pass on, for money too; keep the notice, name no author in advertisements',
  'MIT': 'use, change and pass on, for money too; keep the notice',
  'CC-BY-4.0': 'use, change and pass on, for money too; name the author',
}


def _entries(kind: str) -> dict[str, Entry]:
  with open(Path(__file__).with_name('weights.csv'), encoding='utf-8') as file:
    rows = [row for row in csv.DictReader(file) if row['kind'] == kind]
  fields = [{field: row[field] for field in Entry._fields} for row in rows]
  entries = [Entry(**{**each, 'psnr': float(each['psnr']) if each['psnr'] else None}) for each in fields]
  return dict(zip((row['name'] for row in rows), entries, strict=True))


ZOO = _entries('network')
ASSETS = _entries('bundled')  # come with the package, in assets/, whose README.md says more of them
METRICS = _entries('metric')  # of perceptual metrics and losses, see `metric_weights`

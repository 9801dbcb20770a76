"""Pages as one HTML file each, made from templates: pictures inside, and nothing loaded from elsewhere.

Templates are files of the package, named from its folder: `page/layout.html` is what all pages share.
"""

import base64
import functools
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

_PACKAGE = Path(__file__).parents[1]
_TYPES = {'.png': 'image/png', '.jpg': 'image/jpeg', '.svg': 'image/svg+xml'}
_NUMBER = re.compile(
  r'[-+\N{MINUS SIGN}]?\d[\d.,]*( [%kMGT]| GiB| kJ)?|[-+\N{MINUS SIGN}]?\d.* \[.*\]( \*)?|\d+(:\d\d)+|inf|-|'
)


def render(template: str, **values: object) -> str:
  """Returns what the file `template` of the package, such as 'report/report.html', makes of `values`.

  Whatever is text in `values` is text on the page. Beside Jinja's own, templates have the filters `code` (text with
  code between backticks), `columns` (the class of every column of a table), `inlined` (a picture file as an address),
  `source` (a file of the package, as it is) and `digest` (its hash, for the policy by which the browser holds the page
  to no other style, script or source than its own).
  """
  return _environment().get_template(template).render(values)


@functools.cache
def _environment() -> jinja2.Environment:
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_PACKAGE),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
  )
  environment.filters |= {f.__name__.strip('_'): f for f in (_code, _columns, _digest, _inlined, _source)}
  return environment


def _code(text: str) -> Markup:
  return Markup(re.sub(r'`([^`]+)`', r'<code>\1</code>', str(escape(text))))


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
  columns = list(zip(*rows[1:], strict=True))
  return ['number' if i and all(_NUMBER.fullmatch(cell) for cell in column) else '' for i, column in enumerate(columns)]


def _inlined(path: Path) -> str:
  return f'data:{_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}'


def _source(name: str) -> Markup:
  return Markup((_PACKAGE / name).read_text())


def _digest(text: str) -> str:
  return f'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'

"""A report as one HTML file: pictures inside, nothing loaded from elsewhere."""

import base64
import hashlib
import math
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from adaptsr_jax import image
from adaptsr_jax.report import content
from adaptsr_jax.report.style import SCRIPT, STYLE
from adaptsr_jax.report.verdict import Verdict, signed

_KINDS = {'helped': 'Helped', 'hurt': 'Did harm', 'unclear': 'Not clear', 'untrained': 'Not trained'}
_TYPES = {'.png': 'image/png', '.jpg': 'image/jpeg', '.svg': 'image/svg+xml'}
_NUMBER = re.compile(
  r'[-+\N{MINUS SIGN}]?\d[\d.,]*( [%kMGT]| GiB| kJ)?|[-+\N{MINUS SIGN}]?\d.* \[.*\]( \*)?|\d+(:\d\d)+|inf|-|'
)


def render(report: content.Report) -> str:
  """Returns the page."""
  body = [_head(report), '<main>', _blocks(report.blocks), '</main>', f'<footer>{escape(report.footer)}</footer>']
  # The browser itself holds the page to its word: no other style, script or source than those written here.
  policy = f"default-src 'none'; img-src data:; style-src {_hash(STYLE)}; script-src {_hash(SCRIPT)}; base-uri 'none'"
  return '\n'.join(
    [
      '<!DOCTYPE html>',
      '<html lang="en">',
      '<head>',
      '<meta charset="utf-8">',
      f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
      '<meta name="viewport" content="width=device-width, initial-scale=1">',
      f'<title>{escape(report.title)}</title>',
      '<link rel="icon" href="data:,">',
      f'<style>{STYLE}</style>',
      '</head>',
      '<body>',
      *body,
      f'<script>{SCRIPT}</script>',
      '</body>',
      '</html>',
      '',
    ]
  )


def _hash(text: str) -> str:
  return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _head(report: content.Report) -> str:
  (label, first), *rest = report.verdicts
  of = f': {escape(label)}' if rest else ''
  parts = [
    f'<header><p class="title">{escape(report.title)}</p><div class="first">',
    f'<div class="verdict {first.kind}"><p class="kind">{_KINDS[first.kind]}{of}</p><h1>{escape(first.headline)}</h1>'
    f'<p>{escape(first.says)}</p></div>',
    *([f'<div class="lead">{_viewer(report.lead)}</div>'] if report.lead else []),
    f'<div><p>{escape(first.detail)}</p>' if first.detail else '<div>',
  ]
  for label, judged in rest:
    parts.append(
      f'<div class="verdict {judged.kind}"><p class="kind">{_KINDS[judged.kind]}: {escape(label)}</p>'
      f'<p><strong>{escape(judged.headline)}</strong> {escape(judged.says)} {escape(judged.detail)}</p></div>'
    )
  parts += [f'<p>{_text(sentence)}</p>' for sentence in report.others]
  if not rest:
    parts.append(_facts(first))
  return '\n'.join([*parts, '</div></div></header>'])


def _facts(judged: Verdict) -> str:
  digits = 2 if abs(judged.gain.mean) >= 0.095 else 3
  low, high = (signed(value, digits) for value in judged.gain[1:3])
  facts = {
    'Gain in PSNR (Y)': f'{signed(judged.gain.mean, digits)} dB',
    '95 % interval': f'{low} to {high}' if math.isfinite(judged.gain.low) else 'needs two pictures',
    'Pictures that gained': f'{judged.spread.gained} of {judged.spread.pictures}',
    **judged.facts,
  }
  items = (f'<div><dt>{escape(term)}</dt><dd>{escape(value)}</dd></div>' for term, value in facts.items())
  return f'<dl class="facts">{"".join(items)}</dl>'


def _blocks(blocks: Sequence) -> str:
  parts, in_viewers = [], False
  for block in blocks:
    if isinstance(block, content.Viewer) != in_viewers:
      in_viewers = not in_viewers
      parts.append('<div class="viewers">' if in_viewers else '</div>')
    parts.append(_RENDER[type(block)](block))
  return '\n'.join(parts + ['</div>'] * in_viewers)


def _heading(block: content.Heading) -> str:
  return f'<h2>{escape(block.text)}</h2>'


def _paragraph(block: content.Text) -> str:
  return f'<p>{_text(block.text)}</p>'


def _bullets(block: content.Bullets) -> str:
  return f'<ul>{"".join(f"<li>{_text(item)}</li>" for item in block.items)}</ul>'


def _code(block: content.Code) -> str:
  return f'<pre tabindex="0">{escape(block.text)}</pre>'


def _folded(block: content.Folded) -> str:
  return f'<details><summary>{escape(block.title)}</summary>{_blocks(block.blocks)}</details>'


def _figure(block: content.Figure) -> str:
  image_tag = f'<img src="{_inlined(block.file)}" alt="{escape(block.alt)}">'
  drawn = block.svg or f'<div class="scroll" tabindex="0" role="region" aria-label="Drawing">{image_tag}</div>'
  return f'<figure class="drawing">{drawn}<figcaption>{escape(block.caption)}</figcaption></figure>'


def _table(block: content.Table) -> str:
  note = f'<p class="note">{escape(block.note)}</p>' if block.note else ''
  return _rows(block.rows, block.title) + note


def _rows(rows: Sequence[Sequence[str]], title: str) -> str:
  """Returns a table in a box that scrolls by itself where the screen is too narrow."""
  columns = list(zip(*rows[1:], strict=True))
  numeric = [bool(i) and all(_NUMBER.fullmatch(cell) for cell in column) for i, column in enumerate(columns)]
  classes = [' class="number"' if n else '' for n in numeric]
  head = ''.join(f'<th scope="col"{c}>{escape(cell)}</th>' for cell, c in zip(rows[0], classes, strict=True))
  body = []
  for first, *cells in rows[1:]:
    row = ''.join(f'<td{c}>{escape(cell)}</td>' for cell, c in zip(cells, classes[1:], strict=True))
    body.append(f'<tr><th scope="row">{escape(first)}</th>{row}</tr>')
  caption = f'<caption>{escape(title)}</caption>' if title else ''
  words = '' if any(numeric) else ' words'
  return (
    f'<div class="scroll{words}" tabindex="0" role="region" aria-label="{escape(title or "Table")}"><table>{caption}'
    f'<thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
  )


def _viewer(block: content.Viewer) -> str:
  first = [block.left, block.right]
  order = [*first, *(label for label in block.files if label not in first)]
  height, width = block.size
  data = {'name': block.name, 'left': block.left, 'right': block.right, 'width': width, 'height': height}
  attributes = ' '.join(f'data-{key}="{escape(str(value))}"' for key, value in data.items())
  return (
    f'<article class="viewer" {attributes}>'
    f'<h3>{escape(block.name)} <small>{escape(block.gain)}</small></h3>'
    f'<div class="layers">{"".join(_layer(block, label) for label in order)}</div>{_rows(block.values, "")}</article>'
  )


def _layer(block: content.Viewer, label: str) -> str:
  file = block.files[label]
  height, width = image.size(file)
  coarse = ' class="lr"' if label == 'LR' else ''
  return (
    f'<figure><img{coarse} data-label="{escape(label)}" src="{_inlined(file)}" width="{width}" height="{height}" '
    f'alt="{escape(f"{block.name}, {label}")}"><figcaption>{escape(label)}</figcaption></figure>'
  )


def _inlined(path: Path) -> str:
  return f'data:{_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}'


def _text(text: str) -> str:
  return re.sub(r'`([^`]+)`', r'<code>\1</code>', escape(text))


_RENDER = {
  content.Heading: _heading,
  content.Text: _paragraph,
  content.Bullets: _bullets,
  content.Table: _table,
  content.Figure: _figure,
  content.Viewer: _viewer,
  content.Code: _code,
  content.Folded: _folded,
}

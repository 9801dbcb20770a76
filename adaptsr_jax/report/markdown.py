"""A report as Markdown, with its pictures in files beside it."""

import re
from collections.abc import Sequence
from pathlib import Path

from adaptsr_jax.report import content

_SPECIAL = re.compile(r'([\\*_\[\]<>|#~])')


def render(report: content.Report, folder: Path) -> str:
  """Returns the text of a file that lies in `folder`."""
  parts = [f'# {_text(report.title)}']
  several = len(report.verdicts) > 1
  for label, judged in report.verdicts:
    of = f'{_text(label)}: ' if several else ''
    parts.append(f'{of}**{_text(judged.headline)}** {_text(f"{judged.says} {judged.detail}".rstrip())}')
  parts += [_text(sentence) for sentence in report.others]
  lead = [report.lead] if report.lead else []
  return '\n\n'.join([*parts, *_blocks([*lead, *report.blocks], folder), _text(report.footer)]) + '\n'


def _blocks(blocks: Sequence, folder: Path) -> list[str]:
  return [part for block in blocks for part in _block(block, folder)]


def _block(block: object, folder: Path) -> list[str]:
  """Returns the paragraphs of a block."""
  match block:
    case content.Heading(text):
      return [f'## {_text(text)}']
    case content.Text(text):
      return [_text(text)]
    case content.Bullets(items):
      return ['\n'.join(f'- {_text(item)}' for item in items)]
    case content.Code(text):
      return [f'```\n{text}\n```']
    case content.Table(title, rows, note):
      return [*([f'**{_text(title)}**'] if title else []), _rows(rows), *([_text(note)] if note else [])]
    case content.Figure(file, alt, caption):
      return [_image(file, alt, folder), _text(caption)]
    case content.Folded(title, inner):
      return [f'<details><summary>{_text(title)}</summary>', *_blocks(inner, folder), '</details>']
    case content.Viewers(viewers):
      return _blocks(viewers, folder)
    case content.Strength(label, steps, crops, note):
      images = [
        [_image(file, f'{c.name}, strength {s}', folder) for s, file in zip(steps, c.files, strict=True)] for c in crops
      ]
      rows = [[_text(label), *steps], ['---'] * (len(steps) + 1)]
      rows += [[_text(crop.name), *cells] for crop, cells in zip(crops, images, strict=True)]
      return ['\n'.join(map(_line, rows)), *([_text(note)] if note else [])]
    case content.Viewer(name, gain, files, _, values, left, right):
      shown = [[left, right], [_image(files[label], f'{name}, {label}', folder) for label in (left, right)]]
      others = ', '.join(
        f'[{_text(label)}]({_place(files[label], folder)})' for label in files if label not in shown[0]
      )
      table = '\n'.join(_line(row) for row in ([_text(cell) for cell in shown[0]], ['---', '---'], shown[1]))
      return [f'### {_text(name)} ({gain})' if gain else f'### {_text(name)}', table, f'Also: {others}', _rows(values)]
  raise TypeError(f'{type(block).__name__} has no form in Markdown')


def _rows(rows: Sequence[Sequence[str]]) -> str:
  head, *body = [[_text(cell) for cell in row] for row in rows]
  return '\n'.join(_line(row) for row in (head, ['---'] * len(head), *body))


def _line(cells: Sequence[str]) -> str:
  return f'| {" | ".join(cells)} |'


def _image(file: Path, alt: str, folder: Path) -> str:
  return f'![{_text(alt)}]({_place(file, folder)})'


def _place(file: Path, folder: Path) -> str:
  return file.relative_to(folder).as_posix()


def _text(text: str) -> str:
  """Escapes what Markdown would take for marks, outside code."""
  parts = re.split(r'(`[^`]+`)', text)
  return ''.join(part if i % 2 else _SPECIAL.sub(r'\\\1', part.replace('&', '&amp;')) for i, part in enumerate(parts))

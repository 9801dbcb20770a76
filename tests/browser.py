"""A real browser for tests: the Chromium that is installed here, without a window, by Playwright."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')


@contextlib.contextmanager
def started() -> Iterator[Any]:
  """Yields a browser; skips the test where there is none, or nothing to speak to it with."""
  api = pytest.importorskip(
    'playwright.sync_api', reason="Playwright is not installed (python -m pip install -e '.[browser]')"
  )
  program = next(filter(None, map(shutil.which, NAMES)), None)
  if not program:
    pytest.skip(f'there is no browser here ({", ".join(NAMES)})')
  with api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=program, args=['--no-sandbox'])
    yield browser
    browser.close()


class Shown:
  """A file in a window; `complaints` has what the browser writes to its console, `requests` what it asked for."""

  def __init__(self, browser: Any, path: Path, width: int, height: int = 900, **options: Any):
    """Opens `path`, as a phone would where the window is narrow; `options` as of Playwright's `new_page`."""
    phone = {'is_mobile': True, 'has_touch': True} if width < 600 else {}
    self.page = browser.new_page(viewport={'width': width, 'height': height}, **phone, **options)
    self.complaints: list[str] = []
    self.requests: list[str] = []
    self.page.on('console', lambda message: self.complaints.append(message.text))
    self.page.on('pageerror', lambda error: self.complaints.append(str(error)))
    self.page.on('request', lambda request: self.requests.append(request.url))
    self.page.goto(path.absolute().as_uri())

  def run(self, script: str) -> Any:
    """Returns the value of a JavaScript expression."""
    return self.page.evaluate(script)

"""A real browser for tests: Chromium without a window, spoken to through its DevTools protocol over two pipes."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')


class Browser:
  """One page in Chromium; `complaints` collects what the browser would write to its console."""

  def __init__(self, folder: Path):
    """Starts the browser with its profile in `folder`; skips the test where there is none."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if not program:
      pytest.skip(f'there is no browser here ({", ".join(NAMES)})')
    there, self._out = os.pipe()
    self._in, here = os.pipe()
    flags = ('--headless', '--no-sandbox', '--disable-gpu', '--remote-debugging-pipe', f'--user-data-dir={folder}')
    # The protocol wants file descriptors 3 and 4.
    shell = f'exec 3<&{there} 4>&{here}; exec "$0" "$@"'
    self._process = subprocess.Popen(
      ['bash', '-c', shell, program, *flags, 'about:blank'], pass_fds=(there, here), stderr=subprocess.DEVNULL
    )
    os.close(there)
    os.close(here)
    self._buffer, self._count, self._session = b'', 0, None
    self.complaints: list[str] = []
    self.requests: list[str] = []
    target = self.call('Target.createTarget', url='about:blank')['targetId']
    self._session = self.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
    for domain in ('Page', 'Runtime', 'Log', 'Network'):
      self.call(f'{domain}.enable')

  def call(self, method: str, **params):
    """Calls a method of the protocol; returns its result."""
    self._count += 1
    message = {'id': self._count, 'method': method, 'params': params}
    if self._session:
      message['sessionId'] = self._session
    os.write(self._out, json.dumps(message).encode() + b'\0')
    while (answer := self._next()).get('id') != self._count:
      self._note(answer)
    if 'error' in answer:
      raise RuntimeError(f'{method}: {answer["error"]["message"]}')
    return answer['result']

  def open(self, path: Path, width: int, height: int = 900, dark: bool = False) -> None:
    """Shows a file in a window of this size, as a phone would where it is narrow."""
    self.call('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
    scheme = [{'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}]
    self.call('Emulation.setEmulatedMedia', features=scheme)
    self.call('Page.navigate', url=path.absolute().as_uri())
    while (event := self._next()).get('method') != 'Page.loadEventFired':
      self._note(event)

  def run(self, script: str):
    """Returns the value of a JavaScript expression; waits for promises."""
    answer = self.call('Runtime.evaluate', expression=script, returnByValue=True, awaitPromise=True)
    if 'exceptionDetails' in answer:
      raise RuntimeError(answer['exceptionDetails'].get('exception', {}).get('description', script))
    return answer['result'].get('value')

  def screenshot(self, path: Path, whole: bool = True) -> None:
    """Writes what is seen, or the whole page, as PNG."""
    data = self.call('Page.captureScreenshot', captureBeyondViewport=whole)['data']
    path.write_bytes(base64.b64decode(data))

  def close(self) -> None:
    """Ends the browser."""
    self._process.terminate()
    self._process.wait()
    os.close(self._in)
    os.close(self._out)

  def _next(self) -> dict:
    while b'\0' not in self._buffer:
      read = os.read(self._in, 2**20)
      if not read:
        raise RuntimeError('the browser has ended')
      self._buffer += read
    message, _, self._buffer = self._buffer.partition(b'\0')
    return json.loads(message)

  def _note(self, event: dict) -> None:
    method, params = event.get('method'), event.get('params', {})
    if method == 'Runtime.exceptionThrown':
      self.complaints.append(params['exceptionDetails'].get('exception', {}).get('description', 'exception'))
    elif method == 'Log.entryAdded':
      self.complaints.append(params['entry']['text'])
    elif method == 'Runtime.consoleAPICalled':
      self.complaints.append(' '.join(str(argument.get('value')) for argument in params['args']))
    elif method == 'Network.requestWillBeSent':
      self.requests.append(params['request']['url'])

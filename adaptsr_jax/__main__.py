"""All commands under one name: `adaptsr COMMAND ...` is `python -m adaptsr_jax.COMMAND ...`, and `adapt` is `main`.

A shell completes commands and files after

  complete -o default -W "$(adaptsr --words)" adaptsr
"""

import difflib
import runpy
import sys

from adaptsr_jax import __version__, command
from adaptsr_jax.errors import UserError

# Command -> (module, what it does).
COMMANDS = {
  'adapt': ('main', 'adapts a base to pairs of pictures'),
  'upscale': ('upscale', 'enlarges photographs'),
  'evaluate': ('evaluate', 'measures checkpoints and finished pictures side by side'),
  'adapters': ('adapters', 'looks at adapter files, folds them into their base, mixes and measures them'),
  'convert': ('convert', 'converts weights between PyTorch files and params folders'),
  'report': ('report', 'makes one HTML page of finished runs'),
  'doctor': ('doctor', 'examines pairs of pictures before training'),
  'degrade': ('degrade', 'makes LR pictures by a simulated camera'),
  'pack': ('pack', 'packs pictures as crops for fast reading'),
  'zoo': ('zoo', 'lists and downloads published weights'),
  'lam': ('lam', 'shows which pixels a network uses'),
  'stability': ('stability', 'tells how well batches agree on the order of the sites'),
}


def main() -> None:
  """Runs the command that sys.argv names, as a program of its own."""
  name, *words = sys.argv[1:] or ['--help']
  if name in COMMANDS:
    module, _ = COMMANDS[name]
    sys.argv[1:] = words
    # As the main module, which processes that read pictures import again.
    runpy.run_module(f'adaptsr_jax.{module}', run_name='__main__', alter_sys=True)
  else:
    command.start(lambda: _tell(name))


def _tell(name: str) -> None:
  """Prints what is asked of all commands together."""
  if name in ('-h', '--help', 'help'):
    width = max(map(len, COMMANDS))
    lines = [f'  {each:{width}}  {purpose}' for each, (_, purpose) in COMMANDS.items()]
    print('usage: adaptsr COMMAND ...', '', 'Commands:', *lines, '', sep='\n')
    print('`adaptsr COMMAND --help` tells more; `python -m adaptsr_jax COMMAND` is the same.')
  elif name == '--version':
    print(f'adaptsr_jax {__version__}')
  elif name == '--words':
    print(*COMMANDS)
  else:
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f'did you mean {close[0]}?' if close else f'there are {", ".join(COMMANDS)}.'
    raise UserError(f'There is no command {name!r}; {hint}')


if __name__ == '__main__':
  main()

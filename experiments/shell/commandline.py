# SPDX-License-Identifier: Apache-2.0
"""How every binary starts, and how it says what a user got wrong."""

import contextlib
import difflib
import pathlib
import sys
from collections.abc import Callable
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from bionet_learners.training import checkpoints

BAD_INPUT = 2
"""Exit status where the user asked for something impossible."""

# What a wrong name, value, file or third-party module ends in.
_WRONG = (
  ValueError,
  TypeError,
  LookupError,
  AttributeError,
  OSError,
  ImportError,
  SyntaxError,
  AssertionError,  # chex, of shapes and trees
  RuntimeError,  # JAX, of devices and memory
  checkpoints.CorruptCheckpointError,
)

_DEBUG = flags.DEFINE_bool(
  'debug', False, 'Show the whole traceback of an error, not its one line.'
)


def define_config(help_text: str) -> flags.FlagHolder:
  """The --config flag: a file of `experiments/configs`, and overrides."""
  return config_flags.DEFINE_config_file(
    'config', None, help_text, lock_config=True
  )


def run(main: Callable[[list[str]], None]) -> None:
  """Parses the flags and runs `main`; bad flags end in one line, status 2."""
  # Below warnings, the libraries' logs would bury what a run says of itself.
  logging.set_verbosity(logging.WARNING)
  app.run(main, flags_parser=_parse)


@contextlib.contextmanager
def bad_input():
  """Inside, what a caller chose wrongly ends in one line and exit status 2.

  Meant for building and checking a run, before anything is written. `--debug`
  shows where it came from.
  """
  try:
    yield
  except _WRONG as error:
    if flags.FLAGS.is_parsed() and _DEBUG.value:
      raise
    refuse(message(error))


def refuse(message: str, status: int = BAD_INPUT) -> NoReturn:
  """Ends the program: one line on standard error, exit status 2."""
  print('error: ' + ' '.join(message.split()), file=sys.stderr)
  sys.exit(status)


def _parse(argv: list[str]) -> list[str]:
  try:
    rest = flags.FLAGS(argv)
    if 'config' in flags.FLAGS:
      _ = flags.FLAGS.config  # a file that failed to load says so here
  except (flags.Error, *_WRONG) as error:  # get_config's own among them
    refuse(message(error))
  if len(rest) > 1:
    refuse(f'unknown argument {rest[1]!r}; every setting is a --flag.')
  return rest


def message(error: BaseException) -> str:
  """What an error says to a user, without its traceback."""
  # absl and ml_collections wrap what get_config raised, traceback and all.
  while 'Error whilst parsing config file' in str(error) and error.__context__:
    error = error.__context__
  if str(error).startswith('Configuration is not available'):
    return _no_config(error.__cause__)
  if isinstance(error, OSError) and error.strerror and error.filename:
    return f'{error.filename}: {error.strerror}'
  first = error.args[0] if len(error.args) == 1 else None
  if isinstance(first, KeyError):  # ml_collections raises AttributeError of it
    return message(first)
  # str() of a KeyError is the repr of its argument, newlines escaped.
  text = str(first or error) or type(error).__name__
  key, *hint = text.split('\n')
  if isinstance(error, KeyError) and ' ' not in key:  # nothing but the key
    return ' '.join([f'the config has no key {key}.', *hint])
  return text


def _no_config(error: BaseException | None) -> str:
  name = config_flags.get_config_filename(flags.FLAGS['config'])
  path = pathlib.Path(name.partition(':')[0])
  if path.exists():
    return f'--config={name}: {error}'
  known = [str(file) for file in path.parent.glob('[!_]*.py')]
  near = difflib.get_close_matches(str(path), known, n=1)
  hint = f' Did you mean {near[0]!r}?' if near else ''
  return f'--config={name}: there is no file {str(path)!r}.{hint}'

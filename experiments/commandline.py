# SPDX-License-Identifier: Apache-2.0
"""How every binary starts, and how it says what a user got wrong."""

from collections.abc import Callable
import contextlib
import sys

from absl import app
from absl import flags
from absl import logging
from ml_collections import config_flags

BAD_INPUT = 2
"""Exit status where the user asked for something impossible."""

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
  except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
    if flags.FLAGS.is_parsed() and _DEBUG.value:
      raise
    refuse(_message(error))


def refuse(message: str) -> None:
  """Ends the program: one line on standard error, exit status 2."""
  print('error: ' + ' '.join(message.split()), file=sys.stderr)
  sys.exit(BAD_INPUT)


def _parse(argv: list[str]) -> list[str]:
  try:
    rest = flags.FLAGS(argv)
    if 'config' in flags.FLAGS:
      _ = flags.FLAGS.config  # a file that failed to load says so here
  except (flags.Error, OSError, LookupError, AttributeError) as error:
    refuse(_message(error))
  except (TypeError, ValueError) as error:  # of get_config: e.g. its variant
    refuse(_message(error))
  if len(rest) > 1:
    refuse(f'unknown argument {rest[1]!r}; every setting is a --flag.')
  return rest


def _message(error: Exception) -> str:
  # str() of a KeyError is the repr of its argument, newlines escaped.
  text = str(error.args[0]) if error.args and len(error.args) == 1 else ''
  text = text or str(error) or type(error).__name__
  if text.startswith('Configuration is not available'):
    text = '--config: ' + text.split('Failed loading config file')[-1]
  return text

# SPDX-License-Identifier: Apache-2.0
"""How every binary starts, and how it says what a user got wrong."""

import contextlib
import functools
import sys
from collections.abc import Callable
from typing import NoReturn

from absl import app, flags, logging

from bionet_learners.training import checkpoints
from experiments.shell import compiled, config_flag, messages

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
_COMPILED = flags.DEFINE_string(
  'compilation_cache',
  None,
  'Folder that keeps compiled programs for the next start; "none" keeps none. '
  "By default one in the user's cache.",
)


def run(
  main: Callable[[list[str]], None],
  prepare: config_flag.PrepareFn | None = None,
) -> None:
  """Parses the flags and runs `main`; bad flags end in one line, status 2.

  Args:
    main: takes the arguments that are left.
    prepare: given, there is a flag --config, and what it names is completed by
      this before it is locked.
  """
  # Below warnings, the libraries' logs would bury what a run says of itself.
  logging.set_verbosity(logging.WARNING)

  def with_programs(argv: list[str]) -> None:
    compiled.keep(_COMPILED.value)
    main(argv)

  app.run(with_programs, flags_parser=functools.partial(_parse, prepare))


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
    refuse(messages.text(error))


def refuse(message: str, status: int = BAD_INPUT) -> NoReturn:
  """Ends the program: one line on standard error, exit status 2."""
  print('error: ' + ' '.join(message.split()), file=sys.stderr)
  sys.exit(status)


def _parse(prepare: config_flag.PrepareFn | None, argv: list[str]) -> list[str]:
  try:
    if prepare is not None:
      argv = config_flag.define(argv, prepare)
      _show('config')
    _show('debug')
    _show('compilation_cache')
    rest = flags.FLAGS(argv)
  except (flags.Error, *_WRONG) as error:
    if '--debug' in argv:
      raise
    refuse(messages.text(error))
  except SystemExit as end:  # --help, which absl ends with 1
    sys.exit(0 if end.code == 1 else end.code)
  if len(rest) > 1:
    refuse(f'unknown argument {rest[1]!r}; every setting is a --flag.')
  return rest


def _show(name: str) -> None:
  """Makes --help, which shows the command's own flags, show this one, too."""
  flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])

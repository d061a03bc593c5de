# SPDX-License-Identifier: Apache-2.0
"""The flag --config: a file, a variant of it, and overrides of its keys.

The file is read before absl parses the flags, so that what a config file raises
ends in one line whatever follows it, and so that a section can take the keys of
what an override names in it before the keys are counted.
"""

import collections
import contextlib
import importlib.machinery
import importlib.util
import pathlib
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Mapping

import ml_collections
from absl import flags
from ml_collections import config_flags

from bionet_core import plugins
from bionet_learners.training import paths
from experiments.shell import messages

# Takes the config, not yet locked, and the overrides `{key: text}`.
PrepareFn = Callable[[ml_collections.ConfigDict, Mapping[str, str]], None]

_HELP = (
  'FILE or FILE:VARIANT, a Python file whose get_config(variant) makes the '
  'config, such as experiments/configs/copying.py:smoke. --list prints the '
  'files and their variants. --config.KEY=VALUE behind it changes a key of the '
  'config, as in --config.optimizer.learning_rate=.01, and --print_config '
  'prints every key.'
)


class ConfigError(flags.Error):
  """What is wrong with --config, in one sentence."""


# What is raised for a user to read.
_MEANT = (KeyError, ImportError, OSError, SyntaxError, TypeError, ValueError)


def define(argv: list[str], prepare: PrepareFn) -> list[str]:
  """Reads --config, and defines it and its overrides as flags of absl.

  Without --config the flag is an empty config.

  Args:
    argv: the command line.
    prepare: completes the config, before it is locked.

  Returns:
    The command line without --config, for absl to parse.

  Raises:
    ConfigError: for a file, a variant or a key that is not there, and whatever
      the file raises; its cause is the error itself. What `prepare` raises.
  """
  argv = flags.FLAGS.read_flags_from_files(argv, force_gnu=False)
  flag, overrides, rest = _split(argv)
  config = ml_collections.ConfigDict()
  if flag is not None:
    config = load(flag)
    with config.unlocked():
      prepare(config, overrides)
    for key in overrides:
      _check_key(config, key)
  config_flags.DEFINE_config_dict('config', config, _HELP, sys_argv=rest)
  flags.FLAGS['config'].default_as_str = None  # which --help would print
  return rest


def file() -> pathlib.Path:
  """The file that --config names on the command line of this process."""
  argv = flags.FLAGS.read_flags_from_files(sys.argv, force_gnu=False)
  flag, _, _ = _split(argv)
  return paths.local('--config', (flag or '').split(':')[0])


def _split(argv: list[str]) -> tuple[str | None, dict[str, str], list[str]]:
  """The value of --config; its overrides `{key: text}`; all but --config."""
  flag, overrides, rest = None, {}, argv[:1]
  waiting = collections.deque(argv[1:])
  while waiting and waiting[0] != '--':
    argument = waiting.popleft()
    match = re.fullmatch(
      r'--?(?:no)?config(?:\.([^=]+))?(?:=(.*))?', argument, re.DOTALL
    )
    if match is None:
      rest.append(argument)
      continue
    key, value = match.groups()
    if key is not None:
      if flag is None:
        raise ConfigError(f'{argument} stands before --config=FILE.')
      if value is None:  # `--config.KEY VALUE`; absl reads the value anew
        value = waiting[0] if waiting else ''
      overrides.pop(key, None)  # where two are alike, the last one counts
      overrides[key] = value
      rest.append(argument)
      continue
    if value is None and waiting:  # `--config FILE`
      value = waiting.popleft()
    if flag is not None or not value:
      reason = f'--config is {flag} already' if flag else 'must name a file'
      raise ConfigError(f'{argument}: {reason}.')
    flag = value
  return flag, overrides, [*rest, *waiting]


def load(flag: str) -> ml_collections.ConfigDict:
  """The config of FILE or FILE:VARIANT.

  Raises:
    ConfigError: if there is no such file, or for whatever it raises.
  """
  with _said(flag):
    paths.local('--config', flag)
    name, *variant = flag.split(':', 1)
    path = paths.local('--config', name)
    if not path.is_file():
      raise ConfigError(_no_file(flag, path))
    config = _module(path).get_config(*variant)
    if not isinstance(config, ml_collections.ConfigDict) or not config:
      raise TypeError(
        f'get_config returned a {type(config).__name__}; it must return a '
        'ml_collections.ConfigDict with the keys of configs/base.py.'
      )
  return config


def _module(path: pathlib.Path) -> types.ModuleType:
  """The module in a file that need not be on the path of modules."""
  loader = importlib.machinery.SourceFileLoader('config_file', str(path))
  spec = importlib.util.spec_from_loader(loader.name, loader)
  module = importlib.util.module_from_spec(spec)
  sys.modules[loader.name] = module  # where a dataclass looks for its module
  loader.exec_module(module)
  if not hasattr(module, 'get_config'):
    raise TypeError('the file must have a get_config(variant).')
  return module


@contextlib.contextmanager
def _said(flag: str) -> Iterator[None]:
  """Inside, whatever the code of a config raises becomes one sentence."""
  try:
    yield
  except ConfigError:
    raise
  except Exception as error:
    text = messages.text(error)
    if not text.startswith('--config='):
      text = f'--config={flag}{_place(error, flag)}: {text}'
    raise ConfigError(text) from error


def _place(error: Exception, flag: str) -> str:
  """The line of the file, and the kind of what was not raised for a reader."""
  frames = traceback.extract_tb(error.__traceback__)
  meant = (frames[-1].line or '').startswith('raise ')
  meant |= frames[-1].filename == __file__ or isinstance(error, SyntaxError)
  if isinstance(error, _MEANT) and meant:
    return ''
  path = flag.split(':')[0]
  lines = [frame.lineno for frame in frames if frame.filename == path]
  place = f', line {lines[-1]}' if lines else ''
  return f'{place}: {type(error).__name__}'


def _check_key(config: ml_collections.ConfigDict, key: str) -> None:
  """Raises ConfigError for an override of a key that its section lacks."""
  section, value = 'config', config
  for part in key.split('.'):
    if not isinstance(value, ml_collections.ConfigDict) or '[' in part:
      return  # inside a value; absl reads it
    if part not in value:
      raise ConfigError(messages.no_key(section, part, list(value)))
    section, value = f'{section}.{part}', value[part]


def _no_file(flag: str, path: pathlib.Path) -> str:
  if path.is_dir():
    return f'--config={flag}: is a folder; name a file in it.'
  known = [str(file) for file in path.parent.glob('[!_]*.py')]
  hint = plugins.near(str(path), known)
  return f'--config={flag}: there is no file {str(path)!r}.{hint}'

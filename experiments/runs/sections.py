# SPDX-License-Identifier: Apache-2.0
"""A config as a run reads it: its stages, and its sections as arguments."""

import contextlib
import inspect
import math
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping

import ml_collections

from bionet_core import plugins
from bionet_tasks import base as tasks
from experiments.runs import optimizer_settings
from experiments.shell import messages

NOTHING: Mapping[str, object] = types.MappingProxyType({})

_MAX_TRIALS = 2**31 - 1  # trials are numbered by int32


def stage_configs(
  config: ml_collections.ConfigDict,
) -> list[ml_collections.ConfigDict]:
  """The config of each stage of a run: the first is the config itself.

  Every entry of `config.stages`, in the order of the names, holds what the
  stage changes of the stage before, in the config's own sections.

  Raises:
    KeyError, TypeError: if a stage changes a key that the config lacks, or to
      what it cannot be; names the stage.
  """
  stages = [config]
  for name in sorted(config.stages):
    stage = stages[-1].copy_and_resolve_references()
    changes = config.stages[name]
    if not isinstance(changes, ml_collections.ConfigDict):
      raise TypeError(
        f'stages.{name}={changes!r}: must be a mapping of what the stage '
        'changes.'
      )
    with stage.unlocked():
      stage.stages = ml_collections.ConfigDict()
      optimizer_settings.complete(stage, _flat(changes))
    _check_keys(stage, changes, f'stages.{name}')
    try:
      stage.update(changes)
    except TypeError as error:
      raise TypeError(f'stages.{name}: {error.args[0]}') from error
    stages.append(stage)
  return stages


def _flat(tree: ml_collections.ConfigDict, prefix: str = '') -> dict:
  """`{dotted path: value}`."""
  flat = {}
  for key, value in tree.items():
    if isinstance(value, ml_collections.ConfigDict):
      flat.update(_flat(value, f'{prefix}{key}.'))
    else:
      flat[prefix + key] = value
  return flat


def _check_keys(section, changes: ml_collections.ConfigDict, path: str) -> None:
  """Raises KeyError for a change of a key that the section lacks."""
  for key, value in changes.items():
    if key not in section:
      raise KeyError(messages.no_key(path, key, list(section)))
    if isinstance(section[key], ml_collections.ConfigDict):
      if not isinstance(value, ml_collections.ConfigDict):
        raise TypeError(f'{path}.{key}={value!r}: must be a mapping.')
      _check_keys(section[key], value, f'{path}.{key}')


def count_updates(config: ml_collections.ConfigDict, task: tasks.Task) -> int:
  """The updates of a stage: `num_updates`, or what its epochs take.

  Raises:
    ValueError: if the config says neither or both, or what its task or the
      numbering of trials cannot do.
  """
  num_data = task.spec.num_data
  if num_data is not None and config.batch_size > num_data:
    raise ValueError(
      f'batch_size={config.batch_size}: must be at most {num_data}, the '
      f'training samples of task {task.spec.name!r}.'
    )
  lengths = (config.num_updates, config.num_epochs)
  if min(lengths) < 0 or sum(length > 0 for length in lengths) != 1:
    raise ValueError(
      f'num_updates={lengths[0]}, num_epochs={lengths[1]}: one of them must be '
      'positive and the other 0.'
    )
  num_updates = config.num_updates
  if config.num_epochs:
    if num_data is None:
      raise ValueError(
        f'num_epochs={config.num_epochs}: must be 0, and num_updates be set, '
        f'for task {task.spec.name!r} draws its trials anew: it has no epochs.'
      )
    num_updates = math.ceil(config.num_epochs * num_data / config.batch_size)
  if num_updates * config.batch_size > _MAX_TRIALS:
    raise ValueError(
      f'batch_size={config.batch_size}, num_updates={num_updates}: their '
      f'product must be at most {_MAX_TRIALS}, the trials that a 32-bit number '
      'counts.'
    )
  return num_updates


def plain(settings: ml_collections.ConfigDict | Mapping) -> dict:
  """A section of a config as a dict."""
  is_config = isinstance(settings, ml_collections.ConfigDict)
  return settings.to_dict() if is_config else dict(settings)


def check_keywords(
  factory: Callable,
  section: str,
  name: str,
  keywords: Mapping[str, object],
  handed: Mapping[str, object] = NOTHING,
) -> None:
  """Raises TypeError for a keyword that a factory lacks, or one it lacks.

  Args:
    factory: what will be called.
    section: the config's section, for messages.
    name: the factory's name in the section.
    keywords: what the config gives.
    handed: what the run gives.
  """
  parameters = [
    p
    for p in inspect.signature(factory).parameters.values()
    if p.name not in handed
  ]
  known = [
    p.name
    for p in parameters
    if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
  ]
  names = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY] or known
  for keyword in keywords:
    if keyword not in known:
      raise TypeError(
        f'{section}.{keyword}={keywords[keyword]!r}: {name!r} has no such '
        f'setting.{plugins.near(keyword, known)} It has: {", ".join(names)}. '
        'To start from its own settings, use '
        '--config=experiments/configs/compose.py:TASK,NETWORK,LEARNER.'
      )
  for p in parameters:
    needed = p.kind is p.KEYWORD_ONLY and p.default is p.empty
    if needed and keywords.get(p.name) is None:
      raise TypeError(
        f'{section}.{p.name}=None: must be set, for {name!r} has no default.'
      )


def keys_of(section: str, arguments: Iterable[str]) -> dict[str, str]:
  """`{argument: key}` for arguments that a section of the config gives."""
  return {argument: f'{section}.{argument}' for argument in arguments}


@contextlib.contextmanager
def named_in(keys: Mapping[str, str]) -> Iterator[None]:
  """Inside, an error about an argument names the config's key.

  A library says `window=0: ...` of its argument; a user of a config wrote
  `learner.window=0` and reads that. Of an argument that is a mapping a library
  says `settings.std=1: ...`. Messages that begin otherwise stay.

  Args:
    keys: the config's key of each argument, e.g. from `keys_of`.

  Raises:
    KeyError, TypeError, ValueError: as raised inside.
  """
  try:
    yield
  except (KeyError, TypeError, ValueError) as error:
    text = error.args[0] if error.args else None
    pattern = r'(\w+)[.\w]*='
    named = re.match(pattern, text) if isinstance(text, str) else None
    if named and named[1] in keys:
      text = keys[named[1]] + text[named.end(1) :]
      error.args = (text, *error.args[1:])
    raise

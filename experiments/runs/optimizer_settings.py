# SPDX-License-Identifier: Apache-2.0
"""The optimizers of optax that a config may name, and their own settings.

A config may name any whose update needs gradients and parameters alone: it is
all that a rule gives. They are found in optax, so that a later one has its own.
"""

import functools
import inspect
import typing
from collections.abc import Callable, Mapping

import jax.numpy as jnp
import ml_collections
import optax
import optax.contrib
from ml_collections import config_dict

from bionet_core import plugins

SHARED = (
  'name',
  'learning_rate',
  'schedule',
  'warmup',
  'accumulate',
  'clip_norm',
  'rate_factors',
)
"""Keys of `config.optimizer` that every optimizer has."""

HANDED = ('key', 'seed')
"""What the run hands in, and no config: it follows from `config.seed`."""

_SCALAR = (bool, int, float, str)
_VALUE = 'its update needs the value of the loss'
_LINES = 'its line search needs the loss as a function'
_ELSEWHERE = 'it is judged at other parameters than those it changes'
_WRAPS = 'it is made of another optimizer'
_REFUSED: Mapping[str, str] = {
  'dpsgd': 'its update needs the gradient of each trial',
  'lbfgs': _LINES,
  'mechanize': _WRAPS,
  'momo': _VALUE,
  'momo_adam': _VALUE,
  'optimistic_adam': 'optax has replaced it by optimistic_adam_v2',
  'polyak_sgd': _VALUE,
  'sam': _WRAPS,
  'schedule_free': _WRAPS,
  'schedule_free_adamw': _ELSEWHERE,
  'schedule_free_sgd': _ELSEWHERE,
  'sophia': 'its update needs the loss as a function',
}


@functools.cache
def _factories() -> Mapping[str, Callable[..., optax.GradientTransformation]]:
  """Functions of optax that make a transformation with a learning rate."""
  return {
    name: factory
    for module in (optax, optax.contrib)
    for name, factory in inspect.getmembers(module, inspect.isfunction)
    if not name.startswith(('_', 'scale_by_'))
    and 'learning_rate' in inspect.signature(factory).parameters
    and name not in _REFUSED
  }


def names() -> list[str]:
  """The optimizers that a config may name."""
  return sorted(_factories())


def factory(name: str) -> Callable[..., optax.GradientTransformation]:
  """The function of optax that makes an optimizer.

  Raises:
    KeyError: for another name; says which there are, and of a known one why it
      cannot be.
  """
  known = _factories()
  if name not in known:
    why = _REFUSED.get(name, 'optax has no such optimizer')
    raise KeyError(
      f'optimizer.name={name!r}: {why}.{plugins.near(name, known)} There are: '
      f'{", ".join(names())}.'
    )
  return known[name]


def takes_schedule(name: str) -> bool:
  """Whether the learning rate of an optimizer may change with the steps."""
  parameter = inspect.signature(factory(name)).parameters['learning_rate']
  return Callable in _kinds(parameter)


def own_settings(name: str) -> dict[str, object]:
  """The settings of an optimizer beside SHARED, with optax's defaults.

  What a config cannot hold (masks and other functions of the parameters) is
  left out; optax's default for it stands.
  """
  parameters = inspect.signature(factory(name)).parameters.values()
  return {
    parameter.name: _default(parameter)
    for parameter in parameters
    if parameter.name not in (*SHARED, *HANDED) and _is_plain(parameter)
  }


def choose(section: ml_collections.ConfigDict, name: str) -> None:
  """Makes a section the settings of an optimizer.

  What the section has set of the same optimizer stays; the own settings of
  another one go.

  Args:
    section: `config.optimizer`, not locked.
    name: the optimizer's name.

  Raises:
    KeyError: for a name that no config may have.
  """
  settings_of_it = own_settings(name)
  if section.get('name') != name:
    for key in set(section) - {*SHARED}:
      del section[key]
  section.name = name
  for key, value in settings_of_it.items():
    if key not in section:
      section[key] = value


def complete(
  config: ml_collections.ConfigDict, overrides: Mapping[str, str]
) -> None:
  """Gives `config.optimizer` the keys that an override may set.

  They are those of the optimizer that an override names, else of the config's;
  and the modules that `optimizer.rate_factors.MODULE` names, whose factor is 1.

  Args:
    config: a config, not locked.
    overrides: `{key: text}`, those of a command line.

  Raises:
    KeyError: for a name that no config may have.
  """
  section = config.get('optimizer')
  if section is None:
    return
  choose(section, overrides.get('optimizer.name', section.name))
  for key in overrides:
    first, _, module = key.partition('optimizer.rate_factors.')
    if module and not first and module not in section.rate_factors:
      section.rate_factors[module] = 1.0


def _is_plain(parameter: inspect.Parameter) -> bool:
  """Whether a config can hold what a parameter takes."""
  default, kinds = parameter.default, _kinds(parameter)
  if isinstance(default, tuple):
    return all(isinstance(part, _SCALAR) for part in default)
  if default is None:
    if Mapping in kinds or optax.GradientTransformation in kinds:
      return False
    return float in kinds or Callable not in kinds
  return isinstance(default, (*_SCALAR, type))


def _default(parameter: inspect.Parameter) -> object:
  """What a config holds of a parameter that it does not set."""
  if isinstance(parameter.default, type):  # of a dtype
    return jnp.dtype(parameter.default).name
  if parameter.default is None:
    kind = float if float in _kinds(parameter) else str  # else a dtype
    return config_dict.placeholder(kind)
  return parameter.default


def _kinds(parameter: inspect.Parameter) -> list[object]:
  """The kinds that a parameter's annotation allows, e.g. float and Callable."""
  kinds = typing.get_args(parameter.annotation) or (parameter.annotation,)
  return [typing.get_origin(kind) or kind for kind in kinds]

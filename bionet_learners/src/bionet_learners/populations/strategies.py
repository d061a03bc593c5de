# SPDX-License-Identifier: Apache-2.0
"""The strategies of evosax: by name, with settings, and what they refuse."""

import importlib
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bionet_core import plugins, unroll


def strategy_class(name: str) -> Any:
  """The class of evosax with this name; see `evosax_strategy` for errors."""
  try:
    algorithms = importlib.import_module('evosax.algorithms').algorithms
  except ImportError as error:
    raise ImportError(
      "learner 'evosax' needs the package evosax, which is not installed: "
      "pip install 'bionet[evolution]'."
    ) from error
  if name not in algorithms:
    raise KeyError(
      f'strategy={name!r}: must be one of evosax.'
      f'{plugins.near(name, algorithms)} There are: '
      f'{", ".join(sorted(algorithms))}.'
    )
  kind = algorithms[name]
  for argument in inspect.signature(kind).parameters.values():
    known = argument.name in ('population_size', 'solution')
    if argument.default is argument.empty and not known:
      raise ValueError(
        f'strategy={name!r}: must be one that needs numbers alone; it needs '
        f'{argument.name!r}.'
      )
  return kind


def check_settings(name, kind, settings) -> None:
  """Refuses a setting that the strategy lacks, or one that is no number."""
  # The parameters of a strategy for two numbers have the names of any other's.
  with jax.ensure_compile_time_eval(), jax.numpy_rank_promotion('allow'):
    probe = kind(4, np.zeros(2, np.float32))
    parameters = vars(probe.default_params)
  known = sorted({*parameters, *_arguments(kind)})
  for setting, value in settings.items():
    if setting not in known:
      raise KeyError(
        f'settings.{setting}={value!r}: must be a setting of {name}.'
        f'{plugins.near(setting, known)} There are: {", ".join(known)}.'
      )
    if not isinstance(value, int | float):
      raise ValueError(f'settings.{setting}={value!r}: must be a number.')


def _arguments(kind) -> list[str]:
  """Arguments of a strategy's class that a number can set."""
  return [
    name
    for name, argument in inspect.signature(kind).parameters.items()
    if name == 'std_schedule'
    or (name != 'population_size' and isinstance(argument.default, int | float))
  ]


def make(name, kind, population_size, like, settings):
  """The strategy for parameters like these, and its parameters."""
  arguments = {k: v for k, v in settings.items() if k in _arguments(kind)}
  if 'std_schedule' in arguments:
    std = arguments['std_schedule']
    arguments['std_schedule'] = optax.constant_schedule(std)
  try:
    evolver = kind(population_size, like, **arguments)
  except AssertionError as error:  # evosax says so of what a caller chose
    raise ValueError(f'strategy={name!r}: {error}') from error
  parameters_set = {k: v for k, v in settings.items() if k not in arguments}
  parameters = evolver.default_params
  parameters_set = {
    k: jnp.asarray(v, jnp.result_type(getattr(parameters, k)))
    for k, v in parameters_set.items()
  }
  return evolver, parameters.replace(**parameters_set)


def check_alone(name, kind, settings, keeps_population) -> None:
  """Refuses a population of one for a strategy that needs more.

  Evosax does not say which ones do: some divide by 0, some turn NaN, some stay
  where they are whatever they are told, others go on from a single member as
  they should. So it is tried, on two parameters, with opposite losses.
  """
  refusal = (
    f'population_size=1: must be at least 2 for {name}, which learns nothing '
    'from a single member.'
  )

  @jax.jit
  def fourth(sign):
    """The members of the fourth generation, float `[1, 2]`."""
    key, start = unroll.seed_key(0), jnp.ones((1, 2))
    if keeps_population:
      memory = evolver.init(key, start, sign * jnp.full(1, 2.0), parameters)
    else:
      memory = evolver.init(key, start[0], parameters)
    for ask_key, tell_key in jax.random.split(key, (3, 2)):
      members, memory = evolver.ask(ask_key, memory, parameters)
      losses = sign * jnp.sum(members**2, axis=1)
      memory, _ = evolver.tell(tell_key, members, losses, memory, parameters)
    return evolver.ask(key, memory, parameters)[0]

  with jax.numpy_rank_promotion('allow'):
    try:
      evolver, parameters = make(
        name, kind, 1, np.zeros(2, np.float32), settings
      )
    except ArithmeticError as error:
      raise ValueError(refusal) from error
    try:
      down, up = fourth(1.0), fourth(-1.0)
    except (ArithmeticError, TypeError, ValueError) as error:
      raise ValueError(refusal) from error
  if not np.all(np.isfinite([down, up])) or np.array_equal(down, up):
    raise ValueError(refusal)


def check_members(name, population_size, shapes, params) -> None:
  """Refuses a number of members that a strategy does not keep to, or survive.

  Args:
    name: the strategy.
    population_size: P.
    shapes: the shapes of the members that it asks for.
    params: the parameters of one.
  """
  members = jax.tree.leaves(shapes)[0].shape[0]
  if members != population_size:
    raise ValueError(
      f'population_size={population_size}: must be a number of members that '
      f'{name} keeps to, such as {members}; of {population_size} it asks for '
      f'{members}.'
    )
  # Its learning rates contain P / N, and then a root of a negative number.
  most = 2 * optax.tree.size(params)
  if name == 'LM_MA_ES' and population_size > most:
    raise ValueError(
      f'population_size={population_size}: must be at most {most} for {name}, '
      'twice the number of parameters.'
    )

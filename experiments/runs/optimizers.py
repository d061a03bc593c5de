# SPDX-License-Identifier: Apache-2.0
"""The optimizer of a config: optax's own, composed."""

import functools
import inspect
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from bionet_core import interfaces, plugins
from experiments.runs import optimizer_settings, sections

_LEAST = float(np.finfo(np.float32).tiny)  # what is smaller counts as 0


class Optimizer(NamedTuple):
  """A config's optimizer.

  Attributes:
    transformation: the optimizer itself.
    rate: from an update's number to the learning rate.
  """

  transformation: optax.GradientTransformation
  rate: optax.Schedule


def make_optimizer(
  settings: ml_collections.ConfigDict,
  num_updates: int,
  params: interfaces.ArrayTree,
  windows: int = 1,
  key: jax.Array | None = None,
) -> Optimizer:
  """The optimizer of a config's section.

  Args:
    settings: `name`, any of `optimizer_settings.names()`; `learning_rate`,
      `schedule` ('constant', or 'cosine' or 'linear' to 0 at the end of the
      run), `warmup` (updates in which the rate first rises from 0, linearly),
      `clip_norm` (of the whole tree; 0: none), `accumulate` (calls whose mean
      gradient makes one step), `rate_factors` (`{module: factor}` on the
      learning rate of the parameters under that key of the tree; 0 freezes
      them), and the optimizer's own settings by their optax names.
    num_updates: updates of the run.
    params: the parameters, or their shapes.
    windows: calls of the optimizer per update.
    key: what an optimizer that draws noise (noisy_sgd) draws from.

  Raises:
    KeyError, TypeError, ValueError: for what cannot be.
  """
  rest = dict(sections.plain(settings))
  name, rate = rest.pop('name'), rest.pop('learning_rate')
  kind, warmup = rest.pop('schedule'), rest.pop('warmup')
  clip_norm, accumulate = rest.pop('clip_norm'), rest.pop('accumulate')
  factors = rest.pop('rate_factors', {})
  factory = _factory(name, rest, key)
  for module, factor in factors.items():
    if module not in params:
      raise KeyError(
        f'optimizer.rate_factors.{module}={factor}: there are no parameters '
        f'under {module!r}.{plugins.near(module, params)} There are: '
        f'{", ".join(params)}.'
      )
    _check_rate(f'rate_factors.{module}', factor)
  _check_rate('learning_rate', rate)
  if not clip_norm >= 0:
    raise ValueError(
      f'optimizer.clip_norm={clip_norm}: must be above 0, or 0 for no clipping.'
    )
  if 0 < clip_norm < _LEAST:  # which a zero gradient would be divided by
    raise ValueError(
      f'optimizer.clip_norm={clip_norm}: must be {_LEAST:.1e} or more, or 0 '
      'for no clipping; in float32 it counts as 0.'
    )
  if accumulate < 1:
    raise ValueError(f'optimizer.accumulate={accumulate}: must be at least 1.')
  # A schedule counts the steps that the optimizer takes. It is called once per
  # window of each update, and takes one step per `accumulate` calls.
  num_steps = -(-num_updates * windows // accumulate)
  rising = warmup * windows // accumulate
  if not 0 <= rising < num_steps:
    raise ValueError(
      f'optimizer.warmup={warmup}: must be 0 or more, and end before the '
      f'{num_updates} updates of the run do.'
    )
  schedule = _schedule(kind, num_steps, rising)
  changes = kind != 'constant' or warmup > 0
  if changes and not optimizer_settings.takes_schedule(name):
    raise ValueError(
      f'optimizer.schedule={kind!r}, optimizer.warmup={warmup}: must be '
      f"'constant' and 0; {name!r} has one rate for the whole run."
    )

  def scaled_by(factor):
    if rate * factor == 0:  # weight decay must not reach a frozen module
      return optax.set_to_zero()
    if not optimizer_settings.takes_schedule(name):
      return factory(rate * factor)
    return factory(lambda step: rate * factor * schedule(step))

  optimizer = scaled_by(1.0)
  if factors:
    labels = {
      module: jax.tree.map(lambda _, m=module: m if m in factors else '', tree)
      for module, tree in params.items()
    }
    scaled = {m: scaled_by(factor) for m, factor in factors.items()}
    optimizer = optax.multi_transform({'': optimizer, **scaled}, labels)
  if clip_norm:
    optimizer = optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)
  if accumulate > 1:
    steps = optax.MultiSteps(optimizer, accumulate)
    optimizer = steps.gradient_transformation()
  return Optimizer(
    optimizer,
    lambda update: rate * schedule(update * windows // accumulate),
  )


def _schedule(kind: str, num_steps: int, warmup: int) -> optax.Schedule:
  """The factor on the learning rate, from 1 (after a warm-up from 0) on."""
  rest = num_steps - warmup
  schedules = {
    'constant': lambda: optax.constant_schedule(1.0),
    'cosine': lambda: optax.cosine_decay_schedule(1.0, rest),
    'linear': lambda: optax.linear_schedule(1.0, 0.0, rest),
  }
  if kind not in schedules:
    raise ValueError(
      f'optimizer.schedule={kind!r}: must be one of {", ".join(schedules)}.'
    )
  if not warmup:
    return schedules[kind]()
  rising = optax.linear_schedule(0.0, 1.0, warmup)
  return optax.join_schedules([rising, schedules[kind]()], [warmup])


def _factory(name: str, settings: dict[str, object], key: jax.Array | None):
  """The function from a learning rate to the optimizer."""
  factory = optimizer_settings.factory(name)
  takes = inspect.signature(factory).parameters
  for setting, value in settings.items():
    if setting not in takes or setting in optimizer_settings.HANDED:
      known = optimizer_settings.own_settings(name)
      raise TypeError(
        f'optimizer.{setting}={value!r}: {name!r} has no such setting.'
        f'{plugins.near(setting, known)} It has: {", ".join(known) or "none"}.'
      )
    if setting.endswith('dtype') and value is not None:
      _check_dtype(setting, value)
  handed = {'key': key} if 'key' in takes else {}
  return functools.partial(factory, **settings, **handed)


def _check_dtype(setting: str, value: object) -> None:
  try:
    floating = jnp.issubdtype(jnp.dtype(value), jnp.floating)
  except TypeError:
    floating = False
  if not floating:
    raise ValueError(
      f"optimizer.{setting}={value!r}: must be a type such as 'bfloat16'."
    )


def _check_rate(name: str, rate: float) -> None:
  if not 0 <= rate < math.inf:
    raise ValueError(f'optimizer.{name}={rate}: must be 0 or more, and finite.')

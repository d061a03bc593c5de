# SPDX-License-Identifier: Apache-2.0
"""The optimizer of a config: optax's own, composed."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import ml_collections
import numpy as np
import optax

from bionet_core import interfaces
from experiments.runs import sections

_OPTIMIZERS: Mapping[str, Callable[..., optax.GradientTransformation]] = {
  'adam': optax.adam,
  'adamw': optax.adamw,
  'sgd': optax.sgd,
}

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
) -> Optimizer:
  """The optimizer of a config's section.

  Args:
    settings: `name`, `learning_rate`, `schedule` ('constant', or 'cosine' or
      'linear' to 0 at the end of the run), `warmup` (updates in which the rate
      first rises from 0, linearly), `clip_norm` (of the whole tree; 0: none),
      `accumulate` (calls whose mean gradient makes one step), `rate_factors`
      (`{module: factor}` on the learning rate of the parameters under that key
      of the tree; 0 freezes them), and the optimizer's own settings by their
      optax names.
    num_updates: updates of the run.
    params: the parameters, or their shapes.
    windows: calls of the optimizer per update.

  Raises:
    KeyError, ValueError: for what cannot be.
  """
  rest = dict(sections.plain(settings))
  name, rate = rest.pop('name'), rest.pop('learning_rate')
  kind, warmup = rest.pop('schedule'), rest.pop('warmup')
  clip_norm, accumulate = rest.pop('clip_norm'), rest.pop('accumulate')
  factors = rest.pop('rate_factors', {})
  if name not in _OPTIMIZERS:
    raise KeyError(
      f'no optimizer named {name!r}.{sections.near(name, _OPTIMIZERS)} '
      f'There are: {", ".join(_OPTIMIZERS)}.'
    )
  sections.check_keywords(_OPTIMIZERS[name], 'optimizer', name, rest)
  for module, factor in factors.items():
    if module not in params:
      raise KeyError(
        f'optimizer.rate_factors: no parameters under {module!r}.'
        f'{sections.near(module, params)} There are: {", ".join(params)}.'
      )
    _check_rate(f'rate_factors.{module}', factor)
  _check_rate('learning_rate', rate)
  if not clip_norm >= 0:
    raise ValueError(f'optimizer.clip_norm is {clip_norm}; 0 means none.')
  if 0 < clip_norm < _LEAST:  # which a zero gradient would be divided by
    raise ValueError(
      f'optimizer.clip_norm is {clip_norm}, which is 0 in float32: choose '
      f'{_LEAST:.1e} or more, or 0 for none.'
    )
  if accumulate < 1:
    raise ValueError(f'optimizer.accumulate is {accumulate}; 1 is the least.')
  # A schedule counts the steps that the optimizer takes. It is called once per
  # window of each update, and takes one step per `accumulate` calls.
  schedule = _schedule(
    kind,
    num_steps=-(-num_updates * windows // accumulate),
    warmup=warmup * windows // accumulate,
  )

  def scaled_by(factor):
    if rate * factor == 0:  # weight decay must not reach a frozen module
      return optax.set_to_zero()
    return _OPTIMIZERS[name](
      lambda step: rate * factor * schedule(step), **rest
    )

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
  if not 0 <= warmup < num_steps:
    raise ValueError(
      f'optimizer.warmup is {warmup} steps of {num_steps}; it must be 0 or '
      'more, and end before the run does.'
    )
  rest = num_steps - warmup
  schedules = {
    'constant': lambda: optax.constant_schedule(1.0),
    'cosine': lambda: optax.cosine_decay_schedule(1.0, rest),
    'linear': lambda: optax.linear_schedule(1.0, 0.0, rest),
  }
  if kind not in schedules:
    raise ValueError(
      f'optimizer.schedule is {kind!r}; it may be {", ".join(schedules)}.'
    )
  if not warmup:
    return schedules[kind]()
  rising = optax.linear_schedule(0.0, 1.0, warmup)
  return optax.join_schedules([rising, schedules[kind]()], [warmup])


def _check_rate(name: str, rate: float) -> None:
  if not 0 <= rate < math.inf:
    raise ValueError(f'optimizer.{name} is {rate}; it must be 0 or more.')

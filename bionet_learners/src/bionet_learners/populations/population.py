# SPDX-License-Identifier: Apache-2.0
"""A population of parameters judged on trials, in one compiled call."""

from typing import Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import interfaces, unroll
from bionet_learners import base

_MUTATION = np.uint32(2**32 - 2)  # no trial of a run has this number


class Judge(Protocol):
  """The loss of each member of a population."""

  def __call__(
    self,
    members: interfaces.ArrayTree,
    constants: interfaces.ArrayTree,
    key: jax.Array,
    trials: interfaces.Trials,
  ) -> dict[str, jax.Array]:
    """Judges members, every leaf `[P, ...]`: `{'loss': [P], **metrics}`."""
    ...


def make_judge(
  cell: interfaces.Cell,
  loss: interfaces.StepLoss,
  population_size: int,
  *,
  common_noise: bool,
  num_noises: int | None = None,
  devices: base.Devices = base.ONE,
) -> Judge:
  """What runs P members on the same trials, each device its share of them.

  Cost: P forward passes; memory of P / D states. In common noise, which belongs
  to the trials alone, the noise is drawn once for all members of a device.

  Args:
    cell: the dynamics.
    loss: the loss of one step.
    population_size: P, a multiple of the number of devices.
    common_noise: all members meet the same noise, which compares them better.
    num_noises: else member i meets the noise of number i % num_noises; None: of
      its own.
    devices: the population is split over them; what they find is gathered.

  Raises:
    ValueError: if the devices cannot share the population equally.
  """
  if population_size % devices.count:
    raise ValueError(
      f'population_size={population_size}: must be a multiple of the '
      f'{devices.count} devices.'
    )
  share = population_size // devices.count
  num_noises = num_noises or population_size

  def judge_one(params, constants, key, trials):
    state = unroll.initial_state(cell, constants, key, trials.index)
    keys = unroll.trial_keys(key, trials.index)
    steps = jnp.zeros(trials.index.shape, jnp.int32)
    total, (metrics, _) = unroll.unroll(
      cell, loss, params, constants, state, keys, steps, trials
    )
    return {'loss': total, **metrics}

  def judge(members, constants, key, trials):
    first = devices.index() * share
    each_params = jax.tree.map(
      lambda x: jax.lax.dynamic_slice_in_dim(x, first, share), members
    )
    if common_noise:
      judged = jax.vmap(lambda p: judge_one(p, constants, key, trials))(
        each_params
      )
    else:
      numbers = (first + jnp.arange(share)) % num_noises
      keys = jax.vmap(lambda i: member_key(key, i))(numbers)
      judged = jax.vmap(lambda p, k: judge_one(p, constants, k, trials))(
        each_params, keys
      )
    return devices.gather(judged)

  return judge


def member_key(key: jax.Array, number: chex.Numeric) -> jax.Array:
  """The key that stands for the run's where members do not share noise."""
  return jax.random.fold_in(key, _MUTATION - 1 - jnp.uint32(number))


def draw_members(
  model: interfaces.Model,
  key: jax.Array,
  trials: interfaces.Trials,
  population_size: int,
) -> interfaces.ArrayTree:
  """P independent draws of the parameters, every leaf `[P, ...]`."""
  keys = jax.random.split(key, population_size)
  return jax.vmap(lambda k: model.init(k, trials)[0])(keys)


def draw_key(key: jax.Array, step: jax.Array) -> jax.Array:
  """The key of what generation `step` draws beside the noise of its trials."""
  return jax.random.fold_in(jax.random.fold_in(key, _MUTATION), step)


def finite_losses(judged: dict[str, jax.Array]) -> jax.Array:
  """Losses `[P]`; infinity, the worst, for members without a number."""
  losses = judged['loss']
  return jnp.where(jnp.isfinite(losses), losses, jnp.inf)


def without_holes(losses: jax.Array) -> jax.Array:
  """Losses `[P]`, the worst finite one for each that is infinite; 0 if all are.

  What averages losses, or ranks them, then takes a member without a number for
  as bad as the worst that has one, and stays finite itself.
  """
  finite = jnp.isfinite(losses)
  worst = jnp.max(losses, where=finite, initial=-jnp.inf)
  return jnp.where(finite, losses, jnp.where(jnp.any(finite), worst, 0.0))


def spread_metrics(losses: jax.Array) -> dict[str, jax.Array]:
  """'loss_mean' and 'loss_std' over the members that have a finite loss."""
  finite = jnp.isfinite(losses)
  return {
    'loss_mean': jnp.mean(losses, where=finite),
    'loss_std': jnp.std(losses, where=finite),
  }

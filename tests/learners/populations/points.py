# SPDX-License-Identifier: Apache-2.0
"""A cell that says its parameters: losses can be worked out by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import interfaces
from bionet_learners import base
from bionet_learners.populations import evolution
from tests import small

KEY = jax.random.key(8)
GOAL = np.array([0.5, -1.0, 2.0], np.float32)


def point_cell(noise=0.0, dtype=jnp.float32):
  """Says its parameters, with the trial's noise: losses can be worked out."""

  def init(key, inputs):
    del inputs
    draw = jax.random.normal(key, (3,), dtype)
    return {'x': draw[:2], 'y': draw[2:]}, {'noise': jnp.float32(noise)}

  def step(params, constants, state, keys, inputs):
    del inputs
    point = jnp.concatenate([params['x'], params['y']])[None]
    # Uniform from -1 to 1, and cheap to compile.
    bits = jax.random.key_data(keys)
    draws = [(bits // n % 2000) / 1000 - 1 for n in (1, 7)]
    draw = jnp.concatenate(draws, axis=1)[:, :3]
    return point + constants['noise'] * draw, state

  return interfaces.Cell(
    init,
    lambda constants, keys: jnp.zeros((*keys.shape, 1)),
    step,
    lambda params, constants, emission: emission,
  )


def squared_error(outputs, targets, mask):
  loss, _ = small.squared_error(outputs, targets, mask)
  return loss, {'first': jnp.mean(outputs[:, 0] * mask)}


def trials(batch=4, first=0, goal=GOAL):
  return interfaces.Trials(
    inputs=jnp.zeros((1, batch, 1)),
    targets=jnp.broadcast_to(jnp.asarray(goal), (1, batch, len(goal))),
    mask=jnp.ones((1, batch)),
    index=first + jnp.arange(batch),
  )


DEFAULTS = {'population_size': 8, 'elites': 3, 'std': 0.3}


def make(noise=0.0, loss=squared_error, **settings):
  cell = point_cell(noise)
  return evolution.evolution(cell, loss, **{**DEFAULTS, **settings})


@functools.cache
def compiled(**settings):
  """Init, update and predict of a learner, compiled once for all tests."""
  learner = make(**settings)
  return base.Learner(*(jax.jit(part) for part in learner[:3]))


def begin(**settings):
  return compiled(**settings).init(KEY, trials())


def members_of(state):
  """The members as rows `[P, 3]`."""
  members = state.rule_state.shared.members
  return np.concatenate([members['x'], members['y']], axis=1)


def point_of(params):
  return np.concatenate([params['x'], params['y']])


def with_members(state, rows):
  members = {'x': jnp.asarray(rows[:, :2]), 'y': jnp.asarray(rows[:, 2:])}
  population = state.rule_state.shared._replace(members=members)
  return state._replace(rule_state=base.RuleState(population, ()))

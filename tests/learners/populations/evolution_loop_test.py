# SPDX-License-Identifier: Apache-2.0
"""(mu + lambda) as a loop in NumPy, given the very draws.

Truth: a list of members, sorted and mutated one by one.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import interfaces
from bionet_learners.populations import evolution, population
from tests import small

pytestmark = pytest.mark.oracle

KEY = jax.random.key(3)
SIZE, ELITES, STD, SPREAD = 7, 3, 0.4, 0.6


def memory_cell():
  """H <- tanh(h u + x w): the loss of the last of 6 steps asks for memory."""

  def init(key, inputs):
    a, b = jax.random.split(key)
    return {
      'u': jax.random.normal(a, (2, 2)),
      'w': jax.random.normal(b, (inputs.shape[-1], 2)),
    }, {}

  def step(params, constants, state, keys, inputs):
    del constants, keys
    state = jnp.tanh(state @ params['u'] + inputs @ params['w'])
    return state, state

  return interfaces.Cell(
    init,
    lambda constants, keys: jnp.zeros((*keys.shape, 2)),
    step,
    lambda params, constants, emission: emission,
  )


def trials():
  return small.trials((6, 3, 2, 2), (5,), seed=2)


def loss_of(member, data):
  """The loss of one member, in float64."""
  inputs = np.asarray(data.inputs, float)
  state = np.zeros((3, 2))
  for x in inputs:
    state = np.tanh(state @ member['u'] + x @ member['w'])
  error = state - np.asarray(data.targets[-1], float)
  return np.mean(np.sum(error**2, axis=-1))


def draws(generation):
  """Parents, factors and mutations, in the order the docstring names them."""
  key = population.draw_key(KEY, jnp.int32(generation))
  parent_key, factor_key, u_key, w_key = jax.random.split(key, 4)
  children = SIZE - ELITES
  return (
    jax.random.randint(parent_key, (children,), 0, ELITES),
    np.exp(SPREAD * np.asarray(jax.random.normal(factor_key, (children,)))),
    {
      'u': np.asarray(jax.random.normal(u_key, (children, 2, 2))),
      'w': np.asarray(jax.random.normal(w_key, (children, 2, 2))),
    },
  )


def next_generation(members, losses, generation, keep=ELITES):
  order = np.argsort(losses, kind='stable')
  best = [members[i] for i in order[:keep]]
  parents, factors, noise = draws(generation)
  children = [
    {
      name: best[parent][name] + STD * factor * noise[name][child]
      for name in best[parent]
    }
    for child, (parent, factor) in enumerate(zip(parents, factors, strict=True))
  ]
  return [members[i] for i in order[:ELITES]] + children


def test_five_generations_are_the_loop():
  """Truth: the loop above. Mutant: children of the best alone."""
  data = trials()
  learner = evolution.evolution(
    memory_cell(),
    small.squared_error,
    population_size=SIZE,
    elites=ELITES,
    std=STD,
    std_spread=SPREAD,
  )
  state = jax.jit(learner.init)(KEY, data)
  update = jax.jit(learner.update)
  start = state.rule_state.shared.members
  members = [
    {name: np.asarray(leaf[i], float) for name, leaf in start.items()}
    for i in range(SIZE)
  ]
  for generation in range(5):
    losses = [loss_of(member, data) for member in members]
    best = members[int(np.argmin(losses))]
    members = next_generation(members, losses, generation)
    state, metrics = update(state, KEY, data)
    np.testing.assert_allclose(metrics['loss'], min(losses), rtol=1e-4)
    for name, leaf in state.rule_state.shared.members.items():
      wanted = np.stack([member[name] for member in members])
      np.testing.assert_allclose(leaf, wanted, rtol=1e-4, atol=1e-5)
      np.testing.assert_allclose(
        state.params[name], best[name], rtol=1e-4, atol=1e-5
      )
  assert len(set(np.round(losses, 6))) == SIZE
  mutant = [best] * ELITES + members[ELITES:]
  mutant = next_generation(mutant, [0.0] * SIZE, 4)
  found = np.asarray(state.rule_state.shared.members['u'])
  wanted = np.stack([member['u'] for member in mutant])
  assert np.abs(found - wanted).max() > 0.05

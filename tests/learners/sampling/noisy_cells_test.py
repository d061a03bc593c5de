# SPDX-License-Identifier: Apache-2.0
"""The score function on cells that `noisy` has made noisy.

Truth: mean and variance of a linear cell, whose loss has an exact gradient; for
a GRU the gradient through the draws, which has the same mean; the credit that
rules claim on any cell.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bionet_core as core
from bionet_core import interfaces
from bionet_learners import oracles, testing
from bionet_learners.reverse import bptt
from bionet_learners.sampling import score_function
from bionet_learners.traces import d_rtrl

pytestmark = pytest.mark.oracle

KEY = jax.random.key(8)
T, B, STD, GOAL = 5, 6, 0.4, 0.7
PARAMS = {
  'a': jnp.float32(0.8),
  'b': jnp.float32(-0.5),
  'gain': jnp.float32(1.3),
}
INPUTS = np.linspace(-1, 1, T)


def linear():
  """The cell s <- a s + b x, read out as gain s; nothing is drawn in it."""

  def step(params, constants, state, keys, inputs):
    state = params['a'] * state + params['b'] * inputs
    return state, state

  return interfaces.Cell(
    lambda key, inputs: (PARAMS, {}),
    lambda constants, keys: jnp.zeros((*keys.shape, 1)),
    step,
    lambda params, constants, emission: params['gain'] * emission,
  )


def squared_error(outputs, targets, mask):
  return jnp.mean(jnp.sum((outputs - targets) ** 2, axis=-1) * mask), {}


def exact_loss(params):
  """The expected loss, by the recursion of mean and variance."""
  mean, variance, total = 0.0, 0.0, 0.0
  for t in range(T):
    mean = params['a'] * mean + params['b'] * INPUTS[t]
    variance = params['a'] ** 2 * variance + STD**2
    if t in (2, T - 1):
      error = params['gain'] * mean - GOAL
      total += (error**2 + params['gain'] ** 2 * variance) / 2
  return total


def trials(width=1):
  mask = np.zeros((T, B), np.float32)
  mask[[2, T - 1]] = 0.5
  shape = (T, B, width)
  return interfaces.Trials(
    inputs=jnp.broadcast_to(jnp.asarray(INPUTS)[:, None, None], shape),
    targets=jnp.full((T, B, 1), GOAL),
    mask=jnp.asarray(mask),
    index=jnp.arange(B),
  )


def gradients(rule, params, batch, count):
  """Estimates of one batch under so many keys."""

  def one(key):
    state = rule.init(key, params, {}, batch)
    return rule.estimate(params, {}, state, key, batch)[0].gradient

  return jax.jit(jax.vmap(one))(jax.random.split(KEY, count))


@functools.cache
def linear_bias(scale=1.0):
  cell = core.noisy(linear(), STD)
  density = cell.log_density
  cell = cell._replace(log_density=lambda *args: scale * density(*args))
  rule = score_function.score_function(cell, squared_error)
  exact = jax.grad(exact_loss)(PARAMS)
  assert min(abs(x) for x in exact.values()) > 0.05
  found = gradients(rule, PARAMS, trials(), 20_000)
  return oracles.bias(found, exact, jax.random.key(5))


def test_the_score_of_a_linear_cell_is_the_closed_form():
  """Truth: the gradient of the expected loss, along 8 fixed directions.

  Mutant: a density that is 10 % off.
  """
  found = linear_bias()
  assert np.abs(found.z).max() < 3
  assert found.standard_error < 0.02
  assert np.abs(linear_bias(1.1).z).max() > 4


def test_the_score_of_a_gru_is_the_gradient_through_its_draws():
  """Truth: reverse mode with the draws held fixed: the same mean, less noise.

  Mutant: a cell that emits what it has not drawn, whose last step gets no
  credit.
  """

  class Sizes:
    input_shape, num_outputs = (2,), 1

  batch, plain = trials(2), core.gru(Sizes(), hidden=2)
  cell = core.noisy(plain, STD)
  params, _ = cell.init(KEY, batch.inputs[0])
  through = gradients(bptt.bptt(cell, squared_error), params, batch, 4_000)
  exact = jax.tree.map(lambda x: x.mean(axis=0), through)

  def bias(cell):
    rule = score_function.score_function(cell, squared_error)
    found = gradients(rule, params, batch, 20_000)
    return oracles.bias(found, exact, jax.random.key(6))

  found = bias(cell)
  assert np.abs(found.z).max() < 3.5
  assert found.standard_error < 0.03

  def silent(params, constants, state, keys, inputs):
    emission, _ = plain.step(params, constants, state, keys, inputs)
    return emission, cell.step(params, constants, state, keys, inputs)[1]

  assert np.abs(bias(cell._replace(step=silent)).z).max() > 5


@pytest.mark.slow
def test_rules_that_read_the_step_give_its_credit():
  """Truth: the laws of `check_credit`: the noise is data to them."""

  class Sizes:
    input_shape, num_outputs = (2,), 1

  cell = core.noisy(core.gru(Sizes(), hidden=3), STD)
  rule = d_rtrl.d_rtrl(cell, squared_error, within='exact', window=2)
  said = testing.check_credit(cell, squared_error, rule, trials(2))
  assert 'credit' in said

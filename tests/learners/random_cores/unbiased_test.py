# SPDX-License-Identifier: Apache-2.0
"""Rules that are right on average, on random cores."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bionet_learners as learners
from bionet_core import interfaces
from bionet_learners import oracles
from tests import small
from tests.learners.random_cores import cases, grammar, language

pytestmark = pytest.mark.oracle

FIRST = (12, 23)
SMOOTH = (19, 1, 21, 24, 25)
SIGMA = 0.4


def numbers(every, first):
  return [
    n if n in first else pytest.param(n, marks=pytest.mark.slow) for n in every
  ]


def pathwise(cell, params, constants, key, trials):
  """The exact gradient for the noise of a key: reverse mode over all steps.

  Keys are those of the interface: trial, then step.
  """
  keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(trials.index)
  state = cell.initial_state(constants, keys)

  def objective(params):
    def advance(carry, at):
      state, t = carry
      x, target, mask = at
      noise = jax.vmap(lambda k: jax.random.fold_in(k, t))(keys)
      emission, state = cell.step(params, constants, state, noise, x)
      outputs = cell.readout(params, constants, emission)
      return (state, t + 1), small.squared_error(outputs, target, mask)[0]

    at = trials.inputs, trials.targets, trials.mask
    return jnp.sum(jax.lax.scan(advance, (state, 0), at)[1])

  return jax.grad(objective)(params)


def z_test(rule, cell, params, constants, trials, samples, seed):
  """`oracles.Bias` of a rule's estimates, less the exact gradient of each key.

  The difference has the mean 0 whatever the noise of the cell is.
  """

  def both(key):
    state = rule.init(key, params, constants, trials)
    total = jax.tree.map(jnp.zeros_like, params)
    for part in (slice(0, 4), slice(4, cases.T)):
      window = trials.replace(
        inputs=trials.inputs[part],
        targets=trials.targets[part],
        mask=trials.mask[part],
      )
      estimate, state = rule.estimate(params, constants, state, key, window)
      total = jax.tree.map(jnp.add, total, estimate.gradient)
    return total, pathwise(cell, params, constants, key, trials)

  keys = jax.random.split(jax.random.key(seed), samples)
  estimates, exact = jax.jit(jax.vmap(both))(keys)
  mean = jax.tree.map(lambda x: jnp.mean(x, axis=0), exact)
  shifted = jax.tree.map(
    lambda e, x, m: e - x + m[None], estimates, exact, mean
  )
  return jax.jit(oracles.bias)(shifted, mean, jax.random.key(3))


@pytest.mark.parametrize('number', numbers(range(30), FIRST))
def test_uoro_is_right_on_average(number):
  """Truth: reverse mode over all steps, along 8 directions."""
  with jax.enable_x64(True):
    core, trials = grammar.draw(number), cases.trials()
    params, constants = core.cell.init(
      jax.random.key(100 + number), trials.inputs[0]
    )
    rule = learners.uoro(core.cell, small.squared_error)
    bias = z_test(rule, core.cell, params, constants, trials, 8192, number)
    assert np.all(np.abs(bias.z) < 4), bias
    assert bias.standard_error < 0.1, bias


def noisy(core) -> interfaces.Cell:
  """The core's cell whose new state is drawn around its values.

  The emission is what was drawn, so that the parameters act by the draw alone.
  """

  def means(params, constants, state, keys, inputs):
    ops = language.Plain(
      params['core'], constants, core.unpack(state), keys, inputs
    )
    core.program(ops)
    return ops.after

  def drawn(mean, keys):
    def draw(key, x, at):
      return SIGMA * jax.random.normal(jax.random.fold_in(key, at), x.shape)

    after = dict(mean)
    for at, name in enumerate(core.floats):
      shocks = jax.vmap(functools.partial(draw, at=at))(keys, mean[name])
      after[name] = mean[name] + shocks
    return after

  def init(key, inputs):
    params, constants = core.cell.init(key, inputs)
    size = sum(int(np.prod(shape)) for shape in core.floats.values())
    w = jax.random.normal(key, (size, grammar.O), inputs.dtype)
    return {**params, 'readout': {**params['readout'], 'w': w}}, constants

  def step(params, constants, state, keys, inputs):
    after = drawn(means(params, constants, state, keys, inputs), keys)
    flat = [after[n].reshape(len(keys), -1) for n in core.floats]
    return jnp.concatenate(flat, axis=1), core.pack(after)

  def log_density(params, constants, state, keys, inputs):
    mean = means(params, constants, state, keys, inputs)
    after = jax.lax.stop_gradient(drawn(mean, keys))
    squares = [
      jnp.sum((after[n] - mean[n]).reshape(len(keys), -1) ** 2, axis=1)
      for n in core.floats
    ]
    return -sum(squares) / (2 * SIGMA**2)

  return core.cell._replace(init=init, step=step, log_density=log_density)


@pytest.mark.parametrize('number', numbers(SMOOTH, SMOOTH[:1]))
def test_score_function_is_right_on_average(number):
  """Truth: reverse mode through the draws, of a core without jumps."""
  with jax.enable_x64(True):
    core, trials = grammar.draw(number), cases.trials()
    assert core.smooth
    cell = noisy(core)
    params, constants = cell.init(
      jax.random.key(100 + number), trials.inputs[0]
    )
    rule = learners.score_function(cell, small.squared_error, traces=True)
    bias = z_test(rule, cell, params, constants, trials, 20000, number)
    assert np.all(np.abs(bias.z) < 4), bias
    assert bias.standard_error < 0.1, bias

# SPDX-License-Identifier: Apache-2.0
"""What pads a trial reaches no parameter; what is asked for does.

Truth: the same trials with zeros for padding; a table of steps.
"""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bionet_core import interfaces
from bionet_learners import base, padding
from bionet_learners.populations import evolution
from bionet_learners.reverse import bptt
from bionet_learners.sampling import score_function
from bionet_learners.traces import d_rtrl

KEY = jax.random.key(3)
LAST = np.array([1, 3, 4])  # the last asked step of each of three trials, T = 5


def leaky_cell():
  """H <- h / 2 + tanh(x w + h u), read out as it is."""

  def init(key, inputs):
    return {
      'w': jax.random.normal(key, (inputs.shape[-1], 3)),
      'u': jnp.eye(3)[::-1] / 3,
    }, {}

  def step(params, constants, state, keys, inputs):
    del constants, keys
    drive = jnp.matmul(inputs, params['w']) + jnp.matmul(state, params['u'])
    state = state / 2 + jnp.tanh(drive)
    return state, state

  return interfaces.Cell(
    init,
    lambda constants, keys: jnp.zeros((*keys.shape, 3)),
    step,
    lambda params, constants, emission: emission,
  )


def squared_error(outputs, targets, mask):
  errors = jnp.mean((outputs - targets) ** 2, axis=-1)
  return jnp.mean(errors * mask), {}


def trials():
  """Asked twice each: two steps before the last one, or at step 0, and there.

  At steps 0, 1 and 3 some are asked and others are not.
  """
  rng = np.random.default_rng(0)
  mask = np.zeros((5, 3), np.float32)
  mask[LAST, range(3)] = mask[np.maximum(LAST - 2, 0), range(3)] = 0.5
  return interfaces.Trials(
    inputs=jnp.asarray(rng.normal(size=(5, 3, 4)), jnp.float32),
    targets=jnp.asarray(rng.normal(size=(5, 3, 3)), jnp.float32),
    mask=jnp.asarray(mask),
    index=jnp.arange(3),
  )


def padded(data, value):
  """Another value for inputs after the last asked step and unasked targets."""
  after = np.arange(5)[:, None] > LAST
  asked = np.asarray(data.mask) != 0
  return dataclasses.replace(
    data,
    inputs=jnp.where(after[..., None], value, data.inputs),
    targets=jnp.where(asked[..., None], data.targets, value),
  )


def of_rule(make, **settings):
  rule = make(leaky_cell(), squared_error)
  return base.descend(rule, optax.adam(0.1), **settings)


LEARNERS = {
  'bptt': lambda: of_rule(bptt.bptt, every=2),
  'd_rtrl': lambda: of_rule(functools.partial(d_rtrl.d_rtrl, window=2)),
  'evolution': lambda: evolution.evolution(
    leaky_cell(), squared_error, population_size=4, elites=2
  ),
}


@functools.cache
def compiled(name):
  learner = LEARNERS[name]()
  state = jax.jit(learner.init)(KEY, trials())
  return state, jax.jit(learner.update), jax.jit(learner.predict)


@pytest.mark.parametrize('name', LEARNERS)
def test_padding_reaches_no_parameter(name):
  """Truth: zeros in its place. Mutant: the rule, which holds no whole trial."""
  state, update, predict = compiled(name)
  clean = padded(trials(), 0.0)
  wanted, metrics = update(state, KEY, clean)
  outputs = predict(state, KEY, clean)
  assert np.all(np.isfinite(outputs)) and np.isfinite(metrics['loss'])
  for value in (np.nan, np.inf, 1e30):
    dirty = padded(trials(), value)
    learned, said = update(state, KEY, dirty)
    chex.assert_trees_all_equal((learned, said), (wanted, metrics))
    np.testing.assert_array_equal(predict(state, KEY, dirty), outputs)
  moved = jax.tree.map(lambda a, b: np.any(a != b), wanted.params, state.params)
  assert any(jax.tree.leaves(moved))


@pytest.mark.parametrize('name', LEARNERS)
def test_nan_before_a_later_asked_step_ends_a_run(name):
  """Truth: at that step the output is NaN, and so are loss and prediction."""
  state, update, predict = compiled(name)
  data = trials()
  data = dataclasses.replace(data, inputs=data.inputs.at[2, 1].set(jnp.nan))
  _, metrics = update(state, KEY, data)
  assert np.isnan(metrics['loss'])
  assert np.all(np.isnan(predict(state, KEY, data)[3, 1]))


def test_a_rule_alone_takes_padding_as_it_is():
  """Truth: 0 * NaN; a window does not know whether a later one asks."""
  rule = bptt.bptt(leaky_cell(), squared_error)
  params, constants = rule.model.init(KEY, trials())
  data = padded(trials(), np.nan)
  start = rule.init(KEY, params, constants, data)
  got, _ = jax.jit(rule.estimate)(params, constants, start, KEY, data)
  assert np.isfinite(got.loss)
  assert np.any(np.isnan(got.gradient['w']))


def test_a_stream_has_no_padding():
  """Truth: a batch of a stream ends nowhere: its next one feels the input."""
  learner = of_rule(bptt.bptt, carry=True)
  state = jax.jit(learner.init)(KEY, trials())
  ends = []
  for value in (0.0, 1.0):
    after, _ = jax.jit(learner.update)(state, KEY, padded(trials(), value))
    ends.append(np.asarray(after.rule_state.per_trial.state))
  moved = np.any(ends[0] != ends[1], axis=1)
  np.testing.assert_array_equal(moved, [True, True, False])


def test_inputs_are_zero_after_the_last_asked_step_alone():
  """Truth: a table of steps.

  A trial that is asked nowhere is all padding; a prediction sees it whole.
  """
  mask = jnp.array(
    [[1.0, 0.0, 0.0, 0.0], [0.0, 0.5, 0.0, 0.0], [0.0, 0.5, 1.0, 0.0]]
  )
  data = interfaces.Trials(
    inputs=jnp.ones((3, 4, 2, 2)),
    targets=jnp.zeros((3, 4), int),
    mask=mask,
    index=jnp.arange(4),
  )
  wanted = np.array([[1, 1, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0]])
  got = padding.without_padding(data)
  np.testing.assert_array_equal(got.inputs[..., 1, 0], wanted)
  shown = padding.without_padding(data, keep_unasked=True)
  wanted[:, 3] = 1
  np.testing.assert_array_equal(shown.inputs[..., 0, 1], wanted)
  for name in ('targets', 'mask', 'index'):
    np.testing.assert_array_equal(getattr(got, name), getattr(data, name))


def test_a_trial_that_is_not_asked_has_no_advantage():
  """Truth: a loss that a trial is no part of says nothing about its noise.

  The third trial, asked nowhere, draws what it likes: only the readout learns
  from the loss, and that trial's inputs change nothing.
  """

  def log_density(params, constants, state, keys, inputs):
    return jnp.sum(jnp.tanh(jnp.matmul(inputs, params['w'])), axis=-1)

  cell = leaky_cell()._replace(log_density=log_density)
  data = trials()
  data = dataclasses.replace(data, mask=data.mask.at[:, 2].set(0.0))
  other = dataclasses.replace(data, inputs=data.inputs.at[:, 2].add(1.0))
  for baseline in (True, False):
    rule = score_function.score_function(cell, squared_error, baseline=baseline)
    params, constants = rule.model.init(KEY, data)
    start = rule.init(KEY, params, constants, data)
    estimate = jax.jit(rule.estimate)
    got, again = (
      estimate(params, constants, start, KEY, batch)[0].gradient['w']
      for batch in (data, other)
    )
    assert np.any(got)
    np.testing.assert_allclose(got, again, rtol=1e-5, atol=1e-7)

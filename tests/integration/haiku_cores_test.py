# SPDX-License-Identifier: Apache-2.0
"""Rules on Haiku cores that learn their initial state, or draw.

Truth: finite differences in float64 for `bptt`, and `bptt` for the rules that
are exact on these cores.
"""

import dataclasses

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bionet_core as core
import bionet_learners as bl
from bionet_core import unroll
from bionet_learners import oracles

T, B, I, N = 6, 3, 2, 3
KEY = jax.random.key(4)


class Start(hk.RNNCore):
  """Leaky units whose recurrence is elementwise, with a learned start."""

  def __call__(self, inputs, prev_state):
    """Emits the state."""
    drive = hk.Linear(N, name='drive')(inputs)
    state = 0.8 * prev_state + jnp.tanh(drive)
    return state, state

  def initial_state(self, batch_size):
    """A parameter, for every trial."""
    normal = hk.initializers.RandomNormal()
    start = hk.get_parameter('start', [1, N], jnp.zeros(()).dtype, normal)
    return jnp.repeat(start, batch_size, axis=0)


class Dropout(Start):
  """The same, with inputs that drop out."""

  def __call__(self, inputs, prev_state):
    """Emits the state."""
    dropped = hk.dropout(hk.next_rng_key(), 0.5, inputs)
    return super().__call__(dropped, prev_state)


def make(kind):
  return core.cell_from_core(kind, lambda: hk.Linear(2))


def squared(outputs, targets, mask):
  return jnp.mean(mask * jnp.sum((outputs - targets) ** 2, axis=-1)), {}


def make_trials():
  rng = np.random.default_rng(0)
  return core.Trials(
    inputs=jnp.asarray(rng.normal(size=(T, B, I)), float),
    targets=jnp.asarray(rng.normal(size=(T, B, 2)), float),
    # The start is judged late: its credit crosses the border of a window.
    mask=jnp.asarray(np.arange(T) >= T - 2, float)[:, None] * jnp.ones((T, B)),
    index=jnp.arange(B),
  )


def gradient(rule, params, trials, window):
  """The sum of the estimates of windows, the weights held fixed."""

  @jax.jit
  def estimate(params):
    state = rule.init(KEY, params, {}, trials)
    state = rule.begin(params, {}, state, KEY, trials)
    total = jax.tree.map(jnp.zeros_like, params)
    for begin in range(0, T, window):
      cut = jax.tree.map(
        lambda x, begin=begin: x[begin : begin + window], unroll.timed(trials)
      )
      part, state = rule.estimate(
        params, {}, state, KEY, dataclasses.replace(trials, **cut)
      )
      total = jax.tree.map(jnp.add, total, part.gradient)
    return total

  return estimate(params)


@pytest.mark.parametrize('kind', [Start, Dropout])
def test_bptt_on_a_core_that_draws_and_learns_its_start(kind):
  """Truth: finite differences of the loss of `unroll`, in float64."""
  with jax.enable_x64(True):
    cell, trials = make(kind), make_trials()
    params, _ = jax.jit(cell.init)(KEY, trials.inputs[0])

    def loss(params):
      keys = unroll.trial_keys(KEY, trials.index)
      start = unroll.initial_state(cell, {}, KEY, trials.index)
      steps = jnp.zeros(B, int)
      return unroll.unroll(
        cell, squared, params, {}, start, keys, steps, trials
      )[0]

    found = gradient(bl.bptt(cell, squared), params, trials, T)
    slopes = oracles.finite_differences(loss, params)
    chex.assert_trees_all_close(found, slopes, rtol=1e-7, atol=1e-9)
    name = next(name for name in params if 'start' in params[name])
    assert np.all(np.abs(slopes[name]['start']) > 1e-3)


@pytest.mark.parametrize(
  'kind, factory',
  [(Start, bl.rtrl), (Start, bl.d_rtrl), (Dropout, bl.d_rtrl)],
)
def test_exact_rules_credit_a_learned_start(kind, factory):
  """Truth: `bptt` over all steps; windows of 2 steps. Units do not mix."""
  cell, trials = make(kind), make_trials()
  params, _ = jax.jit(cell.init)(KEY, trials.inputs[0])
  wanted = gradient(bl.bptt(cell, squared), params, trials, T)
  found = gradient(factory(cell, squared), params, trials, 2)
  chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=1e-6)

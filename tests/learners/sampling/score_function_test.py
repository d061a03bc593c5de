# SPDX-License-Identifier: Apache-2.0
"""The score function against closed forms and sums written out in NumPy.

Truth: the mean and variance of a linear SDE, whose losses have exact gradients;
the noise times the slope of the rate, added up in NumPy; losses of populations
that one trial was taken out of. Mutants: a density that is 10 % off, credit
that ends at a border.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import information, interfaces, unroll
from bionet_core.cells import lattice, tissue
from bionet_learners import base, oracles
from bionet_learners.sampling import score_function
from tests import small

pytestmark = pytest.mark.oracle

KEY = jax.random.key(3)
T, B, DT, SIGMA = 6, 8, 0.2, 0.5
PARAMS = {'a': jnp.float32(0.4), 'b': jnp.float32(-0.7)}
GOAL = 0.6


def linear_sde(scale=1.0):
  """S <- s + (a + b s) dt + sigma sqrt(dt) xi from s = 0, twice the state out.

  The readout has a parameter of its own, so that it is differentiated, too.
  """

  def init(key, inputs):
    del key, inputs
    return {**PARAMS, 'gain': jnp.float32(1.5)}, {}

  def drift(params, state):
    return state + (params['a'] + params['b'] * state) * DT

  def noise(keys):
    draw = jax.vmap(lambda key: jax.random.normal(key, (1,)))(keys)
    return SIGMA * np.sqrt(DT) * draw

  def step(params, constants, state, keys, inputs):
    del constants, inputs
    state = drift(params, state) + noise(keys)
    return state, state

  def log_density(params, constants, state, keys, inputs):
    del constants, inputs
    mean = drift(params, state)
    drawn = jax.lax.stop_gradient(mean + noise(keys))
    z = (drawn - mean) / (SIGMA * np.sqrt(DT))
    return -scale * jnp.sum(z**2, axis=-1) / 2

  return interfaces.Cell(
    init,
    lambda constants, keys: jnp.zeros((*keys.shape, 1)),
    step,
    lambda params, constants, emission: params['gain'] * emission,
    log_density,
  )


def squared_mean(outputs, targets, mask):
  """A statistic over trials that is no mean of theirs."""
  del targets
  mean = jnp.sum(outputs[:, 0] * mask) / jnp.sum(mask)
  return mean**2 * jnp.mean(mask), {}


def exact_loss(params, loss):
  """The expected loss by the recursion of mean and variance."""
  mean, variance, total = 0.0, 0.0, 0.0
  for t in range(T):
    mean = mean + (params['a'] + params['b'] * mean) * DT
    variance = variance * (1 + params['b'] * DT) ** 2 + SIGMA**2 * DT
    if t in (3, T - 1):
      out, spread = params['gain'] * mean, params['gain'] ** 2 * variance
      if loss is small.squared_error:
        total += ((out - GOAL) ** 2 + spread) / 2
      else:
        total += (out**2 + spread / B) / 2
  return total


def trials(batch=B, steps=T):
  mask = np.zeros((steps, batch), np.float32)
  mask[[3, steps - 1]] = 0.5
  return interfaces.Trials(
    inputs=jnp.zeros((steps, batch, 1)),
    targets=jnp.full((steps, batch, 1), GOAL),
    mask=jnp.asarray(mask),
    index=jnp.arange(batch),
  )


def whole(rule, params, key, batch):
  state = rule.init(key, params, {}, batch)
  return rule.estimate(params, {}, state, key, batch)[0].gradient


@functools.cache
def estimates(loss, count=20_000, scale=1.0, **settings):
  rule = score_function.score_function(linear_sde(scale), loss, **settings)
  params, _ = rule.model.init(KEY, trials())
  one = jax.jit(jax.vmap(lambda key: whole(rule, params, key, trials())))
  return params, one(jax.random.split(KEY, count))


def bias(loss, **settings):
  params, found = estimates(loss, **settings)
  exact = jax.grad(exact_loss)(params, loss)
  assert min(abs(x) for x in exact.values()) > 0.02
  return oracles.bias(found, exact, jax.random.key(5))


@pytest.mark.parametrize('loss', [small.squared_error, squared_mean])
def test_the_estimate_is_unbiased(loss):
  """Truth: the gradient of the expected loss in closed form.

  Both halves: |z| along 8 fixed directions, and a standard error below 2 %.
  Mutant: a density that is 10 % off.
  """
  found = bias(loss)
  assert np.abs(found.z).max() < 3
  assert found.standard_error < 0.02
  assert np.abs(bias(loss, scale=1.1).z).max() > 4


def test_the_baseline_lowers_the_variance_and_moves_no_mean():
  """Truth: the closed form, without the baseline too; and the variances."""
  plain = bias(small.squared_error, baseline=False)
  assert np.abs(plain.z).max() < 3
  assert bias(small.squared_error).standard_error < 0.6 * plain.standard_error


##############################################################################
# Written out in NumPy


def polynomial():
  """f(m) = c0 + c1 m + c2 m^2, whose slope in c_j is m^j."""

  def apply(params, means):
    return sum(params['c'][j] * means**j for j in range(3))

  return tissue.Rate(lambda key: {'c': jnp.array([3.0, -9.0, 2.0])}, apply)


def minus_hard_utility(outputs, targets, mask):
  del targets
  weights = mask / jnp.where(jnp.mean(mask) > 0, jnp.mean(mask), 1.0)
  found = information.hard_utility(outputs, weights=weights)
  return -found.utility * jnp.mean(mask), {}


def looped(cell, batch, dt, sigma):
  """Final states `[B, N]` and traces: sum of xi df/dc sqrt(dt) / sigma."""
  keys = unroll.trial_keys(KEY, batch.index)
  states = np.array(unroll.initial_state(cell, {}, KEY, batch.index), float)
  traces, c = np.zeros((len(states), 3)), np.array([3.0, -9.0, 2.0])
  for t in range(batch.mask.shape[0]):
    at = jnp.full(batch.index.shape, t)
    for b, key in enumerate(unroll.step_keys(keys, at)):
      xi = np.array(jax.random.normal(key, (states.shape[1],)), float)
      padded = [states[b, 1], *states[b], states[b, -2]]
      means = np.array(
        [(padded[i] + padded[i + 2]) / 2 for i in range(states.shape[1])]
      )
      means[0], means[-1] = states[b, 1], states[b, -2]
      powers = means[:, None] ** np.arange(3)
      traces[b] += (xi[:, None] * powers).sum(0) * np.sqrt(dt) / sigma
      moved = states[b] + powers @ c * dt + sigma * np.sqrt(dt) * xi
      states[b] = np.clip(moved, 0, 1)
  return states, traces


def counted_utility(states):
  """Minus the utility by counting strings."""
  patterns = [''.join('01'[int(x >= 0.5)] for x in row) for row in states]
  shares = [patterns.count(p) / len(patterns) for p in sorted(set(patterns))]
  ones = np.mean(np.asarray(states) >= 0.5)
  entropy = lambda ps: -sum(p * np.log2(p) for p in ps if p > 0)  # noqa: E731
  s_rep = entropy(shares) / len(patterns[0])
  return -(entropy([ones, 1 - ones]) - s_rep)


def replicates(steps=20, batch=10, dt=0.05, sigma=0.3):
  inputs = np.broadcast_to([dt, sigma], (steps, batch, 2))
  mask = np.zeros((steps, batch), np.float32)
  mask[-1] = 1
  return interfaces.Trials(
    inputs=jnp.asarray(inputs, jnp.float32),
    targets=jnp.zeros((steps, batch, 1)),
    mask=jnp.asarray(mask),
    index=jnp.arange(batch) + 4,
  )


def windowed(rule, batch, lengths):
  params, _ = rule.model.init(KEY, batch)
  state = rule.init(KEY, params, {}, batch)
  estimate = jax.jit(rule.estimate)
  total, start = jax.tree.map(jnp.zeros_like, params), 0
  for length in lengths:
    part = slice(start, start + length)
    window = batch.replace(
      inputs=batch.inputs[part],
      targets=batch.targets[part],
      mask=batch.mask[part],
    )
    got, state = estimate(params, {}, state, KEY, window)
    total = jax.tree.map(jnp.add, total, got.gradient)
    start += length
  return total['c'], state.per_trial


@pytest.mark.parametrize('traces, lengths', [(False, [20]), (True, [10, 10])])
def test_the_tissue_gathers_noise_times_slope(traces, lengths):
  """Truth: xi df/dc sqrt(dt) / sigma in NumPy, with strings counted.

  What a trial is credited with is the loss of all less that of the others.
  """
  batch, cell = replicates(), tissue.cell_from_rate(polynomial(), 5)
  rule = score_function.score_function(cell, minus_hard_utility, traces=traces)
  got, at = windowed(rule, batch, lengths)
  states, summed = looped(cell, batch, 0.05, 0.3)
  np.testing.assert_allclose(at.state, states, atol=1e-5)
  size = len(states)
  advantage = [
    counted_utility(states) - counted_utility(states[np.arange(size) != b])
    for b in range(size)
  ]
  assert len({round(a, 4) for a in advantage}) > 2
  np.testing.assert_allclose(got, advantage @ summed, rtol=2e-4, atol=1e-5)
  if traces:
    np.testing.assert_allclose(at.traces['c'], summed, rtol=1e-3, atol=1e-3)


def test_without_traces_credit_ends_at_the_border():
  """Truth: early draws matter, so truncation must differ from the whole."""
  batch, cell = replicates(), tissue.cell_from_rate(polynomial(), 5)
  rule = score_function.score_function(cell, minus_hard_utility)
  (wanted, _), (cut, _) = (
    windowed(rule, batch, lengths) for lengths in ([20], [10, 10])
  )
  assert oracles.relative_error(cut, wanted) > 0.1


def test_pinned_cells_and_rests_draw_nothing():
  """Truth: a gradient of none of the noise of the ends, nor at dt = 0."""
  batch = replicates(steps=6)
  batch = batch.replace(inputs=batch.inputs.at[3:, ::2, 0].set(0.0))
  cell = tissue.cell_from_rate(polynomial(), 5, pinned=[0, 4])
  params, _ = cell.init(KEY, batch.inputs[0])
  state = unroll.initial_state(cell, {}, KEY, batch.index)
  slope = jax.jit(
    jax.jacrev(
      lambda p: cell.log_density(
        p, {}, state, unroll.trial_keys(KEY, batch.index), batch.inputs[3]
      )
    )
  )(params)['c']
  xi = jax.vmap(lambda key: jax.random.normal(key, (5,)))(
    unroll.trial_keys(KEY, batch.index)
  )
  powers = lattice.row_means(state)[..., None] ** np.arange(3)[None, None]
  wanted = np.einsum('bi,bij->bj', xi[:, 1:-1], powers[:, 1:-1])
  wanted *= np.sqrt(0.05) / 0.3
  wanted[::2] = 0
  np.testing.assert_allclose(slope, wanted, rtol=1e-3, atol=1e-4)


def test_without_noise_there_is_no_score():
  """Truth: no density at sigma 0; NaN says so, where 0 would look learned."""
  batch, cell = replicates(sigma=0.0), tissue.cell_from_rate(polynomial(), 5)
  rule = score_function.score_function(cell, minus_hard_utility)
  got, _ = windowed(rule, batch, [20])
  assert np.all(np.isnan(got))


def test_memory_does_not_grow_with_time():
  """Truth: the compiler's own count of temporary memory at two lengths."""
  rule = score_function.score_function(linear_sde(), small.squared_error)

  def memory(steps):
    batch = trials(steps=steps)
    params, _ = rule.model.init(KEY, batch)
    state = rule.init(KEY, params, {}, batch)
    lowered = jax.jit(rule.estimate).lower(params, {}, state, KEY, batch)
    return lowered.compile().memory_analysis().temp_size_in_bytes

  assert memory(4000) <= 1.01 * memory(40)


def test_what_cannot_be_is_refused():
  """Truth: the messages name what is wrong and what would do."""
  silent = linear_sde()._replace(log_density=None)
  with pytest.raises(TypeError, match='no log_density'):
    score_function.score_function(silent, small.squared_error)
  with pytest.raises(ValueError, match='on one device, not on 2'):
    score_function.score_function(
      linear_sde(), small.squared_error, devices=base.ONE._replace(count=2)
    )
  rule = score_function.score_function(linear_sde(), small.squared_error)
  with pytest.raises(ValueError, match=r'^batch_size=1: must be at least 2'):
    rule.init(KEY, PARAMS, {}, trials(batch=1))

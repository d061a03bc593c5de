# SPDX-License-Identifier: Apache-2.0
"""The tissue as a scheme for a stochastic differential equation.

Truth: mean, variance and strong order of an Ornstein-Uhlenbeck process; the
source's utilities of two known rates.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import (
  information,
  unroll,
)
from bionet_core.cells import tissue
from tests.core.cells import tissues

RELAX, NOISE, START, END = 2.0, 0.1, 0.7, 1.0


def relaxing(means):
  """Of a single cell, its own mean: dX = -k (X - .5) dt + sigma dW."""
  return -RELAX * (means - 0.5)


@pytest.mark.parametrize('dt', [0.01, 0.04])
def test_noise_grows_with_the_root_of_the_time_step(dt):
  """Truth: variance sigma^2 dt after one step, |z| < 5. Mutant: by dt."""
  cell, batch = tissues.fixed(lambda m: 0 * m, 5), 4000

  @jax.jit
  def step(inputs):
    keys = unroll.trial_keys(tissues.KEY, jnp.arange(batch))
    state = jnp.full((batch, 5), 0.5)
    return cell.step({}, {}, state, keys, inputs)[1]

  after = step(tissues.row(dt, NOISE, batch))
  moved = np.asarray(after, float) - 0.5
  assert np.abs(moved).max() < 0.5, 'the clip acts'
  variance, size = NOISE**2 * dt, moved.size
  error = variance * math.sqrt(2 / (size - 1))
  assert abs(moved.mean()) < 5 * math.sqrt(variance / size)
  assert abs(moved.var(ddof=1) - variance) < 5 * error
  assert abs(moved.var(ddof=1) - (NOISE * dt) ** 2) > 5 * error
  between = np.corrcoef(moved.T) - np.eye(5)  # each cell has its own noise
  assert np.abs(between).max() < 5 / math.sqrt(batch)


def test_mean_and_variance_of_a_linear_sde():
  """Truth: the scheme's closed form, |z| < 5, and the equation's, to O(dt).

  mean = .5 + (1 - k dt)^n (x - .5)    -> .5 + exp(-k t) (x - .5)
  var = sigma^2 dt sum_j (1 - k dt)^2j -> sigma^2 (1 - exp(-2 k t)) / (2 k)
  """
  dt, batch = 0.02, 4000
  num_steps = round(END / dt)
  cell = tissues.fixed(relaxing, 1)

  def last(outputs, targets, mask):
    scores = {'mean': outputs[:, 0], 'square': (outputs[:, 0] - 0.5) ** 2}
    return jnp.mean(mask), jax.tree.map(lambda x: x * mask, scores)

  _, (_, state) = jax.jit(functools.partial(unroll.unroll, cell, last))(
    {},
    {},
    jnp.full((batch, 1), START),
    unroll.trial_keys(tissues.KEY, jnp.arange(batch)),
    jnp.zeros(batch, int),
    tissues.trials(num_steps, batch, dt, NOISE),
  )
  ends = np.asarray(state, float)[:, 0]
  assert 0 < ends.min() and ends.max() < 1, 'the clip acts'
  decay = 1 - RELAX * dt
  mean = 0.5 + decay**num_steps * (START - 0.5)
  variance = NOISE**2 * dt * sum(decay ** (2 * j) for j in range(num_steps))
  mean_error = math.sqrt(variance / batch)
  variance_error = variance * math.sqrt(2 / (batch - 1))
  assert abs(ends.mean() - mean) < 5 * mean_error
  assert abs(ends.var(ddof=1) - variance) < 5 * variance_error
  exact_mean = 0.5 + math.exp(-RELAX * END) * (START - 0.5)
  exact = NOISE**2 * (1 - math.exp(-2 * RELAX * END)) / (2 * RELAX)
  bias = RELAX * dt
  assert abs(ends.mean() - exact_mean) < 5 * mean_error + bias * exact_mean
  assert abs(ends.var() - exact) < 5 * variance_error + bias * exact
  assert abs(ends.var() - variance / dt) > 5 * variance_error


def brownian(num_paths, num_steps, seed=0):
  """Increments of Brownian paths, and the exact solution on each.

  Over a step h, dW and I = int exp(-k (h - s)) dW_s are jointly Gaussian:
  Var dW = h, Var I = (1 - exp(-2 k h)) / (2 k), Cov = (1 - exp(-k h)) / k; and
  X(t + h) = .5 + exp(-k h) (X(t) - .5) + sigma I.
  """
  h = END / num_steps
  covariance = (1 - math.exp(-RELAX * h)) / RELAX
  cross = (1 - math.exp(-2 * RELAX * h)) / (2 * RELAX)
  pairs = np.random.default_rng(seed).multivariate_normal(
    [0, 0], [[h, covariance], [covariance, cross]], (num_steps, num_paths)
  )
  exact = np.full(num_paths, START)
  for integral in pairs[..., 1]:
    exact = 0.5 + math.exp(-RELAX * h) * (exact - 0.5) + NOISE * integral
  return pairs[..., 0], exact


def test_the_strong_order_is_1(monkeypatch):
  """Truth: the exact solution for the same Brownian path; additive noise.

  The path of the finest step is coarsened, and the cell reads its increments
  for its noise. Mutant: noise by dt, which converges to another process.
  """
  finest, paths = 128, 300
  increments, exact = brownian(paths, finest)

  def end(num_steps, mutant=False):
    dt = END / num_steps
    table = increments.reshape(num_steps, -1, paths).sum(axis=1) / math.sqrt(dt)
    table = jnp.asarray(table)

    def handed(key, shape):
      trial, step = jax.random.key_data(key)
      return jnp.broadcast_to(table[step, trial], shape)

    monkeypatch.setattr(jax.random, 'normal', handed)
    sigma = NOISE * math.sqrt(dt) if mutant else NOISE
    cell = tissues.fixed(relaxing, 1, remat=False)  # anew: traces are kept

    def advance(state, step):
      numbers = jnp.arange(paths, dtype=jnp.uint32)
      keys = jnp.stack([numbers, jnp.full_like(numbers, step)], axis=1)
      keys = jax.random.wrap_key_data(keys, impl='threefry2x32')
      return cell.step({}, {}, state, keys, tissues.row(dt, sigma, paths))

    steps = jnp.arange(num_steps, dtype=jnp.uint32)

    @jax.jit
    def whole(state):
      return jax.lax.scan(lambda s, t: advance(s, t)[::-1], state, steps)

    return np.asarray(whole(jnp.full((paths, 1), START))[0])[:, 0]

  def order(mutant):
    numbers = [8, 16, 32, 64, 128]
    errors = [np.mean(np.abs(end(n, mutant) - exact)) for n in numbers]
    return -np.polyfit(np.log(numbers), np.log(errors), 1)[0], errors

  with jax.enable_x64(True):
    slope, errors = order(mutant=False)
    assert 0.85 < slope < 1.15, errors
    assert errors[-1] < 1e-2 * NOISE
    slope, errors = order(mutant=True)
    assert slope < 0.3, errors


def check_known_rates(num_replicates, tolerance):
  """Both reference rates at T 10 and dt .01: their U, and their patterns."""
  rate = tissue.Rate(
    lambda key: {'sign': jnp.ones(())},
    lambda params, means: params['sign'] * jnp.tanh(5 * (means - 0.5)),
  )
  cell = tissue.cell_from_rate(rate, 7)
  batch = tissues.trials(1000, num_replicates)

  @jax.jit
  def end(params):
    return unroll.model_from_cell(cell).predict(params, {}, tissues.KEY, batch)[
      -1
    ]

  for sign, wanted, patterns in (
    (-1.0, 0.615, {'0101010', '1010101'}),
    (1.0, 0.618, {'0000000', '1111111'}),
  ):
    states = end({'sign': jnp.asarray(sign)})
    utility = float(information.hard_utility(states).utility)
    assert abs(utility - wanted) < tolerance, (sign, utility)
    frequent = information.most_frequent_patterns(np.asarray(states) >= 0.5, 2)
    assert {pattern for pattern, _ in frequent} == patterns


def test_lateral_inhibition_and_consensus_score_alike():
  """Truth: the source's .615 and .618; few replicates add up to .02 of bias."""
  check_known_rates(800, 0.04)


@pytest.mark.slow
def test_lateral_inhibition_and_consensus_score_alike_at_full_size():
  """Truth: the source's .615 and .618 at 3,000 replicates."""
  check_known_rates(3000, 0.02)

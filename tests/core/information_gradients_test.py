# SPDX-License-Identifier: Apache-2.0
"""The utility of patterns: its derivatives, its traps, what it refuses.

Truth: central differences of the enumeration in NumPy; documented errors.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import information
from tests.core import enumerated


@pytest.mark.parametrize('num_cells, num_replicates', [(7, 50), (2, 100)])
def test_a_narrow_kernel_between_binary_patterns_has_no_gradient(
  num_cells, num_replicates
):
  """Truth: exp(-50) of a kernel: nothing that any optimizer could see.

  Also where patterns come again: rounding is no gradient, and Adam would make
  steps of it. At bandwidth 1 there is a gradient.
  """
  rng = np.random.default_rng(1)
  states = rng.uniform(size=(num_replicates, num_cells)).astype(np.float32)

  def s_rep(states, bandwidth):
    return information.soft_utility(
      states, bandwidth=bandwidth, straight_through=True
    ).s_rep

  slope = jax.jit(jax.grad(s_rep))
  assert np.abs(slope(jnp.asarray(states), 0.1)).max() < 1e-18
  assert np.abs(slope(jnp.asarray(states), 1.0)).max() > 1e-3


@pytest.mark.parametrize('p', [1 + 1.2e-7, -1e-7, 0.0, 1.0])
def test_the_entropy_of_a_mean_that_rounds_out_of_range(p):
  """Truth: 0, and a finite slope. Mutant: the formula as it stands is NaN."""
  value, slope = jax.value_and_grad(information.binary_entropy)(jnp.float32(p))
  np.testing.assert_allclose(value, 0, atol=1e-6)
  assert np.isfinite(slope)

  def mutant(p):
    return -p * jnp.log2(p) - (1 - p) * jnp.log2(1 - p)

  with np.errstate(all='ignore'):
    assert np.isnan(mutant(jnp.float32(p)))


def test_the_binary_entropy_by_hand():
  """Truth: H(1/2) = 1, H(1/4) = 2 - 3/4 log2 3."""
  got = information.binary_entropy(jnp.asarray([0.5, 0.25, 0.75]))
  quarter = 2 - 0.75 * math.log2(3)
  np.testing.assert_allclose(got, [1, quarter, quarter], rtol=1e-6)


@pytest.mark.parametrize('straight_through', [False, True])
@pytest.mark.parametrize(
  'utility', [information.soft_utility, information.exact_soft_utility]
)
def test_equal_states_give_finite_numbers_in_float32(utility, straight_through):
  """Truth: replicates agree, so the soft S_rep is 0; nothing is NaN."""

  @jax.jit
  @functools.partial(jax.grad, has_aux=True)
  def run(states):
    found = utility(states, straight_through=straight_through)
    return found.utility, found

  for value in (0.0, 0.3, 1.0):
    slope, found = run(jnp.full((37, 7), value, jnp.float32))
    assert np.all(np.isfinite(slope))
    assert np.all(np.isfinite(found)) and min(found) > -1e-5
    if straight_through:
      np.testing.assert_allclose(found, 0, atol=1e-6)
    elif utility is information.soft_utility:
      assert abs(found.s_rep) < 1e-5


def test_identical_replicates_repeat_themselves():
  """Truth: S_rep = 0 where all agree, and S_pat is the pattern's own."""
  rng = np.random.default_rng(3)
  states = np.tile(rng.uniform(size=7), (9, 1))
  got = enumerated.exactly(information.hard_utility, states)
  assert got == pytest.approx(
    (got[1], enumerated.hard_truth(states)[1], 0.0), abs=1e-12
  )
  soft = enumerated.exactly(information.soft_utility, states)
  assert soft[2] == pytest.approx(0.0, abs=1e-9)
  # Graded fates are dice: they disagree although the states do not.
  fates = enumerated.graded(states[0], 0.1)
  each = np.mean([enumerated.entropy([q, 1 - q]) for q in fates])
  exact = enumerated.exactly(information.exact_soft_utility, states)
  assert exact[2] == pytest.approx(each, abs=1e-9)


def central_differences(function, x, step=1e-6):
  """The gradients of several values in NumPy, `[values, *x.shape]`."""
  x = np.asarray(x, float)
  slopes = []
  for i in range(x.size):
    nudge = np.zeros(x.size)
    nudge[i] = step
    nudge = nudge.reshape(x.shape)
    ahead, behind = np.array(function(x + nudge)), np.array(function(x - nudge))
    slopes.append((ahead - behind) / (2 * step))
  return np.stack(slopes, axis=-1).reshape(-1, *x.shape)


@pytest.mark.parametrize('which', ['soft', 'exact'])
def test_gradients_equal_finite_differences(which):
  """Truth: central differences of the enumeration, float64.

  In the states and in the temperature. Mutant: at another temperature.
  """
  states, temperature = enumerated.population(3, 5, seed=2), np.array(0.2)
  if which == 'soft':
    utility = functools.partial(information.soft_utility, bandwidth=0.5)
    truth = functools.partial(enumerated.soft_truth, bandwidth=0.5)
  else:
    utility, truth = information.exact_soft_utility, enumerated.exact_truth

  def run(states, temperature):
    return utility(states, temperature=temperature)

  with jax.enable_x64(True):
    slope = jax.jit(jax.jacrev(run, argnums=(0, 1)))
    got, wrong = (
      jax.device_get(slope(jnp.asarray(states, float), jnp.asarray(t, float)))
      for t in (temperature, 1.1 * temperature)
    )
  wanted = (
    central_differences(lambda s: truth(enumerated.graded(s, 0.2)), states),
    central_differences(
      lambda t: truth(enumerated.graded(states, t)), temperature
    ),
  )
  for part in range(3):
    for argument in range(2):
      there = wanted[argument][part]
      assert np.abs(there).max() > 1e-3
      np.testing.assert_allclose(
        got[part][argument], there, rtol=1e-5, atol=1e-8
      )
      mutant = wrong[part][argument]
      assert not np.allclose(mutant, there, rtol=1e-3, atol=1e-4)


def slope(utility, states, **settings):
  """The gradient of a utility in the states, in float64."""
  with jax.enable_x64(True):

    def run(states):
      return utility(states, **settings).utility

    return np.asarray(jax.jit(jax.grad(run))(jnp.asarray(states, float)))


def test_straight_through_gradients_are_those_in_the_fates():
  """Truth: central differences of the enumeration at fates of 0 and 1.

  All patterns of 2 cells are seen, so all shares are above 0 and the utility
  is smooth there.
  """
  fates = np.array([[0, 0], [0, 1], [0, 1], [1, 0], [1, 1], [1, 1], [1, 1]])
  states = np.where(fates, 0.8, 0.1)
  for utility, truth, settings in (
    (information.exact_soft_utility, enumerated.exact_truth, {}),
    (
      information.soft_utility,
      lambda z: enumerated.soft_truth(z, 0.7),
      {'bandwidth': 0.7},
    ),
  ):
    got = slope(utility, states, straight_through=True, **settings)
    wanted = central_differences(truth, fates)[0]
    assert np.abs(wanted).max() > 1e-2
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-8)


def test_the_hard_utility_has_no_gradient():
  """Truth: a step function's derivative, 0."""
  states = enumerated.population(3, 5)
  got = slope(information.hard_utility, states)
  np.testing.assert_array_equal(got, 0)


UTILITIES = (
  information.hard_utility,
  information.soft_utility,
  information.exact_soft_utility,
)


@pytest.mark.parametrize('utility', UTILITIES)
def test_what_is_no_population_is_refused(utility):
  """Truth: the documented errors."""
  with pytest.raises(ValueError, match='a single replicate always agrees'):
    utility(jnp.zeros((1, 3)))
  with pytest.raises(AssertionError):
    utility(jnp.zeros(3))
  with pytest.raises(AssertionError):
    utility(jnp.zeros((4, 3), int))


def test_the_exact_utility_refuses_many_cells():
  """Truth: 12 cells at most; the message says what takes more."""
  with pytest.raises(ValueError, match=r'^N=13: .* at most 12 .* soft'):
    information.exact_soft_utility(jnp.zeros((2, 13)))
  assert information.MAX_CELLS == 12


@pytest.mark.parametrize(
  'utility',
  [
    information.hard_utility,
    information.soft_utility,
    information.exact_soft_utility,
  ],
)
def test_weights_say_how_often_a_replicate_counts(utility):
  """Truth: the utility of a population with some left out, or in it twice.

  Left out are replicates with patterns of their own. Mutant: weights unused.
  """
  states = jnp.asarray(enumerated.population(3, 12))
  times = np.array([0, 1, 2, 1, 1, 0, 1, 3, 1, 0, 2, 0])
  wanted = utility(jnp.asarray(np.repeat(states, times, axis=0)))
  weights = jnp.asarray(times / times.mean(), states.dtype)
  got = utility(states, weights=weights)
  np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
  assert abs(utility(states).utility - wanted.utility) > 1e-3

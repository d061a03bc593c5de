# SPDX-License-Identifier: Apache-2.0
"""Functions with another derivative than their own.

Truth: NumPy's comparison forward, the derivative named in the docstring
backward.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from bionet_core import surrogate

VALUES = np.array([-3.0, 0.0, 0.2, 0.4999, 0.5, 0.5001, 0.7, 1.0, 4.5])
EDGES = np.array([-1e8, -1000.3, 0.4, 3.7, 1000.3, 1e8], np.float32)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.float64])
@pytest.mark.parametrize('threshold', [0.5, 0.3])
def test_the_value_is_the_comparison(dtype, threshold):
  """Truth: `values >= threshold` in NumPy. Mutant: a strict comparison."""
  with jax.enable_x64(dtype == jnp.float64):
    values = jnp.asarray([*VALUES, threshold], dtype)
    compared = np.asarray(values) >= np.asarray(threshold, dtype)
    for function in (surrogate.straight_through_threshold, surrogate.fates):
      for call in (function, jax.jit(function)):
        got = call(values, threshold)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, compared)
    strict = np.asarray(values) > np.asarray(threshold, dtype)
    assert not np.array_equal(got, strict)


@pytest.mark.parametrize('value', EDGES)
@pytest.mark.parametrize('threshold', [0.5, 0.3])
def test_the_value_is_0_or_1_whatever_is_compared(value, threshold):
  """Truth: NumPy's comparison, also where x + (1 - x) is not 1 in float32."""
  hard = float(value >= np.float32(threshold))
  for call in (
    surrogate.straight_through_threshold,
    jax.jit(surrogate.straight_through_threshold),
  ):
    assert float(call(jnp.float32(value), threshold)) == hard


def test_the_derivative_is_that_of_the_values():
  """Truth: the chain rule by hand, d(w z^2)/dx = 2 w z with dz/dx = 1."""
  weights = np.arange(1.0, 1 + len(VALUES))

  def objective(function, x):
    return jnp.sum(weights * function(x) ** 2 + weights * function(x))

  hard = VALUES >= 0.5
  for transform in (lambda f: f, jax.jit):
    gradient = transform(
      jax.grad(lambda x: objective(surrogate.straight_through_threshold, x))
    )(jnp.asarray(VALUES))
    np.testing.assert_allclose(gradient, weights * (2 * hard + 1), rtol=1e-6)
  dead = jax.grad(lambda x: objective(surrogate.fates, x))(jnp.asarray(VALUES))
  np.testing.assert_array_equal(dead, 0)


def test_forward_mode_and_batches_agree_with_reverse_mode():
  """Truth: the identity's Jacobian; one value after the other."""
  values = jnp.asarray(VALUES)
  jacobian = jax.jacfwd(surrogate.straight_through_threshold)(values)
  np.testing.assert_array_equal(jacobian, np.eye(len(VALUES)))
  singles = [float(surrogate.straight_through_threshold(v)) for v in values]
  mapped = jax.vmap(surrogate.straight_through_threshold)(values)
  np.testing.assert_array_equal(mapped, singles)


EXCESS = np.array([-3.0, -1.0, -0.6, -1e-6, 0.0, 0.25, 1.0, 7.0])
SLOPES = {
  'triangular': lambda x: np.where(np.abs(x) < 1, 1 - np.abs(x), 0),
  'fast_sigmoid': lambda x: (1 + np.abs(x)) ** -2.0,
  'sigmoid': lambda x: 4 * np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))) ** 2,
}
AREAS = {'triangular': 1.0, 'fast_sigmoid': 2.0, 'sigmoid': 4.0}


def test_every_surrogate_is_in_the_table():
  """Truth: surrogate.SURROGATES."""
  assert set(SLOPES) == set(AREAS) == set(surrogate.SURROGATES)


@pytest.mark.parametrize('name', SLOPES)
def test_a_spike_has_the_surrogates_slope(name):
  """Truth: NumPy's comparison forward, the formula backward, in both modes."""

  def spike(x):
    return surrogate.spike(x, name, dampening=0.3, steepness=2.0)

  for call in (spike, jax.jit(spike)):
    np.testing.assert_array_equal(call(jnp.asarray(EXCESS)), EXCESS >= 0)
    reverse = jax.vmap(jax.grad(call))(jnp.asarray(EXCESS))
    forward = jax.vmap(jax.jacfwd(call))(jnp.asarray(EXCESS))
    expected = 0.3 * SLOPES[name](2 * EXCESS)
    np.testing.assert_allclose(reverse, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(forward, expected, rtol=1e-5, atol=1e-7)
  values = spike(jnp.asarray([-1e30, -1e8, 1e8, 1e30]))
  np.testing.assert_array_equal(values, [0, 0, 1, 1])


@pytest.mark.parametrize('name', SLOPES)
def test_a_surrogate_has_its_area_and_its_height(name):
  """Truth: SciPy's integral; 1 at the threshold."""
  psi = surrogate.SURROGATES[name]
  area = sum(
    integrate.quad(lambda x: float(SLOPES[name](x)), a, b)[0]
    for a, b in ((-np.inf, -1), (-1, 0), (0, 1), (1, np.inf))
  )
  assert area == pytest.approx(AREAS[name], rel=1e-6)
  grid = np.linspace(-6, 6, 49)
  np.testing.assert_allclose(psi(grid), SLOPES[name](grid), atol=1e-6)
  assert float(psi(jnp.zeros(()))) == 1


def test_an_unknown_surrogate_is_refused():
  """Truth: the names of the table."""
  with pytest.raises(ValueError, match='triangular, fast_sigmoid, sigmoid'):
    surrogate.spike(jnp.zeros(2), 'box')

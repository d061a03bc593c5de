# SPDX-License-Identifier: Apache-2.0
"""The measures themselves, where the answer is known by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_learners import oracles

TREE = {'a': jnp.asarray([3.0, 0.0]), 'b': jnp.asarray([[4.0]])}


def test_finite_differences_of_a_cubic():
  """Truth: the derivative of sum p^3 is 3 p^2."""
  with jax.enable_x64(True):
    params = {'a': jnp.asarray([1.0, -2.0]), 'b': jnp.asarray([[0.5]])}
    got = oracles.finite_differences(
      lambda p: jnp.sum(p['a'] ** 3) + jnp.sum(p['b'] ** 3), params
    )
    np.testing.assert_allclose(got['a'], [3.0, 12.0], rtol=1e-8)
    np.testing.assert_allclose(got['b'], [[0.75]], rtol=1e-8)


def test_finite_differences_refuse_float32():
  """Truth: single precision proves nothing; the leaf is named."""
  with pytest.raises(TypeError, match=r"'a'.*float32"):
    oracles.finite_differences(lambda p: jnp.sum(p['a']), TREE)


def test_norm_cosine_and_relative_error():
  """Truth: 3-4-5."""
  turned = {'a': jnp.asarray([0.0, 3.0]), 'b': jnp.asarray([[4.0]])}
  assert oracles.norm(TREE) == 5
  np.testing.assert_allclose(oracles.cosine(TREE, turned), 16 / 25)
  np.testing.assert_allclose(
    oracles.relative_error(turned, TREE), np.sqrt(18) / 5, rtol=1e-6
  )


def test_bias_passes_the_unbiased_and_catches_the_biased():
  """Truth: Gaussian estimates; z is standard normal, or about 20 when off.

  8 directions, fixed seed; P(any |z| > 3.5) is below .4 % by chance.
  """
  key = jax.random.key(0)
  reference = {'w': jnp.arange(1.0, 7.0)}
  noise = jax.random.normal(key, (4000, 6))
  fair = {'w': reference['w'][None] + noise}
  test = oracles.bias(fair, reference, jax.random.key(1))
  assert test.z.shape == (8,) and jnp.max(jnp.abs(test.z)) < 3.5
  expected = np.sqrt(6 / 4000) / np.linalg.norm(np.arange(1, 7))
  np.testing.assert_allclose(test.standard_error, expected, rtol=0.05)
  skewed = {'w': fair['w'] + 0.3}
  assert jnp.max(jnp.abs(oracles.bias(skewed, reference, key).z)) > 10
  with pytest.raises(ValueError, match='at least 2'):
    oracles.bias({'w': fair['w'][:1]}, reference, key)

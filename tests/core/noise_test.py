# SPDX-License-Identifier: Apache-2.0
"""Random numbers under many keys are those of JAX.

Truth: `jax.random`, key by key; for the tails the inverse of the normal
distribution in float64 (SciPy).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from bionet_core import noise

NUM = 7


def _keys(count=64, impl=None):
  return jax.random.split(jax.random.key(3, impl=impl), count)


def _data(keys):
  return np.asarray(jax.random.key_data(keys))


@pytest.mark.parametrize('impl', ['threefry2x32', 'rbg'])
@pytest.mark.parametrize('dtype', [jnp.int32, jnp.uint32])
def test_folded_keys_are_those_of_jax(impl, dtype):
  """Truth: `jax.random.fold_in`, bit for bit. Mutant: the next step's."""
  keys = _keys(impl=impl)
  steps = jnp.arange(len(keys)).astype(dtype).at[0].set(2**31 - 1)
  wanted = np.stack(
    [_data(jax.random.fold_in(k, s)) for k, s in zip(keys, steps, strict=True)]
  )
  got = noise.fold_in(keys, steps)
  assert jax.random.key_impl(got) == jax.random.key_impl(keys)
  np.testing.assert_array_equal(_data(got), wanted)
  np.testing.assert_array_equal(
    _data(jax.jit(noise.fold_in)(keys, steps)), wanted
  )
  assert not np.array_equal(_data(noise.fold_in(keys, steps + 1)), wanted)


@pytest.mark.parametrize('num', [1, 2, NUM, 12])
def test_normal_numbers_are_those_of_jax(num):
  """Truth: `jax.random.normal`, up to rounding. Mutant: another key's."""
  keys = _keys()
  wanted = jnp.stack([jax.random.normal(k, (num,)) for k in keys])
  for draw in (noise.normal, jax.jit(noise.normal, static_argnums=1)):
    got = draw(keys, num)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
  assert not np.allclose(got[::-1], wanted, rtol=1e-2)


def test_a_vmap_draws_what_a_loop_does():
  """Truth: the draws of each member's own keys."""
  keys = _keys(12)
  together = jax.vmap(lambda k: noise.normal(k, NUM))(keys.reshape(3, 4))
  np.testing.assert_array_equal(
    together.reshape(12, NUM), noise.normal(keys, NUM)
  )


@pytest.mark.parametrize('num', [3, NUM])
def test_jax_draws_in_float64_and_under_other_generators(num):
  """Truth: `jax.random.normal`, bit for bit."""
  with jax.enable_x64(True):
    keys = _keys()
    got = noise.normal(keys, num)
    assert got.dtype == jnp.float64
    np.testing.assert_array_equal(
      got, jax.vmap(lambda k: jax.random.normal(k, (num,)))(keys)
    )
  keys = _keys(impl='rbg')
  np.testing.assert_array_equal(
    noise.normal(keys, num),
    jax.vmap(lambda k: jax.random.normal(k, (num,)))(keys),
  )


def test_the_tails_are_those_of_the_normal_distribution():
  """Truth: sqrt(2) erfinv in float64 of the very uniform numbers.

  A million draws, the farthest near five deviations; relative error within
  1e-6.
  """
  keys = _keys(4)
  low = np.nextafter(np.float32(-1), np.float32(0))
  uniform = jax.vmap(
    lambda k: jax.random.uniform(k, (250_000,), minval=low, maxval=1.0)
  )(keys)
  truth = np.sqrt(2) * special.erfinv(np.asarray(uniform, np.float64))
  assert np.max(np.abs(truth)) > 4.5
  got = np.asarray(noise.normal(keys, 250_000))
  np.testing.assert_allclose(got, truth, rtol=1e-6, atol=1e-7)

# SPDX-License-Identifier: Apache-2.0
"""Keys whose draws are a function of the key alone, whatever JAX is told.

Truth: `jax.random.key` under JAX's own settings.
"""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import interfaces, unroll


@contextlib.contextmanager
def seed_offset(value):
  """Inside, JAX_RANDOM_SEED_OFFSET is set."""
  jax.config.update('jax_random_seed_offset', value)
  try:
    yield
  finally:
    jax.config.update('jax_random_seed_offset', 0)


@pytest.mark.parametrize('seed', [0, 7, 2**32 - 1])
@pytest.mark.parametrize(
  'told',
  [
    contextlib.nullcontext,
    lambda: jax.default_prng_impl('rbg'),
    lambda: jax.default_prng_impl('unsafe_rbg'),
    lambda: seed_offset(5),
    lambda: jax.enable_x64(True),
  ],
  ids=['nothing', 'rbg', 'unsafe_rbg', 'seed offset', 'x64'],
)
def test_a_seed_has_one_key(seed, told):
  """Truth: the key that JAX makes of the seed when it is told nothing."""
  wanted = jax.random.key(seed, impl='threefry2x32')
  with told():
    key = unroll.seed_key(seed)
  assert key.dtype == wanted.dtype and key.shape == ()
  np.testing.assert_array_equal(
    jax.random.key_data(key), jax.random.key_data(wanted)
  )
  np.testing.assert_array_equal(
    jax.random.normal(key), jax.random.normal(wanted)
  )


@pytest.mark.parametrize('impl', ['rbg', 'unsafe_rbg'])
def test_a_key_that_draws_by_the_batch_is_refused(impl):
  """Truth: JAX's own: three draw one thing alone and another among eight."""
  keys = jax.random.split(jax.random.key(0, impl=impl), 8)
  draw = jax.vmap(jax.random.normal)
  assert not np.array_equal(draw(keys)[5:], draw(keys[5:]))
  index = jnp.arange(8)
  for call in (
    lambda: unroll.trial_keys(keys[0], index),
    lambda: unroll.step_keys(keys, index),
    lambda: jax.jit(unroll.trial_keys)(keys[0], index),
  ):
    with pytest.raises(
      TypeError, match=rf"^a key of '{impl}' .*impl='threefry"
    ):
      call()


def test_other_numbers_of_the_same_keys_are_refused():
  """Truth: JAX's own: without the flag the same key draws other numbers."""
  key, index = unroll.seed_key(0), jnp.arange(3)
  wanted = jax.random.normal(key, (3,))
  with jax.threefry_partitionable(False):
    assert not np.array_equal(jax.random.normal(key, (3,)), wanted)
    with pytest.raises(
      ValueError, match=r'^jax_threefry_partitionable=False: '
    ):
      unroll.trial_keys(key, index)
  unroll.trial_keys(key, index)


def test_a_loss_sees_zeros_for_the_targets_of_trials_that_are_not_asked():
  """Truth: the loss of the asked trial alone, by hand."""
  cell = interfaces.Cell(
    lambda key, inputs: ({}, {}),
    lambda constants, keys: jnp.zeros((*keys.shape, 1)),
    lambda params, constants, state, keys, inputs: (inputs, state),
    lambda params, constants, emission: emission,
  )

  def loss(outputs, targets, mask):
    return jnp.mean(mask * jnp.square(outputs[:, 0] - targets)), {
      'targets': jnp.sum(targets)
    }

  def scored(emission, targets):
    return unroll.score_step(
      cell, loss, {}, {}, emission, targets, jnp.array([1.0, 0.0])
    )

  for pad in (jnp.nan, jnp.inf, -100.0):
    targets = jnp.array([2.0, pad])
    emission = jnp.array([[3.0], [pad]])
    (value, metrics), slope = jax.value_and_grad(scored, has_aux=True)(
      emission, targets
    )
    assert value == 0.5 and metrics['targets'] == 2
    np.testing.assert_array_equal(slope, [[1.0], [0.0]])

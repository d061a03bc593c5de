# SPDX-License-Identifier: Apache-2.0
"""The state of a network with batch statistics.

Truth: the same steps by Haiku and optax, called by hand.
"""

import functools

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bionet_learners.training import state as states


def network(inputs, *, is_training):
  """A linear readout of normalised inputs."""
  normalised = hk.BatchNorm(True, True, 0.9)(inputs, is_training)
  return hk.Linear(1)(normalised)[:, 0]


NETWORK = hk.transform_with_state(network)
INIT = jax.jit(functools.partial(NETWORK.init, is_training=True))
RNG = np.random.default_rng(0)
INPUTS = jnp.asarray(3 + 2 * RNG.normal(size=(6, 4)), jnp.float32)
TARGETS = jnp.asarray(RNG.normal(size=6), jnp.float32)


def loss(params, network_state):
  outputs, network_state = NETWORK.apply(
    params, network_state, None, INPUTS, is_training=True
  )
  return jnp.mean((outputs - TARGETS) ** 2), network_state


def created(tx, key=None):
  params, network_state = INIT(jax.random.key(1), np.zeros_like(INPUTS))
  return states.TrainState.create(NETWORK.apply, params, tx, network_state, key)


def step(state):
  grads, network_state = jax.grad(loss, has_aux=True)(
    state.params, state.network_state
  )
  return state.apply_gradients(grads).replace(network_state=network_state)


def test_steps_through_jit_equal_optax_by_hand():
  """Truth: three steps of Adam written out, with and without jit."""
  tx = optax.adam(0.1)
  state = created(tx)
  params, network_state = state.params, state.network_state
  opt_state = tx.init(params)
  chex.assert_trees_all_equal(state.opt_state, opt_state)
  assert state.step.dtype == jnp.int32 and int(state.step) == 0
  assert state.tx is tx and state.apply_fn is NETWORK.apply

  compiled, by_step = jax.jit(step), created(tx)
  gradient = jax.jit(jax.grad(loss, has_aux=True))
  for _ in range(3):
    state, by_step = compiled(state), step(by_step)
    grads, network_state = gradient(params, network_state)
    updates, opt_state = tx.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
  for got in (state, by_step):
    chex.assert_trees_all_close(
      (got.params, got.network_state, got.opt_state),
      (params, network_state, opt_state),
      rtol=1e-5,
      atol=1e-6,
    )
    assert int(got.step) == 3
    assert got.tx is tx and got.apply_fn is NETWORK.apply


def test_batch_statistics_change_and_hold_the_mean():
  """Truth: after one batch the debiased mean is that of the inputs."""
  before = created(optax.sgd(0.1))
  after = step(before)
  (name,) = [n for n in before.network_state if n.endswith('mean_ema')]
  np.testing.assert_array_equal(before.network_state[name]['average'], 0)
  np.testing.assert_allclose(
    after.network_state[name]['average'][0], jnp.mean(INPUTS, 0), rtol=1e-5
  )
  # The mutant: gradients alone leave the statistics as they were.
  alone = before.apply_gradients(jax.tree.map(jnp.ones_like, before.params))
  chex.assert_trees_all_equal(alone.network_state, before.network_state)


def test_leaves_are_arrays_and_functions_travel_beside_them():
  """Truth: every leaf is an array, and a copy of the leaves is the state."""
  state = created(optax.adam(0.1), key=jax.random.key(3))
  leaves, structure = jax.tree.flatten(state)
  assert all(isinstance(leaf, jax.Array) for leaf in leaves)
  again = jax.tree.unflatten(structure, leaves)
  assert again.apply_fn is state.apply_fn and again.tx is state.tx
  chex.assert_trees_all_equal(again, state)
  names = {
    jax.tree_util.keystr(path[:1], simple=True)
    for path, _ in jax.tree.leaves_with_path(state)
  }
  assert names == {'params', 'network_state', 'opt_state', 'step', 'key'}


def test_a_network_without_state_or_key_has_none():
  """Truth: `{}` and None are no leaves."""
  params = {'w': jnp.ones(3)}
  state = states.TrainState.create(lambda p: p, params, optax.sgd(0.5))
  assert state.network_state == {} and state.key is None
  assert len(jax.tree.leaves(state)) == 2  # w and step
  after = state.apply_gradients({'w': jnp.ones(3)})
  np.testing.assert_array_equal(after.params['w'], 0.5)


def test_replace_is_a_copy():
  """Truth: the state before is as it was; an unknown field is refused."""
  state = created(optax.sgd(0.1))
  other = state.replace(step=jnp.int32(7))
  assert int(other.step) == 7 and int(state.step) == 0
  assert other.params is state.params
  with pytest.raises(TypeError, match='statistics'):
    state.replace(statistics={})
  with pytest.raises(AttributeError):
    state.step = 1


@pytest.mark.parametrize(
  'grads',
  [
    {'w': jnp.ones(3)},
    {'w': jnp.ones(4), 'b': jnp.ones(())},
    {'w': jnp.ones(3), 'b': jnp.ones(()), 'c': jnp.ones(())},
    [jnp.ones(3), jnp.ones(())],
  ],
  ids=['less', 'shape', 'more', 'list'],
)
def test_gradients_of_another_tree_are_refused(grads):
  """Truth: they must be a tree like the parameters, in jit too."""
  params = {'w': jnp.ones(3), 'b': jnp.ones(())}
  state = states.TrainState.create(lambda p: p, params, optax.sgd(0.5))
  with pytest.raises(AssertionError):
    state.apply_gradients(grads)
  with pytest.raises(AssertionError):
    jax.jit(lambda s, g: s.apply_gradients(g))(state, grads)

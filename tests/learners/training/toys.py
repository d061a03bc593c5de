# SPDX-License-Identifier: Apache-2.0
"""Toys for loops: a net with statistics and dropout, and steps that count."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

from bionet_learners.training import loop
from bionet_learners.training import state as states

KEY = jax.random.key(4)
NUM_BATCHES, NUM_EPOCHS = 3, 4


def network(inputs, *, is_training):
  """Batch statistics, dropout and a hidden layer."""
  inputs = hk.BatchNorm(True, True, 0.9)(inputs, is_training)
  hidden = jnp.tanh(hk.Linear(4)(inputs))
  if is_training:
    hidden = hk.dropout(hk.next_rng_key(), 0.5, hidden)
  return hk.Linear(1)(hidden)[:, 0]


NETWORK = hk.transform_with_state(network)
INIT = jax.jit(functools.partial(NETWORK.init, is_training=True))
ADAM = optax.adam(0.05)


@jax.jit
def train_step(state, batch, key):
  def loss(params):
    outputs, network_state = state.apply_fn(
      params, state.network_state, key, batch['x'], is_training=True
    )
    return jnp.mean((outputs - batch['y']) ** 2), network_state

  (value, network_state), grads = jax.value_and_grad(loss, has_aux=True)(
    state.params
  )
  state = state.apply_gradients(grads).replace(network_state=network_state)
  return state, {'loss': value, 'norm': optax.tree.norm(grads)}


@jax.jit
def val_step(state, batch, key):
  outputs, _ = state.apply_fn(
    state.params, state.network_state, key, batch['x'], is_training=False
  )
  return state, {'loss': jnp.mean((outputs - batch['y']) ** 2)}


def batches(count=5, seed=0):
  rng = np.random.default_rng(seed)
  return [
    {
      'x': jnp.asarray(1 + 2 * rng.normal(size=(4, 3)), jnp.float32),
      'y': jnp.asarray(rng.normal(size=4), jnp.float32),
    }
    for _ in range(count)
  ]


# Five batches, and three an epoch: an epoch begins anywhere among them.
DATA, HELD_OUT = batches(), batches(2, seed=1)


def start():
  params, network_state = INIT(jax.random.key(1), DATA[0]['x'])
  return states.TrainState.create(
    NETWORK.apply, params, ADAM, network_state, jax.random.key(9)
  )


def train(folder=None, step=train_step, data=DATA, **settings):
  settings = {
    'num_epochs': NUM_EPOCHS,
    'num_batches': NUM_BATCHES,
    'rng_key': KEY,
    'val_step_fn': val_step,
    'val_data_iterator_fn': HELD_OUT,
    **settings,
  }
  return loop.train_loop(start(), step, data, checkpoint_dir=folder, **settings)


def bits(tree):
  """Every leaf as bytes, by name."""
  found = {}
  for path, leaf in jax.tree.leaves_with_path(tree):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    found[jax.tree_util.keystr(path)] = np.asarray(leaf).tobytes()
  return found


def rows(folder):
  return (folder / 'metrics.jsonl').read_bytes()


def counting(state, batch, key):
  """A step of a state that counts the values it has seen."""
  del key
  return {'sum': state['sum'] + jnp.sum(batch)}, {'mean': jnp.mean(batch)}


def zero():
  return {'sum': jnp.float32(0)}


def count(data, num_epochs, num_batches, step=counting, **settings):
  return loop.train_loop(
    zero(), step, data, num_epochs, num_batches, KEY, **settings
  )


ONES = [jnp.ones(2)]


def scored(table, num_batches=2):
  """Steps of a state that counts batches, validated by a table of epochs."""
  table = jnp.float32(table)

  def step(state, batch, key):
    return {'done': state['done'] + 1}, {'loss': jnp.float32(1)}

  def score(state, batch, key):
    return state, {'score': table[state['done'] // num_batches - 1]}

  return step, score


def score(table, folder=None, **settings):
  step, score_fn = scored(table)
  settings = {'num_epochs': len(table), 'num_batches': 2, **settings}
  return loop.train_loop(
    {'done': jnp.int32(0)},
    step,
    ONES,
    rng_key=KEY,
    checkpoint_dir=folder,
    val_step_fn=score_fn,
    val_data_iterator_fn=ONES,
    **settings,
  )

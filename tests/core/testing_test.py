# SPDX-License-Identifier: Apache-2.0
"""The contract finds what breaks it: each law has a cell or network that fails.

Truth: a sound cell and network pass; each mutant below breaks one law, and the
contract must say which.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import interfaces, testing

INPUTS = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)), jnp.float32)


def noise(keys):
  """Numbers in [0, 1) from keys `[B]`; cheap to compile."""
  return (jax.random.key_data(keys) % 1000).astype(jnp.float32) / 1000


def make_cell(**parts):
  """X <- a x / 2 + inputs + noise; reads out x; parts replace its own."""

  def init(key, inputs):
    del inputs
    return {'a': noise(key[None])[0]}, {}

  def step(params, constants, state, keys, inputs):
    decay = jnp.broadcast_to(params['a'], state.shape)
    state = decay * state / 2 + inputs + noise(keys)
    return state, state

  sound = interfaces.Cell(
    init=init,
    initial_state=lambda constants, keys: noise(keys),
    step=step,
    readout=lambda params, constants, emission: emission,
  )
  return sound._replace(**parts)


STEP = make_cell().step


def shared_noise(params, constants, state, keys, inputs):
  first = jnp.broadcast_to(keys[:1], keys.shape)
  return STEP(params, constants, state, first, inputs)


def normalised(params, constants, state, keys, inputs):
  centred = inputs - jnp.mean(inputs, axis=0, keepdims=True)
  return STEP(params, constants, state, keys, centred)


def drops_state(params, constants, state, keys, inputs):
  return STEP(params, constants, state, keys, inputs)[0], ()


def one_state_for_all(constants, keys):
  return jnp.zeros((1, 2))


COUNT = itertools.count()
CELL_MUTANTS = {
  'same key, same draw': make_cell(
    init=lambda key, inputs: ({'a': jnp.full(2, next(COUNT) / 2)}, {})
  ),
  'another key draws the same': make_cell(
    init=lambda key, inputs: ({'a': jnp.ones(2)}, {})
  ),
  'what learns is float': make_cell(
    init=lambda key, inputs: ({'a': jnp.ones(2, int)}, {})
  ),
  'initial_state: .*leads not with': make_cell(initial_state=one_state_for_all),
  'the new state and the old must agree': make_cell(step=drops_state),
  r'outputs are \[B, ...\]': make_cell(
    readout=lambda params, constants, emission: emission[:, 0]
  ),
  'trials permuted': make_cell(step=shared_noise),
  'trial 0 alone': make_cell(step=normalised),
  'the gradient of the loss is zero': make_cell(
    step=lambda params, constants, state, keys, inputs: (inputs, state)
  ),
  'the gradient of the loss is not finite': make_cell(
    readout=lambda params, constants, emission: (
      emission + jnp.sqrt(0 * params['a'][0])
    )
  ),
}


def test_a_sound_cell_passes():
  testing.check_cell(make_cell(), INPUTS)


@pytest.mark.parametrize('law', CELL_MUTANTS)
def test_the_law_that_a_cell_breaks_is_named(law):
  with pytest.raises(AssertionError, match=law):
    testing.check_cell(CELL_MUTANTS[law], INPUTS)


def test_one_trial_is_too_few():
  with pytest.raises(ValueError, match='B >= 2'):
    testing.check_cell(make_cell(), INPUTS[:1])


def make_network(**parts):
  """S <- sign(x w + y), scores = s v, local loss mean_b (s v - y)^2."""

  def init(key, inputs):
    del inputs
    scale = 1 + noise(key[None])[0, 0]
    eye = jnp.array([[1.0, 0.5], [-0.5, 1.0]])
    return {'v': scale * eye}, {'w': eye}

  def initial_state(params, constants, inputs, targets):
    label = jnp.zeros((inputs.shape[0], 2))
    if targets is not None:
      label = 2 * jax.nn.one_hot(targets, 2) - 1
    return {'x': inputs, 's': jnp.zeros((inputs.shape[0], 2)), 'y': label}

  def settle(params, constants, state, keys, *, messages, sweeps):
    if messages not in ('all', 'forward', 'backward', 'free'):
      raise ValueError(messages)
    heard = 3 * state['y'] if messages in ('all', 'backward') else 0
    after = jnp.sign(state['x'] @ constants['w'] + heard)
    flips = jnp.mean(after != state['s'])
    changed = jnp.zeros(sweeps).at[0].set(flips)
    return state | {'s': after}, changed

  def local_loss(params, constants, state, targets, gate=None):
    state = jax.lax.stop_gradient(state)
    error = state['s'] @ params['v'] - jax.nn.one_hot(targets, 2)
    losses = jnp.sum(error**2, axis=1)
    return jnp.mean(losses if gate is None else losses * gate[:, 0])

  sound = interfaces.RelaxationNetwork(
    init=init,
    initial_state=initial_state,
    settle=settle,
    readout=lambda params, constants, state: state['s'] @ params['v'],
    local_loss=local_loss,
  )
  return sound._replace(**parts)


SOUND = make_network()


def hears_the_label(params, constants, state, keys, *, messages, sweeps):
  messages = 'all' if messages == 'free' else messages
  return SOUND.settle(
    params, constants, state, keys, messages=messages, sweeps=sweeps
  )


def takes_any_filter(params, constants, state, keys, *, messages, sweeps):
  known = messages in ('all', 'forward', 'backward', 'free')
  return SOUND.settle(
    params,
    constants,
    state,
    keys,
    messages=messages if known else 'all',
    sweeps=sweeps,
  )


def counts_units(*arguments, messages, sweeps):
  state, changed = SOUND.settle(*arguments, messages=messages, sweeps=sweeps)
  return state, 6 * changed


def sums_trials(params, constants, state, targets, gate=None):
  loss = SOUND.local_loss(params, constants, state, targets, gate)
  return loss * targets.shape[0]


def ignores_the_gate(params, constants, state, targets, gate=None):
  return SOUND.local_loss(params, constants, state, targets)


def live_states(params, constants, state, targets, gate=None):
  loss = SOUND.local_loss(params, constants, state, targets, gate)
  return loss + jnp.mean(state['s'] * state['s'])


NETWORK_MUTANTS = {
  'a free phase does not see the label': SOUND._replace(settle=hears_the_label),
  'an unknown filter': SOUND._replace(settle=takes_any_filter),
  'changes a fraction': SOUND._replace(settle=counts_units),
  'a gate on trial 0': SOUND._replace(local_loss=ignores_the_gate),
  'a gate on trial 0 = the trial': SOUND._replace(local_loss=sums_trials),
  'states are frozen': SOUND._replace(local_loss=live_states),
  'leave no trace': SOUND._replace(
    initial_state=lambda params, constants, inputs, targets: (
      SOUND.initial_state(params, constants, inputs, None)
    )
  ),
  'is zero in every parameter': SOUND._replace(
    local_loss=lambda params, constants, state, targets, gate=None: jnp.sum(
      0 * params['v']
    )
  ),
}


def test_a_sound_network_passes():
  testing.check_network(SOUND, INPUTS, 2)


@pytest.mark.parametrize('law', NETWORK_MUTANTS)
def test_the_law_that_a_network_breaks_is_named(law):
  with pytest.raises(AssertionError, match=law):
    testing.check_network(NETWORK_MUTANTS[law], INPUTS, 2)

# SPDX-License-Identifier: Apache-2.0
"""The tables of rules and learners, each with trials for its contract."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bionet_core import interfaces
from bionet_core.cells import cores as cells
from bionet_core.relaxation import asymmetric
from bionet_learners.influence import rtrl, snap, uoro
from bionet_learners.local import local_plasticity
from bionet_learners.populations import evolution, evosax_strategy, open_es
from bionet_learners.reverse import bptt, truncated_bptt
from bionet_learners.sampling import score_function
from bionet_learners.traces import d_rtrl, e_prop, pp_prop, rflo, three_factor
from tests import small


def cross_entropy(outputs, targets, mask):
  shifted = outputs - jnp.max(outputs, axis=-1, keepdims=True)
  log_z = jnp.log(jnp.sum(jnp.exp(shifted), axis=-1))
  hit = targets[:, None] == jnp.arange(outputs.shape[-1])[None, :]
  losses = log_z - jnp.sum(jnp.where(hit, shifted, 0), axis=-1)
  return jnp.mean(losses * mask), {}


def trials(num_steps, batch=3):
  rng = np.random.default_rng(3)
  mask = np.zeros((num_steps, batch), np.float32)
  mask[num_steps // 2 :] = 1 / (num_steps - num_steps // 2)
  inputs = rng.normal(size=(num_steps, batch, 6))
  return interfaces.Trials(
    inputs=jnp.asarray(inputs, jnp.float32),
    targets=jnp.asarray(rng.integers(0, 3, (num_steps, batch)), jnp.int32),
    mask=jnp.asarray(mask),
    index=jnp.arange(batch) + 5,
  )


def noisy_cell():
  """H <- tanh(x w) + h / 2 + xi."""

  def init(key, inputs):
    return {'w': jax.random.normal(key, (inputs.shape[-1], 3))}, {}

  def mean(params, state, inputs):
    return jnp.tanh(inputs @ params['w']) + state / 2

  def noise(keys):
    return jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)

  def step(params, constants, state, keys, inputs):
    state = mean(params, state, inputs) + noise(keys)
    return state, state

  def log_density(params, constants, state, keys, inputs):
    now = mean(params, state, inputs)
    drawn = jax.lax.stop_gradient(now + noise(keys))
    return -jnp.sum((drawn - now) ** 2, axis=-1) / 2

  return interfaces.Cell(
    init,
    lambda constants, keys: jnp.zeros((*keys.shape, 3)),
    step,
    lambda params, constants, emission: emission,
    log_density,
  )


def network(**settings):
  return asymmetric.asymmetric(small.Sizes((6,), 3), hidden=6, **settings)


def leaky_cell():
  """H <- .7 h + tanh(x w + h u + b), and a linear readout."""

  def init(key, inputs):
    keys = jax.random.split(key, 3)
    shapes = {'w': (inputs.shape[-1], 3), 'u': (3, 3), 'o': (3, 3)}
    params = {
      name: jax.random.normal(k, shape) / 2
      for (name, shape), k in zip(shapes.items(), keys, strict=True)
    }
    return {'all': {**params, 'b': jnp.zeros((1, 3))}}, {}

  def step(params, constants, state, keys, inputs):
    p = params['all']
    drive = inputs @ p['w'] + state @ p['u'] + p['b']
    state = 0.7 * state + jnp.tanh(drive)
    return state, state

  return interfaces.Cell(
    init,
    lambda constants, keys: jnp.zeros((*keys.shape, 3)),
    step,
    lambda params, constants, emission: emission @ params['all']['o'],
  )


RULES = {
  'bptt': [
    (
      bptt.bptt(cells.gru(small.Sizes((6,), 3), hidden=5), cross_entropy),
      trials(7),
    ),
    (
      bptt.bptt(
        cells.lstm(small.Sizes((6,), 3), hidden=5), cross_entropy, remat=True
      ),
      trials(7),
    ),
    (
      bptt.bptt(
        cells.vanilla_rnn(small.Sizes((6,), 3), hidden=5), cross_entropy
      ),
      trials(1),
    ),
  ],
  'd_rtrl': [
    (d_rtrl.d_rtrl(leaky_cell(), cross_entropy, window=2), trials(4)),
    (
      d_rtrl.d_rtrl(leaky_cell(), cross_entropy, execution='reverse'),
      trials(4),
    ),
  ],
  'e_prop': [
    (
      e_prop.e_prop(
        leaky_cell(), cross_entropy, window=2, feedback='adaptive', kappa=0.5
      ),
      trials(4),
    )
  ],
  'local_plasticity': [
    (local_plasticity.local_plasticity(network(), clamped=3, free=3), trials(1))
  ],
  'rtrl': [
    (
      rtrl.rtrl(
        cells.vanilla_rnn(small.Sizes((6,), 3), hidden=4), cross_entropy
      ),
      trials(7),
    )
  ],
  'snap': [
    (
      snap.snap(
        cells.vanilla_rnn(small.Sizes((6,), 3), hidden=4), cross_entropy
      ),
      trials(7),
    ),
    (
      snap.snap(
        cells.gru(small.Sizes((6,), 3), hidden=3), cross_entropy, order=2
      ),
      trials(4),
    ),
  ],
  'uoro': [
    (
      uoro.uoro(
        cells.vanilla_rnn(small.Sizes((6,), 3), hidden=4), cross_entropy
      ),
      trials(7),
    )
  ],
  'score_function': [
    (
      score_function.score_function(noisy_cell(), cross_entropy, traces=True),
      trials(7),
    )
  ],
  'pp_prop': [(pp_prop.pp_prop(leaky_cell(), cross_entropy), trials(4))],
  'rflo': [
    (rflo.rflo(leaky_cell(), cross_entropy, tau=2.0, window=2), trials(4))
  ],
  'three_factor': [
    (
      three_factor.three_factor(leaky_cell(), cross_entropy, window=2),
      trials(4),
    )
  ],
  'truncated_bptt': [
    (
      truncated_bptt.truncated_bptt(leaky_cell(), cross_entropy, window=2),
      trials(4),
    )
  ],
}
"""`{name: [(rule, trials)]}`: the whole table of rules."""

COMPARING = ('score_function',)
"""Rules that compare trials, so that a batch is not the mean of its trials."""


def plain_cell():
  """H <- tanh(x w + h + noise), read out as it is; cheap without jit."""

  def init(key, inputs):
    return {'w': jax.random.normal(key, (inputs.shape[-1], 3))}, {}

  def step(params, constants, state, keys, inputs):
    noise = (jax.random.key_data(keys)[:, :1] % 1000) / 1000
    state = jnp.tanh(inputs @ params['w'] + state + noise)
    return state, state

  return interfaces.Cell(
    init,
    lambda constants, keys: jnp.zeros((*keys.shape, 3)),
    step,
    lambda params, constants, emission: emission,
  )


def evolved(**settings):
  return evolution.evolution(
    plain_cell(), cross_entropy, population_size=6, elites=2, **settings
  )


def stepped(**settings):
  return open_es.open_es(
    plain_cell(),
    cross_entropy,
    optimizer=optax.adam(0.1),
    population_size=6,
    **settings,
  )


def asked(**settings):
  return evosax_strategy.evosax_strategy(
    plain_cell(), cross_entropy, population_size=6, **settings
  )


LEARNERS = {
  'evolution': [
    (evolved(), trials(4)),
    (evolved(common_noise=False, best_ever=True, std_spread=0.5), trials(1)),
  ],
  # Where the extra 'evolution' is missing, evosax_strategy_test.py says so.
  'evosax': [
    (asked(strategy='SimpleGA'), trials(4)),
    (asked(predict_mean=True, common_noise=False), trials(1)),
  ]
  if importlib.util.find_spec('evosax')
  else [],
  'open_es': [
    (stepped(), trials(4)),
    (stepped(common_noise=False, rank_losses=False), trials(1)),
  ],
}
"""`{name: [(learner, trials)]}`: the whole table of learners."""

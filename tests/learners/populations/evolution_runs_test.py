# SPDX-License-Identifier: Apache-2.0
"""Evolution over many generations: in one program, over devices, learning.

Truth: one generation after the other; one device; what a GRU recalls.
"""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import interfaces, unroll
from bionet_core.cells import cores as cells
from bionet_learners import base
from bionet_learners.populations import evolution
from tests.learners.populations import points

FIRSTS = jnp.arange(0, 12, 4)


def generations(learner):
  """Three generations in one compiled scan."""

  def advance(state, first):
    return learner.update(state, points.KEY, points.trials(first=first))

  return lambda state: jax.lax.scan(advance, state, FIRSTS)


def devices(count, index=lambda: jax.lax.axis_index('d')):
  return base.Devices(
    count=count,
    index=index,
    mean=functools.partial(jax.lax.pmean, axis_name='d'),
    gather=functools.partial(jax.lax.all_gather, axis_name='d', tiled=True),
  )


def spread(count, handed, **settings):
  """What three generations leave on each of so many devices."""
  learner = points.make(noise=0.5, devices=handed, **settings)
  start = points.begin(noise=0.5, **settings)
  copies = jax.tree.map(lambda x: jnp.stack([x] * count), start)
  many = jax.pmap(generations(learner), axis_name='d')(copies)
  many = jax.device_get(many)
  return [jax.tree.map(lambda x, d=d: x[d], many) for d in range(count)]


@pytest.mark.parametrize(
  'count, settings', [(4, {}), (2, {'common_noise': False})]
)
def test_a_population_over_devices_is_one_population(count, settings):
  """Truth: one device, update by update: a scan is the loop, too."""
  state, losses = points.begin(noise=0.5, **settings), []
  for first in FIRSTS:
    state, metrics = points.compiled(noise=0.5, **settings).update(
      state, points.KEY, points.trials(first=first)
    )
    losses.append(metrics['loss'])
  for each, said in spread(count, devices(count), **settings):
    chex.assert_trees_all_close(each, state, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(said['loss'], losses, rtol=1e-5)
  if count == 2:  # the mutant: both judge the first half
    mutant, _ = spread(count, devices(count, index=lambda: 0), **settings)[0]
    with pytest.raises(AssertionError):
      chex.assert_trees_all_close(mutant, state, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'elites': 8}, r'^elites=8: .*population_size=8'),
    ({'elites': 9}, r'^elites=9'),
    ({'elites': 0}, r'^elites=0'),
    ({'population_size': 1, 'elites': 1}, r'^population_size=1: must'),
    ({'std': -0.1}, r'^std=-0\.1'),
    ({'std': math.nan}, r'^std=nan'),
    ({'std_spread': -1.0}, r'^std_spread=-1\.0'),
    ({'devices': devices(3)}, r'^population_size=8: .* 3 devices'),
  ],
  ids=lambda value: value if isinstance(value, str) else '-'.join(value),
)
def test_settings_out_of_range_are_refused(settings, message):
  """Truth: the documented ranges; the setting is named."""
  with pytest.raises(ValueError, match=message):
    points.make(**settings)


def test_the_population_is_what_is_split():
  """Truth: the interface; every device needs all trials."""
  assert points.make().partition == 'population'


SYMBOLS = 3


class Sizes:
  input_shape = (SYMBOLS + 1,)
  num_outputs = SYMBOLS


def recall(first, batch):
  """Two symbols, then twice a trigger that asks for them, with no lag."""
  index = first + jnp.arange(batch)
  keys = unroll.trial_keys(jax.random.key(1), index)
  shown = jax.vmap(lambda k: jax.random.randint(k, (2,), 0, SYMBOLS))(keys).T
  zeros = jnp.zeros((2, batch))
  trigger = jnp.full((2, batch), SYMBOLS)
  return interfaces.Trials(
    inputs=jax.nn.one_hot(jnp.concatenate([shown, trigger]), SYMBOLS + 1),
    targets=jnp.concatenate([jnp.zeros_like(shown), shown]),
    mask=jnp.concatenate([zeros, zeros + 0.5]),
    index=index,
  )


def cross_entropy(outputs, targets, mask):
  hit = targets[:, None] == jnp.arange(SYMBOLS)[None]
  losses = -jnp.sum(jnp.where(hit, jax.nn.log_softmax(outputs), 0), axis=-1)
  hits = jnp.argmax(outputs, axis=-1) == targets
  return jnp.mean(losses * mask), {'accuracy': jnp.mean(hits * mask)}


def errors(outputs, targets, mask):
  """A step function, which no gradient descends."""
  _, metrics = cross_entropy(outputs, targets, mask)
  return jnp.mean(mask) - metrics['accuracy'], metrics


@pytest.mark.oracle
@pytest.mark.parametrize(
  'loss', [errors, pytest.param(cross_entropy, marks=pytest.mark.slow)]
)
def test_a_gru_learns_to_recall(loss):
  """Truth: half way from chance (1/3) to the ceiling (1) on fresh trials."""
  learner = evolution.evolution(
    cells.gru(Sizes(), hidden=6),
    loss,
    population_size=48,
    elites=8,
    std=0.3,
    std_spread=0.7,
  )
  batch = 64

  @jax.jit
  def learned(key):
    state = learner.init(key, recall(0, batch))

    def advance(state, update):
      return learner.update(state, points.KEY, recall(update * batch, batch))

    return jax.lax.scan(advance, state, jnp.arange(120))[0]

  fresh = recall(10**6, 500)
  outputs = jax.jit(learner.predict)(learned(points.KEY), points.KEY, fresh)
  _, metrics = jax.vmap(cross_entropy)(outputs, fresh.targets, fresh.mask)
  accuracy = float(metrics['accuracy'].sum())
  assert accuracy > (1 / SYMBOLS + 1) / 2, accuracy

# SPDX-License-Identifier: Apache-2.0
"""Copying: the layout of a trial, built again in NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_tasks.temporal import copying

KEY = jax.random.key(0)


@pytest.mark.parametrize('symbols, lag', [(3, 2), (2, 0)])
def test_the_layout_is_sequence_lag_trigger(symbols, lag):
  """Truth: the docstring, in NumPy loops from the answers of each trial."""
  task = copying.copying(num_symbols=symbols, time_lag=lag)
  steps, batch = 2 * symbols + lag, 16
  assert task.spec.num_steps == steps
  trials = jax.jit(task.sample)(KEY, jnp.arange(batch))
  asked = np.asarray(trials.targets)[symbols + lag :]
  inputs = np.zeros((steps, batch, 10))
  targets = np.zeros((steps, batch), int)
  mask = np.zeros((steps, batch))
  for b in range(batch):
    for s in range(symbols):
      inputs[s, b, asked[s, b]] = 1
      targets[symbols + lag + s, b] = asked[s, b]
      inputs[symbols + lag + s, b, 9] = 1
      mask[symbols + lag + s, b] = 1 / symbols
    for t in range(symbols, symbols + lag):
      inputs[t, b, 0] = 1
  np.testing.assert_array_equal(trials.inputs, inputs)
  np.testing.assert_array_equal(trials.targets, targets)
  np.testing.assert_allclose(trials.mask, mask, rtol=1e-6)
  assert (asked.min(), asked.max()) == (1, 8)


def test_symbols_are_uniform_and_independent():
  """Truth: chi-square of 8 symbols and of 64 pairs of neighbours, 5 sigma."""
  task = copying.copying(num_symbols=2, time_lag=0)
  trials = jax.jit(task.sample)(KEY, jnp.arange(4096))
  first, second = np.asarray(trials.targets)[2:] - 1
  for cells, bins in ((first, 8), (second, 8), (8 * first + second, 64)):
    counts = np.bincount(cells, minlength=bins)
    expected = 4096 / bins
    chi2 = np.sum((counts - expected) ** 2) / expected
    assert abs(chi2 - (bins - 1)) < 5 * math.sqrt(2 * (bins - 1))


def test_chance_and_ceiling_are_what_ignorance_and_the_answers_score():
  """Truth: 8 equal odds: ln 8 nats, a guess right once in 8 (z < 5)."""
  task = copying.copying(num_symbols=2, time_lag=0)
  trials = jax.jit(task.sample)(KEY, jnp.arange(4096))
  symbol = (jnp.arange(10) >= 1) & (jnp.arange(10) <= 8)
  ignorant = jnp.broadcast_to(jnp.where(symbol, 0.0, -50.0), (4, 4096, 10))
  scores = task.metrics(ignorant, trials)
  np.testing.assert_allclose(scores['loss'], math.log(8), rtol=1e-5)
  assert task.spec.chance['loss'] == math.log(8)
  error = math.sqrt(7 / 64 / (2 * 4096))
  assert abs(scores['accuracy'] - task.spec.chance['accuracy']) < 5 * error
  scores = task.metrics(50 * jax.nn.one_hot(trials.targets, 10), trials)
  for name, value in task.spec.ceiling.items():
    np.testing.assert_allclose(scores[name], value, atol=1e-6)


@pytest.mark.parametrize(
  'settings', [{'num_symbols': 0}, {'time_lag': -1}, {'num_held_out': 0}]
)
def test_settings_out_of_range_are_refused(settings):
  """Truth: the documented ranges; the setting is named."""
  ((name, value),) = settings.items()
  with pytest.raises(ValueError, match=rf'^{name}={value}: '):
    copying.copying(**settings)

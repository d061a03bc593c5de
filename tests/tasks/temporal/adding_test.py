# SPDX-License-Identifier: Apache-2.0
"""Adding: the answer counted again from the inputs, chance in closed form."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_tasks.temporal import adding

KEY, BATCH = jax.random.key(0), 2000


@pytest.mark.parametrize('shortest', [None, 4])
def test_the_target_is_the_sum_of_the_marked(shortest):
  """Truth: NumPy, trial by trial; one mark in each half; then silence."""
  task = adding.adding(length=9, min_length=shortest)
  trials = task.sample(KEY, jnp.arange(BATCH))
  inputs, mask = np.asarray(trials.inputs), np.asarray(trials.mask)
  targets, lengths = np.asarray(trials.targets), np.argmax(mask, axis=0)
  assert set(lengths) == set(range(shortest or 9, 10))
  for b in range(200):
    n = lengths[b]
    values, marks = inputs[:, b, 0], inputs[:, b, 1]
    marked = np.flatnonzero(marks)
    assert len(marked) == 2 and marked[0] < n // 2 <= marked[1] < n
    assert np.all(inputs[n:, b] == 0) and mask[n, b] == mask[:, b].sum() == 1
    np.testing.assert_allclose(
      targets[n, b, 0], values[marked].sum(), rtol=1e-6
    )


def test_chance_is_the_variance_of_a_sum():
  """Truth: two uniforms: 2 / 12 for the answer 1 (z < 5), 0 for the sum."""
  task = adding.adding(length=5)
  trials = task.sample(KEY, jnp.arange(BATCH))
  scores = task.metrics(jnp.ones((6, BATCH, 1)), trials)
  # Var (s - 1)^2 = 1/15 - 1/36 for the triangular law.
  error = math.sqrt((1 / 15 - 1 / 36) / BATCH)
  assert abs(scores['mse'] - task.spec.chance['mse']) < 5 * error
  assert task.spec.chance['mse'] == 1 / 6
  assert task.metrics(trials.targets, trials)['mse'] == 0


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'length': 1}, r'^length=1'),
    ({'min_length': 1}, r'^min_length=1'),
    ({'length': 5, 'min_length': 6}, r'^min_length=6'),
    ({'num_held_out': 0}, r'^num_held_out=0'),
  ],
)
def test_settings_out_of_range_are_refused(settings, message):
  """Truth: the documented ranges."""
  with pytest.raises(ValueError, match=message):
    adding.adding(**settings)

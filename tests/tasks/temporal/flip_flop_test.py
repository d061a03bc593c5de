# SPDX-License-Identifier: Apache-2.0
"""Flip-flops, against a loop over pulses."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_tasks.temporal import flip_flop

KEY, BATCH, LENGTH = jax.random.key(0), 256, 12


def test_targets_hold_the_pulse_before():
  """Truth: a Python loop; a pulse counts from the next step on."""
  task = flip_flop.flip_flop(length=LENGTH, min_length=5, pulse_rate=0.2)
  trials = task.sample(KEY, jnp.arange(BATCH))
  inputs, mask = np.asarray(trials.inputs), np.asarray(trials.mask)
  targets, lengths = np.asarray(trials.targets), set()
  for b in range(BATCH):
    held = np.zeros(3)
    for t in range(LENGTH):
      np.testing.assert_array_equal(targets[t, b], held)
      held = np.where(inputs[t, b] != 0, inputs[t, b], held)
    asked = np.flatnonzero(mask[:, b])
    assert asked[0] == 1 and np.all(np.diff(asked) == 1)
    np.testing.assert_allclose(mask[asked, b], 1 / len(asked), rtol=1e-6)
    lengths.add(int(asked[-1]) + 1)
  assert lengths == set(range(5, LENGTH + 1))
  assert set(np.unique(inputs)) == {-1, 0, 1} and np.all(inputs[0] != 0)


def test_pulses_are_as_rare_as_asked_for_and_fair():
  """Truth: a binomial law, 5 standard errors."""
  task = flip_flop.flip_flop(length=LENGTH, pulse_rate=0.2)
  pulses = np.asarray(task.sample(KEY, jnp.arange(BATCH)).inputs)[1:]
  there = pulses != 0
  assert abs(there.mean() - 0.2) < 5 * math.sqrt(0.16 / pulses.size)
  assert abs(pulses[there].mean()) < 5 / math.sqrt(there.sum())


def test_holding_nothing_scores_1():
  """Truth: targets are -1 or 1 from the first asked step on."""
  task = flip_flop.flip_flop(length=LENGTH)
  trials = task.sample(KEY, jnp.arange(8))
  scores = task.metrics(jnp.zeros((LENGTH, 8, 3)), trials)
  assert scores['mse'] == pytest.approx(task.spec.chance['mse'], rel=1e-6)
  assert task.metrics(trials.targets, trials)['mse'] == 0


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'num_bits': 0}, r'^num_bits=0'),
    ({'length': 1}, r'^length=1'),
    ({'min_length': 1}, r'^min_length=1'),
    ({'min_length': 51}, r'^min_length=51'),
    ({'pulse_rate': 0.0}, r'^pulse_rate=0'),
  ],
)
def test_settings_out_of_range_are_refused(settings, message):
  """Truth: the documented ranges."""
  with pytest.raises(ValueError, match=message):
    flip_flop.flip_flop(**settings)

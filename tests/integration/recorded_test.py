# SPDX-License-Identifier: Apache-2.0
"""A user's own arrays are learned as the README does it."""

import numpy as np
import optax

import bionet_core as core
import bionet_learners as bl
import bionet_tasks as tasks


def test_a_gru_learns_trials_of_different_lengths():
  """Truth: the class is the sign of the first input; chance is about a half."""
  rng = np.random.default_rng(0)
  inputs = [rng.normal(size=(n, 2)) for n in rng.integers(2, 5, 200)]
  targets = [int(trial[0, 0] > 0) for trial in inputs]
  task = tasks.from_arrays(inputs, targets, name='sign')
  cell = core.gru(task.spec, hidden=8)
  learner = bl.descend(bl.bptt(cell, task.loss), optax.adam(0.05))
  _, rows = bl.train(learner, task, num_updates=60, batch_size=32, seed=0)
  assert task.spec.chance['accuracy'] < 0.7
  assert rows[-1]['accuracy'] > 0.9

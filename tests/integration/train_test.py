# SPDX-License-Identifier: Apache-2.0
"""`bionet_learners.train` on a task of `bionet_tasks`."""

import optax

import bionet_core as core
import bionet_learners as bl
import bionet_tasks as tasks


def test_a_gru_learns_to_copy_a_symbol():
  """Truth: chance is ln 8 nats and 1 in 8; a seed gives its rows."""
  task = tasks.copying(num_symbols=1, time_lag=1, num_held_out=100)

  def run(num_updates):
    cell = core.gru(task.spec, hidden=16)
    learner = bl.descend(bl.bptt(cell, task.loss), optax.adam(0.05))
    return bl.train(
      learner, task, num_updates=num_updates, batch_size=16, seed=1
    )

  _, rows = run(60)
  assert rows[-1]['accuracy'] > 0.9
  assert rows[-1]['loss'] < task.spec.chance['loss'] / 2
  assert run(3)[1] == run(3)[1]

# SPDX-License-Identifier: Apache-2.0
"""Restarts, as a config asks for them.

Truth: counts by hand, and the messages.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.runs import build, updates
from tests.experiments.runs import small_runs


def _restarted(task='cell_fate', network='tissue', **settings):
  config = small_runs.config(task, network, 'bptt')
  few = {'count': 3, 'num_trials': 4, 'validate_every': 2}
  config.restarts.update({**few, **settings})
  return config


def test_restarts_are_set_in_the_config():
  """Truth: the counts; the pick is one of three, judged on fresh draws.

  Validation draws are no draws of an evaluation: the noise has another key.
  """
  run = build.build(_restarted())
  state = updates.trained(run)
  copies = state.rule_state.shared
  assert {len(x) for x in jax.tree.leaves(copies.params)} == {3}
  assert bool(copies.trained) and run.first.rule is None
  own = [
    np.array_equal(copies.params[m][k][n], state.params[m][k])
    for n in range(3)
    for m, k in (('rate/~/linear_0', 'w'),)
  ]
  assert sum(own) <= 1
  evaluation = run.first.task.evaluations['held_out']

  @jax.jit
  def utility(state):
    trials = evaluation.sample(run.first.keys.held_out, jnp.arange(4))
    outputs = run.first.learner.predict(
      state, run.first.keys.held_out_noise, trials
    )
    return run.first.task.metrics(outputs, trials)['utility']

  assert copies.score != utility(state)


@pytest.mark.parametrize(
  ('config', 'error', 'message'),
  [
    (_restarted('digits', 'gru'), ValueError, 'has none beside its data'),
    (_restarted(evaluations=('half',)), KeyError, "Did you mean 'half_dt'"),
    (_restarted(num_trials=0), ValueError, 'restarts.num_trials=0, '),
    (_restarted(count=0), ValueError, '^restarts.count=0: must be'),
    (_restarted(active=4), ValueError, '^restarts.active=4: must be'),
    (
      _restarted(validate_every=5),
      ValueError,
      'validate_every=5: .* 3 or less, .* updates 2 to 4 ',
    ),
  ],
)
def test_restarts_that_cannot_be_are_refused(config, error, message):
  """Truth: the messages."""
  with pytest.raises(error, match=message):
    build.build(config)


def test_the_last_stage_of_restarts_is_judged():
  """Truth: multiples of 3 and 4 among the updates of stages, by hand."""
  config = _restarted(validate_every=3)  # judged after update 3 of 1 to 4
  for every, steps, judged in ((3, 1, False), (3, 2, True), (4, 3, False)):
    config.stages.b = {
      'num_updates': steps,
      'restarts': {'validate_every': every},
    }
    if judged:
      build.build(config)
      continue
    with pytest.raises(ValueError, match=f'the updates 5 to {4 + steps} '):
      build.build(config)
  config.stages, config.num_updates = {}, 1
  with pytest.raises(ValueError, match=r'num_updates=1: .*count=3'):
    build.build(config)

# SPDX-License-Identifier: Apache-2.0
"""What a learner descends has the task's name for it, or another one.

Truth: names by hand.
"""

import jax
import jax.numpy as jnp
import optax
import pytest

import bionet_core as core
import bionet_learners as bl
import bionet_tasks as tasks
from bionet_learners import base, replicas

KEY = jax.random.key(0)


@pytest.mark.parametrize(
  ('metrics', 'name'),
  [
    (('loss', 'accuracy'), 'loss'),
    (('changed', 'local_loss'), 'local_loss'),
    (('loss', 'local_loss'), 'loss'),
    (('loss_mean', 'lossy'), None),
    ((), None),
  ],
)
def test_the_loss_is_found_by_its_name(metrics, name):
  """Truth: by hand."""
  assert base.objective(metrics) == name


def _said(learner, trials) -> set[str]:
  """The names of the metrics of an update, which is only traced."""
  state = jax.eval_shape(learner.init, KEY, trials)
  _, metrics = jax.eval_shape(learner.update, state, KEY, trials)
  return {*metrics}


def test_a_local_loss_is_no_loss_of_the_task():
  """Truth: by hand; copies of the learner call theirs alike."""
  task = tasks.prototypes(num_prototypes=3, dim=6, num_data=12, num_held_out=6)
  network = core.asymmetric(task.spec, hidden=4)
  rule = bl.local_plasticity(network, clamped=2, free=2, evaluation_sweeps=2)
  learner = bl.descend(rule, optax.sgd(0.1))
  trials = task.sample(KEY, jnp.arange(4))
  own = {'local_loss', 'changed', 'gradient_norm', 'update_norm'}
  assert _said(learner, trials) == own
  copies = replicas.restarts(
    learner, 2, lambda predict: jnp.zeros(()), validate_every=2
  )
  said = _said(copies, trials)
  assert own < said and 'local_loss_best' in said
  assert not {'loss', 'loss_best'} & said


@pytest.mark.parametrize('rule', [bl.bptt, bl.e_prop, bl.rtrl])
def test_a_loss_with_a_penalty_has_a_name_of_its_own(rule):
  """Truth: by hand; an evaluation knows no rates, and so no penalty."""
  task = tasks.copying(num_symbols=1, time_lag=1)
  trials = task.sample(KEY, jnp.arange(2))
  for weight, name in ((0.0, 'loss'), (5.0, 'penalized_loss')):
    cell = core.spiking(task.spec, hidden=3, rate_weight=weight)
    learner = bl.descend(rule(cell, task.loss), optax.sgd(0.1))
    losses = {said for said in _said(learner, trials) if 'loss' in said}
    assert losses == {name}

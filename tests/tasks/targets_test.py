# SPDX-License-Identifier: Apache-2.0
"""Targets that do not suit a task's loss are answered in one sentence.

Truth: the types and shapes that the loss documents.
"""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

import bionet_tasks as tasks
from bionet_tasks import base, testing

COPYING = tasks.copying(num_symbols=2, time_lag=1, num_held_out=4)
LORENZ = tasks.lorenz(length=3, num_held_out=4)


def changed(task, change):
  """The task with other targets, in training and evaluations."""

  def with_targets(sample):
    def changed_sample(*args):
      trials = sample(*args)
      return dataclasses.replace(trials, targets=change(trials.targets))

    return changed_sample

  evaluations = {
    name: evaluation._replace(sample=with_targets(evaluation.sample))
    for name, evaluation in task.evaluations.items()
  }
  return task._replace(
    sample=with_targets(task.sample), evaluations=evaluations
  )


def one_hot(targets):
  return jax.nn.one_hot(targets, COPYING.spec.num_outputs)


CASES = {
  'one-hot': (
    COPYING,
    one_hot,
    'trials: targets=float32[8, 10]: must be class numbers, int [B]; of '
    'one-hot targets take jnp.argmax(targets, axis=-1).',
  ),
  'one-hot integers': (
    COPYING,
    lambda targets: one_hot(targets).astype(int),
    'trials: targets=int32[8, 10]: must be class numbers, int [B]; of one-hot '
    'targets take jnp.argmax(targets, axis=-1).',
  ),
  'one-hot of a class too many': (
    COPYING,
    lambda targets: jnp.pad(one_hot(targets), [(0, 0), (0, 0), (0, 1)]),
    'trials: targets=float32[8, 11]: must be class numbers, int [B]; of '
    'one-hot targets take jnp.argmax(targets, axis=-1).',
  ),
  'classes as floats': (
    COPYING,
    lambda targets: targets.astype(float),
    'trials: targets=float32[8]: must be class numbers, int [B].',
  ),
  'classes in a column': (
    COPYING,
    lambda targets: targets[..., None],
    'trials: targets=int32[8, 1]: must be class numbers, int [B]; of one-hot '
    'targets take jnp.argmax(targets, axis=-1).',
  ),
  'a number for a vector': (
    LORENZ,
    lambda targets: targets[..., 0],
    'trials: targets=float32[8]: must be float32[8, 3], as the outputs.',
  ),
}


@pytest.mark.parametrize('name', CASES)
def test_check_task_says_what_does_not_suit(name):
  """Truth: the whole sentence; no text of another library's before it."""
  task, change, end = CASES[name]
  with pytest.raises(AssertionError) as info:
    testing.check_task(changed(task, change), memory=task is COPYING)
  outputs = f'float32[8, {task.spec.num_outputs}]'
  assert (
    str(info.value) == f'the loss must take outputs {outputs} and the {end}'
  )


def test_cross_entropy_says_it_to_a_rule_too():
  """Truth: under jit, where shapes are known; two trials of two classes."""
  score = jax.jit(base.cross_entropy)
  outputs, mask = jnp.zeros((2, 2)), jnp.ones(2)
  with pytest.raises(ValueError, match=r'^targets=float32\[2, 2\]: must be cl'):
    score(outputs, jnp.eye(2), mask)
  loss, _ = score(outputs, jnp.argmax(jnp.eye(2), axis=-1), mask)
  assert float(loss) == pytest.approx(0.6931472)

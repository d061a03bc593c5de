# SPDX-License-Identifier: Apache-2.0
"""What the metrics of a run are: their units, and what they mean in words."""

from collections.abc import Iterable, Mapping

from bionet_tasks import base as tasks

_LEARNERS: Mapping[str, tasks.Measure] = {
  name: tasks.Measure('', meaning)
  for name, meaning in {
    'local_loss': "sum of the edges' local losses, in units of a field: no "
    'error of the outputs',
    'penalized_loss': "the task's loss and the cell's penalty",
    'changed': 'share of hidden units that the last sweep still changed',
    'loss_mean': 'the mean loss of the population',
    'loss_std': 'its standard deviation',
    'loss_best': 'the least loss of the copies',
    'restarts': 'copies in all',
    'stood_still': 'copies whose update was not finite, and was left out',
    'validation': 'the main metric of the pick on validation draws; minus it '
    'where less is better',
    'validation_mean': 'the mean of the copies, likewise',
    'untrained_best': 'the best of the untrained copies, likewise',
    'untrained_mean': 'their mean, likewise',
  }.items()
}


def of(spec: tasks.TaskSpec) -> dict[str, tasks.Measure]:
  """`{metric: Measure}` of a task and of the learners of this project."""
  return {**_LEARNERS, **spec.measures}


def legend(
  names: Iterable[str], measures: Mapping[str, tasks.Measure]
) -> list[str]:
  """A line for each metric that is known: `loss: cross-entropy, in nats`."""
  return [
    f'  {name}: {measures[name].meaning}'
    + (f', in {measures[name].unit}' if measures[name].unit else '')
    for name in names
    if name in measures
  ]

# SPDX-License-Identifier: Apache-2.0
"""Restarts of a run: copies of its learner, and on which draws they compare."""

import jax
import jax.numpy as jnp
import ml_collections

from bionet_core import plugins
from bionet_learners import base as learners
from bionet_learners import replicas
from bionet_tasks import base as tasks
from experiments.runs import sections

KEYS = sections.keys_of('restarts', ('count', 'validate_every', 'active'))
"""The config's keys of the arguments of `replicas.restarts`."""

_VALIDATION = 0x76616C69  # folded into the keys of validation draws: 'vali'


def with_restarts(
  settings: ml_collections.ConfigDict,
  task: tasks.Task,
  learner: learners.Learner,
  data_key: jax.Array,
  noise_key: jax.Array,
) -> learners.Learner:
  """The learner, or as many copies of it as `config.restarts` says.

  Args:
    settings: the section `restarts` of a config.
    task: its evaluations are drawn anew to compare the copies.
    learner: the learner that is copied.
    data_key: the run's key of held-out trials, from which that of the
      validation draws follows.
    noise_key: likewise, of their noise.

  Raises:
    KeyError: for an evaluation that the task lacks.
    ValueError: for a task of finite data, or settings that cannot be.
  """
  if settings.count == 1:
    return learner
  spec = task.spec
  if spec.num_data is not None:
    raise ValueError(
      f'restarts.count={settings.count}: must be 1, for copies are compared '
      f'on fresh draws, and task {spec.name!r} has none beside its data.'
    )
  for name in settings.evaluations:
    if name not in task.evaluations:
      raise KeyError(
        f'restarts.evaluations={tuple(settings.evaluations)}: task '
        f'{spec.name!r} has none named {name!r}.'
        f'{plugins.near(name, task.evaluations)} '
        f'There are: {", ".join(task.evaluations)}.'
      )
  if settings.num_trials < 1 or not settings.evaluations:
    raise ValueError(
      f'restarts.num_trials={settings.num_trials}, restarts.evaluations='
      f'{tuple(settings.evaluations)}: of both at least 1 is needed.'
    )
  data = jax.random.fold_in(data_key, _VALIDATION)
  noise = jax.random.fold_in(noise_key, _VALIDATION)
  up = spec.ceiling[spec.metric] > spec.chance[spec.metric]

  def validate(predict):
    index, scores = jnp.arange(settings.num_trials), []
    for name in settings.evaluations:
      trials = task.evaluations[name].sample(data, index)
      value = task.metrics(predict(noise, trials), trials)[spec.metric]
      scores.append(value if up else -value)
    return jnp.min(jnp.stack(scores))

  with sections.named_in(KEYS):
    return replicas.restarts(
      learner,
      settings.count,
      validate,
      validate_every=settings.validate_every,
      active=settings.active or None,
    )


def check_validated(
  settings: ml_collections.ConfigDict, start: int, num_updates: int
) -> None:
  """Raises ValueError if the last stage of a run validates no copy.

  Args:
    settings: the section `restarts` of the last stage.
    start: updates of the stages before.
    num_updates: updates of the last stage.
  """
  if settings.count == 1:
    return
  # The first update of the run judges the copies, and changes none.
  first, last = max(start, 1) + 1, start + num_updates
  if first > last:
    raise ValueError(
      f'num_updates={last}: must be at least 2 for restarts.count='
      f'{settings.count}: the first update judges the copies and changes none.'
    )
  every = settings.validate_every
  if every > 0 and last // every == (first - 1) // every:
    raise ValueError(
      f'restarts.validate_every={every}: must be {last - first + 1} or less, '
      f'for none of the updates {first} to {last} is a multiple of it: what '
      'the copies learn there would never be judged, so never be picked.'
    )

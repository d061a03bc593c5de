# SPDX-License-Identifier: Apache-2.0
"""Scores of a learner on the evaluations of its task."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax

from bionet_core import interfaces
from bionet_learners import base as learners
from bionet_learners.training import scoring, writers
from bionet_tasks import base as tasks
from experiments.runs import records, updates


class Judged(NamedTuple):
  """A run, judged on every evaluation of its task.

  Attributes:
    run: what the config built.
    state: the state that is judged.
    untrained: the state that the run's seed gives, before any update.
    update: updates behind `state`.
    rows: rows of metrics.jsonl up to that update.
    evaluations: `{name: {'num_trials', 'trained', 'untrained', 'gain'}}`: the
      metrics of both states and their difference, and where the task describes
      answers, 'described', the descriptions of both.
    trials: those of 'held_out'.
    outputs: the answers of `state` to them, float `[T, B, O]`.
    untrained_outputs: those of `untrained`.
  """

  run: records.Run
  state: learners.LearnerState
  untrained: learners.LearnerState
  update: int
  rows: Sequence[writers.Row]
  evaluations: Mapping[str, Mapping]
  trials: interfaces.Trials
  outputs: jax.Array
  untrained_outputs: jax.Array


def score(
  learner: learners.Learner,
  state: learners.LearnerState,
  task: tasks.Task,
  evaluation: tasks.Evaluation,
  sample_key: jax.Array,
  noise_key: jax.Array,
) -> scoring.Score:
  """Scores one state: `make_score` for a single use."""
  return scoring.make_score(learner, task, evaluation, sample_key, noise_key)(
    state
  )


def score_run(
  run: records.Run, state: learners.LearnerState, name: str = 'held_out'
) -> scoring.Score:
  """Scores a state on an evaluation of its run: `scorer` for a single use."""
  return scorer(run, name)(state)


def scorer(
  run: records.Run, name: str = 'held_out'
) -> Callable[[learners.LearnerState], scoring.Score]:
  """The `make_score` of an evaluation of the task that judges a run."""
  stage = run.first
  return scoring.make_score(
    stage.learner,
    stage.task,
    stage.task.evaluations[name],
    stage.keys.held_out,
    stage.keys.held_out_noise,
  )


def judge(
  run: records.Run,
  state: learners.LearnerState,
  update: int,
  rows: Sequence[writers.Row],
  held_out: Callable[[learners.LearnerState], scoring.Score] | None = None,
) -> Judged:
  """Judges a state on every evaluation, beside the untrained one.

  Args:
    run: what was built of the run's config.
    state: the state, whole.
    update: updates behind it.
    rows: rows of metrics.jsonl up to that update.
    held_out: the `scorer` of 'held_out', where it is compiled.
  """
  untrained = updates.init(run)
  task = run.first.task
  describe = task.describe
  evaluations, answers = {}, {}
  for name, evaluation in task.evaluations.items():
    scored = held_out if name == 'held_out' else None
    scored = scored or scorer(run, name)
    content = {'num_trials': evaluation.num_trials}
    described = {}
    for side, judged in (('trained', state), ('untrained', untrained)):
      content[side], outputs, trials = scored(judged)
      if describe is not None:
        described[side] = describe(outputs, trials)
      if name == 'held_out':
        answers[side] = outputs, trials
    content['gain'] = {
      metric: value - content['untrained'][metric]
      for metric, value in content['trained'].items()
    }
    if describe is not None:
      content['described'] = described
    evaluations[name] = content
  outputs, trials = answers['trained']
  return Judged(
    run=run,
    state=state,
    untrained=untrained,
    update=update,
    rows=rows,
    evaluations=evaluations,
    trials=trials,
    outputs=outputs,
    untrained_outputs=answers['untrained'][0],
  )


def score_training_trials(
  run: records.Run, state: learners.LearnerState
) -> dict[str, float]:
  """The metrics of a state on the training trials of the last stage."""
  stage = run.last
  metrics, _, _ = score(
    stage.learner,
    state,
    stage.task,
    on_training_trials(stage.task, stage.batch_size),
    stage.keys.data,
    stage.keys.noise,
  )
  return metrics


def on_training_trials(task: tasks.Task, batch_size: int) -> tasks.Evaluation:
  """The training trials as an evaluation: it tells learning from memorizing.

  All samples of a finite training set; else the first of the run, as many as
  are held out. With the run's data key and batch size they are the very trials;
  of a stream, each batch is judged from the initial state.
  """
  held_out = task.evaluations['held_out'].num_trials
  sample = functools.partial(task.sample, batch_size=batch_size)
  return tasks.Evaluation(task.spec.num_data or held_out, sample)

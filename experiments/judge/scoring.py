# SPDX-License-Identifier: Apache-2.0
"""Scores of a learner on the evaluations of its task."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bionet_core import interfaces, unroll
from bionet_learners import base as learners
from bionet_learners.training import writers
from bionet_tasks import base as tasks
from experiments.runs import records, updates

_MAX_CHUNK = 1000  # trials predicted at once: bounds what a prediction takes

Score = tuple[dict[str, float], jax.Array, interfaces.Trials]


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
) -> Score:
  """Scores one state: `make_score` for a single use."""
  return make_score(learner, task, evaluation, sample_key, noise_key)(state)


def score_run(
  run: records.Run, state: learners.LearnerState, name: str = 'held_out'
) -> Score:
  """Scores a state on an evaluation of its run: `scorer` for a single use."""
  return scorer(run, name)(state)


def make_score(
  learner: learners.Learner,
  task: tasks.Task,
  evaluation: tasks.Evaluation,
  sample_key: jax.Array,
  noise_key: jax.Array,
) -> Callable[[learners.LearnerState], Score]:
  """What predicts all trials of an evaluation and measures the predictions.

  Trials are predicted in chunks of one size; metrics are those of all trials
  together, so the chunks change nothing. Compiled at the first call only.

  Args:
    learner: the learner; its `predict` reads no targets.
    task: gives the metrics.
    evaluation: the trials.
    sample_key: draws the trials.
    noise_key: draws the noise of the trials.

  Returns:
    From the learner's state to the metrics as floats, the outputs `[T, B, O]`
    and the trials.
  """
  total = evaluation.num_trials
  num_chunks = math.ceil(total / _MAX_CHUNK)
  chunk = math.ceil(total / num_chunks)

  @jax.jit
  def compiled(state):
    trials = evaluation.sample(sample_key, jnp.arange(total))
    timed = unroll.timed(trials)

    def predict(index):
      # The last chunk is filled up with copies of the last trial.
      index = jnp.minimum(index, total - 1)
      part = jax.tree.map(lambda x: x[:, index], timed)
      return learner.predict(
        state, noise_key, interfaces.Trials(index=trials.index[index], **part)
      )

    index = jnp.arange(num_chunks * chunk).reshape(num_chunks, chunk)
    outputs = jnp.moveaxis(jax.lax.map(predict, index), 0, 1)
    outputs = outputs.reshape(outputs.shape[0], -1, *outputs.shape[3:])
    outputs = outputs[:, :total]
    return task.metrics(outputs, trials), outputs, trials

  def scored(state):
    metrics, outputs, trials = compiled(state)
    return {k: float(v) for k, v in metrics.items()}, outputs, trials

  return scored


def scorer(
  run: records.Run, name: str = 'held_out'
) -> Callable[[learners.LearnerState], Score]:
  """The `make_score` of an evaluation of the task that judges a run."""
  stage = run.first
  return make_score(
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
  held_out: Callable[[learners.LearnerState], Score] | None = None,
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

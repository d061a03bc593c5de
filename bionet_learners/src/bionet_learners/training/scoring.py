# SPDX-License-Identifier: Apache-2.0
"""A learner's score on an evaluation of its task."""

import math
from collections.abc import Callable, Mapping
from typing import Protocol

import jax
import jax.numpy as jnp

from bionet_core import interfaces, unroll
from bionet_learners import base

_MAX_CHUNK = 1000  # trials predicted at once: bounds what a prediction takes

Score = tuple[dict[str, float], jax.Array, interfaces.Trials]


class EvaluationSampleFn(Protocol):
  """Makes the trials of an evaluation by their numbers."""

  def __call__(self, key: jax.Array, index: jax.Array, /) -> interfaces.Trials:
    """Returns the trials `index`, int `[B]`."""
    ...


class Evaluation(Protocol):
  """Trials that no training draw contains (`bionet_tasks.Evaluation`)."""

  @property
  def num_trials(self) -> int:
    """How many trials make the evaluation."""
    ...

  @property
  def sample(self) -> EvaluationSampleFn:
    """`(key, index [B]) -> Trials`, index from 0 to num_trials - 1."""
    ...


class MetricsFn(Protocol):
  """Scores the outputs of whole trials."""

  def __call__(
    self, outputs: jax.Array, trials: interfaces.Trials, /
  ) -> dict[str, jax.Array]:
    """Returns `{name: []}` of outputs `[T, B, O]`."""
    ...


class Task(Protocol):
  """What training needs of a task (`bionet_tasks.Task`)."""

  @property
  def sample(self) -> interfaces.SampleFn:
    """`(key, index [n], batch_size=None) -> Trials`."""
    ...

  @property
  def evaluations(self) -> Mapping[str, Evaluation]:
    """`{name: Evaluation}`; always 'held_out'."""
    ...

  @property
  def metrics(self) -> MetricsFn:
    """`(outputs [T, B, O], trials) -> {name: []}`."""
    ...


def make_score(
  learner: base.Learner,
  task: Task,
  evaluation: Evaluation,
  sample_key: jax.Array,
  noise_key: jax.Array,
) -> Callable[[base.LearnerState], Score]:
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
  def run(state):
    trials = evaluation.sample(sample_key, jnp.arange(total))

    def predict(index):
      # The last chunk is filled up with copies of the last trial.
      index = jnp.minimum(index, total - 1)
      part = jax.tree.map(lambda x: x[:, index], timed)
      return learner.predict(
        state, noise_key, interfaces.Trials(index=trials.index[index], **part)
      )

    timed = unroll.timed(trials)
    index = jnp.arange(num_chunks * chunk).reshape(num_chunks, chunk)
    outputs = jnp.moveaxis(jax.lax.map(predict, index), 0, 1)
    outputs = outputs.reshape(outputs.shape[0], -1, *outputs.shape[3:])
    outputs = outputs[:, :total]
    return task.metrics(outputs, trials), outputs, trials

  def scored(state):
    metrics, outputs, trials = run(state)
    return {k: float(v) for k, v in metrics.items()}, outputs, trials

  return scored

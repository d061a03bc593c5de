# SPDX-License-Identifier: Apache-2.0
"""Scores a trained learner on every evaluation of its task.

How to start it:

  python -m experiments.evaluate --workdir=runs/prototypes
"""

import math
import pathlib
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
from absl import flags

from bionet_core import interfaces, unroll
from bionet_learners import base as learners
from bionet_learners.training import checkpoints
from bionet_tasks import base as tasks
from experiments import build, commandline
from experiments import workdir as workdirs

_MAX_CHUNK = 1000  # trials predicted at once: bounds what a prediction takes


Score = tuple[dict[str, float], jax.Array, interfaces.Trials]


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


def on_training_trials(task: tasks.Task) -> tasks.Evaluation:
  """The training trials as an evaluation: how well is known what was learned.

  All samples of a finite training set; else the first of the run, as many as
  are held out. Sampled with the run's data key they are the very trials.
  """
  held_out = task.evaluations['held_out'].num_trials
  return tasks.Evaluation(task.spec.num_data or held_out, task.sample)


def describe(metrics: dict[str, float]) -> str:
  """Metrics on one line: `accuracy 0.9563  loss 0.1360`."""
  return '  '.join(f'{name} {value:.4f}' for name, value in metrics.items())


def _main(argv: list[str]) -> None:
  del argv
  with commandline.bad_input():
    config = workdirs.read_config(_WORKDIR.value)
    run = build.build(config)
    found = sorted(
      (
        path
        for path in pathlib.Path(_WORKDIR.value, 'checkpoints').iterdir()
        if re.fullmatch(r'checkpoint_\d+', path.name)
      ),
      key=lambda path: int(path.name.rpartition('_')[2]),
    )
    if not found:
      raise FileNotFoundError(f'--workdir={_WORKDIR.value} has no checkpoint.')
    index = jnp.arange(run.batch_size)
    template = jax.eval_shape(
      lambda: run.learner.init(
        run.keys.init, run.task.sample(run.keys.data, index)
      )
    )
    state = checkpoints.load_checkpoint(found[-1], template)
  print(f'{found[-1]}: {int(state.step)} updates')
  for name, evaluation in run.task.evaluations.items():
    metrics, _, _ = score(
      run.learner,
      state,
      run.task,
      evaluation,
      run.keys.held_out,
      run.keys.held_out_noise,
    )
    print(f'{name}: {describe(metrics)}')


if __name__ == '__main__':
  _WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder of the run to evaluate.', required=True
  )
  commandline.run(_main)

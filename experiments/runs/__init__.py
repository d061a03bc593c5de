# SPDX-License-Identifier: Apache-2.0
"""From a config to a run: its stages, and the updates they make."""

import os

from bionet_learners import base as learners
from experiments.runs import records, saved


def open(
  workdir: str | os.PathLike[str],
) -> tuple[records.Run, learners.LearnerState]:
  """Opens a run that `experiments.train` has finished, or has saved.

  The run is built anew from the config in the folder, on one device; the state
  is that of the last checkpoint that is whole. Nothing is written.

  Example, for a notebook:

    from experiments import runs

    run, state = runs.open('runs/prototypes')
    stage = run.last
    held_out = stage.task.evaluations['held_out']
    trials = held_out.sample(stage.keys.held_out, jnp.arange(5))
    outputs = stage.learner.predict(state, stage.keys.held_out_noise, trials)
    stage.task.metrics(outputs, trials)  # {'accuracy': ..., 'loss': ...}

  Args:
    workdir: the folder that was given as `--workdir`.

  Returns:
    The run; and the learner's state, with `params`, `constants` and the number
    of updates behind it in `step`.

  Raises:
    FileNotFoundError: if the folder holds no run, or no checkpoint of it.
    ValueError: if the config of the run can no longer be built.
    CorruptCheckpointError: if every checkpoint in the folder is damaged.
  """
  opened, state, _ = saved.restore(workdir)
  return opened, state

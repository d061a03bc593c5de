# SPDX-License-Identifier: Apache-2.0
"""What a config stands for: a run, which is a list of stages."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax

from bionet_core import interfaces
from bionet_learners import base as learners
from bionet_learners.training import notebook
from bionet_tasks import base as tasks

_STAGE = 0x73746167  # folded into the keys of a later stage: 'stag'


class Stage(NamedTuple):
  """A part of a run: one learner on one task.

  Attributes:
    task: the task.
    dynamics: the cell or the relaxation network.
    rule: the rule on one device; None where the learner is not made of one
      rule (evolution, or the copies of restarts).
    learner: the learner, optimizer included, on the run's devices.
    keys: the run's keys; a later stage has `data` and `noise` that differ.
    batch_size: trials per update, over all devices.
    start: updates of the run before this stage.
    num_updates: updates of this stage.
    optimizer_calls: calls of the optimizer in this stage, one per window of
      each update; 0 where the learner has no optimizer.
    learning_rate: from an update's number, counted from the start of the run,
      to the learning rate; 0 where the learner has no optimizer.
  """

  task: tasks.Task
  dynamics: interfaces.Cell | interfaces.RelaxationNetwork
  rule: learners.GradientRule | None
  learner: learners.Learner
  keys: notebook.RunKeys
  batch_size: int
  start: int
  num_updates: int
  optimizer_calls: int
  learning_rate: Callable[[chex.Numeric], chex.Numeric]

  @property
  def end(self) -> int:
    """Updates of the run up to the end of this stage."""
    return self.start + self.num_updates


class Run(NamedTuple):
  """Everything that a config stands for.

  Attributes:
    stages: the stages, at least 1, each of which goes on from the state that
      the stage before has reached.
    devices: how many devices share an update.
  """

  stages: tuple[Stage, ...]
  devices: int

  @property
  def first(self) -> Stage:
    """The first stage; its task and its keys judge the whole run."""
    return self.stages[0]

  @property
  def last(self) -> Stage:
    """The last stage, which the final state comes from."""
    return self.stages[-1]

  @property
  def num_updates(self) -> int:
    """Updates of all stages."""
    return self.last.end

  @property
  def borders(self) -> tuple[int, ...]:
    """The updates done at the end of each stage but the last."""
    return tuple(stage.end for stage in self.stages[:-1])

  def stage_at(self, update: int) -> Stage:
    """The stage that makes an update; updates are counted from 0.

    The last stage also makes the updates past its end.

    Raises:
      ValueError: if `update` is negative.
    """
    if update < 0:
      raise ValueError(f'update={update}: updates are counted from 0.')
    for stage in self.stages:
      if update < stage.end:
        return stage
    return self.last


def stage_keys(seed: int, stage: int) -> notebook.RunKeys:
  """The keys of a stage of the run with this seed.

  Stages number their trials from 0, so a later stage draws trials and noise
  under other keys; its evaluations are those of the first stage.

  Args:
    seed: the run's seed.
    stage: the number of the stage, from 0.
  """
  keys = notebook.run_keys(seed)
  if not stage:
    return keys
  return keys._replace(
    data=jax.random.fold_in(keys.data, _STAGE + stage),
    noise=jax.random.fold_in(keys.noise, _STAGE + stage),
  )

# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a run, looked for before anything is compiled."""

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import ml_collections

from bionet_core import interfaces
from bionet_learners import base as learners
from bionet_learners import testing
from bionet_learners.training import checkpoints, notebook, paths, stopping
from bionet_tasks import base as tasks
from experiments.runs import records, sections

_MAX_CREDIT_TRIALS = 4


def check_values(config: ml_collections.ConfigDict) -> None:
  """Raises ValueError for a number or a path of a config that cannot be."""
  if config.init_from:
    paths.local('init_from', config.init_from)
  for name in ('batch_size', 'log_every', 'eval_every', 'keep_last'):
    if config[name] < 1:
      raise ValueError(f'{name}={config[name]}: must be at least 1.')
  if config.checkpoint_every < 0:
    raise ValueError(
      f'checkpoint_every={config.checkpoint_every}: must be 0 (only at the '
      'end) or more.'
    )
  every = config.learner.get('every') or 0
  if every < 0:
    raise ValueError(
      f'learner.every={every}: must be 0 (at the end of the trials) or more.'
    )
  early = {k: config.early_stopping[k] for k in ('patience', 'min_delta')}
  with sections.named_in(sections.keys_of('early_stopping', early)):
    stopping.EarlyStopping('the main metric', **early).check()
  _check_finite('', config.to_dict())
  if not 0 <= config.seed < 2**32:
    raise ValueError(f'seed={config.seed}: must be from 0 to 2**32 - 1.')


def _check_finite(path: str, settings: dict) -> None:
  for name, value in settings.items():
    if isinstance(value, dict):
      _check_finite(f'{path}{name}.', value)
    elif isinstance(value, float) and not math.isfinite(value):
      raise ValueError(f'{path}{name}={value}: must be a finite number.')


def check_learner(
  learner: learners.Learner,
  task: tasks.Task,
  keys: notebook.RunKeys,
  example: interfaces.Trials,
) -> None:
  """Traces an update and every evaluation, and looks at the first batch.

  A run would otherwise fail after its compilation, or after its last update.

  Args:
    learner: on one device, since collectives mean nothing outside of pmap.
    task: the task.
    keys: the stage's keys.
    example: the shapes of a batch.

  Raises:
    ValueError: if a trial is judged nowhere or its label is none, or the task
      names a metric that its evaluations do not give; else what the learner
      itself raises.
  """
  state = jax.eval_shape(learner.init, keys.init, example)
  jax.eval_shape(learner.update, state, keys.noise, example)

  def metrics_of(state, evaluation):
    index = jnp.arange(evaluation.num_trials)
    trials = evaluation.sample(keys.held_out, index)
    outputs = learner.predict(state, keys.held_out_noise, trials)
    return task.metrics(outputs, trials)

  for name, evaluation in task.evaluations.items():
    metrics = jax.eval_shape(lambda s, e=evaluation: metrics_of(s, e), state)
    for metric in (task.spec.metric, *task.spec.chance, *task.spec.ceiling):
      if metric not in metrics:
        raise ValueError(
          f'task {task.spec.name!r} speaks of the metric {metric!r}, but its '
          f'evaluation {name!r} gives {", ".join(sorted(metrics))}.'
        )
  batch_size = example.index.shape[0]
  first = task.sample(keys.data, jnp.arange(batch_size), batch_size)
  tasks.check_judged(task.spec.name, first)
  tasks.check_labels(task, first)


def check_accumulated(
  configs: Sequence[ml_collections.ConfigDict],
  stages: Sequence[records.Stage],
) -> None:
  """Raises ValueError if gradients are gathered for a step that never comes.

  The optimizer makes one step of `optimizer.accumulate` calls, where a stage
  ends also of calls in two stages. Copies (restarts) need to make one step
  only: validation decides which of their steps count.

  Args:
    configs: the config of each stage.
    stages: the stages of a run.
  """
  first, copies = stages[0], any(c.restarts.count > 1 for c in configs)
  # The first update of copies judges them, and is none.
  calls = -(first.optimizer_calls // first.num_updates) if copies else 0
  accumulate, waiting = configs[0].optimizer.accumulate, 0
  for config, stage in zip(configs, stages, strict=True):
    if waiting and config.optimizer.accumulate != accumulate and not copies:
      raise ValueError(
        f'optimizer.accumulate changes from {accumulate} to '
        f'{config.optimizer.accumulate} where a stage begins, after {calls} '
        f'calls of the optimizer: the last {waiting} of them would make no '
        'step.'
      )
    accumulate = config.optimizer.accumulate
    calls += stage.optimizer_calls
    waiting = (waiting + stage.optimizer_calls) % accumulate
  if 0 < calls < accumulate:
    raise ValueError(
      f'optimizer.accumulate is {accumulate}, and the run calls the optimizer '
      f'{calls} times: it would make no step, and nothing be learned.'
    )
  if waiting and not copies:
    raise ValueError(
      f'optimizer.accumulate is {accumulate}, and the run calls the optimizer '
      f'{calls} times: the last {waiting} would make no step. It must divide '
      f'the calls; change it, or num_updates.'
    )


def check_goes_on(
  name: str,
  stage: records.Stage,
  state: learners.LearnerState,
  before: learners.LearnerState,
  keys: Mapping[str, str],
) -> None:
  """Raises ValueError unless a stage can go on from the stage before.

  Args:
    name: the stage's name in the config.
    stage: the stage.
    state: the shapes of its own first state.
    before: the shapes of the state that it goes on from.
    keys: the config's keys of the learner's arguments.
  """
  checkpoints.check_like(
    state.params, before.params, f'stages.{name} has other parameters: '
  )
  try:
    with sections.named_in(keys):
      shared = jax.eval_shape(stage.learner.take_over, before.rule_state.shared)
  except ValueError as error:
    raise ValueError(f'stages.{name}: {error}') from error
  checkpoints.check_like(
    state.rule_state.shared,
    shared,
    f'stages.{name}: what the learner remembers has another shape: ',
  )
  checkpoints.check_like(
    state.opt_state,
    before.opt_state,
    f'stages.{name}: the optimizer keeps another state: ',
  )


def check_credit(run: records.Run) -> str:
  """Holds the rule of a run's first stage against the gradient of its loss.

  Meant for a cell that the project does not test: how a rule reads the step of
  a cell decides which credit its synapses get, and a step that the rule
  misreads would train without an error.

  Args:
    run: its rule is on one device, its cell without a policy of precision,
      for the check computes in float64.

  Returns:
    One line: what is checked, or why nothing is.

  Raises:
    AssertionError: naming the law that the rule breaks.
  """
  stage = run.first
  cell, rule, task = stage.dynamics, stage.rule, stage.task
  if rule is None or not isinstance(cell, interfaces.Cell):
    return 'credit not checked: only rules on cells give credit over time.'
  # A population loss needs its whole batch; any trial has a loss of the other
  # kind, and few of them keep the check short.
  num_trials = stage.batch_size
  if task.spec.loss_kind == 'per_trial':
    num_trials = min(num_trials, _MAX_CREDIT_TRIALS)
  trials = task.sample(stage.keys.data, jnp.arange(num_trials), num_trials)
  check = testing.check_credit
  return check(cell, task.loss, rule, trials)

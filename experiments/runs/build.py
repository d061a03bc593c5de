# SPDX-License-Identifier: Apache-2.0
"""From a config to a run, checked before it is compiled."""

import itertools
import math

import jax
import jax.numpy as jnp
import ml_collections

from bionet_core import interfaces, unroll
from bionet_learners import base as learners
from bionet_tasks import base as tasks
from experiments.runs import (
  checks,
  factories,
  optimizers,
  parallel,
  records,
  restarts,
  sections,
)

_OPTIMIZER = 0x6F707469  # folded into the noise key of an optimizer: 'opti'


def build(config: ml_collections.ConfigDict) -> records.Run:
  """Builds a run, and checks it before it is compiled.

  An update and every evaluation are traced, and the first batch of every stage
  is drawn: each of its trials must be judged somewhere.

  Args:
    config: see `experiments/configs/base.py` for the keys that all share.

  Raises:
    KeyError, TypeError, ValueError: for a name, a setting or a combination that
      cannot be; the message says which and what is possible.
  """
  configs = sections.stage_configs(config)
  stage_tasks = []
  for stage_config in configs:
    checks.check_values(stage_config)
    parallel.check(stage_config.devices, stage_config.batch_size)
    stage_tasks.append(factories.make_task(stage_config))
  # Learning rates are scheduled over the whole run, so its length comes first.
  ends = [
    *itertools.accumulate(
      map(sections.count_updates, configs, stage_tasks), initial=0
    )
  ]
  stages = [
    _build_stage(stage_config, task, number, span, ends[-1])
    for number, (stage_config, task, span) in enumerate(
      zip(configs, stage_tasks, itertools.pairwise(ends), strict=True)
    )
  ]
  checks.check_accumulated(configs, stages)
  restarts.check_validated(
    configs[-1].restarts, stages[-1].start, stages[-1].num_updates
  )
  states = [
    jax.eval_shape(
      stage.learner.init,
      stage.keys.init,
      _example(stage.task, stage.batch_size),
    )
    for stage in stages
  ]
  for name, stage_config, stage, (before, state) in zip(
    sorted(config.stages),
    configs[1:],
    stages[1:],
    itertools.pairwise(states),
    strict=True,
  ):
    keys = {**factories.learner_keys(stage_config), **restarts.KEYS}
    checks.check_goes_on(name, stage, state, before, keys)
  return records.Run(tuple(stages), config.devices)


def _build_stage(config, task, number, span, total) -> records.Stage:
  """A stage of the updates of `span` in a run of `total` updates."""
  start, end = span
  keys = records.stage_keys(config.seed, number)
  example = _example(task, config.batch_size)
  dynamics = factories.make_dynamics(config, task)
  windows = _windows(config, example)
  optimizer = _make_optimizer(config, dynamics, keys, example, total, windows)
  rule = factories.make_rule(config, task, dynamics, optimizer.transformation)

  def learner_of(rule, devices):
    learner = restarts.with_restarts(
      config.restarts,
      task,
      factories.make_learner(config, rule, optimizer.transformation, devices),
      data_key=keys.held_out,
      noise_key=keys.held_out_noise,
    )
    # Checks, ranges of every length and evaluations then share one trace.
    return learner._replace(
      init=jax.jit(learner.init),
      update=jax.jit(learner.update),
      predict=jax.jit(learner.predict),
    )

  learner = learner_of(rule, learners.ONE)
  with sections.named_in(factories.learner_keys(config)):
    checks.check_learner(learner, task, keys, example)
  if config.devices > 1:
    devices = parallel.devices(config.devices)
    many = factories.make_rule_on(
      devices, rule, config, task, dynamics, optimizer.transformation
    )
    learner = learner_of(many, devices)
  is_rule = isinstance(rule, learners.GradientRule)
  descends = is_rule or factories.takes(config.learner, 'optimizer')
  return records.Stage(
    task=task,
    dynamics=dynamics,
    rule=rule if is_rule and config.restarts.count == 1 else None,
    learner=learner,
    keys=keys,
    batch_size=config.batch_size,
    start=start,
    num_updates=end - start,
    optimizer_calls=(end - start) * windows if descends else 0,
    learning_rate=optimizer.rate if descends else lambda update: 0.0,
  )


def _example(task: tasks.Task, batch_size: int) -> interfaces.Trials:
  """The shapes of a batch."""
  index = jnp.arange(batch_size)
  return jax.eval_shape(
    lambda key: task.sample(key, index, batch_size), unroll.seed_key(0)
  )


def _windows(config, example: interfaces.Trials) -> int:
  """Windows of an update, after each of which the optimizer is called."""
  every = config.learner.get('every')
  return math.ceil(example.mask.shape[0] / every) if every else 1


def _make_optimizer(config, dynamics, keys, example, num_updates, windows):
  """The optimizer of a stage: the shapes of the parameters are all it needs."""
  params, _ = jax.eval_shape(
    lambda key, trials: dynamics.init(key, trials.inputs[0]),
    keys.init,
    example,
  )
  return optimizers.make_optimizer(
    config.optimizer,
    num_updates,
    params,
    windows,
    jax.random.fold_in(keys.noise, _OPTIMIZER),
  )

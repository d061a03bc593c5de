# SPDX-License-Identifier: Apache-2.0
"""The updates of a run, compiled, on one device or on several."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bionet_core import interfaces
from bionet_learners import base as learners
from bionet_learners.training import learner as learner_ranges
from bionet_learners.training import metrics
from experiments.runs import parallel, records


def init(run: records.Run) -> learners.LearnerState:
  """The learner's state before the first update of a run, whole."""
  return init_stage(run.first)


def init_stage(stage: records.Stage) -> learners.LearnerState:
  """The state that a stage would begin with if it were the first."""
  return jax.jit(lambda key, data_key: _begun(stage, key, data_key))(
    stage.keys.init, stage.keys.data
  )


def _begun(stage: records.Stage, key, data_key) -> learners.LearnerState:
  """To be compiled: of the first trials only the shapes count."""
  index = jnp.arange(stage.batch_size)
  trials = stage.task.sample(data_key, index, stage.batch_size)
  return stage.learner.init(key, trials)


def place(
  run: records.Run, state: learners.LearnerState, update: int = 0
) -> learners.LearnerState:
  """A whole state, `update` updates behind it, as the run's devices hold it."""
  return _place(_stage_behind(run, update), state, run.devices)


def _place(stage, state, devices: int) -> learners.LearnerState:
  if devices == 1:
    # Compiled updates return committed arrays. Arrays that are not committed
    # would compile the first range of updates a second time.
    return jax.device_put(state, jax.local_devices()[0])
  return parallel.shard(state, stage.learner, devices)


def whole(
  run: records.Run, state: learners.LearnerState, update: int
) -> learners.LearnerState:
  """What `place` laid out, whole again: to be saved or to predict with."""
  if run.devices == 1:
    return state
  return parallel.whole(state, _stage_behind(run, update).learner)


def template(run: records.Run, update: int) -> learners.LearnerState:
  """The shapes of the whole state after so many updates."""
  return jax.eval_shape(lambda: init_stage(_stage_behind(run, update)))


def _stage_behind(run: records.Run, update: int) -> records.Stage:
  """The stage that a state after so many updates comes from."""
  return run.stage_at(max(update - 1, 0))


def make_advance(stage: records.Stage, devices: int = 1):
  """The compiled range: `(state, first, count) -> (state, {name: [count]})`.

  The state is laid out by `place`; its memory is given up. Updates are counted
  from the start of the stage.
  """
  keys = {'data_key': stage.keys.data, 'noise_key': stage.keys.noise}
  if devices == 1:
    return learner_ranges.make_advance(
      stage.learner, stage.task.sample, **keys, batch_size=stage.batch_size
    )
  return parallel.make_advance(
    stage.learner,
    stage.task.sample,
    devices,
    **keys,
    batch_size=stage.batch_size,
  )


def make_advance_between(
  run: records.Run,
) -> Callable[..., tuple[learners.LearnerState, list[metrics.Metrics]]]:
  """`(state, first, last) -> (state, parts)`, for `ranges.train_ranges`.

  A range lies within one stage. Where a stage begins, the state goes on with
  its parameters, its optimizer and what the learner of the stage takes over of
  what the rule shared; what the rule keeps per trial begins anew, since another
  stage may have other trials.
  """
  compiled = {}  # by the start of the stage: one is compiled when it begins

  def advance(state, first, last):
    stage = run.stage_at(first)
    start = stage.start
    if start not in compiled:
      sample, size = stage.task.sample, stage.batch_size
      compiled[start] = learner_ranges.advance_between(
        make_advance(stage, run.devices),
        learner_ranges.longest_range(sample, stage.keys.data, size),
        lambda update, stage=stage: stage.learning_rate(stage.start + update),
      )
    if first == start > 0:
      before = whole(run, state, first)
      rule_state = learners.RuleState(
        shared=jax.jit(stage.learner.take_over)(before.rule_state.shared),
        per_trial=_fresh_per_trial(stage),
      )
      state = _place(stage, before._replace(rule_state=rule_state), run.devices)
    return compiled[start](state, first - start, last - start)

  return advance


def _fresh_per_trial(stage: records.Stage) -> interfaces.ArrayTree:
  """What the rule of a stage keeps per trial before its first update."""

  @jax.jit  # which drops, and does not compile, the rest of the state
  def per_trial(key, data_key):
    return _begun(stage, key, data_key).rule_state.per_trial

  return per_trial(stage.keys.init, stage.keys.data)


def trained(run: records.Run) -> learners.LearnerState:
  """The state after all updates, with nothing evaluated or saved between."""
  state = place(run, init(run))
  advance, first = make_advance_between(run), 0
  for last in (*run.borders, run.num_updates):
    state, _ = advance(state, first, last)
    first = last
  return whole(run, state, run.num_updates)

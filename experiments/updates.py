# SPDX-License-Identifier: Apache-2.0
"""The updates of a run, compiled, on one device or on several."""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from bionet_core import interfaces
from bionet_learners import base as learners
from bionet_learners.training import learner as ranges
from bionet_learners.training import metrics
from experiments import build, parallel


def init(run: build.Run) -> learners.LearnerState:
  """The learner's state before the first update, whole."""
  return jax.jit(run.learner.init)(run.keys.init, _first_trials(run))


def _first_trials(run: build.Run) -> interfaces.Trials:
  index = jnp.arange(run.batch_size)
  return run.task.sample(run.keys.data, index, run.batch_size)


def place(
  run: build.Run, state: learners.LearnerState
) -> learners.LearnerState:
  """A whole state as the run's devices hold it."""
  if run.devices == 1:
    # All of it committed: what comes back is, and must not compile anew.
    return jax.device_put(state, jax.local_devices()[0])
  return parallel.shard(state, run.learner, run.devices)


def whole(
  run: build.Run, state: learners.LearnerState
) -> learners.LearnerState:
  """What `place` laid out, whole again: to be saved or to predict with."""
  if run.devices == 1:
    return state
  return parallel.whole(state, run.learner)


def make_advance(run: build.Run):
  """The compiled range: `(state, first, count) -> (state, {name: [count]})`.

  The state is laid out by `place`; its memory is given up.
  """
  keys = {'data_key': run.keys.data, 'noise_key': run.keys.noise}
  if run.devices == 1:
    return ranges.make_advance(
      run.learner, run.task.sample, **keys, batch_size=run.batch_size
    )
  return parallel.make_advance(
    run.learner,
    run.task.sample,
    run.devices,
    **keys,
    batch_size=run.batch_size,
  )


def borders(run: build.Run) -> list[int]:
  """The updates done at the end of each stage but the last."""
  stages = (run, *run.later)
  ends = itertools.accumulate(stage.own_steps for stage in stages)
  return list(ends)[:-1]


def template(run: build.Run, step: int) -> learners.LearnerState:
  """The shapes of the whole state after so many updates."""
  return jax.eval_shape(lambda: init(_stage(run, step - 1)[1]))


def make_advance_between(
  run: build.Run,
) -> Callable[..., tuple[learners.LearnerState, list[metrics.Metrics]]]:
  """`(state, first, last) -> (state, parts)`, for `ranges.train_ranges`.

  A range lies within one stage. Where a stage begins, the state goes on with
  its parameters, its optimizer and what the learner of the stage takes over of
  what the rule shared; what the rule keeps per trial begins anew, since another
  stage may have other trials.
  """
  made = {}

  def advance(state, first, last):
    start, stage = _stage(run, first)
    if start not in made:
      sample, size = stage.task.sample, stage.batch_size
      made[start] = ranges.advance_between(
        make_advance(stage),
        ranges.longest_range(sample, stage.keys.data, size),
        lambda update, stage=stage, start=start: stage.learning_rate(
          start + update
        ),
      )
    if first == start > 0:
      old = whole(run, state)
      rule_state = learners.RuleState(
        shared=jax.jit(stage.learner.take_over)(old.rule_state.shared),
        per_trial=_fresh_per_trial(stage),
      )
      state = place(stage, old._replace(rule_state=rule_state))
    return made[start](state, first - start, last - start)

  return advance


def _fresh_per_trial(stage: build.Run) -> interfaces.ArrayTree:
  """What the rule of a stage keeps per trial before its first update."""

  @jax.jit  # which drops, and does not compile, the rest of the state
  def per_trial(key):
    return stage.learner.init(key, _first_trials(stage)).rule_state.per_trial

  return per_trial(stage.keys.init)


def _stage(run: build.Run, step: int) -> tuple[int, build.Run]:
  """The stage that the update of this number is in, and its first update."""
  start = 0
  for stage in (run, *run.later):
    if step < start + stage.own_steps:
      break
    start += stage.own_steps
  return start, stage


def trained(run: build.Run) -> learners.LearnerState:
  """The state after all updates, with nothing evaluated or saved between."""
  state = place(run, init(run))
  advance, first = make_advance_between(run), 0
  for last in (*borders(run), run.num_steps):
    state, _ = advance(state, first, last)
    first = last
  return whole(run, state)

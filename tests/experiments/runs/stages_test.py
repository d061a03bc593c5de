# SPDX-License-Identifier: Apache-2.0
"""A run in stages: one state, several settings, one after the other.

Truth: the stages run by hand, one learner after the other; and the law of
resuming, across the borders of stages.
"""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import config_dict

from bionet_learners.training import ranges
from experiments.configs import cell_fate as cell_fate_config
from experiments.configs import copying as copying_config
from experiments.runs import build, saved, sections, updates
from tests.experiments import smoke

pytestmark = pytest.mark.usefixtures('no_figures', 'compiled_once')


@pytest.fixture
def config():
  """Copying: four updates at lag 1, three at lag 2, two of another batch."""
  config = copying_config.get_config('smoke')
  config.num_updates = 4
  config.log_every = 3
  config.eval_every = 5
  config.checkpoint_every = 2
  config.keep_last = 20
  config.task.time_lag = 1
  # Added in another order than that of their names, which is what counts.
  config.stages.c_small = {'num_updates': 2, 'batch_size': 4}
  config.stages.b_longer = {'num_updates': 3, 'task': {'time_lag': 2}}
  return config


def test_each_stage_changes_the_one_before(config):
  """Truth: the settings above, worked out by hand."""
  stages = sections.stage_configs(config)
  assert [stage.num_updates for stage in stages] == [4, 3, 2]
  assert [stage.task.time_lag for stage in stages] == [1, 2, 2]
  assert [stage.batch_size for stage in stages] == [8, 8, 4]
  run = build.build(config)
  assert run.num_updates == 9 and run.borders == (4, 7)
  assert [stage.num_updates for stage in run.stages] == [4, 3, 2]
  assert [stage.start for stage in run.stages] == [0, 4, 7]
  found = [run.stages.index(run.stage_at(update)) for update in range(9)]
  assert found == [0, 0, 0, 0, 1, 1, 1, 2, 2]
  with pytest.raises(ValueError, match='update=-1'):
    run.stage_at(-1)


def _by_hand(run, shared=lambda old, fresh: old):
  """A loop over the updates of one learner after the other."""
  state = updates.init(run)
  for stage in run.stages:
    fresh, old = updates.init_stage(stage).rule_state, state.rule_state
    goes_on = shared(old.shared, fresh.shared)
    state = state._replace(rule_state=fresh._replace(shared=goes_on))
    update = jax.jit(stage.learner.update)
    for i in range(stage.num_updates):
      index = i * stage.batch_size + jnp.arange(stage.batch_size)
      trials = stage.task.sample(stage.keys.data, index, stage.batch_size)
      state, _ = update(state, stage.keys.noise, trials)
  return state


def test_a_run_in_stages_is_its_stages_by_hand(config):
  """Truth: the loop above; what a rule keeps per trial begins anew."""
  run = build.build(config)
  got = updates.trained(run)
  assert int(got.step) == 9
  chex.assert_trees_all_close(got, _by_hand(run), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('copies', [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_first_of_a_population_go_on_from_stage_to_stage(copies):
  """Truth: the loop above, with as many members as a stage has.

  Mutants: the last go on, or those that a stage would begin with.
  """
  config = cell_fate_config.get_config('smoke')
  config.task.refinements = 1
  config.restarts.count, config.restarts.validate_every = copies, 1
  config.stages = {'b_fewer': {'learner': {'population_size': 3}}}
  run = build.build(config)

  def first(old, fresh):
    return jax.tree.map(
      lambda x, like: x[tuple(slice(n) for n in like.shape)], old, fresh
    )

  got = updates.trained(run)
  assert int(got.step) == 4
  chex.assert_trees_all_close(got, _by_hand(run, first), rtol=1e-5, atol=1e-6)


def test_stages_draw_other_trials(config):
  """Truth: trials of one number under the keys of two stages."""
  config.stages.b_longer.task.time_lag = 1  # alike but for the stage
  run = build.build(config)
  index = jnp.arange(8)
  first, second = (
    stage.task.sample(stage.keys.data, index, 8) for stage in run.stages[:2]
  )
  assert first.inputs.shape == second.inputs.shape
  assert not np.array_equal(first.inputs, second.inputs)


@pytest.mark.slow
def test_interrupted_in_any_stage_equals_uninterrupted(config, tmp_path):
  """Truth: the uninterrupted run, bit for bit; a session a border."""
  sessions = _in_sessions(config, tmp_path, 9)
  assert sessions == [2, 3, 4, 5, 6, 7, 8, 9]  # 4 and 7 end a stage


@pytest.mark.slow
def test_restarts_go_on_where_they_were(tmp_path):
  """Truth: the uninterrupted run, bit for bit; copies rest between stages."""
  config = cell_fate_config.get_config('gradient_smoke')
  assert _in_sessions(config, tmp_path, 4) == [1, 2, 3, 4]
  run, state, _ = saved.restore(tmp_path / 'whole')
  copies = state.rule_state.shared
  start = updates.init(run).rule_state.shared
  moved = [
    np.any(a != b)
    for a, b in zip(
      copies.params['rate/~/linear_2']['w'],
      start.params['rate/~/linear_2']['w'],
      strict=True,
    )
  ]
  assert sum(moved) == 2 and len(moved) == 4
  assert bool(copies.trained)


def _in_sessions(config, tmp_path, last):
  """Trains in one go and border by border; the borders. Both must agree."""
  smoke.run(config, tmp_path / 'whole')
  sessions = []
  while not sessions or sessions[-1] < last:
    try:
      smoke.run(config, tmp_path / 'parts', interrupted=lambda: True)
      sessions.append(last)
    except ranges.InterruptedRun as stop:
      sessions.append(stop.update)
  for name in ('whole', 'parts'):
    assert (
      json.loads((tmp_path / name / 'result.json').read_text())['updates']
      == last
    )
  files = [tmp_path / name / 'metrics.jsonl' for name in ('whole', 'parts')]
  assert files[0].read_bytes() == files[1].read_bytes()
  states = [saved.restore(tmp_path / n)[1] for n in ('whole', 'parts')]
  assert smoke.bits(states[0]) == smoke.bits(states[1])
  return sessions


@pytest.mark.slow
def test_stages_on_two_devices_equal_one(config):
  """Truth: one device; the layout changes with the batch."""
  config.optimizer.name = 'sgd'
  one = updates.trained(build.build(config))
  config.devices = 2
  two = updates.trained(build.build(config))
  for a, b in zip(
    jax.tree.leaves(two.params), jax.tree.leaves(one.params), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_stage_that_cannot_be_is_refused(config):
  """Truth: the words that say which stage, and what is wrong in it."""
  config.stages.b_longer.task.time_lags = 3
  with pytest.raises((KeyError, AttributeError), match=r'stages\.b_longer'):
    build.build(config)
  del config.stages.b_longer.task.time_lags
  config.stages.c_small.network = config_dict.ConfigDict({'hidden': 9})
  with pytest.raises(ValueError, match=r'stages\.c_small has other parameters'):
    build.build(config)

# SPDX-License-Identifier: Apache-2.0
"""Learners of populations in whole runs, from their configs.

Truth: chance on held-out trials; one stage after the other, by hand.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs import compose
from experiments.judge import scoring
from experiments.runs import build, updates

pytestmark = pytest.mark.oracle


def config_of(learner, num_symbols=1, **settings):
  """A GRU that copies with no lag."""
  config = compose.get_config(f'copying,gru,{learner}')
  config.task.num_symbols, config.task.time_lag = num_symbols, 0
  config.task.num_held_out = 400
  config.network.hidden = 8
  config.batch_size, config.num_updates = 48, 120
  config.eval_every = config.log_every = config.num_updates
  config.learner.population_size = 48
  config.learner.update(settings)
  return config


LEARNERS = {
  'evolution': {'std': 0.2, 'std_spread': 0.7, 'elites': 8},
  'open_es': {'std': 0.1},
  'evosax': {'strategy': 'SNES', 'predict_mean': True},
}


def accuracy(config):
  run = build.build(config)
  metrics, _, _ = scoring.score_run(run, updates.trained(run))
  return metrics['accuracy']


@pytest.mark.parametrize(
  'name',
  [
    'evolution',
    pytest.param('open_es', marks=pytest.mark.slow),
    pytest.param('evosax', marks=pytest.mark.slow),
  ],
)
def test_a_gru_learns_to_copy_with_no_lag(name):
  """Truth: chance is 1/8; at 400 fresh trials .3 is 10 standard errors above.

  Mutant: no update, which stays at chance.
  """
  config = config_of(name, **LEARNERS[name])
  config.optimizer.learning_rate = 0.05
  assert accuracy(config) > 0.3
  if name == 'evolution':
    config.num_updates, config.learner.std = 1, 0.0
    assert accuracy(config) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize('name', LEARNERS)
def test_a_gru_learns_to_copy_two_symbols_with_no_lag(name):
  """Truth: as above, of two symbols in their order; 1,500 updates."""
  config = config_of(name, num_symbols=2, **LEARNERS[name])
  config.optimizer.learning_rate = 0.05
  config.num_updates, config.batch_size = 1500, 128
  assert accuracy(config) > 0.3


def small(learner, **settings):
  config = config_of(learner, population_size=6, **settings)
  config.batch_size, config.num_updates = 4, 3
  return config


def test_the_runs_optimizer_steps_and_its_rate_is_known():
  """Truth: the update norm of SGD is rate x gradient norm; clipped first.

  A learner that has no optimizer has no rate.
  """
  config = small('open_es')
  config.optimizer.name, config.optimizer.learning_rate = 'sgd', 0.5
  config.optimizer.clip_norm = 0.01
  config.optimizer.schedule = 'linear'
  run = build.build(config)
  state = updates.init(run)
  for step in range(3):
    trials = run.first.task.sample(
      run.first.keys.data, 4 * step + jnp.arange(4), 4
    )
    state, metrics = run.first.learner.update(
      state, run.first.keys.noise, trials
    )
    rate = 0.5 * (1 - step / 3)
    assert float(run.first.learning_rate(step)) == pytest.approx(rate)
    assert float(metrics['gradient_norm']) > 0.01
    assert float(metrics['update_norm']) == pytest.approx(0.01 * rate, rel=1e-4)
  for name in ('evolution', 'evosax'):
    other = small(name, **({'elites': 2} if name == 'evolution' else {}))
    assert build.build(other).first.learning_rate(0) == 0


def test_no_config_sets_the_optimizer_of_a_learner():
  """Truth: the words; the section `optimizer` is there for it."""
  config = small('open_es')
  assert 'optimizer' not in config.learner
  config.learner.optimizer = 'adam'
  message = r"learner\.optimizer='adam': 'open_es' has no such setting"
  with pytest.raises(TypeError, match=message):
    build.build(config)


@pytest.mark.parametrize(
  'name, settings',
  [
    pytest.param(
      'evolution', {'elites': 2, 'std': 0.3}, marks=pytest.mark.slow
    ),
    # Not CMA_ES: it decomposes a matrix, and rounding decides on the signs.
    ('evosax', {'strategy': 'Sep_CMA_ES'}),
    pytest.param('open_es', {}, marks=pytest.mark.slow),
  ],
  ids=['evolution', 'evosax', 'open_es'],
)
def test_a_stage_goes_on_with_the_population(name, settings):
  """Truth: the learners of the stages, called by hand, on one state.

  Mutant: the second stage begins with a population of its own.
  """
  config = small(name, **settings)
  config.num_updates = 2
  config.stages.b_other = {'num_updates': 2, 'batch_size': 8}
  if name == 'evolution':
    config.stages.b_other['learner'] = {'std': 0.05, 'elites': 3}
  run = build.build(config)

  def by_hand(anew):
    state = updates.init(run)
    for stage in run.stages:
      if anew:
        fresh = updates.init_stage(stage)
        state = state._replace(
          rule_state=fresh.rule_state, opt_state=fresh.opt_state
        )
      for i in range(2):
        size = stage.batch_size
        trials = stage.task.sample(
          stage.keys.data, i * size + jnp.arange(size), size
        )
        state, _ = jax.jit(stage.learner.update)(
          state, stage.keys.noise, trials
        )
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(state.params)])

  got = updates.trained(run)
  flat = np.concatenate([np.ravel(x) for x in jax.tree.leaves(got.params)])
  np.testing.assert_allclose(flat, by_hand(anew=False), rtol=1e-4, atol=1e-5)
  assert np.abs(flat - by_hand(anew=True)).max() > 1e-3


_COPIES = {'restarts': {'count': 2, 'validate_every': 1}}


def _members(size):
  return {'learner': {'population_size': size}}


@pytest.mark.parametrize(
  'name, first, changes, message',
  [
    (
      'evolution',
      {},
      [_members(8)],
      'b: learner.population_size=8: .* at most the 6 ',
    ),
    (
      'evolution',
      {},
      [_members(4), _members(6)],
      'c: learner.population_size=6: .* the 4 ',
    ),
    ('evolution', {}, [_COPIES], 'b: restarts.count=2: .* has no copies'),
    ('evolution', _COPIES, [{'restarts': {'count': 1}}], 'b: .* no population'),
    ('evosax', {}, [_members(8)], 'b: what the learner remembers'),
  ],
  ids=['more', 'more again', 'copies', 'one copy', 'evosax'],
)
def test_a_stage_that_cannot_go_on_is_refused(name, first, changes, message):
  """Truth: the words that say which stage, and what would not fit.

  Mutant: every stage is held against the first, not the one before.
  """
  settings = {'evolution': {'elites': 2}, 'evosax': {'strategy': 'SimpleGA'}}
  config = small(name, **settings[name])
  config.update(first)
  for stage, change in zip('bc', changes, strict=False):
    config.stages[stage] = {'num_updates': 2, **change}
  with pytest.raises(ValueError, match=rf'stages\.{message}'):
    build.build(config)

# SPDX-License-Identifier: Apache-2.0
"""Factories of other packages, and how a config shows and calls them.

Truth: what the factories below were handed, counted by themselves.
"""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import plugins
from experiments.configs import compose
from experiments.runs import build, factories, updates
from tests.experiments.runs import small_runs


def plain(spec, *, size: int, rate: 'float | None' = None, free=None):
  """A factory with every kind of parameter that compose.py has to show."""
  return spec, size, rate, free


def test_compose_shows_settings_without_a_default(monkeypatch):
  """Truth: the signature above; what has no value is asked for by name."""
  monkeypatch.setattr(factories, 'dynamics_group', lambda _: 'bionet.cells')
  builtin = {**factories.BUILTIN, 'bionet.cells': {'plain': 'a:b'}}
  monkeypatch.setattr(factories, 'BUILTIN', builtin)
  monkeypatch.setattr(
    plugins,
    'load',
    lambda _, name, table, load=plugins.load: (
      plain if name == 'plain' else load(_, name, table)
    ),
  )
  config = compose.get_config('copying,plain,bptt').lock()
  assert config.network.get_type('size') is int
  assert config.network.get_type('rate') is float
  assert config.network.free is None
  with pytest.raises(TypeError, match=r'network\.size=None: must be set'):
    build.build(config)
  config.network.size = 3
  made = factories.make('bionet.cells', 'network', config.network, 'spec')
  assert made == ('spec', 3, None, None)


THIRD = """\
import jax
import jax.numpy as jnp

from bionet_learners import base
from bionet_learners.reverse import bptt
from bionet_tasks.temporal import copying

handed = []


def silent(*, row: int = -1):
  # Copying in which this row of every batch is asked at no step.
  task = copying.copying(num_symbols=2, time_lag=1, num_held_out=4)

  def sample(key, index, batch_size=None):
    trials = task.sample(key, index)
    here = index % (batch_size or len(index)) == row
    return trials.replace(mask=jnp.where(here, 0.0, trials.mask))

  return task._replace(sample=sample)


def rule(cell, loss, *, devices=base.ONE, remat: bool = False):
  handed.append(devices.count)
  return bptt.bptt(cell, loss, remat=remat)


def optimized(cell, loss, *, optimizer=None, remat: bool = False):
  handed.append(optimizer)
  return bptt.bptt(cell, loss, remat=remat)


def guesser(cell, loss, *, scale: float = 0.1):
  # No rule at all: draws its parameters anew at every update.
  def init(key, trials):
    del key
    params = {'w': jnp.zeros(trials.inputs.shape[-1])}
    state = base.RuleState(shared=(), per_trial=())
    return base.LearnerState(params, {}, state, (), jnp.int32(0))

  def update(state, key, trials):
    key = jax.random.fold_in(key, state.step)
    w = scale * jax.random.normal(key, state.params['w'].shape)
    return state._replace(params={'w': w}, step=state.step + 1), {
      'loss': jnp.sum(w**2)
    }

  def predict(state, key, trials):
    del key
    return trials.inputs * state.params['w'][None, None]

  return base.Learner(init, update, predict)
"""


@pytest.fixture(scope='module')
def third(tmp_path_factory):
  """The module above, found by its name."""
  folder = tmp_path_factory.mktemp('third')
  (folder / 'third_of_build.py').write_text(THIRD)
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(folder)
    yield importlib.import_module('third_of_build')


def _third(factory: str):
  config = compose.get_config(f'copying,gru,third_of_build:{factory}')
  config.batch_size, config.num_updates, config.network.hidden = 4, 3, 4
  config.task.update(small_runs.TASKS['copying'])
  return config.lock()


@pytest.mark.parametrize('count', [1, 2])
def test_a_factory_that_takes_devices_is_handed_them(count, third):
  """Truth: the config's number; no config names them."""
  config = _third('rule')
  assert 'devices' not in config.learner
  config.devices = count
  third.handed.clear()
  run = build.build(config)
  assert run.devices == third.handed[-1] == count
  assert run.first.rule is not None


@pytest.mark.parametrize(
  ('factory', 'devices', 'calls'),
  [('optimized', 1, 1), ('optimized', 2, 1), ('rule', 1, 1), ('rule', 2, 2)],
)
def test_a_rule_is_made_once(factory, devices, calls, third):
  """Truth: the factory's calls, counted by itself.

  With collectives the rule is another one: what is checked and probed outside
  of pmap has none.
  """
  config = _third(factory)
  config.devices = devices
  third.handed.clear()
  run = build.build(config)
  assert len(third.handed) == calls
  assert float(run.first.learning_rate(0)) == config.optimizer.learning_rate


def test_the_optimizer_is_made_before_the_rule(third):
  """Truth: a step of plain SGD, -rate x gradient, by the one handed in."""
  config = _third('optimized')
  config.optimizer.name, config.optimizer.learning_rate = 'sgd', 0.25
  third.handed.clear()
  build.build(config)
  [optimizer] = third.handed
  params = {'w': jnp.array([1.0, -2.0])}
  step, _ = optimizer.update(params, optimizer.init(params), params)
  np.testing.assert_allclose(step['w'], [-0.25, 0.5])


def test_trials_that_nothing_judges_are_refused(third):
  """Truth: the one row of four whose mask is zero, in a later stage too."""
  del third
  config = compose.get_config('third_of_build:silent,vanilla_rnn,bptt')
  config.batch_size, config.num_updates, config.network.hidden = 4, 3, 4
  build.build(config)
  words = "'copying': 1 of 4 trials are judged at no step .the first in row 2"
  config.stages.b_silent = {'task': {'row': 2}}
  with pytest.raises(ValueError, match=words):
    build.build(config)
  config.stages, config.task.row = {}, 2
  with pytest.raises(ValueError, match=words):
    build.build(config)


def test_no_config_sets_what_is_handed(third):
  """Truth: the words a user reads; `remat` is a setting of the factory."""
  config = _third('rule')
  config.learner.remat = True
  build.build(config)
  with config.unlocked():
    config.learner.devices = 3
  with pytest.raises(
    TypeError, match=r'learner\.devices=3: .* no such setting'
  ):
    build.build(config)


def test_a_learner_that_is_made_of_no_rule_trains(third):
  """Truth: the draws of its three updates, by hand; no optimizer is there."""
  config = _third('guesser')
  config.learner.scale = 0.5
  run = build.build(config)
  assert run.first.rule is None
  state = updates.place(run, updates.init(run))
  state, [part] = updates.make_advance_between(run)(state, 0, run.num_updates)
  drawn = [
    0.5
    * jax.random.normal(jax.random.fold_in(run.first.keys.noise, step), (10,))
    for step in range(3)
  ]
  np.testing.assert_allclose(state.params['w'], drawn[-1], rtol=1e-6)
  losses = [float(jnp.sum(w**2)) for w in drawn]
  np.testing.assert_allclose(part.values['loss'], losses, rtol=1e-5)
  assert int(state.step) == 3 and state.opt_state == ()
  assert not np.any(part.values['learning_rate'])

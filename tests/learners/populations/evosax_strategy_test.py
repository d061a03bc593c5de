# SPDX-License-Identifier: Apache-2.0
"""Strategies of evosax as learners.

Truth: evosax asked and told by hand with the same keys; one device; the
uninterrupted run.
"""

import functools
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import interfaces
from bionet_learners import base
from bionet_learners.populations import evosax_strategy, population
from bionet_learners.training import checkpoints
from tests import small
from tests.learners.populations import points

pytestmark = pytest.mark.oracle

algorithms = pytest.importorskip(
  'evosax.algorithms', reason="the extra 'evolution' (evosax) is not installed"
)

KEY = jax.random.key(6)
GOAL = np.array([0.5, -1.0, 2.0], np.float32)
SIZE = 8


def trials(first=0):
  return points.trials(3, first)


def point_cell(noise=0.0):
  """Says its parameters, and noise that a trial draws."""

  def init(key, inputs):
    del inputs
    draw = jax.random.normal(key, (3,))
    return {'x': draw[:2], 'y': draw[2:]}, {'frozen': jnp.ones(2)}

  def step(params, constants, state, keys, inputs):
    del constants, inputs
    point = jnp.concatenate([params['x'], params['y']])[None]
    draw = jax.vmap(lambda k: jax.random.normal(k, (3,)))(keys)
    return point + noise * draw, state

  return interfaces.Cell(
    init,
    lambda constants, keys: jnp.zeros((*keys.shape, 1)),
    step,
    lambda params, constants, emission: emission,
  )


def nan_left_of_0(outputs, targets, mask):
  loss, metrics = small.squared_error(outputs, targets, mask)
  return jnp.where(outputs[0, 0] < 0, jnp.nan, loss), metrics


def make(loss=small.squared_error, noise=0.0, **settings):
  settings = {'population_size': SIZE, **settings}
  return evosax_strategy.evosax_strategy(point_cell(noise), loss, **settings)


def run(learner, updates, state=None):
  """The states and metrics of so many updates."""
  state = jax.jit(learner.init)(KEY, trials()) if state is None else state
  update, said = jax.jit(learner.update), []
  for _ in range(updates):
    state, metrics = update(state, KEY, trials())
    said.append(metrics)
  return state, said


def flat(params):
  return np.concatenate([params['x'], params['y']], axis=-1)


@pytest.mark.parametrize(
  'name',
  ['CMA_ES', pytest.param('DifferentialEvolution', marks=pytest.mark.slow)],
)
def test_a_strategy_is_evosax_by_hand(name):
  """Truth: evosax's ask and tell in a loop, losses by NumPy, the same keys."""
  learner = make(strategy=name)
  state, _ = run(learner, 0)
  memory = state.rule_state.shared
  with jax.numpy_rank_promotion('allow'):
    strategy = algorithms.algorithms[name](SIZE, state.params)
    parameters = strategy.default_params
    for step in range(4):
      ask, tell = jax.random.split(population.draw_key(KEY, jnp.int32(step)))
      members, memory = strategy.ask(ask, memory, parameters)
      losses = np.sum((flat(members) - GOAL) ** 2, axis=1)
      memory, _ = strategy.tell(
        tell, members, jnp.asarray(losses), memory, parameters
      )
  state, said = run(learner, 4)
  chex.assert_trees_all_close(
    state.rule_state.shared, memory, rtol=1e-4, atol=1e-5
  )
  best = int(np.argmin(losses))
  np.testing.assert_allclose(flat(state.params), flat(members)[best], rtol=1e-4)
  np.testing.assert_allclose(said[-1]['loss'], losses.min(), rtol=1e-4)
  np.testing.assert_allclose(said[-1]['loss_mean'], losses.mean(), rtol=1e-4)


def test_a_population_starts_from_draws_that_were_judged():
  """Truth: the squared distance of each, by NumPy; all draws differ."""
  memory = run(make(strategy='DifferentialEvolution'), 0)[0].rule_state.shared
  rows = np.asarray(memory.population)
  assert len(np.unique(rows, axis=0)) == SIZE
  expected = np.sum((rows - GOAL) ** 2, axis=1)
  np.testing.assert_allclose(memory.fitness, expected, rtol=1e-5)


def test_the_mean_may_predict():
  """Truth: the mean that evosax keeps; a distribution starts about the draw."""
  state, _ = run(make(predict_mean=True), 0)
  np.testing.assert_allclose(state.rule_state.shared.mean, flat(state.params))
  state, _ = run(make(predict_mean=True), 60)
  np.testing.assert_allclose(state.rule_state.shared.mean, flat(state.params))
  np.testing.assert_allclose(flat(state.params), GOAL, atol=0.02)
  with pytest.raises(
    ValueError, match='predict_mean=True: must be False for SimpleGA'
  ):
    make(strategy='SimpleGA', predict_mean=True)


def test_settings_reach_the_strategy():
  """Truth: evosax's own names for them."""
  state, _ = run(make(settings={'std_init': 0.25}), 0)
  assert float(state.rule_state.shared.std) == 0.25
  state, _ = run(make(strategy='SimpleGA', settings={'std_schedule': 0.1}), 1)
  assert float(state.rule_state.shared.std) == np.float32(0.1)


@pytest.mark.parametrize('name', ['CMA_ES', 'SimpleGA', 'SNES'])
def test_members_without_a_number_never_reach_the_parameters(name):
  """Truth: the side of 0 on which members have one. Mutant: NaN is the best."""
  learner = make(nan_left_of_0, strategy=name)
  state, met = run(learner, 0)[0], 0
  for _ in range(8):
    state, [metrics] = run(learner, 1, state)
    met += not np.isfinite(metrics['loss_std'])
    for leaf in jax.tree.leaves((state.params, state.rule_state.shared)):
      assert not np.any(np.isnan(leaf))
    if np.isfinite(metrics['loss']):
      assert state.params['x'][0] >= 0


def test_where_no_member_has_a_number_nothing_is_learned():
  """Truth: the state before; the loss says NaN, at which a loop stops."""

  def nan(outputs, targets, mask):
    del targets
    return jnp.mean(outputs) * jnp.mean(mask) * jnp.nan, {}

  before = run(make(nan), 0)[0]
  after, [metrics] = run(make(nan), 1, before)
  chex.assert_trees_all_equal(after._replace(step=before.step), before)
  assert np.isnan(metrics['loss'])


def test_a_saved_state_goes_on_bit_for_bit(tmp_path):
  """Truth: the uninterrupted run."""
  learner = make(noise=0.3)
  whole, _ = run(learner, 4)
  half, _ = run(learner, 2)
  path = checkpoints.save_checkpoint(half, tmp_path, 2)
  again = checkpoints.load_checkpoint(path, jax.eval_shape(lambda: half))
  resumed, _ = run(learner, 2, again)
  chex.assert_trees_all_equal(resumed, whole)
  assert not np.array_equal(flat(half.params), flat(whole.params))


def devices(count, index=lambda: jax.lax.axis_index('d')):
  return base.Devices(
    count=count,
    index=index,
    mean=functools.partial(jax.lax.pmean, axis_name='d'),
    gather=functools.partial(jax.lax.all_gather, axis_name='d', tiled=True),
  )


def test_a_population_over_devices_is_one_population():
  """Truth: one device. Mutant: all judge the first members."""
  start, _ = run(make(noise=0.5), 0)
  state, _ = run(make(noise=0.5), 1, start)

  def spread(handed):
    update = make(noise=0.5, devices=handed).update
    copies = jax.tree.map(lambda x: jnp.stack([x] * 4), start)
    return jax.pmap(lambda s: update(s, KEY, trials()), axis_name='d')(copies)

  many, _ = spread(devices(4))
  for d in range(4):
    each = jax.tree.map(lambda x, d=d: x[d], many)
    chex.assert_trees_all_close(each, state, rtol=1e-5, atol=1e-6)
  mutant, _ = spread(devices(4, index=lambda: 0))
  assert np.abs(mutant.rule_state.shared.mean[0] - flat(state.params)).max() > 0
  with pytest.raises(AssertionError):
    chex.assert_trees_all_close(
      jax.tree.map(lambda x: x[0], mutant), state, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize(
  'settings, error, message',
  [
    (
      {'strategy': 'CMAES'},
      KeyError,
      r"'CMAES': must be one of evosax\. Did you mean 'CMA_ES'\?",
    ),
    ({'strategy': 'RandomSearch'}, ValueError, r"needs 'sampling_fn'"),
    ({'strategy': 'SV_Open_ES'}, ValueError, r"needs 'num_populations'"),
    (
      {'settings': {'std_int': 1.0}},
      KeyError,
      r"settings\.std_int=.* Did you mean 'std_init'\?",
    ),
    (
      {'settings': {'std_init': 'big'}},
      ValueError,
      r'^settings.std_init=.big.: ',
    ),
    ({'devices': devices(3)}, ValueError, r'^population_size=8: .* 3 devices'),
  ],
  ids=lambda value: value if isinstance(value, str) else '',
)
def test_what_cannot_be_is_refused(settings, error, message):
  """Truth: the words that say what is wrong, and what is possible."""
  with pytest.raises(error, match=message):
    make(**settings)


def test_what_evosax_refuses_is_refused():
  """Truth: evosax's own reason; pairs need an even number."""
  with pytest.raises(ValueError, match=r'^strategy=.Open_ES.: .*even'):
    run(make(strategy='Open_ES', population_size=7), 0)


def test_where_evosax_is_missing_the_error_says_what_to_install(monkeypatch):
  """Truth: the words; Python refuses a module that is None."""
  monkeypatch.setitem(sys.modules, 'evosax.algorithms', None)
  with pytest.raises(ImportError, match=r"pip install 'bionet\[evolution\]'"):
    make()

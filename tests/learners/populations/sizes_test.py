# SPDX-License-Identifier: Apache-2.0
"""Sizes at which a strategy of evosax breaks, and members without a number.

Truth: evosax 0.3.2 asked and told by hand: what turns NaN, raises, or stays
where it is; the worst finite loss, by NumPy.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import interfaces
from bionet_learners.populations import evosax_strategy, population

pytest.importorskip(
  'evosax.algorithms', reason="the extra 'evolution' (evosax) is not installed"
)

KEY = jax.random.key(6)


def make(strategy, population_size, num_params=3, loss=None):
  """A learner whose parameters are what it says: `num_params` numbers."""

  def init(key, inputs):
    del inputs
    return {'x': jax.random.normal(key, (num_params,))}, {}

  def step(params, constants, state, keys, inputs):
    del constants, keys
    batch = (inputs.shape[0], num_params)
    return jnp.broadcast_to(params['x'][None], batch), state

  def squares(outputs, targets, mask):
    return jnp.mean(jnp.sum((outputs - targets) ** 2, axis=-1) * mask), {}

  cell = interfaces.Cell(
    init,
    lambda constants, keys: jnp.zeros((*keys.shape, 1)),
    step,
    lambda params, constants, emission: emission,
  )
  return evosax_strategy.evosax_strategy(
    cell, loss or squares, strategy=strategy, population_size=population_size
  )


TRIALS = interfaces.Trials(
  inputs=jnp.zeros((1, 2, 1)),
  targets=jnp.full((1, 2, 1), 0.5),
  mask=jnp.ones((1, 2)),
  index=jnp.arange(2),
)
SHAPE = jax.eval_shape(lambda: TRIALS)


def _slow(*names):
  return [pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize(
  'strategy',
  [
    'CMA_ES',  # NaN
    'iAMaLGaM_Full',  # ZeroDivisionError
    *_slow('SNES'),  # stays where it is
    *_slow('LES', 'LGA', 'DES', 'MA_ES', 'Rm_ES', 'Sep_CMA_ES', 'xNES', 'PSO'),
  ],
)
def test_a_strategy_that_learns_nothing_from_one_member_is_refused(strategy):
  """Truth: one generation by hand. The words name the size and a better one."""
  with pytest.raises(
    ValueError, match=rf'^population_size=1: must be at least 2 for {strategy},'
  ):
    make(strategy, 1)


@pytest.mark.parametrize(
  'strategy', ['HillClimbing', *_slow('GradientlessDescent')]
)
def test_a_strategy_that_learns_from_one_member_does(strategy):
  """Truth: the loss falls."""
  learner = make(strategy, 1)
  state, update = jax.jit(learner.init)(KEY, TRIALS), jax.jit(learner.update)
  losses = []
  for _ in range(30):
    state, metrics = update(state, KEY, TRIALS)
    losses.append(float(metrics['loss']))
  assert min(losses) < losses[0] and np.all(np.isfinite(losses))


@pytest.mark.parametrize(
  'strategy, size, params, message',
  [
    ('ESMC', 7, 3, '^population_size=7: .* ESMC keeps to, such as 6; of 7 it'),
    ('LM_MA_ES', 7, 3, '^population_size=7: must be at most 6 for LM_MA_ES'),
  ],
)
def test_a_size_that_a_strategy_breaks_on_is_refused(
  strategy, size, params, message
):
  """Truth: the members that it asks for; the root of 2 - P / N."""
  learner = make(strategy, size, params)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(learner.init, KEY, SHAPE)
  for fits in (size - 1, size + 1 if strategy == 'ESMC' else size - 1):
    jax.eval_shape(make(strategy, fits, params).init, KEY, SHAPE)


@pytest.mark.parametrize(
  'losses, told',
  [
    ([1.0, 3.0, 2.0], [1.0, 3.0, 2.0]),
    ([1.0, np.inf, 2.0], [1.0, 2.0, 2.0]),
    ([np.inf, -5.0, np.inf], [-5.0, -5.0, -5.0]),
    ([np.inf, np.inf, np.inf], [0.0, 0.0, 0.0]),
  ],
)
def test_a_member_without_a_number_counts_as_the_worst(losses, told):
  """Truth: a table. Mutant: infinity, with which a mean is infinite."""
  judged = {'loss': jnp.array(losses)}
  finite = population.finite_losses(judged)
  np.testing.assert_array_equal(population.without_holes(finite), told)


@pytest.mark.parametrize('hole', [np.nan, np.inf, -np.inf])
def test_a_hole_is_no_number_whatever_its_sign(hole):
  """Truth: minus infinity is no best member."""
  finite = population.finite_losses({'loss': jnp.array([1.0, hole, 2.0])})
  np.testing.assert_array_equal(population.without_holes(finite), [1, 2, 2])


@pytest.mark.parametrize('strategy', [*_slow('LES', 'CMA_ES', 'Open_ES')])
def test_one_member_without_a_number_breaks_no_strategy(strategy):
  """Truth: members stay finite. LES told of an infinity is NaN for ever."""

  def loss(outputs, targets, mask):
    errors = jnp.mean(jnp.sum((outputs - targets) ** 2, axis=-1) * mask)
    return jnp.where(outputs[0, 0] < 0, jnp.nan, errors), {}

  learner = make(strategy, 6, loss=loss)
  state, update = jax.jit(learner.init)(KEY, TRIALS), jax.jit(learner.update)
  holes = 0
  for _ in range(10):
    state, metrics = update(state, KEY, TRIALS)
    holes += not np.isfinite(metrics['loss_mean'])
    assert np.all(np.isfinite(state.params['x']))
  assert not holes and state.params['x'][0] >= 0

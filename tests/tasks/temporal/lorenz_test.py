# SPDX-License-Identifier: Apache-2.0
"""Lorenz forecasting: order four, SciPy's solution, persistence, the stream."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from bionet_tasks.temporal import lorenz

KEY = jax.random.key(0)
START = np.array([1.0, 2.0, 20.0])


def solved(duration):
  """SciPy's solution, from its own equations."""

  def velocity(_, s):
    x, y, z = s
    return [10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z]

  return integrate.solve_ivp(
    velocity, (0, duration), START, method='DOP853', rtol=1e-12, atol=1e-12
  ).y[:, -1]


def test_a_step_is_of_fourth_order():
  """Truth: SciPy's DOP853 at 1e-12; halving dt divides the error by 16."""
  exact, errors = solved(0.4), []
  with jax.enable_x64(True):
    for steps in (20, 40, 80):
      state = jnp.asarray(START)
      for _ in range(steps):
        state = lorenz.rk4(state, 0.4 / steps)
      errors.append(np.linalg.norm(state - exact))
  orders = np.log2(np.divide(errors[:-1], errors[1:]))
  np.testing.assert_allclose(orders, 4, atol=0.35)
  assert errors[1] < 1e-4


@pytest.fixture(scope='module')
def task():
  """The task with its own settings."""
  return lorenz.lorenz()


def test_targets_are_the_flow_ten_steps_on(task):
  """Truth: RK4 from the inputs, z-scored back; steps are steps of the orbit."""
  trials = task.sample(KEY, jnp.arange(4))
  np.testing.assert_array_equal(trials.inputs[10:], trials.targets[:-10])
  raw = lorenz._orbits(0, 0.01)[0]
  mean, deviation = raw.mean(axis=0), raw.std(axis=0)
  state = jnp.asarray(np.asarray(trials.inputs) * deviation + mean)
  for _ in range(10):
    state = lorenz.rk4(state, 0.01)
  again = (np.asarray(state) - mean) / deviation
  np.testing.assert_allclose(again, trials.targets, atol=2e-3)


def test_chance_and_persistence_held_out(task):
  """Truth: 1 for the mean and .695 for the state now (the known figures)."""
  judged = task.evaluations['held_out']
  trials = judged.sample(KEY, jnp.arange(judged.num_trials))
  mean = task.metrics(jnp.zeros(trials.targets.shape), trials)
  assert mean['nrmse'] == pytest.approx(task.spec.chance['nrmse'], abs=0.05)
  still = task.metrics(trials.inputs, trials)
  assert still['nrmse'] == pytest.approx(0.695, abs=0.03)
  assert task.metrics(trials.targets, trials)['nrmse'] == 0


def test_the_washout_is_not_asked():
  """Truth: the mask, counted."""
  task = lorenz.lorenz(length=8, min_length=5, washout=3)
  mask = np.asarray(task.sample(KEY, jnp.arange(64)).mask)
  assert not mask[:3].any()
  counts = np.sum(mask > 0, axis=0)
  assert set(counts) == {2, 3, 4, 5}
  assert np.all(mask[3:5] > 0)


def test_a_stream_goes_on_where_the_last_batch_ended():
  """Truth: one long cut of the orbit; past 2^31 steps and past its end, too."""
  task = lorenz.lorenz(length=6, stream=True, washout=2)
  batch, length = 3, 6
  raw = lorenz._orbits(0, 0.01)[0]
  orbit = ((raw - raw.mean(axis=0)) / raw.std(axis=0)).astype(np.float32)

  def update(number, count=1):
    index = number * batch + jnp.arange(count * batch)
    return task.sample(KEY, index, batch)

  first = np.asarray(update(0).inputs)
  places = [int(np.argmin(np.abs(orbit - x).sum(axis=1))) for x in first[0]]
  assert len(set(places)) == 3
  for number in (0, 1, 20_000, 400_000_000):
    trials = update(number)
    np.testing.assert_array_equal(trials.index, range(batch))
    np.testing.assert_allclose(trials.mask, 1 / 6)  # what goes on is asked
    for b in range(batch):
      steps = (places[b] + number * length + np.arange(length)) % 2**16
      for found, ahead in ((trials.inputs, 0), (trials.targets, 10)):
        expected = orbit[(steps + ahead) % 2**16]
        np.testing.assert_allclose(found[:, b], expected, atol=1e-5)
  judged = task.evaluations['held_out'].sample(KEY, jnp.arange(batch))
  np.testing.assert_allclose(judged.mask[:, 0], [0, 0, 0.25, 0.25, 0.25, 0.25])
  # A range of updates in one call is its batches.
  both, parts = update(4, count=2), [update(4), update(5)]
  np.testing.assert_array_equal(
    both.inputs, np.concatenate([p.inputs for p in parts], axis=1)
  )


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'length': 0}, r'^length=0'),
    ({'horizon': 0}, r'^horizon=0'),
    ({'washout': 100}, r'^washout=100'),
    ({'dt': 0.1}, r'^dt=0\.1'),
    ({'stream': True, 'min_length': 5}, 'no trial that ends'),
    ({'length': 2**16}, 'an orbit has 65536 steps'),
  ],
)
def test_settings_out_of_range_are_refused(settings, message):
  """Truth: the documented ranges."""
  with pytest.raises(ValueError, match=message):
    lorenz.lorenz(**settings)

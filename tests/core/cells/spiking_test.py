# SPDX-License-Identifier: Apache-2.0
"""Spiking units, against the closed forms of LIF and a loop in NumPy.

`CELLS_TESTED` is read by `coverage_test`.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import CELLS, plugins, testing
from bionet_core.cells import stack

STEPS, BATCH, INPUTS, UNITS = 12, 3, 2, 6
KEY = jax.random.key(1)


class Sizes(NamedTuple):
  """The sizes of a task."""

  input_shape: tuple[int, ...] = (INPUTS,)
  num_outputs: int = 2


CELLS_TESTED = {
  'spiking': {'hidden': UNITS, 'adaptive': 0.5, 'tau': 5.0, 'scale_in': 3.0}
}
FULL = {
  'dt': 2.0,
  'tau': 9.0,
  'tau_adaptation': 40.0,
  'tau_readout': 7.0,
  'rise': 0.4,
  'refractory': 2,
  'scale_in': 2.0,
  'scale_recurrent': 2.0,
}


def make(**settings):
  settings = {**CELLS_TESTED['spiking'], **settings}
  return plugins.load('bionet.cells', 'spiking', CELLS)(Sizes(), **settings)


def sequence(seed=0, steps=STEPS):
  values = np.random.default_rng(seed).normal(size=(steps, BATCH, INPUTS))
  return jnp.asarray(np.abs(values), jnp.float32)


def run(cell, params, xs):
  """States over time, each field `[T, B, N]`."""

  def advance(state, x):
    _, state = cell.step(params, {}, state, None, x)
    return state, state

  @jax.jit
  def whole(xs):
    start = cell.initial_state({}, jax.random.split(KEY, xs.shape[1]))
    return jax.lax.scan(advance, start, xs)[1]

  return jax.tree.map(np.asarray, whole(xs))


def alone(cell, current, steps):
  """States of one unit a current `[N]` on its own weight, none recurrent."""
  current = np.asarray(current, np.float32)
  drawn, _ = jax.jit(cell.init)(KEY, current[None])
  params = jax.tree.map(np.zeros_like, drawn)
  params['spiking']['w_in'] = np.eye(len(current), dtype=np.float32)
  xs = np.broadcast_to(current, (steps, 1, len(current)))
  return jax.tree.map(lambda x: x[:, 0], run(cell, params, xs))


@pytest.mark.parametrize(
  'settings',
  [
    {},
    pytest.param({'reset': 'zero', 'refractory': 1}, marks=pytest.mark.slow),
    pytest.param({'num_layers': 2, 'rise': 0.02}, marks=pytest.mark.slow),
  ],
)
def test_the_contract_of_a_cell(settings):
  """Truth: the laws of bionet_core.testing."""
  testing.check_cell(make(**settings), sequence()[0])


@pytest.mark.parametrize('reset', ['subtract', 'zero'])
def test_a_run_is_the_equations_in_numpy(reset):
  """Truth: the docstring's equations, unit by unit, from the parameters."""
  cell, xs = make(**FULL, reset=reset), sequence()
  params, _ = jax.jit(cell.init)(KEY, xs[0])
  found = run(cell, params, xs)
  w_in, w_r = (
    np.asarray(params['spiking'][k]) for k in ('w_in', 'w_recurrent')
  )
  alpha, rho, kappa = (math.exp(-2.0 / tau) for tau in (9.0, 40.0, 7.0))
  zeros = np.zeros((BATCH, UNITS))
  v, a, z, f, rest = (zeros.copy() for _ in range(5))
  spikes = 0
  for t in range(STEPS):
    old, x = z.copy(), np.asarray(xs[t])
    for b in range(BATCH):
      for j in range(UNITS):
        drive = x[b] @ w_in[:, j]
        drive += sum(old[b, i] * w_r[i, j] for i in range(UNITS) if i != j)
        if reset == 'zero':
          v[b, j] = alpha * v[b, j] * (1 - old[b, j]) + drive
        else:
          v[b, j] = alpha * v[b, j] + drive - old[b, j]
        threshold = 1 + (0.4 * a[b, j] if j >= UNITS // 2 else 0)
        z[b, j] = float(v[b, j] >= threshold and rest[b, j] == 0)
        a[b, j] = rho * a[b, j] + z[b, j]
        f[b, j] = kappa * f[b, j] + z[b, j]
        rest[b, j] = 2 if z[b, j] else max(rest[b, j] - 1, 0)
    spikes += z.sum()
    for name, value in zip(found._fields[:5], (v, a, z, f, rest), strict=True):
      np.testing.assert_allclose(
        getattr(found, name)[t], value, rtol=1e-4, atol=1e-5, err_msg=name
      )
  assert found.count is None and found.age is None
  assert 0.1 < spikes / (STEPS * BATCH * UNITS) < 0.5


@pytest.mark.parametrize('dt', [0.5, 1.0])
def test_the_rate_of_a_constant_current(dt):
  """Truth: n = ceil(tau ln(I / (I - 1)) / dt) steps a spike, with reset to 0.

  Mutant: subtraction, whose first period is the same and the others are not.
  """
  tau = 20.0
  current = np.array([1.03, 1.2, 1.5, 2.0, 4.0])
  n = np.ceil(tau * np.log(current / (current - 1)) / dt)
  assert len(set(n)) == 5
  drive = current * (1 - math.exp(-dt / tau))
  settings = {'hidden': 5, 'adaptive': 0.0, 'dt': dt, 'tau': tau}
  steps = int(3 * n.max())
  periods = {}
  for reset in ('zero', 'subtract'):
    cell = make(**settings, reset=reset)
    spikes = alone(cell, drive, steps).spikes
    times = [np.flatnonzero(spikes[:, j]) + 1 for j in range(5)]
    periods[reset] = times
  for j in range(5):
    expected = n[j] * np.arange(1, steps // n[j] + 1)
    np.testing.assert_array_equal(periods['zero'][j], expected)
    assert periods['subtract'][j][0] == n[j]
  kept = [len(times) for times in periods['subtract']]
  assert kept != [len(times) for times in periods['zero']]


def test_subtraction_keeps_what_is_above_the_threshold():
  """Truth: without a leak, spikes = floor(charge), whatever the current."""
  cell = make(hidden=3, adaptive=0.0, tau=1e9, reset='subtract')
  current = np.array([0.13, 0.41, 0.77])  # in 40 steps never within .01 of 1
  states = alone(cell, current, 40)
  charge = np.floor(np.arange(1, 41)[:, None] * current)
  np.testing.assert_array_equal(np.cumsum(states.spikes, axis=0), charge)


def test_a_refractory_unit_integrates_in_silence():
  """Truth: period max(n, r + 1) for a current that needs n steps."""
  tau, current = 20.0, np.array([4.0, 1.1])
  n = np.ceil(tau * np.log(current / (current - 1)))
  assert n[0] < 11 < n[1]
  cell = make(
    hidden=2, adaptive=0.0, tau=tau, reset='zero', refractory=10, rise=0.0
  )
  spikes = alone(cell, current * (1 - math.exp(-1 / tau)), 150).spikes
  first = np.flatnonzero(spikes[:, 0])
  assert np.all(np.diff(first) == 11)
  # A membrane that ran past the threshold in silence; then its own period.
  assert np.all(np.diff(np.flatnonzero(spikes[:, 1])) == n[1])


def test_adaptation_counts_and_forgets_spikes():
  """Truth: k spikes in a row make (1 - rho^k) / (1 - rho); then powers of rho.

  A membrane without memory fires until its threshold is above the current: I <
  1 + beta (1 - rho^k) / (1 - rho); a unit that does not adapt fires on.
  """
  rho, rise, current = math.exp(-1 / 50.0), 0.2, 2.1
  cell = make(
    hidden=2,
    adaptive=0.5,
    tau=0.01,
    tau_adaptation=50.0,
    rise=rise,
    reset='zero',
  )
  states = alone(cell, [current, current], 12)
  counts = (1 - rho ** np.arange(1, 13)) / (1 - rho)
  k = int(np.sum(1 + rise * np.append(0, counts[:-1]) <= current))
  assert k == 6
  expected = np.arange(12) < k
  np.testing.assert_array_equal(states.spikes[: k + 1, 1], expected[: k + 1])
  np.testing.assert_allclose(states.adaptation[:k, 1], counts[:k], rtol=1e-5)
  np.testing.assert_allclose(
    states.adaptation[k, 1], rho * counts[k - 1], rtol=1e-5
  )
  assert np.all(states.spikes[:, 0] == 1)


def test_a_filtered_spike_is_the_leaky_readout():
  """Truth: y_t = kappa y_{t-1} + z_t W_out in a loop; 0 ms: bare spikes."""
  xs = sequence()
  for tau, kappa in ((7.0, math.exp(-1 / 7.0)), (0.0, 0.0)):
    cell = make(tau_readout=tau)
    params, _ = jax.jit(cell.init)(KEY, xs[0])
    states = run(cell, params, xs)
    weights, y = np.asarray(params['readout']['w']), 0.0
    for t in range(STEPS):
      y = kappa * y + states.spikes[t] @ weights
      outputs = cell.readout(params, {}, states.filtered[t])
      np.testing.assert_allclose(outputs, y, rtol=1e-4, atol=1e-5)


def gradients(reset, refractory=0):
  """dv_2/dx_1 of a unit that has and of one that has not fired before."""
  cell = make(hidden=2, adaptive=0.0, reset=reset, refractory=refractory)
  params, _ = jax.jit(cell.init)(KEY, np.ones((1, 2), np.float32))
  one = np.eye(2, dtype=np.float32)
  params['spiking'] = {'w_in': one, 'w_recurrent': 5 * one}

  def after(x):
    state = cell.initial_state({}, jax.random.split(KEY, 1))
    _, state = cell.step(params, {}, state, None, x[None])
    _, state = cell.step(params, {}, state, None, 0.2 * jnp.ones((1, 2)))
    return state.voltage[0], state.spikes[0]

  both = jax.jit(lambda x: (after(x), jax.jacobian(after)(x)))
  return both(np.array([1.1, 0.6], np.float32))


def test_nothing_is_learned_through_the_reset_or_the_diagonal():
  """Truth: by hand, v_2 = alpha v_1 + .2 - z_1 with z_1 a constant.

  Mutant: with the reset attached dv_2/dx_1 were alpha - .3 psi; the diagonal of
  W_r, 5 here, would give it 5 x .3 psi.
  """
  alpha = math.exp(-1 / 5.0)
  (voltage, _), (slope, spiked) = gradients('subtract')
  expected = alpha * np.array([1.1, 0.6]) + 0.2 - np.array([1.0, 0.0])
  np.testing.assert_allclose(voltage, expected, rtol=1e-5)
  np.testing.assert_allclose(slope, alpha * np.eye(2), atol=1e-6)
  psi = 0.3 * np.maximum(0, 1 - np.abs(expected - 1))
  np.testing.assert_allclose(spiked, np.diag(psi * alpha), atol=1e-6)
  assert psi[1] > 0.1
  (voltage, _), (slope, _) = gradients('zero')
  np.testing.assert_allclose(voltage, [0.2, alpha * 0.6 + 0.2], rtol=1e-5)
  np.testing.assert_allclose(slope, np.diag([0, alpha]), atol=1e-6)


def test_rates_cost_their_distance_from_the_target():
  """Truth: the docstring's mean over units, in NumPy; layers in a stack add up.

  After 4 steps of 2 ms, 2 spikes are 250 Hz.
  """
  costly = {'dt': 2.0, 'rate_weight': 0.3, 'rate_target': 200.0}
  count = np.array([[0.0, 1.0, 2.0], [4.0, 0.0, 0.0]])
  expected = 0.3 * np.mean((count / 0.008 / 200.0 - 1) ** 2, axis=1)
  keys = jax.random.split(KEY, 2)

  def counted(state):
    return state._replace(count=count, age=np.array([4, 4]))

  cell = make(hidden=3, **costly)
  state = counted(cell.initial_state({}, keys))
  np.testing.assert_allclose(cell.penalty({}, state), expected, rtol=1e-6)
  cells = [cell, make(hidden=3), cell]
  constants = {f'layer_{k}': {} for k in range(3)}
  states = {f'layer_{k}': state for k in range(3)}
  found = stack.stack(cells).penalty(constants, states)
  np.testing.assert_allclose(found, 2 * expected, rtol=1e-6)
  layers = make(hidden=3, num_layers=2, **costly)
  states = layers.initial_state(constants, keys)
  states = {name: counted(state) for name, state in states.items()}
  found = layers.penalty(constants, states)
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  assert make(hidden=3).penalty is None


def test_a_refractory_unit_has_no_surrogate():
  """Truth: a unit that cannot fire has derivative 0."""
  _, (_, spiked) = gradients('subtract', refractory=3)
  assert spiked[0, 0] == 0 and spiked[1, 1] > 0


def test_the_setting_of_evidence_accumulation_is_one_cell():
  """Truth: its numbers: 50 LIF and 50 adaptive units, dt 5 ms."""
  cell = make(
    hidden=100,
    adaptive=0.5,
    dt=5.0,
    tau=20.0,
    tau_adaptation=1500.0,
    tau_readout=20.0,
    rise=0.03,
  )
  # One spike, then silence; a current that then fires LIF units alone.
  current = np.full(100, 1.0)
  states = alone(cell, current, 1)
  assert np.all(states.spikes == 1)
  step, silence = jax.jit(cell.step), np.zeros((1, 2), np.float32)
  params, _ = jax.jit(cell.init)(KEY, silence)
  assert params['spiking']['w_recurrent'].shape == (100, 100)
  quiet = jax.tree.map(np.zeros_like, params)
  _, after = step(quiet, {}, states, None, silence)
  rho, kappa = math.exp(-5 / 1500), math.exp(-5 / 20)
  np.testing.assert_allclose(after.adaptation, rho, rtol=1e-5)
  np.testing.assert_allclose(after.filtered, kappa, rtol=1e-5)
  np.testing.assert_allclose(after.voltage, kappa - 1, rtol=1e-5)
  voltage = np.full((1, 100), 1.02 / kappa, np.float32)
  again = after._replace(voltage=voltage, spikes=np.zeros_like(voltage))
  _, last = step(quiet, {}, again, None, silence)
  np.testing.assert_array_equal(last.spikes[0], np.arange(100) < 50)


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'hidden': 0}, r'^hidden=0'),
    ({'num_layers': 0}, r'^num_layers=0'),
    ({'adaptive': 1.5}, r'^adaptive=1\.5'),
    ({'tau': 0.0}, r'^tau=0'),
    ({'tau_readout': -1.0}, r'^tau_readout=-1'),
    ({'refractory': -1}, r'^refractory=-1'),
    ({'rate_weight': -1.0}, r'^rate_weight=-1'),
    ({'rate_target': 0.0}, r'^rate_target=0'),
    ({'reset': 'none'}, 'subtract, zero'),
    ({'surrogate': 'box'}, 'triangular, fast_sigmoid, sigmoid'),
  ],
)
def test_settings_out_of_range_are_refused(settings, message):
  """Truth: the documented ranges."""
  with pytest.raises(ValueError, match=message):
    make(**settings)

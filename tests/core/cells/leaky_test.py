# SPDX-License-Identifier: Apache-2.0
"""Leaky units, against their decay, their fixed point and their equation.

Truth: closed forms of tau dh/dt = -h + tanh(...), NumPy loops, SciPy's root.
`CELLS_TESTED` is read by `coverage_test`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from bionet_core import CELLS, plugins, testing

BATCH, INPUTS, UNITS = 3, 2, 4


class Sizes(NamedTuple):
  """The sizes of a task."""

  input_shape: tuple[int, ...] = (INPUTS,)
  num_outputs: int = 2


CELLS_TESTED = {'leaky': {'hidden': UNITS, 'tau': 4.0}}


def make(**settings):
  settings = {**CELLS_TESTED['leaky'], **settings}
  return plugins.load('bionet.cells', 'leaky', CELLS)(Sizes(), **settings)


def inputs(seed=0):
  values = np.random.default_rng(seed).normal(size=(BATCH, INPUTS))
  return jnp.asarray(values, jnp.float32)


def drawn(cell, scale=0.1):
  """Parameters with biases that are not 0."""
  params, _ = jax.jit(cell.init)(jax.random.key(1), inputs())
  return jax.tree.map(lambda leaf: leaf + scale, params)


def run(cell, params, state, now, steps):
  step = jax.jit(lambda state: cell.step(params, {}, state, None, now)[1])
  states = [state]
  for _ in range(steps):
    states.append(step(states[-1]))
  return np.stack(states)


@pytest.mark.parametrize('layers', [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_contract_of_a_cell(layers):
  """Truth: the laws of bionet_core.testing."""
  testing.check_cell(make(num_layers=layers), inputs())


def test_a_step_is_the_equation():
  """Truth: NumPy, from the parameters by name."""
  cell = make(tau=4.0, dt=0.5)
  params, now = drawn(cell), inputs()
  start = inputs(1) @ jnp.ones((INPUTS, UNITS)) / 2
  after = run(cell, params, start, now, 1)[1]
  drive = now @ params['leaky/input']['w'] + params['leaky/input']['b'][None]
  drive = np.asarray(drive + start @ params['leaky/recurrent']['w'])
  slope = (-np.asarray(start) + np.tanh(drive)) / 4.0
  np.testing.assert_allclose(after, start + 0.5 * slope, rtol=1e-5)
  readout = cell.readout(params, {}, start)
  weights = params['readout']
  np.testing.assert_allclose(
    readout, start @ weights['w'] + weights['b'][None], rtol=1e-5
  )


def test_without_drive_a_state_decays():
  """Truth: h_0 (1 - dt / tau)^t; exp(-t / tau) to first order in dt."""
  start, errors = jnp.ones((BATCH, UNITS)), []
  for dt in (0.5, 0.25, 0.125):
    cell = make(tau=4.0, dt=dt)
    params = jax.tree.map(jnp.zeros_like, drawn(cell))
    steps = round(4 / dt)
    states = run(cell, params, start, inputs(), steps)
    powers = (1 - dt / 4) ** np.arange(steps + 1)
    np.testing.assert_allclose(states[:, 0, 0], powers, rtol=1e-4)
    errors.append(abs(float(states[-1, 0, 0]) - np.exp(-1)))
  orders = np.log2(np.divide(errors[:-1], errors[1:]))
  np.testing.assert_allclose(orders, 1, atol=0.1)


def test_a_constant_input_ends_at_the_fixed_point():
  """Truth: SciPy's root of h = tanh(x W_in + h W_r + b); dt changes it not."""
  now = inputs()
  for dt in (1.0, 2.0):
    cell = make(tau=4.0, dt=dt)
    params = drawn(cell, 0.05)
    end = run(cell, params, jnp.zeros((BATCH, UNITS)), now, 400)[-1]
    drive = np.asarray(
      now @ params['leaky/input']['w'] + params['leaky/input']['b'][None]
    )
    weights = np.asarray(params['leaky/recurrent']['w'])
    for b in range(BATCH):
      root = optimize.root(_residue, end[b] + 0.1, (drive[b], weights))
      assert root.success
      np.testing.assert_allclose(end[b], root.x, atol=1e-5)


def _residue(h, drive, weights):
  return h - np.tanh(drive + h @ weights)


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'hidden': 0}, r'^hidden=0'),
    ({'num_layers': 0}, r'^num_layers=0'),
    ({'dt': 0.0}, r'^dt=0'),
    ({'dt': 5.0}, 'Euler step overshoots'),
  ],
)
def test_settings_out_of_range_are_refused(settings, message):
  """Truth: the documented ranges."""
  with pytest.raises(ValueError, match=message):
    make(**settings)

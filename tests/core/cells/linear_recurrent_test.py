# SPDX-License-Identifier: Apache-2.0
"""The LRU, against complex arithmetic and its law of the ring.

Truth: the sum h_T = sum_k lambda^(T-k) gamma B x_k in complex128; the uniform
law of |lambda|^2; the variance of a state under white noise. `CELLS_TESTED` is
read by `coverage_test`.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bionet_core import CELLS, plugins, testing
from bionet_core.cells import linear_recurrent

STEPS, BATCH, INPUTS, UNITS = 6, 3, 2, 4
KEY = jax.random.key(1)


class Sizes(NamedTuple):
  """The sizes of a task."""

  input_shape: tuple[int, ...] = (INPUTS,)
  num_outputs: int = 2


CELLS_TESTED = {'lru': {'hidden': UNITS}}


def make(**settings):
  settings = {**CELLS_TESTED['lru'], **settings}
  return plugins.load('bionet.cells', 'lru', CELLS)(Sizes(), **settings)


def sequence(seed=0, steps=STEPS):
  values = np.random.default_rng(seed).normal(size=(steps, BATCH, INPUTS))
  return jnp.asarray(values, jnp.float32)


def eigenvalues(params):
  own = {k: np.asarray(v, np.float64) for k, v in params['lru'].items()}
  return np.exp(-np.exp(own['nu']) + 1j * np.exp(own['theta'])), own


@pytest.mark.parametrize(
  'settings',
  [
    {},
    pytest.param({'readout': (3,)}, marks=pytest.mark.slow),
    pytest.param({'num_layers': 2}, marks=pytest.mark.slow),
  ],
)
def test_the_contract_of_a_cell(settings):
  """Truth: the laws of bionet_core.testing."""
  testing.check_cell(make(**settings), sequence()[0])


def test_a_state_is_the_sum_of_powers_of_lambda():
  """Truth: h_T = lambda^T h_0 + sum_k lambda^(T-1-k) gamma B x_k, complex."""
  cell, xs = make(), sequence()
  params, _ = jax.jit(cell.init)(KEY, xs[0])
  params['lru']['log_gamma'] += 0.3  # not what the radius makes it
  ones = jnp.ones((BATCH, UNITS))
  state = linear_recurrent.Complex(ones, -2 * ones)
  step = jax.jit(cell.step)
  for x in xs:
    emission, state = step(params, {}, state, None, x)
  decay, own = eigenvalues(params)
  drive = (own['w_real'] + 1j * own['w_imaginary']) * np.exp(own['log_gamma'])
  expected = decay**STEPS * (1 - 2j) * np.ones((BATCH, UNITS))
  for k in range(STEPS):
    expected += decay ** (STEPS - 1 - k) * (np.asarray(xs[k]) @ drive)
  np.testing.assert_allclose(state.real, expected.real, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
    state.imaginary, expected.imag, rtol=1e-4, atol=1e-5
  )
  np.testing.assert_array_equal(emission, np.concatenate(state, axis=-1))


def test_the_start_is_a_ring():
  """Truth: |lambda|^2 and the phase are uniform (Kolmogorov-Smirnov)."""
  settings = {'hidden': 2000, 'radius': (0.5, 0.8), 'max_phase': 3.0}
  params, _ = jax.jit(make(**settings).init)(KEY, sequence()[0])
  decay, own = eigenvalues(params)
  area = np.abs(decay) ** 2
  assert 0.25 <= area.min() and area.max() <= 0.6401
  assert stats.kstest(area, stats.uniform(0.25, 0.39).cdf).pvalue > 0.01
  phase = np.exp(own['theta'])
  assert stats.kstest(phase, stats.uniform(0, 3).cdf).pvalue > 0.01
  np.testing.assert_allclose(
    np.exp(own['log_gamma']), np.sqrt(1 - area), rtol=1e-4
  )


def test_white_inputs_make_states_of_one_size():
  """Truth: E|h|^2 = gamma^2 E|x B|^2 / (1 - |lambda|^2) = E|x B|^2.

  Mutant: without gamma a radius of .95 gives states 3.2 times as large.
  """
  steps, settings = 400, {'hidden': 64, 'radius': (0.94, 0.96)}
  cell, xs = make(**settings), sequence(steps=steps)
  params, _ = jax.jit(cell.init)(KEY, xs[0])

  def advance(state, x):
    emission, state = cell.step(params, {}, state, None, x)
    return state, jnp.mean(jnp.square(emission), axis=(0, 1))

  @jax.jit
  def run(xs):
    start = cell.initial_state({}, jax.random.split(KEY, BATCH))
    return jax.lax.scan(advance, start, xs)[1]

  sizes = np.asarray(run(xs))[100:]
  _, own = eigenvalues(params)
  drive = np.mean(own['w_real'] ** 2 + own['w_imaginary'] ** 2) * INPUTS / 2
  np.testing.assert_allclose(sizes.mean(), drive, rtol=0.1)


def test_the_readout_is_linear_or_an_mlp():
  """Truth: NumPy, from the parameters by name."""
  values = np.random.default_rng(0).normal(size=(BATCH, 2 * UNITS))
  emission = jnp.asarray(values, jnp.float32)
  for sizes in ((), (3,)):
    cell = make(readout=sizes)
    params, _ = jax.jit(cell.init)(KEY, sequence()[0])
    layers = [p for name, p in params.items() if name.startswith('readout')]
    assert len(layers) == 1 + len(sizes)
    expected = np.asarray(emission)
    for k, layer in enumerate(layers):
      expected = np.tanh(expected) if k else expected
      expected = expected @ np.asarray(layer['w']) + np.asarray(layer['b'])
    outputs = cell.readout(params, {}, emission)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'hidden': 0}, r'^hidden=0'),
    ({'num_layers': 0}, r'^num_layers=0'),
    ({'radius': (0.8, 0.5)}, 'r_min < r_max'),
    ({'radius': (0.5, 1.0)}, 'r_max < 1'),
    ({'max_phase': 0.0}, r'^max_phase=0'),
    ({'max_phase': 2.1 * math.pi}, 'at most 2 pi'),
    ({'readout': (3, 0)}, r'^readout=\(3, 0\)'),
  ],
)
def test_settings_out_of_range_are_refused(settings, message):
  """Truth: the documented ranges."""
  with pytest.raises(ValueError, match=message):
    make(**settings)

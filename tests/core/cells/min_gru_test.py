# SPDX-License-Identifier: Apache-2.0
"""minGRU, against its closed form: a convex combination of its candidates.

`CELLS_TESTED` is read by `coverage_test`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import CELLS, plugins, testing

STEPS, BATCH, INPUTS, UNITS = 5, 3, 2, 4


class Sizes(NamedTuple):
  """The sizes of a task."""

  input_shape: tuple[int, ...] = (INPUTS,)
  num_outputs: int = 2


CELLS_TESTED = {'min_gru': {'hidden': UNITS}}


def make(**settings):
  settings = {**CELLS_TESTED['min_gru'], **settings}
  return plugins.load('bionet.cells', 'min_gru', CELLS)(Sizes(), **settings)


def sequence(seed=0):
  values = np.random.default_rng(seed).normal(size=(STEPS, BATCH, INPUTS))
  return jnp.asarray(values, jnp.float32)


@pytest.mark.parametrize('layers', [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_contract_of_a_cell(layers):
  """Truth: the laws of bionet_core.testing."""
  testing.check_cell(make(num_layers=layers), sequence()[0])


def test_a_state_is_the_gated_sum_of_all_candidates():
  """Truth: h_T = h_0 prod(1 - z) + sum_k z_k a_k prod_{m > k} (1 - z_m)."""
  cell, xs = make(), sequence()
  params, _ = jax.jit(cell.init)(jax.random.key(1), xs[0])
  params = jax.tree.map(lambda leaf: leaf + 0.1, params)
  start = state = jnp.ones((BATCH, UNITS))
  step = jax.jit(cell.step)
  for x in xs:
    emission, state = step(params, {}, state, None, x)
  np.testing.assert_array_equal(emission, state)
  gate, candidate = (
    np.asarray(xs @ p['w'] + p['b'][None, None])
    for p in (params['min_gru/gate'], params['min_gru/candidate'])
  )
  gate = 1 / (1 + np.exp(-gate))
  expected = np.asarray(start) * np.prod(1 - gate, axis=0)
  for k in range(STEPS):
    expected += gate[k] * candidate[k] * np.prod(1 - gate[k + 1 :], axis=0)
  np.testing.assert_allclose(state, expected, rtol=1e-5)


def test_settings_reach_the_parameters():
  """Truth: the bias and the sizes that were asked for."""
  cell = make(update_bias=-2.0, readout=(3,))
  params, _ = jax.jit(cell.init)(jax.random.key(1), sequence()[0])
  np.testing.assert_array_equal(params['min_gru/gate']['b'], [-2.0] * UNITS)
  np.testing.assert_array_equal(params['min_gru/candidate']['b'], [0] * UNITS)
  assert params['readout/~/linear_0']['w'].shape == (UNITS, 3)
  assert params['readout/~/linear_1']['w'].shape == (3, 2)


def test_sizes_are_checked():
  """Truth: at least one unit and one layer."""
  with pytest.raises(ValueError, match=r'^hidden=0'):
    make(hidden=0)
  with pytest.raises(ValueError, match=r'^num_layers=0'):
    make(num_layers=0)
  with pytest.raises(ValueError, match=r'^readout=\(3, 0\)'):
    make(readout=(3, 0))

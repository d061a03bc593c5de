# SPDX-License-Identifier: Apache-2.0
"""A column of cells, against its layers run one by one.

Truth: the layers' own steps in a Python loop; the contract.
"""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import interfaces, testing, unroll
from bionet_core.cells import cores as haiku_cells
from bionet_core.cells import stack

STEPS, BATCH, INPUTS, OUTPUTS = 4, 3, 2, 2
KEY = jax.random.key(0)
BELOW = haiku_cells.cell_from_core(lambda: hk.GRU(4), stack.without_readout)
TOP = haiku_cells.cell_from_core(lambda: hk.LSTM(3), lambda: hk.Linear(OUTPUTS))


def noisy(cell):
  """The cell with noise on what it emits."""

  def step(params, constants, state, keys, inputs):
    emission, state = cell.step(params, constants, state, keys, inputs)
    size = emission.shape[1:]
    noise = jax.vmap(lambda key: jax.random.normal(key, size))(keys)
    return emission + noise, state

  return cell._replace(step=step)


def sequence(seed=0):
  values = np.random.default_rng(seed).normal(size=(STEPS, BATCH, INPUTS))
  return jnp.asarray(values, jnp.float32)


def test_the_contract_of_a_cell():
  """Truth: the laws of bionet_core.testing, noise included."""
  testing.check_cell(stack.stack([noisy(BELOW), noisy(TOP)]), sequence()[0])


def test_a_column_is_its_layers_one_after_the_other():
  """Truth: the lower layer over all steps, then the upper one."""
  cell, xs = stack.stack([BELOW, TOP]), sequence()
  params, constants = jax.jit(cell.init)(KEY, xs[0])
  assert set(params) == {'layer_0', 'layer_1'}
  assert set(params['layer_0']) == {'gru'}  # nothing that learns nothing
  trials = interfaces.Trials(
    inputs=xs, targets=None, mask=None, index=jnp.arange(BATCH)
  )
  predict = jax.jit(unroll.model_from_cell(cell).predict)
  outputs = predict(params, constants, KEY, trials)
  values = list(xs)
  for layer, name in ((BELOW, 'layer_0'), (TOP, 'layer_1')):
    state = layer.initial_state({}, jax.random.split(KEY, BATCH))
    step = jax.jit(layer.step)
    for t in range(STEPS):
      values[t], state = step(params[name], {}, state, None, values[t])
  expected = [TOP.readout(params['layer_1'], {}, value) for value in values]
  np.testing.assert_allclose(outputs, np.stack(expected), rtol=1e-5, atol=1e-6)


def test_layers_draw_parameters_and_noise_of_their_own():
  """Truth: two layers alike differ in what they draw."""
  cell = stack.stack([noisy(BELOW)] * 3)
  params, _ = jax.jit(cell.init)(KEY, sequence()[0])
  second, third = (params[f'layer_{k}']['gru'] for k in (1, 2))
  assert np.all(second['w_h'] != third['w_h'])
  keys = jax.random.split(KEY, BATCH)
  seen = []

  def watch(params, constants, state, keys, inputs):
    seen.append(np.asarray(jax.random.key_data(keys)))
    return BELOW.step(params, constants, state, keys, inputs)

  watched = stack.stack([BELOW._replace(step=watch)] * 3)
  state = watched.initial_state({f'layer_{k}': {} for k in range(3)}, keys)
  seen.clear()
  constants = {f'layer_{k}': {} for k in range(3)}
  watched.step(params, constants, state, keys, sequence()[0])
  assert len({draw.tobytes() for draw in seen}) == 3


def test_one_cell_is_itself_and_none_is_refused():
  """Truth: the docstring."""
  assert stack.stack([TOP]) is TOP
  with pytest.raises(ValueError, match=r'^cells=.*at least one'):
    stack.stack([])

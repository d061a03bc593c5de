# SPDX-License-Identifier: Apache-2.0
"""Cells of Haiku cores, against Haiku's own unroll and the contract.

`CELLS_TESTED` is the table of the built-in cells; `coverage_test` checks that
none is missing.
"""

from typing import NamedTuple

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import CELLS, interfaces, plugins, testing, unroll
from bionet_core.cells import cores as haiku_cells

STEPS, BATCH, INPUTS, OUTPUTS = 4, 3, 2, 2


class Sizes(NamedTuple):
  """The sizes of a task."""

  input_shape: tuple[int, ...] = (INPUTS,)
  num_outputs: int = OUTPUTS


CELLS_TESTED = {
  'gru': {'hidden': 4},
  'lstm': {'hidden': 4},
  'vanilla_rnn': {'hidden': 4},
}
STOCK = {
  'gru': lambda: hk.GRU(4),
  'lstm': lambda: hk.LSTM(4),
  'vanilla_rnn': lambda: hk.VanillaRNN(4, double_bias=False),
}


class TwoSpeeds(hk.RNNCore):
  """A core with two states, fast and slow, written by hand."""

  def __call__(self, inputs, prev_state):
    """Emits both states, side by side."""
    fast = jnp.tanh(hk.Linear(3)(inputs) + prev_state['slow'])
    slow = 0.9 * prev_state['slow'] + 0.1 * fast
    state = {'fast': fast, 'slow': slow, 'steps': prev_state['steps'] + 1}
    return jnp.concatenate([fast, slow], axis=-1), state

  def initial_state(self, batch_size):
    """Zeros, and a count of steps."""
    zeros = jnp.zeros((batch_size, 3))
    return {'fast': zeros, 'slow': zeros, 'steps': jnp.zeros(batch_size, int)}


OTHERS = {
  'two_speeds': TwoSpeeds,
  'deep': lambda: hk.DeepRNN([hk.VanillaRNN(3), jnp.tanh, hk.VanillaRNN(2)]),
}


def make(name):
  if name in CELLS_TESTED:
    factory = plugins.load('bionet.cells', name, CELLS)
    return factory(Sizes(), **CELLS_TESTED[name])
  return haiku_cells.cell_from_core(OTHERS[name], lambda: hk.Linear(OUTPUTS))


def sequence(seed=0):
  values = np.random.default_rng(seed).normal(size=(STEPS, BATCH, INPUTS))
  return jnp.asarray(values, jnp.float32)


@pytest.mark.parametrize(
  'name',
  [
    *CELLS_TESTED,
    'two_speeds',
    pytest.param('deep', marks=pytest.mark.slow),
  ],
)
def test_the_contract_of_a_cell(name):
  """Truth: the laws of bionet_core.testing."""
  testing.check_cell(make(name), sequence()[0])


@pytest.mark.parametrize('name', [*CELLS_TESTED, *OTHERS])
def test_a_cell_is_its_core(name):
  """Truth: hk.dynamic_unroll of the same core, with the same parameters."""
  make_core = {**STOCK, **OTHERS}[name]

  def forward(inputs):
    core, readout = make_core(), hk.Linear(OUTPUTS)
    emissions, _ = hk.dynamic_unroll(
      core, inputs, core.initial_state(inputs.shape[1])
    )
    return hk.BatchApply(readout)(emissions)

  cell, inputs = make(name), sequence()
  params, constants = cell.init(jax.random.key(1), inputs[0])
  # Biases start at 0, where a wrong one would not be seen.
  params = jax.tree.map(lambda leaf: leaf + 0.1, params)
  assert constants == {}
  trials = interfaces.Trials(
    inputs=inputs, targets=None, mask=None, index=jnp.arange(BATCH)
  )
  outputs = unroll.model_from_cell(cell).predict(
    params, constants, jax.random.key(0), trials
  )
  expected = hk.transform(forward).apply(params, None, inputs)
  chex.assert_shape(outputs, (STEPS, BATCH, OUTPUTS))
  np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', CELLS_TESTED)
def test_a_stack_is_its_layers_one_after_the_other(name):
  """Truth: the first layer unrolled over all steps, the second over that.

  A skip connection would show: the readout sees the last layer alone.
  """
  factory = plugins.load('bionet.cells', name, CELLS)
  cell, inputs = factory(Sizes(), hidden=4, num_layers=2), sequence()
  params, constants = cell.init(jax.random.key(1), inputs[0])
  params = jax.tree.map(lambda leaf: leaf + 0.1, params)

  def forward(values):
    first, second = STOCK[name](), STOCK[name]()
    for core in (first, second):
      start = core.initial_state(values.shape[1])
      values, _ = hk.dynamic_unroll(core, values, start)
    return hk.BatchApply(hk.Linear(OUTPUTS))(values)

  trials = interfaces.Trials(
    inputs=inputs, targets=None, mask=None, index=jnp.arange(BATCH)
  )
  outputs = unroll.model_from_cell(cell).predict(
    params, constants, jax.random.key(0), trials
  )
  expected = hk.transform(forward).apply(params, None, inputs)
  np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)


def test_an_update_bias_slows_forgetting():
  """Truth: with all weights 0, h_t = sigmoid(-b)^t h_0, by hk.GRU's equations.

  Without the setting, the parameters are those of the stock core.
  """
  cell, inputs = (
    haiku_cells.gru(Sizes(), hidden=4, update_bias=-2.0),
    sequence(),
  )
  params, _ = cell.init(jax.random.key(1), inputs[0])
  params['gru'] |= {
    'w_i': 0 * params['gru']['w_i'],
    'w_h': 0 * params['gru']['w_h'],
  }
  start = jnp.ones((BATCH, 4))
  _, state = cell.step(params, {}, start, None, inputs[0])
  np.testing.assert_allclose(state, jax.nn.sigmoid(2.0) * start, rtol=1e-6)
  plain, _ = make('gru').init(jax.random.key(1), inputs[0])
  assert not np.any(plain['gru']['b'])


class BatchNormed(TwoSpeeds):
  """Keeps batch statistics: Haiku state."""

  def __call__(self, inputs, prev_state):
    """Normalises over the batch."""
    norm = hk.BatchNorm(True, True, 0.9)
    return super().__call__(norm(inputs, is_training=True), prev_state)


class LearnedStart(TwoSpeeds):
  """Learns where it starts."""

  def initial_state(self, batch_size):
    """A parameter, repeated."""
    start = hk.get_parameter('start', [1, 3], init=jnp.zeros)
    state = super().initial_state(batch_size)
    return state | {'slow': jnp.repeat(start, batch_size, axis=0)}


class Dropping(TwoSpeeds):
  """Draws noise of its own, which would belong to the batch."""

  def __call__(self, inputs, prev_state):
    """Drops half the inputs."""
    inputs = hk.dropout(hk.next_rng_key(), 0.5, inputs)
    return super().__call__(inputs, prev_state)


@pytest.mark.parametrize(
  'core, message',
  [
    (BatchNormed, r'keeps Haiku state \(.*batch_norm.*batch statistics'),
    (LearnedStart, 'initial state needs parameters .*nothing learned'),
    (Dropping, 'step needs parameters or random numbers .*draws no noise'),
  ],
)
def test_what_a_cell_has_no_place_for_is_refused(core, message):
  """Truth: the interface: no Haiku state, no learned start, noise by trial."""
  cell = haiku_cells.cell_from_core(core, lambda: hk.Linear(OUTPUTS))
  with pytest.raises(ValueError, match=message):
    cell.init(jax.random.key(0), sequence()[0])


@pytest.mark.parametrize('name', CELLS_TESTED)
def test_sizes_are_checked(name):
  """Truth: at least one unit and layer, and inputs that are float."""
  factory = plugins.load('bionet.cells', name, CELLS)
  with pytest.raises(ValueError, match=r'network\.hidden is 0'):
    factory(Sizes(), hidden=0)
  with pytest.raises(ValueError, match=r'network\.num_layers is 0'):
    factory(Sizes(), num_layers=0)
  with pytest.raises(AssertionError):
    make(name).init(jax.random.key(0), jnp.ones((BATCH, INPUTS), int))

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


def predicted(cell, params, constants, trials):
  model = unroll.model_from_cell(cell)
  return jax.jit(model.predict)(params, constants, jax.random.key(0), trials)


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
  params, constants = jax.jit(cell.init)(jax.random.key(1), inputs[0])
  # Biases start at 0, where a wrong one would not be seen.
  params = jax.tree.map(lambda leaf: leaf + 0.1, params)
  assert constants == {}
  trials = interfaces.Trials(
    inputs=inputs, targets=None, mask=None, index=jnp.arange(BATCH)
  )
  outputs = predicted(cell, params, constants, trials)
  expected = jax.jit(hk.transform(forward).apply)(params, None, inputs)
  chex.assert_shape(outputs, (STEPS, BATCH, OUTPUTS))
  np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', CELLS_TESTED)
def test_a_stack_is_its_layers_one_after_the_other(name):
  """Truth: the first layer unrolled over all steps, the second over that.

  A skip connection would show: the readout sees the last layer alone.
  """
  factory = plugins.load('bionet.cells', name, CELLS)
  cell, inputs = factory(Sizes(), hidden=4, num_layers=2), sequence()
  params, constants = jax.jit(cell.init)(jax.random.key(1), inputs[0])
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
  outputs = predicted(cell, params, constants, trials)
  expected = jax.jit(hk.transform(forward).apply)(params, None, inputs)
  np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)


def test_an_update_bias_slows_forgetting():
  """Truth: with all weights 0, h_t = sigmoid(-b)^t h_0, by hk.GRU's equations.

  Without the setting, the parameters are those of the stock core.
  """
  cell, inputs = (
    haiku_cells.gru(Sizes(), hidden=4, update_bias=-2.0),
    sequence(),
  )
  params, _ = jax.jit(cell.init)(jax.random.key(1), inputs[0])
  params['gru'] |= {
    'w_i': 0 * params['gru']['w_i'],
    'w_h': 0 * params['gru']['w_h'],
  }
  start = np.ones((BATCH, 4), np.float32)
  _, state = jax.jit(cell.step)(params, {}, start, None, inputs[0])
  np.testing.assert_allclose(state, start / (1 + np.exp(-2)), rtol=1e-6)
  plain, _ = jax.jit(make('gru').init)(jax.random.key(1), inputs[0])
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
    ones = hk.initializers.Constant(1.0)
    start = hk.get_parameter('start', [1, 3], jnp.zeros(()).dtype, ones)
    state = super().initial_state(batch_size)
    return state | {'slow': jnp.repeat(start, batch_size, axis=0)}


class Dropping(TwoSpeeds):
  """Drops inputs."""

  def __call__(self, inputs, prev_state):
    """Drops half the inputs."""
    inputs = hk.dropout(hk.next_rng_key(), 0.5, inputs)
    return super().__call__(inputs, prev_state)


class NoisyStart(LearnedStart):
  """Begins with noise around what it learned."""

  def initial_state(self, batch_size):
    """A parameter and a normal number."""
    state = super().initial_state(batch_size)
    noise = jax.random.normal(hk.next_rng_key(), state['slow'].shape)
    return state | {'slow': state['slow'] + noise}


class PerhapsNoisy(TwoSpeeds):
  """Draws only where Haiku has a key."""

  def __call__(self, inputs, prev_state):
    """Adds noise, or nothing."""
    key = hk.maybe_next_rng_key()
    if key is not None:
      inputs += jax.random.normal(key, inputs.shape)
    return super().__call__(inputs, prev_state)


class Resetting(hk.RNNCore):
  """An `hk.ResetCore` that gets its flag from the inputs."""

  def __init__(self):
    """The core inside is made here, as Haiku's own wrappers do."""
    super().__init__()
    self._core = hk.ResetCore(hk.VanillaRNN(3))

  def __call__(self, inputs, prev_state):
    """Begins anew where the first input is positive."""
    return self._core((inputs, inputs[:, 0] > 0), prev_state)

  def initial_state(self, batch_size):
    """That of the core inside."""
    return self._core.initial_state(batch_size)


AS_EVER = {
  'gru': lambda: hk.GRU(4),
  'lstm': lambda: hk.LSTM(4),
  'vanilla': lambda: hk.VanillaRNN(4),
  'deep': OTHERS['deep'],
  'identity': hk.IdentityCore,
  'two_speeds': TwoSpeeds,
  'resetting': Resetting,
  'perhaps_noisy': PerhapsNoisy,
}


@pytest.mark.parametrize('name', AS_EVER)
def test_a_core_without_noise_or_learned_start_is_left_as_it_is(name):
  """Truth: one `hk.transform` of the core and readout; names and bits."""
  make_core, inputs, key = AS_EVER[name], sequence()[0], jax.random.key(3)

  def forward(inputs):
    core, readout = make_core(), hk.Linear(OUTPUTS)
    start = core.initial_state(inputs.shape[0])
    emission, state = core(inputs, start)
    return readout(emission), emission, state, start

  cell = haiku_cells.cell_from_core(make_core, lambda: hk.Linear(OUTPUTS))
  params, constants = jax.jit(cell.init)(key, inputs)
  assert not constants
  exact = {'rtol': 0, 'atol': 0}
  reference = hk.transform(forward)
  expected = jax.jit(reference.init)(key, inputs)
  chex.assert_trees_all_close(params, expected, **exact)
  keys = jax.random.split(key, BATCH)
  start = cell.initial_state({}, keys)
  emission, state = cell.step(params, {}, start, keys, inputs)
  outputs = cell.readout(params, {}, emission)
  chex.assert_trees_all_close(
    (outputs, emission, state, start),
    reference.apply(params, None, inputs),
    **exact,
  )


@pytest.mark.parametrize('core', [LearnedStart, Dropping, NoisyStart])
def test_the_contract_of_cores_that_draw_or_learn_their_start(core):
  """Truth: the laws of bionet_core.testing; noise belongs to the trial."""
  cell = haiku_cells.cell_from_core(core, lambda: hk.Linear(OUTPUTS))
  testing.check_cell(cell, sequence()[0])


def trial_losses(cell, windows=(STEPS,)):
  """The loss of a cell as a function of its parameters, window by window."""
  key, index, inputs = jax.random.key(5), jnp.arange(BATCH), sequence()

  def squared(outputs, targets, mask):
    return jnp.mean(mask * jnp.sum((outputs - targets) ** 2, axis=-1)), {}

  def loss(params):
    state = unroll.initial_state(cell, {}, key, index)
    total, done = 0, 0
    for size in windows:
      steps = slice(done, done + size)
      trials = interfaces.Trials(
        inputs=inputs[steps].astype(float),
        targets=jnp.ones((size, BATCH, OUTPUTS)),
        mask=jnp.ones((size, BATCH)),
        index=index,
      )
      part, (_, state) = unroll.unroll(
        cell,
        squared,
        params,
        {},
        state,
        unroll.trial_keys(key, index),
        jnp.full(BATCH, done),
        trials,
      )
      total, done = total + part, done + size
    return total

  return loss


@pytest.mark.parametrize('core', [LearnedStart, NoisyStart])
def test_the_gradient_of_a_learned_start(core):
  """Truth: finite differences in float64; two windows equal one."""
  with jax.enable_x64(True):
    cell = haiku_cells.cell_from_core(core, lambda: hk.Linear(OUTPUTS))
    params, _ = jax.jit(cell.init)(
      jax.random.key(1), sequence()[0].astype(float)
    )
    module = next(name for name in params if 'start' in params[name])
    loss = jax.jit(trial_losses(cell, (1, STEPS - 1)))
    np.testing.assert_allclose(
      loss(params), jax.jit(trial_losses(cell))(params), rtol=1e-12
    )
    gradient = jax.jit(jax.grad(loss))(params)[module]['start']
    step = 1e-6
    for i in range(3):

      def moved(size, i=i):
        start = params[module]['start'].at[0, i].add(size)
        return loss(params | {module: params[module] | {'start': start}})

      slope = (moved(step) - moved(-step)) / (2 * step)
      np.testing.assert_allclose(gradient[0, i], slope, rtol=1e-6)
      assert abs(slope) > 1e-3


def test_trials_begin_where_the_core_starts():
  """Truth: hk.dynamic_unroll from the core's own initial state.

  Mutant: a state that forgets that it has begun starts anew at each step.
  """
  cell, inputs = (
    haiku_cells.cell_from_core(LearnedStart, lambda: hk.Linear(OUTPUTS)),
    sequence(),
  )
  params, _ = jax.jit(cell.init)(jax.random.key(1), inputs[0])

  def forward(inputs):
    core, readout = LearnedStart(), hk.Linear(OUTPUTS)
    start = core.initial_state(BATCH)
    return hk.BatchApply(readout)(hk.dynamic_unroll(core, inputs, start)[0])

  trials = interfaces.Trials(
    inputs=inputs, targets=None, mask=None, index=jnp.arange(BATCH)
  )
  outputs = predicted(cell, params, {}, trials)
  expected = jax.jit(hk.transform(forward).apply)(params, None, inputs)
  np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)


def test_a_core_draws_from_the_key_of_its_trial_and_step():
  """Truth: Haiku's apply of one trial with that key."""
  cell = haiku_cells.cell_from_core(Dropping, lambda: hk.Linear(OUTPUTS))
  inputs, keys = sequence()[0], jax.random.split(jax.random.key(2), BATCH)
  params, _ = jax.jit(cell.init)(jax.random.key(1), inputs)
  start, step = cell.initial_state({}, keys), jax.jit(cell.step)
  emission, _ = step(params, {}, start, keys, inputs)

  def forward(inputs):
    core = Dropping()
    return core(inputs, core.initial_state(1))[0]

  apply = jax.jit(hk.transform(forward).apply)
  for b in range(BATCH):
    expected = apply(params, keys[b], inputs[b : b + 1])
    np.testing.assert_allclose(emission[b : b + 1], expected, rtol=1e-5)
  other, _ = step(params, {}, start, keys[::-1], inputs)
  assert np.any(other != emission)


def test_start_and_step_draw_other_numbers():
  """Truth: the two normal numbers of one trial; equal keys would give equal."""

  class Emitting(NoisyStart):
    def __call__(self, inputs, prev_state):
      noise = jax.random.normal(hk.next_rng_key(), prev_state['slow'].shape)
      start = hk.get_parameter('start', [1, 3], init=jnp.zeros)
      both = [prev_state['slow'] - start, noise]
      return jnp.concatenate(both, axis=-1), prev_state

  cell = haiku_cells.cell_from_core(Emitting, lambda: hk.Linear(OUTPUTS))
  inputs, keys = sequence()[0], jax.random.split(jax.random.key(2), BATCH)
  params, _ = jax.jit(cell.init)(jax.random.key(1), inputs)
  start = cell.initial_state({}, keys)
  emission, _ = jax.jit(cell.step)(params, {}, start, keys, inputs)
  first, second = np.split(np.asarray(emission), 2, axis=-1)
  assert np.all(np.abs(first - second) > 1e-4)
  assert np.all(np.abs(first) > 1e-6)


def noisy_readout():
  return lambda emission: hk.dropout(hk.next_rng_key(), 0.5, emission)


def linear_readout():
  return hk.Linear(OUTPUTS)


def deep_reset():
  return hk.DeepRNN([hk.ResetCore(hk.GRU(3))])


@pytest.mark.parametrize(
  'core, readout, error, message',
  [
    (
      BatchNormed,
      linear_readout,
      ValueError,
      r'keeps Haiku state \(.*batch_norm.*batch statistics',
    ),
    (hk.GRU, noisy_readout, ValueError, 'the readout draws .* into the core'),
    (
      hk.Linear,
      linear_readout,
      TypeError,
      'a Linear, which has no initial_state; .* hk.RNNCore',
    ),
    (
      lambda size: hk.ResetCore(hk.GRU(size)),
      linear_readout,
      TypeError,
      r'ResetCore takes \(inputs, should_reset\).*flag bool',
    ),
    (lambda _: deep_reset(), linear_readout, TypeError, 'ResetCore takes'),
  ],
)
@pytest.mark.parametrize('batch', [2, 3])
def test_what_a_cell_has_no_place_for_is_refused(
  core, readout, error, message, batch
):
  """Truth: the interface: no Haiku state, one array of inputs, a state.

  Two trials are a pair that a ResetCore would unpack.
  """
  sized = core if core is BatchNormed else lambda: core(3)
  with pytest.raises(error, match=message):
    cell = haiku_cells.cell_from_core(sized, readout)
    jax.jit(cell.init)(jax.random.key(0), sequence()[0, :batch])


def test_a_legacy_key_is_refused():
  """Truth: the sentence that says what to write instead."""
  cell = make('gru')
  with pytest.raises(TypeError, match=r'use jax\.random\.key\(seed\)'):
    cell.init(jax.random.PRNGKey(0), sequence()[0])


@pytest.mark.parametrize('name', CELLS_TESTED)
def test_sizes_are_checked(name):
  """Truth: at least one unit and layer, and inputs that are float."""
  factory = plugins.load('bionet.cells', name, CELLS)
  with pytest.raises(ValueError, match=r'^hidden=0'):
    factory(Sizes(), hidden=0)
  with pytest.raises(ValueError, match=r'^num_layers=0'):
    factory(Sizes(), num_layers=0)
  with pytest.raises(AssertionError):
    make(name).init(jax.random.key(0), jnp.ones((BATCH, INPUTS), int))

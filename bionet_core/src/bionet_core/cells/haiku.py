# SPDX-License-Identifier: Apache-2.0
"""Any unmodified Haiku core as a Cell."""

from collections.abc import Callable

import chex
import haiku as hk
import jax

from bionet_core import interfaces


def cell_from_core(
  make_core: Callable[[], hk.RNNCore],
  make_readout: Callable[[], Callable[[jax.Array], jax.Array]],
) -> interfaces.Cell:
  """Makes a Cell of a recurrent Haiku core and a readout.

    emission_t, state_t = core(inputs_t, state_tm1)
    outputs_t = readout(emission_t)

  Both factories are called inside one Haiku transform, so that parameters get
  the names Haiku gives them, none twice. The cell has no constants and draws
  no noise.

  Args:
    make_core: makes the core, e.g. `lambda: hk.GRU(128)`.
    make_readout: makes the readout, e.g. `lambda: hk.Linear(10)`.

  Returns:
    A Cell. `init` raises ValueError where the core keeps Haiku state (batch
    statistics), learns its initial state, or draws random numbers.
  """

  def build():
    core, readout = make_core(), make_readout()

    def init(inputs):
      emission, _ = core(inputs, core.initial_state(inputs.shape[0]))
      return readout(emission)

    return init, (core.initial_state, core, readout)

  transformed = hk.multi_transform_with_state(build)
  apply_initial, apply_core, apply_readout = transformed.apply

  def init(key, inputs):
    chex.assert_type(inputs, float)
    params, haiku_state = transformed.init(key, inputs)
    if haiku_state:
      raise ValueError(
        f'the core keeps Haiku state ({", ".join(haiku_state)}), which a Cell '
        'has no place for; train it as a TrainState, or drop the batch '
        'statistics.'
      )
    keys = jax.random.split(key, inputs.shape[0])
    _said_plainly('initial state', initial_state, {}, keys)
    state = initial_state({}, keys)
    _said_plainly('step', step, params, {}, state, keys, inputs)
    return params, {}

  def initial_state(constants, keys):
    del constants
    return apply_initial({}, {}, None, keys.shape[0])[0]

  def step(params, constants, state, keys, inputs):
    del constants, keys
    (emission, state), _ = apply_core(params, {}, None, inputs, state)
    return emission, state

  def readout(params, constants, emission):
    del constants
    return apply_readout(params, {}, None, emission)[0]

  return interfaces.Cell(init, initial_state, step, readout)


def _said_plainly(what: str, function: Callable, *args) -> None:
  """Traces a function of the core; says in our words why Haiku refuses."""
  try:
    jax.eval_shape(function, *args)
  except ValueError as error:
    raise ValueError(
      f"the core's {what} needs parameters or random numbers that a Cell does "
      'not give it: an initial state may hold nothing learned, and a step '
      f'draws no noise. Haiku says: {error}'
    ) from error


def gru(spec: interfaces.Sizes, *, hidden: int = 128) -> interfaces.Cell:
  """`hk.GRU(hidden)` with a linear readout of `spec.num_outputs`."""
  _check_hidden(hidden)
  return cell_from_core(
    lambda: hk.GRU(hidden), lambda: hk.Linear(spec.num_outputs)
  )


def lstm(spec: interfaces.Sizes, *, hidden: int = 128) -> interfaces.Cell:
  """`hk.LSTM(hidden)` with a linear readout of `spec.num_outputs`."""
  _check_hidden(hidden)
  return cell_from_core(
    lambda: hk.LSTM(hidden), lambda: hk.Linear(spec.num_outputs)
  )


def vanilla_rnn(
  spec: interfaces.Sizes, *, hidden: int = 128
) -> interfaces.Cell:
  """`hk.VanillaRNN(hidden)` with a linear readout of `spec.num_outputs`."""
  _check_hidden(hidden)
  return cell_from_core(
    lambda: hk.VanillaRNN(hidden, double_bias=False),
    lambda: hk.Linear(spec.num_outputs),
  )


def _check_hidden(hidden: int) -> None:
  if hidden < 1:
    raise ValueError(f'network.hidden is {hidden}; at least 1 unit is needed.')

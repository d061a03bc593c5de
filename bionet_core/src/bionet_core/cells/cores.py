# SPDX-License-Identifier: Apache-2.0
"""Any unmodified Haiku core as a Cell."""

from collections.abc import Callable

import chex
import haiku as hk
import jax
import jax.numpy as jnp

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


def gru(
  spec: interfaces.Sizes,
  *,
  hidden: int = 128,
  num_layers: int = 1,
  update_bias: float = 0.0,
) -> interfaces.Cell:
  """`hk.GRU(hidden)` with a linear readout of `spec.num_outputs`.

    h_t = (1 - z_t) h_{t-1} + z_t a_t,   z_t = sigmoid(... + b_z)

  Args:
    spec: the task's sizes.
    hidden: units of a layer.
    num_layers: layers; see `_stack`.
    update_bias: where b_z starts. Far below 0 a unit forgets slowly at first:
      about exp(-update_bias) steps are remembered.

  Raises:
    ValueError: for a size less than 1.
  """

  def start(shape, dtype):  # the gates' order in hk.GRU: update, reset, new
    return jnp.zeros(shape, dtype).at[:hidden].set(update_bias)

  return _stack(spec, lambda: hk.GRU(hidden, b_init=start), hidden, num_layers)


def lstm(
  spec: interfaces.Sizes, *, hidden: int = 128, num_layers: int = 1
) -> interfaces.Cell:
  """`hk.LSTM(hidden)` with a linear readout; for layers see `_stack`.

  Raises:
    ValueError: for a size less than 1.
  """
  return _stack(spec, lambda: hk.LSTM(hidden), hidden, num_layers)


def vanilla_rnn(
  spec: interfaces.Sizes, *, hidden: int = 128, num_layers: int = 1
) -> interfaces.Cell:
  """`hk.VanillaRNN(hidden)` with a linear readout; for layers see `_stack`.

  Raises:
    ValueError: for a size less than 1.
  """
  return _stack(
    spec,
    lambda: hk.VanillaRNN(hidden, double_bias=False),
    hidden,
    num_layers,
  )


def _stack(
  spec: interfaces.Sizes,
  make_layer: Callable[[], hk.RNNCore],
  hidden: int,
  num_layers: int,
) -> interfaces.Cell:
  """One core, or `hk.DeepRNN` of several without skip connections.

  Layer l reads what layer l - 1 emits at the same step; the readout reads the
  last layer alone. The state of a stack is a tuple of its layers' states.
  """
  for name, size in (('hidden', hidden), ('num_layers', num_layers)):
    if size < 1:
      raise ValueError(f'network.{name} is {size}; it must be at least 1.')

  def make_core():
    if num_layers == 1:
      return make_layer()
    return hk.DeepRNN([make_layer() for _ in range(num_layers)])

  return cell_from_core(make_core, lambda: hk.Linear(spec.num_outputs))

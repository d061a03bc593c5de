# SPDX-License-Identifier: Apache-2.0
"""Any unmodified Haiku core as a Cell."""

from collections.abc import Callable

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import interfaces, unroll


def cell_from_core(
  make_core: Callable[[], hk.RNNCore],
  make_readout: Callable[[], Callable[[jax.Array], jax.Array]],
) -> interfaces.Cell:
  """Makes a Cell of a recurrent Haiku core and a readout.

    emission_t, state_t = core(inputs_t, state_tm1)
    outputs_t = readout(emission_t)

  Both factories are called inside one Haiku transform, so that parameters get
  the names Haiku gives them, none twice. The cell has no constants.

  A core may learn its initial state, which one trial then begins with like the
  next. The cell's state is `{'core': state, 'begun': bool [B]}`, and the step
  computes

    state_tm1 = where(begun, state_tm1, initial_state(params))

  so that the parameters of the initial state act in the first step, where any
  rule credits them as it credits the others.

  A core may draw by `hk.next_rng_key`, in its step or its initial state. It
  then runs trial by trial under `jax.vmap`, each with the key of its own trial
  and step, and its noise does not depend on the batch.

  Args:
    make_core: makes the core, e.g. `lambda: hk.GRU(128)`.
    make_readout: makes the readout, e.g. `lambda: hk.Linear(10)`.

  Returns:
    A Cell. `init` raises TypeError where an `hk.ResetCore` gets no flag, and
    ValueError where the core keeps Haiku state (batch statistics) or the
    readout draws.

  Raises:
    TypeError: if the core has no `initial_state`.
  """

  def build():
    core, readout = make_core(), make_readout()
    _check_core(core)

    def init(inputs):
      emission, _ = core(inputs, core.initial_state(inputs.shape[0]))
      return readout(emission)

    return init, (core.initial_state, core, readout)

  def build_initial_state(batch_size):
    core = make_core()
    _check_core(core)
    return core.initial_state(batch_size)

  transformed = hk.multi_transform_with_state(build)
  apply_initial, apply_core, apply_readout = transformed.apply
  alone = hk.transform_with_state(build_initial_state)

  def initial_params():
    return jax.eval_shape(lambda key: alone.init(key, 1), _key_shape())[0]

  def start_of_one(params, key):
    return apply_initial(params, {}, key, 1)[0]

  learns_start = bool(initial_params())
  draws_start = _draws(start_of_one, initial_params())
  draws = []  # whether the step draws, once a trace of it has told

  def step_of_all(params, key, state, inputs):
    return apply_core(params, {}, key, inputs, state)[0]

  def begin(params, keys):
    """The core's initial state of trials with these keys."""
    if draws_start:
      return _each_trial(start_of_one, params, keys)
    if not learns_start:
      return apply_initial(params, {}, None, keys.shape[0])[0]
    # The broadcast stands here, for a core may repeat its parameters by
    # operations that no rule knows to be elementwise.
    return jax.tree.map(
      lambda leaf: jnp.broadcast_to(leaf, (*keys.shape, *leaf.shape[1:])),
      start_of_one(params, None),
    )

  def init(key, inputs):
    unroll.check_key(key)
    chex.assert_type(inputs, float)
    with hk.intercept_methods(_check_reset_flag):
      params, haiku_state = transformed.init(key, inputs)
    if haiku_state:
      raise ValueError(
        f'the core keeps Haiku state ({", ".join(haiku_state)}), which a Cell '
        'has no place for; train it as a TrainState, or drop the batch '
        'statistics.'
      )

    def emit(keys):
      state = initial_state({}, keys)
      return step(params, {}, state, keys, inputs)[0]

    emission = jax.eval_shape(emit, jax.random.split(key, inputs.shape[0]))
    if _draws(lambda p, k, e: apply_readout(p, {}, k, e)[0], params, emission):
      raise ValueError(
        'the readout draws random numbers; a Cell draws in its step alone: '
        'move what draws from the readout into the core.'
      )
    return params, {}

  def initial_state(constants, keys):
    del constants
    if not learns_start:
      return begin({}, keys)
    shapes = jax.eval_shape(begin, initial_params(), keys)
    return {
      'core': jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes),
      'begun': jnp.zeros(keys.shape, bool),
    }

  def step(params, constants, state, keys, inputs):
    del constants
    if learns_start:
      # The core may draw in its step too, and not the same numbers.
      start = begin(params, _folded(keys) if draws_start else keys)
      begun = state['begun']
      state = jax.tree.map(
        lambda old, new: jnp.where(
          jnp.expand_dims(begun, tuple(range(1, old.ndim))), old, new
        ),
        state['core'],
        start,
      )
    if not draws:
      draws.append(_draws(step_of_all, params, state, inputs))
    if draws[0]:
      emission, state = _each_trial(step_of_all, params, keys, state, inputs)
    else:
      emission, state = step_of_all(params, None, state, inputs)
    if learns_start:
      state = {'core': state, 'begun': jnp.ones_like(begun)}
    return emission, state

  def readout(params, constants, emission):
    del constants
    return apply_readout(params, {}, None, emission)[0]

  return interfaces.Cell(init, initial_state, step, readout)


_START = np.uint32(2**32 - 1)


def _folded(keys: jax.Array) -> jax.Array:
  return jax.vmap(lambda key: jax.random.fold_in(key, _START))(keys)


def _key_shape() -> jax.ShapeDtypeStruct:
  return jax.eval_shape(lambda: unroll.seed_key(0))


def _draws(function: Callable, params, *args) -> bool:
  """Whether `function(params, key, *args)` draws from its key.

  A function that runs without a key is taken not to draw: Haiku's
  `maybe_next_rng_key` gives it None.
  """
  try:
    jax.eval_shape(lambda p, *args: function(p, None, *args), params, *args)
  except ValueError:
    # Any other error than Haiku's about the missing key comes up again here.
    jax.eval_shape(function, params, _key_shape(), *args)
    return True
  return False


def _each_trial(function: Callable, params, keys: jax.Array, *args):
  """`function(params, key, *args)` of each trial alone, as a batch of 1."""

  def of_trial(key, *args):
    args = jax.tree.map(lambda x: x[None], args)
    return jax.tree.map(lambda x: x[0], function(params, key, *args))

  return jax.vmap(of_trial)(keys, *args)


def _check_core(core: object) -> None:
  if not callable(getattr(core, 'initial_state', None)):
    raise TypeError(
      f'make_core made a {type(core).__name__}, which has no initial_state; '
      'it must make an hk.RNNCore such as hk.GRU. A module without a state '
      'joins a core in hk.DeepRNN.'
    )


def _check_reset_flag(call, args, kwargs, context):
  """Refuses a ResetCore whose inputs are an array, which it would unpack."""
  is_call = context.method_name == '__call__'
  if is_call and isinstance(context.module, hk.ResetCore):
    inputs = args[0] if args else kwargs.get('inputs')
    if not isinstance(inputs, tuple | list):
      raise TypeError(
        'hk.ResetCore takes (inputs, should_reset), and a Cell gives it inputs '
        'alone; wrap it in a core that makes the flag bool [B] of its inputs.'
      )
  return call(*args, **kwargs)


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
    num_layers: layers; each reads what the layer below emits at the same step,
      and the readout reads the last alone.
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
  """`hk.LSTM(hidden)` with a linear readout; layers as in `gru`.

  Args:
    spec: sizes of inputs and outputs.
    hidden: units of a layer.
    num_layers: layers, each reading the one below at the same step.

  Raises:
    ValueError: for a size less than 1.
  """
  return _stack(spec, lambda: hk.LSTM(hidden), hidden, num_layers)


def vanilla_rnn(
  spec: interfaces.Sizes, *, hidden: int = 128, num_layers: int = 1
) -> interfaces.Cell:
  """`hk.VanillaRNN(hidden)` with a linear readout; layers as in `gru`.

  Args:
    spec: sizes of inputs and outputs.
    hidden: units of a layer.
    num_layers: layers, each reading the one below at the same step.

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
      raise ValueError(f'{name}={size}: must be at least 1.')

  def make_core():
    if num_layers == 1:
      return make_layer()
    return hk.DeepRNN([make_layer() for _ in range(num_layers)])

  return cell_from_core(make_core, lambda: hk.Linear(spec.num_outputs))

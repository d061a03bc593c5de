# SPDX-License-Identifier: Apache-2.0
"""Running a cell over time, and the one schedule of its noise.

Noise belongs to the trial: step t of the trial with number `index[b]` draws
from `fold_in(fold_in(run_key, index[b]), t)`, whatever the batch, the window or
the device it is in. Rules are therefore compared on the same noise.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import interfaces, noise, platforms

# The initial state draws as if from a step that no trial reaches.
_INITIAL_STEP = np.uint32(2**32 - 1)

# Generators that draw for a batch of keys at once, not for each key by itself.
_DRAWS_BY_BATCH = ('rbg', 'unsafe_rbg')


def seed_key(seed: int) -> jax.Array:
  """The Threefry key `[]` of a seed from 0 to 2**32 - 1.

  That of `jax.random.key(seed)` under JAX's own settings, whatever the
  environment says instead of the generator (JAX_DEFAULT_PRNG_IMPL) and of the
  seeds (JAX_RANDOM_SEED_OFFSET).
  """
  words = jnp.asarray(np.array([0, seed], np.uint32))
  return jax.random.wrap_key_data(words, impl='threefry2x32')


def check_key(key: jax.Array) -> None:
  """Raises an error unless draws from the key are a function of the key alone.

  Keys of `jax.random.PRNGKey` are arrays of two words, which have another shape
  than one key, so that a batch of them is none of `[B]`. JAX's generators 'rbg'
  and 'unsafe_rbg' draw for a whole batch of keys at once, so that a trial would
  be another one in another batch. Without `jax_threefry_partitionable`, which
  is on by default, the same key draws other numbers.

  Args:
    key: any array of keys.

  Raises:
    TypeError: for what is no typed key, and for a key of such a generator.
    ValueError: if `jax_threefry_partitionable` is off.
  """
  dtype = getattr(key, 'dtype', None)
  if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
    given = type(key).__name__ if dtype is None else f'{dtype} array'
    raise TypeError(
      f'a {given} is no typed PRNG key: use jax.random.key(seed), or '
      'jax.random.wrap_key_data(key) for a legacy key.'
    )
  generator = str(jax.random.key_impl(key))
  if generator in _DRAWS_BY_BATCH:
    raise TypeError(
      f'a key of {generator!r} draws other numbers for a trial in another '
      "batch: use jax.random.key(seed, impl='threefry2x32')."
    )
  if not jax.config.jax_threefry_partitionable:  # pyright: ignore
    raise ValueError(
      'jax_threefry_partitionable=False: the same key draws other numbers '
      'then; set it, or JAX_THREEFRY_PARTITIONABLE in the environment, to 1.'
    )


def check_steps(trials: interfaces.Trials) -> None:
  """Raises ValueError unless trials have a step."""
  if trials.inputs.shape[0] == 0:
    raise ValueError(
      f'inputs are {list(trials.inputs.shape)}: trials lead with [T, B], and '
      'need T of at least 1 step.'
    )


def trial_keys(key: jax.Array, index: jax.Array) -> jax.Array:
  """Keys `[B]` of trials: `fold_in(key, index[b])`, `index` int `[B]`."""
  check_key(key)
  chex.assert_rank(index, 1)
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


def step_keys(keys: jax.Array, steps: jax.Array) -> jax.Array:
  """Keys `[B]` of one step of trials: `fold_in(keys[b], steps[b])`."""
  check_key(keys)
  chex.assert_equal_shape([keys, steps])
  return noise.fold_in(keys, steps)


def timed(trials: interfaces.Trials) -> dict[str, jax.Array]:
  """The fields of trials that lead with `[T, B]`, by name.

  `dataclasses.replace(trials, **jax.tree.map(f, timed(trials)))` cuts windows,
  pads, or splits a batch.
  """
  return {
    'inputs': trials.inputs,
    'targets': trials.targets,
    'mask': trials.mask,
  }


def initial_state(
  cell: interfaces.Cell,
  constants: interfaces.ArrayTree,
  key: jax.Array,
  index: jax.Array,
) -> interfaces.ArrayTree:
  """The cell's state before step 0 of the trials `index`."""
  keys = trial_keys(key, index)
  first = jnp.full(index.shape, _INITIAL_STEP)
  return cell.initial_state(constants, step_keys(keys, first))


def gathered(
  loss: interfaces.StepLoss,
  gather: Callable[[interfaces.ArrayTree], interfaces.ArrayTree],
) -> interfaces.StepLoss:
  """A population loss computed over the trials of all devices.

  The loss is a statistic over trials, so every device must see them all.
  Differentiated on D devices it gives each D times its share, and the mean over
  devices of the parameters' gradients is the whole gradient.

  Args:
    loss: a loss whose mask is the same for all trials of a step (otherwise one
      device could skip a step, and its collective, that another one takes).
    gather: concatenates the leading axis over devices.

  Returns:
    A loss with the same value on every device.
  """

  def over_devices(outputs, targets, mask):
    return loss(*gather((outputs, targets, mask)))

  return over_devices


def score_step(
  cell: interfaces.Cell,
  loss: interfaces.StepLoss,
  params: interfaces.ArrayTree,
  constants: interfaces.ArrayTree,
  emission: jax.Array,
  targets: jax.Array,
  mask: jax.Array,
  state: interfaces.ArrayTree | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Readout and loss of one step, skipped where no trial is asked.

  A cell with a penalty adds the mean over trials of mask times penalty.

  Where some trials are asked, the others' emissions, outputs and targets are
  zeroed: they weigh 0, but 0 * inf is NaN, in the loss and, behind a readout
  whose slope overflows, in the gradient; and padding may hold a label that is
  no class. What nobody asks for must not break a run.

  Returns:
    The loss `[]` and the metrics `{name: []}`; zeros where the mask is zero.

  Raises:
    ValueError: if the cell has a penalty, and the rule shows no state.
  """
  if cell.penalty is None:
    state = None
  elif state is None:
    raise ValueError(
      'the cell has a penalty on its state, and this rule scores emissions '
      'alone: choose a rule that scores states too, or set the penalty to 0.'
    )

  def scored(emission, targets, mask, state):
    outputs = cell.readout(params, constants, where_asked(mask, emission))
    total, metrics = loss(
      where_asked(mask, outputs), where_asked(mask, targets), mask
    )
    if cell.penalty is not None:
      cost = where_asked(mask, cell.penalty(constants, state))
      total += jnp.mean(mask * cost)
    return total, metrics

  return platforms.if_asked(mask, scored, emission, targets, mask, state)


def where_asked(
  mask: jax.Array, values: jax.Array, otherwise: float = 0
) -> jax.Array:
  """Values `[*mask.shape, ...]` where the mask is not 0; else a number.

  They weigh nothing there, but 0 * NaN is NaN, in a gradient too.
  """
  asked = jnp.expand_dims(mask != 0, tuple(range(mask.ndim, values.ndim)))
  return jnp.where(asked, values, otherwise)


def unroll(
  cell: interfaces.Cell,
  loss: interfaces.StepLoss,
  params: interfaces.ArrayTree,
  constants: interfaces.ArrayTree,
  state: interfaces.ArrayTree,
  keys: jax.Array,
  steps: jax.Array,
  trials: interfaces.Trials,
  *,
  remat: bool = False,
) -> tuple[jax.Array, tuple[dict[str, jax.Array], interfaces.ArrayTree]]:
  """Advances the cell through the trials' steps and sums the loss.

  Args:
    cell: the dynamics.
    loss: the loss of one step.
    params: the cell's parameters.
    constants: the cell's constants.
    state: the state before the first of these steps; leaves lead with B.
    keys: `[B]`, the trials' keys (`trial_keys`).
    steps: int `[B]`, how many steps of its trial each has behind it.
    trials: T steps of B trials: whole ones, or a window of them.
    remat: recompute the inside of each step in the backward pass
      (`jax.checkpoint`): memory of the states alone, for one more forward.

  Returns:
    The loss `[]`, and `(metrics {name: []}, state)`: the shape that
    `jax.value_and_grad(..., has_aux=True)` wants.
  """
  total, (metrics, state, _) = watched(
    cell,
    loss,
    params,
    constants,
    state,
    keys,
    steps,
    trials,
    lambda *_: (),
    remat=remat,
  )
  return total, (metrics, state)


def watched(
  cell: interfaces.Cell,
  loss: interfaces.StepLoss,
  params: interfaces.ArrayTree,
  constants: interfaces.ArrayTree,
  state: interfaces.ArrayTree,
  keys: jax.Array,
  steps: jax.Array,
  trials: interfaces.Trials,
  watch: Callable[..., interfaces.ArrayTree],
  *,
  remat: bool = False,
) -> tuple[
  jax.Array,
  tuple[dict[str, jax.Array], interfaces.ArrayTree, interfaces.ArrayTree],
]:
  """`unroll`, and what is to be known of every step beside.

  Args:
    cell: as in `unroll`, like all but the next.
    loss: likewise.
    params: likewise.
    constants: likewise.
    state: likewise.
    keys: likewise.
    steps: likewise.
    trials: likewise.
    watch: `(state, keys, inputs) -> tree`, of the state before a step and of
      the step's keys `[B]` and inputs.
    remat: likewise.

  Returns:
    The loss, and `(metrics, state, tree)`; leaves of the tree lead with T.
  """
  chex.assert_rank([trials.mask, trials.index, steps], [2, 1, 1])
  chex.assert_equal_shape_prefix(
    [trials.inputs, trials.targets, trials.mask], 2
  )
  check_steps(trials)

  def advance(state, step_data):
    step, inputs, targets, mask = step_data
    noise = step_keys(keys, step)
    seen = watch(state, noise, inputs)
    emission, state = cell.step(params, constants, state, noise, inputs)
    scores = score_step(
      cell, loss, params, constants, emission, targets, mask, state
    )
    return state, (scores, seen)

  num_steps = trials.mask.shape[0]
  state, (scores, seen) = platforms.scan(
    jax.checkpoint(advance) if remat else advance,
    state,
    (
      steps[None] + jnp.arange(num_steps)[:, None],
      trials.inputs,
      trials.targets,
      trials.mask,
    ),
  )
  total, metrics = jax.tree.map(lambda x: jnp.sum(x, axis=0), scores)
  return total, (metrics, state, seen)


def model_from_cell(cell: interfaces.Cell) -> interfaces.Model:
  """The Model of a cell: whole trials from their initial state."""

  def init(key, trials):
    check_key(key)
    check_steps(trials)
    return cell.init(key, trials.inputs[0])

  def predict(params, constants, key, trials):
    keys = trial_keys(key, trials.index)

    def advance(state, step_data):
      step, inputs = step_data
      emission, state = cell.step(
        params, constants, state, step_keys(keys, step), inputs
      )
      return state, cell.readout(params, constants, emission)

    num_steps = trials.inputs.shape[0]
    steps = jnp.broadcast_to(
      jnp.arange(num_steps)[:, None], (num_steps, *trials.index.shape)
    )
    state = initial_state(cell, constants, key, trials.index)
    return platforms.scan(advance, state, (steps, trials.inputs))[1]

  return interfaces.Model(init, predict)


def model_from_network(
  network: interfaces.RelaxationNetwork, *, sweeps: int
) -> interfaces.Model:
  """The Model of a relaxation network: settle freely, then read out.

  Args:
    network: the network. Its output row stays unclamped: no label enters.
    sweeps: sweeps of the free phase.

  Returns:
    A Model over static trials (T = 1).
  """
  if sweeps < 1:
    raise ValueError(f'sweeps={sweeps}: must be at least 1.')

  def init(key, trials):
    check_key(key)
    _check_static(trials)
    return network.init(key, trials.inputs[0])

  def predict(params, constants, key, trials):
    _check_static(trials)
    state = network.initial_state(params, constants, trials.inputs[0], None)
    keys = trial_keys(key, trials.index)
    state, _ = network.settle(
      params, constants, state, keys, messages='free', sweeps=sweeps
    )
    return network.readout(params, constants, state)[None]

  return interfaces.Model(init, predict)


def _check_static(trials: interfaces.Trials) -> None:
  if trials.inputs.shape[0] != 1:
    raise ValueError(
      'a relaxation network takes static trials (T = 1); these have '
      f'T = {trials.inputs.shape[0]} steps. Choose a static task, or a cell.'
    )

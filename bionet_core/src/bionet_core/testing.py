# SPDX-License-Identifier: Apache-2.0
"""The contract of a cell and of a network, for their authors' own tests.

  def test_my_cell():
    testing.check_cell(my_cell(spec), inputs)

A law that is broken raises an AssertionError that names the law and the leaf.
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import interfaces, unroll

_NUM_STEPS, _WINDOW = 4, 2


def check_cell(
  cell: interfaces.Cell, inputs: jax.Array, *, seed: int = 0
) -> None:
  """Checks every law of a `Cell`.

  The same key draws the same parameters and another key others; a step keeps
  the state's tree, shapes and dtypes; jit = no jit; `unroll` over two windows,
  state carried = a loop over all steps; trials know nothing of each other, and
  their noise belongs to their index; the gradient is finite and not all zero.

  Args:
    cell: the cell.
    inputs: float `[B, *I]`, one step's inputs of at least 2 trials. Further
      steps have the same inputs, handed on from trial to trial.
    seed: seeds every draw.

  Raises:
    AssertionError: for a law that is broken.
  """
  batch = _check_inputs(inputs)
  key, other_key = jax.random.split(unroll.seed_key(seed))
  params, constants = _check_init(cell.init, key, other_key, inputs)
  index = jnp.asarray(np.arange(7, 7 + batch))
  sequence = np.stack([np.roll(inputs, t, 0) for t in range(_NUM_STEPS)])

  @jax.jit
  def begun(index):
    keys = unroll.trial_keys(key, index)
    steps = [jnp.full(index.shape, t) for t in range(_NUM_STEPS)]
    noise = [unroll.step_keys(keys, step) for step in steps]
    return unroll.initial_state(cell, constants, key, index), noise

  start, (noise, *_) = begun(index)
  _leads_with_batch('initial_state', start, batch)

  def advance(params, state, keys, step_inputs):
    emission, state = cell.step(params, constants, state, keys, step_inputs)
    return emission, cell.readout(params, constants, emission), state

  # One step: its shapes, and what the compiler makes of it.
  args = (params, start, noise, inputs)
  results = emission, outputs, after = advance(*args)
  _same_types('step: the new state and the old', after, start)
  _same_types('step: eval_shape', jax.eval_shape(advance, *args), results)
  for what, array in (('emission', emission), ('outputs', outputs)):
    fits = array.ndim == 2 and array.shape[0] == batch
    _require(fits, f'{what} are [B, ...] with B = {batch}; got {array.shape}')
  jitted = jax.jit(advance)
  _same('step: jit = no jit', jitted(*args), results)

  # Whole trials: a loop over steps written out is what the scan must equal.
  def loop(index, sequence):
    (state, noise), outputs = begun(index), []
    for keys, step_inputs in zip(noise, sequence, strict=True):
      _, output, state = jitted(params, state, keys, step_inputs)
      outputs.append(np.asarray(output))
    return np.stack(outputs, axis=1), jax.tree.map(np.asarray, state)

  whole = loop(index, sequence)
  goals = np.random.default_rng(seed).normal(size=whole[0].shape)
  goals = goals.astype(outputs.dtype).swapaxes(0, 1)
  losses = np.sum((whole[0].swapaxes(0, 1) - goals) ** 2, axis=-1)

  def window(params, state, start):
    def steps(x):
      return jax.lax.dynamic_slice_in_dim(jnp.asarray(x), start, _WINDOW)

    trials = interfaces.Trials(
      inputs=steps(sequence),
      targets=steps(goals),
      mask=steps(np.ones_like(losses)),
      index=jnp.asarray(index),
    )
    keys, behind = unroll.trial_keys(key, trials.index), jnp.full(batch, start)
    return unroll.unroll(
      cell, _squared, params, constants, state, keys, behind, trials
    )

  descend = jax.jit(jax.value_and_grad(window, has_aux=True))
  total, state, gradient = 0, start, params
  for begin in range(0, _NUM_STEPS, _WINDOW):
    (loss, (_, state)), gradient = descend(params, state, begin)
    total += loss
  scanned = np.asarray(total), state
  _same('scan in windows = loop', scanned, (np.sum(losses) / batch, whole[1]))
  _check_gradient('the loss', gradient, params)

  _same(
    'trials permuted with their index = results permuted',
    loop(np.roll(np.asarray(index), 1), np.roll(sequence, 1, 1)),
    jax.tree.map(lambda x: np.roll(x, 1, 0), whole),
  )
  for b in range(batch):
    _same(
      f'trial {b} alone = trial {b} in the batch',
      loop(np.asarray(index)[b : b + 1], sequence[:, b : b + 1]),
      _trial(whole, b),
    )


def check_network(
  network: interfaces.RelaxationNetwork,
  inputs: jax.Array,
  num_classes: int,
  *,
  seed: int = 0,
) -> None:
  """Checks every law of a `RelaxationNetwork`.

  The same key draws the same parameters and another key others; jit = no jit;
  sweeps add up; a free phase does not see the label; the local loss has the
  gradient tree of the parameters, freezes the states, and is the mean of its
  trials, weighted by the gate; an unknown filter is refused.

  Args:
    network: the network.
    inputs: float `[B, *I]`, the inputs of at least 2 trials.
    num_classes: O, at least 2.
    seed: seeds every draw.

  Raises:
    AssertionError: for a law that is broken.
  """
  batch = _check_inputs(inputs)
  key, other_key = jax.random.split(unroll.seed_key(seed))
  keys = unroll.trial_keys(key, jnp.arange(batch))
  params, constants = _check_init(network.init, key, other_key, inputs)
  targets = jnp.asarray(np.arange(batch) % num_classes)
  begin, read = jax.jit(network.initial_state), jax.jit(network.readout)
  blank = begin(params, constants, inputs, None)
  clamped = begin(params, constants, inputs, targets)
  _leads_with_batch('initial_state', blank, batch)
  _same_types('initial_state: with and without targets', clamped, blank)
  compiled = jax.jit(network.settle, static_argnames=('messages', 'sweeps'))

  def settle(state, messages, sweeps, *, jit=True):
    return (compiled if jit else network.settle)(
      params, constants, state, keys, messages=messages, sweeps=sweeps
    )

  for messages in ('forward', 'backward', 'all', 'free'):
    law = f'settle, messages={messages!r}'
    once, changed = settle(clamped, messages, 1)
    _same_types(f'{law}: the new state and the old', once, clamped)
    if messages in ('all', 'free'):
      twice, again = settle(once, messages, 1)
      changed = np.concatenate([changed, again])
      both = settle(clamped, messages, 2)
      _same(f'{law}: 1 + 1 sweeps = 2', both, (twice, changed))
    fits = changed.ndim == 1 and all(0 <= x <= 1 for x in np.asarray(changed))
    _require(fits, f'{law}: a sweep changes a fraction of units; got {changed}')
  plain = settle(clamped, 'all', 1, jit=False)
  _same('settle: jit = no jit', settle(clamped, 'all', 1), plain)
  try:
    settle(blank, 'no such messages', 1)
  except ValueError:
    pass
  else:
    raise AssertionError('settle: an unknown filter must be a ValueError')

  # What the label wrote into the state may differ; nothing else, not by a bit.
  unlabelled = jax.tree.map(lambda a, b: np.array_equal(a, b), blank, clamped)
  labelled = not all(jax.tree.leaves(unlabelled))
  _require(labelled, 'initial_state: targets leave no trace in the state')
  settled = [settle(start, 'free', 2)[0] for start in (blank, clamped)]
  free, free_clamped = (
    jax.tree.map(lambda keep, x: x if keep else (), unlabelled, state)
    for state in settled
  )
  law = 'settle: a free phase does not see the label'
  _same(law, free_clamped, free, exact=True)
  scores, clamped_scores = (read(params, constants, state) for state in settled)
  law = 'readout: after a free phase it does not see the label'
  _same(law, clamped_scores, scores, exact=True)
  fits = scores.shape == (batch, num_classes)
  _require(fits, f'readout: [B, O] is {batch, num_classes}, not {scores.shape}')

  def loss(params, state, targets, gate=None):
    return network.local_loss(params, constants, state, targets, gate)

  state = settle(settle(clamped, 'all', 2)[0], 'free', 2)[0]
  state = jax.tree.map(np.asarray, state)
  descend = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), allow_int=True))
  value, (gradient, frozen) = descend(params, state, targets)
  plain = loss(params, state, targets)
  _require(jnp.shape(plain) == (), 'local_loss: a scalar, the mean over trials')
  _same('local_loss: jit = no jit', value, plain)
  _check_gradient('local_loss', gradient, params)
  still = not any(np.any(np.asarray(x, float)) for x in jax.tree.leaves(frozen))
  _require(still, 'local_loss: states are frozen; it has a gradient in them')
  singles = []
  for b in range(batch):
    of_trial = descend(params, _trial(state, b), targets[b : b + 1])[1][0]
    gate = jnp.asarray(batch * np.eye(batch)[:, [b]], scores.dtype)
    gated = descend(params, state, targets, gate)[1][0]
    _same(f'local_loss: a gate on trial {b} = the trial alone', gated, of_trial)
    singles.append(of_trial)
  mean = jax.tree.map(lambda *x: sum(map(np.asarray, x)) / batch, *singles)
  _same('local_loss: B trials = the mean of single trials', gradient, mean)
  shut = descend(params, state, targets, 0 * gate)[1][0]
  nothing = jax.tree.map(np.zeros_like, params)
  _same('local_loss: a gate of 0 lets nothing through', shut, nothing)


def _check_init(init, key, other_key, inputs):
  drawn = params, _ = init(key, inputs)
  leaves = jax.tree.leaves(params)
  floats = all(jnp.issubdtype(x.dtype, jnp.floating) for x in leaves)
  _require(floats, 'init: what learns is float; the rest is a constant')
  again, other = init(key, inputs), init(other_key, inputs)
  _same('init: same key, same draw', again, drawn, exact=True)
  _same_types('init: another key, the same shapes', other, drawn)
  pairs = zip(jax.tree.leaves(other), jax.tree.leaves(drawn), strict=True)
  differs = any(not np.array_equal(a, b) for a, b in pairs)
  _require(differs or not leaves, 'init: another key draws the same parameters')
  return drawn


def without_targets(trials: interfaces.Trials) -> interfaces.Trials:
  """The trials, with targets of no class, or NaN, where nothing is asked."""
  is_label = jnp.issubdtype(trials.targets.dtype, jnp.integer)
  targets = unroll.where_asked(
    trials.mask, trials.targets, -100 if is_label else jnp.nan
  )
  return dataclasses.replace(trials, targets=targets)


def _check_inputs(inputs):
  chex.assert_type(inputs, float)
  if inputs.ndim < 1 or inputs.shape[0] < 2:
    raise ValueError(
      f'inputs of shape {inputs.shape}: must be [B, *I] with B >= 2.'
    )
  return inputs.shape[0]


def _check_gradient(of, gradient, params):
  law = f'the gradient of {of}'
  _same_types(f'{law} and the parameters', gradient, params)
  leaves = jax.tree.leaves_with_path(gradient)
  for path, leaf in leaves:
    _require(np.all(np.isfinite(leaf)), f'{law} is not finite in {_name(path)}')
  alive = any(np.any(np.asarray(leaf)) for _, leaf in leaves)
  _require(alive or not leaves, f'{law} is zero in every parameter')


def _leads_with_batch(law, tree, batch):
  for path, leaf in jax.tree.leaves_with_path(tree):
    message = f'{law}: {_name(path)} {leaf.shape} leads not with {batch}'
    _require(leaf.shape[:1] == (batch,), message)


def _same_types(law, actual, expected):
  try:
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
  except AssertionError as error:
    raise AssertionError(f'{law} must agree. {error}') from error


def _same(law, actual, expected, *, exact=False):
  ours, theirs = jax.tree.structure(actual), jax.tree.structure(expected)
  _require(ours == theirs, f'{law}: {ours} is not {theirs}')
  rtol, atol = (0, 0) if exact else (1e-4, 1e-5)  # sums may be reordered
  others = iter(jax.tree.leaves(expected))
  for path, leaf in jax.tree.leaves_with_path(actual):
    message = f'{law}: {_name(path)} differs'
    np.testing.assert_allclose(leaf, next(others), rtol, atol, err_msg=message)


def _trial(tree, b):
  return jax.tree.map(lambda x: x[b : b + 1], tree)


def _squared(outputs, targets, mask):
  errors = jnp.sum(jnp.square(outputs - targets), axis=-1)
  return jnp.mean(errors * mask), {}


def _name(path):
  return jax.tree_util.keystr(path) or 'the result'


def _require(holds, message):
  if not holds:
    raise AssertionError(message)

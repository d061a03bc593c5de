# SPDX-License-Identifier: Apache-2.0
"""Running a cell over time, against loops and products written out here."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import interfaces, unroll

STEPS, BATCH, UNITS = 5, 3, 2
KEY = jax.random.key(3)
PARAMS = {'a': jnp.array([0.9, -0.5]), 'w': jnp.array([[1.5], [-0.7]])}
INDEX = jnp.array([4, 0, 9])


def noise_from(keys):
  """A number in [0, 1) a unit from a trial's key: cheap to compile."""
  return (jax.random.key_data(keys) % 1000).astype(jnp.float32) / 1000


def noisy_cell():
  """Steps by x <- a x + inputs + sigma noise; emits x; reads out x w."""

  def step(params, constants, state, keys, inputs):
    noise = noise_from(keys)
    decay = jnp.broadcast_to(params['a'], state.shape)
    state = decay * state + inputs + constants['sigma'] * noise
    return state, state

  return interfaces.Cell(
    init=lambda key, inputs: (PARAMS, {'sigma': jnp.float32(0.3)}),
    initial_state=lambda constants, keys: noise_from(keys),
    step=step,
    readout=lambda params, constants, emission: emission @ params['w'],
  )


CELL = noisy_cell()
CONSTANTS = {'sigma': jnp.float32(0.3)}


def squared(outputs, targets, mask):
  errors = jnp.sum(jnp.square(outputs - targets), axis=-1)
  return jnp.mean(errors * mask), {'last': jnp.mean(outputs[:, 0] * mask)}


def make_trials(seed=0):
  generator = np.random.default_rng(seed)

  def draw(*shape):
    return jnp.asarray(generator.normal(size=shape), jnp.float32)

  return interfaces.Trials(
    inputs=draw(STEPS, BATCH, UNITS),
    targets=draw(STEPS, BATCH, 1),
    mask=jnp.abs(draw(STEPS, BATCH)).at[1].set(0).at[3, 1].set(0),
    index=INDEX,
  )


def window(trials, start, stop):
  cut = jax.tree.map(lambda x: x[start:stop], trials)
  return cut.replace(index=trials.index)


@functools.partial(jax.jit, static_argnames=('cell', 'remat'))
def run(params, trials, start, state, *, cell=CELL, remat=False):
  keys = unroll.trial_keys(KEY, trials.index)
  steps = start + jnp.zeros_like(trials.index)
  return unroll.unroll(
    cell, squared, params, CONSTANTS, state, keys, steps, trials, remat=remat
  )


START = unroll.initial_state(CELL, CONSTANTS, KEY, INDEX)


def noise_of(trial, step):
  """The documented schedule, one trial and one step at a time."""
  key = jax.random.fold_in(jax.random.fold_in(KEY, trial), step)
  return np.asarray(jax.random.key_data(key) % 1000, np.float32) / 1000


def looped(trials):
  """States `[T, B, N]` by the recursion, in NumPy."""
  a, states = np.asarray(PARAMS['a']), []
  first = np.uint32(2**32 - 1)
  state = np.stack([noise_of(i, first) for i in INDEX])
  for t in range(STEPS):
    noise = np.stack([noise_of(i, t) for i in INDEX])
    state = a * state + np.asarray(trials.inputs[t]) + np.float32(0.3) * noise
    states.append(state)
  return np.stack(states)


def test_unroll_is_the_recursion_with_the_documented_noise():
  """Truth: a NumPy loop with keys fold_in(fold_in(key, index), t)."""
  trials = make_trials()
  total, (metrics, state) = run(PARAMS, trials, 0, START)
  states = looped(trials)
  outputs = states @ np.asarray(PARAMS['w'])
  mask = np.asarray(trials.mask)
  errors = np.sum((outputs - np.asarray(trials.targets)) ** 2, axis=-1)
  np.testing.assert_allclose(total, np.sum(errors * mask) / BATCH, rtol=1e-5)
  last = np.sum(outputs[..., 0] * mask) / BATCH
  np.testing.assert_allclose(metrics['last'], last, rtol=1e-5)
  np.testing.assert_allclose(state, states[-1], rtol=1e-5)


def test_model_predicts_the_outputs_of_the_recursion():
  """Truth: the same NumPy loop; targets and mask are never read."""
  trials = make_trials()
  model = unroll.model_from_cell(CELL)
  blind = trials.replace(targets=None, mask=None)
  outputs = model.predict(PARAMS, CONSTANTS, KEY, blind)
  expected = looped(trials) @ np.asarray(PARAMS['w'])
  np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-6)
  chex.assert_trees_all_equal(model.init(KEY, trials), CELL.init(KEY, None))


def test_windows_with_carried_state_equal_the_whole():
  """Truth: a law; windows of 2 and 3 steps, noise included."""
  trials = make_trials()
  total, (metrics, state) = run(PARAMS, trials, 0, START)
  first, (first_metrics, middle) = run(PARAMS, window(trials, 0, 2), 0, START)
  rest = window(trials, 2, STEPS)
  second, (second_metrics, last) = run(PARAMS, rest, 2, middle)
  np.testing.assert_allclose(first + second, total, rtol=1e-6)
  chex.assert_trees_all_close(last, state, rtol=1e-6)
  summed = first_metrics['last'] + second_metrics['last']
  np.testing.assert_allclose(summed, metrics['last'], rtol=1e-5)
  # The mutant that restarts the count of steps draws other noise.
  wrong, _ = run(PARAMS, rest, 0, middle)
  assert abs(wrong - second) > 1e-3


def test_trials_of_one_batch_may_stand_at_different_steps():
  """Truth: a law; each trial in a batch that stands where it does."""
  trials = window(make_trials(), 0, 2)
  state = jnp.zeros((BATCH, UNITS))
  starts = jnp.array([0, 7, 2])
  _, (_, together) = run(PARAMS, trials, starts, state)
  for b in range(BATCH):
    _, (_, alone) = run(PARAMS, trials, starts[b], state)
    np.testing.assert_allclose(alone[b], together[b], rtol=1e-6)


def test_remat_changes_neither_value_nor_gradient():
  """Truth: the unrolled computation that keeps everything."""
  trials = make_trials()
  plain, frugal = (
    jax.value_and_grad(run, has_aux=True)(PARAMS, trials, 0, START, remat=remat)
    for remat in (False, True)
  )
  chex.assert_trees_all_close(frugal, plain, rtol=1e-5)


def test_keys_fold_in_the_trial_then_the_step():
  """Truth: fold_in, one trial at a time."""
  steps = jnp.array([5, 5, 6])
  keys = unroll.step_keys(unroll.trial_keys(KEY, INDEX), steps)
  expected = [
    jax.random.key_data(jax.random.fold_in(jax.random.fold_in(KEY, i), t))
    for i, t in zip(INDEX, steps, strict=True)
  ]
  np.testing.assert_array_equal(jax.random.key_data(keys), expected)


# Emits its inputs and reads out w times them: they may overflow.
OVERFLOWING = interfaces.Cell(
  init=lambda key, inputs: ({'w': jnp.ones((1, 1))}, {}),
  initial_state=lambda constants, keys: jnp.zeros((keys.shape[0], 1)),
  step=lambda params, constants, state, keys, inputs: (inputs, state),
  readout=lambda params, constants, emission: emission @ params['w'],
)


def test_outputs_nobody_asks_for_break_nothing():
  """Truth: loss = mean_b (2 x)^2 and dloss/dw = mean_b 2 w x^2, by hand.

  Step 0 asks nobody, step 1 trial 1 only; w = 2 makes 3e38 overflow inside the
  readout.
  """
  inputs = jnp.array([[np.inf, np.nan], [3e38, 0.5], [1.0, 2.0]])[..., None]
  trials = interfaces.Trials(
    inputs=inputs,
    targets=jnp.zeros_like(inputs),
    mask=jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]]),
    index=jnp.arange(2),
  )
  state, params = jnp.zeros((2, 1)), {'w': jnp.full((1, 1), 2.0)}
  (value, (metrics, _)), gradient = jax.value_and_grad(run, has_aux=True)(
    params, trials, 0, state, cell=OVERFLOWING
  )
  squares = (0.25 + 1.0 + 4.0) / 2
  np.testing.assert_allclose(value, 4 * squares, rtol=1e-6)
  np.testing.assert_allclose(metrics['last'], 2 * (0.5 + 1 + 2) / 2, rtol=1e-6)
  np.testing.assert_allclose(gradient['w'], [[4 * squares]], rtol=1e-6)


def score_of(readout, w, emission):
  """The loss of a step that asks trial 1 only, as a function of w."""
  cell = OVERFLOWING._replace(readout=readout)
  return unroll.score_step(
    cell,
    squared,
    {'w': w},
    {},
    emission,
    jnp.zeros_like(emission),
    jnp.array([0.0, 1.0]),
  )[0]


@pytest.mark.parametrize('bad', [np.inf, -np.inf, np.nan])
def test_a_masked_emission_that_is_not_finite_weighs_nothing(bad):
  """Truth: the asked output w 3 alone: loss (3 w)^2 / 2, slope 9 w."""
  value, slope = jax.value_and_grad(score_of, 1)(
    lambda p, c, e: p['w'] * e, jnp.float32(2.0), jnp.array([[bad], [3.0]])
  )
  np.testing.assert_allclose([value, slope], [36 / 2, 18.0], rtol=1e-6)


def test_a_masked_readout_that_overflows_weighs_nothing():
  """Truth: exp(w e)^2 / 2 of the asked e = 1, slope exp(2 w).

  The other trial's exp(200) is inf, and so is its slope: a `where` on the
  outputs alone would leave 0 * inf in the gradient.
  """
  value, slope = jax.value_and_grad(score_of, 1)(
    lambda p, c, e: jnp.exp(p['w'] * e),
    jnp.float32(2.0),
    jnp.array([[100.0], [1.0]]),
  )
  expected = [np.exp(4.0) / 2, np.exp(4.0)]
  np.testing.assert_allclose([value, slope], expected, rtol=1e-5)


def test_a_masked_output_that_is_not_finite_weighs_nothing():
  """Truth: log(w e) at the asked e = 1; the zeroed emission reads out -inf."""
  value, slope = jax.value_and_grad(score_of, 1)(
    lambda p, c, e: p['w'] + jnp.log(e),
    jnp.float32(2.0),
    jnp.array([[5.0], [1.0]]),
  )
  np.testing.assert_allclose([value, slope], [4 / 2, 2.0], rtol=1e-6)


def test_a_gathered_population_loss_has_the_whole_gradient_on_each_device():
  """Truth: the same statistic over all trials on one device.

  loss = (mean_b mask_b w x_b)^2, no mean of what parts of the batch give.
  """
  devices = 4
  x = jnp.asarray(np.random.default_rng(0).normal(1, 1, (8, 1)), jnp.float32)
  mask, targets = jnp.linspace(0.5, 1.5, 8), jnp.zeros(8)

  def population(outputs, targets, mask):
    del targets
    return jnp.square(jnp.mean(outputs[:, 0] * mask)), {}

  def gather(tree):
    return jax.lax.all_gather(tree, 'devices', tiled=True)

  everywhere = unroll.gathered(population, gather)

  def split(a):
    return a.reshape(devices, 2, *a.shape[1:])

  whole = jax.value_and_grad(lambda w: population(w * x, targets, mask)[0])(3.0)

  def on_each(x, targets, mask):
    value, gradient = jax.value_and_grad(
      lambda w: everywhere(w * x, targets, mask)[0]
    )(3.0)
    return value, jax.lax.pmean(gradient, 'devices')

  values, gradients = jax.pmap(on_each, axis_name='devices')(
    split(x), split(targets), split(mask)
  )
  np.testing.assert_allclose(values, np.full(devices, whole[0]), rtol=1e-5)
  np.testing.assert_allclose(gradients, np.full(devices, whole[1]), rtol=1e-5)


def static_network(log):
  """A stand-in that says what it was given; its scores are its inputs."""

  def initial_state(params, constants, inputs, targets):
    log.append(targets)
    return (inputs,)

  def settle(params, constants, state, keys, *, messages, sweeps):
    log.append((messages, sweeps))
    return state, jnp.zeros(sweeps)

  return interfaces.RelaxationNetwork(
    init=lambda key, inputs: ({'n': jnp.float32(inputs.shape[0])}, {}),
    initial_state=initial_state,
    settle=settle,
    readout=lambda params, constants, state: state[0],
    local_loss=None,
  )


def test_a_network_predicts_from_a_free_phase_without_targets():
  """Truth: the stand-in network's log."""
  log = []
  model = unroll.model_from_network(static_network(log), sweeps=6)
  trials = window(make_trials(), 0, 1)
  assert model.init(KEY, trials)[0]['n'] == BATCH
  outputs = model.predict({}, {}, KEY, trials)
  assert log == [None, ('free', 6)]
  np.testing.assert_array_equal(outputs, trials.inputs)


def test_a_network_refuses_sequences_and_no_sweeps():
  """Truth: the interface: static trials, and at least one sweep."""
  with pytest.raises(ValueError, match='at least 1'):
    unroll.model_from_network(static_network([]), sweeps=0)
  model = unroll.model_from_network(static_network([]), sweeps=1)
  for call in (
    lambda: model.init(KEY, make_trials()),
    lambda: model.predict({}, {}, KEY, make_trials()),
  ):
    with pytest.raises(ValueError, match=r'static.*T = 5'):
      call()


def test_trials_of_unequal_length_are_refused():
  """Truth: the interface: inputs, targets and mask share [T, B]."""
  trials = make_trials()
  with pytest.raises(AssertionError):
    run(PARAMS, trials.replace(mask=trials.mask[:-1]), 0, START)
  with pytest.raises(AssertionError):
    run(PARAMS, trials.replace(index=INDEX[:, None]), 0, START)


def test_a_penalty_weighs_what_the_mask_does():
  """Truth: by hand, (.5 * 3 + 0) / 2 beside the loss; inf is not asked.

  Mutants: the mean of the masks times that of the penalties; inf kept.
  """
  cell = OVERFLOWING._replace(
    readout=lambda p, c, e: p['w'] * e, penalty=lambda c, state: state[:, 0]
  )
  arguments = (
    squared,
    {'w': jnp.float32(2.0)},
    {},
    jnp.array([[1.0], [5.0]]),
    jnp.zeros((2, 1)),
    jnp.array([0.5, 0.0]),
  )

  def score(state):
    return unroll.score_step(cell, *arguments, state)[0]

  bare = unroll.score_step(cell._replace(penalty=None), *arguments)[0]
  state = jnp.array([[3.0], [jnp.inf]])
  value, slope = jax.value_and_grad(score)(state)
  np.testing.assert_allclose(value - bare, 0.75, rtol=1e-6)
  np.testing.assert_allclose(slope, [[0.25], [0.0]], rtol=1e-6)
  with pytest.raises(ValueError, match='penalty on its state'):
    unroll.score_step(cell, *arguments)


def test_legacy_keys_are_refused_in_one_sentence():
  """Truth: what to write instead; a legacy key has the words of a typed one."""
  legacy, index = jax.random.PRNGKey(0), jnp.arange(BATCH)
  model = unroll.model_from_cell(CELL)
  still = unroll.model_from_network(static_network([]), sweeps=1)
  for call in (
    lambda: unroll.check_key(7),
    lambda: unroll.check_key(legacy),
    lambda: unroll.trial_keys(legacy, index),
    lambda: unroll.step_keys(jax.random.split(legacy, BATCH), index),
    lambda: unroll.initial_state(CELL, {}, legacy, index),
    lambda: model.init(legacy, make_trials()),
    lambda: jax.jit(model.init)(legacy, make_trials()),
    lambda: model.predict(PARAMS, {}, legacy, make_trials()),
    lambda: still.init(legacy, window(make_trials(), 0, 1)),
  ):
    with pytest.raises(TypeError, match=r'use jax\.random\.key\(seed\)'):
      call()
  typed = jax.random.wrap_key_data(legacy)
  unroll.check_key(typed)
  unroll.check_key(jax.random.split(typed, BATCH))

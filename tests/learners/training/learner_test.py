# SPDX-License-Identifier: Apache-2.0
"""A Learner's updates, compiled over a range.

Truth: the updates one by one, in a Python loop; norms by numpy.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bionet_core import interfaces, unroll
from bionet_learners import base
from bionet_learners.reverse import bptt
from bionet_learners.training import learner as learners
from bionet_learners.training import metrics, ranges
from tests import small

T, B, NUM_UPDATES = 4, 3, 6
DATA_KEY, NOISE_KEY = jax.random.key(1), jax.random.key(2)
SCHEDULE = optax.exponential_decay(0.2, 2, 0.5)
OPTIMIZER = optax.adam(SCHEDULE)


def cell():
  """A leaky row of 4 units that begins anywhere, and its linear readout."""

  def init(key, inputs):
    w = jax.random.uniform(key, (4, 8), minval=-0.5, maxval=0.5)
    params = {'in': w[:2, :4], 'recurrent': w[:, :4], 'out': w[:, 4:6]}
    return params, {'leak': jnp.float32(0.5)}

  def initial_state(constants, keys):
    return jax.vmap(lambda key: jax.random.uniform(key, (4,)))(keys)

  def step(params, constants, state, keys, inputs):
    drive = inputs @ params['in'] + state @ params['recurrent']
    leak = constants['leak']
    state = leak * state + (1 - leak) * jnp.tanh(drive)
    return state, state

  def readout(params, constants, emission):
    return emission @ params['out']

  return interfaces.Cell(init, initial_state, step, readout)


RULE = bptt.bptt(cell(), small.squared_error)
BEGIN, ESTIMATE = jax.jit(RULE.begin), jax.jit(RULE.estimate)
DESCEND = jax.jit(OPTIMIZER.update)


def sample(key, index, batch_size):
  """Trials that are functions of their number alone."""
  del batch_size
  keys = unroll.trial_keys(key, index)
  inputs = jax.vmap(lambda k: jax.random.uniform(k, (T, 2)), out_axes=1)(keys)
  return interfaces.Trials(
    inputs=inputs,
    targets=jnp.cumsum(inputs, axis=0),
    mask=jnp.full((T, index.shape[0]), 1 / T),
    index=index,
  )


def batch(update):
  return sample(DATA_KEY, update * B + jnp.arange(B), B)


def descended(**settings):
  return base.descend(RULE, OPTIMIZER, **settings)


@pytest.fixture(scope='module')
def plain():
  """A compiled update, a compiled range and a state: `(update, advance, new)`.

  A range gives the memory of its state up, so each call makes a new one.
  """
  learner = descended()
  state = jax.device_get(jax.jit(learner.init)(jax.random.key(3), batch(0)))
  advance = learners.make_advance(
    learner, sample, data_key=DATA_KEY, noise_key=NOISE_KEY, batch_size=B
  )
  new = lambda: jax.tree.map(jnp.asarray, state)  # noqa: E731
  return jax.jit(learner.update), advance, new


def test_a_compiled_range_equals_updates_one_by_one(plain):
  """Truth: a loop of `learner.update` over the batches with those numbers."""
  update, advance, new = plain
  state, found = new(), []
  for i in range(NUM_UPDATES):
    state, values = update(state, NOISE_KEY, batch(i))
    found.append(values)
  after, said = advance(new(), jnp.int32(0), NUM_UPDATES)
  chex.assert_trees_all_close(after, state, rtol=1e-5, atol=1e-6)
  assert int(after.step) == NUM_UPDATES
  wanted = jax.tree.map(lambda *x: jnp.stack(x), *found)
  assert set(said) == {'loss', 'error', 'gradient_norm', 'update_norm'}
  chex.assert_trees_all_close(said, wanted, rtol=1e-5, atol=1e-6)

  # The mutant that samples the first batch over and over.
  state = new()
  for _ in range(NUM_UPDATES):
    state, _ = update(state, NOISE_KEY, batch(0))
  with pytest.raises(AssertionError):
    chex.assert_trees_all_close(
      after.params, state.params, rtol=1e-3, atol=1e-4
    )


def test_trials_of_a_range_are_those_of_its_updates():
  """Truth: `sample` asked for one batch after the other, bit for bit."""
  cut = jax.jit(
    lambda first: learners.sample_range(sample, DATA_KEY, first, 4, B)
  )(jnp.int32(2))
  assert cut.inputs.shape == (4, T, B, 2) and cut.mask.shape == (4, T, B)
  np.testing.assert_array_equal(cut.index, np.arange(6, 18).reshape(4, B))
  for i in range(4):
    chex.assert_trees_all_equal(
      jax.tree.map(lambda x, i=i: x[i], cut), batch(2 + i)
    )


def test_what_is_drawn_once_an_epoch_is_drawn_once():
  """Truth: one call of `sample`, of all the range's trials."""
  calls = []

  def watched(key, index, batch_size):
    calls.append((index.shape, batch_size))
    return sample(key, index, batch_size)

  learners.sample_range(watched, DATA_KEY, jnp.int32(0), 4, B)
  assert calls == [((4 * B,), B)]


@pytest.mark.parametrize('longest', [1, 2])
def test_the_length_of_a_range_changes_nothing_in_the_state(plain, longest):
  """Truth: the whole range at once, bit for bit; metrics come in parts."""
  _, advance, new = plain

  def run(longest):
    return learners.advance_between(advance, longest, SCHEDULE)(
      new(), 0, NUM_UPDATES
    )

  whole, (said,) = run(100)
  state, parts = run(longest)
  sizes = [part.values['loss'].shape[0] for part in parts]
  assert sizes == [longest] * (NUM_UPDATES // longest)
  chex.assert_trees_all_equal(state, whole)
  assert metrics.average_metrics(parts) == pytest.approx(
    metrics.average_metrics([said]), rel=1e-6
  )


def test_a_range_may_begin_anywhere(plain):
  """Truth: 0 to 6 at once = 0 to 2, then 2 to 3, then 3 to 6 in 2 and 1."""
  _, advance, new = plain
  between = learners.advance_between(advance, 2, SCHEDULE)
  whole, _ = learners.advance_between(advance, 100, SCHEDULE)(
    new(), 0, NUM_UPDATES
  )
  state, first, rates = new(), 0, []
  for last, counts in ((2, [2]), (3, [1]), (6, [2, 1])):
    state, parts = between(state, first, last)
    assert [len(part.values['loss']) for part in parts] == counts
    rates += [rate for part in parts for rate in part.values['learning_rate']]
    first = last
  chex.assert_trees_all_equal(state, whole)
  wanted = [SCHEDULE(i) for i in range(NUM_UPDATES)]
  np.testing.assert_allclose(rates, wanted, rtol=1e-6)


@pytest.mark.parametrize(
  'schedule',
  [
    SCHEDULE,
    optax.constant_schedule(0.25),
    optax.piecewise_constant_schedule(1.0, {2: 0.5, 4: 0.5}),
    lambda update: 0.1 + 0.1 * update,
  ],
)
@pytest.mark.parametrize('longest', [2, 100])
def test_the_learning_rate_is_the_schedules_at_each_update(schedule, longest):
  """Truth: the schedule called with each number."""

  def advance(state, first, count):
    return state, {'loss': jnp.zeros(count)}

  between = learners.advance_between(advance, longest, schedule)
  _, parts = between(None, 1, NUM_UPDATES)
  rates = np.concatenate([part.values['learning_rate'] for part in parts])
  wanted = [float(schedule(i)) for i in range(1, NUM_UPDATES)]
  np.testing.assert_allclose(rates, wanted, rtol=1e-6)


def numpy_norm(tree):
  squares = [np.sum(np.float64(x) ** 2) for x in jax.tree.leaves(tree)]
  return np.sqrt(sum(squares))


@pytest.mark.parametrize('every', [None, 2], ids=['whole', 'windows of 2'])
def test_norms_are_those_of_the_estimate_and_of_the_change(plain, every):
  """Truth: by numpy, of the rule's own estimates and the parameters' steps.

  In windows of 2 of 4 steps there are two of each; the mean is reported.
  """
  update, _, new = plain
  if every is not None:
    update = jax.jit(descended(every=every).update)
  before, _ = update(new(), NOISE_KEY, batch(0))  # Adam has its momenta
  after, said = update(before, NOISE_KEY, batch(1))

  trials, params, opt_state = batch(1), before.params, before.opt_state
  constants = before.constants
  rule_state = BEGIN(params, constants, before.rule_state, NOISE_KEY, trials)
  gradients, changes = [], []
  for first in range(0, T, every or T):
    window = slice(first, first + (every or T))
    cut = trials.replace(
      inputs=trials.inputs[window],
      targets=trials.targets[window],
      mask=trials.mask[window],
    )
    found, rule_state = ESTIMATE(params, constants, rule_state, NOISE_KEY, cut)
    updates, opt_state = DESCEND(found.gradient, opt_state, params)
    learned = optax.apply_updates(params, updates)
    gradients.append(numpy_norm(found.gradient))
    changes.append(
      numpy_norm(jax.tree.map(lambda a, b: a - b, learned, params))
    )
    params = learned
  assert len(gradients) == (2 if every else 1)
  chex.assert_trees_all_close(after.params, params, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
    said['gradient_norm'], np.mean(gradients), rtol=1e-4
  )
  np.testing.assert_allclose(said['update_norm'], np.mean(changes), rtol=1e-4)
  if every:  # the mutant: the sum, or the last one
    for mutant in (np.sum(gradients), gradients[-1]):
      assert abs(mutant - np.mean(gradients)) > 1e-2 * np.mean(gradients)


def test_a_learner_goes_through_the_loop_under_the_guard(plain):
  """Truth: the state of the updates at once; nothing moves implicitly."""
  _, advance, new = plain
  whole, (said,) = learners.advance_between(advance, 100, SCHEDULE)(
    new(), 0, NUM_UPDATES
  )
  rows, between = [], learners.advance_between(advance, 2, SCHEDULE)
  state = new()
  with jax.transfer_guard('disallow'):
    state, step = ranges.train_ranges(
      state,
      between,
      num_updates=NUM_UPDATES,
      intervals=ranges.Intervals(4),
      record=lambda step, split, values: rows.append((step, split, values)),
      rows=[],
    )
  assert step == NUM_UPDATES
  chex.assert_trees_all_equal(state, whole)
  assert [row[:2] for row in rows] == [(4, 'train'), (6, 'train')]
  for row, window in zip(rows, (slice(0, 4), slice(4, 6)), strict=True):
    for name in ('loss', 'gradient_norm', 'learning_rate'):
      mean = np.mean(np.float64(said.values[name][window]))
      assert row[2][name] == pytest.approx(mean, rel=1e-6)


def test_the_memory_of_the_state_is_given_up(plain):
  """Truth: what went in cannot be read any more."""
  _, advance, new = plain
  state = new()
  advance(state, jnp.int32(0), 2)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


@pytest.mark.parametrize(
  'size, longest',
  [
    (2, 2**28 // 80),  # a trial: 8 bytes in, 4 wanted, 4 of mask, 4 of index
    (2**10, 2**28 // (4 * 6152)),
    (2**30, 1),  # one batch alone takes more
  ],
)
def test_the_longest_range_fits_into_memory(size, longest):
  """Truth: 256 MiB over the bytes of a batch of 4; none is allocated."""

  def wide(key, index, batch_size):
    assert batch_size == len(index) == 4
    return interfaces.Trials(
      inputs=jnp.zeros((1, 4, size)),
      targets=jnp.zeros((1, 4, size // 2)),
      mask=jnp.ones((1, 4)),
      index=index,
    )

  assert learners.longest_range(wide, DATA_KEY, 4) == longest

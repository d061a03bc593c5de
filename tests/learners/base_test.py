# SPDX-License-Identifier: Apache-2.0
"""`descend`: who sees what, and when weights change."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bionet_core import interfaces
from bionet_core.relaxation import asymmetric
from bionet_learners import base
from bionet_learners.local import local_plasticity
from bionet_learners.reverse import bptt
from tests import small

T, B = 7, 3
KEY = jax.random.key(2)


def trials(seed=0, num_steps=T):
  return small.trials((num_steps, B, 4, 2), seed=seed)


@functools.cache
def rule():
  return bptt.bptt(small.leaky(4, 5), small.squared_error)


def test_updates_at_borders_equal_a_loop_over_windows():
  """Truth: the loop written out, 7 steps in windows of 3, 3 and 1."""
  batch, optimizer = trials(), optax.adam(0.05)
  learner = base.descend(rule(), optimizer, every=3)
  start = jax.jit(learner.init)(KEY, batch)
  after, metrics = jax.jit(learner.update)(start, KEY, batch)

  params, opt_state, losses = start.params, start.opt_state, []
  step = jax.jit(optimizer.update)
  run = jax.jit(rule().estimate)
  state = rule().begin(params, {}, start.rule_state, KEY, batch)
  for begin, end in ((0, 3), (3, 6), (6, 7)):
    window = small.window(batch, begin, end)
    estimate, state = run(params, {}, state, KEY, window)
    updates, opt_state = step(estimate.gradient, opt_state, params)
    params = optax.apply_updates(params, updates)
    losses.append(estimate.loss)
  chex.assert_trees_all_close(after.params, params, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(metrics['loss'], sum(losses), rtol=1e-5)
  np.testing.assert_allclose(metrics['error'], sum(losses), rtol=1e-5)
  assert int(after.step) == 1

  whole = base.descend(rule(), optimizer)
  once, _ = jax.jit(whole.update)(start, KEY, batch)
  with pytest.raises(AssertionError):  # the mutant: one update at the end
    chex.assert_trees_all_close(once.params, params, rtol=1e-3, atol=1e-4)


def test_carry_continues_a_stream_and_begin_restarts_it():
  """Truth: two halves carried over = both halves in one batch, in windows."""
  whole = trials(num_steps=8)
  halves = small.window(whole, 0, 4), small.window(whole, 4, 8)

  def run(learner, batches):
    state = jax.jit(learner.init)(KEY, batches[0])
    update = jax.jit(learner.update)
    for batch in batches:
      state, _ = update(state, KEY, batch)
    return state

  sgd = optax.sgd(0.1)
  carried = run(base.descend(rule(), sgd, carry=True), halves)
  windows = run(base.descend(rule(), sgd, every=4), [whole])
  chex.assert_trees_all_close(carried.params, windows.params, rtol=1e-5)
  np.testing.assert_array_equal(carried.rule_state.per_trial.steps, 8)
  restarted = run(base.descend(rule(), sgd), halves)
  assert restarted.rule_state.per_trial == ()
  with pytest.raises(AssertionError):
    chex.assert_trees_all_close(
      restarted.params, windows.params, rtol=1e-3, atol=1e-5
    )


def test_the_optimizer_never_sees_a_constant():
  """Truth: a decay that would shrink what it sees leaves constants bitwise."""
  network = asymmetric.asymmetric(small.Sizes((4,)), hidden=6)
  learner = base.descend(
    local_plasticity.local_plasticity(network, clamped=2, free=2),
    optax.chain(optax.add_noise(0.1, 0.5, 0), optax.adamw(0.1, weight_decay=1)),
  )
  batch = trials(num_steps=1)
  batch = batch.replace(targets=jnp.asarray([[0, 1, 1]]))
  start = state = jax.jit(learner.init)(KEY, batch)
  for _ in range(3):
    state, _ = jax.jit(learner.update)(state, KEY, batch)
  assert set(start.constants) == {
    'to1_from0',
    'to1_from1',
    'to1_from2',
    'to2_from1',
  }
  chex.assert_trees_all_equal(start.constants, state.constants)
  for before, after in zip(
    jax.tree.leaves(start.params), jax.tree.leaves(state.params), strict=True
  ):
    assert not np.allclose(before, after)


def two_devices():
  """The collectives of two devices, counters left as they are."""

  def mean(x):
    inexact = jnp.issubdtype(x.dtype, jnp.inexact)
    return jax.lax.pmean(x, 'd') if inexact else x

  return base.Devices(
    count=2,
    index=lambda: jax.lax.axis_index('d'),
    mean=lambda tree: jax.tree.map(mean, tree),
    gather=lambda tree: jax.lax.all_gather(tree, 'd', tiled=True),
  )


def one_trial_each(batch):
  """Two trials as `[D, T, 1, ...]`, one a device."""
  return interfaces.Trials(
    inputs=jnp.moveaxis(batch.inputs, 1, 0)[:, :, None],
    targets=jnp.moveaxis(batch.targets, 1, 0)[:, :, None],
    mask=jnp.moveaxis(batch.mask, 1, 0)[:, :, None],
    index=batch.index[:, None],
  )


def test_estimates_are_averaged_over_devices():
  """Truth: two devices with half the trials each equal one with all (SGD)."""
  batch = trials()
  batch = jax.tree.map(lambda x: x[:, :2] if x.ndim > 1 else x[:2], batch)
  one = base.descend(rule(), optax.sgd(0.1))
  start = jax.jit(one.init)(KEY, batch)
  wanted, _ = jax.jit(one.update)(start, KEY, batch)
  two = base.descend(rule(), optax.sgd(0.1), devices=two_devices())
  parts = one_trial_each(batch)

  def run(part):
    state = start._replace(rule_state=base.RuleState((), ()))
    return two.update(state, KEY, part)

  after, metrics = jax.device_get(jax.pmap(run, axis_name='d')(parts))
  first = jax.tree.map(lambda x: x[0], after.params)
  chex.assert_trees_all_close(first, wanted.params, rtol=1e-5, atol=1e-6)
  assert metrics['loss'][0] == metrics['loss'][1]


def test_updates_of_another_structure_are_refused():
  """Truth: the contract `updates` is a tree like `params`."""

  def estimate(*args):
    got, state = rule().estimate(*args)
    return got._replace(gradient={'w': got.gradient['w']}), state

  learner = base.descend(rule()._replace(estimate=estimate), optax.sgd(0.1))
  state = jax.jit(learner.init)(KEY, trials())
  with pytest.raises(AssertionError):
    learner.update(state, KEY, trials())


@pytest.mark.parametrize('every', [0, -3])
def test_a_window_must_be_positive(every):
  """Truth: the message says what is possible."""
  with pytest.raises(ValueError, match='every'):
    base.descend(rule(), optax.sgd(0.1), every=every)


def shared_rule():
  """BPTT that also shares a running mean of the inputs, and counts updates."""
  plain = rule()

  def begin(params, constants, rule_state, key, batch):
    begun = plain.begin(params, constants, rule_state, key, batch)
    return begun._replace(shared=rule_state.shared)

  def init(key, params, constants, batch):
    shared = {'mean': jnp.zeros(()), 'count': jnp.int32(0)}
    state = base.RuleState(shared, ())
    return begin(params, constants, state, key, batch)

  def estimate(params, constants, rule_state, key, batch):
    got, after = plain.estimate(params, constants, rule_state, key, batch)
    shared = rule_state.shared
    shared = {
      'mean': shared['mean'] + jnp.mean(batch.inputs),
      'count': shared['count'] + 1,
    }
    return got, after._replace(shared=shared)

  return plain._replace(init=init, begin=begin, estimate=estimate)


def test_what_a_rule_shares_is_averaged_over_devices():
  """Truth: the mean of the inputs of all trials; a counter stays a counter."""
  batch = jax.tree.map(lambda x: x[:, :2] if x.ndim > 1 else x[:2], trials())
  learner = base.descend(shared_rule(), optax.sgd(0.1), devices=two_devices())
  parts = one_trial_each(batch)

  def run(part):
    state, _ = learner.update(learner.init(KEY, part), KEY, part)
    return state.rule_state.shared

  shared = jax.device_get(jax.pmap(run, axis_name='d')(parts))
  wanted = float(jnp.mean(batch.inputs))
  assert abs(float(jnp.mean(parts.inputs[0])) - wanted) > 1e-3
  np.testing.assert_allclose(shared['mean'], [wanted] * 2, rtol=1e-5)
  np.testing.assert_array_equal(shared['count'], [1, 1])
  assert shared['count'].dtype == np.int32


def test_the_first_batch_of_a_stream_begins_like_any_other():
  """Truth: without carry. A start drawn from another key would show.

  The initial state and every step draw from the trial's own key.
  """

  def draw(keys):
    return jax.vmap(lambda k: jax.random.normal(k, (2,)))(keys)

  cell = interfaces.Cell(
    init=lambda key, inputs: ({'w': jnp.ones((4, 2))}, {}),
    initial_state=lambda constants, keys: draw(keys),
    step=lambda params, constants, state, keys, inputs: (
      state + inputs @ params['w'] + draw(keys),
      0.5 * state + inputs @ params['w'] + draw(keys),
    ),
    readout=lambda params, constants, emission: emission,
  )
  ends = []
  for carry in (False, True):
    learner = base.descend(
      bptt.bptt(cell, small.squared_error), optax.sgd(0.1), every=3, carry=carry
    )
    state = jax.jit(learner.init)(jax.random.key(11), trials())
    state, metrics = jax.jit(learner.update)(state, KEY, trials())
    ends.append((state.params, metrics))
  chex.assert_trees_all_equal(*ends)


def test_legacy_keys_are_refused():
  """Truth: the sentence that says what to write instead."""
  learner = base.descend(rule(), optax.sgd(0.1))
  state, legacy = learner.init(KEY, trials()), jax.random.PRNGKey(0)
  for call in (
    lambda: learner.init(legacy, trials()),
    lambda: learner.update(state, legacy, trials()),
    lambda: learner.predict(state, legacy, trials()),
  ):
    with pytest.raises(TypeError, match=r'use jax\.random\.key\(seed\)'):
      call()

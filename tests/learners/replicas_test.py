# SPDX-License-Identifier: Apache-2.0
"""Restarts against the same runs made one by one.

Truth: single runs of the plain learner from the copies' keys, and a loop over
their scores. Mutants: copies that start alike, a pick by training loss.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bionet_core import interfaces
from bionet_learners import base, replicas, testing
from bionet_learners.reverse import bptt
from bionet_learners.training import checkpoints
from tests import small

pytestmark = pytest.mark.oracle

KEY, DATA = jax.random.key(1), jax.random.key(2)
COUNT, B, T = 4, 3, 2


def cell(breaks_at=None):
  """H <- tanh(x w + h + k), k a constant that is drawn; NaN for large w."""

  def init(key, inputs):
    size = inputs.shape[-1]
    constants = {'k': jax.random.normal(key, (size,))}
    return {'w': jax.random.normal(key, (size, size))}, constants

  def step(params, constants, state, keys, inputs):
    del keys
    w = params['w']
    if breaks_at is not None:
      w = w * jnp.where(w[0, 0] > breaks_at, jnp.nan, 1.0)
    state = jnp.tanh(inputs @ w + state + constants['k'][None])
    return state, state

  return interfaces.Cell(
    init,
    lambda constants, keys: jnp.zeros((*keys.shape, 2)),
    step,
    lambda params, constants, emission: emission,
  )


def squared_error(outputs, targets, mask):
  loss, _ = small.squared_error(outputs, targets, mask)
  return loss, {'size': jnp.mean(jnp.abs(outputs[:, 0]) * mask)}


def trials(update=0, seed=0):
  rng = np.random.default_rng([seed, update])
  return interfaces.Trials(
    inputs=jnp.asarray(rng.normal(size=(T, B, 2)), jnp.float32),
    targets=jnp.asarray(rng.uniform(-1, 1, (T, B, 2)), jnp.float32),
    mask=jnp.full((T, B), 1 / T),
    index=update * B + jnp.arange(B),
  )


def validate(predict):
  draws = trials(seed=9)
  return -jnp.mean((predict(DATA, draws) - draws.targets) ** 2)


def plain(breaks_at=None):
  rule = bptt.bptt(cell(breaks_at), squared_error)
  return base.descend(rule, optax.adam(0.1))


def many(count=COUNT, breaks_at=None, **settings):
  settings = {'validate_every': 2, **settings}
  return replicas.restarts(plain(breaks_at), count, validate, **settings)


def run(learner, updates=4, state=None, first=0):
  """The states after each update, the first before any, and the metrics."""
  states = [learner.init(KEY, trials()) if state is None else state]
  update, said = jax.jit(learner.update), []
  for number in range(first, first + updates):
    state, metrics = update(states[-1], DATA, trials(number))
    states.append(state)
    said.append(metrics)
  return states, said


@functools.cache
def singles():
  """The runs of the copies one by one, with the first one's constants.

  The first update judges, and changes nothing.
  """
  learner = plain()
  constants = learner.init(KEY, trials()).constants
  runs = []
  for key in replicas.copy_keys(KEY, COUNT):
    start = learner.init(key, trials())._replace(constants=constants)
    _, unchanged = run(learner, updates=1, state=start)
    states, said = run(learner, updates=3, state=start, first=1)
    runs.append(([start, *states], unchanged + said))
  return runs


@functools.cache
def together():
  return run(many())


def score(state):
  return float(validate(lambda key, draws: plain().predict(state, key, draws)))


def copies(state):
  return state.rule_state.shared


def test_copies_are_single_runs():
  """Truth: each of them alone, parameters and optimizer, at every update.

  The means of their metrics are those that are said.
  """
  states, said = together()
  for number, state in enumerate(states):
    for n, (alone, _) in enumerate(singles()):
      own = jax.tree.map(
        lambda x, n=n: x[n], (copies(state).params, copies(state).opt_state)
      )
      wanted = (alone[number].params, alone[number].opt_state)
      chex.assert_trees_all_close(own, wanted, rtol=1e-5, atol=1e-6)
  apart = copies(states[0]).params['w']
  assert min(np.abs(apart[0] - apart[n]).max() for n in (1, 2, 3)) > 0.1
  for number, metrics in enumerate(said):
    alone = [metrics[number] for _, metrics in singles()]
    for name in alone[0]:
      mean = np.mean([m[name] for m in alone])
      np.testing.assert_allclose(metrics[name], mean, rtol=1e-4)
    best = min(m['loss'] for m in alone)
    np.testing.assert_allclose(metrics['loss_best'], best, rtol=1e-5)
    assert metrics['restarts'] == COUNT and metrics['stood_still'] == 0


def test_the_pick_is_the_best_of_all_validations():
  """Truth: a loop over single runs at updates 2 and 4; before, the untrained.

  Mutant: the copy with the least training loss, which is another one.
  """
  states, said = together()
  scores = {
    number: [score(alone[number]) for alone, _ in singles()]
    for number in (0, 2, 4)
  }
  best, seen = -np.inf, 0
  for number in (1, 2, 3, 4):
    if number in (2, 4) and max(scores[number]) > best:
      best, seen = max(scores[number]), number
    at = scores[seen]
    wanted = singles()[int(np.argmax(at))][0][seen].params
    chex.assert_trees_all_close(states[number].params, wanted, rtol=1e-5)
    metrics = said[number - 1]
    np.testing.assert_allclose(metrics['validation'], max(at), rtol=1e-5)
    last = scores[number - number % 2]
    np.testing.assert_allclose(
      metrics['validation_mean'], np.mean(last), rtol=1e-5
    )
    for name, level in (
      ('untrained_best', max(scores[0])),
      ('untrained_mean', np.mean(scores[0])),
    ):
      np.testing.assert_allclose(metrics[name], level, rtol=1e-5)
  untrained = singles()[int(np.argmax(scores[0]))][0][0].params
  chex.assert_trees_all_close(copies(states[-1]).untrained, untrained)
  losses = [float(metrics[-1]['loss']) for _, metrics in singles()]
  assert np.argmin(losses) != np.argmax(scores[4])


def test_restarts_keep_the_contract_of_learners():
  """Truth: the laws listed in `check_learner`."""
  testing.check_learner(many(count=2, validate_every=1), trials())


def test_predictions_are_those_of_the_pick():
  """Truth: the plain learner with the pick's parameters."""
  states, _ = together()
  got = many().predict(states[-1], DATA, trials(seed=5))
  wanted = plain().predict(states[-1], DATA, trials(seed=5))
  np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_saved_restarts_go_on(tmp_path):
  """Truth: the uninterrupted run, bit for bit."""
  states, _ = together()
  folder = checkpoints.save_checkpoint(states[2], tmp_path, 2)
  learner = many()
  shapes = jax.eval_shape(lambda: learner.init(KEY, trials()))
  loaded = checkpoints.load_checkpoint(folder, shapes)
  chex.assert_trees_all_equal(loaded, states[2])
  update = jax.jit(learner.update)
  for number in (2, 3):
    loaded, _ = update(loaded, DATA, trials(number))
  chex.assert_trees_all_equal(loaded, states[4])


def test_one_restart_is_the_plain_learner():
  """Truth: the plain learner from the same key."""
  states, _ = run(many(count=1))
  for ours, wanted in zip(states, singles()[0][0], strict=True):
    own = jax.tree.map(lambda x: x[0], copies(ours).params)
    chex.assert_trees_all_close(own, wanted.params, rtol=1e-6)
    chex.assert_trees_all_equal(ours.constants, wanted.constants)


def test_the_hopeless_rest():
  """Truth: single runs; from update 2 on the best two go on, as they would."""
  states, _ = run(many(), updates=2)
  few = many(active=2)
  states, said = run(few, state=states[-1])
  at = np.array([score(alone[2]) for alone, _ in singles()])
  resting = np.argsort(-at)[2:]
  after = copies(states[2])
  for n in range(COUNT):
    alone = singles()[n][0]
    own = jax.tree.map(lambda x, n=n: x[n], after.params)
    if n in resting:
      chex.assert_trees_all_close(own, alone[2].params, rtol=1e-5)
      np.testing.assert_allclose(after.scores[n], at[n], rtol=1e-5)
    else:
      assert np.abs(own['w'] - alone[2].params['w']).max() > 0.05
  assert np.isfinite(float(said[-1]['loss']))


def test_a_copy_whose_gradient_is_not_finite_stands_still():
  """Truth: its start, bit for bit; the others are as if alone."""
  starts = copies(many().init(KEY, trials())).params['w'][:, 0, 0]
  edge = float(np.sort(starts)[-2:].mean())
  states, said = run(many(breaks_at=edge))
  bad = int(np.argmax(starts))
  for state, metrics in zip(states[1:], said, strict=True):
    own = copies(state)
    for leaf in jax.tree.leaves((own.params, own.opt_state, state.params)):
      assert np.all(np.isfinite(leaf))
    np.testing.assert_array_equal(
      own.params['w'][bad], copies(states[0]).params['w'][bad]
    )
    assert metrics['stood_still'] >= 1
    assert all(np.isfinite(value) for value in metrics.values())
    assert own.scores[bad] == -np.inf
  good = next(n for n in range(COUNT) if starts[n] < edge - 1)
  wanted = singles()[good][0][2].params['w']
  np.testing.assert_allclose(
    copies(states[2]).params['w'][good], wanted, rtol=1e-5
  )


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'count': 0}, 'count=0: must be at least 1'),
    ({'count': 2, 'active': 3}, 'active=3: must be from 1 to count=2'),
    ({'validate_every': 0}, 'validate_every=0: must be at least 1'),
  ],
)
def test_settings_out_of_range_are_refused(settings, message):
  """Truth: the messages."""
  with pytest.raises(ValueError, match=message):
    many(**settings)

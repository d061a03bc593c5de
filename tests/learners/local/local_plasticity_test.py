# SPDX-License-Identifier: Apache-2.0
"""Local plasticity: its phases, and what it makes of them."""

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

B, D, H, C = 6, 9, 12, 3
KEY = jax.random.key(1)


class Sizes:
  input_shape = (D,)
  num_outputs = C


def trials(batch=B, seed=0, bits=D):
  rng = np.random.default_rng(seed)
  inputs = rng.choice([-1.0, 1.0], (1, batch, bits))
  return interfaces.Trials(
    inputs=jnp.asarray(inputs, jnp.float32),
    targets=jnp.asarray(np.arange(batch)[None] % C, jnp.int32),
    mask=jnp.ones((1, batch)),
    index=jnp.arange(batch),
  )


def sign(h):
  return np.where(h >= 0, 1.0, -1.0)


@pytest.mark.parametrize('warm_up, clamped, free', [(0, 3, 2), (2, 4, 1)])
def test_update_equals_the_rule_written_in_numpy(warm_up, clamped, free):
  """Truth: sweeps and the explicit perceptron formula, in NumPy loops."""
  network = asymmetric.asymmetric(Sizes(), hidden=H, strength_feedback=2.0)
  rule = local_plasticity.local_plasticity(
    network, warm_up=warm_up, clamped=clamped, free=free
  )
  batch = trials()
  params, constants = rule.model.init(KEY, batch)
  state = rule.init(KEY, params, constants, batch)
  got, _ = jax.jit(rule.estimate)(params, constants, state, KEY, batch)

  x = np.asarray(batch.inputs[0], np.float64)
  y = 2.0 * np.eye(C)[np.asarray(batch.targets[0])] - 1
  w = np.asarray(params['to1_from0']['w'], np.float64)
  j = np.asarray(params['to1_from1']['w'], np.float64)
  np.fill_diagonal(j, 0.5)
  v = np.asarray(params['to2_from1']['w'], np.float64)
  f = np.asarray(constants['to1_from2']['w'], np.float64)
  s = np.zeros((B, H))
  for sweeps, label in ((warm_up, 0.0), (clamped, 1.0), (free, 0.0)):
    for _ in range(sweeps):
      before, s = s, sign(x @ w + s @ j + label * (y @ f))
  h, scores = x @ w + s @ j, s @ v

  def learned(pre, target, field, threshold):
    hit = target * (target * field <= threshold)
    return -pre.T @ hit / (B * np.sqrt(pre.shape[1]))

  recurrent = learned(s, s, h, 0.5)
  np.fill_diagonal(recurrent, 0)
  wanted = {
    'to1_from0': learned(x, s, h, 3.5),
    'to1_from1': recurrent,
    'to2_from1': learned(s, y, scores, 3.5),
  }
  for edge, value in wanted.items():
    assert np.any(value), edge
    np.testing.assert_allclose(got.gradient[edge]['w'], value, atol=1e-6)
  np.testing.assert_allclose(got.metrics['changed'], np.mean(s != before))


def test_the_label_reaches_the_hidden_row_only_while_clamped():
  """Truth: with no clamped sweep the input and J updates ignore the label."""
  network = asymmetric.asymmetric(Sizes(), hidden=H, strength_feedback=5.0)
  batch = trials()
  other = batch.replace(targets=(batch.targets + 1) % C)
  for clamped, same in ((0, True), (3, False)):
    rule = local_plasticity.local_plasticity(
      network, warm_up=1, clamped=clamped, free=1
    )
    params, constants = rule.model.init(KEY, batch)
    state = rule.init(KEY, params, constants, batch)
    first, second = (
      rule.estimate(params, constants, state, KEY, t)[0].gradient['to1_from0']
      for t in (batch, other)
    )
    assert np.array_equal(first['w'], second['w']) == same


def test_descent_lowers_the_local_loss_and_learns_its_trials():
  """Truth: six random inputs of 60 bits and 80 units: memorised to the last."""
  network = asymmetric.asymmetric(Sizes(), hidden=80)
  rule = local_plasticity.local_plasticity(network)
  learner = base.descend(rule, optax.adam(5e-3))
  batch = trials(bits=60)
  state = jax.jit(learner.init)(KEY, batch)

  @jax.jit
  def run(state):
    return jax.lax.scan(
      lambda s, _: learner.update(s, KEY, batch), state, None, 100
    )

  state, metrics = run(state)
  assert metrics['local_loss'][-1] < 0.4 * metrics['local_loss'][0]
  scores = learner.predict(state, KEY, batch)
  np.testing.assert_array_equal(np.argmax(scores, -1), batch.targets)


def test_stopping_at_the_fixed_point_changes_no_bit():
  """Truth: the same learning with all sweeps."""
  batch, ends = trials(), []
  for stop in (False, True):
    network = asymmetric.asymmetric(Sizes(), hidden=H, stop_at_fixed_point=stop)
    learner = base.descend(
      local_plasticity.local_plasticity(network), optax.adam(5e-3)
    )
    state = jax.jit(learner.init)(KEY, batch)
    for _ in range(3):
      state, metrics = jax.jit(learner.update)(state, KEY, batch)
    ends.append((state, metrics))
  chex.assert_trees_all_equal(*ends)


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'warm_up': -1}, r'^warm_up='),
    ({'free': -2}, r'^free='),
    ({'warm_up': 0, 'clamped': 0, 'free': 0}, 'nothing settles'),
    ({'evaluation_sweeps': 0}, 'evaluation'),
  ],
)
def test_impossible_phases_are_refused(settings, message):
  """Truth: the message names the setting."""
  network = asymmetric.asymmetric(Sizes(), hidden=H)
  with pytest.raises(ValueError, match=message):
    local_plasticity.local_plasticity(network, **settings)


def test_trials_over_time_are_refused():
  """Truth: a relaxation network takes static trials."""
  network = asymmetric.asymmetric(Sizes(), hidden=H)
  rule = local_plasticity.local_plasticity(network)
  batch = trials()
  long = batch.replace(inputs=jnp.concatenate([batch.inputs] * 2))
  with pytest.raises(ValueError, match='static trials'):
    rule.model.init(KEY, long)

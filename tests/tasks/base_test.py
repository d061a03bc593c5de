# SPDX-License-Identifier: Apache-2.0
"""What tasks share, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import interfaces
from bionet_tasks import base

KEY, NUM_DATA = jax.random.key(2), 8
order = jax.jit(base.epoch_order, static_argnums=2)


def test_each_sample_comes_exactly_once_an_epoch():
  """Truth: sorted(range(num_data)), epoch by epoch; orders are not alike."""
  run, other = (
    np.asarray(order(jax.random.key(seed), jnp.arange(40), NUM_DATA))
    for seed in (2, 3)
  )
  epochs = run.reshape(-1, NUM_DATA)
  for epoch in epochs:
    assert sorted(epoch) == list(range(NUM_DATA))
  assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
  assert np.any(other[:NUM_DATA] != epochs[0])


def test_any_batch_is_a_cut_of_the_whole_run():
  """Truth: a law; batches that straddle epochs, or are longer than one."""
  run = np.asarray(order(KEY, jnp.arange(40), NUM_DATA))
  for start, size in ((0, 4), (5, 4), (6, 4), (8, 19), (9, 19)):
    batch = order(KEY, start + jnp.arange(size), NUM_DATA)
    np.testing.assert_array_equal(batch, run[start : start + size])


def test_cross_entropy_is_the_masked_mean_of_log_softmax():
  """Truth: NumPy's log-sum-exp; hits counted by hand."""
  generator = np.random.default_rng(0)
  outputs = generator.normal(0, 3, (6, 4)).astype(np.float32)
  targets = generator.integers(0, 4, 6)
  mask = generator.uniform(0, 2, 6).astype(np.float32)
  loss, metrics = base.cross_entropy(outputs, targets, mask)
  likelihoods = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
  losses = -np.log(likelihoods[np.arange(6), targets])
  np.testing.assert_allclose(loss, np.mean(mask * losses), rtol=1e-5)
  hits = outputs.argmax(1) == targets
  assert 0 < hits.sum() < 6
  np.testing.assert_allclose(
    metrics['accuracy'], np.mean(mask * hits), rtol=1e-6
  )


@pytest.mark.parametrize('kind', [list, int, bool, np.uint8, float])
def test_a_loss_takes_lists_and_masks_of_any_kind(kind):
  """Truth: ln(1 + 1/e + 1/e^2) / 2 nats; (4 + 1 + 0) / 3 / 2."""
  scores, mask = [[1, 2, 3], [1, 2, 3]], [1, 0]
  given = mask if kind is list else np.asarray(mask, kind)
  loss, metrics = base.cross_entropy(scores, [2, -100], given)
  assert float(loss) == pytest.approx(0.2038029, rel=1e-6)
  assert metrics['accuracy'] == 0.5
  assert loss.dtype == jnp.float32
  loss, _ = base.squared_error(scores, [[3, 1, 3], [9, 9, 9]], given)
  assert float(loss) == pytest.approx(5 / 6)


@pytest.mark.parametrize('loss', [base.cross_entropy, base.squared_error])
@pytest.mark.parametrize(
  ('outputs', 'num_trials', 'mask'),
  [((3,), 3, (3,)), ((3, 2), 3, (3, 1)), ((3, 2), 2, (3,)), ((3, 2), 3, (2,))],
)
def test_a_loss_refuses_other_shapes(loss, outputs, num_trials, mask):
  """Truth: `[B, O]`, `[B]` or `[B, O]`, and `[B]`, of one B."""
  kinds = {base.cross_entropy: np.zeros(num_trials, int)}
  targets = kinds.get(loss, np.zeros((num_trials, 2)))
  with pytest.raises(AssertionError):
    loss(np.zeros(outputs), targets, np.ones(mask))


def test_a_loss_refuses_complex_outputs():
  """Truth: real scores. Mutant: their real part."""
  with pytest.raises(AssertionError, match='complex'):
    base.cross_entropy(np.ones((1, 2), complex), [0], [1])


def test_sum_over_steps_is_the_loop_over_steps():
  """Truth: a Python loop; names and weights are those of the loss."""
  generator = np.random.default_rng(1)
  outputs = generator.normal(size=(4, 3, 2)).astype(np.float32)
  trials = interfaces.Trials(
    inputs=None,
    targets=generator.integers(0, 2, (4, 3)),
    mask=generator.uniform(0, 1, (4, 3)).astype(np.float32),
    index=np.arange(3),
  )
  metrics = base.sum_over_steps(base.cross_entropy)(outputs, trials)
  steps = [
    base.cross_entropy(outputs[t], trials.targets[t], trials.mask[t])
    for t in range(4)
  ]
  assert set(metrics) == {'loss', 'accuracy'}
  np.testing.assert_allclose(
    metrics['loss'], sum(s[0] for s in steps), rtol=1e-5
  )
  accuracy = sum(s[1]['accuracy'] for s in steps)
  np.testing.assert_allclose(metrics['accuracy'], accuracy, rtol=1e-5)
  with pytest.raises(AssertionError):
    base.sum_over_steps(base.cross_entropy)(outputs[:-1], trials)


def test_static_trials_have_one_step_that_is_asked():
  """Truth: the documented layout."""
  trials = base.static_trials(jnp.ones((3, 5)), jnp.arange(3), jnp.arange(3))
  assert trials.inputs.shape == (1, 3, 5)
  np.testing.assert_array_equal(trials.targets, [[0, 1, 2]])
  np.testing.assert_array_equal(trials.mask, np.ones((1, 3)))


def test_sizes_must_be_positive_and_are_named():
  """Truth: the message a user reads."""
  base.check_positive(num_data=1)
  with pytest.raises(ValueError, match=r'^dim=0'):
    base.check_positive(num_data=1, dim=0)


def test_metrics_do_not_read_what_nobody_asks_for():
  """Truth: the asked step alone, by hand: loss ln 2, a tie is class 0."""
  outputs = jnp.array([[[jnp.inf, 0.0]], [[0.0, 0.0]], [[jnp.nan, 1.0]]])
  trials = interfaces.Trials(
    inputs=jnp.zeros((3, 1, 1)),
    targets=jnp.zeros((3, 1), int),
    mask=jnp.array([[0.0], [1.0], [0.0]]),
    index=jnp.arange(1),
  )
  found = base.sum_over_steps(base.cross_entropy)(outputs, trials)
  np.testing.assert_allclose(found['loss'], np.log(2), rtol=1e-6)
  assert found['accuracy'] == 1


@pytest.mark.parametrize('seed', [-1, 2**32])
def test_a_seed_out_of_range_is_refused(seed):
  """Truth: the message names the setting."""
  with pytest.raises(ValueError, match=r'^seed='):
    base.instance_key(seed)


def test_legacy_keys_are_refused():
  """Truth: the sentence that says what to write instead."""
  legacy, index = jax.random.PRNGKey(0), jnp.arange(3)
  drawn = base.drawn_anew(lambda key: (jnp.ones(2), jnp.ones(2), jnp.ones(2)))
  for call in (
    lambda: drawn(legacy, index),
    lambda: base.held_out(drawn, 3).sample(legacy, index),
    lambda: base.epoch_order(legacy, index, 3),
  ):
    with pytest.raises(TypeError, match=r'use jax\.random\.key\(seed\)'):
      call()

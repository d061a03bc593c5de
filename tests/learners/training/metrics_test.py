# SPDX-License-Identifier: Apache-2.0
"""Means over steps.

Truth: the mean of all trials together, by numpy in float64; lines of text and
refusals written out by hand.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_learners.training import metrics


def batches(sizes=(4, 4, 2)):
  rng = np.random.default_rng(0)
  return [rng.normal(size=size) for size in sizes]


def test_a_short_last_batch_weighs_as_much_as_its_trials():
  """Truth: the mean of all trials; the mean of batch means is another one."""
  trials = batches()
  parts = [
    metrics.Metrics({'loss': jnp.float32(np.mean(x))}, len(x)) for x in trials
  ]
  mean = metrics.average_metrics(parts)['loss']
  wanted = np.mean(np.concatenate(trials))
  np.testing.assert_allclose(mean, wanted, rtol=1e-6)

  mutant = [part._replace(weight=1) for part in parts]
  mean_of_means = metrics.average_metrics(mutant)['loss']
  np.testing.assert_allclose(
    mean_of_means, np.mean([np.mean(x) for x in trials]), rtol=1e-6
  )
  assert abs(mean_of_means - wanted) > 0.01


def test_a_range_of_steps_is_its_steps_one_by_one():
  """Truth: the same scalars as parts of one step each; a weight is shared."""
  values = np.float32([[1, 2, 4], [-1, 0, 3]])
  weights = np.float32([4, 4, 2])
  together = [
    metrics.Metrics(
      {'a': jnp.asarray(values[0]), 'b': jnp.asarray(values[1])},
      jnp.asarray(weights),
    ),
    metrics.Metrics({'a': jnp.float32(8), 'b': jnp.float32(5)}, 2),
  ]
  apart = [
    metrics.Metrics({'a': a, 'b': b}, w)
    for a, b, w in zip(
      [*values[0], 8], [*values[1], 5], [*weights, 2], strict=True
    )
  ]
  # (4 * 1 + 4 * 2 + 2 * 4 + 2 * 8) / 12 and (-4 + 0 + 6 + 10) / 12
  wanted = {'a': 3.0, 'b': 1.0}
  assert metrics.average_metrics(together) == pytest.approx(wanted)
  assert metrics.average_metrics(apart) == pytest.approx(wanted)

  shared = metrics.Metrics({'a': jnp.arange(3.0), 'b': jnp.float32(7)}, 5)
  assert metrics.average_metrics([shared]) == pytest.approx({'a': 1, 'b': 7})


def test_means_are_python_floats_in_the_order_of_their_names():
  """Truth: `{name: float}`, names sorted, summed in float64."""
  many = metrics.Metrics({'b': jnp.full(3, 0.1), 'a': jnp.ones(3, jnp.int32)})
  mean = metrics.average_metrics([many] * 1000)
  assert list(mean) == ['a', 'b']
  assert all(type(value) is float for value in mean.values())
  # The float32 that is nearest to 0.1; a sum in float32 would have drifted.
  assert mean['b'] == pytest.approx(float(np.float32(0.1)), rel=1e-14)


def test_the_device_is_read_once(monkeypatch):
  """Truth: one call of jax.device_get, whatever the number of parts."""
  calls, device_get = [], jax.device_get
  monkeypatch.setattr(
    jax, 'device_get', lambda x: calls.append(1) or device_get(x)
  )
  part = metrics.Metrics({'loss': jnp.ones(3)}, jnp.float32(2))
  metrics.average_metrics([part] * 7)
  assert len(calls) == 1


def test_a_step_of_no_trials_counts_for_nothing():
  """Truth: a weight of 0 leaves the mean of the others."""
  parts = [metrics.Metrics({'loss': 3.0}, 2), metrics.Metrics({'loss': 9.0}, 0)]
  assert metrics.average_metrics(parts) == {'loss': 3.0}


@pytest.mark.parametrize(
  'parts, message',
  [
    ([], 'no step was taken'),
    (
      [metrics.Metrics({'a': 1.0}), metrics.Metrics({'b': 1.0})],
      r"\['b'\] cannot be averaged with \['a'\]",
    ),
    ([metrics.Metrics({'a': 1.0}, 0)], 'not all 0'),
    ([metrics.Metrics({'a': 1.0}, -1)], 'must be 0 or more'),
    ([metrics.Metrics({'a': 1.0}, float('nan'))], 'must be 0 or more'),
    (
      [metrics.Metrics({'a': np.ones((2, 3))})],
      r"'a' has shape \(2, 3\); it must be a scalar",
    ),
  ],
)
def test_what_has_no_mean_is_refused(parts, message):
  """Truth: the message names what is wrong."""
  with pytest.raises(ValueError, match=message):
    metrics.average_metrics(parts)


def test_metrics_on_one_line():
  """Truth: written out by hand; four digits, in the order given."""
  assert metrics.format_metrics({'loss': 1.5}) == 'loss: 1.5000'
  line = metrics.format_metrics(
    {'loss': jnp.float32(1.5), 'accuracy': np.float64(0.95634)}
  )
  assert line == 'loss: 1.5000, accuracy: 0.9563'
  assert metrics.format_metrics({}) == ''

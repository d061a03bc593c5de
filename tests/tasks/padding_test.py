# SPDX-License-Identifier: Apache-2.0
"""What nobody asks for: targets and outputs where the mask is 0.

Truth: the same trials without what pads them; log-softmax by hand.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bionet_tasks as tasks
from bionet_core import interfaces
from bionet_tasks import base, testing
from bionet_tasks.temporal import evidence

SCORES = [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]
OF_LAST_CLASS = math.log(1 + math.exp(-1) + math.exp(-2)) / 2  # .2038029
ERROR = (0.25 + 1 + 4) / 3 / 2  # of (1, 2, 3) from (.5, 1, 1), half the batch
FLOATS = [0.5, 1.0, 1.0]


def scored(loss, outputs, targets, jit, mask=(1.0, 0.0)):
  """The loss, its metrics and its gradient in the outputs."""

  def run(outputs, targets, mask):
    return jax.value_and_grad(loss, has_aux=True)(outputs, targets, mask)

  args = jnp.asarray(outputs), jnp.asarray(targets), jnp.asarray(mask)
  (value, metrics), slope = (jax.jit(run) if jit else run)(*args)
  return value, metrics, slope


@pytest.mark.parametrize('jit', [False, True])
@pytest.mark.parametrize(
  'pad', [-100, -1, 3, 255, np.uint8(255), np.int8(-100)], ids=repr
)
def test_a_label_that_nobody_asks_for_is_no_matter(pad, jit):
  """Truth: ln(1 + 1/e + 1/e^2) / 2; one hit in two. Mutant: optax alone."""
  targets = np.array([2, pad], getattr(pad, 'dtype', np.int32))
  value, metrics, slope = scored(base.cross_entropy, SCORES, targets, jit)
  np.testing.assert_allclose(value, 0.2038029, rtol=1e-6)
  np.testing.assert_allclose(value, OF_LAST_CLASS, rtol=1e-6)
  assert metrics['accuracy'] == 0.5
  assert np.all(np.isfinite(slope)) and not np.any(slope[1])


@pytest.mark.parametrize('jit', [False, True])
@pytest.mark.parametrize('pad', [np.nan, np.inf, -np.inf, 3e38])
def test_a_number_that_nobody_asks_for_is_no_matter(pad, jit):
  """Truth: the mean of three squares, by hand; as a target and as an output."""
  padded = [pad] * 3
  for outputs, targets in (
    ([SCORES[0], SCORES[1]], [FLOATS, padded]),
    ([SCORES[0], padded], [FLOATS, FLOATS]),
  ):
    value, metrics, slope = scored(base.squared_error, outputs, targets, jit)
    np.testing.assert_allclose(value, ERROR, rtol=1e-6)
    assert metrics['mse'] == value
    assert np.all(np.isfinite(slope)) and not np.any(slope[1])
  outputs = [SCORES[0], padded]
  value, _, slope = scored(base.cross_entropy, outputs, [2, 0], jit)
  np.testing.assert_allclose(value, OF_LAST_CLASS, rtol=1e-6)
  assert np.all(np.isfinite(slope))


@pytest.mark.parametrize('label', [-1, -100, 3, 255])
def test_an_asked_label_of_no_class_is_an_error_and_never_right(label):
  """Truth: the words; NaN where a program cannot raise, in the gradient too.

  The outputs are largest at the last class, which -1 must not be.
  """
  with pytest.raises(ValueError, match=rf'^targets={label}: .* from 0 to 2 '):
    scored(base.cross_entropy, SCORES, [2, label], False, (1.0, 1.0))
  value, metrics, slope = scored(
    base.cross_entropy, SCORES, [2, label], True, (1.0, 1.0)
  )
  assert np.isnan(value) and np.all(np.isnan(slope))
  assert metrics['accuracy'] == 0.5


def small(seed=0):
  task = tasks.copying(num_symbols=3, time_lag=2, num_held_out=20)
  return task, task.sample(jax.random.key(seed), jnp.arange(4))


def test_a_loss_of_anybodys_sees_zeros_in_place_of_padding():
  """Truth: the targets that such a loss is shown by a task's metrics."""
  _, trials = small()

  def mean_target(outputs, targets, mask):
    return jnp.mean(targets + 0 * outputs[:, 0]), {}

  asked = trials.mask != 0
  trials = trials.replace(targets=jnp.where(asked, trials.targets, -100))
  outputs = jnp.where(asked[..., None], 1.0, jnp.nan)
  found = base.sum_over_steps(mean_target)(outputs, trials)['loss']
  expected = np.sum(np.where(asked, trials.targets, 0)) / 4
  np.testing.assert_allclose(found, expected)


def test_labels_are_looked_at_before_a_run():
  """Truth: the trial that was spoilt; others pass, and so does padding."""
  task, trials = small()
  base.check_labels(task, trials)
  asked = np.asarray(trials.mask) != 0
  step = int(np.flatnonzero(asked.any(axis=1))[0])
  padded = jnp.where(asked, trials.targets, 255)
  base.check_labels(task, dataclasses.replace(trials, targets=padded))
  wrong = dataclasses.replace(trials, targets=padded.at[step, 2].set(99))
  with pytest.raises(ValueError, match=r"^task 'copying': targets=99: must"):
    base.check_labels(task, wrong)
  # A statistic over trials is not a sum over them, and looks at no label.
  population = dataclasses.replace(task.spec, loss_kind='population')
  base.check_labels(task._replace(spec=population), wrong)


def test_the_contract_names_a_metric_that_reads_padding():
  """Truth: a sound task whose metric is the mean of all targets."""
  task, _ = small()

  def metrics(outputs, trials):
    return {
      **task.metrics(outputs, trials),
      'mean_target': jnp.mean(trials.targets),
    }

  with pytest.raises(AssertionError, match="'mean_target' reads targets"):
    testing.check_task(task._replace(metrics=metrics))


def test_the_contract_names_a_label_of_no_class():
  """Truth: a sound task whose labels are those of the next class."""
  task, _ = small()

  def sample(key, index, batch_size=None):
    trials = task.sample(key, index, batch_size)
    return trials.replace(targets=trials.targets + task.spec.num_outputs)

  with pytest.raises(AssertionError, match=r'targets=\d+: must be a class'):
    testing.check_task(task._replace(sample=sample))


def test_evidence_is_judged_by_the_answer_that_was_asked_for():
  """Truth: the same trials, before two steps were put behind them."""
  task = evidence.evidence_accumulation(num_cues=1)
  rng = np.random.default_rng(0)
  asked = np.array([0.0, 0.5, 0.5], np.float32)
  trials = interfaces.Trials(
    inputs=jnp.zeros((3, 8, 40)),
    targets=jnp.asarray(np.tile(rng.integers(0, 2, 8), (3, 1))),
    mask=jnp.asarray(np.tile(asked[:, None], (1, 8))),
    index=jnp.arange(8),
  )
  outputs = jnp.asarray(rng.normal(size=(3, 8, 2)), jnp.float32)
  plain = task.metrics(outputs, trials)

  def behind(x, value):
    return jnp.concatenate([x, jnp.full((2, *x.shape[1:]), value, x.dtype)])

  padded = interfaces.Trials(
    inputs=behind(trials.inputs, jnp.nan),
    targets=behind(trials.targets, -100),
    mask=behind(trials.mask, 0.0),
    index=trials.index,
  )
  found = task.metrics(behind(outputs, jnp.nan), padded)
  assert 0 < plain['accuracy'] < 1
  for name, value in plain.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)


def test_the_temperature_is_that_of_a_replicate_that_counts():
  """Truth: the replicates that count, by themselves."""
  task = tasks.cell_fate(num_cells=3, dt=0.5, duration=1.0)
  states = jax.random.uniform(jax.random.key(0), (6, 3))
  warm = jnp.full((6, 1), 0.1)
  mask = jnp.array([0.0, 1.0, 1.0, 1.0, 0.0, 1.0])
  weighted, _ = task.loss(states, warm, mask)
  nobody = jnp.where(mask[:, None] != 0, warm, 0.0)
  assert np.isfinite(weighted)
  np.testing.assert_array_equal(task.loss(states, nobody, mask)[0], weighted)


def test_the_last_asked_step_is_found():
  """Truth: a table."""
  mask = jnp.array([[0.0, 1.0, 0.0], [0.5, 0.0, 0.0], [0.5, 0.0, 0.0]])
  values = jnp.arange(9).reshape(3, 3)
  np.testing.assert_array_equal(base.at_last_asked(values, mask), [6, 1, 2])

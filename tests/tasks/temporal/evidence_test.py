# SPDX-License-Identifier: Apache-2.0
"""Evidence accumulation: cues counted again, rates, and exact baselines."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bionet_tasks.temporal import evidence

KEY, BATCH = jax.random.key(0), 256
GROUPS = {'left': 0, 'right': 1, 'recall': 2, 'noise': 3}


@pytest.fixture(scope='module')
def drawn():
  """`(task, {evaluation or sample: (trials, spikes [T, B, 4])})`."""
  task = evidence.evidence_accumulation()
  index = jnp.arange(BATCH)
  made = {
    'sample': task.sample(KEY, index),
    'narrow': task.evaluations['narrow'].sample(KEY, index),
  }
  return task, {
    name: (trials, np.asarray(trials.inputs).reshape(300, BATCH, 4, 10).sum(-1))
    for name, trials in made.items()
  }


def sides(spikes):
  """Which side each cue is on, `[B, 7]`, 1: right; read off the spikes."""
  cues = spikes[:210, :, :2].reshape(7, 30, BATCH, 2)
  assert not cues[:, 20:].any()  # the gaps
  left, right = cues[:, :20].sum(axis=1).transpose(2, 0, 1)
  assert np.all((left == 0) != (right == 0))  # one side a cue
  return (right > 0).T.astype(int)


@pytest.mark.parametrize('name', ['sample', 'narrow'])
def test_the_answer_is_the_side_of_most_cues(drawn, name):
  """Truth: cues of 20 steps and gaps of 10, read off the spikes and counted."""
  trials, spikes = drawn[1][name]
  right = sides(spikes).sum(axis=1)
  np.testing.assert_array_equal(trials.targets[-1], right > 3.5)
  assert not spikes[210:, :, :2].any()
  mask = np.asarray(trials.mask)
  assert not mask[:270].any()
  np.testing.assert_allclose(mask[270:], 1 / 30, rtol=1e-6)
  np.testing.assert_array_equal(
    np.asarray(trials.targets)[270:], np.tile(right > 3.5, (30, 1))
  )
  counts = evidence.cue_counts(trials)
  for found, group in zip(counts, (0, 1), strict=True):
    np.testing.assert_array_equal(found, spikes[..., group].sum(axis=0))
  if name == 'narrow':
    assert set(right) == {3, 4}
    # Every cue is on the majority's side 4 times in 7.
    agree = (sides(spikes) == (right > 3.5)[:, None]).mean(axis=0)
    assert np.all(np.abs(agree - 4 / 7) < 5 * 0.5 / math.sqrt(BATCH))


def test_rates_are_those_of_the_setting(drawn):
  """Truth: 40 Hz and 10 Hz of steps of 5 ms: .2 and .05 (5 standard errors)."""
  _, spikes = drawn[1]['sample']
  mean = {name: spikes[..., k] / 10 for name, k in GROUPS.items()}
  cues = (mean['left'] + mean['right'])[:210].reshape(7, 30, BATCH)[:, :20]
  for values, rate in (
    (cues, 0.2),
    (mean['recall'][270:], 0.2),
    (mean['noise'], 0.05),
  ):
    error = math.sqrt(rate * (1 - rate) / (10 * values.size))
    assert abs(values.mean() - rate) < 5 * error
  assert not mean['recall'][:270].any()


def test_a_few_cues_are_worth_a_lot():
  """Truth: the figures of the setting; scipy's binomials; the drawn cues."""
  expected = {1: 0.727, 3: 0.831, 5: 0.907, 7: 1.0}
  for k, value in expected.items():
    assert evidence.majority_of_last(k) == pytest.approx(value, abs=5e-4)
  on, off = stats.binom(6, 0.7).sf(2), stats.binom(6, 0.7).cdf(3)
  assert evidence.majority_of_last(1) == pytest.approx(0.7 * on + 0.3 * off)
  assert evidence.majority_of_last(1, num_cues=1, bias=0.6) == 1
  with pytest.raises(ValueError, match=r'^num_last=.*must be odd'):
    evidence.majority_of_last(2)


def test_drawn_cues_are_worth_what_the_sum_says(drawn):
  """Truth: `majority_of_last`, within 5 standard errors."""
  trials, spikes = drawn[1]['sample']
  for k in (1, 3, 5):
    last = 2 * sides(spikes)[:, -k:].sum(axis=1) > k
    share = np.mean(last == np.asarray(trials.targets[-1]))
    exact = evidence.majority_of_last(k)
    assert abs(share - exact) < 5 * math.sqrt(exact * (1 - exact) / BATCH)


def test_a_trial_is_one_decision(drawn):
  """Truth: outputs that are wrong at most steps and right in the mean."""
  task, made = drawn
  trials, _ = made['sample']
  right = jax.nn.one_hot(trials.targets, 2)
  step = jnp.arange(300)[:, None, None]
  outputs = jnp.where(step == 299, 60 * right, 1 - right)
  scores = task.metrics(outputs, trials)
  assert scores['accuracy'] == 1
  assert scores['step_accuracy'] == pytest.approx(1 / 30, rel=1e-4)
  scores = task.metrics(jnp.zeros((300, BATCH, 2)), trials)
  assert scores['loss'] == pytest.approx(math.log(2), rel=1e-5)


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'num_cues': 4}, 'ties'),
    ({'num_cues': 0}, r'^num_cues=0'),
    ({'bias': 0.4}, r'^bias=0\.4'),
    ({'dt': 0.0}, r'^dt=0'),
    ({'cue_ms': 1.0}, r'^cue_ms=1'),
    ({'delay_ms': -10.0}, r'^delay_ms=-10'),
    ({'cue_rate': 500.0}, r'^cue_rate=500'),
  ],
)
def test_settings_out_of_range_are_refused(settings, message):
  """Truth: the documented ranges."""
  with pytest.raises(ValueError, match=message):
    evidence.evidence_accumulation(**settings)

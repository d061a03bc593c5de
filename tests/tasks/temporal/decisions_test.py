# SPDX-License-Identifier: Apache-2.0
"""Decisions: every answer found again from the inputs, in Python loops."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_tasks.temporal import decisions

KEY, BATCH = jax.random.key(0), 1024
MAKE = {
  'delayed_xor': functools.partial(decisions.delayed_xor, delay=3, min_delay=0),
  'delayed_match': functools.partial(
    decisions.delayed_match, num_stimuli=3, delay=3, min_delay=1
  ),
  'store_recall': functools.partial(
    decisions.store_recall, delay=3, min_delay=1
  ),
  'temporal_parity': functools.partial(
    decisions.temporal_parity, num_bits=5, min_bits=2
  ),
}


@functools.cache
def drawn(name):
  """`(task, inputs, targets, asked steps)` of a batch."""
  task = MAKE[name]()
  trials = task.sample(KEY, jnp.arange(BATCH))
  mask = np.asarray(trials.mask)
  asked = np.argmax(mask, axis=0)
  assert np.all(mask.sum(axis=0) == 1) and np.all((mask == 0) | (mask == 1))
  return task, np.asarray(trials.inputs), np.asarray(trials.targets), asked


def xor(shown):
  first, second = np.flatnonzero(shown[:, :2].any(axis=1))
  assert first == 0 and len(shown) == 2 * second
  return np.argmax(shown[first]) != np.argmax(shown[second])


def match(shown):
  first, second = np.flatnonzero(shown.any(axis=1))
  assert first == 0 and second == len(shown) - 1
  return np.argmax(shown[first]) == np.argmax(shown[second])


def recall(shown):
  assert np.all(shown[:, :2].sum(axis=1) == 1)
  (stored,) = np.flatnonzero(shown[:, 2])
  return shown[stored, 1] == 1


def parity(shown):
  assert np.all(shown.sum(axis=1) == 1)
  return shown[:, 1].sum() % 2 == 1


ANSWERS = {
  'delayed_xor': (xor, {2, 4, 6, 8}),
  'delayed_match': (match, {3, 4, 5}),
  'store_recall': (recall, set(range(2, 8))),
  'temporal_parity': (parity, {2, 3, 4, 5}),
}


@pytest.mark.parametrize('name', MAKE)
def test_the_answer_follows_from_what_was_shown(name):
  """Truth: the answer from the inputs before the question, in plain Python."""
  task, inputs, targets, asked = drawn(name)
  answer, steps = ANSWERS[name]
  assert set(asked) == steps
  assert max(steps) == task.spec.num_steps - 1
  for b in range(200):
    shown, t = inputs[:, b, :-1], asked[b]
    assert targets[t, b] == answer(shown[:t])
    assert not shown[t:].any()  # nothing with the question, nothing after it
    assert np.array_equal(np.flatnonzero(inputs[:, b, -1]), [t])


@pytest.mark.parametrize('name', MAKE)
def test_both_answers_are_as_likely_whatever_one_step_shows(name):
  """Truth: a fair coin (5 standard errors), also given any single input.

  The stored bit is shown at one step and is the answer: there, only the coin.
  """
  task, inputs, targets, asked = drawn(name)
  answers = targets[asked, np.arange(BATCH)]
  assert abs(answers.mean() - 0.5) < 5 * 0.5 / math.sqrt(BATCH)
  scores = task.metrics(
    jnp.zeros((task.spec.num_steps, BATCH, 2)),
    task.sample(KEY, jnp.arange(BATCH)),
  )
  assert scores['loss'] == pytest.approx(task.spec.chance['loss'])
  if name == 'store_recall':
    return
  for asked_at in set(asked):
    rows = asked == asked_at
    for t in range(asked_at):
      for values in inputs[t, rows].T:
        if 20 < values.sum() < rows.sum() - 20:
          given = answers[rows][values == 1]
          assert abs(given.mean() - 0.5) < 5 * 0.5 / math.sqrt(len(given))


def test_delays_do_not_vary_unless_asked_to():
  """Truth: `min_delay=None`: every trial is the longest."""
  for make, last in (
    (lambda: decisions.delayed_xor(delay=2), 6),
    (lambda: decisions.delayed_match(delay=2), 4),
    (
      functools.partial(decisions.temporal_parity, num_bits=3, min_bits=None),
      3,
    ),
  ):
    trials = make().sample(KEY, jnp.arange(8))
    np.testing.assert_array_equal(np.argmax(trials.mask, axis=0), last)


@pytest.mark.parametrize(
  'make, message',
  [
    (lambda: decisions.delayed_xor(delay=-1), r'^delay=-1'),
    (lambda: decisions.delayed_xor(min_delay=11), r'^min_delay=11'),
    (lambda: decisions.delayed_match(num_stimuli=1), r'^num_stimuli=1'),
    (lambda: decisions.store_recall(delay=3), r'^min_delay=5'),
    (lambda: decisions.temporal_parity(num_bits=0), r'^num_bits=0'),
    (lambda: decisions.temporal_parity(min_bits=0), r'^min_bits=0'),
    (lambda: decisions.temporal_parity(min_bits=7), r'^min_bits=7'),
    (lambda: decisions.delayed_xor(num_held_out=0), r'^num_held_out=0'),
  ],
)
def test_settings_out_of_range_are_refused(make, message):
  """Truth: the documented ranges."""
  with pytest.raises(ValueError, match=message):
    make()

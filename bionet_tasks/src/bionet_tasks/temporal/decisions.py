# SPDX-License-Identifier: Apache-2.0
"""Two-way decisions on what was shown before a delay.

In all of them a trial ends with one step that asks (the last input is 1 there
and nothing else is shown), two outputs score the answers 0 and 1, and both are
equally likely: chance is accuracy 1/2 and ln 2 nats, the ceiling 1 and 0. Where
a delay is drawn, T is that of the longest, and silence follows a shorter trial.
"""

import math

import jax
import jax.numpy as jnp

from bionet_core import unroll
from bionet_tasks import base


def delayed_xor(
  *, delay: int = 10, min_delay: int | None = None, num_held_out: int = 1000
) -> base.Task:
  """Two bits, each followed by a delay; are they different?

    t = 0:            bit a, one-hot in inputs 0 and 1
    t = 1 + d:        bit b, likewise
    t = 2 + 2 d:      asked (input 2 is 1): a xor b

  No bit tells anything alone. T = 3 + 2 delay.

  Args:
    delay: d, silent steps after each bit, or the most of them.
    min_delay: the fewest; d is then uniform between the two, one a trial.
    num_held_out: trials of the held-out evaluation.

  Raises:
    ValueError: for a size out of range.
  """
  num_steps = 3 + 2 * delay

  def trial(key):
    keys = jax.random.split(key, 2)
    bits = jax.random.bernoulli(keys[0], 0.5, (2,)).astype(int)
    trial_delay = base.drawn_length(keys[1], 'delay', min_delay, delay)
    shown = jnp.zeros((num_steps, 2))
    shown = shown.at[0].set(jax.nn.one_hot(bits[0], 2))
    shown = shown.at[1 + trial_delay].set(jax.nn.one_hot(bits[1], 2))
    return shown, bits[0] ^ bits[1], 2 + 2 * trial_delay

  return _decision('delayed_xor', trial, 2, num_steps, delay, num_held_out)


def delayed_match(
  *,
  num_stimuli: int = 4,
  delay: int = 10,
  min_delay: int | None = None,
  num_held_out: int = 1000,
) -> base.Task:
  """Delayed match to sample: is the second stimulus the first one?

    t = 0:            the sample, one-hot in the first K inputs
    t = 1 + d:        the test: the sample (1/2), or one of the others, equally
    t = 2 + d:        asked (the last input is 1): 1 if it was the sample

  T = 3 + delay.

  Args:
    num_stimuli: K, 2 or more.
    delay: d, silent steps between sample and test, or the most of them.
    min_delay: the fewest; d is then uniform between the two.
    num_held_out: trials of the held-out evaluation.

  Raises:
    ValueError: for a size out of range.
  """
  if num_stimuli < 2:
    raise ValueError(
      f'num_stimuli={num_stimuli}: must be at least 2, or all are the same.'
    )
  num_steps = 3 + delay

  def trial(key):
    keys = jax.random.split(key, 4)
    stimulus = jax.random.randint(keys[0], (), 0, num_stimuli)
    same = jax.random.bernoulli(keys[1]).astype(int)
    other = stimulus + jax.random.randint(keys[2], (), 1, num_stimuli)
    test = jnp.where(same, stimulus, other % num_stimuli)
    trial_delay = base.drawn_length(keys[3], 'delay', min_delay, delay)
    shown = jnp.zeros((num_steps, num_stimuli))
    shown = shown.at[0].set(jax.nn.one_hot(stimulus, num_stimuli))
    shown = shown.at[1 + trial_delay].set(jax.nn.one_hot(test, num_stimuli))
    return shown, same, 2 + trial_delay

  return _decision(
    'delayed_match', trial, num_stimuli, num_steps, delay, num_held_out
  )


def store_recall(
  *, delay: int = 10, min_delay: int | None = 5, num_held_out: int = 1000
) -> base.Task:
  """A stream of bits, one of which is to be kept while the others go by.

    every step but the asked one: a random bit, one-hot in inputs 0 and 1
    t = s:            'store' (input 2 is 1), s uniform from 0 to delay
    t = s + 1 + d:    asked (input 3 is 1): the bit of step s

  No bit is shown there, and silence follows. T = 2 + 2 delay.

  Source: the task of G. Bellec et al., NeurIPS 31 (2018), with one store and
  one recall a trial.

  Args:
    delay: d, bits that go by between the two, or the most of them.
    min_delay: the fewest; d is then uniform between the two. None: the most.
    num_held_out: trials of the held-out evaluation.

  Raises:
    ValueError: for a size out of range.
  """
  num_steps = 2 + 2 * delay

  def trial(key):
    keys = jax.random.split(key, 3)
    bits = jax.random.bernoulli(keys[0], 0.5, (num_steps,)).astype(int)
    trial_delay = base.drawn_length(keys[1], 'delay', min_delay, delay)
    stored = jax.random.randint(keys[2], (), 0, delay + 1)
    recall = stored + 1 + trial_delay
    before = (jnp.arange(num_steps) < recall)[:, None]
    store = base.asked_at(stored, num_steps)[:, None]
    stream = jnp.where(before, jax.nn.one_hot(bits, 2), 0.0)
    return jnp.concatenate([stream, store], -1), bits[stored], recall

  return _decision('store_recall', trial, 3, num_steps, delay, num_held_out)


def temporal_parity(
  *, num_bits: int = 6, min_bits: int | None = 2, num_held_out: int = 1000
) -> base.Task:
  """Bits, one a step; is the number of ones odd?

    t in [0, n):      a random bit, one-hot in inputs 0 and 1
    t = n:            asked (input 2 is 1): the sum of the bits, modulo 2

  No subset of the bits tells anything: all n must arrive. T = num_bits + 1.
  Short trials among long ones make it learnable at all.

  Args:
    num_bits: n, or the most of them.
    min_bits: the fewest, 1 or more; n is then uniform between the two. None:
      the most.
    num_held_out: trials of the held-out evaluation.

  Raises:
    ValueError: for a size out of range.
  """
  base.check_positive(num_bits=num_bits)
  if min_bits is not None:
    base.check_positive(min_bits=min_bits)
  num_steps = num_bits + 1

  def trial(key):
    keys = jax.random.split(key, 2)
    trial_bits = base.drawn_length(keys[0], 'bits', min_bits, num_bits)
    bits = jax.random.bernoulli(keys[1], 0.5, (num_steps,)).astype(int)
    shown = jnp.arange(num_steps) < trial_bits
    parity = jnp.sum(bits * shown) % 2
    return jax.nn.one_hot(bits, 2) * shown[:, None], parity, trial_bits

  return _decision('temporal_parity', trial, 2, num_steps, 0, num_held_out)


def _decision(
  name, shown_trial, num_shown, num_steps, delay, num_held_out
) -> base.Task:
  """The task of `key -> (shown [T, I - 1], answer [], asked [])`."""
  base.check_positive(num_held_out=num_held_out)
  if delay < 0:
    raise ValueError(f'delay={delay}: must be 0 or more.')

  def trial(key):
    shown, answer, asked_step = shown_trial(key)
    mask = base.asked_at(asked_step, num_steps)
    targets = jnp.where(mask > 0, answer, 0).astype(jnp.int32)
    return jnp.concatenate([shown, mask[:, None]], axis=-1), targets, mask

  jax.eval_shape(trial, unroll.seed_key(0))  # says now what is out of range
  sample = base.drawn_anew(trial)
  return base.Task(
    spec=base.TaskSpec(
      name=name,
      input_shape=(num_shown + 1,),
      num_outputs=2,
      num_steps=num_steps,
      metric='accuracy',
      chance={'accuracy': 0.5, 'loss': math.log(2)},
      ceiling={'accuracy': 1.0, 'loss': 0.0},
      measures=base.CROSS_ENTROPY,
    ),
    sample=sample,
    evaluations={'held_out': base.held_out(sample, num_held_out)},
    loss=base.cross_entropy,
    metrics=base.sum_over_steps(base.cross_entropy),
  )

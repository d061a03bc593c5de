# SPDX-License-Identifier: Apache-2.0
"""Evidence accumulation: on which side were more cues?"""

import math
from itertools import product

import jax
import jax.numpy as jnp

from bionet_core import interfaces
from bionet_tasks import base

_GROUP = 10  # inputs of a kind: left cues, right cues, recall, noise


def evidence_accumulation(
  *,
  num_cues: int = 7,
  bias: float = 0.7,
  dt: float = 5.0,
  cue_ms: float = 100.0,
  gap_ms: float = 50.0,
  delay_ms: float = 300.0,
  recall_ms: float = 150.0,
  cue_rate: float = 40.0,
  noise_rate: float = 10.0,
  num_held_out: int = 1000,
) -> base.Task:
  """Cues to the left and to the right, a delay, and the majority's side.

  A trial has a side, drawn evenly; each cue is on it with probability `bias`.
  Of 40 inputs, spikes 0 or 1 at each step, ten fire at `cue_rate` during a left
  cue, ten during a right one, ten during the recall, and ten at `noise_rate`
  always:

    n x (cue, gap), delay, recall;  T = (n (cue + gap) + delay + recall) / dt

  Every step of the recall asks for the side with more cues (0: left), and
  'accuracy' is that of the outputs' mean over the recall: one decision a trial.
  Chance is 1/2 and ln 2 nats, the ceiling 1 and 0. That says little alone: the
  majority of the last 1, 3 and 5 of 7 cues is right .727, .831 and .907 of the
  time (`majority_of_last`). The evaluation 'narrow' has only trials decided by
  one cue (4 to 3), in every order alike; there the last cue is worth 4 / 7.

  Source: the task of G. Bellec et al., Nature Communications 11, 3625 (2020),
  its delay shortened so that 500 updates fit a CPU.

  Args:
    num_cues: n, odd.
    bias: probability of a cue on the trial's side, from .5 to 1.
    dt: a step's length in ms; the lengths are rounded to whole steps.
    cue_ms: length of a cue in ms.
    gap_ms: of the silence after each one.
    delay_ms: of the silence after all of them.
    recall_ms: of the recall, a step or more.
    cue_rate: of inputs that show something, in Hz.
    noise_rate: of those that show nothing, in Hz.
    num_held_out: trials of each evaluation.

  Raises:
    ValueError: for a setting out of range.
  """
  base.check_positive(num_cues=num_cues, num_held_out=num_held_out)
  if num_cues % 2 == 0:
    raise ValueError(
      f'num_cues={num_cues}: must be odd; an even number has ties.'
    )
  if not 0.5 <= bias <= 1:
    raise ValueError(f'bias={bias}: must be from 0.5 to 1.')
  if not dt > 0:
    raise ValueError(f'dt={dt}: must be above 0.')
  steps = {}
  for name, ms, least in (
    ('cue_ms', cue_ms, 1),
    ('gap_ms', gap_ms, 0),
    ('delay_ms', delay_ms, 0),
    ('recall_ms', recall_ms, 1),
  ):
    steps[name] = round(ms / dt)
    if steps[name] < least:
      raise ValueError(f'{name}={ms}: must be at least {least} dt.')
  for name, rate in (('cue_rate', cue_rate), ('noise_rate', noise_rate)):
    if not 0 <= rate * dt <= 1000:
      raise ValueError(
        f'{name}={rate}: must be from 0 to one spike per step of {dt} ms.'
      )
  period = steps['cue_ms'] + steps['gap_ms']
  recall = num_cues * period + steps['delay_ms']
  num_steps = recall + steps['recall_ms']
  t = jnp.arange(num_steps)
  cue = jnp.minimum(t // period, num_cues - 1)  # which cue a step is of
  on = (t < num_cues * period) & (t % period < steps['cue_ms'])
  is_asked = t >= recall

  def trial(key, draw_sides):
    keys = jax.random.split(key)
    sides = draw_sides(keys[0])  # [n], 1: right
    right = sides[cue] == 1
    rates = jnp.stack(
      [
        jnp.where(on & ~right, cue_rate, 0.0),
        jnp.where(on & right, cue_rate, 0.0),
        jnp.where(is_asked, cue_rate, 0.0),
        jnp.full(num_steps, noise_rate),
      ],
      axis=-1,
    )
    rates = jnp.repeat(rates, _GROUP, axis=-1)
    spikes = jax.random.bernoulli(keys[1], rates * dt / 1000)
    answer = (2 * jnp.sum(sides) > num_cues).astype(jnp.int32)
    targets = jnp.where(is_asked, answer, 0)
    return spikes.astype(float), targets, is_asked / steps['recall_ms']

  def biased(key):
    keys = jax.random.split(key)
    side = jax.random.bernoulli(keys[0])
    same = jax.random.bernoulli(keys[1], bias, (num_cues,))
    return jnp.where(same, side, ~side).astype(int)

  def narrow(key):
    keys = jax.random.split(key)
    more = jax.random.bernoulli(keys[0]).astype(int)
    few = jnp.arange(num_cues) < num_cues // 2
    return jax.random.permutation(keys[1], jnp.where(few, 1 - more, more))

  sample = base.drawn_anew(lambda key: trial(key, biased))
  sample_narrow = base.drawn_anew(lambda key: trial(key, narrow))
  of_steps = base.sum_over_steps(base.cross_entropy)

  def metrics(outputs, trials):
    # Where nothing is asked outputs may be anything: 0 * inf is NaN.
    is_asked = trials.mask[..., None]
    scores = jnp.sum(jnp.where(is_asked > 0, outputs * is_asked, 0), axis=0)
    decided = jnp.argmax(scores, axis=-1)
    right = decided == base.at_last_asked(trials.targets, trials.mask)
    step_accuracy = of_steps(outputs, trials)
    return {
      'loss': step_accuracy['loss'],
      'accuracy': jnp.mean(right),
      'step_accuracy': step_accuracy['accuracy'],
    }

  return base.Task(
    spec=base.TaskSpec(
      name='evidence_accumulation',
      input_shape=(4 * _GROUP,),
      num_outputs=2,
      num_steps=num_steps,
      metric='accuracy',
      chance={'accuracy': 0.5, 'loss': math.log(2)},
      ceiling={'accuracy': 1.0, 'loss': 0.0},
      measures={
        **base.CROSS_ENTROPY,
        'accuracy': base.Measure(
          '', 'share of the trials decided right, by the sum over the recall'
        ),
        'step_accuracy': base.CROSS_ENTROPY['accuracy'],
      },
    ),
    sample=sample,
    evaluations={
      'held_out': base.held_out(sample, num_held_out),
      'narrow': base.held_out(sample_narrow, num_held_out),
    },
    loss=_step_loss,
    metrics=metrics,
  )


def _step_loss(outputs, targets, mask):
  """The cross-entropy of a step; its hits are no decisions of whole trials."""
  loss, hits = base.cross_entropy(outputs, targets, mask)
  return loss, {'step_accuracy': hits['accuracy']}


def majority_of_last(
  num_last: int, *, num_cues: int = 7, bias: float = 0.7
) -> float:
  """How often the last k cues' majority is that of all, exactly.

  The sum over all 2^n orders of cues on (1) and off the trial's side:
  P(order) = bias^ones (1 - bias)^(n - ones).

  Args:
    num_last: k, odd, at most n.
    num_cues: n, odd.
    bias: probability of a cue on the trial's side.

  Raises:
    ValueError: for a number of cues that is even or out of range.
  """
  if num_last % 2 == 0 or num_cues % 2 == 0 or not 0 < num_last <= num_cues:
    raise ValueError(
      f'num_last={num_last}: must be odd and at most num_cues={num_cues}, '
      'which must be odd too.'
    )
  total = 0.0
  for order in product((0, 1), repeat=num_cues):
    ones = sum(order)
    last = sum(order[num_cues - num_last :])
    if (2 * ones > num_cues) == (2 * last > num_last):
      total += bias**ones * (1 - bias) ** (num_cues - ones)
  return total


def cue_counts(trials: interfaces.Trials) -> tuple[jax.Array, jax.Array]:
  """Spikes `[B]` that the left and the right cues made: the evidence itself."""
  groups = jnp.sum(trials.inputs, axis=0).reshape(-1, 4, _GROUP).sum(-1)
  return groups[:, 0], groups[:, 1]

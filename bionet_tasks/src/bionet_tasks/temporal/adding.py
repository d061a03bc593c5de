# SPDX-License-Identifier: Apache-2.0
"""Adding: two of many numbers are marked; say their sum."""

import jax
import jax.numpy as jnp

from bionet_core import unroll
from bionet_tasks import base


def adding(
  *,
  length: int = 50,
  min_length: int | None = None,
  num_held_out: int = 1000,
) -> base.Task:
  """Two marked numbers in a stream of them, and their sum at the end.

    inputs_t = (value_t, mark_t),  value_t ~ U(0, 1);  t in [0, L)
    t = L: (0, 0), asked: the sum of the two values whose mark is 1

  One mark is in the first half of the L values, the other in the second. Chance
  is the mean, 1, with a squared error of 2 / 12; the ceiling is 0. T = length +
  1; a shorter trial is asked at its own end, and zeros follow.

  Source: S. Hochreiter and J. Schmidhuber, Neural Computation 9, 1735 (1997),
  experiment 4, with values in [0, 1].

  Args:
    length: L, the numbers of a trial, or the most of them.
    min_length: the fewest; L is then uniform between the two.
    num_held_out: trials of the held-out evaluation.

  Raises:
    ValueError: for a size out of range.
  """
  shortest = length if min_length is None else min_length
  base.check_positive(num_held_out=num_held_out)
  for name, size in (('length', length), ('min_length', shortest)):
    if size < 2:
      raise ValueError(
        f'{name}={size}: must be at least 2, the numbers to add.'
      )
  num_steps = length + 1

  def trial(key):
    keys = jax.random.split(key, 4)
    trial_length = base.drawn_length(keys[0], 'length', min_length, length)
    first = jax.random.randint(keys[1], (), 0, trial_length // 2)
    second = jax.random.randint(keys[2], (), trial_length // 2, trial_length)
    step = jnp.arange(num_steps)
    values = jax.random.uniform(keys[3], (num_steps,))
    values = jnp.where(step < trial_length, values, 0.0)
    marks = jnp.where((step == first) | (step == second), 1.0, 0.0)
    mask = base.asked_at(trial_length, num_steps)
    total = jnp.sum(values * marks)
    return jnp.stack([values, marks], -1), (mask * total)[:, None], mask

  jax.eval_shape(trial, unroll.seed_key(0))  # says now what is out of range
  sample = base.drawn_anew(trial)
  return base.Task(
    spec=base.TaskSpec(
      name='adding',
      input_shape=(2,),
      num_outputs=1,
      num_steps=num_steps,
      metric='mse',
      chance={'mse': 1 / 6, 'loss': 1 / 6},
      ceiling={'mse': 0.0, 'loss': 0.0},
      measures=base.SQUARED_ERROR,
    ),
    sample=sample,
    evaluations={'held_out': base.held_out(sample, num_held_out)},
    loss=base.squared_error,
    metrics=base.sum_over_steps(base.squared_error),
  )

# SPDX-License-Identifier: Apache-2.0
"""Copying: remember a sequence of symbols through a delay, then say it."""

import math

import jax
import jax.numpy as jnp

from bionet_tasks import base

_ALPHABET = 8
_BLANK, _TRIGGER = 0, _ALPHABET + 1
_NUM_CODES = _ALPHABET + 2


def copying(
  *, num_symbols: int = 10, time_lag: int = 10, num_held_out: int = 1000
) -> base.Task:
  """A sequence, a lag, and as many steps of a trigger that asks for it.

    t in [0, S):          a symbol, uniform on 1..8
    t in [S, S + lag):    blank (0)
    t in [S + lag, T):    trigger (9); asked: the symbol of step t - S - lag

  with S = num_symbols and T = 2 S + time_lag. Inputs are one-hot in 10 and the
  targets classes of the same 10, of which 1..8 are ever right. Chance is ln 8
  nats and accuracy 1/8, ceiling 0 and 1. Trials are drawn anew, each a function
  of its number and the key.

  Args:
    num_symbols: S, the length of the sequence.
    time_lag: steps between sequence and trigger, 0 or more.
    num_held_out: trials of the held-out evaluation.

  Raises:
    ValueError: for a size out of range.
  """
  base.check_positive(num_symbols=num_symbols, num_held_out=num_held_out)
  if time_lag < 0:
    raise ValueError(f'time_lag={time_lag}: must be 0 or more.')
  num_steps = 2 * num_symbols + time_lag

  def trial(key):
    symbols = jax.random.randint(key, (num_symbols,), 1, _ALPHABET + 1)
    inputs = jnp.concatenate(
      [
        symbols,
        jnp.full(time_lag, _BLANK),
        jnp.full(num_symbols, _TRIGGER),
      ]
    )
    silent = jnp.full(num_symbols + time_lag, _BLANK)
    is_asked = jnp.arange(num_steps) >= num_symbols + time_lag
    return (
      jax.nn.one_hot(inputs, _NUM_CODES),
      jnp.concatenate([silent, symbols]),
      is_asked / num_symbols,
    )

  sample = base.drawn_anew(trial)
  return base.Task(
    spec=base.TaskSpec(
      name='copying',
      input_shape=(_NUM_CODES,),
      num_outputs=_NUM_CODES,
      num_steps=num_steps,
      metric='accuracy',
      chance={'accuracy': 1 / _ALPHABET, 'loss': math.log(_ALPHABET)},
      ceiling={'accuracy': 1.0, 'loss': 0.0},
      measures=base.CROSS_ENTROPY,
    ),
    sample=sample,
    evaluations={'held_out': base.held_out(sample, num_held_out)},
    loss=base.cross_entropy,
    metrics=base.sum_over_steps(base.cross_entropy),
  )

# SPDX-License-Identifier: Apache-2.0
"""Flip-flops: hold the last pulse of each channel."""

import jax
import jax.numpy as jnp

from bionet_core import unroll
from bionet_tasks import base


def flip_flop(
  *,
  num_bits: int = 3,
  length: int = 50,
  min_length: int | None = None,
  pulse_rate: float = 0.1,
  num_held_out: int = 500,
) -> base.Task:
  """Channels of rare pulses; an output a channel holds its last one.

    inputs_tc  = -1 or +1 with probability pulse_rate / 2 each, else 0
    targets_tc = inputs_sc of the last s < t with inputs_sc != 0

  The first step pulses every channel, and all further ones are asked. A pulse
  is asked for from the next step on, so that no step's inputs tell its targets:
  they have to be remembered. Holding 0 scores a squared error of 1, the
  ceiling is 0. T = length; a shorter trial is not asked after its end.

  Source: D. Sussillo and O. Barak, Neural Computation 25, 626 (2013), with a
  step between a pulse and its effect.

  Args:
    num_bits: channels.
    length: T, or the most steps that are asked, and one.
    min_length: the fewest, 2 or more; then uniform between the two.
    pulse_rate: probability of a pulse, a channel and step, above 0 to 1.
    num_held_out: trials of the held-out evaluation.

  Raises:
    ValueError: for a setting out of range.
  """
  base.check_positive(num_bits=num_bits, num_held_out=num_held_out)
  shortest = length if min_length is None else min_length
  for name, size in (('length', length), ('min_length', shortest)):
    if size < 2:
      raise ValueError(
        f'{name}={size}: must be at least 2; a pulse is held for a step.'
      )
  if not 0 < pulse_rate <= 1:
    raise ValueError(f'pulse_rate={pulse_rate}: must be a probability above 0.')

  def trial(key):
    keys = jax.random.split(key, 3)
    trial_length = base.drawn_length(keys[0], 'length', min_length, length)
    shape = (length, num_bits)
    has_pulse = jax.random.bernoulli(keys[1], pulse_rate, shape)
    has_pulse = has_pulse.at[0].set(True)
    pulses = jnp.where(
      has_pulse, jax.random.rademacher(keys[2], shape, float), 0.0
    )

    def hold(held, pulse):
      return jnp.where(pulse == 0, held, pulse), held

    _, targets = jax.lax.scan(hold, jnp.zeros(num_bits), pulses)
    step = jnp.arange(length)
    mask = jnp.where(
      (step > 0) & (step < trial_length), 1 / (trial_length - 1), 0.0
    )
    return pulses, targets, mask

  jax.eval_shape(trial, unroll.seed_key(0))  # says now what is out of range
  sample = base.drawn_anew(trial)
  return base.Task(
    spec=base.TaskSpec(
      name='flip_flop',
      input_shape=(num_bits,),
      num_outputs=num_bits,
      num_steps=length,
      metric='mse',
      chance={'mse': 1.0, 'loss': 1.0},
      ceiling={'mse': 0.0, 'loss': 0.0},
      measures=base.SQUARED_ERROR,
    ),
    sample=sample,
    evaluations={'held_out': base.held_out(sample, num_held_out)},
    loss=base.squared_error,
    metrics=base.sum_over_steps(base.squared_error),
  )

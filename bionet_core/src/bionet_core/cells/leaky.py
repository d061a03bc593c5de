# SPDX-License-Identifier: Apache-2.0
"""Leaky rate units in continuous time (CTRNN)."""

import haiku as hk
import jax.numpy as jnp

from bionet_core import interfaces
from bionet_core.cells import stack


class LeakyCore(hk.RNNCore):
  """Leaky units with a tanh rate.

    h_t = (1 - dt / tau) h_{t-1} + (dt / tau) tanh(x_t W_in + h_{t-1} W_r + b)

  Euler steps of tau dh/dt = -h + tanh(x W_in + h W_r + b): first order in dt.
  Of the elementwise paths from h_{t-1} to h_t the leak is the only one.

  Source: K. Funahashi and Y. Nakamura, Neural Networks 6, 801 (1993).
  """

  def __init__(self, hidden: int, leak: float, name: str = 'leaky'):
    """`leak` is dt / tau; the state is h, float `[B, hidden]`."""
    super().__init__(name=name)
    self._hidden, self._leak = hidden, leak

  def __call__(self, inputs, prev_state):
    """One step; emits the state."""
    drive = hk.Linear(self._hidden, name='input')(inputs)
    drive += hk.Linear(self._hidden, with_bias=False, name='recurrent')(
      prev_state
    )
    state = (1 - self._leak) * prev_state + self._leak * jnp.tanh(drive)
    return state, state

  def initial_state(self, batch_size):
    """Rest: zeros."""
    return jnp.zeros((batch_size, self._hidden))


def leaky(
  spec: interfaces.Sizes,
  *,
  hidden: int = 128,
  tau: float = 10.0,
  dt: float = 1.0,
  num_layers: int = 1,
) -> interfaces.Cell:
  """Leaky tanh units with a linear readout of `spec.num_outputs`.

  Args:
    spec: sizes of the task.
    hidden: units of a layer.
    tau: time constant of a unit, in the units of dt.
    dt: a step's length, above 0 and at most tau.
    num_layers: layers, each driven by the one below.

  Raises:
    ValueError: for a setting out of range.
  """
  stack.check_at_least_one(hidden=hidden, num_layers=num_layers)
  if not 0 < dt <= tau:
    raise ValueError(
      f'dt={dt}: must be above 0 and at most tau={tau}; a longer Euler step '
      'overshoots.'
    )
  return stack.layered(
    lambda: LeakyCore(hidden, dt / tau),
    lambda: hk.Linear(spec.num_outputs, name='readout'),
    num_layers,
  )

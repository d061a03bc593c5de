# SPDX-License-Identifier: Apache-2.0
"""Real-time recurrent learning: the exact gradient, forward in time."""

import jax.numpy as jnp

from bionet_core import interfaces
from bionet_learners import base
from bionet_learners.influence import steps


def rtrl(cell: interfaces.Cell, loss: interfaces.StepLoss) -> base.GradientRule:
  r"""Real-time recurrent learning: exact forward sensitivities.

    M_t = J_t M_{t-1} + D_t,   J_t = ds_t/ds_{t-1},  D_t = ds_t/dtheta
    dL_t/dtheta = dL_t/dtheta|_{s_{t-1}} + sum_b dL_t/ds_{b,t-1} M_{b,t-1}

  from M_0 = 0 on, each trial b with its own J, D and M. The loss is of all
  trials at once, so that a population loss is descended, too. Exact for any
  Cell, over any number of steps: the influence M crosses the borders of
  windows, and the estimates of windows sum to that of the whole while the
  weights stay. Where they change at a border, M is that of the weights each
  step had.

  Memory O(B S P) whatever T is; time O(B S) backward passes of one step and
  O(B S^2 P) products a step: for few units or few parameters. Steps that
  nobody is asked about cost no gradient of the loss.

  Args:
    cell: the dynamics.
    loss: the loss of one step.

  Returns:
    A GradientRule; its metrics are the loss's own.

  Raises:
    TypeError: if `cell` is not a Cell.

  Source: R. J. Williams and D. Zipser, Neural Computation 1, 270 (1989).
  """
  base.require_kind('rtrl', cell, interfaces.Cell)

  def influence(flat, row):
    return jnp.zeros((*row.shape, flat.size), jnp.result_type(row, flat))

  def advance(step, memory, key, trials):
    del key, trials
    influence = memory.traces
    credit = step.credit(lambda past: jnp.einsum('bs,bsp->p', past, influence))
    direct, recurrent = step.jacobians()
    return direct + jnp.einsum('bst,btp->bsp', recurrent, influence), credit

  return steps.step_by_step(cell, loss, influence, advance)

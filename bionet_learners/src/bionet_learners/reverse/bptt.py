# SPDX-License-Identifier: Apache-2.0
"""Backpropagation through time: the exact gradient, in reverse."""

import jax

from bionet_core import interfaces, unroll
from bionet_learners import base, over_time


def bptt(
  cell: interfaces.Cell, loss: interfaces.StepLoss, *, remat: bool = False
) -> base.GradientRule:
  r"""Backpropagation through time.

    dL/dtheta = sum_t sum_{k <= t} dL_t/ds_t (prod_{k < m <= t} ds_m/ds_{m-1})
                ds_k/dtheta

  Exact over the steps it is given at once. In windows (`descend(every=K)`) the
  states cross a border and their derivatives do not: truncated BPTT. Cost: one
  forward and one backward pass; memory O(T), or O(T) states only with `remat`.

  Args:
    cell: the dynamics.
    loss: the loss of one step.
    remat: recompute the inside of each step in the backward pass.

  Returns:
    A GradientRule; its metrics are the loss's own.

  Raises:
    TypeError: if `cell` is not a Cell.

  Source: P. J. Werbos, Proc. IEEE 78, 1550 (1990).
  """
  base.require_kind('bptt', cell, interfaces.Cell)

  def estimate(params, constants, shared, memory, key, trials):
    keys = unroll.trial_keys(key, trials.index)

    def objective(params):
      return unroll.unroll(
        cell,
        loss,
        params,
        constants,
        memory.state,
        keys,
        memory.steps,
        trials,
        remat=remat,
      )

    (total, (metrics, state)), gradient = jax.value_and_grad(
      objective, has_aux=True
    )(params)
    after = over_time.Memory(state, memory.steps + trials.mask.shape[0], ())
    return base.Estimate(gradient, total, metrics), shared, after

  return over_time.over_time(
    cell, estimate, claim=base.Claim(step=True, whole=True)
  )

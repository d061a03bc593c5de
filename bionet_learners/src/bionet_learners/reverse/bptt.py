# SPDX-License-Identifier: Apache-2.0
"""Backpropagation through time: the exact gradient, in reverse."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bionet_core import interfaces, unroll
from bionet_learners import base


class Trajectory(NamedTuple):
  """Where a cell's trials stand between windows.

  Attributes:
    state: the cell's state; every leaf leads with B.
    steps: int `[B]`, steps done.
  """

  state: interfaces.ArrayTree
  steps: jax.Array


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

  def begin(params, constants, rule_state, key, trials):
    del params
    state = unroll.initial_state(cell, constants, key, trials.index)
    steps = jnp.zeros(trials.index.shape, jnp.int32)
    return base.RuleState(rule_state.shared, Trajectory(state, steps))

  def init(key, params, constants, trials):
    nothing = base.RuleState(shared=(), per_trial=())
    return begin(params, constants, nothing, key, trials)

  def estimate(params, constants, rule_state, key, trials):
    state, steps = rule_state.per_trial
    keys = unroll.trial_keys(key, trials.index)

    def objective(params):
      return unroll.unroll(
        cell, loss, params, constants, state, keys, steps, trials, remat=remat
      )

    (total, (metrics, state)), gradient = jax.value_and_grad(
      objective, has_aux=True
    )(params)
    after = Trajectory(state, steps + trials.mask.shape[0])
    return (
      base.Estimate(gradient, total, metrics),
      base.RuleState(rule_state.shared, after),
    )

  return base.GradientRule(unroll.model_from_cell(cell), init, begin, estimate)

# SPDX-License-Identifier: Apache-2.0
"""Truncated backpropagation through time: credit of a window's own steps."""

import jax
import jax.numpy as jnp

from bionet_core import interfaces, unroll
from bionet_learners import base
from bionet_learners.reverse import bptt
from bionet_learners.traces import windows


def truncated_bptt(
  cell: interfaces.Cell, loss: interfaces.StepLoss, *, window: int = 10
) -> base.GradientRule:
  r"""Backpropagation through time, cut at the borders of windows.

    dL/dtheta ~= sum_windows d(sum_{t in window} L_t)/dtheta,
                 the state before each window held fixed

  Exact with one window; what an input does beyond its window earns nothing.
  Cost: that of `bptt`, with memory O(window). Unlike `bptt` under
  `descend(every=window)` the weights stay as they are over the trials.

  Args:
    cell: the dynamics.
    loss: the loss of one step.
    window: steps of a window; the last may be shorter.

  Returns:
    A GradientRule; its metrics are the loss's own.

  Raises:
    TypeError: if `cell` is not a Cell.
    ValueError: if `window` is below 1.

  Source: R. J. Williams and J. Peng, Neural Computation 2, 490 (1990), with
  h' = h = window.
  """
  base.require_kind('truncated_bptt', cell, interfaces.Cell)
  windows.checked_window(window)
  whole = bptt.bptt(cell, loss)

  def estimate(params, constants, rule_state, key, trials):
    def one_window(carry, part):
      rule_state, said = carry
      part = trials.replace(**part)
      more, rule_state = whole.estimate(
        params, constants, rule_state, key, part
      )
      return (rule_state, jax.tree.map(jnp.add, said, more)), None

    timed = unroll.timed(trials)
    size = min(window, trials.mask.shape[0])
    first = trials.replace(**jax.tree.map(lambda x: x[:size], timed))
    shapes, _ = jax.eval_shape(
      whole.estimate, params, constants, rule_state, key, first
    )
    nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    rule_state, said = windows.over_windows(
      one_window, (rule_state, nothing), timed, size
    )
    return said, rule_state

  return whole._replace(estimate=estimate)

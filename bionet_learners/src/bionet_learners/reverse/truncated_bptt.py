# SPDX-License-Identifier: Apache-2.0
"""Truncated backpropagation through time: credit of a window's own steps."""

import jax
import jax.numpy as jnp

from bionet_core import interfaces, platforms
from bionet_learners import base, windows
from bionet_learners.reverse import bptt


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
  windows.check_window(window)
  whole = bptt.bptt(cell, loss)

  def estimate(params, constants, rule_state, key, trials):
    def of_window(carry, window):
      total, rule_state = carry
      result, rule_state = whole.estimate(
        params, constants, rule_state, key, window
      )
      return (jax.tree.map(jnp.add, total, result), rule_state), None

    first = windows.first_window(trials, window)
    zero, _ = platforms.zeros_of(
      whole.estimate, params, constants, rule_state, key, first
    )
    carry, _ = windows.scan_windows(
      of_window, (zero, rule_state), trials, window
    )
    return carry

  return whole._replace(estimate=estimate, claim=base.Claim(step=True))

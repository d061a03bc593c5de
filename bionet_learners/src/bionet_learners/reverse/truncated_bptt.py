# SPDX-License-Identifier: Apache-2.0
"""Truncated backpropagation through time: credit of a window's own steps."""

from bionet_core import interfaces
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
    def of_window(rule_state, window):
      result, rule_state = whole.estimate(
        params, constants, rule_state, key, window
      )
      return rule_state, result

    first = windows.first_window(trials, window)
    _, zero = windows.zeros_of(of_window, rule_state, first)
    rule_state, result = windows.sum_over_windows(
      of_window, rule_state, trials, window, zero
    )
    return result, rule_state

  return whole._replace(estimate=estimate, claim=base.Claim(step=True))

# SPDX-License-Identifier: Apache-2.0
"""D-RTRL: the credit that flows through each unit's own state."""

from typing import Literal, get_args

from bionet_core import interfaces
from bionet_learners import base
from bionet_learners.traces import opening, rule

Within = Literal['cut', 'exact']


def d_rtrl(
  cell: interfaces.Cell,
  loss: interfaces.StepLoss,
  *,
  window: int = 10,
  within: Within = 'cut',
  execution: rule.Execution = 'forward',
  trace_dtype: str = 'float32',
  silent_mib: float = opening.SILENT_MIB,
) -> base.GradientRule:
  r"""Diagonal real-time recurrent learning.

    D_t   = ds_t/ds_{t-1} at fixed synaptic outputs: elementwise, s x s a unit
    e_t   = D_t e_{t-1} + ds_t/dy_t x_t         y = x W a synapse
    dL/dW ~= sum_t dL_t/ds_t e_t

  The credit that passes from unit to unit through the recurrent weights is
  dropped. Exact where there is none: recurrent weights of zero, or elementwise
  recurrences of one layer. Parameters of the readout, and those whose effect
  does not outlive the step, get their exact instantaneous gradient.

  Parameters that reach the state only through a further synapse have no trace
  per unit: a GRU's reset gate, and a layer as far as another one hears it, at
  the same step or at the next. They get this credit within a window and not
  beyond, and `describe` counts them. Credit that leaves a layer and comes back
  by way of another one is kept likewise. All else does not depend on `window`.

  Forward cost: memory flat in T, the traces `[B, m, n, s]` per synapse and
  their update, one batched product of matrices per window. On a CPU, steps in
  which nobody is asked are not differentiated, whole stretches of them are one
  window, and traces that nobody reads are not made.

  Args:
    cell: any Cell whose units meet in synapses alone.
    loss: the loss of one step.
    window: K, steps between updates of the traces; 1 is fully online.
    within: the derivative inside a window: 'cut' is the rule itself; 'exact'
      is full reverse mode, and traces beyond (with K = T: BPTT).
    execution: 'forward' in windows; 'reverse' in one pass through the cut cell,
      memory O(T) and no traces: as in `bptt`, no credit crosses the borders of
      `descend(every=K)` or of batches; 'auto' forward, in a single window while
      100 steps or fewer are given at once.
    trace_dtype: stores the traces of products, e.g. 'bfloat16'.
    silent_mib: MiB that may be kept of steps in which nobody is asked: as many
      as fit are taken at once, or as a window has if these are more.

  Returns:
    A GradientRule; its metrics are the loss's own. With forward execution
    weights may change at every border, and streams go on.

  Raises:
    TypeError: if `cell` is not a Cell; once traced, if a step changes its
      state's shape or type.
    ValueError: for settings that cannot be; once traced, if units meet outside
      of synapses in the recurrence (LayerNorm, softmax).

  Source: C. Wang et al., Nature Communications 17, 1745 (2026).
  """
  base.require_kind('d_rtrl', cell, interfaces.Cell)
  rule.check_choice('within', within, get_args(Within))
  rule.check_choice('execution', execution, get_args(rule.Execution))
  if within == 'exact' and execution != 'forward':
    raise ValueError(
      f"within='exact' and execution={execution!r}: the window is then a part "
      "of the rule; choose execution 'forward'."
    )
  settings = rule.settings_of(
    window, trace_dtype, silent_mib, exact=within == 'exact'
  )
  cut = within == 'cut'
  claim = base.Claim(step=True, windows=cut and execution != 'reverse', cut=cut)
  return rule.traced_rule(
    cell, settings, rule.exactly(loss), execution=execution, claim=claim
  )

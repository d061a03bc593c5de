# SPDX-License-Identifier: Apache-2.0
"""RFLO: random feedback local online learning."""

from bionet_core import interfaces
from bionet_learners import base
from bionet_learners.traces import feedback_weights, opening, rule


def rflo(
  cell: interfaces.Cell,
  loss: interfaces.StepLoss,
  *,
  tau: float = 10.0,
  feedback: feedback_weights.Feedback = 'random',
  window: int = 10,
  adaptation_rate: float = 1e-2,
  adaptation_decay: float = 1e-3,
  trace_dtype: str = 'float32',
  silent_mib: float = opening.SILENT_MIB,
) -> base.GradientRule:
  r"""Random feedback local online learning: a trace that only leaks.

    p_t    = (1 - 1 / tau) p_{t-1} + ds_t/dy_t x_t       y = x W a synapse
    dL/dW ~= sum_t (B^T dL_t/d outputs_t) p_t

  For the leaky rate cell of the source, s_t = (1 - 1/tau) s_{t-1} + phi(y_t) /
  tau, the drive ds_t/dy_t holds its 1 / tau. There it equals `d_rtrl` if
  feedback is symmetric, and BPTT if the recurrent weights are zero. Readout
  parameters get their exact instantaneous gradient. Cost: that of `d_rtrl`.

  Departs from the source in that any cell may be given: whatever it does with
  its state, the trace leaks by the one tau; and the readout learns by its
  gradient, with no trace of its own.

  Args:
    cell: any Cell whose units meet in synapses alone.
    loss: the loss of one step.
    tau: the leak's time constant, in steps, at least 1 (at 1: no memory).
    feedback: B, as in `e_prop`.
    window: steps between updates of the traces.
    adaptation_rate: of adaptive feedback, an update.
    adaptation_decay: of adaptive feedback, its weight decay an update.
    trace_dtype: stores the traces of products.
    silent_mib: MiB that may be kept of steps in which nobody is asked: as many
      as fit are taken at once, or as a window has if these are more.

  Returns:
    A GradientRule; it shares B.

  Raises:
    TypeError: if `cell` is not a Cell.
    ValueError: for settings that cannot be, and as `d_rtrl` once traced.

  Source: J. M. Murray, eLife 8, e43299 (2019).
  """
  base.require_kind('rflo', cell, interfaces.Cell)
  if not tau >= 1:
    raise ValueError(f'tau={tau}: at least 1 step.')
  settings = rule.settings_of(window, trace_dtype, silent_mib, leak=1 - 1 / tau)
  teaching = feedback_weights.teaching(
    cell, loss, feedback, rate=adaptation_rate, decay=adaptation_decay
  )
  exact = feedback == 'symmetric'
  claim = base.Claim(step=exact, windows=exact)
  return rule.traced_rule(cell, settings, teaching, claim=claim)

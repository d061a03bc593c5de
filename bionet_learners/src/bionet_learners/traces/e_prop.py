# SPDX-License-Identifier: Apache-2.0
"""E-prop: eligibility traces and learning signals."""

from bionet_core import interfaces
from bionet_learners import base
from bionet_learners.traces import feedback_weights, opening, rule


def e_prop(
  cell: interfaces.Cell,
  loss: interfaces.StepLoss,
  *,
  feedback: feedback_weights.Feedback = 'symmetric',
  kappa: float = 0.0,
  window: int = 10,
  adaptation_rate: float = 1e-2,
  adaptation_decay: float = 1e-3,
  trace_dtype: str = 'float32',
  silent_mib: float = opening.SILENT_MIB,
) -> base.GradientRule:
  r"""E-prop: an eligibility trace a synapse times a learning signal a unit.

    e_t    = D_t e_{t-1} + ds_t/dy_t x_t             D, y = x W as in `d_rtrl`
    z_t    = kappa z_{t-1} + d emission_t/ds_t e_t   the filtered trace
    L_t    = B^T dL_t/d outputs_t                    the learning signal
    dL/dW ~= sum_t L_t z_t

  With symmetric feedback and kappa 0 it is `d_rtrl(within='cut')`. A filter
  kappa > 0 is meant for a readout that leaks with the same factor; a cell whose
  own state holds that leak needs none. Readout parameters get their exact
  instantaneous gradient. Within one step, errors pass from layer to layer by
  the exact derivative. Cost: that of `d_rtrl`; a filter adds a trace.

  Departs from the source in that the surrogate derivative is the cell's own,
  and that an adaptive B takes plain steps of `adaptation_rate` against the
  readout's gradient, whatever the optimizer.

  Args:
    cell: any Cell whose units meet in synapses alone.
    loss: the loss of one step.
    feedback: B: 'symmetric' (the readout's derivative), 'random' (drawn once,
      as large as the readout), or 'adaptive' (so drawn, then learning as the
      readout does).
    kappa: the filter's factor a step, exp(-dt / tau of the readout), in [0, 1).
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
    ValueError: for settings that cannot be, as `d_rtrl` once traced, and for a
      filter on an emission that hears the units through a product, or that
      joins the states of several layers.

  Source: G. Bellec et al., Nature Communications 11, 3625 (2020).
  """
  base.require_kind('e_prop', cell, interfaces.Cell)
  if not 0 <= kappa < 1:
    raise ValueError(f'kappa={kappa}: it must be in [0, 1).')
  settings = rule.settings_of(window, trace_dtype, silent_mib)
  teaching = feedback_weights.teaching(
    cell, loss, feedback, rate=adaptation_rate, decay=adaptation_decay
  )
  exact = feedback == 'symmetric'
  claim = base.Claim(step=exact, windows=exact, cut=exact and not kappa)
  return rule.traced_rule(cell, settings, teaching, kappa=kappa, claim=claim)

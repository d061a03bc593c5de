# SPDX-License-Identifier: Apache-2.0
"""The network of one hidden row: input, asymmetric hidden row, output."""

from bionet_core import interfaces
from bionet_core.relaxation import layer_map, layers, orchestrator


def asymmetric(
  spec: interfaces.Sizes,
  *,
  hidden: int = 256,
  threshold_in: float = 3.5,
  threshold_recurrent: float = 0.5,
  threshold_out: float = 3.5,
  strength_in: float = 1.0,
  strength_recurrent: float = 1.0,
  strength_out: float = 1.0,
  strength_feedback: float = 0.3,
  rescaled_labels: bool = False,
  j_d: float = 0.5,
  stop_at_fixed_point: bool = False,
) -> interfaces.RelaxationNetwork:
  """One hidden row of discrete units between the input and the classes.

    h_1 = x W_10 + s_1 J + y W_12 (frozen; only while the label is clamped)
    s_1 <- sign(h_1),   scores = s_1 W_21

  Edges are named to1_from0 (W_10), to1_from1 (J), to1_from2 (W_12) and
  to2_from1 (W_21) in the trees of parameters and constants. The defaults are
  the reference configuration of arXiv 2509.05041.

  Args:
    spec: the task's sizes.
    hidden: number of hidden units.
    threshold_in: margin of the input weights.
    threshold_recurrent: margin of the couplings J.
    threshold_out: margin of the readout.
    strength_in: scale of the initial input weights.
    strength_recurrent: scale of the initial couplings.
    strength_out: scale of the initial readout.
    strength_feedback: scale of the frozen label weights.
    rescaled_labels: send labels rescaled by the number of classes.
    j_d: self-coupling of the hidden units.
    stop_at_fixed_point: end a phase when nothing changes any more.

  Raises:
    ValueError: for a size that is not positive.
  """
  if hidden < 1:
    raise ValueError(f'hidden={hidden}: must be at least 1 unit.')
  feedback = (
    layers.FrozenRescaledFullyConnected
    if rescaled_labels
    else layers.FrozenFullyConnected
  )
  rows = layer_map.LayerMap.from_dict(
    {
      1: {
        0: layers.FullyConnected(hidden, strength_in, threshold_in),
        1: layers.RecurrentDiscrete(
          hidden, j_d, threshold_recurrent, strength_recurrent
        ),
        2: feedback(hidden, strength_feedback),
      },
      2: {
        1: layers.FullyConnected(spec.num_outputs, strength_out, threshold_out),
        2: layers.OutputLayer(spec.num_outputs),
      },
    }
  )
  return orchestrator.SequentialOrchestrator(
    rows, stop_at_fixed_point=stop_at_fixed_point
  ).network()

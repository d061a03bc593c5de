# SPDX-License-Identifier: Apache-2.0
"""SnAp-n: real-time recurrent learning with a sparse influence."""

import jax
from jax import flatten_util

from bionet_core import interfaces, platforms, unroll
from bionet_learners import base, over_time
from bionet_learners.influence import sparse, steps


def snap(
  cell: interfaces.Cell, loss: interfaces.StepLoss, *, order: int = 1
) -> base.GradientRule:
  r"""Sparse n-step approximation of real-time recurrent learning.

    M_t = C o (J_t M_{t-1} + D_t),   J_t = ds_t/ds_{t-1},   D_t = ds_t/dtheta
    dL_t/dtheta ~= dL_t/dtheta|_{e_t} + sum_b dL_t/de_{b,t} E_{b,t}
    E_t = C_e o (de_t/ds_{t-1} M_{t-1} + de_t/dtheta)

  for each trial b, with emission e. C, C_e of 0 and 1 keep the floats of state
  and emission that a parameter reaches within `order` steps: at order 1 those
  it writes itself. What reaches them through other floats is dropped: of a
  unit's way back through synapses, order 1 keeps the weight on itself. Hops are
  counted between floats: the two of an LSTM's unit are one apart.

  Equal to `rtrl` once `order` reaches everything (the longest of the shortest
  ways, plus one; 2 for a dense layer); at order 1 where recurrence is
  elementwise in one variable a unit. Readout parameters have their exact
  gradient. The influence crosses the borders of windows.

  C is read from the program of the step (`structure`), as a constant of the
  rule. Memory, whatever T is: sum over parameters of the floats each reaches,
  times B. For hk.VanillaRNN that is P at order 1, for hk.LSTM less than 2 P,
  but for hk.GRU a reset gate's weight reaches all N units already at order 1,
  through the candidate's weights, so that a third of the weights keeps N
  numbers each: RTRL's order. Time per step: forward passes for J (S for a dense
  layer, 1 for an elementwise one; backward passes, where a `custom_vjp` allows
  only these), a backward pass for each float of a unit (for each of S, where a
  parameter writes all of them, as in hk.GRU), and products k^2 per parameter.

  Args:
    cell: the dynamics.
    loss: the loss of one step.
    order: n, from 1; the steps that influence may travel.

  Returns:
    A GradientRule; its metrics are the loss's own.

  Raises:
    TypeError: if `cell` is not a Cell.
    ValueError: if `order` is less than 1.

  Source: J. Menick et al., ICLR 2021 (arXiv 2006.07232).
  """
  base.require_kind('snap', cell, interfaces.Cell)
  if order < 1:
    raise ValueError(f'order={order}: 1 is the least.')
  plan_for = sparse.planner(cell, order)

  def traces(params, constants, state, keys, trials):
    del constants, keys
    return sparse.no_influence(plan_for(trials), params, state, trials)

  def estimate(params, constants, shared, memory, key, trials):
    plan, keys = plan_for(trials), unroll.trial_keys(key, trials.index)

    def advance(memory, data):
      inputs, targets, mask = data
      noise = unroll.step_keys(keys, memory.steps)
      recurrent, direct, (emission, state) = sparse.differentiate(
        plan, cell, params, constants, memory.state, noise, inputs
      )
      influence = plan.masked(recurrent, direct, memory.traces)

      def credit():
        score, (readout, signal) = jax.value_and_grad(
          lambda p, e: unroll.score_step(
            cell, loss, p, constants, e, targets, mask
          ),
          (0, 1),
          has_aux=True,
        )(params, emission)
        flat, _ = flatten_util.ravel_pytree(readout)
        return score, flat + plan.credit(signal, influence, flat)

      after = plan.of_states(influence, memory.traces)
      memory = over_time.Memory(state, memory.steps + 1, after)
      return memory, platforms.if_asked(mask, credit)

    ((total, metrics), gradient), memory = steps.sum_over_steps(
      advance, memory, trials
    )
    _, unravel = flatten_util.ravel_pytree(params)
    return base.Estimate(unravel(gradient), total, metrics), shared, memory

  claim = base.Claim(step=True, windows=True)
  return over_time.over_time(cell, estimate, traces=traces, claim=claim)

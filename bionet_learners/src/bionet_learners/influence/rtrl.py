# SPDX-License-Identifier: Apache-2.0
"""Real-time recurrent learning: the exact gradient, forward in time."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import flatten_util

from bionet_core import interfaces, unroll
from bionet_learners import base, over_time


class Sensitivities(NamedTuple):
  """Where a cell's trials stand, and what the parameters did to them.

  Attributes:
    state: the cell's state; every leaf leads with B.
    steps: int `[B]`, steps done.
    influence: float `[B, S, P]`, d state / d parameters of each trial, S floats
      of a trial's state and P parameters in the order of `ravel_pytree`.
  """

  state: interfaces.ArrayTree
  steps: jax.Array
  influence: jax.Array


def rtrl(cell: interfaces.Cell, loss: interfaces.StepLoss) -> base.GradientRule:
  r"""Real-time recurrent learning: exact forward sensitivities.

    M_t = J_t M_{t-1} + D_t,   J_t = ds_t/ds_{t-1},  D_t = ds_t/dtheta
    dL_t/dtheta = dL_t/dtheta|_{s_{t-1}} + sum_b dL_t/ds_{b,t-1} M_{b,t-1}

  from M_0 = 0 on, each trial b with its own J, D and M. The loss is of all
  trials at once, so that a population loss is descended, too. Exact for any
  Cell, over any number of steps: the influence M crosses the borders of
  windows, and the estimates of windows sum to that of the whole while the
  weights stay. Where they change at a border, M is that of the weights each
  step had.

  Memory O(B S P) whatever T is; time O(B S) backward passes of one step and
  O(B S^2 P) products a step: for few units or few parameters. Steps that
  nobody is asked about cost no gradient of the loss.

  Args:
    cell: the dynamics.
    loss: the loss of one step.

  Returns:
    A GradientRule; its metrics are the loss's own.

  Raises:
    TypeError: if `cell` is not a Cell.

  Source: R. J. Williams and D. Zipser, Neural Computation 1, 270 (1989).
  """
  base.require_kind('rtrl', cell, interfaces.Cell)

  def begin(params, constants, rule_state, key, trials):
    state = unroll.initial_state(cell, constants, key, trials.index)
    rows, flat = over_time.rows(state), flatten_util.ravel_pytree(params)[0]
    influence = jnp.zeros((*rows.shape, flat.size), jnp.result_type(rows, flat))
    steps = jnp.zeros(trials.index.shape, jnp.int32)
    return base.RuleState(
      rule_state.shared, Sensitivities(state, steps, influence)
    )

  def init(key, params, constants, trials):
    nothing = base.RuleState(shared=(), per_trial=())
    return begin(params, constants, nothing, key, trials)

  def estimate(params, constants, rule_state, key, trials):
    flat, unravel = flatten_util.ravel_pytree(params)
    keys = unroll.trial_keys(key, trials.index)

    def transition(flat, row, state, key, inputs):
      """One trial: its state after a step as a row, and as it is."""
      before = over_time.with_rows(
        jax.tree.map(lambda x: x[None], state), row[None]
      )
      _, after = cell.step(
        unravel(flat), constants, before, key[None], inputs[None]
      )
      return over_time.rows(after)[0], jax.tree.map(lambda x: x[0], after)

    def advance(at, now):
      inputs, targets, mask = now
      rows, noise = over_time.rows(at.state), unroll.step_keys(keys, at.steps)

      def scored(flat, rows):
        state = over_time.with_rows(at.state, rows)
        emission, after = cell.step(
          unravel(flat), constants, state, noise, inputs
        )
        return unroll.score_step(
          cell, loss, unravel(flat), constants, emission, targets, mask, after
        )

      def asked():
        score, (direct, through) = jax.value_and_grad(
          scored, (0, 1), has_aux=True
        )(flat, rows)
        before = jnp.einsum('bs,bsp->p', through, at.influence)
        return score, direct + before.astype(flat.dtype)

      said = over_time.if_asked(mask, asked)
      (direct, recurrent), state = jax.vmap(
        jax.jacrev(transition, (0, 1), has_aux=True), (None, 0, 0, 0, 0)
      )(flat, rows, at.state, noise, inputs)
      influence = direct + jnp.einsum('bst,btp->bsp', recurrent, at.influence)
      after = Sensitivities(
        state, at.steps + 1, influence.astype(at.influence.dtype)
      )
      return after, said

    ((total, metrics), gradient), after = over_time.sum_over_steps(
      advance, rule_state.per_trial, trials
    )
    return (
      base.Estimate(unravel(gradient), total, metrics),
      base.RuleState(rule_state.shared, after),
    )

  return base.GradientRule(unroll.model_from_cell(cell), init, begin, estimate)

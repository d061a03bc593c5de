# SPDX-License-Identifier: Apache-2.0
"""Real-time recurrent learning: the exact gradient, forward in time."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import flatten_util

from bionet_core import interfaces, unroll
from bionet_learners import base


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
    rows, flat = _rows(state), flatten_util.ravel_pytree(params)[0]
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
      state = jax.tree.map(lambda x: x[None], _with_row(state, row))
      _, state = cell.step(
        unravel(flat), constants, state, key[None], inputs[None]
      )
      state = jax.tree.map(lambda x: x[0], state)
      return _row(state), state

    def advance(carry, now):
      at, total, said = carry
      inputs, targets, mask = now
      rows, noise = _rows(at.state), unroll.step_keys(keys, at.steps)

      def scored(flat, rows):
        state = jax.vmap(_with_row)(at.state, rows)
        emission, _ = cell.step(unravel(flat), constants, state, noise, inputs)
        return unroll.score_step(
          cell, loss, unravel(flat), constants, emission, targets, mask
        )

      def asked():
        score, (direct, through) = jax.value_and_grad(
          scored, (0, 1), has_aux=True
        )(flat, rows)
        before = jnp.einsum('bs,bsp->p', through, at.influence)
        return score, direct + before.astype(flat.dtype)

      score, gradient = jax.lax.cond(
        jnp.any(mask != 0), asked, lambda: _zeros(asked)
      )
      (direct, recurrent), state = jax.vmap(
        jax.jacrev(transition, (0, 1), has_aux=True), (None, 0, 0, 0, 0)
      )(flat, rows, at.state, noise, inputs)
      influence = direct + jnp.einsum('bst,btp->bsp', recurrent, at.influence)
      after = Sensitivities(
        state, at.steps + 1, influence.astype(at.influence.dtype)
      )
      said = jax.tree.map(jnp.add, said, score)
      return (after, total + gradient, said), None

    shapes = jax.eval_shape(
      lambda: unroll.unroll(
        cell,
        loss,
        params,
        constants,
        rule_state.per_trial.state,
        keys,
        rule_state.per_trial.steps,
        trials,
      )
    )
    start = _zeros(lambda: (shapes[0], shapes[1][0]))
    (after, gradient, (total, metrics)), _ = jax.lax.scan(
      advance,
      (rule_state.per_trial, jnp.zeros_like(flat), start),
      (trials.inputs, trials.targets, trials.mask),
    )
    return (
      base.Estimate(unravel(gradient), total, metrics),
      base.RuleState(rule_state.shared, after),
    )

  return base.GradientRule(unroll.model_from_cell(cell), init, begin, estimate)


def _zeros(function):
  """Zeros of the shapes that a function of nothing returns."""
  shapes = jax.eval_shape(function)
  return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def _floats(state):
  """The float leaves of a state: integers and keys carry no derivative."""
  leaves = jax.tree.leaves(state)
  return [x for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]


def _row(state: interfaces.ArrayTree) -> jax.Array:
  """The floats of one trial's state, `[S]`."""
  return flatten_util.ravel_pytree(_floats(state))[0]


def _rows(state: interfaces.ArrayTree) -> jax.Array:
  """The floats of a state of B trials, `[B, S]`."""
  return jax.vmap(_row)(state)


def _with_row(
  state: interfaces.ArrayTree, row: jax.Array
) -> interfaces.ArrayTree:
  """One trial's state with these floats in place of its own."""
  floats = iter(flatten_util.ravel_pytree(_floats(state))[1](row))
  return jax.tree.map(
    lambda x: next(floats) if jnp.issubdtype(x.dtype, jnp.floating) else x,
    state,
  )

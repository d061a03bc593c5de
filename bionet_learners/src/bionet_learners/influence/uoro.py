# SPDX-License-Identifier: Apache-2.0
"""Unbiased online recurrent optimization: the influence as an outer product."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import flatten_util

from bionet_core import interfaces, unroll
from bionet_learners import base, over_time

_NOISE = np.uint32(2**32 - 3)  # no trial of a run has this number


class RankOne(NamedTuple):
  """Where a cell's trials stand, and a guess of each trial's influence.

  The influence d state / d parameters of a trial is guessed as the outer
  product of the two factors.

  Attributes:
    state: the cell's state; every leaf leads with B.
    steps: int `[B]`, steps done.
    state_factor: float `[B, S]`, S floats of a trial's state.
    param_factor: float `[B, P]`, P parameters in the order of `ravel_pytree`.
  """

  state: interfaces.ArrayTree
  steps: jax.Array
  state_factor: jax.Array
  param_factor: jax.Array


def uoro(cell: interfaces.Cell, loss: interfaces.StepLoss) -> base.GradientRule:
  r"""Unbiased online recurrent optimization.

    s~ <- rho0 J s~ + rho1 nu,   th~ <- th~ / rho0 + nu D / rho1
    dL_t/dtheta ~= dL_t/dtheta|_{s_{t-1}} + sum_b (dL_t/ds_{b,t-1} . s~_b) th~_b
    J = ds_t/ds_{t-1},   D = ds_t/dtheta,   nu of independent signs +1, -1
    rho0^2 = |th~| / |J s~|,   rho1^2 = |nu D| / |nu|

  for each trial b with signs of its own: s~ th~ has the mean J s~ th~ + D, so
  that the estimate is that of `rtrl` on average over the signs, at any weights.
  rho balances the factors' norms, which keeps the variance least; where a norm
  is 0, its product is, too, and both its terms are left out. The readout's
  gradient has no noise. Exact, not only on average, where the influence is of
  one term: one float of state, written by the parameters at one step.

  The signs of trial b at step t are a function of its number and t (and of the
  run's key), whatever the window or the batch. Memory O(B (S + P)) whatever T
  is; time one forward, one tangent and two backward passes a step. The variance
  is what limits it: it grows with the steps that the credit must cross and with
  S, and falls with B.

  Args:
    cell: the dynamics.
    loss: the loss of one step.

  Returns:
    A GradientRule; its metrics are the loss's own.

  Raises:
    TypeError: if `cell` is not a Cell.

  Source: C. Tallec and Y. Ollivier, ICLR 2018 (arXiv 1702.05043).
  """
  base.require_kind('uoro', cell, interfaces.Cell)

  def begin(params, constants, rule_state, key, trials):
    state = unroll.initial_state(cell, constants, key, trials.index)
    row, flat = over_time.rows(state), flatten_util.ravel_pytree(params)[0]
    return base.RuleState(
      rule_state.shared,
      RankOne(
        state=state,
        steps=jnp.zeros(trials.index.shape, jnp.int32),
        state_factor=jnp.zeros_like(row),
        param_factor=jnp.zeros((row.shape[0], flat.size), flat.dtype),
      ),
    )

  def init(key, params, constants, trials):
    nothing = base.RuleState(shared=(), per_trial=())
    return begin(params, constants, nothing, key, trials)

  def estimate(params, constants, rule_state, key, trials):
    flat, unravel = flatten_util.ravel_pytree(params)
    keys = unroll.trial_keys(key, trials.index)
    sign_keys = unroll.trial_keys(jax.random.fold_in(key, _NOISE), trials.index)

    def step(flat, row, state, keys, inputs):
      state = over_time.with_rows(state, row)
      return cell.step(unravel(flat), constants, state, keys, inputs)

    def advance(at, now):
      inputs, targets, mask = now
      noise = unroll.step_keys(keys, at.steps)
      row = over_time.rows(at.state)

      def scored(flat, row):
        emission, after = step(flat, row, at.state, noise, inputs)
        return unroll.score_step(
          cell, loss, unravel(flat), constants, emission, targets, mask, after
        )

      def credit():
        score, (direct, through) = jax.value_and_grad(
          scored, (0, 1), has_aux=True
        )(flat, row)
        weights = jnp.sum(through * at.state_factor, axis=1)
        return score, direct + weights @ at.param_factor

      def written_by(row, state, key, inputs, signs):
        """One trial's signs times its D, float `[P]`."""
        one = jax.tree.map(lambda x: x[None], (row, state, key, inputs))
        _, pull = jax.vjp(
          lambda flat: over_time.rows(step(flat, *one)[1]), flat
        )
        return pull(signs[None])[0]

      def moved(row):
        _, state = step(flat, row, at.state, noise, inputs)
        return over_time.rows(state), state

      score, gradient = over_time.if_asked(mask, credit)
      _, pushed, state = jax.jvp(
        moved, (row,), (at.state_factor,), has_aux=True
      )
      signs = _signs(unroll.step_keys(sign_keys, at.steps), row)
      written = jax.vmap(written_by)(row, at.state, noise, inputs, signs)
      rho0, inverse0 = _balance(at.param_factor, pushed)
      rho1, inverse1 = _balance(written, signs)
      after = RankOne(
        state=state,
        steps=at.steps + 1,
        state_factor=rho0 * pushed + rho1 * signs,
        param_factor=inverse0 * at.param_factor + inverse1 * written,
      )
      return after, (score, gradient)

    ((total, metrics), gradient), after = over_time.sum_over_steps(
      advance, rule_state.per_trial, trials
    )
    return (
      base.Estimate(unravel(gradient), total, metrics),
      base.RuleState(rule_state.shared, after),
    )

  return base.GradientRule(unroll.model_from_cell(cell), init, begin, estimate)


def _signs(keys: jax.Array, row: jax.Array) -> jax.Array:
  """Independent signs +1, -1 like the rows `[B, S]`."""
  return jax.vmap(
    lambda key: jax.random.rademacher(key, row.shape[1:], row.dtype)
  )(keys)


def _balance(
  numerator: jax.Array, denominator: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The rho `[B, 1]` and 1 / rho: rho^2 is the ratio of the norms of rows.

  Both are 0 where a norm is: the product of the rows is 0 then.
  """
  above = jnp.linalg.norm(numerator, axis=1, keepdims=True)
  below = jnp.linalg.norm(denominator, axis=1, keepdims=True)
  some = (above > 0) & (below > 0)
  above, below = jnp.where(some, above, 1), jnp.where(some, below, 1)
  rho = jnp.sqrt(above / below)
  return jnp.where(some, rho, 0), jnp.where(some, 1 / rho, 0)

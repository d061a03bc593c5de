# SPDX-License-Identifier: Apache-2.0
"""Unbiased online recurrent optimization: the influence as an outer product."""

import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import interfaces, unroll
from bionet_learners import base
from bionet_learners.influence import steps

_NOISE = np.uint32(2**32 - 3)  # no trial of a run has this number


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

  def factors(flat, row):
    dtype = jnp.result_type(row, flat)
    return jnp.zeros_like(row), jnp.zeros((row.shape[0], flat.size), dtype)

  def advance(step, memory, key, trials):
    of_state, of_params = memory.traces
    credit = step.credit(
      lambda past: jnp.sum(past * of_state, axis=1) @ of_params
    )
    keys = unroll.trial_keys(jax.random.fold_in(key, _NOISE), trials.index)
    signs = _signs(unroll.step_keys(keys, memory.steps), step.row)
    pushed, written = step.push(of_state), step.pull(signs)
    rho0, inverse0 = _balance(of_params, pushed)
    rho1, inverse1 = _balance(written, signs)
    moved = rho0 * pushed + rho1 * signs
    return (moved, inverse0 * of_params + inverse1 * written), credit

  return steps.step_by_step(cell, loss, factors, advance, on_average=True)


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
  positive = (above > 0) & (below > 0)
  above, below = jnp.where(positive, above, 1), jnp.where(positive, below, 1)
  rho = jnp.sqrt(above / below)
  return jnp.where(positive, rho, 0), jnp.where(positive, 1 / rho, 0)

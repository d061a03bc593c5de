# SPDX-License-Identifier: Apache-2.0
"""What the rules share that run forward in time, in memory flat in T."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bionet_core import interfaces


def rows(state: interfaces.ArrayTree) -> jax.Array:
  """The floats of a state of B trials as `[B, S]`, in the order of its leaves.

  Counters and keys in a state carry no derivative and are left out.
  """
  leaves = [x for x in jax.tree.leaves(state) if _is_float(x)]
  if not leaves:
    batch = jax.tree.leaves(state)[0].shape[0]
    return jnp.zeros((batch, 0))
  return jnp.concatenate([x.reshape(x.shape[0], -1) for x in leaves], axis=1)


def with_rows(
  state: interfaces.ArrayTree, values: jax.Array
) -> interfaces.ArrayTree:
  """The state with the floats `values` `[B, S]` in place of its own."""
  leaves, tree = jax.tree.flatten(state)
  start = 0
  for i, x in enumerate(leaves):
    if _is_float(x):
      size = x.size // x.shape[0]
      part = values[:, start : start + size]
      leaves[i] = part.reshape(x.shape).astype(x.dtype)
      start += size
  return tree.unflatten(leaves)


def _is_float(x: jax.Array) -> bool:
  return jnp.issubdtype(x.dtype, jnp.floating)


def if_asked(
  mask: jax.Array, credit: Callable[[], interfaces.ArrayTree]
) -> interfaces.ArrayTree:
  """`credit()` where a trial is asked, `mask` `[B]`; else zeros, at no cost."""
  shapes = jax.eval_shape(credit)
  return jax.lax.cond(
    jnp.any(mask != 0),
    credit,
    lambda: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes),
  )


def sum_over_steps(
  advance: Callable,
  carried: interfaces.ArrayTree,
  trials: interfaces.Trials,
) -> tuple[interfaces.ArrayTree, interfaces.ArrayTree]:
  """Goes through the steps of trials, and sums what is said at each.

  Args:
    advance: `(carried, (inputs [B, *I], targets [B, ...], mask [B]))
      -> (carried, said)`.
    carried: before the first step.
    trials: the steps.

  Returns:
    `(said, carried)`: the sum over steps, and what the last step leaves.
  """
  steps = (trials.inputs, trials.targets, trials.mask)
  first = jax.tree.map(lambda x: x[0], steps)
  said = jax.eval_shape(advance, carried, first)[1]
  total = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), said)

  def body(carry, now):
    carried, total = carry
    carried, said = advance(carried, now)
    return (carried, jax.tree.map(jnp.add, total, said)), None

  (carried, total), _ = jax.lax.scan(body, (carried, total), steps)
  return total, carried

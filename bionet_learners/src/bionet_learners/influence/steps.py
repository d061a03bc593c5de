# SPDX-License-Identifier: Apache-2.0
"""One step of a cell, linearised: what the rules of influence are made of."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import flatten_util

from bionet_core import interfaces, platforms, unroll
from bionet_learners import base, over_time

# Floats of a state as rows ----------------------------------------------------


def rows(state: interfaces.ArrayTree, batch: int) -> jax.Array:
  """The floats of a state of B trials as `[B, S]`, in the order of its leaves.

  Counters and keys in a state carry no derivative and are left out. The rows
  are float32 at least, whatever precision the state is in.

  Raises:
    TypeError: if a leaf is complex: influences are real.
  """
  over_time.check_real(state)
  leaves = [x for x in jax.tree.leaves(state) if _is_float(x)]
  if not leaves:
    return jnp.zeros((batch, 0))
  dtype = jnp.result_type(jnp.float32, *(x.dtype for x in leaves))
  return jnp.concatenate(
    [x.reshape(batch, -1).astype(dtype) for x in leaves], axis=1
  )


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


# Step by step -----------------------------------------------------------------


class Step:
  """A step of a cell at flat parameters and rows of state, linearised.

  J = d rows after / d rows before, D = d rows after / d parameters, of B trials
  with S floats of state and P parameters in the order of `ravel_pytree`.

  Attributes:
    flat: the parameters, `[P]`.
    row: the state before, `[B, S]`.
  """

  def __init__(self, cell, loss, params, constants, memory, keys, data):
    """A step.

    Args:
      cell: the dynamics.
      loss: the loss of one step.
      params: the parameters.
      constants: the constants.
      memory: where the trials stand.
      keys: `[B]`, the trials' keys.
      data: inputs `[B, *I]`, targets `[B, ...]` and mask `[B]` of the step.
    """
    self.flat, self._unravel = flatten_util.ravel_pytree(params)
    self._cell, self._loss, self._constants = cell, loss, constants
    self._inputs, self._targets, self.mask = data
    self._state = memory.state
    self._keys = unroll.step_keys(keys, memory.steps)
    self.row = rows(memory.state, self.mask.shape[0])

  def run(self, flat: jax.Array, row: jax.Array) -> tuple[jax.Array, Any]:
    """The rows after the step, and `(emission, state)`."""
    return self._run(flat, row, self._state, self._keys, self._inputs)

  def _run(self, flat, row, state, keys, inputs):
    emission, after = self._cell.step(
      self._unravel(flat), self._constants, with_rows(state, row), keys, inputs
    )
    return rows(after, row.shape[0]), (emission, after)

  def credit(
    self, of_past: Callable[[jax.Array], jax.Array]
  ) -> tuple[tuple[jax.Array, dict[str, jax.Array]], jax.Array]:
    """The loss of the step and its gradient, at no cost where none is asked.

      dL/dtheta = dL/dtheta|_{s_{t-1}} + of_past(dL/ds_{t-1})

    Args:
      of_past: from the gradient on the rows before, `[B, S]`, to `[P]`.

    Returns:
      `((loss, metrics), gradient [P])`; zeros where the mask is.
    """

    def scored(flat, row):
      _, (emission, after) = self.run(flat, row)
      return unroll.score_step(
        self._cell,
        self._loss,
        self._unravel(flat),
        self._constants,
        emission,
        self._targets,
        self.mask,
        after,
      )

    def pulled():
      score, (direct, past) = jax.value_and_grad(scored, (0, 1), has_aux=True)(
        self.flat, self.row
      )
      return score, direct + of_past(past).astype(direct.dtype)

    return platforms.if_asked(self.mask, pulled)

  def _per_trial(self, function, *more):
    """Maps a function of one trial's `(row, state, keys, inputs, *more)`."""

    def alone(*args):
      return function(*jax.tree.map(lambda x: x[None], args))

    return jax.vmap(alone)(
      self.row, self._state, self._keys, self._inputs, *more
    )

  def jacobians(self) -> tuple[jax.Array, jax.Array]:
    """D `[B, S, P]` and J `[B, S, S]`, by S backward passes per trial."""

    def of_trial(row, state, keys, inputs):
      return jax.jacrev(
        lambda p, r: self._run(p, r[None], state, keys, inputs)[0][0], (0, 1)
      )(self.flat, row[0])

    return self._per_trial(of_trial)

  def push(self, tangents: jax.Array) -> jax.Array:
    """J times tangents of the rows, `[B, S]`.

    By transposing the backward pass: a step with a `custom_vjp`, as surrogate
    derivatives of spikes often are, has no other forward derivative.
    """
    _, pull, _ = jax.vjp(
      lambda row: self.run(self.flat, row), self.row, has_aux=True
    )
    (pushed,) = jax.linear_transpose(lambda y: pull(y)[0], self.row)(tangents)
    return pushed

  def pull(self, cotangents: jax.Array) -> jax.Array:
    """Each trial's cotangents of the rows `[B, S]` times its D: `[B, P]`."""

    def of_trial(row, state, keys, inputs, along):
      _, back, _ = jax.vjp(
        lambda p: self._run(p, row, state, keys, inputs),
        self.flat,
        has_aux=True,
      )
      return back(along)[0]

    return self._per_trial(of_trial, cotangents)


def step_by_step(
  cell: interfaces.Cell,
  loss: interfaces.StepLoss,
  traces: Callable[[jax.Array, jax.Array], interfaces.ArrayTree],
  advance: Callable[..., tuple[interfaces.ArrayTree, Any]],
  *,
  on_average: bool = False,
) -> base.GradientRule:
  """The rule that advances its traces at every step.

  Args:
    cell: the dynamics.
    loss: the loss of one step.
    traces: `(flat [P], row [B, S]) -> tree`, of trials that have no past.
    advance: `(Step, memory, key, trials) -> (traces, ((loss, metrics), gradient
      [P]))`.
    on_average: whether what it advances is the influence only on average.
  """

  def begin(params, constants, state, keys, trials):
    del constants, keys
    flat, _ = flatten_util.ravel_pytree(params)
    return traces(flat, rows(state, trials.index.shape[0]))

  def estimate(params, constants, shared, memory, key, trials):
    keys = unroll.trial_keys(key, trials.index)

    def body(memory, data):
      step = Step(cell, loss, params, constants, memory, keys, data)
      new, credit = advance(step, memory, key, trials)
      _, (_, state) = step.run(step.flat, step.row)
      new = jax.tree.map(lambda x, old: x.astype(old.dtype), new, memory.traces)
      return over_time.Memory(state, memory.steps + 1, new), credit

    (((total, metrics), gradient), memory) = sum_over_steps(
      body, memory, trials
    )
    _, unravel = flatten_util.ravel_pytree(params)
    return base.Estimate(unravel(gradient), total, metrics), shared, memory

  return over_time.over_time(
    cell,
    estimate,
    traces=begin,
    claim=base.Claim(
      step=True, whole=True, windows=True, on_average=on_average
    ),
  )


def sum_over_steps(
  advance: Callable[..., tuple[Any, Any]],
  carried: interfaces.ArrayTree,
  trials: interfaces.Trials,
) -> tuple[interfaces.ArrayTree, interfaces.ArrayTree]:
  """Goes through the steps of trials, and sums the results of each.

  Args:
    advance: `(carried, (inputs [B, *I], targets [B, ...], mask [B]))
      -> (carried, result)`.
    carried: before the first step.
    trials: the steps.

  Returns:
    The sum of the results over steps, and what the last step leaves.
  """
  steps = (trials.inputs, trials.targets, trials.mask)
  first = jax.tree.map(lambda x: x[0], steps)
  _, total = platforms.zeros_of(advance, carried, first)

  def body(carry, data):
    carried, total = carry
    carried, result = advance(carried, data)
    return (carried, jax.tree.map(jnp.add, total, result)), None

  (carried, total), _ = platforms.scan(body, (carried, total), steps)
  return total, carried

# SPDX-License-Identifier: Apache-2.0
"""A sparse influence: which entries are kept, and how they move in a step."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import flatten_util

from bionet_core import interfaces
from bionet_learners.influence import steps, structure


class Plan(NamedTuple):
  """What the structure of a cell decides, once.

  Attributes:
    structured: the structure.
    groups: the parameters, by the rows that they reach.
    by_param: int `[R]`, the colours of the rows of D.
    by_state: int, the colours of the columns `[S]` of J, or of its rows `[R]`
      where only reverse mode differentiates the step.
  """

  structured: structure.Structure
  groups: list[structure.Group]
  by_param: np.ndarray
  by_state: np.ndarray

  def masked(
    self, recurrent: jax.Array, direct: jax.Array, influence: list[jax.Array]
  ) -> list[jax.Array]:
    """C o (J M + D), per group `[B, U, r, m]`.

    Args:
      recurrent: J `[B, R, S]`.
      direct: the backward passes that hold D, `[B, colours, P]`.
      influence: M before the step, per group `[B, U, k, m]`.
    """
    return [
      _moved(group, recurrent, before)
      + _written(group, self.structured.direct, self.by_param, direct)
      for group, before in zip(self.groups, influence, strict=True)
    ]

  def of_states(
    self, influence: list[jax.Array], like: list[jax.Array]
  ) -> list[jax.Array]:
    """The rows of an influence that are floats of the state."""
    return [
      values[:, :, : group.num_states].astype(before.dtype)
      for group, values, before in zip(
        self.groups, influence, like, strict=True
      )
    ]

  def credit(
    self, signal: jax.Array, influence: list[jax.Array], flat: jax.Array
  ) -> jax.Array:
    """`sum_b signal_b E_b`, float `[P]` like the flat parameters."""
    num_rows = self.structured.recurrent.shape[0]
    by_row = jnp.zeros((len(signal), num_rows), signal.dtype)
    by_row = by_row.at[:, self.structured.emitted].add(
      signal.reshape(len(signal), -1)
    )
    total = jnp.zeros_like(flat)
    for group, values in zip(self.groups, influence, strict=True):
      part = jnp.einsum('bur,burm->um', by_row[:, group.rows], values)
      total = total.at[group.params].add(part.astype(total.dtype))
    return total


def planner(
  cell: interfaces.Cell, order: int
) -> Callable[[interfaces.Trials], Plan]:
  """From trials to the Plan of a cell, made once per shape of the inputs."""

  @functools.cache
  def plan(input_shape, dtype):
    structured = structure.structure(cell, input_shape, dtype)
    recurrent = structured.recurrent
    return Plan(
      structured,
      structure.groups(structure.within(structured, order), recurrent.shape[1]),
      by_param=structure.colours(structured.direct.kinds),
      by_state=structure.colours(
        recurrent if structured.forward else recurrent.T
      ),
    )

  return lambda trials: plan(trials.inputs.shape[2:], trials.inputs.dtype)


def no_influence(
  plan: Plan,
  params: interfaces.ArrayTree,
  state: interfaces.ArrayTree,
  trials: interfaces.Trials,
) -> list[jax.Array]:
  """The influence of trials that have no past: zeros, per group."""
  batch = trials.index.shape[0]
  flat, _ = flatten_util.ravel_pytree(params)
  dtype = jnp.result_type(steps.rows(state, batch), flat)
  shapes = [
    (batch, len(group.params), group.num_states, group.params.shape[1])
    for group in plan.groups
  ]
  return [jnp.zeros(shape, dtype) for shape in shapes]


def differentiate(
  plan: Plan,
  cell: interfaces.Cell,
  params: interfaces.ArrayTree,
  constants: interfaces.ArrayTree,
  state: interfaces.ArrayTree,
  keys: jax.Array,
  inputs: jax.Array,
) -> tuple[jax.Array, jax.Array, tuple[jax.Array, interfaces.ArrayTree]]:
  """A step with its Jacobians, a pass per colour.

  Returns:
    J `[B, R, S]`; the passes that hold D, `[B, colours, P]`; and the emission
    and the state after the step.
  """
  flat, unravel = flatten_util.ravel_pytree(params)
  num_rows, num_states = plan.structured.recurrent.shape

  def transition(flat, row, state, key, inputs):
    """One trial: its rows after a step `[R]`, and what they are of."""
    trial = jax.tree.map(lambda x: x[None], (state, key, inputs))
    before = steps.with_rows(trial[0], row[None])
    emission, state = cell.step(unravel(flat), constants, before, *trial[1:])
    after = steps.rows(state, 1)[0]
    if num_rows != num_states:  # the emission is not among the state's floats
      after = jnp.concatenate([after, emission[0].ravel()])
    return after, jax.tree.map(lambda x: x[0], (emission, state))

  def of_trial(row, state, key, inputs):
    here = functools.partial(transition, state=state, key=key, inputs=inputs)
    values, pull, after = jax.vjp(here, flat, row, has_aux=True)
    direct, _ = jax.vmap(pull)(_tints(plan.by_param, values.dtype))
    recurrent = _jacobian(plan, lambda row: here(flat, row)[0], row, pull)
    return recurrent, direct, after

  return jax.vmap(of_trial)(steps.rows(state, len(inputs)), state, keys, inputs)


def _jacobian(plan, step, row, pull) -> jax.Array:
  """J of one trial, `[R, S]`: forward where the step allows it."""
  sparsity, colours = plan.structured.recurrent, plan.by_state
  if not row.size:
    return jnp.zeros(sparsity.shape, row.dtype)
  if plan.structured.forward:

    def push(tangent):
      return jax.jvp(step, (row,), (tangent,))[1]

    tints = _tints(colours, row.dtype)
    recurrent = jax.vmap(push, out_axes=1)(tints)[:, colours]
  else:
    _, pulled = jax.vmap(pull)(_tints(colours, row.dtype))
    recurrent = pulled[colours]
  if len(set(colours)) < len(colours):
    # The rest of a colour's pass belongs to its other rows or columns.
    recurrent = jnp.where(sparsity, recurrent, 0)
  return recurrent


def _tints(colours: np.ndarray, dtype: jnp.dtype) -> jax.Array:
  """A cotangent per colour, `[colours, R]`: 1 on all rows of the colour."""
  return jnp.eye(colours.max() + 1, dtype=dtype)[:, colours]


def _moved(
  group: structure.Group, recurrent: jax.Array, influence: jax.Array
) -> jax.Array:
  """J times the influence where it is kept, `[B, U, r, m]`."""
  states = group.rows[:, : group.num_states]
  block = recurrent[:, group.rows[:, :, None], states[:, None]]
  return jnp.einsum('burs,busm->burm', block, influence)


def _written(
  group: structure.Group,
  direct: structure.Table,
  colours: np.ndarray,
  pulled: jax.Array,
) -> jax.Array:
  """D where the influence is kept, `[B, U, r, m]`."""
  rows, params = group.rows[:, :, None], group.params[:, None]
  entries = pulled[:, colours[rows], params]
  if all(
    direct.kinds[np.unique(direct.kind[params])][:, rows].all()
    for params, rows in zip(group.params, group.rows, strict=True)
  ):
    return entries
  written = direct.kinds[direct.kind[params], rows]
  return jnp.where(written[None], entries, 0)

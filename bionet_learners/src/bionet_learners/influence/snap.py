# SPDX-License-Identifier: Apache-2.0
"""SnAp-n: real-time recurrent learning with a sparse influence."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import flatten_util

from bionet_core import interfaces, unroll
from bionet_learners import base, over_time
from bionet_learners.influence import structure


class SparseInfluence(NamedTuple):
  """Where a cell's trials stand, and what each parameter did nearby.

  Attributes:
    state: the cell's state; every leaf leads with B.
    steps: int `[B]`, steps done.
    influence: a float `[B, U, k, m]` for each group of U sets of m parameters
      that reach k floats of the state (`structure.Group`).
  """

  state: interfaces.ArrayTree
  steps: jax.Array
  influence: list[jax.Array]


class _Plan(NamedTuple):
  """What the structure of the cell decides, once.

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
    raise ValueError(f'learner.order is {order}; 1 is the least.')

  @functools.cache
  def plan(input_shape, dtype):
    structured = structure.structure(cell, input_shape, dtype)
    num_states = structured.recurrent.shape[1]
    recurrent = structured.recurrent
    return _Plan(
      structured,
      structure.groups(structure.within(structured, order), num_states),
      by_param=structure.colours(structured.direct.kinds),
      by_state=structure.colours(
        recurrent if structured.forward else recurrent.T
      ),
    )

  def plan_for(trials):
    return plan(trials.inputs.shape[2:], trials.inputs.dtype)

  def begin(params, constants, rule_state, key, trials):
    state = unroll.initial_state(cell, constants, key, trials.index)
    steps = jnp.zeros(trials.index.shape, jnp.int32)
    row = _rows(state, len(trials.index))
    flat = flatten_util.ravel_pytree(params)[0]
    dtype, influence = jnp.result_type(row, flat), []
    for group in plan_for(trials).groups:
      num_sets, size = group.params.shape
      shape = (row.shape[0], num_sets, group.num_states, size)
      influence.append(jnp.zeros(shape, dtype))
    return base.RuleState(
      rule_state.shared, SparseInfluence(state, steps, influence)
    )

  def init(key, params, constants, trials):
    nothing = base.RuleState(shared=(), per_trial=())
    return begin(params, constants, nothing, key, trials)

  def estimate(params, constants, rule_state, key, trials):
    flat, unravel = flatten_util.ravel_pytree(params)
    keys = unroll.trial_keys(key, trials.index)
    structured, groups, by_param, by_state = plan_for(trials)
    num_rows, num_states = structured.recurrent.shape
    emits_state = num_rows == num_states

    def transition(flat, row, state, key, inputs):
      """One trial: its rows after a step `[R]`, and what they are of."""
      one = jax.tree.map(lambda x: x[None], (state, key, inputs))
      before = over_time.with_rows(one[0], row[None])
      emission, state = cell.step(unravel(flat), constants, before, *one[1:])
      after = _rows(state, 1)[0]
      if not emits_state:
        after = jnp.concatenate([after, emission[0].ravel()])
      return after, jax.tree.map(lambda x: x[0], (emission, state))

    def differentiate(row, state, key, inputs):
      """One trial: J `[R, S]`, the backward passes `[colours, P]`."""
      here = functools.partial(transition, state=state, key=key, inputs=inputs)
      values, pull, after = jax.vjp(here, flat, row, has_aux=True)
      direct, _ = jax.vmap(pull)(_tints(by_param, values.dtype))

      def push(tangent):
        return jax.jvp(lambda row: here(flat, row)[0], (row,), (tangent,))[1]

      if not num_states:
        recurrent = jnp.zeros((num_rows, 0), row.dtype)
      elif structured.forward:
        tints = _tints(by_state, row.dtype)
        recurrent = jax.vmap(push, out_axes=1)(tints)[:, by_state]
      else:
        _, pulled = jax.vmap(pull)(_tints(by_state, values.dtype))
        recurrent = pulled[by_state]
      if len(set(by_state)) < len(by_state):
        # The rest of a colour's pass belongs to its other rows or columns.
        recurrent = jnp.where(structured.recurrent, recurrent, 0)
      return recurrent, direct, after

    def advance(at, now):
      inputs, targets, mask = now
      row = _rows(at.state, len(at.steps))
      noise = unroll.step_keys(keys, at.steps)
      recurrent, direct, (emission, state) = jax.vmap(differentiate)(
        row, at.state, noise, inputs
      )
      moved = [
        _moved(group, recurrent, influence)
        + _written(group, structured.direct, by_param, direct)
        for group, influence in zip(groups, at.influence, strict=True)
      ]

      def scored(params, emission):
        return unroll.score_step(
          cell, loss, params, constants, emission, targets, mask
        )

      def credit():
        score, (own, signal) = jax.value_and_grad(scored, (0, 1), has_aux=True)(
          params, emission
        )
        by_row = jnp.zeros((len(signal), num_rows), signal.dtype)
        by_row = by_row.at[:, structured.emitted].add(
          signal.reshape(len(signal), -1)
        )
        total = flatten_util.ravel_pytree(own)[0]
        for group, values in zip(groups, moved, strict=True):
          part = jnp.einsum('bur,burm->um', by_row[:, group.rows], values)
          total = total.at[group.params].add(part.astype(total.dtype))
        return score, total

      kept = [
        values[:, :, : group.num_states].astype(old.dtype)
        for group, values, old in zip(groups, moved, at.influence, strict=True)
      ]
      after = SparseInfluence(state, at.steps + 1, kept)
      return after, over_time.if_asked(mask, credit)

    ((total, metrics), gradient), after = over_time.sum_over_steps(
      advance, rule_state.per_trial, trials
    )
    return (
      base.Estimate(unravel(gradient), total, metrics),
      base.RuleState(rule_state.shared, after),
    )

  return base.GradientRule(unroll.model_from_cell(cell), init, begin, estimate)


def _rows(state: interfaces.ArrayTree, batch: int) -> jax.Array:
  """The floats of a state `[B, S]`; S is 0 for a cell without a state."""
  if not jax.tree.leaves(state):
    return jnp.zeros((batch, 0))
  return over_time.rows(state)


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

# SPDX-License-Identifier: Apache-2.0
"""SnAp-n: real-time recurrent learning with a sparse influence."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import flatten_util

from bionet_core import interfaces, unroll
from bionet_learners import base
from bionet_learners.influence import steps, structure


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
  """What the structure of the cell decides, once."""

  found: structure.Structure
  groups: list[structure.Group]
  colours: np.ndarray


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

  C is found by probing the cell's Jacobians at random points (`reach`), as a
  constant of the rule. Memory, whatever T is: sum over parameters of the floats
  each reaches, times B. For hk.VanillaRNN that is P at order 1, for hk.LSTM
  less than 2 P, but for hk.GRU a reset gate's weight reaches all N units
  already at order 1, through the candidate's weights, so that a third of the
  weights keeps N numbers each: RTRL's order. Time a step: S forward passes for
  J, a backward pass for each float of a unit (for each of S, where a parameter
  writes all of them, as in hk.GRU), and products k^2 a parameter.

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
    found = structure.structure(cell, input_shape, dtype)
    num_states = found.recurrent.shape[1]
    groups = structure.groups(structure.within(found, order), num_states)
    return _Plan(found, groups, structure.colours(found.direct))

  def plan_for(trials):
    return plan(trials.inputs.shape[2:], trials.inputs.dtype)

  def begin(params, constants, rule_state, key, trials):
    state = unroll.initial_state(cell, constants, key, trials.index)
    count = jnp.zeros(trials.index.shape, jnp.int32)
    row, flat = (
      steps.rows(state, len(trials.index)),
      flatten_util.ravel_pytree(params)[0],
    )
    dtype, influence = jnp.result_type(row, flat), []
    for group in plan_for(trials).groups:
      num_sets, size = group.params.shape
      shape = (row.shape[0], num_sets, group.num_states, size)
      influence.append(jnp.zeros(shape, dtype))
    return base.RuleState(
      rule_state.shared, SparseInfluence(state, count, influence)
    )

  def init(key, params, constants, trials):
    nothing = base.RuleState(shared=(), per_trial=())
    return begin(params, constants, nothing, key, trials)

  def estimate(params, constants, rule_state, key, trials):
    flat, unravel = flatten_util.ravel_pytree(params)
    keys = unroll.trial_keys(key, trials.index)
    found, groups, colours = plan_for(trials)
    emits_state = len(found.direct) == found.recurrent.shape[1]
    # One cotangent a colour: the rows of that colour, all at once.
    tints = jnp.eye(colours.max() + 1, dtype=flat.dtype)[colours].T

    def transition(flat, row, state, key, inputs):
      """One trial: its rows after a step `[R]`, and what they are of."""
      one = jax.tree.map(lambda x: x[None], (state, key, inputs))
      before = steps.with_rows(one[0], row[None])
      emission, state = cell.step(unravel(flat), constants, before, *one[1:])
      after = steps.rows(state, 1)[0]
      if not emits_state:
        after = jnp.concatenate([after, emission[0].ravel()])
      return after, jax.tree.map(lambda x: x[0], (emission, state))

    def differentiate(row, state, key, inputs):
      """One trial: J `[R, S]`, the backward passes `[colours, P]`."""
      here = functools.partial(transition, state=state, key=key, inputs=inputs)
      _, pull, after = jax.vjp(lambda p: here(p, row), flat, has_aux=True)
      recurrent, _ = jax.jacfwd(here, 1, has_aux=True)(flat, row)
      return recurrent, jax.vmap(pull)(tints)[0], after

    def advance(at, now):
      inputs, targets, mask = now
      row, noise = (
        steps.rows(at.state, at.steps.shape[0]),
        unroll.step_keys(keys, at.steps),
      )
      recurrent, pulled, (emission, state) = jax.vmap(differentiate)(
        row, at.state, noise, inputs
      )
      moved = [
        _moved(group, recurrent, influence)
        + _written(group, found.direct, colours, pulled)
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
        by_row = jnp.zeros((len(signal), len(found.direct)), signal.dtype)
        by_row = by_row.at[:, found.emitted].add(
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
      return after, steps.if_asked(mask, credit)

    ((total, metrics), gradient), after = steps.sum_over_steps(
      advance, rule_state.per_trial, trials
    )
    return (
      base.Estimate(unravel(gradient), total, metrics),
      base.RuleState(rule_state.shared, after),
    )

  return base.GradientRule(unroll.model_from_cell(cell), init, begin, estimate)


def _moved(
  group: structure.Group, recurrent: jax.Array, influence: jax.Array
) -> jax.Array:
  """J times the influence where it is kept, `[B, U, r, m]`."""
  states = group.rows[:, : group.num_states]
  block = recurrent[:, group.rows[:, :, None], states[:, None]]
  return jnp.einsum('burs,busm->burm', block, influence)


def _written(
  group: structure.Group,
  direct: np.ndarray,
  colours: np.ndarray,
  pulled: jax.Array,
) -> jax.Array:
  """D where the influence is kept, `[B, U, r, m]`."""
  rows, params = group.rows[:, :, None], group.params[:, None]
  written = direct[rows, params]
  entries = pulled[:, colours[rows], params]
  return entries if written.all() else jnp.where(written[None], entries, 0)

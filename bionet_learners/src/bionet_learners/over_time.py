# SPDX-License-Identifier: Apache-2.0
"""What all rules over time share: where trials stand between windows."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bionet_core import interfaces, unroll
from bionet_learners import base


class Memory(NamedTuple):
  """Where a cell's trials stand, and what a rule keeps of their past.

  Attributes:
    state: the cell's state; every leaf leads with B.
    steps: int `[B]`, steps done.
    traces: what the rule keeps per trial; every leaf leads with B.
  """

  state: interfaces.ArrayTree
  steps: jax.Array
  traces: interfaces.ArrayTree


def over_time(
  cell: interfaces.Cell,
  estimate: Callable[..., tuple[base.Estimate, interfaces.ArrayTree, Memory]],
  *,
  last: Callable[..., tuple[base.Estimate, interfaces.ArrayTree, Memory]]
  | None = None,
  traces: Callable[..., interfaces.ArrayTree] = lambda *_: (),
  shared: Callable[..., interfaces.ArrayTree] = lambda *_: (),
  learning_signal: Callable[..., jax.Array] | None = None,
  claim: base.Claim,
) -> base.GradientRule:
  """The rule of a cell that carries a Memory from window to window.

  Args:
    cell: the dynamics.
    estimate: `(params, constants, shared, memory, key, trials) -> (Estimate,
      shared, memory)`.
    last: likewise, where the memory that it returns is not read; None: as
      `estimate`.
    traces: `(params, constants, state, keys, trials) -> tree`, the traces of
      trials that have no past, from the state before their first step.
    shared: `(params, constants, key, trials) -> tree`, what is drawn once.
    learning_signal: as in `GradientRule`.
    claim: as in `GradientRule`.
  """

  def begin(params, constants, rule_state, key, trials):
    state = unroll.initial_state(cell, constants, key, trials.index)
    keys = unroll.trial_keys(key, trials.index)
    steps = jnp.zeros(trials.index.shape, jnp.int32)
    memory = Memory(
      state, steps, traces(params, constants, state, keys, trials)
    )
    return base.RuleState(rule_state.shared, memory)

  def init(key, params, constants, trials):
    unroll.check_steps(trials)
    drawn = shared(params, constants, key, trials)
    return begin(params, constants, base.RuleState(drawn, ()), key, trials)

  def running(estimate, keeps):
    def run(params, constants, rule_state, key, trials):
      unroll.check_steps(trials)
      result, drawn, memory = estimate(
        params, constants, rule_state.shared, rule_state.per_trial, key, trials
      )
      return result, base.RuleState(drawn, memory if keeps else ())

    return run

  return base.GradientRule(
    unroll.model_from_cell(cell),
    init,
    begin,
    running(estimate, True),
    learning_signal,
    claim,
    estimate_last=running(last, False) if last else None,
    objective='loss' if cell.penalty is None else 'penalized_loss',
  )


def check_real(state: interfaces.ArrayTree) -> None:
  """Raises TypeError if a leaf of the state is complex."""
  for path, leaf in jax.tree.leaves_with_path(state):
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
      raise TypeError(
        f'state{jax.tree_util.keystr(path)} is complex, and this rule is for '
        'real states: keep the real and the imaginary part as two leaves of '
        'the state, or choose bptt.'
      )

# SPDX-License-Identifier: Apache-2.0
"""Pp-prop: traces of pre and of post apart, and their product at the end."""

import jax
import jax.numpy as jnp

from bionet_core import interfaces, platforms, unroll
from bionet_learners import base, over_time, windows
from bionet_learners.traces import filters, opening, placement, rule


def pp_prop(
  cell: interfaces.Cell, loss: interfaces.StepLoss, *, decay: float = 0.9
) -> base.GradientRule:
  r"""Pre-post propagation: a trace as the product of two filters.

    pre_t  = decay pre_{t-1} + x_t
    post_t = decay D_t post_{t-1} + (1 - decay) ds_t/dy_t
    dL/dW ~= sum_t pre_t (dL_t/ds_t post_t)^T / (1 - decay^t)
             + pre_{t-1} (dL_t/ds_{t-1} post_{t-1})^T / (1 - decay^{t-1})

  where dL_t/ds_{t-1} is what an emission makes of the past state directly.
  D, y = x W as in `d_rtrl`, whose trace of B m n numbers this replaces by one
  of B (m + n). A bias is a weight of the constant input 1, whose filter is the
  same. The last factor corrects the filters' start. Exact where decay is 0 and
  no credit outlives a step; else an approximation that mixes what pre and post
  did at different times. Parameters without a trace of their own get the exact
  gradient of the same step. Weights may change at every border. Cost: one
  forward pass, and in asked steps one local backward pass; memory flat in T.

  Args:
    cell: any Cell whose units meet in synapses alone.
    loss: the loss of one step.
    decay: of the filters, per step, in [0, 1).

  Returns:
    A GradientRule; its metrics are the loss's own.

  Raises:
    TypeError: if `cell` is not a Cell.
    ValueError: if `decay` is out of range, and as `d_rtrl` once traced.

  Source: C. Wang et al., Nature Communications 17, 1745 (2026).
  """
  base.require_kind('pp_prop', cell, interfaces.Cell)
  if not 0 <= decay < 1:
    raise ValueError(f'decay={decay}: it must be in [0, 1).')
  settings = opening.Settings(window=1)

  def open_cell(params, constants, state, keys, trials):
    return opening.open_cell(
      cell,
      settings,
      params,
      constants,
      state,
      keys,
      trials.inputs[0],
      every_leaf=True,
    )

  def traces(params, constants, state, keys, trials):
    rule.check_trials(trials)
    opened = open_cell(params, constants, state, keys, trials)
    dtype = placement.precise(opening.float_type(state))
    batch = trials.index.shape[0]
    return [filters.empty(site, batch, dtype) for site in opened.sites]

  def estimate(params, constants, shared, memory, key, trials):
    keys = unroll.trial_keys(key, trials.index)
    opened = open_cell(params, constants, memory.state, keys, trials)

    def score(params, learned, probes, state, noise, step):
      emission, _ = opened.transition.step(
        learned, opened.fixed, state, noise, step.inputs[0], probes=probes
      )
      return unroll.score_step(
        cell, loss, params, constants, emission, step.targets[0], step.mask[0]
      )

    def learn(before, after, noise, step):
      # Once more: of the steps that nobody asks for it is not kept for this.
      _, moved = opened.move(before.state, noise, step.inputs[0])
      # At the new state credit of the old one ends, so that each of the two
      # signals meets the filters of its own step.
      probes = [jnp.zeros_like(x) for x in jax.tree.leaves(before.state)]
      (total, metrics), (by_params, by_learned, new, old) = jax.value_and_grad(
        score, argnums=(0, 1, 2, 3), has_aux=True, allow_int=True
      )(params, opened.learned, probes, before.state, noise, step)
      new = opening.without_float0(new, probes)
      old = opening.without_float0(old, before.state)
      # The exact derivative of the step counts what this step's inputs did to
      # the new state. The filters' newest term stands in its place.
      sums = [
        filters.credit(site, after.traces[at], new, 1 - decay**after.steps)
        + filters.credit(site, before.traces[at], old, 1 - decay**before.steps)
        - filters.credit(site, filters.newest(moved, at), new, 1.0)
        for at, site in enumerate(opened.sites)
      ]
      return by_params, by_learned, sums, total, metrics

    def move(before, step):
      noise = unroll.step_keys(keys, before.steps)
      state, moved = opened.move(before.state, noise, step.inputs[0])
      after = filters.advanced(decay, opened.sites, before.traces, moved)
      memory = over_time.Memory(state, before.steps + 1, after)
      return before, memory, noise, step

    def of_step(carry, step):
      before, total = carry
      args = move(before, step)
      # Adding inside: a step is short, and what it adds to is large.
      total = platforms.if_asked(
        step.mask,
        lambda total, *args: jax.tree.map(jnp.add, total, learn(*args)),
        total,
        *args,
        otherwise=lambda total, *_: total,
      )
      return (args[1], total), None

    zero = platforms.zeros_of(
      lambda step: learn(*move(memory, step)), windows.first_window(trials, 1)
    )
    (memory, (by_params, by_learned, sums, total, metrics)), _ = (
      windows.scan_windows(of_step, (memory, zero), trials, 1)
    )
    gradient = opened.gradient(params, constants, by_params, by_learned, sums)
    return base.Estimate(gradient, total, metrics), shared, memory

  claim = base.Claim(step=True, windows=True)
  return over_time.over_time(cell, estimate, traces=traces, claim=claim)

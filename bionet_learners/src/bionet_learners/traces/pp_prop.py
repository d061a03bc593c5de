# SPDX-License-Identifier: Apache-2.0
"""Pp-prop: traces of pre and of post apart, and their product at the end."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bionet_core import interfaces, unroll
from bionet_learners import base, over_time
from bionet_learners import windows as trial_windows
from bionet_learners.synapses import local as locals_
from bionet_learners.traces import advance, rule, unit_matrix, windows
from bionet_learners.traces import sites as places


class Filters(NamedTuple):
  """The two traces of a synapse.

  Attributes:
    pre: x, summed with decay: `[B, Q, m]`; `[B]`, of ones, for an elementwise
      parameter.
    post: of each leaf that the synapse drives, ds/dy averaged with decay,
      `[B, Q, n]` or the parameter's `[B, ...]`.
  """

  pre: jax.Array
  post: unit_matrix.Vector


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
    decay: of the filters, a step, in [0, 1).

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
  settings = windows.Settings(window=1)

  def open_cell(*args):
    return windows.open_cell(cell, settings, *args, every_leaf=True)

  def traces(params, constants, state, keys, trials):
    rule.check_trials(trials)
    opened = open_cell(params, constants, state, keys, trials.inputs[0])
    dtype = places.precise(windows.float_type(state))
    return [
      _no_filters(site, len(trials.index), dtype) for site in opened.sites
    ]

  def estimate(params, constants, shared, memory, key, trials):
    keys = unroll.trial_keys(key, trials.index)
    opened = open_cell(params, constants, memory.state, keys, trials.inputs[0])
    transition, sites, learned, fixed, _ = opened

    def score(params, learned, probes, state, noise, step):
      emission, _ = transition.step(
        learned, fixed, state, noise, step.inputs[0], probes=probes
      )
      return unroll.score_step(
        cell,
        loss,
        params,
        constants,
        emission,
        step.targets[0],
        step.mask[0],
      )

    def learn(before, after, moved, noise, step):
      # At the new state credit of the old one ends, so that each of the two
      # signals meets the filters of its own step.
      probes = [jnp.zeros_like(x) for x in jax.tree.leaves(before.state)]
      (total, metrics), gradients = jax.value_and_grad(
        score, argnums=(0, 1, 2, 3), has_aux=True, allow_int=True
      )(params, learned, probes, before.state, noise, step)
      by_params, by_learned, new, old = gradients
      old = windows.without_float0(old, before.state)
      new = windows.without_float0(new, probes)
      sums = []
      for at, site in enumerate(sites):
        newest = Filters(
          _or_one(moved.inputs[at], before.steps), moved.drive[at]
        )
        # The exact derivative of the step counts what this step's inputs did to
        # the new state. The filters' newest term stands in its place.
        sums.append(
          _credit(site, after.traces[at], new, 1 - decay**after.steps)
          + _credit(site, before.traces[at], old, 1 - decay**before.steps)
          - _credit(site, newest, new, 1.0)
        )
      by_learned = places.to_learned(
        transition, sites, learned, sums, by_learned
      )
      return by_params, by_learned, total, metrics

    def move(before, noise, step):
      _, state, local = locals_.local_derivative(
        transition.structure,
        learned,
        fixed,
        before.state,
        noise,
        step.inputs[0],
        opened.traced,
      )
      moved = advance.of_sites(sites, local)
      filters = [
        _filtered(decay, site, moved.matrix(site.leaves), x, c, old)
        for site, x, c, old in zip(
          sites, moved.inputs, moved.drive, before.traces, strict=True
        )
      ]
      return over_time.Memory(state, before.steps + 1, filters), moved

    def of_step(before, step):
      noise = unroll.step_keys(keys, before.steps)
      after, moved = move(before, noise, step)
      args = (before, after, moved, noise, step)
      asked = jnp.any(step.mask != 0)
      return after, jax.lax.cond(asked, learn, lambda *_: zero, *args)

    def shapes(step):
      noise = unroll.step_keys(keys, memory.steps)
      after, moved = move(memory, noise, step)
      return learn(memory, after, moved, noise, step)

    zero = trial_windows.zeros_of(shapes, trial_windows.first_window(trials, 1))
    memory, result = trial_windows.sum_over_windows(
      of_step, memory, trials, 1, zero
    )
    by_params, by_learned, total, metrics = result
    gradient = windows.through_prelude(
      opened, params, constants, by_params, by_learned
    )
    return base.Estimate(gradient, total, metrics), shared, memory

  return over_time.over_time(
    cell, estimate, traces=traces, claim=base.Claim(step=True, windows=True)
  )


def _no_filters(site, batch, dtype) -> Filters:
  pre = (batch,)
  if site.synapse.product is not None:
    pre = (batch, site.shape[0], site.weights[1])
  post = jnp.zeros((batch, *site.shape), dtype)
  return Filters(jnp.zeros(pre, dtype), (post,) * len(site.leaves))


def _or_one(x, like):
  return jnp.ones(like.shape) if x is None else x


def _filtered(decay, site, matrix, x, drive, old: Filters) -> Filters:
  """One step of a site's filters."""
  post = tuple(
    decay * past + (1 - decay) * c
    for past, c in zip(site.of_matrix(matrix) @ old.post, drive, strict=True)
  )
  new = Filters(decay * old.pre + _or_one(x, old.pre), post)
  return jax.tree.map(lambda a, before: a.astype(before.dtype), new, old)


def _credit(site, filters: Filters, signal, start) -> jax.Array:
  """`pre (signal post)^T / start`; 0 where the filters have not begun."""
  along = places.signals_of(site, signal)
  post = functools.reduce(
    jnp.add, [a * b for a, b in zip(along, filters.post, strict=True)]
  )
  start = jnp.broadcast_to(start, post.shape[:1])
  # At the first step the filters are empty, and 0 / 0 would be NaN.
  scale = jnp.where(start > 0, 1 / jnp.where(start > 0, start, 1), 0)
  post *= _wide(scale.astype(post.dtype), post)
  if site.synapse.product is None:
    return _wide(filters.pre, post) * post
  blocks = site.weights[0]
  x, y = (
    a.reshape(a.shape[0], blocks, -1, a.shape[-1]) for a in (filters.pre, post)
  )
  return jnp.einsum('bgpi,bgpj->gij', x, y)


def _wide(x: jax.Array, like: jax.Array) -> jax.Array:
  """`[B]` as `[B, 1, ...]`, to go with another array."""
  return x.reshape(-1, *[1] * (like.ndim - 1))

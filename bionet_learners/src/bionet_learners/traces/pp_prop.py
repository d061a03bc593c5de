# SPDX-License-Identifier: Apache-2.0
"""Pp-prop: traces of pre and of post apart, and their product at the end."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bionet_core import interfaces, unroll
from bionet_learners import base
from bionet_learners.traces import windows


class Filters(NamedTuple):
  """The two traces of a synapse.

  Attributes:
    pre: x, summed with decay: `[B, P, m]`; `[B]`, of ones, for an elementwise
      parameter.
    post: of each leaf that the synapse drives, ds/dy averaged with decay,
      `[B, P, n]` or the parameter's `[B, ...]`.
  """

  pre: jax.Array
  post: list[jax.Array]


def pp_prop(
  cell: interfaces.Cell, loss: interfaces.StepLoss, *, decay: float = 0.9
) -> base.GradientRule:
  r"""Pre-post propagation: a trace as the product of two filters.

    pre_t  = decay pre_{t-1} + x_t
    post_t = decay D_t post_{t-1} + (1 - decay) ds_t/dy_t
    dL/dW ~= sum_t pre_t (dL_t/ds_t post_t)^T / (1 - decay^t)

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
    raise ValueError(f'learner.decay is {decay}; it must be in [0, 1).')
  settings = windows.Settings(window=1)

  def open_cell(params, constants, state, keys, inputs):
    return windows.open_cell(
      cell, settings, params, constants, state, keys, inputs, every_leaf=True
    )

  def begin(params, constants, rule_state, key, trials):
    windows.check_trials(trials)
    state = unroll.initial_state(cell, constants, key, trials.index)
    keys = unroll.trial_keys(key, trials.index)
    opened = open_cell(params, constants, state, keys, trials.inputs[0])
    traced = windows.Traced(
      state,
      jnp.zeros(trials.index.shape, jnp.int32),
      _no_filters(opened.sites, trials),
    )
    return base.RuleState(rule_state.shared, traced)

  def init(key, params, constants, trials):
    nothing = base.RuleState(shared=(), per_trial=())
    return begin(params, constants, nothing, key, trials)

  def estimate(params, constants, rule_state, key, trials):
    now = rule_state.per_trial
    keys = unroll.trial_keys(key, trials.index)
    opened = open_cell(params, constants, now.state, keys, trials.inputs[0])
    transition, sites, learned, fixed, _ = opened

    def advance(now, step_keys, inputs):
      _, state, local = windows.local_derivative(
        transition,
        sites,
        settings,
        learned,
        fixed,
        now.state,
        step_keys,
        inputs,
      )
      filters = [
        _filtered(decay, site, local, at, own)
        for at, (site, own) in enumerate(zip(sites, now.traces, strict=True))
      ]
      return windows.Traced(state, now.steps + 1, filters), local

    def score(params, learned, probes, state, step_keys, inputs, targets, mask):
      emission, _, _ = transition.step(
        learned,
        fixed,
        state,
        step_keys,
        inputs,
        redefine=lambda leaf, value: value + probes[leaf],
      )
      return unroll.score_step(
        cell, loss, params, constants, emission, targets, mask
      )

    def learn(before, after, local, step_keys, inputs, targets, mask):
      probes = [jnp.zeros_like(x) for x in jax.tree.leaves(before.state)]
      args = (before.state, step_keys, inputs, targets, mask)
      (total, metrics), (by_params, by_learned, signals) = jax.value_and_grad(
        score, argnums=(0, 1, 2), has_aux=True, allow_int=True
      )(params, learned, probes, *args)
      rest = 1 - decay ** after.steps.astype(inputs.dtype)
      sums = [
        _credit(site, local, at, own, signals, rest)
        for at, (site, own) in enumerate(zip(sites, after.traces, strict=True))
      ]
      by_learned = windows.of_learned(opened, sums, by_learned)
      return by_params, by_learned, total, metrics

    def one_step(carry, at):
      before, said = carry
      inputs, targets, mask = at
      step_keys = unroll.step_keys(keys, before.steps)
      after, local = advance(before, step_keys, inputs)
      more = jax.lax.cond(
        jnp.any(mask != 0),
        learn,
        lambda *_: nothing,
        before,
        after,
        local,
        step_keys,
        inputs,
        targets,
        mask,
      )
      return (after, jax.tree.map(jnp.add, said, more)), None

    def shapes(inputs, targets, mask):
      step_keys = unroll.step_keys(keys, now.steps)
      after, local = advance(now, step_keys, inputs)
      return learn(now, after, local, step_keys, inputs, targets, mask)

    steps = (trials.inputs, trials.targets, trials.mask)
    nothing = jax.tree.map(
      lambda s: jnp.zeros(s.shape, s.dtype),
      jax.eval_shape(shapes, *(x[0] for x in steps)),
    )
    (now, said), _ = jax.lax.scan(one_step, (now, nothing), steps)
    by_params, by_learned, total, metrics = said
    _, pull = jax.vjp(lambda p: transition.prelude(p, constants)[0], params)
    gradient = jax.tree.map(jnp.add, by_params, pull(by_learned)[0])
    return (
      base.Estimate(gradient, total, metrics),
      base.RuleState(rule_state.shared, now),
    )

  return base.GradientRule(unroll.model_from_cell(cell), init, begin, estimate)


def _no_filters(sites, trials) -> list[Filters]:
  batch, dtype = trials.index.shape[0], trials.inputs.dtype

  def zeros(site):
    synapse = site.synapse
    pre = (batch,)
    if synapse.product:
      pre = (batch, synapse.shape[0], synapse.fan_in)
    post = (batch, *windows.outputs(site))
    return Filters(
      jnp.zeros(pre, dtype), [jnp.zeros(post, dtype) for _ in site.leaves]
    )

  return [zeros(site) for site in sites]


def _filtered(decay, site, local, at, old: Filters) -> Filters:
  """One step of a site's filters."""
  by_leaf = dict(zip(site.leaves, old.post, strict=True))
  post = [
    decay * windows.sum_over(local.decay, to, by_leaf, site)
    + (1 - decay) * drive
    for to, drive in zip(site.leaves, local.drive[at], strict=True)
  ]
  pre = local.inputs[at] if site.synapse.product else 1.0
  return Filters(decay * old.pre + pre, post)


def _credit(site, local, at, filters: Filters, signals, rest) -> jax.Array:
  """A site's gradient by its filters, in place of the step's own.

  The exact derivative of the step, which holds all parameters' credit within
  it, has counted the site's newest term: that is taken away again.
  """
  along = [
    windows.take(signals[leaf].reshape(rest.shape[0], -1), site.units).reshape(
      rest.shape[0], *windows.outputs(site)
    )
    for leaf in site.leaves
  ]
  own = _product_sum(along, local.drive[at])
  post = _product_sum(along, filters.post)
  wide = rest.reshape(-1, *[1] * (post.ndim - 1))
  if site.synapse.product:
    return jnp.einsum('bpi,bpj->ij', filters.pre, post / wide) - jnp.einsum(
      'bpi,bpj->ij', local.inputs[at], own
    )
  return filters.pre.reshape(wide.shape) * post / wide - own


def _product_sum(left, right) -> jax.Array:
  products = [a * b for a, b in zip(left, right, strict=True)]
  return functools.reduce(jnp.add, products)

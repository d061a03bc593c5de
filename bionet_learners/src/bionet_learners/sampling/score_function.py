# SPDX-License-Identifier: Apache-2.0
"""The score function's gradient: credit for what the noise did, no backward."""

import jax
import jax.numpy as jnp

from bionet_core import interfaces, platforms, unroll
from bionet_learners import base, over_time


def score_function(
  cell: interfaces.Cell,
  loss: interfaces.StepLoss,
  *,
  devices: base.Devices = base.ONE,
  baseline: bool = True,
  traces: bool = False,
) -> base.GradientRule:
  r"""The score-function (REINFORCE) gradient with a leave-one-out baseline.

    dE[L]/dtheta = E[ sum_b A_b sum_k d log p_b,k / dtheta ]
    A_b = L(all trials) - L(all but b)

  p_b,k is the density of what trial b drew at its step k (`Cell.log_density`),
  and a draw is credited with the losses of its own step and those after it. The
  loss may be a step function of the outputs and a statistic over all trials,
  such as the hard utility of patterns. The baseline L(all but b) does not know
  what b drew, so it changes no expectation; for the mean of trials' losses it
  is the mean of the others', A_b = (l_b - mean of others) / B. At a step where
  b is not asked the two are the same, and A_b is 0.

  Unbiased for E[L] over B trials, and without a bias from clips and thresholds,
  where backpropagation sees slopes of 0. Its variance grows with time and falls
  with B. What the readout does with the parameters is differentiated as it is.

  The trials are run twice on the same noise: to see what A is, and to gather
  the gradient with it. So memory does not depend on T, and no gradient is taken
  per trial. Time: two runs, the gradient of each step's log density, and at
  steps that are asked B + 1 losses.

  In windows (`descend(every=K)`) credit ends at the border, unless `traces`
  keeps, per trial, the gradient of the log density of all that was drawn.
  The estimates of windows then sum to that of the whole while the weights stay.
  Memory O(B P), and a gradient per trial at each step.

  Args:
    cell: noisy dynamics with a `log_density`.
    loss: the loss of one step.
    devices: one: a trial is left out of the loss of all.
    baseline: subtract it; without, A_b is L, and hardly anything is learned.
    traces: credit crosses the borders of windows.

  Returns:
    A GradientRule; its metrics are the loss's own.

  Raises:
    TypeError: if `cell` is not a Cell, or has no log density.
    ValueError: for several devices, or a baseline of a single trial.

  Source: R. J. Williams, Machine Learning 8, 229 (1992); the baseline of the
  other draws: W. Kool, H. van Hoof and M. Welling, ICLR workshop (2019).
  """
  base.require_kind('score_function', cell, interfaces.Cell)
  log_density = cell.log_density
  if log_density is None:
    raise TypeError(
      'score_function learns from the noise in the dynamics, and this Cell has '
      'no log_density: make it noisy by bionet_core.noisy, or choose a cell '
      'such as the tissue, or a learner that differentiates, such as bptt.'
    )
  if devices.count > 1:
    raise ValueError(
      f'score_function runs on one device, not on {devices.count}: it leaves '
      'each trial out of the loss of all.'
    )

  def begin(params, constants, state, keys, trials):
    del constants, state, keys
    batch = trials.index.shape
    if baseline and batch[0] < 2:
      raise ValueError(
        f'batch_size={batch[0]}: must be at least 2; score_function compares '
        'each trial with the others.'
      )
    if not traces:
      return ()
    return jax.tree.map(
      lambda x: jnp.zeros((*batch, *x.shape), x.dtype), params
    )

  def estimate(params, constants, shared, start, key, trials):
    keys = unroll.trial_keys(key, trials.index)
    size = trials.index.shape[0]

    def score(params, emission, targets, mask):
      return unroll.score_step(
        cell, loss, params, constants, emission, targets, mask
      )

    def advantages(value, emission, targets, mask):
      """A `[B]` of one step; 0 for those that are not asked."""
      if not baseline:
        return jnp.where(mask != 0, value, 0)

      def without(b):
        others = jnp.where(jnp.arange(size) == b, 0.0, size / (size - 1))
        return score(params, emission, targets, mask * others)[0]

      def of_all():
        return jnp.where(
          mask != 0, value - jax.vmap(without)(jnp.arange(size)), 0
        )

      return platforms.if_asked(mask, of_all)

    def advance(state, steps, inputs):
      noise = unroll.step_keys(keys, steps)
      emission, after = cell.step(params, constants, state, noise, inputs)
      return noise, emission, after

    def judge(carry, step_data):
      state, steps, total, sums = carry
      inputs, targets, mask = step_data
      _, emission, state = advance(state, steps, inputs)
      scored = score(params, emission, targets, mask)
      total += advantages(scored[0], emission, targets, mask)
      sums = jax.tree.map(jnp.add, sums, scored)
      return (state, steps + 1, total, sums), None

    def gather(carry, step_data):
      state, steps, remaining, gradient, memory = carry
      inputs, targets, mask = step_data
      noise, emission, after = advance(state, steps, inputs)
      value, _ = score(params, emission, targets, mask)

      def weighted(params):
        density = log_density(params, constants, state, noise, inputs)
        scored_loss, _ = score(params, emission, targets, mask)
        return jnp.sum(jax.lax.stop_gradient(remaining) * density) + scored_loss

      gradient = _add(gradient, jax.grad(weighted)(params))
      if traces:
        memory = _add(memory, per_trial(state, noise, inputs))
      remaining -= advantages(value, emission, targets, mask)
      return (after, steps + 1, remaining, gradient, memory), None

    def per_trial(state, noise, inputs):
      """The gradient of each trial's own log density, leaves `[B, ...]`."""

      def of_trial(state, key, inputs):
        alone = jax.tree.map(lambda x: x[None], (state, key, inputs))
        return jax.grad(lambda p: log_density(p, constants, *alone)[0])(params)

      return jax.vmap(of_trial)(state, noise, inputs)

    timed = (trials.inputs, trials.targets, trials.mask)
    _, emission, _ = jax.eval_shape(
      advance, start.state, start.steps, trials.inputs[0]
    )
    nothing = platforms.zeros_of(
      score, params, emission, trials.targets[0], trials.mask[0]
    )
    (_, _, total, (value, metrics)), _ = platforms.scan(
      judge,
      (start.state, start.steps, jnp.zeros(size, nothing[0].dtype), nothing),
      timed,
    )
    gradient = jax.tree.map(jnp.zeros_like, params)
    if traces:  # what was drawn before this window has a share in its losses
      gradient = jax.tree.map(
        lambda trace: jnp.einsum('b,b...->...', total, trace).astype(
          trace.dtype
        ),
        start.traces,
      )
    (state, steps, _, gradient, memory), _ = platforms.scan(
      gather, (start.state, start.steps, total, gradient, start.traces), timed
    )
    after = over_time.Memory(state, steps, memory)
    return base.Estimate(gradient, value, metrics), shared, after

  # Nothing is claimed: where the dynamics clip, BPTT is not the gradient of the
  # expected loss that this rule estimates.
  return over_time.over_time(cell, estimate, traces=begin, claim=base.Claim())


def _add(a, b):
  return jax.tree.map(jnp.add, a, b)

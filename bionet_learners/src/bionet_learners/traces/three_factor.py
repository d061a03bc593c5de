# SPDX-License-Identifier: Apache-2.0
"""Three-factor learning: a trace of pre and post, and one number a trial."""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from bionet_core import interfaces, unroll
from bionet_learners import base
from bionet_learners.traces import windows

Modulator = Literal['surprise', 'loss']


class Expectation(NamedTuple):
  """What the modulator expects.

  Attributes:
    loss: `[]`, the running mean of a trial's loss over its asked steps.
    seen: `[]`, 0 before the first estimate, then 1.
  """

  loss: jax.Array
  seen: jax.Array


def three_factor(
  cell: interfaces.Cell,
  loss: interfaces.StepLoss,
  *,
  modulator: Modulator = 'surprise',
  expectation_rate: float = 0.1,
  window: int = 10,
  trace_dtype: str = 'float32',
) -> base.GradientRule:
  r"""The three-factor rule: modulator times eligibility trace.

    e_t = D_t e_{t-1} + ds_t/dy_t x_t               as in `d_rtrl`
    dW  = sum_t M_t d(sum_i emission_t,i)/ds_t e_t  in the sense of a gradient
    M_t = L_t - mask_t mean L ('surprise'), or L_t ('loss')

  M is one number a trial and step, the same for every unit: worse than expected
  weakens what was active, better strengthens it. The direction is no gradient
  of the loss, save for the readout's parameters, which get their exact
  instantaneous one. Cost: that of `d_rtrl`.

  Args:
    cell: any Cell whose units meet in synapses alone.
    loss: the loss of one step, of the kind 'per_trial': it is asked of every
      trial alone.
    modulator: 'surprise' or 'loss'.
    expectation_rate: of the running mean, an estimate, in (0, 1].
    window: steps between updates of the traces.
    trace_dtype: stores the traces of products.

  Returns:
    A GradientRule; it shares the expectation.

  Raises:
    TypeError: if `cell` is not a Cell.
    ValueError: for settings that cannot be, for a cell with a penalty (what it
      costs is told each unit by itself, and no one number), and as `d_rtrl`
      once traced.

  Source: N. Fremaux and W. Gerstner, Frontiers in Neural Circuits 9, 85 (2016).
  """
  base.require_kind('three_factor', cell, interfaces.Cell)
  if cell.penalty is not None:
    raise ValueError(
      'three_factor tells all units one number; the cell has a penalty on its '
      'state (network.rate_weight), which tells each its own. Set it to 0.'
    )
  windows.check_choice('modulator', modulator, get_args(Modulator))
  if not 0 < expectation_rate <= 1:
    raise ValueError(
      f'learner.expectation_rate is {expectation_rate}; it must be in (0, 1].'
    )
  settings = windows.Settings(
    window=windows.checked_window(window),
    trace_dtype=windows.checked_dtype(trace_dtype),
  )
  stop = jax.lax.stop_gradient

  def readout(params, constants, emission):
    outputs = cell.readout(params, constants, stop(emission))
    return jnp.concatenate([outputs, emission], axis=-1)

  both = cell._replace(readout=readout)

  def modulated(expected, size):
    def step_loss(outputs, targets, mask):
      batch = mask.shape[0]
      outputs, emission = outputs[:, :size], outputs[:, size:]

      def alone(*trial):
        return loss(*(x[None] for x in trial))[0]

      total, metrics = loss(outputs, targets, mask)
      surprise = jax.vmap(alone)(stop(outputs), targets, mask)
      if modulator == 'surprise':
        surprise -= mask * expected
      moved = emission - stop(emission)  # zero, with a derivative
      pushed = jnp.sum(stop(surprise)[:, None] * moved) / batch
      return total + pushed, metrics

    return step_loss

  def begin(params, constants, rule_state, key, trials):
    windows.check_trials(trials)
    traced = windows.begin(both, settings, params, constants, key, trials)
    return base.RuleState(rule_state.shared, traced)

  def init(key, params, constants, trials):
    zero = jnp.zeros((), trials.inputs.dtype)
    nothing = base.RuleState(Expectation(zero, zero), per_trial=())
    return begin(params, constants, nothing, key, trials)

  def estimate(params, constants, rule_state, key, trials):
    expected, now = rule_state
    keys = unroll.trial_keys(key, trials.index)
    size = jax.eval_shape(
      unroll.model_from_cell(cell).predict, params, constants, key, trials
    ).shape[-1]
    estimate, after = windows.forward(
      both,
      modulated(expected.loss, size),
      settings,
      params,
      constants,
      now,
      keys,
      trials,
    )
    asked = jnp.sum(jnp.mean(trials.mask, axis=1))
    mean = estimate.loss / jnp.where(asked > 0, asked, 1)
    rate = jnp.where(expected.seen > 0, expectation_rate, 1.0)
    heard = asked > 0
    learned = Expectation(
      jnp.where(
        heard, expected.loss + rate * (mean - expected.loss), expected.loss
      ),
      jnp.where(heard, jnp.ones_like(expected.seen), expected.seen),
    )
    return estimate, base.RuleState(learned, after)

  return base.GradientRule(unroll.model_from_cell(cell), init, begin, estimate)

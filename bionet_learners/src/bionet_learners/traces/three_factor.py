# SPDX-License-Identifier: Apache-2.0
"""Three-factor learning: a trace of pre and post, and one number per trial."""

from typing import Literal, NamedTuple, get_args

import chex
import jax
import jax.numpy as jnp

from bionet_core import interfaces
from bionet_learners import base
from bionet_learners.traces import rule

Modulator = Literal['surprise', 'loss']

stop = jax.lax.stop_gradient


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
      'state, which tells each unit its own. Set the penalty to 0.'
    )
  rule.check_choice('modulator', modulator, get_args(Modulator))
  if not 0 < expectation_rate <= 1:
    raise ValueError(
      f'expectation_rate={expectation_rate}: it must be in (0, 1].'
    )
  settings = rule.settings_of(window, trace_dtype)

  def draw(params, constants, key, trials):
    del params, constants, key
    zero = jnp.zeros((), trials.inputs.dtype)
    return Expectation(zero, zero)

  def teach(cell, params, constants, expected, emission):
    size = jax.eval_shape(cell.readout, params, constants, emission).shape[-1]
    mean = expected.loss if modulator == 'surprise' else 0.0
    return _with_emission(cell), _modulated(loss, mean, size), params

  def learn(expected, estimate, trials):
    return estimate, _expect(expected, estimate, trials, expectation_rate)

  teaching = rule.Teaching(draw, teach, learn)
  return rule.traced_rule(cell, settings, teaching, claim=base.Claim())


def _with_emission(cell: interfaces.Cell) -> interfaces.Cell:
  """The cell whose outputs are the readout's, and behind them the emission."""

  def readout(params, constants, emission):
    outputs = cell.readout(params, constants, stop(emission))
    flat = emission.reshape(emission.shape[0], -1)
    return jnp.concatenate([outputs, flat], axis=-1)

  return cell._replace(readout=readout)


def _modulated(
  loss: interfaces.StepLoss, expected: chex.Numeric, size: int
) -> interfaces.StepLoss:
  """The loss, with M_t times the sum of the emission, in derivative alone.

  M_t is the trial's loss less mask times `expected`; `size` outputs come first.
  """

  def step_loss(outputs, targets, mask):
    outputs, emission = outputs[:, :size], outputs[:, size:]

    def alone(*trial):
      return loss(*(x[None] for x in trial))[0]

    total, metrics = loss(outputs, targets, mask)
    # Trial by trial: what one trial lost must not weaken another's synapses.
    factor = jax.vmap(alone)(stop(outputs), targets, mask) - mask * expected
    moved = emission - stop(emission)  # zero, with a derivative
    pushed = jnp.sum(stop(factor)[:, None] * moved) / mask.shape[0]
    return total + pushed, metrics

  return step_loss


def _expect(expected, estimate, trials, rate) -> Expectation:
  """The running mean after an estimate."""
  # Windows in which nothing is asked must not pull the expectation to 0.
  asked = jnp.sum(jnp.mean(trials.mask, axis=1))
  mean = estimate.loss / jnp.where(asked > 0, asked, 1)
  rate = jnp.where(expected.seen > 0, rate, 1.0)
  moved = expected.loss + rate * (mean - expected.loss)
  heard = asked > 0
  return Expectation(
    jnp.where(heard, moved, expected.loss).astype(expected.loss.dtype),
    jnp.where(heard, jnp.ones_like(expected.seen), expected.seen),
  )

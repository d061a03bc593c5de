# SPDX-License-Identifier: Apache-2.0
"""The modulator of three-factor learning: one number per trial and step."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from bionet_core import interfaces
from bionet_learners import base

stop = jax.lax.stop_gradient


class Expectation(NamedTuple):
  """What the modulator expects.

  Attributes:
    loss: `[]`, the running mean of a trial's loss over its asked steps.
    seen: `[]`, 0 before the first estimate, then 1.
  """

  loss: jax.Array
  seen: jax.Array


def with_emission(cell: interfaces.Cell) -> interfaces.Cell:
  """The cell whose outputs are the readout's, and behind them the emission."""

  def readout(params, constants, emission):
    outputs = cell.readout(params, constants, stop(emission))
    flat = emission.reshape(emission.shape[0], -1)
    return jnp.concatenate([outputs, flat], axis=-1)

  return cell._replace(readout=readout)


def modulated(
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


def expect(
  expected: Expectation,
  estimate: base.Estimate,
  trials: interfaces.Trials,
  rate: float,
) -> Expectation:
  """The running mean after an estimate: it moves by `rate` towards its loss."""
  # Windows in which nothing is asked must not pull the expectation to 0.
  weight = jnp.sum(jnp.mean(trials.mask, axis=1))
  mean = estimate.loss / jnp.where(weight > 0, weight, 1)
  share = jnp.where(expected.seen > 0, rate, 1.0)
  moved = expected.loss + share * (mean - expected.loss)
  heard = weight > 0
  return Expectation(
    jnp.where(heard, moved, expected.loss).astype(expected.loss.dtype),
    jnp.where(heard, jnp.ones_like(expected.seen), expected.seen),
  )

# SPDX-License-Identifier: Apache-2.0
"""Three-factor learning: a trace of pre and post, and one number per trial."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from bionet_core import interfaces
from bionet_learners import base
from bionet_learners.traces import modulation, opening, rule

Modulator = Literal['surprise', 'loss']


def three_factor(
  cell: interfaces.Cell,
  loss: interfaces.StepLoss,
  *,
  modulator: Modulator = 'surprise',
  expectation_rate: float = 0.1,
  window: int = 10,
  trace_dtype: str = 'float32',
  silent_mib: float = opening.SILENT_MIB,
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
    silent_mib: MiB that may be kept of steps in which nobody is asked: as many
      as fit are taken at once, or as a window has if these are more.

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
  settings = rule.settings_of(window, trace_dtype, silent_mib)

  def draw(params, constants, key, trials):
    del params, constants, key
    zero = jnp.zeros((), trials.inputs.dtype)
    return modulation.Expectation(zero, zero)

  def teach(cell, params, constants, expected, emission):
    size = jax.eval_shape(cell.readout, params, constants, emission).shape[-1]
    mean = expected.loss if modulator == 'surprise' else 0.0
    modulated = modulation.modulated(loss, mean, size)
    return modulation.with_emission(cell), modulated, params

  def learn(expected, estimate, trials):
    return estimate, modulation.expect(
      expected, estimate, trials, expectation_rate
    )

  teaching = rule.Teaching(draw, teach, learn)
  return rule.traced_rule(cell, settings, teaching, claim=base.Claim())

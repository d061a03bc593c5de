# SPDX-License-Identifier: Apache-2.0
"""Feedback weights: the way of the error from the outputs to the units."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from bionet_core import interfaces, unroll
from bionet_learners import base
from bionet_learners.traces import windows

Feedback = Literal['symmetric', 'random', 'adaptive']


class Plan(NamedTuple):
  """How errors come back.

  Attributes:
    kind: 'symmetric' is the readout's own derivative; 'random' a matrix drawn
      once; 'adaptive' one that starts so and learns as the readout does.
    rate: of an adaptive matrix, a step against the readout's gradient.
    decay: of an adaptive matrix, its weight decay an update.
  """

  kind: Feedback
  rate: float
  decay: float


class Watched(NamedTuple):
  """Parameters, and a zero matrix in whose place feedback weights learn.

  Attributes:
    params: the cell's.
    slope: float `[O, N]`, zero; its gradient is that of a linear readout.
  """

  params: interfaces.ArrayTree
  slope: jax.Array


def draw(
  cell: interfaces.Cell,
  key: jax.Array,
  params: interfaces.ArrayTree,
  constants: interfaces.ArrayTree,
  emission: jax.ShapeDtypeStruct,
) -> jax.Array:
  """Random feedback weights `[O, N]`, as large as the readout's own slope."""

  def outputs(emission):
    return cell.readout(params, constants, emission[None])[0]

  slope = jax.jacobian(outputs)(jnp.zeros(emission.shape[1:], emission.dtype))
  size = jnp.sqrt(jnp.mean(slope**2))
  size = jnp.where(size > 0, size, slope.shape[-1] ** -0.5)
  return size * jax.random.normal(key, slope.shape, slope.dtype)


def through(cell: interfaces.Cell, matrix: jax.Array) -> interfaces.Cell:
  """The cell whose readout sends errors back through a matrix `[O, N]`.

    outputs = readout(emission),   dL/d emission = dL/d outputs  matrix

  Its parameters are `Watched`: the readout's own get their exact gradient.
  """
  stop = jax.lax.stop_gradient

  def step(watched, constants, state, keys, inputs):
    return cell.step(watched.params, constants, state, keys, inputs)

  def readout(watched, constants, emission):
    still = stop(emission)
    outputs = cell.readout(watched.params, constants, still)
    outputs += jnp.matmul(still, watched.slope.T)
    return outputs + jnp.matmul(emission - still, stop(matrix).T)

  return cell._replace(step=step, readout=readout)


def filtered(
  cell: interfaces.Cell, kappa: float, emission: jax.ShapeDtypeStruct
) -> interfaces.Cell:
  """The cell whose emission is felt through a low-pass filter.

    z_t = kappa z_{t-1} + emission_t

  Values stay as they are; derivatives go through z, which joins the state. It
  is what a leaky readout of time constant -1 / ln(kappa) does to credit.
  """
  stop = jax.lax.stop_gradient

  def initial_state(constants, keys):
    z = jnp.zeros(emission.shape, emission.dtype)
    return cell.initial_state(constants, keys), z

  def step(params, constants, state, keys, inputs):
    emission, inner = cell.step(params, constants, state[0], keys, inputs)
    z = kappa * state[1] + emission
    return stop(emission) + (z - stop(z)), (inner, z)

  made = cell._replace(initial_state=initial_state, step=step)
  cost = cell.penalty
  if cost is None:
    return made
  return made._replace(penalty=lambda constants, s: cost(constants, s[0]))


def rule(
  cell: interfaces.Cell,
  loss: interfaces.StepLoss,
  settings: windows.Settings,
  plan: Plan,
  *,
  kappa: float = 0.0,
) -> base.GradientRule:
  """The rule of traces and feedback weights.

  Args:
    cell: the cell.
    loss: the loss of one step.
    settings: of the traces.
    plan: of the feedback.
    kappa: of the filter on the emission; 0 for none.

  Returns:
    A GradientRule that shares the feedback weights (nothing if symmetric).
  """
  windows.check_choice(
    'feedback', plan.kind, ('symmetric', 'random', 'adaptive')
  )
  if not 0 <= kappa < 1:
    raise ValueError(f'learner.kappa is {kappa}; it must be in [0, 1).')

  def emission_of(params, constants, key, trials):
    state = unroll.initial_state(cell, constants, key, trials.index)
    keys = unroll.trial_keys(key, trials.index)
    return jax.eval_shape(
      cell.step, params, constants, state, keys, trials.inputs[0]
    )[0]

  def felt(params, constants, key, trials):
    if not kappa:
      return cell
    return filtered(cell, kappa, emission_of(params, constants, key, trials))

  def told(own, params, shared):
    if plan.kind == 'symmetric':
      return own, params
    return through(own, shared), Watched(params, jnp.zeros_like(shared))

  def begin(params, constants, rule_state, key, trials):
    windows.check_trials(trials)
    own = felt(params, constants, key, trials)
    traced = windows.begin(own, settings, params, constants, key, trials)
    return base.RuleState(rule_state.shared, traced)

  def init(key, params, constants, trials):
    shared = ()
    if plan.kind != 'symmetric':
      emission = emission_of(params, constants, key, trials)
      shared = draw(cell, key, params, constants, emission)
    nothing = base.RuleState(shared=shared, per_trial=())
    return begin(params, constants, nothing, key, trials)

  def estimate(params, constants, rule_state, key, trials):
    shared, now = rule_state
    keys = unroll.trial_keys(key, trials.index)
    own = felt(params, constants, key, trials)
    own, learning = told(own, params, shared)
    estimate, after = windows.forward(
      own, loss, settings, learning, constants, now, keys, trials
    )
    if plan.kind != 'symmetric':
      updates = estimate.gradient
      estimate = estimate._replace(gradient=updates.params)
      if plan.kind == 'adaptive':
        shared = (1 - plan.decay) * shared - plan.rate * updates.slope
    return estimate, base.RuleState(shared, after)

  def learning_signal(params, constants, rule_state, emission, targets, mask):
    own = cell._replace(penalty=None)
    own, learning = told(own, params, rule_state.shared)

    def scored(emission):
      return unroll.score_step(
        own, loss, learning, constants, emission, targets, mask
      )[0]

    return jax.grad(scored)(emission)

  model = unroll.model_from_cell(cell)
  return base.GradientRule(model, init, begin, estimate, learning_signal)

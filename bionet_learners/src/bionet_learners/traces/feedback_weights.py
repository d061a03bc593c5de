# SPDX-License-Identifier: Apache-2.0
"""Feedback weights: the way of the error from the outputs to the units."""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from bionet_core import interfaces, unroll
from bionet_learners.traces import placement, rule

Feedback = Literal['symmetric', 'random', 'adaptive']

stop = jax.lax.stop_gradient


class Watched(NamedTuple):
  """Parameters, and a zero matrix in whose place feedback weights learn.

  Attributes:
    params: the cell's.
    slope: float `[O, N]`, zero; its gradient is that of a linear readout.
  """

  params: interfaces.ArrayTree
  slope: jax.Array


def teaching(
  cell: interfaces.Cell,
  loss: interfaces.StepLoss,
  kind: Feedback,
  *,
  rate: float,
  decay: float,
) -> rule.Teaching:
  """Teaching through feedback weights B.

  Args:
    cell: the cell.
    loss: the loss of one step.
    kind: 'symmetric' is the readout's derivative; 'random' a matrix drawn once;
      'adaptive' one that starts so and learns as the readout does.
    rate: of an adaptive matrix, a step against the readout's gradient.
    decay: of an adaptive matrix, its weight decay per update.

  Returns:
    A Teaching that shares B (nothing if symmetric).
  """
  rule.check_choice('feedback', kind, get_args(Feedback))

  def draw(params, constants, key, trials):
    return _draw(cell, params, constants, key, trials)

  def teach(cell, params, constants, matrix, emission):
    del constants, emission
    return (
      through(cell, matrix),
      loss,
      Watched(params, jnp.zeros_like(matrix)),
    )

  def learn(matrix, estimate, trials):
    del trials
    watched = estimate.gradient
    if kind == 'adaptive':
      matrix = (1 - decay) * matrix - rate * watched.slope
    return estimate._replace(gradient=watched.params), matrix

  taught = rule.Teaching(draw, teach, learn)
  if kind == 'symmetric':
    taught = rule.exactly(loss)

  def signal(params, constants, rule_state, emission, targets, mask):
    through_matrix, _, learned = taught.teach(
      cell._replace(penalty=None),
      params,
      constants,
      rule_state.shared,
      emission,
    )

    def scored(emission):
      return unroll.score_step(
        through_matrix, loss, learned, constants, emission, targets, mask
      )[0]

    return jax.grad(scored)(emission)

  return taught._replace(signal=signal)


def _draw(cell, params, constants, key, trials) -> jax.Array:
  """Random feedback weights `[O, N]`, as large as the readout's own slope."""
  state = unroll.initial_state(cell, constants, key, trials.index)
  keys = unroll.trial_keys(key, trials.index)
  emission, _ = jax.eval_shape(
    cell.step, params, constants, state, keys, trials.inputs[0]
  )

  def outputs(emission):
    return cell.readout(params, constants, emission[None])[0]

  slope = jax.jacobian(outputs)(jnp.zeros(emission.shape[1:], emission.dtype))
  slope = slope.reshape(slope.shape[0], -1)  # pixels and channels are units
  size = jnp.sqrt(jnp.mean(slope**2))
  size = jnp.where(size > 0, size, slope.shape[-1] ** -0.5)
  # Of one key the same weights, however coarse the cell computes.
  drawn = jax.random.normal(key, slope.shape, placement.precise(slope.dtype))
  return size * drawn.astype(slope.dtype)


def through(cell: interfaces.Cell, matrix: jax.Array) -> interfaces.Cell:
  """The cell whose readout sends errors back through a matrix `[O, N]`.

    outputs = readout(emission),   dL/d emission = dL/d outputs  matrix

  Its parameters are `Watched`: the readout's own get their exact gradient.
  """

  def step(watched, constants, state, keys, inputs):
    return cell.step(watched.params, constants, state, keys, inputs)

  def readout(watched, constants, emission):
    # The readout learns from the emission as it is, and sends nothing back.
    still = stop(emission)
    outputs = cell.readout(watched.params, constants, still)
    flat = still.reshape(still.shape[0], -1)
    moved = emission.reshape(flat.shape) - flat  # zero, with a derivative
    # Zero, but its gradient is what an adaptive matrix learns from.
    outputs += jnp.matmul(flat, watched.slope.T)
    return outputs + jnp.matmul(moved, stop(matrix).T)

  return cell._replace(step=step, readout=readout)

# SPDX-License-Identifier: Apache-2.0
"""Local plasticity: settle with the label, then without, and lock it in."""

import jax
import jax.numpy as jnp

from bionet_core import interfaces, unroll
from bionet_learners import base


def local_plasticity(
  network: interfaces.RelaxationNetwork,
  loss: interfaces.StepLoss | None = None,
  *,
  warm_up: int = 1,
  clamped: int = 10,
  free: int = 10,
  evaluation_sweeps: int = 11,
) -> base.GradientRule:
  """One local update after three phases.

    state <- settle(warm_up sweeps, no label)
    state <- settle(clamped sweeps, all messages, label clamped)
    state <- settle(free sweeps, no label)
    updates = grad local_loss(params; state frozen)

  For perceptron layers this is, per edge, `-x^T [y 1{y h <= threshold}] / (B
  sqrt(n_j))`: after a converged free phase `s = sign(h)`, so the rule pushes
  every field past its margin and locks the state in; only the readout compares
  with the label. Exact: the updates are the gradient of the local loss, which
  is not the gradient of any error at the output. Cost: one matrix product an
  edge and sweep, and one an edge for the update; no memory of the sweeps.

  Departs from the source in: a batch is the mean of its trials, so a rate of
  plain SGD there is sqrt(B) times as large here.

  Args:
    network: the network; says what is local.
    loss: unused: the network's local loss is what is descended. Taken so that
      all learners are built alike.
    warm_up: sweeps before the label is shown, 0 or more.
    clamped: sweeps with the label clamped, 0 or more.
    free: sweeps after the label is gone, 0 or more.
    evaluation_sweeps: free sweeps of a prediction, from zero states.

  Returns:
    A GradientRule for static trials; its loss is the local loss ('local_loss'
    among the metrics, since it is no loss of the task), its metric 'changed'
    the fraction of hidden units that the last sweep still changed.

  Raises:
    TypeError: if `network` is not a RelaxationNetwork.
    ValueError: for a negative number of sweeps, or none at all.

  Source: arXiv 2509.05041 (2025).
  """
  del loss
  base.require_kind('local_plasticity', network, interfaces.RelaxationNetwork)
  for name, sweeps in (
    ('warm_up', warm_up),
    ('clamped', clamped),
    ('free', free),
  ):
    if sweeps < 0:
      raise ValueError(f'{name}={sweeps}: must be 0 or more.')
  if evaluation_sweeps < 1:
    raise ValueError(
      f'evaluation_sweeps={evaluation_sweeps}: must be at least 1.'
    )
  if warm_up + clamped + free == 0:
    raise ValueError(
      'clamped=0: must be at least 1 where warm_up and free are 0 too, or '
      'nothing settles.'
    )
  phases = (('free', warm_up), ('all', clamped), ('free', free))

  def estimate(params, constants, rule_state, key, trials):
    inputs, mask = trials.inputs[0], trials.mask[0]
    # A trial of weight 0 may have any label, and none that is a class.
    targets = unroll.where_asked(mask, trials.targets[0])
    keys = unroll.trial_keys(key, trials.index)
    state = network.initial_state(params, constants, inputs, targets)
    changed = jnp.zeros(1)
    for messages, sweeps in phases:
      if sweeps:
        state, changed = network.settle(
          params, constants, state, keys, messages=messages, sweeps=sweeps
        )
    objective, updates = jax.value_and_grad(network.local_loss)(
      params, constants, state, targets, mask[:, None]
    )
    metrics = {'changed': changed[-1]}
    return base.Estimate(updates, objective, metrics), rule_state

  def init(key, params, constants, trials):
    del key, params, constants, trials
    return base.RuleState(shared=(), per_trial=())

  def begin(params, constants, rule_state, key, trials):
    del params, constants, key, trials
    return rule_state

  model = unroll.model_from_network(network, sweeps=evaluation_sweeps)
  return base.GradientRule(model, init, begin, estimate, objective='local_loss')

# SPDX-License-Identifier: Apache-2.0
"""E-prop on adaptive units is the published traces, written out.

Truth: eligibility traces of every pair of units in NumPy, float64, trial by
trial and step by step, from the parameters and the cell's own run:

  psi_t = .3 max(0, 1 - |v_t - A_t|)
  ev_t  = alpha ev_{t-1} + x_t                  x: inputs, or spikes before
  dz_t  = psi_t (ev_t - beta ea_{t-1})          the spike's own derivative
  ea_t  = rho ea_{t-1} + dz_t,   ef_t = kappa ef_{t-1} + dz_t
  dL/dW = sum_t L_t ef_t,   L_t = B^T (softmax(y_t) - target_t) mask_t

and, where rates cost, with F_t the spikes a second so far, `target` Hz wanted,

  dL/dW += sum_t mask_t weight 2 / N (F_t / target - 1) / target  sum_s dz_s / t

Recurrent weights are not 0, so none of it is BPTT; the answer comes 3 steps
after the last input, and windows of 3 do not divide T = 8.
"""

import functools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import interfaces
from bionet_core.cells import spiking
from bionet_learners.influence import rtrl
from bionet_learners.reverse import bptt
from bionet_learners.traces import e_prop, pp_prop, three_factor
from bionet_tasks import base

pytestmark = pytest.mark.oracle

STEPS, BATCH, INPUTS, UNITS, OUTPUTS = 8, 3, 3, 6, 2
KEY = jax.random.key(4)
BETA = 0.3
WEIGHT, TARGET = 0.5, 100.0  # of what rates cost; Hz
EXACT = {'bptt': bptt.bptt, 'rtrl': rtrl.rtrl}
SPEC = types.SimpleNamespace(input_shape=(INPUTS,), num_outputs=OUTPUTS)


def make(**settings):
  return spiking.spiking(
    SPEC,
    hidden=UNITS,
    adaptive=0.5,
    tau=5.0,
    tau_adaptation=30.0,
    tau_readout=4.0,
    rise=BETA,
    scale_in=3.0,
    scale_recurrent=2.0,
    **settings,
  )


def some_trials():
  inputs = jax.random.uniform(KEY, (STEPS, BATCH, INPUTS))
  inputs = inputs.at[-3:].set(0)
  asked = jnp.zeros((STEPS, BATCH)).at[-2:].set(0.5)
  return interfaces.Trials(
    inputs=inputs,
    targets=jnp.broadcast_to(jnp.arange(BATCH) % OUTPUTS, (STEPS, BATCH)),
    mask=asked,
    index=jnp.arange(BATCH),
  )


@functools.cache
def found(feedback, **settings):
  """`(gradient, loss, params, shared, trials, states [T, B, N])`, float64."""
  with jax.enable_x64(True):
    cell, trials = make(**settings), some_trials()
    params, constants = jax.jit(cell.init)(KEY, trials.inputs[0])
    params['readout']['w'] *= 3
    if feedback in EXACT:
      rule = EXACT[feedback](cell, base.cross_entropy)
    else:
      rule = e_prop.e_prop(
        cell, base.cross_entropy, feedback=feedback, window=3
      )

    @jax.jit
    def run(params):
      state = rule.init(KEY, params, constants, trials)
      state = rule.begin(params, constants, state, KEY, trials)
      estimate, after = rule.estimate(params, constants, state, KEY, trials)

      def advance(state, inputs):
        _, state = cell.step(params, constants, state, None, inputs)
        return state, state

      rest = cell.initial_state(constants, jax.random.split(KEY, BATCH))
      states = jax.lax.scan(advance, rest, trials.inputs)[1]
      return estimate, after.shared, states

    estimate, shared, states = run(params)
    made = (estimate.gradient, estimate.loss, params, shared, trials, states)
    return jax.tree.map(np.asarray, made)


def explicit(params, back, trials, states, beta, weight=0.0):
  """The gradient by the traces above; `back` is B, `[O, N]`."""
  alpha, rho, kappa = (math.exp(-1 / tau) for tau in (5.0, 30.0, 4.0))
  rise = np.where(np.arange(UNITS) < UNITS // 2, 0.0, BETA)
  felt = np.where(np.arange(UNITS) < UNITS // 2, 0.0, beta)
  w_out, bias = params['readout']['w'], params['readout']['b']
  gradient = jax.tree.map(np.zeros_like, params)
  for b in range(BATCH):
    for name, size in (('w_in', INPUTS), ('w_recurrent', UNITS)):
      ev, ea, ef, ec = (np.zeros((size, UNITS)) for _ in range(4))
      z, a = np.zeros(UNITS), np.zeros(UNITS)
      for t in range(STEPS):
        x = trials.inputs[t, b] if name == 'w_in' else z
        excess = states.voltage[t, b] - 1 - rise * a
        psi = 0.3 * np.maximum(0, 1 - np.abs(excess))
        ev = alpha * ev + x[:, None]
        dz = psi * (ev - felt * ea)
        ea = rho * ea + dz
        ef, ec = kappa * ef + dz, ec + dz
        z, a = states.spikes[t, b], states.adaptation[t, b]
        y = states.filtered[t, b] @ w_out + bias
        error = np.exp(y) / np.sum(np.exp(y))
        error[trials.targets[t, b]] -= 1
        error *= trials.mask[t, b] / BATCH
        gradient['spiking'][name] += ef * (error @ back)
        seconds = (t + 1) / 1000
        rate = np.sum(states.spikes[: t + 1, b], axis=0) / seconds
        cost = weight * trials.mask[t, b] / BATCH / UNITS
        cost = cost * 2 * (rate / TARGET - 1) / TARGET / seconds
        gradient['spiking'][name] += ec * cost
        if name == 'w_in':  # of the readout, once
          gradient['readout']['w'] += np.outer(states.filtered[t, b], error)
          gradient['readout']['b'] += error
  gradient['spiking']['w_recurrent'] *= 1 - np.eye(UNITS)
  return gradient


def errors(actual, expected):
  """`{group: relative error}`, none of the expected being small."""
  apart = {}
  for path, leaf in jax.tree.leaves_with_path(expected):
    norm = np.linalg.norm(leaf)
    assert norm > 1e-3, path
    other = functools.reduce(lambda tree, key: tree[key.key], path, actual)
    apart[path[-1].key] = np.linalg.norm(other - leaf) / norm
  return apart


@pytest.mark.parametrize(
  'feedback, beta',
  [('symmetric', BETA), ('random', BETA), ('symmetric', 0.0)],
)
def test_the_gradient_is_the_explicit_traces(feedback, beta):
  """Truth: above; with beta 0 in the trace alone, credit_adaptation=False.

  Mutant: the traces of the other one of these two cells.
  """
  gradient, _, params, shared, trials, states = found(
    feedback, credit_adaptation=beta > 0
  )
  assert 0.1 < np.mean(states.spikes) < 0.6
  assert np.max(states.adaptation) > 1
  back = params['readout']['w'].T if feedback == 'symmetric' else shared
  expected = explicit(params, back, trials, states, beta)
  assert max(errors(gradient, expected).values()) < 1e-6
  other = explicit(params, back, trials, states, BETA - beta)
  mutant = errors(gradient, other)
  assert min(mutant['w_in'], mutant['w_recurrent']) > 0.02
  assert max(mutant['w'], mutant['b']) < 1e-6


def test_backpropagation_passes_the_recurrent_weights():
  """Truth: the traces, which do not; the readout's gradient is the same."""
  gradient, _, params, _, trials, states = found('bptt')
  back = params['readout']['w'].T
  apart = errors(gradient, explicit(params, back, trials, states, BETA))
  assert min(apart['w_in'], apart['w_recurrent']) > 0.02
  assert max(apart['w'], apart['b']) < 1e-6


def test_what_rates_cost_is_in_the_traces():
  """Truth: above, with random feedback, which this cost does not pass.

  Mutant: the same without the cost, which is off in both weights of the units.
  The loss has risen by the cost, written out from the spikes.
  """
  costly = {'rate_weight': WEIGHT, 'rate_target': TARGET}
  gradient, loss, params, shared, trials, states = found('random', **costly)
  args = (params, shared, trials, states, BETA)
  assert max(errors(gradient, explicit(*args, WEIGHT)).values()) < 1e-6
  mutant = errors(gradient, explicit(*args))
  assert min(mutant['w_in'], mutant['w_recurrent']) > 0.02
  cost = 0.0
  for t in range(STEPS):
    rates = np.sum(states.spikes[: t + 1], axis=0) / ((t + 1) / 1000)
    each = WEIGHT * np.mean((rates / TARGET - 1) ** 2, axis=-1)
    cost += np.mean(trials.mask[t] * each)
  without = found('random')[1]
  np.testing.assert_allclose(loss - without, cost, rtol=1e-9)
  assert cost > 0.1


def test_exact_sensitivities_have_what_rates_cost():
  """Truth: backpropagation, float64. Mutant: rates that cost nothing."""
  costs = {'rate_weight': WEIGHT, 'rate_target': TARGET}
  exact, forward, free = (
    found(rule, **more)[0]
    for rule, more in (('bptt', costs), ('rtrl', costs), ('rtrl', {}))
  )
  for module, name in (('spiking', 'w_in'), ('spiking', 'w_recurrent')):
    truth, got = exact[module][name], forward[module][name]
    assert np.linalg.norm(got - truth) < 1e-9 * np.linalg.norm(truth)
    other = free[module][name]
    assert np.linalg.norm(other - truth) > 1e-2 * np.linalg.norm(truth)


@pytest.mark.parametrize('feedback', ['symmetric', 'random'])
def test_a_filter_on_the_emission_keeps_what_rates_cost(feedback):
  """Truth: the gradient with the cost less that without, which has no kappa."""
  trials, costs = some_trials(), []
  for kappa in (0.0, 0.5):
    updates = []
    for weight in (WEIGHT, 0.0):
      cell = make(rate_weight=weight, rate_target=TARGET)
      rule = e_prop.e_prop(
        cell, base.cross_entropy, kappa=kappa, window=3, feedback=feedback
      )
      params, constants = jax.jit(cell.init)(KEY, trials.inputs[0])
      state = rule.init(KEY, params, constants, trials)
      estimate, _ = rule.estimate(params, constants, state, KEY, trials)
      updates.append(estimate.gradient['spiking'])
    costs.append(jax.tree.map(jnp.subtract, *updates))
  for leaf, other in zip(*map(jax.tree.leaves, costs), strict=True):
    assert jnp.linalg.norm(leaf) > 1e-2
    np.testing.assert_allclose(leaf, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
  ('rule', 'message'),
  [
    (pp_prop.pp_prop, 'penalty on its state'),
    (three_factor.three_factor, 'one number'),
  ],
)
def test_rules_that_cannot_take_what_rates_cost_refuse_it(rule, message):
  """Truth: the message."""
  cell, trials = make(rate_weight=WEIGHT), some_trials()
  params, constants = jax.jit(cell.init)(KEY, trials.inputs[0])
  with pytest.raises(ValueError, match=message):
    made = rule(cell, base.cross_entropy)
    state = made.init(KEY, params, constants, trials)
    jax.eval_shape(made.estimate, params, constants, state, KEY, trials)

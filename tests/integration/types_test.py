# SPDX-License-Identifier: Apache-2.0
"""The central types carry rules that are very unlike each other.

Toy versions of exact forward sensitivities, an eligibility trace with random
feedback, an evolution step, and the noisy tissue with a population loss: all on
the records of `interfaces` and `base`, without a back door. Should one of them
need one, the types are wrong.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bionet_core import unroll
from bionet_learners import base, oracles, testing
from bionet_learners.reverse import bptt
from tests import small
from tests.integration import toys


def trials_of_toys():
  """Asked late, and not at every step."""
  return small.trials((toys.T, toys.B, toys.I, toys.O), (3, 6, 7), first=10)


def estimate_in_windows(rule, trials, windows):
  """Sum of a rule's estimates over windows, the weights held fixed."""
  params, constants = jax.jit(rule.model.init)(jax.random.key(1), trials)
  run = functools.partial(small.in_windows, rule, lengths=windows)
  return jax.jit(run)(params, constants, jax.random.key(7), trials)[0]


@pytest.mark.oracle
def test_forward_sensitivities_equal_bptt_across_window_borders():
  """Truth: BPTT over the whole trial. Mutant: influence dropped each step."""
  trials, cell = trials_of_toys(), small.stock('gru', toys.N, toys.O)
  exact = estimate_in_windows(
    bptt.bptt(cell, small.squared_error), trials, (toys.T,)
  )
  for windows in ((toys.T,), (3, 3, 2)):
    rtrl = estimate_in_windows(
      toys.toy_rtrl(cell, small.squared_error), trials, windows
    )
    chex.assert_trees_all_close(rtrl, exact, rtol=1e-4, atol=1e-6)
  mutant = toys.toy_rtrl(cell, small.squared_error, drop_influence=True)
  wrong = estimate_in_windows(mutant, trials, (3, 3, 2))
  for leaf in ('w_i', 'w_h', 'b'):
    assert oracles.relative_error(wrong['gru'][leaf], exact['gru'][leaf]) > 0.05


def test_rtrl_runs_online_and_resumes_in_the_middle_of_a_trial():
  """Truth: `descend(every=3)` is the loop over its windows, written out."""
  trials, rule = (
    trials_of_toys(),
    toys.toy_rtrl(small.stock('gru', toys.N, toys.O), small.squared_error),
  )
  learner = base.descend(rule, optax.sgd(0.1), every=3)
  key = jax.random.key(3)
  state = jax.jit(learner.init)(jax.random.key(0), trials)
  params, rule_state = state.params, state.rule_state
  after, _ = jax.jit(learner.update)(state, key, trials)
  rule_state = rule.begin(params, {}, rule_state, key, trials)
  for start in (0, 3, 6):
    part = slice(start, min(start + 3, toys.T))
    window = trials.replace(
      inputs=trials.inputs[part],
      targets=trials.targets[part],
      mask=trials.mask[part],
    )
    estimate, rule_state = jax.jit(rule.estimate)(
      params, {}, rule_state, key, window
    )
    params = jax.tree.map(lambda p, g: p - 0.1 * g, params, estimate.gradient)
  chex.assert_trees_all_close(after.params, params, rtol=1e-5, atol=1e-7)


@pytest.mark.oracle
def test_eligibility_trace_is_exact_without_recurrence():
  """Truth: BPTT. With R = 0 and symmetric feedback nothing is dropped."""
  trials, cell = (
    trials_of_toys(),
    toys.without_recurrence(toys.leaky_cell()),
  )
  exact = estimate_in_windows(
    bptt.bptt(cell, small.squared_error), trials, (toys.T,)
  )

  def at_zero(rule):  # the trace is of a cell whose R is 0
    return rule._replace(
      model=rule.model._replace(
        init=lambda key, t: _zero_r(*rule.model.init(key, t))
      )
    )

  for windows in ((toys.T,), (3, 3, 2)):
    symmetric = toys.toy_e_prop(
      toys.leaky_cell(), small.squared_error, feedback='symmetric'
    )
    updates = estimate_in_windows(at_zero(symmetric), trials, windows)
    for name in ('w', 'out'):
      np.testing.assert_allclose(
        updates[name], exact[name], rtol=1e-4, atol=1e-6
      )
  random = at_zero(toys.toy_e_prop(toys.leaky_cell(), small.squared_error))
  updates = estimate_in_windows(random, trials, (3, 3, 2))
  np.testing.assert_allclose(updates['out'], exact['out'], rtol=1e-4, atol=1e-6)
  assert oracles.relative_error(updates['w'], exact['w']) > 0.1


def _zero_r(params, constants):
  return {**params, 'r': params['r'] * 0}, constants


@pytest.mark.oracle
def test_evolution_improves_a_stock_gru():
  """Truth: elites stay, so on fixed trials the best loss never rises."""
  trials = trials_of_toys()
  learner = toys.toy_evolution(
    small.stock('gru', toys.N, toys.O),
    small.squared_error,
    population=12,
    elites=3,
    std=0.1,
  )
  state = jax.jit(learner.init)(jax.random.key(0), trials)
  update = jax.jit(learner.update)
  losses = []
  for _ in range(15):
    state, metrics = update(state, jax.random.key(1), trials)
    losses.append(float(metrics['loss']))
  assert np.all(np.diff(losses) <= 0) and losses[-1] < 0.9 * losses[0]
  outputs = learner.predict(state, jax.random.key(1), trials)
  chex.assert_shape(outputs, (toys.T, toys.B, toys.O))


def test_tissue_gradient_through_noise_equals_finite_differences():
  """Truth: central differences in float64, on the same noise."""
  with jax.enable_x64(True):
    cell, trials = toys.toy_tissue(), toys.tissue_trials()
    trials = jax.tree.map(
      lambda x: x.astype(float) if x.dtype == jnp.float32 else x, trials
    )
    rule = bptt.bptt(cell, toys.pattern_utility, remat=True)
    params, constants = rule.model.init(jax.random.key(0), trials)
    key = jax.random.key(5)

    def estimate(params):
      state = rule.init(key, params, constants, trials)
      state = rule.begin(params, constants, state, key, trials)
      return rule.estimate(params, constants, state, key, trials)[0]

    got = jax.jit(estimate)(params)
    wanted = oracles.finite_differences(lambda p: estimate(p).loss, params)
    assert oracles.norm(wanted) > 1e-3
    assert oracles.relative_error(got.gradient, wanted) < 1e-6


@pytest.mark.parametrize('count', [pytest.param(2, marks=pytest.mark.slow), 4])
def test_population_loss_over_devices_equals_one(count):
  """Truth: the same estimate on one device. Mutant: the loss not gathered."""
  cell, trials = toys.toy_tissue(), toys.tissue_trials()
  key = jax.random.key(5)

  def updated(loss, devices, trials):
    learner = base.descend(
      bptt.bptt(cell, loss), optax.sgd(1.0), devices=devices
    )
    state = learner.init(jax.random.key(0), trials)
    return learner.update(state, key, trials)[0].params

  one = jax.jit(lambda t: updated(toys.pattern_utility, base.ONE, t))(trials)

  def split(x, axis):
    x = x.reshape(*x.shape[:axis], count, -1, *x.shape[axis + 1 :])
    return jnp.moveaxis(x, axis, 0)

  parts = trials.replace(
    inputs=split(trials.inputs, 1),
    targets=split(trials.targets, 1),
    mask=split(trials.mask, 1),
    index=split(trials.index, 0),
  )
  devices = base.Devices(
    count=count,
    index=lambda: jax.lax.axis_index('d'),
    mean=functools.partial(jax.lax.pmean, axis_name='d'),
    gather=functools.partial(jax.lax.all_gather, axis_name='d', tiled=True),
  )

  def on_devices(loss):
    many = jax.pmap(lambda t: updated(loss, devices, t), axis_name='d')(parts)
    return jax.tree.map(lambda x: x[0], jax.device_get(many))

  together = unroll.gathered(toys.pattern_utility, devices.gather)
  chex.assert_trees_all_close(on_devices(together), one, rtol=1e-4, atol=1e-6)
  with pytest.raises(AssertionError):
    alone = on_devices(toys.pattern_utility)
    chex.assert_trees_all_close(alone, one, rtol=1e-4, atol=1e-6)


TOYS = {
  'rtrl': lambda: toys.toy_rtrl(
    small.stock('gru', toys.N, toys.O), small.squared_error
  ),
  'e_prop': lambda: toys.toy_e_prop(toys.leaky_cell(), small.squared_error),
  'tissue': lambda: bptt.bptt(toys.toy_tissue(), toys.pattern_utility),
}


@pytest.mark.oracle
@pytest.mark.parametrize(
  'name',
  [
    pytest.param('rtrl', marks=pytest.mark.slow),
    'e_prop',
    pytest.param('tissue', marks=pytest.mark.slow),
  ],
)
def test_toys_keep_the_contract_of_rules(name):
  """Truth: the laws of `bionet_learners.testing`."""
  population = name == 'tissue'
  trials = toys.tissue_trials() if population else trials_of_toys()
  testing.check_rule(TOYS[name](), trials, per_trial=not population)

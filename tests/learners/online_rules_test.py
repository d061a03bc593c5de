# SPDX-License-Identifier: Apache-2.0
"""Rules with traces against sums written out step by step."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bionet_core
from bionet_core import interfaces, plugins
from bionet_core.cells import cores as cells
from bionet_learners import description, oracles, testing
from bionet_learners.reverse import bptt, truncated_bptt
from bionet_learners.traces import (
  d_rtrl,
  e_prop,
  modulation,
  pp_prop,
  rflo,
  three_factor,
)
from tests import small

pytestmark = pytest.mark.oracle

T, B, I, N, O = 7, 2, 3, 4, 2
LEAK = 0.75
KEY = jax.random.key(4)


def trials():
  batch = small.trials((T, B, I, O), (4, 6))
  # A constant input, to compare the bias with.
  return batch.replace(inputs=batch.inputs.at[..., -1].set(1))


class Leaky(hk.RNNCore):
  """H <- LEAK h + (1 - LEAK) tanh(x w + h u + b)."""

  def initial_state(self, batch_size):  # noqa: D102
    return jnp.zeros((batch_size, N))

  def __call__(self, inputs, state):  # noqa: D102
    drive = hk.Linear(N, name='in')(inputs)
    drive += hk.Linear(N, with_bias=False, name='rec')(state)
    state = LEAK * state + (1 - LEAK) * jnp.tanh(drive)
    return state, state


CELL = cells.cell_from_core(Leaky, lambda: hk.Linear(O, name='out'))
BATCH = trials()
PARAMS, _ = CELL.init(jax.random.key(0), BATCH.inputs[0])
INPUT, RECURRENT, OUT = 'leaky/in', 'leaky/rec', 'out'


def gradient(rule, rule_state=None):
  state = rule.init(KEY, PARAMS, {}, BATCH)
  if rule_state is not None:
    state = state._replace(shared=rule_state)
  return jax.jit(rule.estimate)(PARAMS, {}, state, KEY, BATCH)


def by_hand(*, leak=LEAK, matrix=None, kappa=0.0, signal=None, decay=None):
  """The traces of `Leaky`, one step after the other, in numpy.

  `decay` filters pre and post apart instead of keeping their product.
  """
  p = jax.tree.map(np.asarray, PARAMS)
  w, u, b = p[INPUT]['w'], p[RECURRENT]['w'], p[INPUT]['b']
  o = p[OUT]['w']
  matrix = o.T if matrix is None else np.asarray(matrix)
  h = np.zeros((B, N))
  trace = np.zeros((B, I + N + 1, N))
  smooth, pre, post = np.zeros_like(trace), np.zeros(trace.shape[:2]), 0.0
  total = np.zeros(trace.shape[1:])
  for t in range(T):
    x = np.concatenate([BATCH.inputs[t], h, np.ones((B, 1))], axis=1)
    y = np.tanh(np.asarray(BATCH.inputs[t]) @ w + h @ u + b)
    slope = (1 - LEAK) * (1 - y**2)
    h = LEAK * h + (1 - LEAK) * y
    trace = leak * trace + x[:, :, None] * slope[:, None]
    smooth = kappa * smooth + trace
    eligibility = smooth
    if decay is not None:
      pre = decay * pre + x
      post = decay * leak * post + (1 - decay) * slope
      eligibility = pre[:, :, None] * post[:, None] / (1 - decay ** (t + 1))
    error = h @ o + p[OUT]['b'] - np.asarray(BATCH.targets[t])
    weight = np.asarray(BATCH.mask[t])[:, None] / B
    learning = 2 * error * weight @ matrix
    if signal is not None:
      learning = signal(error, weight) * np.ones((B, N))
    total += np.sum(eligibility * learning[:, None], axis=0)
  return {'w': total[:I], 'u': total[I : I + N], 'b': total[-1]}


def assert_by_hand(updates, wanted, tolerance=2e-6):
  got = {
    'w': updates[INPUT]['w'],
    'u': updates[RECURRENT]['w'],
    'b': updates[INPUT]['b'],
  }
  for name, leaf in wanted.items():
    assert np.linalg.norm(leaf) > 1e-3, f'{name}: nothing to compare'
    error = np.linalg.norm(got[name] - leaf) / np.linalg.norm(leaf)
    assert error < tolerance, (name, error)
  exact, _ = gradient(bptt.bptt(CELL, small.squared_error))
  for name in ('w', 'b'):  # the readout's gradient is exact in every rule
    leaf = exact.gradient[OUT][name]
    assert oracles.relative_error(updates[OUT][name], leaf) < 1e-6


def test_e_prop_with_symmetric_feedback_is_d_rtrl():
  """Truth: `d_rtrl`, and the traces written out step by step."""
  got, _ = gradient(e_prop.e_prop(CELL, small.squared_error, window=2))
  assert_by_hand(got.gradient, by_hand())
  same, _ = gradient(
    d_rtrl.d_rtrl(CELL, small.squared_error, execution='reverse')
  )
  assert oracles.relative_error(got.gradient, same.gradient) < 2e-6


@pytest.mark.parametrize('kind', ['random', 'adaptive'])
def test_e_prop_sends_errors_through_its_own_matrix(kind):
  """Truth: the traces written out, with a matrix of ours, and a filter.

  Adaptive feedback then takes one step against the readout's gradient.
  """
  matrix = jax.random.normal(jax.random.key(9), (O, N))
  rule = e_prop.e_prop(
    CELL,
    small.squared_error,
    feedback=kind,
    kappa=0.6,
    window=3,
    adaptation_rate=0.5,
    adaptation_decay=0.1,
  )
  got, state = gradient(rule, matrix)
  wanted = by_hand(matrix=matrix, kappa=0.6)
  assert_by_hand(got.gradient, wanted)
  unfiltered = by_hand(matrix=matrix)
  assert np.linalg.norm(unfiltered['w'] - wanted['w']) > 0.1 * np.linalg.norm(
    wanted['w']
  )
  after = matrix
  if kind == 'adaptive':
    after = 0.9 * matrix - 0.5 * got.gradient[OUT]['w'].T
  np.testing.assert_allclose(state.shared, after, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('kind', ['symmetric', 'random'])
def test_the_learning_signal_is_the_error_through_the_feedback(kind):
  """Truth: the loss's own derivative times the matrix; 0 if none is asked."""
  rule = e_prop.e_prop(CELL, small.squared_error, feedback=kind)
  state = rule.init(KEY, PARAMS, {}, BATCH)
  matrix = PARAMS[OUT]['w'].T if kind == 'symmetric' else state.shared
  emission = jax.random.normal(KEY, (B, N))
  error = CELL.readout(PARAMS, {}, emission) - BATCH.targets[4]
  for t in (4, 5):
    found = rule.learning_signal(
      PARAMS, {}, state, emission, BATCH.targets[4], BATCH.mask[t]
    )
    expected = 2 * error * BATCH.mask[t][:, None] / B @ matrix
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert np.any(found) == (t == 4)
  assert bptt.bptt(CELL, small.squared_error).learning_signal is None


def test_random_feedback_is_as_large_as_the_readout():
  """Truth: the readout's own root mean square, to the spread of 8 draws."""
  rule = e_prop.e_prop(CELL, small.squared_error, feedback='random')
  draws = [
    rule.init(jax.random.key(k), PARAMS, {}, BATCH).shared for k in range(4)
  ]
  size = float(jnp.sqrt(jnp.mean(jnp.stack(draws) ** 2)))
  own = float(jnp.sqrt(jnp.mean(PARAMS[OUT]['w'] ** 2)))
  assert 0.6 < size / own < 1.5
  assert np.any(draws[0] != draws[1])


def test_rflo_keeps_the_leak_alone():
  """Truth: the traces written out, with the leak of the rule, not the cell."""
  matrix = jax.random.normal(jax.random.key(9), (O, N))
  rule = rflo.rflo(CELL, small.squared_error, tau=2.0, window=3)
  got, _ = gradient(rule, matrix)
  assert_by_hand(got.gradient, by_hand(leak=0.5, matrix=matrix))
  own = rflo.rflo(
    CELL, small.squared_error, tau=4.0, feedback='symmetric', window=2
  )
  got, _ = gradient(own)
  assert_by_hand(got.gradient, by_hand())


def test_pp_prop_filters_pre_and_post():
  """Truth: the two filters written out; the bias is a constant input's weight.

  Without the filter of the constant input the bias would be 1 / (1 - decay)
  too small.
  """
  got, _ = gradient(pp_prop.pp_prop(CELL, small.squared_error, decay=0.8))
  assert_by_hand(got.gradient, by_hand(decay=0.8))
  np.testing.assert_allclose(
    got.gradient[INPUT]['b'], got.gradient[INPUT]['w'][-1], rtol=1e-5
  )


def test_three_factors_are_a_number_a_trial_times_the_trace():
  """Truth: the traces written out, times the loss less what was expected."""
  rule = three_factor.three_factor(CELL, small.squared_error, window=3)
  expected = modulation.Expectation(jnp.float32(0.7), jnp.float32(1))

  def signal(error, weight):
    surprise = np.sum(error**2, axis=1, keepdims=True) - 0.7
    return surprise * weight

  got, state = gradient(rule, expected)
  assert_by_hand(got.gradient, by_hand(signal=signal))
  np.testing.assert_allclose(
    state.shared.loss, 0.7 + 0.1 * (got.loss - 0.7), rtol=1e-5
  )


def test_truncated_bptt_is_bptt_of_each_window():
  """Truth: BPTT called window by window; a full window is BPTT."""
  whole = bptt.bptt(CELL, small.squared_error)
  state = whole.init(KEY, PARAMS, {}, BATCH)
  total = jax.tree.map(jnp.zeros_like, PARAMS)
  for begin in range(0, T, 3):
    part = small.window(BATCH, begin, begin + 3)
    said, state = whole.estimate(PARAMS, {}, state, KEY, part)
    total = jax.tree.map(jnp.add, total, said.gradient)
  rule = truncated_bptt.truncated_bptt(CELL, small.squared_error, window=3)
  got, after = gradient(rule)
  assert oracles.relative_error(got.gradient, total) < 1e-6
  np.testing.assert_array_equal(after.per_trial.steps, T)
  exact, _ = gradient(whole)
  assert oracles.relative_error(got.gradient, exact.gradient) > 0.01


@pytest.mark.parametrize(
  'make, settings, match',
  [
    (e_prop.e_prop, {'feedback': 'exact'}, 'symmetric, random, adaptive'),
    (e_prop.e_prop, {'kappa': 1.0}, r'kappa=1.0.*\[0, 1\)'),
    (rflo.rflo, {'tau': 0.5}, 'tau=0.5: '),
    (pp_prop.pp_prop, {'decay': 1.0}, 'decay=1.0: '),
    (three_factor.three_factor, {'modulator': 'x'}, 'surprise, loss'),
    (
      three_factor.three_factor,
      {'expectation_rate': 0.0},
      'expectation_rate=0.0: ',
    ),
    (truncated_bptt.truncated_bptt, {'window': 0}, 'window=0: '),
  ],
)
def test_settings_that_cannot_be(make, settings, match):
  """Truth: the message names the setting and what is allowed."""
  with pytest.raises(ValueError, match=match):
    make(CELL, small.squared_error, **settings)


# Every rule on every cell over time.


MAKERS = {
  'd_rtrl': lambda c: d_rtrl.d_rtrl(c, small.squared_error, window=2),
  'd_rtrl exact': lambda c: d_rtrl.d_rtrl(
    c, small.squared_error, window=2, within='exact'
  ),
  'reverse': lambda c: d_rtrl.d_rtrl(
    c, small.squared_error, execution='reverse'
  ),
  'e_prop': lambda c: e_prop.e_prop(
    c, small.squared_error, window=2, feedback='random'
  ),
  'pp_prop': lambda c: pp_prop.pp_prop(c, small.squared_error),
  'rflo': lambda c: rflo.rflo(c, small.squared_error, window=2),
  'three_factor': lambda c: three_factor.three_factor(
    c, small.squared_error, window=2
  ),
  'truncated_bptt': lambda c: truncated_bptt.truncated_bptt(
    c, small.squared_error, window=2
  ),
}

OTHER_INPUTS = ('tissue',)  # cells whose inputs are not a task's features
NETWORKS = [name for name in bionet_core.CELLS if name not in OTHER_INPUTS]
FIRST = list(zip(MAKERS, NETWORKS * len(MAKERS), strict=False))
PAIRS = [
  pytest.param(
    rule, cell, marks=() if (rule, cell) in FIRST else pytest.mark.slow
  )
  for rule in MAKERS
  for cell in NETWORKS
]


def learned(rule, cell):
  """A gradient, in which only what `describe` names may be zero."""
  params, constants = cell.init(jax.random.key(0), BATCH.inputs[0])
  state = rule.init(KEY, params, constants, BATCH)
  said, _ = jax.jit(rule.estimate)(params, constants, state, KEY, BATCH)
  return said.gradient


@pytest.mark.parametrize('rule, cell', PAIRS)
def test_every_leaf_learns_or_is_named(rule, cell):
  """Truth: `describe`; a leaf with credit has a gradient that is not 0."""
  made = plugins.load('bionet.cells', cell, bionet_core.CELLS)(
    small.Sizes((I,), O), hidden=3
  )
  updates = learned(MAKERS[rule](made), made)
  rows = description.describe(made, BATCH.inputs[0])
  for row, leaf in zip(rows, jax.tree.leaves(updates), strict=True):
    assert np.all(np.isfinite(leaf)), row
    if row.silent < row.size:
      assert np.any(leaf != 0), row


@pytest.mark.slow
@pytest.mark.parametrize('cell', NETWORKS)
@pytest.mark.parametrize('rule', MAKERS)
def test_every_rule_keeps_the_contract_on_every_cell(rule, cell):
  """Truth: the laws listed in `check_rule`."""
  made = plugins.load('bionet.cells', cell, bionet_core.CELLS)(
    small.Sizes((I,), O), hidden=3
  )
  testing.check_rule(MAKERS[rule](made), BATCH)


def test_a_cell_without_a_state_has_its_exact_gradient():
  """Truth: BPTT of a static network, which needs no credit in time."""
  cell = feedforward()
  params, _ = cell.init(jax.random.key(0), BATCH.inputs[0])

  def run(rule):
    state = rule.init(KEY, params, {}, BATCH)
    return jax.jit(rule.estimate)(params, {}, state, KEY, BATCH)[0].gradient

  wanted = run(bptt.bptt(cell, small.squared_error))
  for make in (d_rtrl.d_rtrl, pp_prop.pp_prop):
    got = run(make(cell, small.squared_error))
    assert oracles.relative_error(got, wanted) < 1e-6


def feedforward():
  """Tanh units and a linear readout; no state."""

  def init(key, inputs):
    w, o = jax.random.split(key)
    return {
      'w': jax.random.normal(w, (inputs.shape[-1], N)),
      'o': jax.random.normal(o, (N, O)),
    }, {}

  return interfaces.Cell(
    init,
    lambda constants, keys: (),
    lambda params, constants, state, keys, x: (jnp.tanh(x @ params['w']), ()),
    lambda params, constants, emission: emission @ params['o'],
  )

# SPDX-License-Identifier: Apache-2.0
"""D-RTRL where it is exact, across the borders of windows, and its mutants."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bionet_core import interfaces
from bionet_core.cells import cores as cells
from bionet_learners import base, description, oracles
from bionet_learners.reverse import bptt
from bionet_learners.traces import advance, d_rtrl
from tests import small

pytestmark = pytest.mark.oracle

T, B, I, N, O = 8, 2, 3, 4, 2
KEY = jax.random.key(4)


def trials(seed=1):
  """Delayed: targets are asked for late, and the mask has holes."""
  return small.trials((T, B, I, O), (4, 7), seed=seed)


class Elementwise(hk.RNNCore):
  """Units that never hear each other: `kind` says how they keep their state."""

  def __init__(self, kind):
    super().__init__()
    self._kind = kind

  def initial_state(self, batch_size):  # noqa: D102
    zero = jnp.zeros((batch_size, N))
    return (zero, zero) if self._kind in ('chain', 'rotation') else zero

  def __call__(self, inputs, state):  # noqa: D102
    drive = hk.Linear(N)(inputs)
    if self._kind == 'leaky':
      state = 0.9 * state + drive
      return state, state
    if self._kind == 'chain':
      c = 0.9 * state[0] + drive
      h = 0.5 * state[1] + c
      return h, (c, h)
    if self._kind == 'min_gru':
      gate = jax.nn.sigmoid(hk.Linear(N)(inputs))
      state = (1 - gate) * state + gate * drive
      return state, state
    size = hk.get_parameter('size', (1, N), init=hk.initializers.Constant(1.0))
    turn = hk.get_parameter('turn', (1, N), init=hk.initializers.RandomNormal())
    a, b = jnp.exp(-size * 0.2) * jnp.cos(turn), jnp.exp(-size) * jnp.sin(turn)
    x = a * state[0] - b * state[1] + drive
    y = b * state[0] + a * state[1] + hk.Linear(N)(inputs)
    emission = jnp.concatenate([x, y], axis=-1)
    return hk.Linear(N)(emission) + inputs[:, :1] * size, (x, y)


CORES = {
  'leaky': lambda: Elementwise('leaky'),
  'chain': lambda: Elementwise('chain'),
  'min_gru': lambda: Elementwise('min_gru'),
  'rotation': lambda: Elementwise('rotation'),
  'gru': lambda: hk.GRU(N),
  'lstm': lambda: hk.LSTM(N),
  'rnn': lambda: hk.VanillaRNN(N),
  'stack': lambda: hk.DeepRNN([hk.LSTM(N), jnp.tanh, hk.GRU(3)]),
}


class Case:
  """A cell with parameters, and gradients of rules on them."""

  def __init__(self, core, deaf=False):
    self.cell = cells.cell_from_core(CORES[core], lambda: hk.Linear(O))
    self.batch = trials()
    params, _ = self.cell.init(jax.random.key(0), self.batch.inputs[0])
    rng = np.random.default_rng(7)
    self.params = jax.tree.map(  # biases too
      lambda p: p + 0.3 * rng.normal(size=p.shape).astype(p.dtype), params
    )
    if deaf:
      self.params = without_recurrence(core, self.params)

  def run(self, make, **settings):  # noqa: D102
    rule = make(self.cell, small.squared_error, **settings)
    state = rule.init(KEY, self.params, {}, self.batch)
    estimate = jax.jit(rule.estimate)
    return estimate(self.params, {}, state, KEY, self.batch)[0].gradient


def without_recurrence(core, params):
  """The parameters with what units hear of each other set to zero."""
  if core == 'gru':
    zeroed = {'w_h': jnp.zeros_like(params['gru']['w_h'])}
    return {**params, 'gru': {**params['gru'], **zeroed}}
  linear = params['lstm/linear']
  w = linear['w'].at[I:].set(0)
  return {**params, 'lstm/linear': {**linear, 'w': w}}


def assert_equal(got, wanted, tolerance=1e-6, leave=()):
  for path, leaf in jax.tree.leaves_with_path(wanted):
    own = dict(jax.tree.leaves_with_path(got))[path]
    name = jax.tree_util.keystr(path)
    if name in leave:
      continue
    assert oracles.norm(leaf) > 1e-4, f'{path}: nothing to compare'
    assert oracles.relative_error(own, leaf) < tolerance, path


EXACT = {
  'leaky': False,
  'chain': False,
  'min_gru': False,
  'rotation': False,
  'gru': True,
  'lstm': True,
}
"""Cells where D-RTRL is exact, and whether their recurrence must be zeroed."""


@pytest.mark.parametrize('core', EXACT)
def test_it_is_bptt_where_units_do_not_hear_each_other(core):
  """Truth: BPTT; in a GRU and an LSTM recurrent weights are zero.

  A recurrent weight of zero still has a gradient. Parameters whose effect does
  not outlive the step must agree as well, the readout among them.
  """
  case = Case(core, deaf=EXACT[core])
  wanted = case.run(bptt.bptt)
  got = case.run(d_rtrl.d_rtrl, window=3)
  if core == 'gru':  # zero weights: the reset gate does nothing
    for tree in (got, wanted):
      gru = tree['gru']
      for name in ('b', 'w_i', 'w_h'):
        assert not np.any(gru[name][..., N : 2 * N])
  assert_equal(got, wanted, 3e-6)


MUTANTS = ('no decay', 'no trace over the border', 'double')


@pytest.mark.parametrize('mutant', MUTANTS)
def test_what_leaves_out_a_part_is_not_exact(mutant, monkeypatch):
  """Truth: each mutant drops or doubles what carries credit over a border."""
  case = Case('chain')
  wanted = case.run(bptt.bptt)
  whole = advance.advance_all

  def broken(sites, traces, window, *needed, **order):
    if mutant == 'no decay':
      decay = jax.tree.map(jnp.zeros_like, window.decay)
      return whole(
        sites, traces, window._replace(decay=decay), *needed, **order
      )
    if mutant == 'double':
      drive = jax.tree.map(lambda c: 2 * c, window.drive)
      return whole(
        sites, traces, window._replace(drive=drive), *needed, **order
      )
    return jax.tree.map(jnp.zeros_like, traces)

  monkeypatch.setattr(advance, 'advance_all', broken)
  got = case.run(d_rtrl.d_rtrl, window=3)
  for module in ('elementwise/linear',):
    for name in ('w', 'b'):
      error = oracles.relative_error(got[module][name], wanted[module][name])
      assert error > 0.05, (module, name, error)


@pytest.mark.parametrize('core', ['lstm', 'rotation'])
def test_windows_and_execution_change_nothing(core):
  """Truth: one reverse pass through the cut cell, without windows or traces.

  Holds where `describe` names nothing that is kept within windows alone; T is
  no multiple of the window.
  """
  case = Case(core)
  rows = description.describe(case.cell, case.batch.inputs[0])
  assert not any(row.within_window for row in rows)
  wanted = case.run(d_rtrl.d_rtrl, execution='reverse')
  for window in (1, 3):
    got = case.run(d_rtrl.d_rtrl, window=window)
    assert_equal(got, wanted, 3e-6)
  whole = case.run(bptt.bptt)
  if core == 'lstm':  # the rule is seen: it is not BPTT
    error = oracles.relative_error(wanted['lstm/linear'], whole['lstm/linear'])
    assert error > 0.02


def test_what_is_kept_within_windows_is_named_and_learns():
  """Truth: the reverse pass; only what `describe` names may differ."""
  case = Case('stack')
  rows = description.describe(case.cell, case.batch.inputs[0])
  named = {row.name for row in rows if row.within_window}
  assert named and len(named) < len(rows)
  wanted = case.run(d_rtrl.d_rtrl, execution='reverse')
  online = case.run(d_rtrl.d_rtrl, window=1)
  assert_equal(online, wanted, 3e-6, leave=named)
  assert_equal(case.run(d_rtrl.d_rtrl, execution='auto'), wanted, 3e-6)
  for row, leaf in zip(rows, jax.tree.leaves(online), strict=True):
    assert row.silent == int(np.sum(np.asarray(leaf) == 0)), row


def test_a_reset_gate_learns_within_its_window():
  """Truth: the reverse pass; the reset gate's part of `describe` alone differs.

  At K = 1 the gate has the gradient of its own step, which is not zero.
  """
  case = Case('gru')
  row = {
    r.name: r for r in description.describe(case.cell, case.batch.inputs[0])
  }
  assert row["['gru']['w_i']"].within_window == I * N
  wanted = case.run(d_rtrl.d_rtrl, execution='reverse')
  got = case.run(d_rtrl.d_rtrl, window=1)
  for name, leaf in got['gru'].items():
    reset = np.arange(3 * N) // N == 1
    own, true = leaf[..., ~reset], wanted['gru'][name][..., ~reset]
    assert oracles.relative_error(own, true) < 3e-6
    assert np.all(leaf[..., reset] != 0)
    assert oracles.cosine(leaf, wanted['gru'][name]) > 0.9


@pytest.mark.parametrize('within', ['cut', 'exact'])
def test_windows_from_outside_equal_windows_from_inside(within):
  """Truth: one call over all steps; traces cross the border in the state."""
  case = Case('gru')
  rule = d_rtrl.d_rtrl(case.cell, small.squared_error, window=2, within=within)
  start = state = rule.init(KEY, case.params, {}, case.batch)
  total = jax.tree.map(jnp.zeros_like, case.params)
  estimate = jax.jit(rule.estimate)
  for begin in (0, 4):
    part = small.window(case.batch, begin, begin + 4)
    said, state = estimate(case.params, {}, state, KEY, part)
    total = jax.tree.map(jnp.add, total, said.gradient)
  whole, _ = estimate(case.params, {}, start, KEY, case.batch)
  assert_equal(total, whole.gradient, 2e-6)


def test_exact_windows_are_bptt_when_they_hold_all_steps():
  """Truth: BPTT; with shorter windows the error lies below the cut rule's."""
  case = Case('lstm')
  whole = case.run(bptt.bptt)
  got = case.run(d_rtrl.d_rtrl, window=T, within='exact')
  assert_equal(got, whole)
  errors = [
    oracles.relative_error(
      case.run(d_rtrl.d_rtrl, window=4, within=within)['lstm/linear'],
      whole['lstm/linear'],
    )
    for within in ('exact', 'cut')
  ]
  assert 0.001 < errors[0] < errors[1]


def test_a_stream_goes_on_bit_for_bit():
  """Truth: the uninterrupted stream, weights changing at every border."""
  case = Case('lstm')
  rule = d_rtrl.d_rtrl(case.cell, small.squared_error, window=2)
  learner = base.descend(rule, optax.adam(1e-2), every=2, carry=True)
  update = jax.jit(learner.update)
  state = learner.init(jax.random.key(1), trials())
  for seed in (1, 2):
    state, _ = update(state, KEY, trials(seed))
  saved = jax.tree.map(np.asarray, state)
  traces = jax.tree.leaves(saved.rule_state.per_trial.traces)
  assert all(np.any(trace) for trace in traces)
  ends = [update(s, KEY, trials(3))[0] for s in (state, saved)]
  for a, b in zip(*map(jax.tree.leaves, ends), strict=True):
    np.testing.assert_array_equal(a, b)
  forgot = rule.begin(state.params, {}, state.rule_state, KEY, trials(3))
  other, _ = update(state._replace(rule_state=forgot), KEY, trials(3))
  assert any(
    np.any(a != b)
    for a, b in zip(*map(jax.tree.leaves, (ends[0], other)), strict=True)
  )


def test_traces_in_bfloat16_stay_close():
  """Truth: float32 traces, to the 8 bits that are kept."""
  case = Case('lstm')
  wanted = case.run(d_rtrl.d_rtrl, window=2)['lstm/linear']
  got = case.run(d_rtrl.d_rtrl, window=2, trace_dtype='bfloat16')['lstm/linear']
  assert 0 < oracles.relative_error(got, wanted) < 0.01


class Refractory(hk.RNNCore):
  """A leaky unit that counts, in ints, and spikes with a derivative of ours."""

  def initial_state(self, batch_size):  # noqa: D102
    return jnp.zeros((batch_size, N)), jnp.zeros((batch_size, N), jnp.int32)

  def __call__(self, inputs, state):  # noqa: D102
    v, count = state
    drive = hk.Linear(N)(inputs)
    v = jnp.where(count > 0, 0.5 * v, 0.9 * v + drive)
    z = spike(v - 0.5)
    count = jnp.where(z > 0, 1, jnp.maximum(count - 1, 0))
    return z, (v - jax.lax.stop_gradient(z), count)


@jax.custom_jvp
def spike(v):
  return (v > 0).astype(v.dtype)


@spike.defjvp
def _(primals, tangents):
  (v,), (dv,) = primals, tangents
  return spike(v), dv / (1 + 10 * jnp.abs(v)) ** 2


def test_spikes_keep_their_surrogate_and_counters_their_type():
  """Truth: BPTT, which is exact here: units never hear each other."""
  case = Case('leaky')
  case.cell = cells.cell_from_core(Refractory, lambda: hk.Linear(O))
  case.batch = case.batch.replace(inputs=2 * case.batch.inputs)
  case.params, _ = case.cell.init(jax.random.key(0), case.batch.inputs[0])
  wanted = case.run(bptt.bptt)
  assert_equal(case.run(d_rtrl.d_rtrl, window=3), wanted, 3e-6)


def test_a_convolutional_core_has_a_trace_a_pixel():
  """Truth: the reverse pass through the cut cell; weights are shared."""
  case = Case('leaky')
  case.cell = cells.cell_from_core(
    lambda: hk.Conv1DLSTM((5,), 2, 3),
    lambda: lambda x: hk.Linear(O)(hk.Flatten()(x)),
  )
  rng = np.random.default_rng(2)
  inputs = jnp.asarray(rng.normal(size=(T, B, 5, 1)), jnp.float32)
  case.batch = case.batch.replace(inputs=inputs)
  case.params, _ = case.cell.init(jax.random.key(0), inputs[0])
  wanted = case.run(d_rtrl.d_rtrl, execution='reverse')
  assert_equal(case.run(d_rtrl.d_rtrl, window=3), wanted, 3e-6)


def memory(num_steps, silent_mib, batch=8, hidden=32):
  cell = cells.cell_from_core(lambda: hk.GRU(hidden), lambda: hk.Linear(O))
  shape = (num_steps, batch)
  timed = interfaces.Trials(
    inputs=jnp.zeros((*shape, I)),
    targets=jnp.zeros((*shape, O)),
    mask=jnp.zeros(shape),
    index=jnp.arange(batch),
  )
  rule = d_rtrl.d_rtrl(
    cell, small.squared_error, window=10, silent_mib=silent_mib
  )
  params, _ = cell.init(jax.random.key(0), timed.inputs[0])
  return small.temporary_memory(rule, params, {}, KEY, timed)


@pytest.mark.parametrize(
  ('sizes', 'mib'),
  [
    ({}, 2),
    pytest.param({'batch': 64, 'hidden': 128}, 8, marks=pytest.mark.slow),
  ],
)
def test_memory_does_not_grow_with_the_trial(sizes, mib):
  """Truth: the compiled program's temporary memory.

  What may be kept of steps in which nobody is asked comes on top; it is more
  than a window of them takes.
  """
  found = [memory(steps, 0, **sizes) for steps in (70, 1020)]
  assert abs(found[1] / found[0] - 1) < 0.02
  grown = memory(1020, mib, **sizes) - found[1]
  assert 0.4 < grown / (mib * 2**20) < 1.6


@pytest.mark.parametrize(
  'settings, match',
  [
    ({'window': 0}, 'window=0: '),
    ({'within': 'both'}, "within='both': choose one of cut, exact"),
    ({'execution': 'fast'}, 'choose one of forward, reverse, auto'),
    ({'within': 'exact', 'execution': 'reverse'}, 'a part of the rule'),
    ({'trace_dtype': 'int32'}, 'traces are floating'),
  ],
)
def test_settings_that_cannot_be(settings, match):
  """Truth: the message names the setting and what is allowed."""
  cell = cells.cell_from_core(CORES['gru'], lambda: hk.Linear(O))
  with pytest.raises(ValueError, match=match):
    d_rtrl.d_rtrl(cell, small.squared_error, **settings)


def test_integer_inputs_are_refused():
  """Truth: the message says what the inputs are and what would do."""
  case = Case('gru')
  rule = d_rtrl.d_rtrl(case.cell, small.squared_error)
  tokens = case.batch.replace(inputs=jnp.ones((T, B, I), jnp.int32))
  with pytest.raises(TypeError, match=r'inputs are int32.*floating'):
    rule.init(KEY, case.params, {}, tokens)

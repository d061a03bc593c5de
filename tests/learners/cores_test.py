# SPDX-License-Identifier: Apache-2.0
"""Online rules on cores of unusual form.

The truth of `d_rtrl` is BPTT of the step that hears a stopped state; that of
`rtrl` and `snap` is BPTT of the cell.
"""

import functools

import jax
import numpy as np
import pytest

import bionet_learners as bl
from tests import small
from tests.learners import odd_cores

pytestmark = pytest.mark.oracle

RUNS = [name for name, core in odd_cores.CORES.items() if core.refused is None]
REFUSED = [
  name for name, core in odd_cores.CORES.items() if core.refused is not None
]
FEW = ('an integer clock', 'spikes by custom_vjp', 'no state')


def few(names, others=()):
  """The names; by default a few of them, and those of the others."""
  return [
    pytest.param(
      name, marks=[] if name in (*FEW, *others) else [pytest.mark.slow]
    )
    for name in names
  ]


def assert_cut(name, rules):
  core = odd_cores.CORES[name]
  with jax.enable_x64(True):
    trials, cell = odd_cores.problem(), core.cell()
    wanted = odd_cores.gradient(
      bl.bptt(core.cell(stopped=True), small.squared_error), trials
    )
    for settings, leave in rules:
      rule = bl.d_rtrl(cell, small.squared_error, **settings)
      odd_cores.assert_equal(
        odd_cores.gradient(rule, trials),
        wanted,
        leave=core.within if leave else (),
      )
    rows = bl.describe(cell, trials.inputs[0])
  within = {row.name for row in rows if row.within_window}
  assert within == {f"['{parameter}']" for parameter in core.within}
  assert not any(row.silent for row in rows)


def in_windows(window):
  return {'window': window, 'trace_dtype': 'float64'}, True


@pytest.mark.parametrize('name', RUNS)
def test_traces_are_the_cut_steps_credit(name):
  """Truth: BPTT of the step that hears a stopped state, 1e-9 in float64.

  In windows, all but the parameters that `describe` counts within windows are
  as in one pass.
  """
  assert_cut(name, [in_windows(1)])


@pytest.mark.parametrize('name', few(RUNS))
def test_reverse_and_longer_windows_give_the_cut_steps_credit(name):
  """Truth: as above; reverse leaves out nothing."""
  assert_cut(name, [({'execution': 'reverse'}, False), in_windows(3)])


@pytest.mark.parametrize('name', odd_cores.CORES)
def test_exact_rules_are_bptt(name):
  """Truth: BPTT, 1e-9 in float64."""
  assert_exact(name, bl.rtrl)


@pytest.mark.parametrize('name', few(odd_cores.CORES, REFUSED))
def test_snap_reaches_everything_at_order_t(name):
  """Truth: BPTT, 1e-9 in float64."""
  assert_exact(name, functools.partial(bl.snap, order=odd_cores.T))


def assert_exact(name, make):
  core = odd_cores.CORES[name]
  with jax.enable_x64(True):
    trials, cell = odd_cores.problem(), core.cell()
    wanted = odd_cores.gradient(bl.bptt(cell, small.squared_error), trials)
    rule = make(cell, small.squared_error)
    odd_cores.assert_equal(odd_cores.gradient(rule, trials), wanted)


@pytest.mark.parametrize('name', few(odd_cores.CORES))
def test_random_estimates_run(name):
  """Truth: UORO's readout has no noise, so it is BPTT's."""
  core = odd_cores.CORES[name]
  with jax.enable_x64(True):
    trials, cell = odd_cores.problem(), core.cell()
    wanted = odd_cores.gradient(bl.bptt(cell, small.squared_error), trials)
    got = odd_cores.gradient(bl.uoro(cell, small.squared_error), trials)
  odd_cores.assert_equal(got, wanted, leave=tuple(core.shapes))
  for name in core.shapes:
    assert np.all(np.isfinite(got[name])) and np.any(got[name])


@pytest.mark.parametrize(
  'name',
  few(RUNS, [n for n in RUNS if odd_cores.CORES[n].refuses_filter is not None]),
)
def test_a_filter_crosses_windows_or_is_refused(name):
  """Truth: windows of 1 equal one window, but for credit within windows."""
  core = odd_cores.CORES[name]
  with jax.enable_x64(True):
    trials, cell = odd_cores.problem(), core.cell()
    one, whole = (
      bl.e_prop(
        cell,
        small.squared_error,
        kappa=0.5,
        window=k,
        trace_dtype='float64',
      )
      for k in (1, odd_cores.T)
    )
    if core.refuses_filter is not None:
      with pytest.raises(ValueError, match=core.refuses_filter):
        odd_cores.gradient(one, trials)
      return
    wanted = odd_cores.gradient(whole, trials)
    odd_cores.assert_equal(
      odd_cores.gradient(one, trials), wanted, leave=core.within
    )


@pytest.mark.parametrize('name', REFUSED)
def test_what_has_no_trace_is_refused_before_it_runs(name):
  """Truth: `init` raises one sentence that names a rule that works."""
  core = odd_cores.CORES[name]
  trials, cell = odd_cores.problem(), core.cell()
  params, constants = cell.init(jax.random.key(1), trials.inputs[0])
  for make in (bl.d_rtrl, bl.e_prop, bl.rflo, bl.pp_prop, bl.three_factor):
    rule = make(cell, small.squared_error)
    with pytest.raises(ValueError, match=core.refused):
      rule.init(jax.random.key(0), params, constants, trials)

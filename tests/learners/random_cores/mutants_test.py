# SPDX-License-Identifier: Apache-2.0
"""The random cores see three mistakes that are easily made.

Each is planted from outside: in the cell that a rule is given, or in the keys
that a pass over a window asks for.
"""

import sys

import jax
import numpy as np
import pytest

import bionet_learners as learners
from bionet_core import unroll
from tests import small
from tests.learners.random_cores import cases, grammar, paths, references

pytestmark = pytest.mark.oracle

NOISY, OLD, TOP_DOWN = 23, 0, 16


def gradient_of(case, cell, make, calls=cases.CALLS, **settings):
  rule = make(cell, small.squared_error, **settings)
  return case.run(rule, calls)[0]


def wrong(case, gradient, windows):
  wanted = references.windowed(case.truth, windows)
  return cases.disagreement(gradient, wanted, case.core, exact=False)


def test_keys_that_a_window_numbers_from_its_first_step(monkeypatch):
  """Truth: the reference, whose keys are numbered by the step of the trial.

  The pass that scores a window keeps the right keys; the one over windows in
  which nobody is asked gets those of the window's step.
  """
  window, right_keys = 1, unroll.step_keys

  def by_window(keys, steps):
    asks = sys._getframe(1).f_globals['__name__']
    scores = asks == unroll.__name__
    return right_keys(keys, steps if scores else steps % window)

  with jax.enable_x64(True):
    case = cases.Case(NOISY)
    assert case.core.noisy
    windows = cases.in_windows(cases.CALLS, window)
    settings = {'window': window, 'trace_dtype': 'float64'}
    args = case, case.core.cell, learners.d_rtrl
    assert not wrong(case, gradient_of(*args, **settings), windows)
    monkeypatch.setattr(unroll, 'step_keys', by_window)
    assert wrong(case, gradient_of(*args, **settings), windows)


def test_a_cut_that_ignores_whether_the_output_comes_back():
  """Truth: explicit Jacobians, cut where an output comes back.

  The mutant cuts every product for every group: layer 1 hears layer 0 of the
  same step, and layer 0 layer 1 of the step before.
  """
  with jax.enable_x64(True):
    case = cases.Case(TOP_DOWN)
    known = case.truth.paths
    everywhere = known._replace(cut=np.ones_like(known.cut))
    nowhere = known._replace(cut=np.zeros_like(known.cut))
    whole = (cases.T,)
    for chosen in (known, everywhere, nowhere):
      cell = paths.cut_cell(case.core, chosen)
      gradient = gradient_of(case, cell, learners.bptt, whole)
      assert bool(wrong(case, gradient, whole)) == (chosen is not known)


def test_a_trace_that_the_emission_alone_needs():
  """Truth: explicit Jacobians of a core whose emission is its old state.

  Products alone read the old state on its way to the new one, and all of them
  are cut. The mutant's emission hears no trace.
  """
  with jax.enable_x64(True):
    case = cases.Case(OLD)
    cell = case.core.cell

    def deaf(params, constants, state, keys, inputs):
      still = jax.lax.stop_gradient(state)
      emission, _ = cell.step(params, constants, still, keys, inputs)
      _, state = cell.step(params, constants, state, keys, inputs)
      return emission, state

    windows = cases.in_windows(cases.CALLS, 1)
    for step in (cell.step, deaf):
      gradient = gradient_of(
        case,
        cell._replace(step=step),
        learners.d_rtrl,
        window=1,
        trace_dtype='float64',
      )
      assert bool(wrong(case, gradient, windows)) == (step is deaf)


def test_the_grammar_has_what_it_is_for():
  """Truth: the list of features, and how often what is rarer is drawn."""
  cores = [grammar.draw(n) for n in range(len(grammar.FEATURES))]
  assert len(cores) == 30
  assert sum(core.noisy for core in cores) >= 2
  assert sum(bool(core.unused) for core in cores) >= 4
  containers = {
    type(core.pack(dict.fromkeys(core.states, 0))) for core in cores
  }
  assert {dict, tuple} < containers and len(containers) > 3
  known = [paths.follow(core) for core in cores]
  assert 6 < sum(each.whole for each in known) < 20
  assert sum(bool(each.through.any()) for each in known) > 8

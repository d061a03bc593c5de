# SPDX-License-Identifier: Apache-2.0
"""The reference of random cores against itself, computed in other ways."""

import jax
import numpy as np
import pytest

from tests.learners.random_cores import (
  cases,
  grammar,
  language,
  paths,
  references,
)
from tests.learners.random_cores import unbiased_test as unbiased

FIRST = (25,)


def program(ops):
  """Layer b hears a of the same step, and a hears b of the step before.

  The emission is read from the old a; its argmax and a stopped b drive a, too.
  """
  logits = ops.product('bi,ij->bj', ops.old('a'), ops.param('emit'))  # 0
  heard = ops.cat([ops.x, ops.old('a'), ops.old('b'), ops.one_hot(logits)])
  y = ops.product('bi,ij->bj', heard, ops.param('w'))  # 1
  a = ops.new('a', ops.map(lambda a, y: 0.5 * a + y, ops.old('a'), y))
  u = ops.product('bi,ij->bj', a, ops.param('u'))  # 2
  v = ops.product('bi,ij->bj', ops.old('c'), ops.param('v'))  # 3
  c = ops.new('c', ops.map(lambda c, v: 0.9 * c + v, ops.old('c'), v))
  ops.new('b', ops.map(lambda c, u: c * u, ops.stop(c), u))
  return logits


SHAPES = {'emit': (2, 2), 'w': (9, 2), 'u': (2, 2), 'v': (2, 2)}
STATES = {'a': (2,), 'b': (2,), 'c': (2,)}


def test_paths_of_a_core_that_was_followed_by_hand():
  """Truth: the program above, read by a person."""

  def zeros(constants, keys):
    del constants
    return {n: np.zeros((*keys.shape, *s)) for n, s in STATES.items()}

  cell = grammar.draw(0).cell._replace(initial_state=zeros)
  core = grammar.draw(0)._replace(
    cell=cell,
    program=program,
    shapes=SHAPES,
    states=STATES,
    unpack=dict,
    pack=dict,
    constants={},
  )
  known = paths.follow(core)
  assert known.groups == {'a': 0, 'b': 1, 'c': 2}
  comes_back = [
    [0, 1, 0, 0],  # to a: the argmax of the logits is no path
    [0, 1, 1, 0],  # to b: w by way of a and u
    [0, 0, 0, 1],  # to c: b hears c stopped
  ]
  np.testing.assert_array_equal(known.cut, np.array(comes_back, bool))
  assert not known.whole  # a's credit leads on to b through u
  by_name = dict(zip(sorted(SHAPES), (4, 4, 4, 18), strict=True))
  ends = dict(zip(by_name, np.cumsum(list(by_name.values())), strict=True))
  through = {
    name: known.through[ends[name] - size : ends[name]].any()
    for name, size in by_name.items()
  }
  assert through == {'emit': False, 'u': False, 'v': False, 'w': True}
  reaches = known.recurrent
  assert not reaches[0:2, 4:6].any() and not reaches[2:4, 4:6].any()
  assert reaches[6:, 0:2].all() and not reaches[6:, 2:].any()


def numbers():
  return [
    n if n in FIRST else pytest.param(n, marks=pytest.mark.slow)
    for n in range(len(grammar.FEATURES))
  ]


@pytest.mark.oracle
@pytest.mark.parametrize('number', numbers())
def test_jacobians_give_what_reverse_mode_gives(number):
  """Truth: reverse mode over all steps, of the cell and of the cut cell."""
  with jax.enable_x64(True):
    case = cases.Case(number)
    cut = paths.cut_cell(case.core, case.truth.paths)
    for cell, wanted in (
      (case.core.cell, references.rtrl(case.truth)),
      (cut, references.windowed(case.truth, (cases.T,))),
    ):
      gradient = jax.jit(
        lambda params, cell=cell, case=case: unbiased.pathwise(
          cell, params, case.constants, cases.KEY, case.trials
        )
      )(case.params)
      assert not cases.disagreement(
        gradient, wanted, case.core, exact=cell is case.core.cell
      )


def test_values_are_the_cells_own():
  """Truth: the cell's step; the hooks change derivatives alone."""
  with jax.enable_x64(True):
    core, trials = grammar.draw(21), cases.trials()
    params, constants = core.cell.init(jax.random.key(0), trials.inputs[0])
    keys = jax.random.split(cases.KEY, cases.B)
    state = core.cell.initial_state(constants, keys)
    args = params, constants, state, keys, trials.inputs[0]
    ops = language.Plain(
      params['core'], constants, core.unpack(state), *args[3:]
    )
    emission = core.program(ops)
    hooked, _ = paths.cut_cell(core, paths.follow(core)).step(*args)
    np.testing.assert_allclose(hooked, emission, rtol=1e-12)

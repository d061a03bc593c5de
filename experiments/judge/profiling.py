# SPDX-License-Identifier: Apache-2.0
"""A JAX trace of one range of updates."""

import itertools
import os
import pathlib
from collections.abc import Callable, Sequence

import jax

from bionet_learners import base as learners
from bionet_learners.training import metrics
from experiments.runs import records, updates

AdvanceFn = Callable[
  [learners.LearnerState, int, int],
  tuple[learners.LearnerState, Sequence[metrics.Metrics]],
]


class Profiler:
  """Traces one range of updates, compilation left out.

  Args:
    folder: where the trace goes.
    report: takes a line for the user.
  """

  def __init__(self, folder: pathlib.Path, report: Callable[[str], None]):
    self._folder, self._report = folder, report
    self._done = False

  def watching(self, advance: AdvanceFn) -> AdvanceFn:
    """The same function, whose second call is traced: the first compiles."""
    calls = itertools.count()

    def watched(state, first, last):
      if next(calls) != 1:
        return advance(state, first, last)
      return self._trace(advance, state, first, last)

    return watched

  def trace_first(self, run: records.Run, count: int) -> None:
    """Traces the first updates of a run, where nothing is traced by now.

    They are made anew, once to compile and once to trace, and what they learn
    is dropped.

    Args:
      run: the run.
      count: about how many updates; at most those of the first stage.
    """
    if self._done:
      return
    advance = updates.make_advance_between(run)
    last = min(count, run.first.num_updates)
    for step in (advance, lambda *args: self._trace(advance, *args)):
      state, _ = step(updates.place(run, updates.init(run)), 0, last)
      jax.block_until_ready(state)

  def _trace(self, advance: AdvanceFn, state, first: int, last: int):
    with jax.profiler.trace(os.fspath(self._folder)):
      answer = jax.block_until_ready(advance(state, first, last))
    self._done = True
    self._report(f'updates {first} to {last} are traced in {self._folder}/')
    return answer

# SPDX-License-Identifier: Apache-2.0
"""The loop itself: from border to border, with one read of the device at each.

What advances the state is a function: a compiled scan of a Learner's updates
(`learner.py`), or the batches of a user's own step (`loop.py`).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from bionet_learners.training import metrics, stopping, writers

State = TypeVar('State')


class InterruptedRun(Exception):  # noqa: N818  no error: all is saved
  """Training was asked to stop, and everything is saved.

  Attributes:
    step: where it goes on.
  """

  def __init__(self, step: int):
    super().__init__(f'interrupted after {step} steps')
    self.step = step


class Intervals(NamedTuple):
  """When something happens, in steps; 0 for never.

  Attributes:
    log: steps between two reads of the metrics.
    evaluate: steps between two evaluations; there is one at the end, too.
    checkpoint: steps between two checkpoints; there is one at the end, too.
    also: further borders, where something changes; the metrics are read there.
  """

  log: int
  evaluate: int = 0
  checkpoint: int = 0
  also: tuple[int, ...] = ()

  def next_border(self, step: int, num_steps: int) -> int:
    """The first step after `step` at which something happens."""
    every = (self.log, self.evaluate, self.checkpoint)
    return min(
      num_steps,
      *(step - step % n + n for n in every if n),
      *(border for border in self.also if border > step),
    )

  def due(self, every: int, step: int, num_steps: int) -> bool:
    """Whether what happens every so many steps happens after `step`."""
    return every > 0 and (step % every == 0 or step == num_steps)


def train_ranges(
  state: State,
  advance: Callable[[State, int, int], tuple[State, Sequence[metrics.Metrics]]],
  *,
  num_steps: int,
  intervals: Intervals,
  record: Callable[[int, str, dict[str, float]], None],
  rows: Sequence[writers.Row],
  first: int = 0,
  evaluate: Callable[[State, int], dict[str, float]] | None = None,
  save: Callable[[State, int], None] | None = None,
  early_stopping: stopping.EarlyStopping | None = None,
  keep_best: bool = False,
  interrupted: Callable[[], bool] = lambda: False,
) -> tuple[State, int]:
  """Advances a state from border to border until the end.

  At a border the metrics of the range are read from the device (the only time
  the host waits for it), checked and recorded; then, where due, the state is
  evaluated, then saved. Where the borders are depends on the intervals alone,
  and what is decided at them on the recorded rows, so a run that goes on from
  a checkpoint goes on as if it had never stopped.

  Args:
    state: the state after `first` steps.
    advance: `(state, first, last) -> (state, parts)` takes the steps from
      `first` to `last`; the parts hold every step's metrics, on the device.
    num_steps: where to end.
    intervals: when to record, evaluate and save.
    record: told `(step, 'train' or 'eval', metrics)`; adds them to `rows`.
    rows: what was recorded so far, in this session and before.
    first: steps done.
    evaluate: `(state, step) -> metrics`.
    save: `(state, step)`.
    early_stopping: when to end before `num_steps`, by the evaluations.
    keep_best: save also where an evaluation is the best so far.
    interrupted: asked at every border; if so, saves and raises.

  Returns:
    The state, and the steps done.

  Raises:
    FloatingPointError: if a metric is NaN or infinite; names the first step
      that reported it. Nothing is saved from there on.
    InterruptedRun: after saving, if `interrupted`.
    ValueError: for intervals that cannot be.
  """
  if intervals.log < 1 or min(intervals.evaluate, intervals.checkpoint) < 0:
    raise ValueError(
      f'{intervals}: log must be 1 or more, the others 0 or more.'
    )

  def values() -> list[float]:
    if early_stopping is None:
      return []
    return evaluations(rows, early_stopping.metric)

  def over() -> bool:
    return early_stopping is not None and early_stopping.stop(values())

  step = first
  while step < num_steps and not over():
    border = intervals.next_border(step, num_steps)
    state, parts = advance(state, step, border)
    record(border, 'train', _read(parts, step, border))
    step = border
    evaluated = intervals.due(intervals.evaluate, step, num_steps)
    if evaluate is not None and evaluated:
      held_out = evaluate(state, step)
      check_finite(held_out, f'the evaluation after step {step}')
      record(step, 'eval', held_out)
    asked = interrupted()
    best = (
      keep_best
      and evaluated
      and early_stopping is not None
      and early_stopping.best(values()) == len(values()) - 1
    )
    due = intervals.due(intervals.checkpoint, step, num_steps) or over()
    if save is not None and (due or best or asked):
      save(state, step)
    if asked and step < num_steps and not over():
      raise InterruptedRun(step)
  return state, step


def evaluations(rows: Iterable[writers.Row], metric: str) -> list[float]:
  """A metric of all evaluations among rows.

  Raises:
    ValueError: if an evaluation does not report it.
  """
  found = [row for row in rows if row['split'] == 'eval']
  for row in found:
    if metric not in row:
      names = sorted(row.keys() - {'step', 'split'})
      raise ValueError(f'evaluations report {names}, and no {metric!r}.')
  return [row[metric] for row in found]


def best_step(
  rows: Sequence[writers.Row], early_stopping: stopping.EarlyStopping
) -> int | None:
  """The step of the best evaluation among rows; None if there is none."""
  evaluated = [row for row in rows if row['split'] == 'eval']
  best = early_stopping.best(evaluations(rows, early_stopping.metric))
  return evaluated[best]['step'] if evaluated else None


def check_finite(values: dict[str, float], where: str) -> None:
  """Raises FloatingPointError if a metric is NaN or infinite."""
  bad = [name for name, value in values.items() if not math.isfinite(value)]
  if bad:
    raise FloatingPointError(
      f'{where}: {bad[0]} is {values[bad[0]]}. Try a smaller learning rate, or '
      'clip the gradient.'
    )


def _read(
  parts: Sequence[metrics.Metrics], first: int, last: int
) -> dict[str, float]:
  """The mean of a range's metrics: the one time that the host waits."""
  steps = [metrics.per_step(part) for part in jax.device_get(list(parts))]
  step = first
  for values, weight in steps:
    finite = np.ones(weight.shape, bool)
    for value in values.values():
      finite &= np.isfinite(value)
    if not finite.all():
      i = int(np.argmin(finite))
      check_finite(
        {name: float(value[i]) for name, value in values.items()},
        f'step {step + i + 1} (of the steps {first + 1} to {last})',
      )
    step += len(weight)
  return metrics.average_steps(steps)

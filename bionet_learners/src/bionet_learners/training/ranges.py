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
    update: updates done, after which it goes on.
  """

  def __init__(self, update: int):
    super().__init__(f'interrupted after {update} updates')
    self.update = update


class Intervals(NamedTuple):
  """When something happens, in updates; 0 for never.

  Attributes:
    log: updates between two reads of the metrics.
    evaluate: updates between two evaluations; the last update has one, too.
    checkpoint: updates between two checkpoints; the last update has one, too.
    also: further borders, where something changes; the metrics are read there.
  """

  log: int
  evaluate: int = 0
  checkpoint: int = 0
  also: tuple[int, ...] = ()

  def next_border(self, update: int, num_updates: int) -> int:
    """The first border after `update` updates."""
    every = (self.log, self.evaluate, self.checkpoint)
    return min(
      num_updates,
      *(update - update % n + n for n in every if n),
      *(border for border in self.also if border > update),
    )

  def due(self, every: int, update: int, num_updates: int) -> bool:
    """Whether what happens every so many updates happens after `update`."""
    return every > 0 and (update % every == 0 or update == num_updates)


def train_ranges(
  state: State,
  advance: Callable[[State, int, int], tuple[State, Sequence[metrics.Metrics]]],
  *,
  num_updates: int,
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
    state: the state after `first` updates.
    advance: `(state, first, last) -> (state, parts)` makes the updates from
      `first` to `last`; the parts hold every update's metrics, on the device.
    num_updates: where to end.
    intervals: when to record, evaluate and save.
    record: takes `(update, 'train' or 'eval', metrics)`; adds them to `rows`.
    rows: what was recorded so far, in this session and before.
    first: updates done.
    evaluate: `(state, update) -> metrics`.
    save: `(state, update)`.
    early_stopping: when to end before `num_updates`, by the evaluations.
    keep_best: save also where an evaluation is the best so far.
    interrupted: called at every border; if true, saves and raises.

  Returns:
    The state, and the updates done.

  Raises:
    FloatingPointError: if a metric is NaN or infinite; names the first update
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

  update = first
  while update < num_updates and not over():
    border = intervals.next_border(update, num_updates)
    state, parts = advance(state, update, border)
    record(border, 'train', _read(parts, update, border))
    update = border
    evaluated = intervals.due(intervals.evaluate, update, num_updates)
    if evaluate is not None and evaluated:
      held_out = evaluate(state, update)
      check_finite(held_out, f'the evaluation after update {update}')
      record(update, 'eval', held_out)
    # Read once, so that the state is saved whenever the loop then stops.
    interrupt = interrupted()
    best = (
      keep_best
      and evaluated
      and early_stopping is not None
      and early_stopping.best(values()) == len(values()) - 1
    )
    due = intervals.due(intervals.checkpoint, update, num_updates) or over()
    if save is not None and (due or best or interrupt):
      save(state, update)
    if interrupt and update < num_updates and not over():
      raise InterruptedRun(update)
  return state, update


def evaluations(rows: Iterable[writers.Row], metric: str) -> list[float]:
  """A metric of all evaluations among rows.

  Raises:
    ValueError: if an evaluation does not report it.
  """
  evaluated = [row for row in rows if row['split'] == 'eval']
  for row in evaluated:
    if metric not in row:
      names = sorted(row.keys() - {'step', 'split'})
      raise ValueError(f'evaluations report {names}, and no {metric!r}.')
  return [row[metric] for row in evaluated]


def best_updates(
  rows: Sequence[writers.Row], early_stopping: stopping.EarlyStopping
) -> list[int]:
  """The updates behind each evaluation among rows, the best first."""
  evaluated = [row for row in rows if row['split'] == 'eval']
  values = evaluations(rows, early_stopping.metric)
  return [evaluated[i]['step'] for i in early_stopping.ranked(values)]


def check_finite(values: dict[str, float], where: str) -> None:
  """Raises FloatingPointError if a metric is NaN or infinite."""
  bad = [name for name, value in values.items() if not math.isfinite(value)]
  if bad:
    raise FloatingPointError(
      f'{where}: {bad[0]} is {values[bad[0]]}. Try a smaller learning rate, '
      'clip the gradient, or look in the data for NaN and labels of no class.'
    )


def _read(
  parts: Sequence[metrics.Metrics], first: int, last: int
) -> dict[str, float]:
  """The mean of a range's metrics: the one time that the host waits."""
  on_host = [metrics.per_step(part) for part in jax.device_get(list(parts))]
  update = first
  for values, weight in on_host:
    finite = np.ones(weight.shape, bool)
    for value in values.values():
      finite &= np.isfinite(value)
    if not finite.all():
      i = int(np.argmin(finite))
      check_finite(
        {name: float(value[i]) for name, value in values.items()},
        f'update {update + i + 1} (of the updates {first + 1} to {last})',
      )
    update += len(weight)
  return metrics.average_steps(on_host)

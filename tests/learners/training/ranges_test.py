# SPDX-License-Identifier: Apache-2.0
"""From border to border.

Truth: borders, rows and saves written out by hand, for a state that counts its
updates and whose update number i (from 0) reports the value i.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_learners.training import metrics, ranges, stopping

# log every 4, evaluate every 6, save every 5 of 13 updates
INTERVALS = ranges.Intervals(log=4, evaluate=6, checkpoint=5)
BORDERS = [4, 5, 6, 8, 10, 12, 13]
# The mean of updates 0 to 3, of 4, of 5, of 6 and 7, ...
TRAIN = dict(zip(BORDERS, [1.5, 4, 5, 6.5, 8.5, 10.5, 12], strict=True))
EVALUATED, SAVED = [6, 12, 13], [5, 10, 13]
ACCURACY = {6: 0.5, 12: 0.8, 13: 0.7}


def train_row(step):
  return {'step': step, 'split': 'train', 'loss': TRAIN[step]}


def eval_row(step):
  return {'step': step, 'split': 'eval', 'accuracy': ACCURACY[step]}


ROWS = [
  row
  for step in BORDERS
  for row in [train_row(step)] + [eval_row(s) for s in EVALUATED if s == step]
]


class Run:
  """Trains a counter, and keeps a diary."""

  def __init__(self, rows=(), accuracy=ACCURACY):
    self.rows = list(rows)
    self.diary = []
    self.saved = {}
    self.accuracy = accuracy
    self.parts = lambda first, last: [
      metrics.Metrics({'loss': jnp.arange(float(first), float(last))})
    ]

  def advance(self, state, first, last):
    """Makes the updates of a range."""
    assert int(state) == first < last
    self.diary.append(('advance', first, last))
    return state + (last - first), self.parts(first, last)

  def record(self, step, split, values):
    """Keeps a row."""
    self.diary.append((split, step))
    self.rows.append({'step': step, 'split': split, **values})

  def evaluate(self, state, step):
    """Looks the accuracy up."""
    assert int(state) == step
    self.diary.append(('evaluate', step))
    return {'accuracy': self.accuracy[step]}

  def save(self, state, step):
    """Keeps the state."""
    self.diary.append(('save', step))
    self.saved[step] = state

  def train(self, first=0, state=None, num_updates=13, **settings):
    """Runs `train_ranges` from a step on."""
    settings = {
      'intervals': INTERVALS,
      'evaluate': self.evaluate,
      'save': self.save,
      **settings,
    }
    return ranges.train_ranges(
      jnp.int32(first) if state is None else state,
      self.advance,
      num_updates=num_updates,
      record=self.record,
      rows=self.rows,
      first=first,
      **settings,
    )

  def updates(self, what):
    """The updates at which something was done."""
    return [entry[1] for entry in self.diary if entry[0] == what]


def test_borders_rows_and_saves_are_those_worked_out_by_hand():
  """Truth: the tables above; record, then evaluate, then save."""
  run = Run()
  state, step = run.train()
  assert int(state) == step == 13
  assert run.rows == ROWS
  advanced = [entry[1:] for entry in run.diary if entry[0] == 'advance']
  assert advanced == list(zip([0, *BORDERS[:-1]], BORDERS, strict=True))
  assert run.updates('evaluate') == run.updates('eval') == EVALUATED
  assert run.updates('save') == SAVED
  assert run.diary[-5:] == [
    ('advance', 12, 13),
    ('train', 13),
    ('evaluate', 13),
    ('eval', 13),
    ('save', 13),
  ]


@pytest.mark.parametrize(
  'intervals, borders',
  [
    (ranges.Intervals(5), [5, 10, 13]),
    (ranges.Intervals(13), [13]),
    (ranges.Intervals(100, 100, 100), [13]),
    (ranges.Intervals(1), list(range(1, 14))),
    (ranges.Intervals(4, 6), [4, 6, 8, 12, 13]),
    (ranges.Intervals(4, 0, 6), [4, 6, 8, 12, 13]),
    (ranges.Intervals(4, also=(11, 2)), [2, 4, 8, 11, 12, 13]),
    (ranges.Intervals(4, 6, also=(0, 4, 13, 99)), [4, 6, 8, 12, 13]),
  ],
)
def test_borders_of_other_intervals(intervals, borders):
  """Truth: multiples of each, and the end; from any step onwards."""
  for first in range(13):
    step, found = first, []
    while step < 13:
      step = intervals.next_border(step, 13)
      found.append(step)
    assert found == [border for border in borders if border > first]


def test_what_is_due_when():
  """Truth: every so many updates and at the end; never for 0."""
  due = [step for step in range(1, 14) if INTERVALS.due(5, step, 13)]
  assert due == [5, 10, 13]
  assert not any(INTERVALS.due(0, step, 13) for step in range(1, 14))


def test_at_further_borders_the_metrics_are_read_and_nothing_else():
  """Truth: rows by hand; evaluations and saves are those without them."""
  run = Run()
  run.train(intervals=INTERVALS._replace(also=(7, 12)))
  assert run.updates('train') == [4, 5, 6, 7, 8, 10, 12, 13]
  losses = [row['loss'] for row in run.rows if row['split'] == 'train']
  assert losses == [1.5, 4, 5, 6, 7, 8.5, 10.5, 12]
  assert run.updates('eval') == EVALUATED and run.updates('save') == SAVED


def test_nothing_but_training_need_be_done():
  """Truth: the train rows at the borders, though both are due."""
  run = Run()
  run.train(evaluate=None, save=None)
  assert run.rows == [train_row(step) for step in BORDERS]


@pytest.mark.parametrize('border', BORDERS)
def test_a_run_from_any_border_gives_the_same_rows(border):
  """Truth: the rows of the run that was not interrupted."""
  run = Run(rows=[row for row in ROWS if row['step'] <= border])
  state, step = run.train(first=border)
  assert run.rows == ROWS
  assert int(state) == step == 13
  assert run.updates('save') == [s for s in SAVED if s > border]


@pytest.mark.parametrize('border', BORDERS[:-1])
def test_interrupted_saves_and_raises_and_goes_on(border):
  """Truth: step and state at the border; then the uninterrupted run's rows."""
  run = Run()
  with pytest.raises(ranges.InterruptedRun, match=f'{border} updates') as info:
    run.train(interrupted=lambda: run.updates('train')[-1] == border)
  assert info.value.update == border
  assert run.updates('save') == sorted(
    {s for s in SAVED if s < border} | {border}
  )
  # All that belongs to the border was done before.
  assert run.rows == [row for row in ROWS if row['step'] <= border]
  run.train(first=border, state=run.saved[border])
  assert run.rows == ROWS


def test_interrupted_at_the_end_is_done():
  """Truth: nothing is left to do, so it returns."""
  run = Run()
  _, step = run.train(interrupted=lambda: run.updates('train')[-1] == 13)
  assert step == 13
  assert run.updates('save') == SAVED  # once each


def test_the_question_is_asked_once_a_border():
  """Truth: as many times as there are borders."""
  asked = []
  Run().train(interrupted=lambda: bool(asked.append(1)))
  assert len(asked) == len(BORDERS)


def test_early_stopping_ends_the_run_and_saves():
  """Truth: by hand: best at 2, patience 2 ends it at 6; 6 is not due."""
  accuracy = {2: 0.9, 4: 0.8, 6: 0.9, 8: 1.0}
  rule = stopping.EarlyStopping('accuracy', 2)
  intervals = ranges.Intervals(2, 2, 4)
  run = Run(accuracy=accuracy)
  state, step = run.train(
    intervals=intervals, num_updates=8, early_stopping=rule
  )
  assert int(state) == step == 6
  assert run.updates('save') == [4, 6]
  assert ranges.best_updates(run.rows, rule)[0] == 2
  # Started again it has nothing to do, and says where it is.
  before = len(run.diary)
  _, step = run.train(
    6, state, intervals=intervals, num_updates=8, early_stopping=rule
  )
  assert step == 6 and len(run.diary) == before
  # The mutant without the earlier rows would go on.
  mutant = Run(accuracy=accuracy)
  assert mutant.train(6, intervals=intervals, num_updates=8)[1] == 8


def test_stopped_early_and_interrupted_is_done():
  """Truth: it ends there anyway, so it returns."""
  run = Run(accuracy={2: 0.9, 4: 0.8})
  _, step = run.train(
    intervals=ranges.Intervals(2, 2, 100),
    num_updates=8,
    early_stopping=stopping.EarlyStopping('accuracy', 1),
    interrupted=lambda: run.updates('train')[-1] == 4,
  )
  assert step == 4 and run.updates('save') == [4]


@pytest.mark.parametrize('first', [0, 4, 8])
def test_the_best_is_saved_though_nothing_is_due(first):
  """Truth: evaluations that beat all before, those before a restart too."""
  accuracy = {2: 0.5, 4: 0.4, 6: 0.6, 8: 0.6, 10: 0.9, 12: 0.1}
  rule = stopping.EarlyStopping('accuracy')
  rows = [
    {'step': step, 'split': 'eval', 'accuracy': value}
    for step, value in accuracy.items()
    if step <= first
  ]
  run = Run(rows, accuracy)
  run.train(
    first,
    num_updates=12,
    intervals=ranges.Intervals(1, 2, 8),
    early_stopping=rule,
    keep_best=True,
  )
  wanted = [2, 6, 8, 10, 12]  # 2, 6 and 10 are best; 8 and 12 are due
  assert run.updates('save') == [step for step in wanted if step > first]
  assert ranges.best_updates(run.rows, rule)[0] == 10

  mutant = Run(rows, accuracy)
  mutant.train(
    first,
    num_updates=12,
    intervals=ranges.Intervals(1, 2, 8),
    early_stopping=rule,
  )
  assert mutant.updates('save') == [step for step in (8, 12) if step > first]


def test_no_evaluation_has_no_best():
  """Truth: none."""
  rule = stopping.EarlyStopping('accuracy')
  assert ranges.best_updates([train_row(4)], rule) == []
  assert ranges.evaluations([train_row(4), eval_row(6)], 'accuracy') == [0.5]


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_the_step_of_a_nan_is_named_exactly(bad):
  """Truth: update 11 of 13, the second of the second part of 9 to 12."""

  def parts(first, last):
    loss = np.arange(first, last, dtype=np.float32)
    if first == 8:
      loss[2] = bad
      loss[3] = np.nan  # that comes of it
    mse = np.zeros_like(loss)
    return [
      metrics.Metrics({'mse': jnp.asarray(m), 'loss': jnp.asarray(x)})
      for m, x in ((mse[:1], loss[:1]), (mse[1:], loss[1:]))
    ]

  run = Run(accuracy={4: 0.1, 8: 0.2, 12: 0.3})
  run.parts = parts
  with pytest.raises(FloatingPointError) as info:
    run.train(intervals=ranges.Intervals(4, 4, 4))
  message = str(info.value)
  assert message.startswith('update 11 (of the updates 9 to 12)'), message
  assert f'loss is {bad}' in message
  # The last good checkpoint is the last: nothing of it was recorded or saved.
  assert run.updates('save') == [4, 8]
  assert run.rows[-1]['step'] == 8


def test_the_first_of_several_metrics_that_break_is_named():
  """Truth: 'mse' breaks at update 2, 'loss' at 3 alone."""
  run = Run()
  run.parts = lambda first, last: [
    metrics.Metrics(
      {
        'loss': jnp.float32([0, 0, np.nan, 0]),
        'mse': jnp.float32([0, np.inf, 0, 0]),
      }
    )
  ]
  with pytest.raises(FloatingPointError, match=r'update 2 .*mse is inf'):
    run.train()


def test_an_evaluation_that_is_not_finite_stops_before_the_save():
  """Truth: the evaluation's step; the row and the save are not made."""
  run = Run(accuracy={6: 0.5, 12: np.nan})
  with pytest.raises(
    FloatingPointError, match='evaluation after update 12: accuracy is nan'
  ):
    run.train()
  assert run.updates('save') == [5, 10]
  assert run.updates('eval') == [6]


def test_weights_of_a_part_count():
  """Truth: (1 x 4 + 3 x 4 + 8 x 2) / 10."""
  run = Run()
  run.parts = lambda first, last: [
    metrics.Metrics({'loss': jnp.float32(value)}, weight)
    for value, weight in ((1, 4), (3, 4), (8, 2))
  ]
  run.train(num_updates=3, evaluate=None)
  assert run.rows[0]['loss'] == pytest.approx(3.2)


def test_the_device_is_read_once_a_border(monkeypatch):
  """Truth: as many calls of jax.device_get as borders."""
  calls, device_get = [], jax.device_get
  monkeypatch.setattr(
    jax, 'device_get', lambda x: calls.append(1) or device_get(x)
  )
  Run().train()
  assert len(calls) == len(BORDERS)


@pytest.mark.parametrize('intervals', [(0, 1, 1), (-1,), (1, -1), (1, 1, -2)])
def test_intervals_that_cannot_be_are_refused(intervals):
  """Truth: the message says what may be, before any step."""
  run = Run()
  with pytest.raises(ValueError, match='log must be 1 or more'):
    run.train(intervals=ranges.Intervals(*intervals))
  assert not run.diary


@pytest.mark.parametrize('num_updates', [0, 5])
def test_nothing_is_left_to_do(num_updates):
  """Truth: the state and the step that came in."""
  run = Run()
  state, step = run.train(first=5, num_updates=num_updates)
  assert int(state) == step == 5 and not run.diary

# SPDX-License-Identifier: Apache-2.0
"""Epochs of batches with a step of one's own.

Truth: counts, sums and means by hand; and the defects that a public module of
this kind has (numbered as in the specification), each of which would fail a
test here, in loop_data_test.py or in loop_resume_test.py.
"""

import io
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bionet_learners.training import (
  checkpoints,
  loop,
  stopping,
)
from bionet_learners.training import state as states
from tests.learners.training import toys

# --- Defect 4: every metric of every batch is read on the host. ---------------


@pytest.fixture
def host_reads(monkeypatch):
  """The reads of the device: by jax.device_get, and by anything else."""
  reads, inside = {'device_get': 0, 'implicit': 0}, []
  device_get, array = jax.device_get, type(jnp.zeros(()))
  value = array._value

  def get(tree):
    reads['device_get'] += 1
    inside.append(1)
    try:
      return device_get(tree)
    finally:
      inside.pop()

  def read(self):
    reads['implicit'] += not inside
    return value.fget(self)

  monkeypatch.setattr(jax, 'device_get', get)
  monkeypatch.setattr(array, '_value', property(read))
  return reads


def test_4_the_host_reads_once_an_epoch_and_once_a_validation(host_reads):
  """Truth: counts of reads; the guard lets no other transfer pass."""
  begin = toys.start()
  toys.train_step(
    begin, toys.DATA[0], toys.KEY
  )  # compiled before anything is guarded
  toys.val_step(begin, toys.DATA[0], toys.KEY)
  host_reads.update(device_get=0, implicit=0)
  with jax.transfer_guard('disallow'):
    loop.train_loop(
      begin,
      toys.train_step,
      toys.DATA,
      toys.NUM_EPOCHS,
      toys.NUM_BATCHES,
      toys.KEY,
    )
    assert host_reads == {'device_get': toys.NUM_EPOCHS, 'implicit': 0}
    loop.train_loop(
      begin,
      toys.train_step,
      toys.DATA,
      toys.NUM_EPOCHS,
      toys.NUM_BATCHES,
      toys.KEY,
      val_step_fn=toys.val_step,
      val_data_iterator_fn=toys.HELD_OUT,
    )
  assert host_reads == {'device_get': 3 * toys.NUM_EPOCHS, 'implicit': 0}


def test_4_a_step_that_reads_every_loss_would_be_seen(host_reads):
  """Truth: the mutant: one read a batch."""

  def step(state, batch, key):
    state, found = toys.counting(state, batch, key)
    return state, {'mean': float(found['mean'])}

  host_reads.update(implicit=0)
  loop.train_loop(toys.zero(), step, toys.ONES, 2, 3, toys.KEY)
  assert host_reads['implicit'] == 6


@pytest.mark.parametrize(
  'rule, epochs',
  [
    (stopping.EarlyStopping('score', 2), 4),  # best at 2
    (stopping.EarlyStopping('score', 3), 6),  # 5 beats 2
    (stopping.EarlyStopping('score', 1, mode='min'), 2),
    (stopping.EarlyStopping('score', 0), 6),
  ],
)
def test_6_early_stopping(rule, epochs, tmp_path):
  """Truth: the epochs by hand; it saves there and stays there."""
  table = [0.5, 0.75, 0.5, 0.5, 1.0, 0.5]
  for _ in range(2):
    state, history = toys.score(
      table, tmp_path, early_stopping=rule, checkpoint_every=100
    )
    assert int(state['done']) == 2 * epochs
    assert history['val_score'] == table[:epochs]
    assert len(history['train_loss']) == epochs
    assert checkpoints.all_steps(tmp_path) == [2 * epochs]


@pytest.mark.parametrize('first', [1, 2, 3])
def test_6_early_stopping_remembers_over_a_restart(first, tmp_path):
  """Truth: best at epoch 1, patience 3: it ends with 4, wherever it paused."""
  table = [1.0, 0.5, 0.75, 0.5, 0.5, 0.5]
  rule = stopping.EarlyStopping('score', 3)
  toys.score(table, tmp_path, early_stopping=rule, num_epochs=first)
  state, history = toys.score(table, tmp_path, early_stopping=rule)
  assert int(state['done']) == 8 and history['val_score'] == table[:4]


BEST = {'keep_best': True, 'early_stopping': stopping.EarlyStopping('score')}


@pytest.mark.parametrize(
  'settings, pauses, left',
  [
    ({}, (), [5, 6]),
    ({}, (1, 4), [5, 6]),
    ({'keep_last': 3}, (2,), [4, 5, 6]),
    ({'keep_last': 1, 'checkpoint_every': 4}, (), [6]),
    (BEST, (), [2, 5, 6]),
    (BEST, (1, 2, 3, 5), [2, 5, 6]),
    ({**BEST, 'keep_last': 1}, (4,), [2, 6]),
    ({**BEST, 'checkpoint_every': 3}, (), [2, 3, 6]),
    ({**BEST, 'checkpoint_every': 3, 'keep_last': 9}, (), [1, 2, 3, 6]),
    ({'checkpoint_every': 3, 'keep_last': 9}, (), [3, 6]),
    ({'checkpoint_every': 4, 'keep_last': 9}, (), [4, 6]),
  ],
)
def test_6_the_last_checkpoints_and_the_best_stay(
  settings, pauses, left, tmp_path
):
  """Truth: by hand, in epochs; 1 was the best until 2, which stays it."""
  table = [0.5, 1.0, 0.25, 0.5, 0.75, 0.5]
  for num_epochs in (*pauses, len(table)):
    toys.score(table, tmp_path, num_epochs=num_epochs, **settings)
  assert checkpoints.all_steps(tmp_path) == [2 * epoch for epoch in left]
  for epoch in left:
    found = checkpoints.load_checkpoint(
      tmp_path / f'checkpoint_{2 * epoch}', {'done': jnp.int32(0)}
    )
    assert int(found['done']) == 2 * epoch


def descend(tx, data, num_epochs, num_batches, folder=None, **settings):
  """Least squares from zero weights."""

  @jax.jit
  def step(state, batch, key):
    x, y = batch

    def loss(params):
      return jnp.mean((x @ params['w'] - y) ** 2)

    value, grads = jax.value_and_grad(loss)(state.params)
    return state.apply_gradients(grads), {'loss': value}

  state = states.TrainState.create(None, {'w': jnp.zeros(3)}, tx)
  return loop.train_loop(
    state, step, data, num_epochs, num_batches, toys.KEY, folder, **settings
  )


def test_6_a_schedule_goes_on_where_it_was(tmp_path):
  """Truth: by hand: a slope of -1 gives w = 1 + 0.75 + 0.5 + 0.25 + 0 + 0."""
  tx = optax.sgd(optax.linear_schedule(1.0, 0.0, 4))

  def step(state, batch, key):
    return state.apply_gradients({'w': -jnp.ones(())}), {'w': state.params['w']}

  def run(num_epochs):
    state = states.TrainState.create(None, {'w': jnp.zeros(())}, tx)
    return loop.train_loop(
      state, step, toys.ONES, num_epochs, 3, toys.KEY, tmp_path
    )

  assert float(run(1)[0].params['w']) == 2.25
  state, history = run(2)
  assert float(state.params['w']) == 2.5
  # The weight before each of the steps: 0, 1, 1.75; 2.25, 2.5, 2.5.
  assert history['train_w'] == pytest.approx([2.75 / 3, 7.25 / 3])


def regression(sizes):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(sum(sizes), 3)).astype(np.float32)
  y = x @ np.float32([1, -2, 3]) + rng.normal(size=len(x)).astype(np.float32)
  cuts = np.cumsum(sizes)[:-1]
  return list(zip(np.split(x, cuts), np.split(y, cuts), strict=True))


def test_6_accumulated_batches_are_one_large_batch(tmp_path):
  """Truth: SGD over 3 batches of 4 at a time = over batches of 12."""
  few = optax.MultiSteps(optax.sgd(0.1), 3).gradient_transformation()
  small, history = descend(few, regression([4] * 12), 2, 12)
  large, wanted = descend(optax.sgd(0.1), regression([12] * 4), 2, 4)
  np.testing.assert_allclose(small.params['w'], large.params['w'], rtol=1e-5)
  assert history['train_loss'] == pytest.approx(wanted['train_loss'], rel=1e-5)

  # A restart in the middle of an accumulation: epochs of 4 batches.
  for num_epochs in (1, 2, 6):
    resumed, _ = descend(few, regression([4] * 12), num_epochs, 4, tmp_path)
  assert toys.bits(resumed.params) == toys.bits(small.params)
  assert toys.bits(resumed.opt_state) == toys.bits(small.opt_state)

  mutant, _ = descend(optax.sgd(0.1), regression([4] * 12), 2, 12)
  assert not np.allclose(mutant.params['w'], large.params['w'], rtol=1e-2)


def test_history_has_one_value_an_epoch_of_each_metric():
  """Truth: names with their split, and means by hand of batches 0 to 5."""
  data = [jnp.full(2, float(i)) for i in range(6)]
  _, history = toys.count(
    data, 2, 3, val_step_fn=toys.counting, val_data_iterator_fn=data
  )
  assert history == {'train_mean': [1.0, 4.0], 'val_mean': [2.5, 2.5]}
  assert all(type(v) is float for values in history.values() for v in values)


SCORE = stopping.EarlyStopping('mean')


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'num_epochs': 0}, r'^num_epochs=0'),
    ({'num_batches': -1}, r'^num_batches=-1'),
    ({'checkpoint_every': 0}, r'^checkpoint_every=0'),
    ({'keep_last': 0}, r'^keep_last=0'),
    ({'val_step_fn': toys.counting}, 'belong together'),
    ({'val_data_iterator_fn': toys.ONES}, 'belong together'),
    ({'early_stopping': SCORE}, 'choose by a validation metric'),
    ({'keep_best': True}, 'choose by a validation metric'),
    (
      {
        'keep_best': True,
        'val_step_fn': toys.counting,
        'val_data_iterator_fn': toys.ONES,
      },
      'choose by a validation metric',
    ),
    (
      {
        'early_stopping': SCORE._replace(mode='best'),
        'val_step_fn': toys.counting,
        'val_data_iterator_fn': toys.ONES,
      },
      r"^mode='best'",
    ),
  ],
)
def test_settings_that_cannot_be_are_refused(settings, message, tmp_path):
  """Truth: the message names the setting; no file was made."""
  settings = {'num_epochs': 2, 'num_batches': 2, **settings}
  with pytest.raises(ValueError, match=message):
    toys.count(toys.ONES, checkpoint_dir=tmp_path / 'run', **settings)
  assert not (tmp_path / 'run').exists()


def test_the_folder_holds_rows_for_programs_and_events_for_people(tmp_path):
  """Truth: the history, row by row, with the batches done."""
  data = [jnp.full(2, float(i)) for i in range(6)]
  toys.count(
    data,
    2,
    3,
    checkpoint_dir=tmp_path / 'a' / 'b',
    val_step_fn=toys.counting,
    val_data_iterator_fn=data,
  )
  folder = tmp_path / 'a' / 'b'
  assert [json.loads(line) for line in toys.rows(folder).splitlines()] == [
    {'step': 3, 'split': 'train', 'mean': 1.0},
    {'step': 3, 'split': 'eval', 'mean': 2.5},
    {'step': 6, 'split': 'train', 'mean': 4.0},
    {'step': 6, 'split': 'eval', 'mean': 2.5},
  ]
  (events,) = folder.glob('*tfevents*')
  assert b'train/mean' in events.read_bytes()
  assert checkpoints.all_steps(folder) == [3, 6]


class Terminal(io.StringIO):
  def isatty(self):
    """A terminal, or so it says."""
    return True


def test_there_is_a_bar_on_a_terminal_and_nowhere_else(monkeypatch):
  """Truth: what is written to standard error; off by the setting too."""
  written = {}
  for name, stream, show in (
    ('terminal', Terminal(), True),
    ('file', io.StringIO(), True),
    ('off', Terminal(), False),
  ):
    monkeypatch.setattr(sys, 'stderr', stream)
    toys.count(toys.ONES, 2, 3, show_progress=show)
    written[name] = stream.getvalue()
  assert '6/6' in written['terminal'] and 'mean: 1.0000' in written['terminal']
  assert written['file'] == written['off'] == ''

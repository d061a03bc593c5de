# SPDX-License-Identifier: Apache-2.0
"""A loop that is killed goes on from its folder as if it had not been.

Truth: the uninterrupted run, bit for bit: state, history and rows. Defects of
public modules of this kind are numbered as in the specification.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bionet_learners.training import (
  checkpoints,
  loop,
  ranges,
)
from bionet_learners.training import state as states
from tests.learners.training import toys


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
  """State and history as bits, and the bytes of metrics.jsonl."""
  folder = tmp_path_factory.mktemp('uninterrupted')
  state, history = toys.train(folder, checkpoint_every=2)
  return toys.bits(state), history, toys.rows(folder)


def check_equal(resumed, folder, uninterrupted):
  state, history = resumed
  wanted_state, wanted_history, wanted_rows = uninterrupted
  assert history == wanted_history
  assert toys.bits(state) == wanted_state
  assert toys.rows(folder) == wanted_rows


class Killed(Exception):  # noqa: N818
  """What a step raises in place of a signal."""


def killed_at(number):
  """The step, which does not survive its call of that number."""
  calls = itertools.count()

  def step(state, batch, key):
    if next(calls) == number:
      raise Killed
    return toys.train_step(state, batch, key)

  return step


# --- Defect 1: an exact resume is impossible. ---------------------------------


@pytest.mark.parametrize('batch', [1, 4, 6, 8, 11])
def test_1_a_killed_run_ends_where_the_uninterrupted_one_does(
  batch, tmp_path, uninterrupted
):
  """Truth: parameters, Adam, batch statistics, key, history, metrics.jsonl.

  Checkpoints are after batches 6 and 12; what came after is done again, with
  the rows of it. 1 and 4 are before the first: it begins from the start.
  """
  with pytest.raises(Killed):
    toys.train(tmp_path, killed_at(batch), checkpoint_every=2)
  assert checkpoints.all_steps(tmp_path) == [6] * (batch >= 6)
  resumed = toys.train(tmp_path, checkpoint_every=2)
  check_equal(resumed, tmp_path, uninterrupted)


def test_1_killed_again_and_again(tmp_path, uninterrupted):
  """Truth: the uninterrupted run; every session adds an epoch at most."""
  for _ in range(toys.NUM_EPOCHS - 1):
    with pytest.raises(Killed):
      toys.train(tmp_path, killed_at(toys.NUM_BATCHES + 1))
  check_equal(toys.train(tmp_path), tmp_path, uninterrupted)


@pytest.mark.parametrize('epoch', [1, 3])
def test_1_an_interrupted_run_saves_and_goes_on(epoch, tmp_path, uninterrupted):
  """Truth: the uninterrupted run; no batch is computed twice."""
  asked, steps = itertools.count(1), []

  def step(state, batch, key):
    steps.append(1)
    return toys.train_step(state, batch, key)

  with pytest.raises(ranges.InterruptedRun) as info:
    toys.train(
      tmp_path,
      step,
      checkpoint_every=2,
      interrupted=lambda: next(asked) == epoch,
    )
  assert info.value.update == epoch * toys.NUM_BATCHES
  assert checkpoints.all_steps(tmp_path)[-1] == epoch * toys.NUM_BATCHES
  resumed = toys.train(tmp_path, step, checkpoint_every=2)
  assert len(steps) == toys.NUM_EPOCHS * toys.NUM_BATCHES
  check_equal(resumed, tmp_path, uninterrupted)


def test_1_fewer_epochs_first(tmp_path, uninterrupted):
  """Truth: 1, then 3, then all of the epochs are as all at once."""
  for num_epochs in (1, 3):
    _, history = toys.train(tmp_path, num_epochs=num_epochs)
    assert len(history['train_loss']) == num_epochs
  check_equal(toys.train(tmp_path), tmp_path, uninterrupted)


def test_1_a_damaged_checkpoint_costs_an_epoch_and_nothing_else(
  tmp_path, uninterrupted, capsys
):
  """Truth: the uninterrupted run, from the checkpoint before."""
  toys.train(tmp_path, num_epochs=3)
  (tmp_path / 'checkpoint_9' / 'digests.json').unlink()
  resumed = toys.train(tmp_path)
  told = capsys.readouterr().err
  assert 'checkpoint_9 is damaged' in told
  assert 'going on after batch 6 of 12' in told
  check_equal(resumed, tmp_path, uninterrupted)
  checkpoints.verify(tmp_path / 'checkpoint_9')  # made again


def test_1_checkpoints_change_nothing(uninterrupted):
  """Truth: the run that keeps none."""
  state, history = toys.train()
  assert toys.bits(state) == uninterrupted[0]
  assert history == uninterrupted[1]


def test_1_a_finished_run_is_left_as_it_is(tmp_path, uninterrupted):
  """Truth: the same state and history, without a step."""
  toys.train(tmp_path)
  again = toys.train(tmp_path, killed_at(0))
  check_equal(again, tmp_path, uninterrupted)


def test_1_mutants_that_forget_where_they_were_differ(tmp_path, uninterrupted):
  """Truth: a resume with the data, or the keys, from the beginning.

  This is what the tests above would see if nothing were skipped.
  """
  toys.train(tmp_path / 'data', num_epochs=2)
  consumed = [None] * (2 * toys.NUM_BATCHES)  # what is skipped in the mutant
  state, history = toys.train(
    tmp_path / 'data', data=[*consumed, *toys.DATA, *toys.DATA]
  )
  assert toys.bits(state) != uninterrupted[0]
  assert history['train_loss'][:2] == uninterrupted[1]['train_loss'][:2]
  assert history['train_loss'][2] != uninterrupted[1]['train_loss'][2]

  def another_key(state, batch, key):
    return toys.train_step(state, batch, jax.random.fold_in(key, 1))

  toys.train(tmp_path / 'key', num_epochs=2)
  state, _ = toys.train(tmp_path / 'key', another_key)
  assert toys.bits(state) != uninterrupted[0]


def test_1_every_step_has_a_key_of_its_own():
  """Truth: step i draws from fold_in(rng_key, i)."""
  keys = []

  def step(state, batch, key):
    keys.append(jax.random.key_data(key))
    return state, {'loss': 0.0}

  toys.train(step=step, val_step_fn=None, val_data_iterator_fn=None)
  wanted = [
    jax.random.key_data(jax.random.fold_in(toys.KEY, i)) for i in range(12)
  ]
  np.testing.assert_array_equal(keys, wanted)


def test_4_checkpoints_work_under_the_guard_too(tmp_path, uninterrupted):
  """Truth: the uninterrupted run; a restart moves nothing implicitly."""
  begin = toys.start()
  with jax.transfer_guard('disallow'):
    for num_epochs in (2, toys.NUM_EPOCHS):
      resumed = loop.train_loop(
        begin,
        toys.train_step,
        toys.DATA,
        num_epochs,
        toys.NUM_BATCHES,
        toys.KEY,
        tmp_path,
        val_step_fn=toys.val_step,
        val_data_iterator_fn=toys.HELD_OUT,
      )
  check_equal(resumed, tmp_path, uninterrupted)


# --- Defect 5: an untyped dict is restored. -----------------------------------


@pytest.mark.parametrize(
  'state, message',
  [
    (
      lambda s: s.replace(params={**s.params, 'more': jnp.ones(2)}),
      r'params/more is not there, and float32\[2\] is needed',
    ),
    (
      lambda s: s.replace(opt_state=optax.sgd(0.1).init(s.params)),
      r'opt_state/0/count is int32\[\], and nothing is needed',
    ),
    (
      lambda s: s.replace(step=jnp.float32(0)),
      r'step is int32\[\], and float32\[\] is needed',
    ),
    (
      lambda s: jax.tree.map(lambda x: x, s).replace(
        params=jax.tree.map(lambda x: x[..., None], s.params)
      ),
      r'params/batch_norm/offset is float32\[1, 3\], and float32\[1, 3, 1\]',
    ),
  ],
)
def test_5_a_state_of_another_form_is_refused_and_the_leaf_named(
  tmp_path, state, message
):
  """Truth: structure, dtype and shape; the first leaf that differs."""
  toys.train(tmp_path, num_epochs=1)
  before = toys.rows(tmp_path)
  with pytest.raises(ValueError, match=message):
    loop.train_loop(
      state(toys.start()),
      toys.train_step,
      toys.DATA,
      toys.NUM_EPOCHS,
      toys.NUM_BATCHES,
      toys.KEY,
      tmp_path,
    )
  assert toys.rows(tmp_path) == before
  assert checkpoints.all_steps(tmp_path) == [toys.NUM_BATCHES]


def test_5_what_is_restored_is_of_the_template_not_a_dict(tmp_path):
  """Truth: the same tree of classes as the state that was handed in."""
  toys.train(tmp_path)
  state, _ = toys.train(tmp_path)
  assert isinstance(state, states.TrainState)
  assert jax.tree.structure(state) == jax.tree.structure(toys.start())


def test_a_nan_names_the_batch_and_leaves_the_last_good_checkpoint(
  tmp_path, uninterrupted
):
  """Truth: batch 8, the second of the third epoch; then good data go on."""
  bad = [jax.tree.map(lambda x: x * jnp.nan, toys.DATA[7 % 5])]
  data = [*toys.DATA, *toys.DATA]
  with pytest.raises(FloatingPointError) as info:
    toys.train(tmp_path, data=data[:7] + bad + data[8:])
  message = str(info.value)
  assert message.startswith('update 8 (of the updates 7 to 9): '), message
  assert 'loss is nan' in message or 'norm is nan' in message
  assert checkpoints.all_steps(tmp_path) == [3, 6]
  assert b'NaN' not in toys.rows(tmp_path)
  check_equal(toys.train(tmp_path), tmp_path, uninterrupted)


def test_a_validation_that_is_not_finite_stops_too(tmp_path):
  """Truth: the epoch's batch; its checkpoint is not written."""
  with pytest.raises(FloatingPointError, match='evaluation after update 4'):
    toys.score([1.0, math.inf, 1.0], tmp_path)
  assert checkpoints.all_steps(tmp_path) == [2]


def test_fewer_epochs_than_are_done_are_refused(tmp_path):
  """Truth: the folder and both numbers are named; nothing is lost."""
  toys.count(toys.ONES, 3, 2, checkpoint_dir=tmp_path)
  before = toys.rows(tmp_path)
  with pytest.raises(ValueError, match=r'a run of 6 batches, .* = 4'):
    toys.count(toys.ONES, 2, 2, checkpoint_dir=tmp_path)
  assert toys.rows(tmp_path) == before
  assert checkpoints.all_steps(tmp_path) == [4, 6]


@pytest.mark.parametrize(
  'change, message',
  [
    ({'rng_key': jax.random.key(5)}, r'with rng_key=\[0, 4\], not \[0, 5\]'),
    ({'rng_key': jax.random.key(4, impl='rbg')}, 'with rng_key='),
    ({'num_batches': 3}, 'with num_batches=2, not 3'),
  ],
)
def test_a_folder_of_another_run_is_refused(tmp_path, change, message):
  """Truth: the folder and the setting are named, and nothing changes."""
  settings = {'rng_key': toys.KEY, 'num_epochs': 2, 'num_batches': 2}

  def run(**settings):
    return loop.train_loop(
      toys.zero(), toys.counting, toys.ONES, checkpoint_dir=tmp_path, **settings
    )

  run(**settings)
  before = toys.rows(tmp_path)
  with pytest.raises(ValueError, match=message) as info:
    run(**{**settings, **change})
  assert str(tmp_path) in str(info.value)
  assert toys.rows(tmp_path) == before


def test_a_raw_key_is_as_good_as_a_typed_one(tmp_path):
  """Truth: the same numbers; a folder knows both for the same."""
  raw = jax.random.key_data(toys.KEY)

  def step(state, batch, key):
    return {'sum': state['sum'] + jax.random.normal(key)}, {'loss': 0.0}

  ends = [
    loop.train_loop(toys.zero(), step, toys.ONES, epochs, 2, key, folder)[0]
    for epochs, key, folder in (
      (1, raw, tmp_path),
      (2, toys.KEY, tmp_path),
      (2, raw, None),
    )
  ]
  ends = [float(end['sum']) for end in ends]
  assert ends[1] == ends[2] != ends[0]
